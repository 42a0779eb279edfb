//! `repositories.yml`, from the outside: what is taken, and how everything else is reported.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test that meets the unexpected should stop there"
)]

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use entrepot::config::{
    self, Anonymous, Config, Credentials, Environment, IssuerKeys, Loaded, Login, Place, Problem, Provider,
    RemoteConfig, RepositoryConfig,
};
use proptest::prelude::*;

const EVERYTHING: &str = include_str!("fixtures/everything.yml");
const EXAMPLE: &str = include_str!("../repositories.yml");
const MANUAL: &str = include_str!("../docs/configuration.md");

fn load_with(text: &str, variables: &[(&str, &str)]) -> Result<Loaded, Vec<Problem>> {
    let environment: Environment = variables.iter().copied().collect();
    config::load_text("repositories.yml", text, Path::new("etc"), &environment)
}

fn loaded(text: &str) -> Loaded {
    load_with(text, &[]).unwrap_or_else(|problems| panic!("{problems:#?}"))
}

fn problems_with(text: &str, variables: &[(&str, &str)]) -> Vec<Problem> {
    load_with(text, variables).expect_err("it has problems")
}

/// What `check` prints.
fn report(text: &str) -> String {
    let all: Vec<_> = problems_with(text, &[]).iter().map(ToString::to_string).collect();
    all.join("\n\n")
}

/// One line for each problem of each text.
fn lines(texts: &[&str]) -> String {
    let all = texts.iter().flat_map(|text| problems_with(text, &[]));
    let all: Vec<_> = all
        .map(|problem| match &problem.hint {
            Some(hint) => format!("{} ({hint})", problem.line().trim_start_matches("repositories.yml:")),
            None => problem.line().trim_start_matches("repositories.yml:").to_owned(),
        })
        .collect();
    all.join("\n")
}

fn remote<'a>(config: &'a Config, key: &str) -> &'a RemoteConfig {
    match config.repositories.get(key) {
        Some(RepositoryConfig::Remote(remote)) => remote,
        other => panic!("{key} is {other:?}"),
    }
}

fn password(remote: &RemoteConfig) -> &Credentials {
    match &remote.credentials[0] {
        Login::Password(credentials) => credentials,
        Login::Provided(..) => panic!("no password"),
    }
}

