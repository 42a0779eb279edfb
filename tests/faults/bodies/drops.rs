//! F3: an upstream that drops every connection after a while.

use std::time::{Duration, Instant};

use entrepot::config::RemoteConfig;
use entrepot::oci::{Algorithm, Digest};

use crate::support::remote::{MIB, Remote, pulling};
use crate::support::upstream::{ALWAYS, Act, Server, remote};

/// Reads a whole blob without keeping it.
async fn read(remote: &Remote, digest: &Digest) -> (u64, Digest) {
    let mut follower = remote.arriving("a", digest).await;
    let (mut length, mut hasher) = (0, Algorithm::Sha256.hasher());
    while let Some(chunk) = follower.next_chunk().await.expect("nobody notices") {
        length += chunk.len() as u64;
        hasher.update(&chunk);
    }
    (length, hasher.finish())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f03_drops_every_8_mib_of_a_gib_go_unnoticed() {
    const SIZE: u64 = 1 << 30;
    let server = Server::start().await;
    let digest = server.put_pattern("a", SIZE);
    server.on("GET /blobs/", ALWAYS, [Act::CutAfter(8 * MIB)]);
    for parts in [1, 4] {
        let config = RemoteConfig {
            fetch_parts: parts,
            idle_timeout: Duration::from_secs(10),
            ..remote(&server)
        };
        let remote = pulling(&config).await;
        let begin = Instant::now();
        let (length, actual) = read(&remote, &digest).await;
        assert_eq!((length, &actual), (SIZE, &digest), "{parts} parts");
        let fetched = remote.counted("entrepot_upstream_bytes_total{repository=\"remote\"}");
        assert!(
            fetched >= SIZE && fetched * 100 <= SIZE * 105,
            "{fetched} in {parts} parts"
        );
        assert!(begin.elapsed() < Duration::from_secs(300));
    }
}
