//! S2: what somebody may not see and what is not there look the same, and take the same time.

use std::time::{Duration, Instant};

use reqwest::header::HeaderMap;

use crate::house::{House, Nobody, User, Who, manifest_of};
use crate::support::sha256;

const SECRET: &[u8] = b"a layer of another tenant";

fn tenants() -> House {
    House::new(
        &["ada", "bob"],
        "",
        r#"
auth:
  anonymous: pull
  htpasswd: ./htpasswd
  policies:
    - { who: ["*"], may: [pull], on: "all/open/**" }
    - { who: [ada], may: [pull, push, delete], on: "mine/ada/**" }
    - { who: [bob], may: [pull, push, delete], on: "mine/bob/**" }
    - { who: [bob], may: [pull], on: "other/**" }
repositories:
  mine: { type: local }
  other: { type: local }
  all: { type: virtual, members: [mine, other], push_to: mine }
default: all
"#,
    )
}

/// What a client sees of an answer; what is different in every answer is put out of it.
async fn seen(house: &House, who: Who, method: &str, path: &str, name: &str) -> (u16, HeaderMap, String) {
    let response = house.send(who, method, path).await;
    let status = response.status().as_u16();
    // Messages name the image too, without what stands before it.
    let image = name
        .strip_prefix("mine/")
        .or_else(|| name.strip_prefix("all/"))
        .unwrap_or(name);
    let anonymous = |text: &str| text.replace(name, "NAME").replace(image, "NAME");
    let mut headers = response.headers().clone();
    let id = headers.remove("x-request-id").expect("an id");
    headers.remove("date");
    for value in headers.values_mut() {
        *value = anonymous(value.to_str().expect("text")).parse().expect("a value");
    }
    if let Some(location) = headers.get_mut("location") {
        let (base, _) = location.to_str().expect("text").rsplit_once('/').expect("a path");
        *location = base.parse().expect("a value");
        headers.remove("docker-upload-uuid");
    }
    let text = response.text().await.expect("text");
    (
        status,
        headers,
        anonymous(&text.replace(id.to_str().expect("text"), "ID")),
    )
}

#[tokio::test]
async fn s02_private_and_absent_look_the_same() {
    let house = tenants();
    house.push(User("ada"), "/v2/mine/ada/app", "v1", SECRET).await;
    house.push(User("bob"), "/v2/mine/bob/app", "v1", b"bob's own").await;
    let layer = sha256(SECRET);
    let manifest = manifest_of(SECRET);
    let mut pairs = 0;
    for who in [Nobody, User("bob")] {
        // The same length, so that nothing but their being there is different.
        for (base, private, absent) in [
            ("/v2/", "mine/ada/app", "mine/ada/apq"),
            ("/mine/v2/", "ada/app", "ada/apq"),
            ("/v2/", "ada/app", "ada/apq"),
            ("/v2/", "all/ada/app", "all/ada/apq"),
        ] {
            for (method, line) in [
                ("GET", "manifests/v1".to_owned()),
                ("HEAD", "manifests/v1".to_owned()),
                ("GET", format!("manifests/{manifest}")),
                ("PUT", "manifests/v1".to_owned()),
                ("DELETE", "manifests/v1".to_owned()),
                ("DELETE", format!("manifests/{manifest}")),
                ("GET", format!("blobs/{layer}")),
                ("HEAD", format!("blobs/{layer}")),
                ("DELETE", format!("blobs/{layer}")),
                ("POST", "blobs/uploads/".to_owned()),
                ("GET", "tags/list".to_owned()),
                ("GET", format!("referrers/{manifest}")),
            ] {
                let of = |name: &str| (format!("{base}{name}/{line}"), name.to_owned());
                let ((private, first), (absent, second)) = (of(private), of(absent));
                let private_answer = seen(&house, who, method, &private, &first).await;
                let absent_answer = seen(&house, who, method, &absent, &second).await;
                assert_eq!(private_answer, absent_answer, "{who:?} {method} {private}");
                assert!(
                    matches!(private_answer.0, 200 | 401 | 403 | 404),
                    "{private}: {}",
                    private_answer.0
                );
                assert!(private_answer.0 != 200 || line.starts_with("referrers"), "{private}");
                pairs += 1;
            }
        }
    }
    assert!(pairs >= 90, "{pairs}");
    // A blob that is here, but in nothing that bob may read; and one that is nowhere.
    let nowhere = sha256(b"a layer of nobody at all.");
    for source in [
        "",
        "&from=mine/ada/app",
        "&from=all/ada/app",
        "&from=mine/bob/app",
        "&from=nosuch/app",
    ] {
        let path = |digest: &str| format!("/v2/mine/bob/app/blobs/uploads/?mount={digest}{source}");
        let there = seen(&house, User("bob"), "POST", &path(layer.as_str()), layer.as_str()).await;
        let absent = seen(&house, User("bob"), "POST", &path(nowhere.as_str()), nowhere.as_str()).await;
        assert_eq!(there, absent, "{source}");
        assert_eq!(there.0, 202, "{source}");
    }
    for method in ["GET", "HEAD", "DELETE"] {
        let path = |digest: &str| format!("/v2/mine/bob/app/blobs/{digest}");
        let there = seen(&house, User("bob"), method, &path(layer.as_str()), layer.as_str()).await;
        let absent = seen(&house, User("bob"), method, &path(nowhere.as_str()), nowhere.as_str()).await;
        assert_eq!(there, absent, "{method}");
        assert_eq!(there.0, 404);
    }
    // A manifest that refers to it is refused just as well.
    for digest in [&layer, &nowhere] {
        let config = sha256(b"{}");
        let text = crate::support::image_manifest((&config, 2), &[(digest, SECRET.len())], "");
        let request = house.ask(User("bob"), "PUT", "/v2/all/bob/app/manifests/stolen").await;
        let request = request.header("content-type", crate::support::OCI_MANIFEST).body(text);
        assert_eq!(request.send().await.expect("an answer").status().as_u16(), 400);
    }
}

