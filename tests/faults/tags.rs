//! Tags that move upstream: who is told, for how long they are held back, and how they are nailed down.

use std::time::{Duration, SystemTime};

use entrepot::cache::{Cached, Outcome};
use entrepot::config::RemoteConfig;
use entrepot::oci::{Digest, Manifest, Reference, Tag};
use entrepot::store::Move;
use entrepot::store::history::{PIN, ROLLBACK};

use crate::support::remote::{Remote, again, image, key, pulling, reference};
use crate::support::upstream::{Act, Server, digest, noise, remote};

const HOUR: Duration = Duration::from_secs(3600);

fn asking(server: &Server) -> RemoteConfig {
    RemoteConfig {
        tag_ttl: Duration::ZERO,
        ..remote(server)
    }
}

async fn pull(remote: &Remote, tag: &str) -> Cached<Manifest> {
    remote.tag("a", tag).await.unwrap().expect("the tag")
}

fn v1() -> Tag {
    "v1".parse().unwrap()
}

#[tokio::test]
async fn a_tag_that_moved_is_counted_and_its_history_says_who_moved_it() {
    let server = Server::start().await;
    let remote = pulling(&asking(&server)).await;
    let moved = |kind: &str| {
        remote.counted(&format!(
            "entrepot_tags_moved_total{{kind=\"{kind}\",repository=\"remote\"}}"
        ))
    };
    let mut expected = Vec::new();
    for n in 0..3 {
        for tag in ["1.2.3", "latest"] {
            let put = server.put_image("a", tag, &[noise(10, n)]);
            for _ in 0..2 {
                assert_eq!(pull(&remote, tag).await.value.digest, put.digest);
            }
            if tag == "latest" {
                expected.insert(0, put.digest);
            }
        }
        assert_eq!((moved("version"), moved("other")), (n, n));
    }
    let known = remote
        .cache
        .known(&image("a"), &"latest".parse().unwrap())
        .await
        .unwrap()
        .expect("the tag");
    let digests: Vec<Digest> = known.meanings.iter().map(|meaning| meaning.digest.clone()).collect();
    assert_eq!(digests, expected);
    assert!(
        known
            .meanings
            .iter()
            .all(|meaning| meaning.origin == server.host() && meaning.verified.is_some())
    );
    // Where a HEAD tells nothing, a GET does.
    server.on("HEAD /", usize::MAX, [Act::Status(405)]);
    let put = server.put_image("a", "latest", &[noise(10, 9)]);
    assert_eq!(pull(&remote, "latest").await.value.digest, put.digest);
    assert_eq!(pull(&remote, "latest").await.outcome, Outcome::Revalidated);
    assert_eq!(moved("other"), 3);
}

/// As if a move had been seen that long ago.
async fn long_ago(remote: &Remote, to: &Digest, ago: Duration) {
    let here = remote.store.image(&key(), &image("a"));
    let seen = SystemTime::now() - ago;
    here.note_moves(&v1(), &[Move { to: to.clone(), seen }]).await.unwrap();
}

