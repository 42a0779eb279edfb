//! S1: every route, by every verb, for everybody, on every kind of repository, however the name is written.
//!
//! What is expected is worked out here by hand and not by the code that decides. An operation or an endpoint without a
//! row does not build: the matches have no wildcard.

use std::collections::{BTreeMap, BTreeSet};

use entrepot::http::routes::Endpoint;
use entrepot::oci::Operation;
use entrepot::oci::operation::Request;

use crate::house::{House, Nobody, NobodysToken, Robot, User, UsersToken, Who};
use crate::support::{Registry, sha256};

const USERS: &[&str] = &["stranger", "reader", "member", "pusher", "owner", "admin"];

const WALLS: &str = r#"
auth:
  anonymous: pull
  htpasswd: ./htpasswd
  tokens: true
  groups: { chiefs: [admin] }
  policies:
    - { who: ["*"], may: [pull], on: "docker/open/**" }
    - { who: [reader], may: [pull], on: "docker/**" }
    - { who: [member], may: [pull], on: "local/**" }
    - { who: [pusher], may: [push], on: "docker/team/**" }
    - { who: [owner], may: [pull, push, delete], on: "local/team/**" }
    - { who: ["@chiefs"], may: [pull, push, delete, admin], on: "**" }
"#;

const CALLERS: [Who; 9] = [
    Nobody,
    NobodysToken,
    User("stranger"),
    User("reader"),
    UsersToken("member"),
    User("pusher"),
    UsersToken("owner"),
    User("admin"),
    Robot,
];

const REPOSITORIES: [&str; 4] = ["local", "hub", "docker", "unknown"];
const IMAGES: [&str; 2] = ["open/app", "team/app"];

async fn walled(upstream: &Registry) -> House {
    let address = upstream.address();
    let repositories = format!(
        "repositories:\n  local: {{ type: local }}\n  hub: {{ type: remote, url: 'http://{address}/hub', insecure: true }}\n  docker: {{ type: virtual, members: [local, hub], push_to: local }}\n"
    );
    let house = House::new(
        USERS,
        ", limits: { uploads: 100000 }",
        &format!("{WALLS}{repositories}"),
    );
    house.make_robot("admin", &["pull", "push"], "local/open/**").await;
    house
}

/// What may be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Pull,
    Push,
    Delete,
    Admin,
}

fn caller_name(who: Who) -> &'static str {
    match who {
        Nobody | NobodysToken => "",
        User(user) | UsersToken(user) => user,
        Robot => "a robot",
    }
}

/// The table of `WALLS`, by hand: which rights somebody has on a name of one repository.
fn has(user: &str, act: Act, repository: &str, image: &str) -> bool {
    let open = act == Act::Pull && repository == "docker" && image.starts_with("open/");
    let team = image.starts_with("team/");
    open || match user {
        "reader" => act == Act::Pull && repository == "docker",
        "member" => act == Act::Pull && repository == "local",
        "pusher" => act == Act::Push && repository == "docker" && team,
        "owner" => act != Act::Admin && repository == "local" && team,
        "admin" => true,
        // It is called `admin`, which helps it to nothing.
        "a robot" => matches!(act, Act::Pull | Act::Push) && repository == "local" && image.starts_with("open/"),
        _ => false,
    }
}

/// Whether somebody may, by this name: through a virtual repository, what they may in its members too.
fn may(user: &str, act: Act, repository: &str, image: &str) -> bool {
    let below: &[&str] = match (repository, act) {
        ("docker", Act::Pull | Act::Admin) => &["docker", "local", "hub"],
        ("docker", Act::Push | Act::Delete) => &["docker", "local"],
        _ => &[],
    };
    has(user, act, repository, image) || below.iter().any(|name| has(user, act, name, image))
}

