//! F11: what an upstream says beside the bytes, and bytes that can be read in two ways.

use std::time::Duration;

use bytes::Bytes;
use entrepot::cache::{Cached, Error};
use entrepot::oci::media_type::{DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};
use entrepot::oci::{Algorithm, Digest, Manifest};

use crate::support::remote::{Remote, image, pulling, reference};
use crate::support::upstream::{ALWAYS, Act, Image, Server, digest, noise, remote};

type Answer = Result<Option<Cached<Manifest>>, Error>;

/// What is to become of a lie that is asked for by tag and by digest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    /// It is none: served and kept.
    Kept,
    /// The tag means something else now; what was asked for by digest is not that.
    Moved,
    /// Never served, never kept.
    Refused,
}

/// The bytes of what was answered, which are what they are called.
fn honest(case: &str, answer: &Answer) -> Option<Bytes> {
    match answer {
        Ok(Some(cached)) => {
            let manifest = &cached.value;
            let own = Digest::of(manifest.digest.algorithm(), &manifest.bytes);
            assert_eq!(manifest.digest, own, "{case}");
            Some(manifest.bytes.clone())
        }
        Ok(None) => panic!("{case}: a lie became an absence"),
        Err(_) => None,
    }
}

async fn stage() -> (Server, Image, Image) {
    let server = Server::start().await;
    let put = server.put_image("a", "v1", &[noise(100, 1)]);
    let other = server.put_image("b", "v1", &[noise(100, 2)]);
    (server, put, other)
}

async fn remote_of(server: &Server) -> Remote {
    let mut config = remote(server);
    config.tag_ttl = Duration::ZERO;
    pulling(&config).await
}

async fn assert_fate(server: &Server, put: &Image, case: &str, acts: Vec<Act>, fate: Fate) {
    let by_digest = put.digest.to_string();
    server.behave();
    server.on("GET /v2/a/manifests/", ALWAYS, acts.clone());
    // Asked twice: what was refused once is not served from somewhere the second time.
    let cold = remote_of(server).await;
    for what in ["v1", by_digest.as_str(), "v1", by_digest.as_str()] {
        let answered = honest(case, &cold.tag("a", what).await);
        match (fate, what) {
            (Fate::Kept, _) => assert_eq!(answered.as_ref(), Some(&put.manifest), "{case}: {what}"),
            (Fate::Moved, "v1") => assert_ne!(answered.expect(case), put.manifest, "{case}: {what}"),
            (Fate::Moved | Fate::Refused, _) => assert_eq!(answered, None, "{case}: {what}"),
        }
    }
    if fate == Fate::Refused {
        for what in ["v1", by_digest.as_str()] {
            let kept = cold.cache.cached_manifest(&image("a"), &reference(what)).await.unwrap();
            assert!(kept.is_none(), "{case}: {what} is kept");
        }
    }
    server.behave();
    let well = honest(case, &cold.tag("a", "v1").await);
    assert_eq!(well.as_ref(), Some(&put.manifest), "{case}: well again");

    // Who has a copy serves it rather than a lie.
    let warm = remote_of(server).await;
    honest(case, &warm.tag("a", "v1").await).unwrap();
    server.on("GET /v2/a/manifests/", ALWAYS, acts);
    server.on("HEAD /v2/a/manifests/", ALWAYS, [Act::Without("Docker-Content-Digest")]);
    let answered = honest(case, &warm.tag("a", "v1").await).expect(case);
    assert_eq!(answered == put.manifest, fate != Fate::Moved, "{case}");
    assert_eq!(
        honest(case, &warm.tag("a", &by_digest).await).expect(case),
        put.manifest
    );
}

#[tokio::test]
async fn f11_headers_that_lie_are_never_passed_on() {
    let (server, put, other) = stage().await;
    let header = |name, value: &str| Act::Header(name, value.to_owned());
    let says = |digest: &str| header("Docker-Content-Digest", digest);
    let silent = || Act::Without("Docker-Content-Digest");
    let long = |bytes: &Bytes| Digest::of(Algorithm::Sha512, bytes).to_string();
    let moved = || Act::Body(other.manifest.clone());
    for (case, acts, fate) in [
        ("another digest", vec![says(other.digest.as_str())], Fate::Refused),
        ("no digest", vec![silent()], Fate::Kept),
        ("a digest that is none", vec![says("sha256:zz")], Fate::Kept),
        ("an empty digest", vec![says("")], Fate::Kept),
        ("another sha512", vec![says(&long(&other.manifest))], Fate::Refused),
        ("its sha512", vec![says(&long(&put.manifest))], Fate::Kept),
        (
            "an ETag for a digest",
            vec![header("ETag", &format!("\"{}\"", other.digest)), silent()],
            Fate::Kept,
        ),
        (
            "other bytes, and their digest",
            vec![moved(), says(other.digest.as_str())],
            Fate::Moved,
        ),
        ("other bytes, and no digest", vec![moved(), silent()], Fate::Moved),
        (
            "other bytes, and the old digest",
            vec![moved(), says(put.digest.as_str())],
            Fate::Refused,
        ),
        (
            "other bytes, and the old ETag",
            vec![moved(), silent(), header("ETag", "\"same\"")],
            Fate::Moved,
        ),
        ("no type", vec![Act::Without("Content-Type")], Fate::Kept),
        (
            "any JSON",
            vec![header("Content-Type", "application/json; charset=utf-8")],
            Fate::Kept,
        ),
        (
            "another type",
            vec![header("Content-Type", DOCKER_MANIFEST)],
            Fate::Refused,
        ),
        (
            "a list's type",
            vec![header("Content-Type", DOCKER_LIST)],
            Fate::Refused,
        ),
        (
            "an index's type",
            vec![header("Content-Type", OCI_INDEX)],
            Fate::Refused,
        ),
        (
            "a page's type",
            vec![header("Content-Type", "text/html")],
            Fate::Refused,
        ),
        ("shorter than announced", vec![Act::CutAfter(20)], Fate::Refused),
    ] {
        assert_fate(&server, &put, case, acts, fate).await;
    }
}