#[tokio::test]
async fn a_tag_that_is_held_stays_where_it_was_and_follows_when_its_time_has_come() {
    let server = Server::start().await;
    let config = RemoteConfig {
        hold: HOUR,
        ..asking(&server)
    };
    let remote = pulling(&config).await;
    let old = server.put_image("a", "v1", &[noise(10, 1)]);
    assert_eq!(pull(&remote, "v1").await.warning, None);
    let new = server.put_image("a", "v1", &[noise(10, 2)]);
    for _ in 0..3 {
        let given = pull(&remote, "v1").await;
        assert_eq!(
            (given.value.digest, given.outcome),
            (old.digest.clone(), Outcome::Revalidated)
        );
        let warning = given.warning.expect("it says so");
        assert!(
            warning.contains(new.digest.as_str()) && warning.contains("until"),
            "{warning}"
        );
    }
    // Within its time to live it is a hit, and says the same; so it does after a restart.
    let fresh = RemoteConfig {
        tag_ttl: HOUR,
        ..config.clone()
    };
    let cache = again(&fresh, &remote.store, &remote.metrics);
    let given = cache
        .manifest(&image("a"), &reference("v1"))
        .await
        .unwrap()
        .expect("the tag");
    assert_eq!((given.value.digest, given.outcome), (old.digest.clone(), Outcome::Hit));
    assert!(given.warning.expect("it says so").contains(new.digest.as_str()));
    // Both come by digest.
    let by_digest = remote
        .tag("a", new.digest.as_str())
        .await
        .unwrap()
        .expect("the new one");
    assert_eq!((by_digest.outcome, by_digest.warning), (Outcome::Hit, None));
    for layer in [&old.layers[0], &new.layers[0]] {
        assert_eq!(remote.whole("a", layer).await.unwrap().1.len(), 10);
    }
    assert_eq!(
        remote.counted("entrepot_tags_moved_total{kind=\"other\",repository=\"remote\"}"),
        1
    );

    // An upstream that is gone does not let it follow, nor an old time to live keep it.
    long_ago(&remote, &new.digest, HOUR * 2).await;
    server.stop().await;
    let given = cache
        .manifest(&image("a"), &reference("v1"))
        .await
        .unwrap()
        .expect("the tag");
    assert_eq!(
        (given.value.digest, given.outcome),
        (old.digest.clone(), Outcome::Stale)
    );
    server.resume().await;
    let gets = server.asked("GET /manifests/");
    let given = pull(&remote, "v1").await;
    assert_eq!((given.value.digest, given.warning), (new.digest.clone(), None));
    assert_eq!(
        server.asked("GET /manifests/"),
        gets,
        "it has been here since the move was seen"
    );
    assert_eq!(pull(&remote, "v1").await.warning, None);
}

#[tokio::test]
async fn a_held_tag_that_comes_back_has_not_moved_and_one_that_moves_on_is_followed_in_turn() {
    let server = Server::start().await;
    let config = RemoteConfig {
        hold: HOUR,
        ..asking(&server)
    };
    let remote = pulling(&config).await;
    let first = server.put_image("a", "v1", &[noise(10, 1)]);
    pull(&remote, "v1").await;
    let second = server.put_image("a", "v1", &[noise(10, 2)]);
    assert!(pull(&remote, "v1").await.warning.is_some());
    server.put_image("a", "v1", &[noise(10, 1)]);
    assert_eq!(pull(&remote, "v1").await.warning, None);
    server.put_image("a", "v1", &[noise(10, 2)]);
    pull(&remote, "v1").await;
    long_ago(&remote, &second.digest, HOUR * 2).await;
    let third = server.put_image("a", "v1", &[noise(10, 3)]);
    // The second is gone upstream, but is here; the third has its own time.
    server.remove_manifest("a", second.digest.as_str());
    let given = pull(&remote, "v1").await;
    assert_eq!(given.value.digest, second.digest);
    let given = pull(&remote, "v1").await;
    assert_eq!(given.value.digest, second.digest);
    assert!(given.warning.expect("held").contains(third.digest.as_str()));
    // What is gone everywhere before it could be followed leaves the tag where it is.
    let fourth = digest(b"never seen");
    long_ago(&remote, &fourth, HOUR * 2).await;
    let given = pull(&remote, "v1").await;
    assert_eq!(given.value.digest, second.digest);
    // Without a hold it is followed at once.
    let cache = again(&asking(&server), &remote.store, &remote.metrics);
    let given = cache
        .manifest(&image("a"), &reference("v1"))
        .await
        .unwrap()
        .expect("the tag");
    assert_eq!(given.value.digest, third.digest);
    assert_ne!(first.digest, third.digest);
}