/// What an operation needs. Its place in the table, so that none is left out.
const fn row(operation: &Operation) -> (usize, Option<Act>) {
    match operation {
        Operation::CheckVersion => (0, None),
        Operation::Catalog { .. } => (1, None),
        Operation::PullManifest { .. } => (2, Some(Act::Pull)),
        Operation::PushManifest { .. } => (3, Some(Act::Push)),
        Operation::DeleteManifest { .. } => (4, Some(Act::Delete)),
        Operation::PullBlob { .. } => (5, Some(Act::Pull)),
        Operation::DeleteBlob { .. } => (6, Some(Act::Delete)),
        Operation::StartUpload { .. } => (7, Some(Act::Push)),
        Operation::UploadStatus { .. } => (8, Some(Act::Push)),
        Operation::AppendUpload { .. } => (9, Some(Act::Push)),
        Operation::FinishUpload { .. } => (10, Some(Act::Push)),
        Operation::CancelUpload { .. } => (11, Some(Act::Push)),
        Operation::ListTags { .. } => (12, Some(Act::Pull)),
        Operation::ListReferrers { .. } => (13, Some(Act::Pull)),
    }
}

const ROWS: usize = 14;

/// A request line of each operation, by each of its verbs: what follows the name.
fn lines() -> Vec<(&'static str, String)> {
    let digest = sha256(b"nothing that is here");
    let upload = "0".repeat(32);
    [
        ("GET HEAD PUT DELETE", "manifests/v0".to_owned()),
        ("GET HEAD PUT DELETE", format!("manifests/{digest}")),
        ("GET HEAD DELETE", format!("blobs/{digest}")),
        ("POST", "blobs/uploads/".to_owned()),
        ("POST", format!("blobs/uploads/?mount={digest}&from=local/team/app")),
        ("GET HEAD PATCH DELETE", format!("blobs/uploads/{upload}")),
        ("PUT", format!("blobs/uploads/{upload}?digest={digest}")),
        ("GET HEAD", "tags/list".to_owned()),
        ("GET HEAD", format!("referrers/{digest}")),
    ]
    .into_iter()
    .flat_map(|(verbs, line)| {
        verbs
            .split(' ')
            .map(move |verb| (verb, line.clone()))
            .collect::<Vec<_>>()
    })
    .collect()
}

/// The ways to write a name that mean the same.
fn spellings(repository: &str, image: &str) -> Vec<String> {
    let encoded = |text: &str| {
        let first = text.as_bytes()[0];
        (
            format!("%{first:02x}{}", &text[1..]),
            format!("%{first:02X}{}", &text[1..]),
        )
    };
    let (lower, upper) = encoded(repository);
    let (of_image, _) = encoded(image);
    vec![
        format!("/v2/{repository}/{image}"),
        format!("/{repository}/v2/{image}"),
        format!("/v2/{lower}/{image}"),
        format!("/{upper}/v2/{image}"),
        format!("/v2/{repository}/{of_image}"),
    ]
}

fn refusal(who: Who) -> u16 {
    match who {
        Nobody | NobodysToken => 401,
        User(_) | UsersToken(_) | Robot => 403,
    }
}

