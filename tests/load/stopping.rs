//! A5: a stop in the middle of transfers.

use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use reqwest::Body;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::binary::{Registry, sha256, temporary, until};
use crate::support::upstream::noise;

const TRANSFERS: usize = 50;
const ROUNDS: usize = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a05_a_stop_breaks_no_transfer() {
    let directory = temporary();
    let configuration = "server: { listen: '127.0.0.1:0', drain: 20s }\nstorage: { path: data }\n\
                         repositories: { docker: { type: local } }";
    let content = noise(1 << 20, 5);
    for round in 0..ROUNDS {
        let mut registry = Registry::start_in(&directory, configuration);
        let digest = registry.push_blob("/v2/docker/a", &content).await;
        let path = format!("/v2/docker/a/blobs/{digest}");
        // Half of every transfer, then the signal, then the rest.
        let (go, gone) = watch::channel(false);
        let begun = watch::Sender::new(0);
        let pull = async || {
            let response = registry.get(&path).send().await.expect("an answer");
            let mut pieces = response.bytes_stream();
            let mut bytes = pieces.next().await.expect("a piece").expect("begins").to_vec();
            begun.send_modify(|begun| *begun += 1);
            let _ = gone.clone().wait_for(|gone| *gone).await;
            while let Some(piece) = pieces.next().await {
                bytes.extend(piece.expect("goes on"));
            }
            assert_eq!(sha256(&bytes), digest);
        };
        let push = async |number: usize| {
            let bytes = noise(100_000, (1000 * round + number) as u64);
            let digest = sha256(&bytes);
            let (first, rest) = (bytes.slice(..50_000), bytes.slice(50_000..));
            let gone = gone.clone();
            let halves = futures_util::stream::once(async move { Ok::<_, std::io::Error>(first) }).chain(
                futures_util::stream::once(async move {
                    let _ = gone.clone().wait_for(|gone| *gone).await;
                    Ok(rest)
                }),
            );
            begun.send_modify(|begun| *begun += 1);
            let request = registry.post(&format!("/v2/docker/a/blobs/uploads/?digest={digest}"));
            let response = request.body(Body::wrap_stream(halves)).send().await.expect("an answer");
            assert_eq!(response.status(), 201);
        };
        let transfers = async {
            tokio::join!(
                join_all((0..TRANSFERS).map(|_| pull())),
                join_all((0..TRANSFERS).map(push))
            );
        };
        let stop = async {
            let _ = begun.subscribe().wait_for(|begun| *begun == 2 * TRANSFERS).await;
            let uploads = format!("\nentrepot_uploads {TRANSFERS}\n");
            until("the uploads have begun", async || {
                registry.metrics().await.contains(&uploads)
            })
            .await;
            registry.signal("-TERM");
            let signalled = Instant::now();
            // Nothing new is taken: a probe on a connection of its own is refused.
            until("it is not ready", async || {
                std::net::TcpStream::connect(registry.address()).is_err()
            })
            .await;
            let red = signalled.elapsed();
            go.send_replace(true);
            red
        };
        let ((), red) = tokio::join!(transfers, stop);
        // A tenth of a second, and what a busy machine takes to get round to it.
        assert!(red < Duration::from_secs(2), "{red:?}");
        let status = registry.wait();
        assert_eq!(status.code(), Some(0), "round {round}: {}", registry.log());
    }
}