#[tokio::test]
async fn f11_what_can_be_read_in_two_ways_is_never_kept() {
    let (server, put, other) = stage().await;
    let text = String::from_utf8(put.manifest.to_vec()).unwrap();
    let more = |field: &str| text.replacen('{', &format!("{{{field},"), 1);
    let layers = {
        let other = String::from_utf8(other.manifest.to_vec()).unwrap();
        let from = other.find("\"layers\":").unwrap();
        other[from + 9..other.len() - 1].to_owned()
    };
    let list = format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[]}}"#);
    for (case, body) in [
        ("layers and manifests", more(r#""manifests":[]"#).into_bytes()),
        ("layers twice", more(&format!("\"layers\":{layers}")).into_bytes()),
        ("config twice", more(r#""config":null"#).into_bytes()),
        (
            "its type twice",
            more(&format!(r#""mediaType":"{OCI_INDEX}""#)).into_bytes(),
        ),
        // Go reads names without regard to case, and the last one counts: clients would see other layers than we do.
        (
            "Layers beside layers",
            more(&format!("\"Layers\":{layers}")).into_bytes(),
        ),
        ("MANIFESTS beside layers", more(r#""MANIFESTS":[]"#).into_bytes()),
        (
            "layerſ beside layers",
            more(&format!("\"layer\u{17f}\":{layers}")).into_bytes(),
        ),
        (
            "escaped layers",
            more(&format!("\"\\u006cayers\":{layers}")).into_bytes(),
        ),
        (
            "escaped Layers",
            more(&format!("\"\\u004cayers\":{layers}")).into_bytes(),
        ),
        (
            "another type inside",
            text.replace(OCI_MANIFEST, DOCKER_MANIFEST).into_bytes(),
        ),
        ("an index inside", list.into_bytes()),
        ("more after the end", format!("{text}{text}").into_bytes()),
        ("a mark before the beginning", format!("\u{feff}{text}").into_bytes()),
        ("no UTF-8", [text.as_bytes(), b"\xff"].concat()),
        ("no object", b"[]".to_vec()),
        ("nothing", b"null".to_vec()),
        ("not even that", Vec::new()),
        ("no end", "[".repeat(30_000).into_bytes()),
        (
            "Docker's first format",
            br#"{"schemaVersion":1,"fsLayers":[],"history":[]}"#.to_vec(),
        ),
        (
            "a size that is none",
            text.replace("\"size\":100", "\"size\":-1").into_bytes(),
        ),
        (
            "a digest that is none",
            text.replace("sha256:", "sha256:../").into_bytes(),
        ),
    ] {
        // As a registry would that was taken over: the digest is right.
        let acts = vec![
            Act::Header("Docker-Content-Digest", digest(&body).to_string()),
            Act::Body(body.into()),
        ];
        assert_fate(&server, &put, case, acts, Fate::Refused).await;
    }
}

#[tokio::test]
async fn f11_a_head_that_says_something_else_than_a_get_changes_nothing() {
    let (server, put, other) = stage().await;
    let says = |digest: &Digest| Act::Header("Docker-Content-Digest", digest.to_string());
    let elsewhere = Act::Header("Content-Type", DOCKER_LIST.to_owned());
    for (case, acts) in [
        ("a digest of nothing", vec![says(&digest(b"nothing"))]),
        ("another image's digest", vec![says(&other.digest)]),
        ("no digest", vec![Act::Without("Docker-Content-Digest")]),
        ("another length", vec![Act::Header("Content-Length", "7".to_owned())]),
        ("another type", vec![elsewhere]),
        ("an absence", vec![Act::Status(404)]),
        ("not allowed", vec![Act::Status(405)]),
    ] {
        server.behave();
        let warm = remote_of(&server).await;
        honest(case, &warm.tag("a", "v1").await).unwrap();
        server.on("HEAD /v2/a/", ALWAYS, acts.clone());
        for _ in 0..2 {
            let answered = honest(case, &warm.tag("a", "v1").await);
            assert_eq!(answered.as_ref(), Some(&put.manifest), "{case}");
        }
        let lie = reference(other.digest.as_str());
        let kept = warm.cache.cached_manifest(&image("a"), &lie).await.unwrap();
        assert!(kept.is_none(), "{case}");
    }
    // A HEAD that hides that the tag has moved: the copy is served for what it is.
    server.behave();
    let warm = remote_of(&server).await;
    honest("moved", &warm.tag("a", "v1").await).unwrap();
    server.on("HEAD /v2/a/", ALWAYS, [says(&put.digest)]);
    server.put_manifest("a", Some("v1"), &other.manifest, OCI_MANIFEST);
    let answered = honest("moved", &warm.tag("a", "v1").await);
    assert_eq!(answered, Some(put.manifest));
}