#[tokio::test]
async fn s01_every_route_for_everybody() {
    let upstream = Registry::start("repositories: { hub: { type: local } }");
    let house = walled(&upstream).await;
    house.push(User("admin"), "/v2/local/team/app", "v1", b"content").await;
    let mut tokens = BTreeMap::new();
    for who in CALLERS {
        if matches!(who, NobodysToken | UsersToken(_) | Robot) {
            tokens.insert(who, house.token(who).await);
        }
    }
    let (mut cells, mut covered, mut wrong) = (0_usize, BTreeSet::new(), Vec::new());
    for (verb, line) in lines() {
        for repository in REPOSITORIES {
            for image in IMAGES {
                for spelling in spellings(repository, image) {
                    let path = format!("{spelling}/{line}");
                    let (bare, query) = path
                        .split_once('?')
                        .map_or((&*path, None), |(path, query)| (path, Some(query)));
                    let parsed = Request::parse(verb, bare, query).expect(&path);
                    let (place, act) = row(&parsed.operation);
                    covered.insert(place);
                    for who in CALLERS {
                        let request = match tokens.get(&who) {
                            Some(token) => house.ask(Nobody, verb, &path).await.bearer_auth(token),
                            None => house.ask(who, verb, &path).await,
                        };
                        let response = request.send().await.expect("an answer");
                        let status = response.status().as_u16();
                        let allowed = may(caller_name(who), act.expect("it has a name"), repository, image);
                        let is_refused = matches!(status, 401 | 403);
                        let fits = if allowed {
                            !is_refused && status < 500
                        } else {
                            status == refusal(who)
                        };
                        let challenged = response.headers().contains_key("www-authenticate");
                        if !fits || challenged != (status == 401) {
                            wrong.push(format!("{verb} {path} {who:?}: {status}, allowed: {allowed}"));
                        }
                        cells += 1;
                    }
                }
            }
        }
    }
    covered.extend([0, 1]); // Those without a name follow.
    assert_eq!(covered.len(), ROWS);
    assert!(wrong.is_empty(), "{} of {cells}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(cells >= 2000, "{cells} cells");
    eprintln!("{cells} cells");
}

#[tokio::test]
async fn s01_what_is_there_is_seen_by_whom_it_is_for() {
    let upstream = Registry::start("repositories: { hub: { type: local } }");
    upstream.push_image("/v2/hub/team/far", "v1", b"far").await;
    let house = walled(&upstream).await;
    for image in IMAGES {
        house
            .push(User("admin"), &format!("/v2/local/{image}"), "v1", b"content")
            .await;
    }
    let layer = sha256(b"content");
    let manifest = crate::house::manifest_of(b"content");
    for who in CALLERS {
        let user = caller_name(who);
        for repository in ["local", "docker"] {
            for image in IMAGES {
                let expected = if may(user, Act::Pull, repository, image) {
                    200
                } else {
                    refusal(who)
                };
                for line in [
                    "manifests/v1".to_owned(),
                    format!("manifests/{manifest}"),
                    format!("blobs/{layer}"),
                    "tags/list".to_owned(),
                    format!("referrers/{manifest}"),
                ] {
                    for verb in ["GET", "HEAD"] {
                        let path = format!("/v2/{repository}/{image}/{line}");
                        let response = house.send(who, verb, &path).await;
                        assert_eq!(response.status().as_u16(), expected, "{verb} {path} {who:?}");
                    }
                }
                let path = format!("/v2/{repository}/{image}/blobs/{layer}");
                let ranged = house.ask(who, "GET", &path).await.header("range", "bytes=0-2");
                let status = ranged.send().await.expect("an answer").status().as_u16();
                assert_eq!(status, if expected == 200 { 206 } else { expected }, "{path} {who:?}");
            }
        }
    }
    // Who sees only the local member gets nothing of the other one.
    for (user, expected) in [("reader", 200), ("admin", 200), ("member", 404), ("owner", 404)] {
        let (status, _) = house
            .answer(User(user), "GET", "/v2/docker/team/far/manifests/v1")
            .await;
        assert_eq!(status, expected, "{user}");
    }
}

#[tokio::test]
async fn s01_lists_hold_what_the_caller_sees() {
    let upstream = Registry::start("repositories: { hub: { type: local } }");
    upstream.push_image("/v2/hub/team/far", "v1", b"far").await;
    let house = walled(&upstream).await;
    for image in IMAGES {
        house
            .push(User("admin"), &format!("/v2/local/{image}"), "v1", b"content")
            .await;
    }
    house
        .answer(User("admin"), "GET", "/v2/hub/team/far/manifests/v1")
        .await;
    let all = "docker/open/app docker/team/app docker/team/far hub/team/far local/open/app local/team/app";
    let by_virtual = "docker/open/app docker/team/app docker/team/far";
    let of_member = "docker/open/app docker/team/app local/open/app local/team/app";
    let of_owner = "docker/open/app docker/team/app local/team/app";
    for (who, path, expected) in [
        (Nobody, "/v2/_catalog", Ok("docker/open/app")),
        (Nobody, "/docker/v2/_catalog", Ok("open/app")),
        (Nobody, "/local/v2/_catalog", Err(401)),
        (Nobody, "/unknown/v2/_catalog", Err(401)),
        (NobodysToken, "/v2/_catalog", Ok("docker/open/app")),
        (User("stranger"), "/v2/_catalog", Ok("docker/open/app")),
        (User("stranger"), "/local/v2/_catalog", Err(403)),
        (User("stranger"), "/unknown/v2/_catalog", Err(403)),
        (User("reader"), "/v2/_catalog", Ok(by_virtual)),
        (User("reader"), "/hub/v2/_catalog", Err(403)),
        (User("member"), "/v2/_catalog", Ok(of_member)),
        (User("member"), "/docker/v2/_catalog", Ok("open/app team/app")),
        (User("pusher"), "/v2/_catalog", Ok("docker/open/app")),
        (User("owner"), "/v2/_catalog", Ok(of_owner)),
        (User("admin"), "/v2/_catalog", Ok(all)),
        (User("admin"), "/docker/v2/_catalog", Ok("open/app team/app team/far")),
        (User("admin"), "/unknown/v2/_catalog", Err(404)),
    ] {
        let (status, text) = house.answer(who, "GET", path).await;
        match expected {
            Ok(names) => {
                let document: serde_json::Value = serde_json::from_str(&text).expect(&text);
                let listed: Vec<&str> = document["repositories"]
                    .as_array()
                    .expect(&text)
                    .iter()
                    .filter_map(|name| name.as_str())
                    .collect();
                assert_eq!((status, listed.join(" ").as_str()), (200, names), "{who:?} {path}");
            }
            Err(expected) => assert_eq!(status, expected, "{who:?} {path}: {text}"),
        }
    }
    // Keys are listed to who may see them.
    for (who, keys) in [(User("admin"), "docker, hub, local"), (User("member"), "docker, local")] {
        let (status, text) = house.answer(who, "GET", "/v2/app/manifests/v1").await;
        assert_eq!(status, 404, "{text}");
        assert!(text.contains(&format!("the repositories are: {keys}\"")), "{text}");
    }
}

#[tokio::test]
async fn s01_the_version_check_lets_in_who_has_logged_in() {
    let upstream = Registry::start("repositories: { hub: { type: local } }");
    let house = walled(&upstream).await;
    for (path, who, expected) in [
        ("/v2/", Nobody, 401),
        ("/v2/", NobodysToken, 200),
        ("/v2", User("stranger"), 200),
        ("/v2/", UsersToken("stranger"), 200),
        ("/docker/v2/", Nobody, 401),
        ("/docker/v2/", User("stranger"), 200),
        ("/hub/v2/", User("stranger"), 403),
        ("/unknown/v2/", User("stranger"), 403),
        ("/hub/v2/", User("admin"), 200),
        ("/unknown/v2/", User("admin"), 404),
        ("/unknown/v2/", Nobody, 401),
    ] {
        for verb in ["GET", "HEAD"] {
            let status = house.send(who, verb, path).await.status().as_u16();
            assert_eq!(status, expected, "{verb} {path} {who:?}");
        }
    }
}

/// What an endpoint answers somebody. Not reached with an answer of its own that would change something.
fn endpoint(endpoint: Endpoint, who: Who) -> &'static [u16] {
    let user = caller_name(who);
    let refused: &[u16] = if user.is_empty() { &[401] } else { &[403] };
    match endpoint {
        Endpoint::Welcome
        | Endpoint::Live
        | Endpoint::Healthy
        | Endpoint::Ready
        | Endpoint::Description
        // Somebody who has not logged in may pull something here.
        | Endpoint::Metrics => &[200],
        // Whoever is known by what they show gets a token, for a form that says nothing there is none.
        Endpoint::Mint => &[200, 415],
        // Without an image it is of no use to anybody; with one, below.
        Endpoint::TagHistory | Endpoint::Resolve => &[400],
        Endpoint::Tokens => if user == "admin" { &[200, 415] } else { refused },
        Endpoint::Token => if user == "admin" { &[404] } else { refused },
        Endpoint::PinTag | Endpoint::UnpinTag | Endpoint::RollBackTag | Endpoint::Prefetch | Endpoint::Gc | Endpoint::Verify | Endpoint::Backup => {
            if user == "admin" { &[415] } else { refused }
        }
    }
}