#[tokio::test]
async fn a_mount_takes_what_the_caller_may_read_and_nothing_else() {
    let house = tenants();
    house.push(User("ada"), "/v2/mine/ada/app", "v1", SECRET).await;
    house.push(User("bob"), "/v2/mine/bob/app", "v1", b"bob's own").await;
    let own = sha256(b"bob's own");
    let path = |digest: &str, from: &str| format!("/v2/mine/bob/new/blobs/uploads/?mount={digest}&from={from}");
    for from in ["mine/bob/app", "bob/app", "all/bob/app"] {
        let (status, text) = house.answer(User("bob"), "POST", &path(own.as_str(), from)).await;
        assert_eq!(status, 201, "{from}: {text}");
    }
    let secret = sha256(SECRET);
    for from in ["mine/ada/app", "ada/app", "all/ada/app", "mine/bob/app", "mine/bob/new"] {
        let (status, text) = house.answer(User("bob"), "POST", &path(secret.as_str(), from)).await;
        assert_eq!(status, 202, "{from}: {text}");
    }
    let (status, _) = house
        .answer(User("bob"), "GET", &format!("/v2/mine/bob/new/blobs/{secret}"))
        .await;
    assert_eq!(status, 404);
}

/// Welch's t of two samples, of each the fastest nine tenths: what a busy machine adds to some is noise of its own.
fn t(first: &mut [f64], second: &mut [f64]) -> f64 {
    let moments = |sample: &mut [f64]| {
        sample.sort_by(f64::total_cmp);
        let kept = &sample[..sample.len() / 10 * 9];
        #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
        let n = kept.len() as f64;
        let mean = kept.iter().sum::<f64>() / n;
        let variance = kept.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1.0);
        (mean, variance / n)
    };
    let ((a, in_a), (b, in_b)) = (moments(first), moments(second));
    (a - b) / (in_a + in_b).sqrt()
}

#[tokio::test]
async fn s02_private_and_absent_take_the_same_time() {
    let house = tenants();
    house.push(User("ada"), "/v2/mine/ada/app", "v1", SECRET).await;
    house.push(User("bob"), "/v2/mine/bob/app", "v1", b"bob's own").await;
    let (layer, nowhere) = (sha256(SECRET), sha256(b"a layer of nobody at all."));
    let token = house.token(User("bob")).await;
    let blob = |digest| format!("/v2/mine/ada/app/blobs/{digest}");
    let mount = |digest| format!("/v2/mine/bob/app/blobs/uploads/?mount={digest}&from=mine/ada/app");
    let own = |digest| format!("/v2/mine/bob/app/blobs/{digest}");
    for (method, private, absent) in [
        (
            "GET",
            "/v2/mine/ada/app/manifests/v1".to_owned(),
            "/v2/mine/ada/apq/manifests/v1".to_owned(),
        ),
        ("GET", blob(&layer), blob(&nowhere)),
        ("HEAD", own(&layer), own(&nowhere)),
        ("POST", mount(&layer), mount(&nowhere)),
    ] {
        // Of each; a mount opens an upload each time, and those are limited in number.
        let rounds: u32 = if method == "POST" { 400 } else { 5_000 };
        let (mut first, mut second) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            // Which comes first changes, so that neither gains by it.
            let order: [(&str, bool); 2] = if round % 2 == 0 {
                [(&private, true), (&absent, false)]
            } else {
                [(&absent, false), (&private, true)]
            };
            for (path, is_private) in order {
                let request = house
                    .ask(Nobody, method, path)
                    .await
                    .bearer_auth(&token)
                    .build()
                    .expect("a request");
                let began = Instant::now();
                let response = house.registry.client.execute(request).await.expect("an answer");
                let took: Duration = began.elapsed();
                assert!(
                    matches!(response.status().as_u16(), 202 | 403 | 404),
                    "{}",
                    response.status()
                );
                let _ = response.bytes().await;
                if is_private { &mut first } else { &mut second }.push(took.as_secs_f64());
            }
        }
        let t = t(&mut first, &mut second);
        assert!(t.abs() < 4.5, "{method} {private}: t = {t}");
        eprintln!("{method} {private}: t = {t:.2}");
    }
}