#[tokio::test]
async fn a_pinned_tag_is_not_asked_for_and_means_what_it_means() {
    let server = Server::start().await;
    let remote = pulling(&asking(&server)).await;
    let name = image("a");
    let old = server.put_image("a", "v1", &[noise(10, 1)]);
    assert_eq!(
        remote
            .cache
            .pin(&name, &"v9".parse().unwrap(), None, PIN)
            .await
            .unwrap(),
        None
    );
    // What is not here yet is what it means upstream.
    let pinned = remote.cache.pin(&name, &v1(), None, PIN).await.unwrap();
    assert_eq!(pinned.as_ref(), Some(&old.digest));
    let new = server.put_image("a", "v1", &[noise(10, 2)]);
    let asked = server.seen().len();
    for cache in [&remote.cache, &again(&asking(&server), &remote.store, &remote.metrics)] {
        let given = cache.manifest(&name, &reference("v1")).await.unwrap().expect("the tag");
        assert_eq!((given.value.digest, given.outcome), (old.digest.clone(), Outcome::Hit));
        let given = cache
            .cached_manifest(&name, &reference("v1"))
            .await
            .unwrap()
            .expect("the tag");
        assert_eq!(given.outcome, Outcome::Hit);
    }
    assert_eq!(server.seen().len(), asked);
    // To something that has to be fetched first; and to something that is nowhere.
    let pinned = remote.cache.pin(&name, &v1(), Some(&new.digest), PIN).await.unwrap();
    assert_eq!(pinned.as_ref(), Some(&new.digest));
    assert_eq!(
        remote
            .cache
            .pin(&name, &v1(), Some(&digest(b"nowhere")), PIN)
            .await
            .unwrap(),
        None
    );
    assert_eq!(pull(&remote, "v1").await.value.digest, new.digest);
    // Put back, and the upstream's word does not change it.
    let back = remote
        .cache
        .pin(&name, &v1(), Some(&old.digest), ROLLBACK)
        .await
        .unwrap();
    assert_eq!(back.as_ref(), Some(&old.digest));
    assert_eq!(pull(&remote, "v1").await.value.digest, old.digest);
    let known = remote.cache.known(&name, &v1()).await.unwrap().expect("the tag");
    let origins: Vec<&str> = known.meanings.iter().map(|meaning| &*meaning.origin).collect();
    assert_eq!(origins, ["rollback", "pin", &server.host()]);
    assert!(known.record.pinned);
    // A copy that is lost is fetched by its digest.
    let path = remote.directory.path().join("docker/registry/v2/blobs/sha256");
    let hex = old.digest.hex();
    std::fs::remove_file(path.join(&hex[..2]).join(hex).join("data")).unwrap();
    let cold = pulling_again(remote, &server).await;
    assert_eq!(pull(&cold, "v1").await.value.digest, old.digest);
    // Unpinned, upstream is asked at once.
    let patient = RemoteConfig {
        tag_ttl: HOUR,
        ..asking(&server)
    };
    let cache = again(&patient, &cold.store, &cold.metrics);
    assert!(cache.unpin(&name, &v1()).await.unwrap());
    assert!(!cache.unpin(&name, &v1()).await.unwrap());
    let given = cache
        .manifest(&name, &Reference::Tag(v1()))
        .await
        .unwrap()
        .expect("the tag");
    assert_eq!(given.value.digest, new.digest);
}

/// The same store opened again, without what memory knows.
async fn pulling_again(remote: Remote, server: &Server) -> Remote {
    let Remote {
        cache,
        store,
        metrics,
        directory,
    } = remote;
    drop(cache);
    store.close().await;
    drop(store);
    let options = entrepot::store::Options {
        path: directory.path().to_owned(),
        uploads: 1,
        upload_idle: HOUR,
        upload_limit: 1 << 30,
        min_free: entrepot::config::Share::Percent(0),
    };
    let begin = std::time::Instant::now();
    let store = loop {
        match entrepot::store::Store::open(options.clone(), std::sync::Arc::clone(&metrics)).await {
            Err(error) if begin.elapsed() < Duration::from_secs(10) => drop(error),
            opened => break opened.unwrap(),
        }
    };
    Remote {
        cache: again(&asking(server), &store, &metrics),
        store,
        metrics,
        directory,
    }
}