#[tokio::test]
async fn s01_every_other_path_for_everybody() {
    let upstream = Registry::start("repositories: { hub: { type: local } }");
    let house = walled(&upstream).await;
    house.push(User("admin"), "/v2/local/team/app", "v1", b"content").await;
    for row in Endpoint::ALL {
        for who in CALLERS {
            for verb in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"] {
                let path = row.path().replace("{id}", "0");
                let status = house.send(who, verb, &path).await.status().as_u16();
                let is_meant = row.methods().contains(&verb) || verb == "HEAD" && row.methods().contains(&"GET");
                if is_meant {
                    assert!(endpoint(*row, who).contains(&status), "{verb} {path} {who:?}: {status}");
                } else {
                    assert_eq!(status, 405, "{verb} {path} {who:?}");
                }
            }
        }
    }
    for who in CALLERS {
        let user = caller_name(who);
        for (image, there) in [
            ("local/team/app", true),
            ("docker/team/app", true),
            ("unknown/team/app", false),
        ] {
            let (repository, rest) = image.split_once('/').expect("a key");
            let path = format!("/api/v1/tags/history?image={image}:v1");
            let (status, text) = house.answer(who, "GET", &path).await;
            let expected = match (may(user, Act::Pull, repository, rest), there) {
                (true, true) => 200,
                (true, false) => 404,
                (false, _) => refusal(who),
            };
            assert_eq!(status, expected, "{who:?} {path}: {text}");
            for change in ["pin", "unpin", "rollback"] {
                let body = serde_json::json!({ "image": format!("{image}:v0") });
                let request = house.ask(who, "POST", &format!("/api/v1/tags/{change}")).await;
                let status = request.json(&body).send().await.expect("an answer").status().as_u16();
                assert_eq!(
                    status,
                    if user == "admin" { 404 } else { refusal(who) },
                    "{change} {image} {who:?}"
                );
            }
        }
    }
}