#[test]
fn ten_mistakes_are_ten_reports_each_at_its_line_and_column() {
    let text = "\
server:
  listen: 127.0.0.1:99999
  drain: soon
storge: { path: data }
repositories:
  v2: { type: local }
  images: { type: local, allow_delte: true }
  hub: { type: remote, url: 'ftp://example.com' }
  ecr: { type: remote, url: 'https://ecr.example.com', tag_ttl: [5m] }
  docker: { type: virtual, members: [images, nobody], push_to: hub }
  circle: { type: virtual, members: [circle] }
default: nothing
";
    insta::assert_snapshot!(report(text), @r#"
repositories.yml:2:11: `127.0.0.1:99999` is not an address to listen on
      listen: 127.0.0.1:99999
              ^
hint: write IP address and port: `127.0.0.1:5000`, `0.0.0.0:5000`, `[::]:5000`

repositories.yml:3:10: `soon` is not a time
      drain: soon
             ^
hint: a whole number with a unit, ms, s, m, h or d: `500ms`, `30s`, `10m`, `24h`, `7d`

repositories.yml:4:1: unknown key `storge`
    storge: { path: data }
    ^
hint: did you mean `storage`?

repositories.yml:6:3: `v2` cannot be a repository key: it has a meaning of its own in image paths
      v2: { type: local }
      ^

repositories.yml:7:26: unknown key `allow_delte`
      images: { type: local, allow_delte: true }
                             ^
hint: did you mean `allow_delete`?

repositories.yml:8:29: this is not the URL of a registry
      hub: { type: remote, url: 'ftp://example.com' }
                                ^
hint: it begins with `https://` and a host: `https://registry.example.com`

repositories.yml:9:65: expected a time such as `30s`, found a list
      ecr: { type: remote, url: 'https://ecr.example.com', tag_ttl: [5m] }
                                                                    ^

repositories.yml:10:46: there is no repository `nobody`
      docker: { type: virtual, members: [images, nobody], push_to: hub }
                                                 ^
hint: the keys are `circle`, `docker`, `ecr`, `hub`, `images`, `v2`

repositories.yml:10:64: `hub` is a remote repository: nothing can be pushed to it
      docker: { type: virtual, members: [images, nobody], push_to: hub }
                                                                   ^
hint: name a local member

repositories.yml:11:38: `circle` is a member of itself
      circle: { type: virtual, members: [circle] }
                                         ^

repositories.yml:12:10: there is no repository `nothing`
    default: nothing
             ^
hint: the keys are `circle`, `docker`, `ecr`, `hub`, `images`, `v2`
"#);
}

#[test]
fn the_embedded_configuration_means_the_defaults() {
    let Loaded { config, files, .. } = loaded(config::EMBEDDED);
    insta::assert_snapshot!(format!("{config:#?}"));
    assert!(files.is_empty());
}

/// An editor shows the defaults of the schema: they must be the real ones.
#[test]
fn the_defaults_of_the_schema_are_the_defaults() {
    let schema: serde_json::Value = serde_json::from_str(&config::schema()).unwrap();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    let mut root = serde_json::json!({
        "server": { "limits": {} }, "storage": {}, "defaults": {}, "default": "docker",
        "repositories": {
            "docker-local": { "type": "local" },
            "docker-hub": { "type": "remote", "url": "https://registry-1.docker.io" },
            "docker": {
                "type": "virtual",
                "members": [{ "repository": "docker-local" }, { "repository": "docker-hub" }],
                "push_to": "docker-local",
            },
        },
    });
    let mut fill = |at: &str, properties: &serde_json::Value| {
        let section = root
            .pointer_mut(at)
            .and_then(|section| section.as_object_mut())
            .unwrap();
        let mut filled = 0;
        for (key, property) in properties.as_object().unwrap() {
            if let Some(default) = property.get("default") {
                section.insert(key.clone(), default.clone());
                filled += 1;
            }
        }
        assert!(filled > 0, "{at} has no defaults");
    };
    fill("/server", &schema["$defs"]["Server"]["properties"]);
    fill("/server/limits", &schema["$defs"]["Limits"]["properties"]);
    fill("/storage", &schema["$defs"]["Storage"]["properties"]);
    fill("/defaults", &schema["$defs"]["Defaults"]["properties"]);
    let kinds = &schema["$defs"]["Repository"]["oneOf"];
    fill("/repositories/docker-local", &kinds[0]["properties"]);
    fill("/repositories/docker-hub", &kinds[1]["properties"]);
    fill(
        "/repositories/docker/members/0",
        &schema["$defs"]["Member"]["anyOf"][1]["properties"],
    );
    assert_eq!(loaded(&root.to_string()).config, loaded(config::EMBEDDED).config);
}

#[test]
fn the_worked_example_loads_as_it_is() {
    let loaded = loaded(EXAMPLE);
    assert_eq!(loaded.warnings, []);
    assert_eq!(loaded.config.repositories.len(), 6);
    assert_eq!(
        remote(&loaded.config, "vendor").stale_if_error,
        Some(Duration::from_secs(7 * 24 * 60 * 60))
    );
    assert_eq!(remote(&loaded.config, "docker-hub").stale_if_error, None);
}

/// What the example shows in comments would load, too.
#[test]
fn the_comments_of_the_worked_example_are_true() {
    let directory = tempfile::tempdir().unwrap();
    for file in ["tls.crt", "tls.key", "vendor"] {
        fs::write(directory.path().join(file), "x").unwrap();
    }
    let certified = rcgen::generate_simple_self_signed(["example.com".to_owned()]).unwrap();
    fs::write(
        directory.path().join("htpasswd"),
        format!("# ours\nada:$2b$12${}\n", "x".repeat(53)),
    )
    .unwrap();
    fs::write(directory.path().join("cluster-keys.json"), r#"{"keys":[]}"#).unwrap();
    for file in ["corporate-ca.pem", "client.crt", "clients.crt", "cluster-ca.pem"] {
        fs::write(directory.path().join(file), certified.cert.pem()).unwrap();
    }
    fs::write(
        directory.path().join("client.key"),
        certified.signing_key.serialize_pem(),
    )
    .unwrap();
    let mut text = EXAMPLE
        .replace("  listen: 127.0.0.1:5000\n", "")
        .replace("      password: ${VENDOR_PASSWORD:-change-me}\n", "")
        .replace("/run/secrets/vendor", "vendor");
    for (comment, code) in [("  #   ", "  "), ("    #   ", "    "), ("      #   ", "      ")] {
        text = text.replace(&format!("\n{comment}"), &format!("\n{code}"));
    }
    let environment = Environment::default();
    let loaded = config::load_text("repositories.yml", &text, directory.path(), &environment)
        .unwrap_or_else(|problems| panic!("{problems:#?}\n{text}"));
    assert_eq!(loaded.config.server.listen.len(), 2);
    let hub = remote(&loaded.config, "docker-hub");
    let users: Vec<&str> = hub.credentials.iter().map(Login::name).collect();
    assert_eq!(users, ["acme", "acme-ci"]);
    let auth = &loaded.config.auth;
    assert_eq!(auth.htpasswd.keys().collect::<Vec<_>>(), ["ada"]);
    assert!(matches!(auth.oidc[1].keys, Some(IssuerKeys::Document(_))));
    assert_eq!(
        auth.ldap.as_ref().map(|ldap| ldap.group_base.as_str()),
        Some("ou=groups,dc=example,dc=com")
    );
    let files = [
        "tls.crt",
        "tls.key",
        "clients.crt",
        "htpasswd",
        "cluster-keys.json",
        "cluster-ca.pem",
        "corporate-ca.pem",
        "vendor",
        "corporate-ca.pem",
        "client.crt",
        "client.key",
    ];
    let files = files.map(|file| directory.path().join(file));
    assert_eq!(loaded.files, files);
}

/// Every key that works, from the schema.
fn keys() -> Vec<String> {
    fn collect(value: &serde_json::Value, keys: &mut Vec<String>) {
        match value {
            serde_json::Value::Object(object) => {
                if let Some(properties) = object.get("properties").and_then(|properties| properties.as_object()) {
                    keys.extend(properties.keys().cloned());
                }
                object.values().for_each(|value| collect(value, keys));
            }
            serde_json::Value::Array(array) => array.iter().for_each(|value| collect(value, keys)),
            _ => {}
        }
    }
    let mut keys = Vec::new();
    collect(&serde_json::from_str(&config::schema()).unwrap(), &mut keys);
    keys.sort();
    keys.dedup();
    assert!(keys.len() > 40, "{keys:?}");
    keys
}

#[test]
fn every_key_is_in_the_example_and_in_the_manual() {
    for key in keys() {
        let is_shown = EXAMPLE.lines().any(|line| {
            let words = line.split(|c: char| " #{},".contains(c));
            words.into_iter().any(|word| word.strip_suffix(':') == Some(&key))
        });
        assert!(is_shown, "`{key}` is not in repositories.yml");
        assert!(
            MANUAL.contains(&format!("`{key}`")),
            "`{key}` is not in docs/configuration.md"
        );
    }
}

#[test]
fn what_does_not_work_yet_is_refused() {
    let problems = problems_with(EVERYTHING, &[]);
    for problem in &problems {
        // Its files are nowhere.
        let is_missing = problem.message.starts_with("cannot read");
        assert!(
            problem.message.ends_with("is not supported by this version yet") || is_missing,
            "{problem}"
        );
    }
    insta::assert_snapshot!(lines(&[EVERYTHING]));
}

#[test]
fn every_kind_of_mistake_has_its_words() {
    let texts = [
        // The document.
        "",
        "# nothing but words\n",
        "repositories: {}",
        "repositories:",
        "repositories: 5",
        "- a",
        "just a text",
        "a: [1\n",
        "a:\n\t- b\n",
        "a: &a [*a]",
        // Keys.
        "repositories: { a: { type: local, type: local, allow_sparse: true } }\nrepositories: {}\n",
        "repositories: { a: { type: local }, a: { type: remote } }",
        "repositories: { a: { type: local, retention: [{}, { match: dev-* }, { match: a, untagged_after: 1d }, { keep_last: 2, untagged_after: 1d }, { match: 'x', keep_last: -1 }, { untagged_after: soon }] } }",
        "repositories: { Team A: { type: local }, library: { type: local }, a/b: { type: local }, '': { type: local } }",
        "listen: 127.0.0.1:1\nrepositories: { a: { type: local } }",
        "repositories: { a: { <<: { type: local }, type: local } }",
        "repositories: { a: { type: local, colour: red } }",
        "repositories: { a: { type: local, tag_ttl: 5m, members: [b], quota: 5 }, b: { type: virtual, members: [a], url: x } }",
        // Types.
        "repositories: { a: {}, b: { type: lokal }, c: { type: 5 }, d: local, e: , f: { type: virtuel, members: [a], push-to: a } }",
        "repositories: { a: { type: local, allow_delete: yes, allow_sparse: 1 } }",
        "repositories: { a: { type: !x local } }",
        "server: []\nstorage: { path: 5 }\nauth: { anonymous: some }\ndefault: [a]\nrepositories: { a: { type: local } }",
        "server: { drain: 60, listen: 5000, metrics: , limits: { uploads: 0, upload: 10G, manifest: -1 } }\nrepositories: { a: { type: local } }",
        "default:\nrepositories: { a: { type: local } }",
        // Listening.
        "server: { listen: [] }\nrepositories: { a: { type: local } }",
        "server: { listen: ['127.0.0.1:1', {address: '127.0.0.1:1', repository: b}, {repository: a}], metrics: '127.0.0.1:1' }\nrepositories: { a: { type: local } }",
        "server: { listen: ['0.0.0.0:1', '[::]:1', '[::1]:1', '[::ffff:127.0.0.1]:1'], metrics: '0.0.0.0:2' }\nrepositories: { a: { type: local } }",
        "server: { tls: { cert: nowhere.crt } }\nrepositories: { a: { type: local } }",
        "server: { tls: { cert: nowhere.crt, key: nowhere.key } }\nrepositories: { a: { type: local } }",
        // Remotes.
        "repositories: { a: { type: remote }, b: { type: remote, url: registry-1.docker.io }, c: { type: remote, url: 'http://a.b' } }",
        "repositories: { a: { type: remote, url: 'https://me:hunter2@a.b' }, b: { type: remote, url: 'https://a.b/v2/' } }",
        "repositories: { a: { type: remote, url: 'https://a.b', credentials: { username: a } } }",
        "repositories: { a: { type: remote, url: 'https://a.b', credentials: { password: '', username: '' } } }",
        "repositories: { a: { type: remote, url: 'https://a.b', credentials: { username: a, password: b, password_file: c } } }",
        "repositories: { a: { type: remote, url: 'https://a.b', credentials: { username: a, password_file: nowhere } } }",
        "repositories: { a: { type: remote, url: 'https://a.b', credentials: [ecr, { from: ecr-public, username: a }, ecr, azure, { from: hub }, hunter2] } }",
        "repositories: { a: { type: remote, url: 'https://a.b', token_realms: [c.d, C.D, 'https://e'], connect_timeout: 0s } }",
        "repositories: { a: { type: remote, url: 'https://a.b', mirrors: ['https://a.b', 'http://c.d', 'https://e.f', 'https://e.f', g], include: ['a[', ''], platforms: [amd64] } }",
        "repositories: { a: { type: remote, url: 'https://a.b', credentials: [], cache: { max_size: 0, unused: 5d }, rate_limit: { reserve: -1 }, hold: long, fetch_parts: 0 } }",
        "repositories: { a: { type: remote, url: 'https://a.b', credentials: [{ username: a, password: b }, { username: a, password: c }], warm: [{ images: [] , every: 5m }, { images: ['A:b', 'a:b c'] }] } }",
        "repositories: { a: { type: remote, url: 'https://a.b', proxy: 'socks5://hunter2@a', ca: nowhere.pem, client_tls: { cert: nowhere.pem }, allow_private: [10.0.0.0/40, localhost] } }",
        "storage: { min_free: 100% }\nrepositories: { a: { type: local, offline: true } }",
        // Who may.
        "auth: { anonymous: pull, htpasswd: nowhere, policies: [{ who: 'a:b', may: [read], on: 'a/[' }, { may: pull }] }\nrepositories: { a: { type: local } }",
        "auth: { tokens: true }\nserver: { listen: '0.0.0.0:1' }\nrepositories: { a: { type: local } }",
        "auth: { groups: { ops: [ada], '@x': ['b c'] }, tokens: true, policies: [{ who: ['*', ada, '@opps', '@dev'], may: pull, on: [b/**, a, '*', '**'] }] }\nrepositories: { a: { type: local } }",
        "auth: { oidc: [{ issuer: 'https://gitlab.com', audience: '' }, { issuer: 'http://a.b', audience: x, keys: 'http://c.d', claims: { e: [] } }, {}], policies: [] }\nrepositories: { a: { type: local } }",
        "auth: { ldap: { url: 'ldap://a.b', user_dn: 'cn=a,o=b', group_filter: member }, policies: [] }\nrepositories: { a: { type: local } }",
        "auth: { ldap: { url: 'ldaps://a.b', start_tls: true, insecure: true, user_dn: 'cn={user},dc=b' }, policies: [] }\nrepositories: { a: { type: local } }",
        "server: { external_url: 'https://u:p@a.b', trusted_proxies: [a] }\naudit: { to: no/where/at/all, pulls: 1 }\nrepositories: { a: { type: local, immutable_tags: ['['] } }",
        // Virtuals.
        "repositories: { a: { type: virtual }, b: { type: virtual, members: [] }, c: { type: virtual, members: [{}] } }",
        "repositories: { a: { type: local }, v: { type: virtual, members: [a, a, b], push_to: b } }",
        "repositories: { a: { type: local }, b: { type: local }, v: { type: virtual, members: [a], push_to: b }, w: { type: virtual, members: [x], push_to: x }, x: { type: virtual, members: [a] } }",
        "repositories: { a: { type: virtual, members: [b] }, b: { type: virtual, members: [c, d] }, c: { type: virtual, members: [a] }, d: { type: virtual, members: [b, d] } }",
        "repositories: { l: { type: local }, a: { type: virtual, members: [l], hosts: [x.y, X.Y, 'x:1'] }, b: { type: virtual, members: [l], hosts: [x.y], serves: ['a:1', 'a:1'] } }",
        "repositories: { docker-local: { type: local } }\ndefault: docker_local",
    ];
    insta::assert_snapshot!(lines(&texts));
}

#[test]
fn what_deserves_a_second_look_is_a_warning() {
    let texts = [
        config::EMBEDDED,
        "repositories: { l: { type: local }, r: { type: remote, url: 'https://a.b' }, v: { type: virtual, members: [r, { repository: l, priority: true }] } }",
        "repositories: { r: { type: remote, url: 'http://a.b', insecure: true }, s: { type: remote, url: 'https://docker.io' } }",
        "auth:\nrepositories: { l: { type: local } }",
    ];
    let warnings = texts.iter().flat_map(|text| loaded(text).warnings);
    let warnings: Vec<_> = warnings.map(|warning| warning.to_string()).collect();
    insta::assert_snapshot!(warnings.join("\n\n"), @r#"
repositories.yml:4:43: warning: `docker-hub` can answer for an image that was meant to come from `docker-local`
      docker:       { type: virtual, members: [docker-local, docker-hub], push_to: docker-local }
                                              ^
hint: list it as `{ repository: docker-local, priority: true }`, or say in `docker-hub` what to `include` or `exclude`

repositories.yml:1:107: warning: `r` can answer for an image that was meant to come from `l`
    repositories: { l: { type: local }, r: { type: remote, url: 'https://a.b' }, v: { type: virtual, members: [r, { repository: l, priority: true }] } }
                                                                                                              ^
hint: list it before every remote, as `{ repository: l, priority: true }`, or say in `r` what to `include` or `exclude`

repositories.yml:1:65: warning: nothing proves that what comes from this upstream is what it sent
    repositories: { r: { type: remote, url: 'http://a.b', insecure: true }, s: { type: remote, url: 'https://docker.io' } }
                                                                    ^

repositories.yml:1:97: warning: `docker.io` is not the address of a registry
    repositories: { r: { type: remote, url: 'http://a.b', insecure: true }, s: { type: remote, url: 'https://docker.io' } }
                                                                                                    ^
hint: Docker Hub's is `https://registry-1.docker.io`

repositories.yml:1:1: warning: nobody can do anything here
    auth:
    ^
hint: nobody can log in, and `anonymous` may do nothing: `pull` or `all`? or a `htpasswd` and `policies`?
"#);
    let quiet = "repositories: { l: { type: local }, r: { type: remote, url: 'https://a.b' }, \
        v: { type: virtual, members: [{ repository: l, priority: true }, r] } }";
    assert_eq!(loaded(quiet).warnings, []);
    let told = "repositories: { l: { type: local }, r: { type: remote, url: 'https://a.b', include: ['b/**'] }, \
        v: { type: virtual, members: [l, r] } }";
    assert_eq!(loaded(told).warnings, []);
}

#[test]
fn an_auth_section_opens_addresses_and_decides_about_anonymous() {
    let text =
        |auth: &str| format!("server: {{ listen: '0.0.0.0:1' }}\n{auth}\nrepositories: {{ a: {{ type: local }} }}");
    for (auth, anonymous) in [
        ("auth: {}", Anonymous::None),
        ("auth: { anonymous: none }", Anonymous::None),
        ("auth: { anonymous: pull }", Anonymous::Pull),
        ("auth: { anonymous: all }", Anonymous::All),
    ] {
        assert_eq!(loaded(&text(auth)).config.auth.anonymous, anonymous);
    }
    assert_eq!(problems_with(&text(""), &[]).len(), 1);
    let local = loaded("server: { listen: '[::1]:1' }\nrepositories: { a: { type: local } }");
    assert_eq!(local.config.auth.anonymous, Anonymous::All);
}

#[test]
fn variables_stand_in_texts() {
    let text = "\
storage: { path: '${ROOT}/${NAME:-images}$${NOT}' }
server: { drain: '${DRAIN:-5s}', limits: { uploads: '${UPLOADS}' } }
repositories:
  a: { type: local, allow_delete: '${DELETE:-false}' }
  b: { type: remote, url: 'https://${HOST}/x', credentials: { username: u, password: '${PASSWORD}' } }
";
    let variables = [
        ("ROOT", "/srv"),
        ("NAME", ""),
        ("UPLOADS", "7"),
        ("HOST", "r.example"),
        ("PASSWORD", "12345"),
    ];
    let config = load_with(text, &variables).unwrap().config;
    assert_eq!(config.storage.path, PathBuf::from("/srv/images${NOT}"));
    assert_eq!(config.server.drain, Duration::from_secs(5));
    assert_eq!(config.server.limits.uploads, 7);
    let b = remote(&config, "b");
    assert_eq!(b.url.as_str(), "https://r.example/x");
    assert_eq!(password(b).password.reveal(), "12345");
    assert!(!format!("{config:?}").contains("12345"));
}

#[test]
fn variables_that_are_not_there_are_reported_where_they_stand() {
    let text = "\
storage: { path: '/srv/${NOWHERE}/${NOR_HERE}' }
default: ${1X}
repositories:
  a: { type: remote, url: 'https://a.b', credentials: { username: '${OPEN', password: '${A:-${B}}' } }
";
    insta::assert_snapshot!(report(text), @r#"
repositories.yml:1:24: the environment variable `NOWHERE` is not set
    storage: { path: '/srv/${NOWHERE}/${NOR_HERE}' }
                           ^
hint: set it, or give a default: `${NOWHERE:-…}`

repositories.yml:1:35: the environment variable `NOR_HERE` is not set
    storage: { path: '/srv/${NOWHERE}/${NOR_HERE}' }
                                      ^
hint: set it, or give a default: `${NOR_HERE:-…}`

repositories.yml:2:10: `1X` is not the name of a variable
    default: ${1X}
             ^
hint: write `${NAME}` or `${NAME:-default}` for a variable, and `$${` for these characters themselves

repositories.yml:4:68: `${` without a `}`
      a: { type: remote, url: 'https://a.b', credentials: { username: '${OPEN', password: ************ * *
                                                                       ^
hint: write `${NAME}` or `${NAME:-default}` for a variable, and `$${` for these characters themselves

repositories.yml:4:88: a default cannot hold a variable
      a: { type: remote, url: 'https://a.b', credentials: { username: '${OPEN', password: ************ * *
                                                                                           ^
hint: set one of the two variables always
"#);
}

#[test]
fn any_key_can_be_set_by_a_variable() {
    let text = "\
server: { listen: 127.0.0.1:1 }
repositories:
  docker-hub: { type: remote, url: 'https://a.b' }
  a__b: { type: local }
";
    let variables = [
        ("ENTREPOT__AUTH__ANONYMOUS", "pull"),
        (
            "ENTREPOT__SERVER__LISTEN",
            "['0.0.0.0:2', {address: '0.0.0.0:3', repository: a__b}]",
        ),
        ("ENTREPOT__SERVER__LIMITS__UPLOADS", "5"),
        ("ENTREPOT__DEFAULT", "docker-hub"),
        ("ENTREPOT__REPOSITORIES__DOCKER_HUB__CREDENTIALS__USERNAME", "007"),
        (
            "ENTREPOT__REPOSITORIES__DOCKER_HUB__CREDENTIALS__PASSWORD",
            "x: [${y} #z",
        ),
        ("ENTREPOT__REPOSITORIES__A__B__ALLOW_DELETE", "false"),
        ("ENTREPOT__REPOSITORIES__TEAM_LOCAL", "{ type: local }"),
        ("ENTREPOT_SERVER", "not ours"),
    ];
    let config = load_with(text, &variables)
        .unwrap_or_else(|problems| panic!("{problems:#?}"))
        .config;
    let addresses: Vec<SocketAddr> = config.server.listen.iter().map(|listen| listen.address).collect();
    assert_eq!(addresses, ["0.0.0.0:2".parse().unwrap(), "0.0.0.0:3".parse().unwrap()]);
    assert_eq!(config.server.limits.uploads, 5);
    assert_eq!(config.auth.anonymous, Anonymous::Pull);
    let credentials = password(remote(&config, "docker-hub"));
    assert_eq!(
        (credentials.username.as_str(), credentials.password.reveal()),
        ("007", "x: [${y} #z")
    );
    let keys: Vec<_> = config.repositories.keys().map(|key| key.as_str().to_owned()).collect();
    assert_eq!(keys, ["a__b", "docker-hub", "team-local"]);
    assert!(matches!(config.repositories.get("a__b"), Some(RepositoryConfig::Local(local)) if !local.allow_delete));
}

#[test]
fn variables_alone_are_a_configuration() {
    let config = load_with("", &[("ENTREPOT__REPOSITORIES__IMAGES__TYPE", "local")])
        .unwrap()
        .config;
    assert!(config.repositories.contains_key("images"));
}

#[test]
fn a_variable_that_is_wrong_is_named_and_its_value_is_not() {
    let text = "repositories: { a-b: { type: local }, a_b: { type: local }, r: { type: remote, url: 'https://a.b', token_realms: [c] } }";
    let variables = [
        ("ENTREPOT__SERVER__DRAIN", "hunter2"),
        ("ENTREPOT__SEVER__LISTEN", "hunter2"),
        ("ENTREPOT__SERVER__LISTEN", "hunter2"),
        ("ENTREPOT__SERVER__METRICS", "[hunter2]"),
        ("ENTREPOT__AUTH__ANONYMOUS", "hunter2"),
        ("ENTREPOT__SERVER__LIMITS", "hunter2"),
        ("ENTREPOT__SERVER____LISTEN", "hunter2"),
        ("ENTREPOT__", "hunter2"),
        ("ENTREPOT__REPOSITORIES__A_B__ALLOW_DELETE", "true"),
        ("ENTREPOT__REPOSITORIES__R__TOKEN_REALMS__0", "hunter2"),
        ("ENTREPOT__REPOSITORIES__R__URL", "ftp://hunter2"),
        ("ENTREPOT__REPOSITORIES__R__TYPE", "hunter2"),
        ("ENTREPOT__REPOSITORIES__S__TYPE", "remote"),
        ("ENTREPOT__REPOSITORIES__T", "{ type: remote }"),
        ("ENTREPOT__REPOSITORIES__T__URL", "hunter2"),
        ("ENTREPOT__STORAGE__INDEX", "x"),
    ];
    let problems = problems_with(text, &variables);
    let all: Vec<_> = problems.iter().map(ToString::to_string).collect();
    assert!(!all.join("\n").contains("hunter2"), "{}", all.join("\n"));
    insta::assert_snapshot!(all.join("\n"), @r#"
ENTREPOT__: this variable names no key
hint: the keys are joined by two underscores: `ENTREPOT__SERVER__LISTEN`
ENTREPOT__AUTH__ANONYMOUS: its value is none of `none`, `pull`, `all`
ENTREPOT__REPOSITORIES__A_B__ALLOW_DELETE: this variable could mean `a-b` and `a_b`
ENTREPOT__REPOSITORIES__R__TOKEN_REALMS__0: `repositories.r.token_realms` has no keys to set
hint: set it as a whole: the value of the variable can be a list, `[a, b]`
ENTREPOT__REPOSITORIES__R__TYPE: its value is none of `local`, `remote`, `virtual`
ENTREPOT__REPOSITORIES__S__TYPE: `url` is missing
ENTREPOT__REPOSITORIES__T__URL: this is not the URL of a registry
ENTREPOT__SERVER__DRAIN: its value is not a time
hint: a whole number with a unit, ms, s, m, h or d: `500ms`, `30s`, `10m`, `24h`, `7d`
ENTREPOT__SERVER__LIMITS: expected a mapping with `manifest`, `upload`, `uploads`, `upload_idle`, `connections`, `header_timeout`, found a text
ENTREPOT__SERVER__LISTEN: its value is not an address to listen on
hint: write IP address and port: `127.0.0.1:5000`, `0.0.0.0:5000`, `[::]:5000`
ENTREPOT__SERVER__METRICS: its value is not an address to listen on
hint: write IP address and port: `127.0.0.1:5000`, `0.0.0.0:5000`, `[::]:5000`
ENTREPOT__SERVER____LISTEN: this variable names no key
hint: the keys are joined by two underscores: `ENTREPOT__SERVER__LISTEN`
ENTREPOT__SEVER__LISTEN: unknown key `sever`
hint: did you mean `server`?
ENTREPOT__STORAGE__INDEX: `index` is not supported by this version yet
"#);
}

#[test]
fn a_report_gives_no_password_away() {
    for credentials in [
        "{ username: a, pasword: hunter2 }",
        "{ username: a, password: [hunter2] }",
        "{ username: a, password: hunter2, colour: red }",
        "{ username: [a], password: \"hunter2\" }",
        "{ username: a, password: {hunter2: x} }",
        "hunter2",
        "\n      username: a\n      password: hunter2\n      passwort: hunter2",
        "\n      username: a\n      password:\n        - hunter2",
        "\n      username: a\n      password:\n      - hunter2",
        "\n      username: a\n      password: \"hunter2",
        "\n      username: a\n      password: @hunter2",
    ] {
        let text =
            format!("repositories:\n  a:\n    type: remote\n    url: https://a.b\n    credentials: {credentials}\n");
        let report = report(&text);
        assert!(!report.contains("hunter2"), "{text}\n{report}");
    }
    let report = report("repositories: { a: { type: remote, url: 'https://me:hunter2@a.b', x: y } }");
    assert!(!report.contains("hunter2"), "{report}");
}

#[test]
fn a_password_may_be_a_whole_file() {
    let directory = tempfile::tempdir().unwrap();
    let text = "\
repositories:
  a: { type: remote, url: 'https://gcr.io', credentials: { username: _json_key, password_file: key.json } }
  b: { type: remote, url: 'https://r.example', credentials: { username: 'a b', password: \"x: y\\nz\" } }
";
    let key = "{\n  \"type\": \"service_account\"\n}";
    fs::write(directory.path().join("key.json"), format!("{key}\n")).unwrap();
    let loaded = config::load_text("repositories.yml", text, directory.path(), &Environment::default()).unwrap();
    assert_eq!(password(remote(&loaded.config, "a")).password.reveal(), key);
    assert_eq!(password(remote(&loaded.config, "b")).password.reveal(), "x: y\nz");
    fs::write(directory.path().join("key.json"), "a\0b").unwrap();
    let text = text.replace("'a b'", "'a:b'");
    let problems = config::load_text("repositories.yml", &text, directory.path(), &Environment::default()).unwrap_err();
    let told: Vec<&str> = problems.iter().map(|problem| problem.message.as_str()).collect();
    assert_eq!(
        told,
        [
            "the password is empty or holds a control character",
            "a `:` in the username would be taken for the beginning of the password"
        ]
    );
}

#[test]
fn what_a_cloud_gives_is_said_in_one_word() {
    let text = "\
repositories:
  a: { type: remote, url: 'https://123456789012.dkr.ecr.eu-west-1.amazonaws.com', credentials: ecr }
  b: { type: remote, url: 'https://public.ecr.aws', credentials: [{ from: ecr-public }, { username: u, password: p }] }
";
    let variables = [("AWS_SECRET_ACCESS_KEY", "hunter2")];
    let config = load_with(text, &variables)
        .unwrap_or_else(|problems| panic!("{problems:#?}"))
        .config;
    let environment: Environment = variables.into_iter().collect();
    assert_eq!(
        remote(&config, "a").credentials,
        [Login::Provided(Provider::Ecr, environment)]
    );
    let names: Vec<&str> = remote(&config, "b").credentials.iter().map(Login::name).collect();
    assert_eq!(names, ["ecr-public", "u"]);
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn files_are_found_beside_the_configuration() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("repositories.yml");
    let text = "\
server: { tls: { cert: tls/a.crt, key: ./tls/a.key } }
repositories:
  a: { type: remote, url: 'https://a.b', credentials: { username: u, password_file: secret } }
";
    fs::write(&path, text).unwrap();
    let environment = Environment::default();
    let missing = config::load(&path, &environment).expect_err("three files are missing");
    assert_eq!(missing.len(), 3, "{missing:#?}");

    fs::create_dir(directory.path().join("tls")).unwrap();
    for (file, content) in [("tls/a.crt", "c"), ("tls/a.key", "k"), ("secret", "hunter2\r\n")] {
        fs::write(directory.path().join(file), content).unwrap();
    }
    let loaded = config::load(&path, &environment).unwrap();
    let credentials = password(remote(&loaded.config, "a"));
    assert_eq!(credentials.password.reveal(), "hunter2");
    assert_eq!(loaded.config.storage.path, directory.path().join("data"));
    let files = ["tls/a.crt", "tls/a.key", "secret"].map(|file| directory.path().join(file));
    assert_eq!(loaded.files, files);

    let long = vec![b'x'; 100_000];
    for content in [&b""[..], b"\n", b"two\0parts\n", b"\xff\xfe", &long] {
        fs::write(directory.path().join("secret"), content).unwrap();
        assert_eq!(config::load(&path, &environment).expect_err("no password").len(), 1);
    }
}

#[test]
fn a_file_that_cannot_be_read_is_one_clear_problem() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str, content: &[u8]| {
        let path = directory.path().join(name);
        fs::write(&path, content).unwrap();
        path
    };
    let paths = [
        directory.path().join("missing.yml"),
        directory.path().to_owned(),
        at("latin1.yml", b"a: b\nc: caf\xe9\n"),
        at("long.yml", &vec![b'#'; (1 << 20) + 1]),
        at("zeros.yml", &[0; 100]),
        at("utf16.yml", b"a\0:\0 \0b\0"),
    ];
    let reports = paths.map(|path| {
        let problems = config::load(&path, &Environment::default()).expect_err("it cannot be read");
        assert_eq!(problems.len(), 1);
        problems[0]
            .line()
            .replace(&directory.path().display().to_string(), "DIR")
    });
    insta::assert_snapshot!(reports.join("\n"), @r#"
DIR/missing.yml: cannot read it: no such file or directory
DIR: cannot read it: is a directory
DIR/latin1.yml:2:7: not UTF-8 text
DIR/long.yml: longer than 1 MiB: that is no configuration
DIR/zeros.yml:1:1: the control character U+0000 cannot stand in YAML
DIR/utf16.yml:1:2: the control character U+0000 cannot stand in YAML
"#);
}

#[test]
fn of_very_many_problems_some_are_told_and_all_are_counted() {
    let repositories: Vec<_> = (0..500)
        .map(|number| format!("  r{number}: {{ type: virtual, members: [x{number}], y: z }}"))
        .collect();
    let text = format!("repositories:\n{}\n", repositories.join("\n"));
    let problems = problems_with(&text, &[]);
    assert_eq!(problems.len(), 51);
    assert_eq!(problems[50].line(), "repositories.yml: and 950 more");
    assert!(matches!(problems[0].place, Place::Line { line: 2, .. }));
}

#[test]
fn a_very_long_chain_of_virtuals_is_followed() {
    let mut text = "repositories:\n  r0: { type: local }\n".to_owned();
    text.extend((1..10_000).map(|number| format!("  r{number}: {{type: virtual, members: [r{}]}}\n", number - 1)));
    assert_eq!(loaded(&text).config.repositories.len(), 10_000);
    text = text.replace("r0: { type: local }", "r0: { type: virtual, members: [r9999] }");
    assert_eq!(problems_with(&text, &[]).len(), 1);
}

/// A text that was changed here and there, as an editor would, or a vandal.
fn damaged(text: &'static str) -> impl Strategy<Value = String> {
    let pieces = prop_oneof![
        Just(String::new()),
        Just("\n".to_owned()),
        Just("\t".to_owned()),
        Just("${A}".to_owned()),
        Just("*a &a !a ".to_owned()),
        "[\\[\\]{}:,#\"'|>-]{1,4}",
        "\\PC{0,6}",
        any::<char>().prop_map(|c| c.to_string()),
    ];
    let change = (any::<prop::sample::Index>(), 0..12_usize, pieces);
    prop::collection::vec(change, 1..6).prop_map(move |changes| {
        let mut characters: Vec<char> = text.chars().collect();
        for (index, length, piece) in changes {
            let start = index.index(characters.len() + 1);
            let end = (start + length).min(characters.len());
            characters.splice(start..end, piece.chars());
        }
        characters.into_iter().collect()
    })
}

fn is_answered(text: &str, variables: &[(String, String)]) {
    let environment: Environment = variables.iter().cloned().collect();
    match config::load_text("r.yml", text, Path::new("nowhere"), &environment) {
        Ok(loaded) => loaded
            .warnings
            .iter()
            .for_each(|warning| assert!(!warning.to_string().is_empty())),
        Err(problems) => {
            assert!(!problems.is_empty(), "refused without a reason");
            for problem in problems {
                let report = problem.to_string();
                assert!(report.starts_with(&problem.line()));
                if let Place::Line { line, column, .. } = problem.place {
                    assert!(line > 0 && column > 0);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn no_text_is_too_much(text in "\\PC*", raw in prop::collection::vec(any::<char>(), 0..60)) {
        is_answered(&text, &[]);
        is_answered(&raw.into_iter().collect::<String>(), &[]);
    }

    #[test]
    fn no_damage_is_too_much(example in damaged(EXAMPLE), everything in damaged(EVERYTHING)) {
        is_answered(&example, &[]);
        is_answered(&everything, &[]);
    }

    #[test]
    fn no_environment_is_too_much(
        path in "(_|__|SERVER|REPOSITORIES|LISTEN|DOCKER_LOCAL|TYPE|X|é){0,6}",
        value in "\\PC{0,12}",
        a in "\\PC{0,6}",
    ) {
        let variables = [(format!("ENTREPOT__{path}"), value), ("VENDOR_USER".to_owned(), a)];
        is_answered(EXAMPLE, &variables);
    }
}
