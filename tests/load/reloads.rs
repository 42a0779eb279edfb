//! A6: reloads under load, good ones and bad ones.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::join_all;

use crate::binary::{Registry, temporary, until};
use crate::raw::metric;

const EACH: usize = 100;
const BAD: [&str; 4] = [
    "server: { listen: '127.0.0.1:0' }\nstorage: { path: data }\nrepositories: { docker: { type: loc",
    "repositories: { docker: { type: lokal } }\n",
    "",
    "server: { listen: 'nowhere' }\nrepositories: { docker: { type: local } }\n",
];

fn good(number: usize) -> String {
    format!(
        "server: {{ listen: '127.0.0.1:0', drain: {}s }}\nstorage: {{ path: data }}\n\
         repositories: {{ docker: {{ type: local }}, extra{number}: {{ type: local }} }}\n",
        5 + number % 5
    )
}

/// Puts a new configuration in place in one of the ways that people and orchestrators do it.
fn put(file: &Path, text: &str, number: usize) {
    match number % 3 {
        0 => std::fs::write(file, text).expect("written"),
        1 => {
            let beside = file.with_extension("new");
            std::fs::write(&beside, text).expect("written");
            std::fs::rename(&beside, file).expect("renamed");
        }
        _ => {
            let target = file.with_file_name(format!("version{number}.yml"));
            std::fs::write(&target, text).expect("written");
            let link = file.with_extension("link");
            let _ = std::fs::remove_file(&link);
            std::os::unix::fs::symlink(&target, &link).expect("linked");
            std::fs::rename(&link, file).expect("renamed");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a06_reloads_under_load_fail_no_request() {
    let directory = temporary();
    let registry = Registry::start_in(&directory, &good(0));
    registry.push_image("/v2/docker/a", "hit", b"layer").await;
    let file = directory.path().join("repositories.yml");
    let done = AtomicBool::new(false);
    let client = async || {
        let mut count = 0;
        while !done.load(Ordering::Relaxed) {
            let response = registry
                .get("/v2/docker/a/manifests/hit")
                .send()
                .await
                .expect("an answer");
            assert_eq!(response.status(), 200);
            response.bytes().await.expect("whole");
            count += 1;
        }
        count
    };
    let reload = async {
        for number in 1..=EACH {
            for (is_good, text) in [(true, good(number)), (false, BAD[number % BAD.len()].to_owned())] {
                let reloads = || async {
                    let succeeded = metric(&registry, "entrepot_config_reloads_total{result=\"accepted\"}").await;
                    let failed = metric(&registry, "entrepot_config_reloads_total{result=\"refused\"}").await;
                    (succeeded, failed)
                };
                let before = reloads().await;
                put(&file, &text, 2 * number + usize::from(is_good));
                registry.signal("-HUP");
                until("it has reloaded", async || {
                    let now = reloads().await;
                    if is_good { now.0 > before.0 } else { now.1 > before.1 }
                })
                .await;
                let runs = metric(&registry, "entrepot_config_last_reload_successful").await > 0.5;
                assert_eq!(runs, is_good, "{text}");
                // The old one goes on where the new one is none.
                let path = format!("/v2/extra{number}/none/tags/list");
                let text = registry
                    .get(&path)
                    .send()
                    .await
                    .expect("an answer")
                    .text()
                    .await
                    .expect("text");
                assert!(text.contains(&format!("extra{number}")), "{text}");
            }
        }
        done.store(true, Ordering::Relaxed);
    };
    let (counts, ()) = tokio::join!(join_all((0..4).map(|_| client())), reload);
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
}