#[tokio::test]
async fn a_hidden_member_keeps_its_names_to_itself() {
    let upstream = Registry::start("repositories: { hub: { type: local } }");
    upstream.push_image("/v2/hub/app", "v1", b"somebody else's").await;
    upstream.push_image("/v2/hub/other", "v1", b"other").await;
    let address = upstream.address();
    let rest = format!(
        "{}\nrepositories:\n  own: {{ type: local }}\n  hub: {{ type: remote, url: 'http://{address}/hub', insecure: true }}\n  docker: {{ type: virtual, members: [{{ repository: own, priority: true }}, hub], push_to: own }}\ndefault: docker\n",
        r#"
auth:
  anonymous: pull
  htpasswd: ./htpasswd
  policies:
    - { who: ["*"], may: [pull], on: "hub/**" }
    - { who: [ada], may: [pull, push], on: "own/**" }"#
    );
    let house = House::new(&["ada", "bob"], "", &rest);
    house.push(User("ada"), "/v2/app", "v1", b"ours").await;
    for (who, image, expected) in [
        (Nobody, "app", 401),
        (Nobody, "absent", 401),
        (Nobody, "other", 200),
        (User("bob"), "app", 404),
        (User("bob"), "absent", 404),
        (User("bob"), "other", 200),
        (User("ada"), "app", 200),
        (User("ada"), "other", 200),
    ] {
        for verb in ["GET", "HEAD"] {
            let status = house
                .send(who, verb, &format!("/v2/{image}/manifests/v1"))
                .await
                .status()
                .as_u16();
            assert_eq!(status, expected, "{who:?} {image}");
        }
    }
    let log = upstream.log();
    let asked = |line: &str| line.contains("/v2/hub/app/") && (line.contains("\"GET\"") || line.contains("\"HEAD\""));
    assert!(!log.lines().any(asked), "the name of our image left: {log}");
}
