//! S15: an upload is for whoever began it, of the image that it was begun for, and there are only so many.

use std::collections::BTreeSet;

use crate::house::{House, Nobody, User, UsersToken};
use crate::support::sha256;

const WALLS: &str = r#"
auth:
  htpasswd: ./htpasswd
  policies:
    - { who: [ada, eve], may: [pull, push, delete], on: "images/**" }
    - { who: [bob], may: [pull], on: "images/**" }
repositories:
  images: { type: local }
  others: { type: local }
  all: { type: virtual, members: [images, others], push_to: images }
"#;

fn house(uploads: usize) -> House {
    House::new(
        &["ada", "eve", "bob"],
        &format!(", limits: {{ uploads: {uploads} }}"),
        WALLS,
    )
}

async fn begin(house: &House, base: &str) -> String {
    let response = house.send(User("ada"), "POST", &format!("{base}/blobs/uploads/")).await;
    assert_eq!(response.status().as_u16(), 202);
    let location = response.headers()["location"].to_str().expect("text").to_owned();
    location.rsplit_once('/').expect("a path").1.to_owned()
}

#[tokio::test]
async fn s15_an_upload_is_only_its_owners() {
    let house = house(1000);
    let id = begin(&house, "/v2/images/app").await;
    let digest = sha256(b"content");
    let lines = |base: &str, id: &str| {
        let path = format!("{base}/blobs/uploads/{id}");
        [
            ("GET", path.clone()),
            ("HEAD", path.clone()),
            ("PATCH", path.clone()),
            ("PUT", format!("{path}?digest={digest}")),
            ("DELETE", path),
        ]
    };
    // Another one who may push there; one who may not; nobody; the owner by another image's name.
    for (who, base, expected) in [
        (User("eve"), "/v2/images/app", 404),
        (UsersToken("eve"), "/v2/images/app", 404),
        (User("eve"), "/v2/all/app", 404),
        (User("bob"), "/v2/images/app", 403),
        (Nobody, "/v2/images/app", 401),
        (User("ada"), "/v2/images/other", 404),
        (User("ada"), "/v2/others/app", 403),
    ] {
        for (verb, path) in lines(base, &id) {
            let request = house.ask(who, verb, &path).await;
            let status = request
                .body("content")
                .send()
                .await
                .expect("an answer")
                .status()
                .as_u16();
            assert_eq!(status, expected, "{verb} {path} {who:?}");
        }
    }
    // What is not an id is none, whoever asks.
    for guess in [
        "0",
        &"0".repeat(32),
        &"f".repeat(32),
        &id.to_uppercase(),
        &id[..31],
        "..",
        "%2e%2e",
        "a b",
        "%00",
    ] {
        for (verb, path) in lines("/v2/images/app", guess) {
            let status = house.send(User("ada"), verb, &path).await.status().as_u16();
            assert!(matches!(status, 400 | 404 | 405), "{verb} {path}: {status}");
        }
    }
    // The owner goes on with it by any name and any proof, and after it is cancelled nobody does.
    let path = format!("/v2/all/app/blobs/uploads/{id}");
    let request = house.ask(UsersToken("ada"), "PATCH", &path).await;
    assert_eq!(
        request.body("con").send().await.expect("an answer").status().as_u16(),
        202
    );
    assert_eq!(house.send(User("ada"), "DELETE", &path).await.status().as_u16(), 204);
    for (verb, path) in lines("/v2/images/app", &id) {
        assert_eq!(
            house.send(User("ada"), verb, &path).await.status().as_u16(),
            404,
            "{verb} {path}"
        );
    }
    let (status, _) = house
        .answer(User("ada"), "GET", &format!("/v2/images/app/blobs/{digest}"))
        .await;
    assert_eq!(status, 404);
}

#[tokio::test]
async fn s15_after_a_restart_it_is_still_its_owners() {
    let mut house = house(1000);
    let id = begin(&house, "/v2/images/app").await;
    house = house.restart();
    let path = format!("/v2/images/app/blobs/uploads/{id}");
    assert_eq!(house.send(User("eve"), "GET", &path).await.status().as_u16(), 404);
    assert_eq!(house.send(User("ada"), "GET", &path).await.status().as_u16(), 204);
}

#[tokio::test]
async fn s15_ids_are_random_and_open_uploads_bounded() {
    let house = house(1000);
    let mut ids = BTreeSet::new();
    let mut ones = [0_u32; 128];
    for _ in 0..1000 {
        let id = begin(&house, "/v2/images/app").await;
        let number = u128::from_str_radix(&id, 16).expect("hexadecimal");
        for (bit, count) in ones.iter_mut().enumerate() {
            *count += u32::from(number >> bit & 1 == 1);
        }
        ids.insert(id);
    }
    assert_eq!(ids.len(), 1000);
    // Of 1,000 coins far from all fall alike: what never changes is not random. UUIDs have six such bits.
    let random = ones.iter().filter(|count| (300..700).contains(*count)).count();
    assert!(random >= 122, "{random} random bits");
    let response = house.send(User("eve"), "POST", "/v2/images/app/blobs/uploads/").await;
    assert_eq!(response.status().as_u16(), 429);
    assert!(response.headers().contains_key("retry-after"));
    // Ten thousand who ask for more change nothing.
    for _ in 0..100 {
        let asking = (0..100).map(|_| house.send(User("ada"), "POST", "/v2/images/app/blobs/uploads/"));
        for response in futures_util::future::join_all(asking).await {
            assert_eq!(response.status().as_u16(), 429);
        }
    }
    let kept = std::fs::read_dir(house.registry.data().join("uploads")).map_or(0, Iterator::count);
    assert!(kept <= 1000, "{kept}");
    // One that ends makes room for one.
    let path = format!("/v2/images/app/blobs/uploads/{}", ids.first().expect("an id"));
    assert_eq!(house.send(User("ada"), "DELETE", &path).await.status().as_u16(), 204);
    begin(&house, "/v2/images/app").await;
}
