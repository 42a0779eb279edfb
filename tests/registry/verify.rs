//! `entrepot verify`, of a running server and of a stopped one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use reqwest::StatusCode;
use serde_json::Value;

use crate::support::{Registry, entrepot, expect, temporary, tree, until};

const CONFIGURATION: &str = "server: { listen: '127.0.0.1:0' }\nstorage: { path: data, gc: { every: forever } }\n\
                             repositories: { docker: { type: local } }\n";

fn done(output: &Output) -> (Option<i32>, Value) {
    let document = serde_json::from_slice(&output.stdout);
    (
        output.status.code(),
        document.unwrap_or_else(|error| panic!("{error}: {output:?}")),
    )
}

fn verify(arguments: &[&str]) -> (Option<i32>, Value) {
    let mut command = entrepot(&["verify", "--json"]);
    done(&command.args(arguments).output().expect("it runs"))
}

/// Some link of a layer.
fn a_layer_link(data: &Path) -> PathBuf {
    let names = tree(data);
    let link = names
        .iter()
        .find(|name| name.contains("/_layers/") && name.ends_with("/link"));
    data.join(link.expect("a link"))
}

#[tokio::test]
async fn a_running_server_finds_and_mends_what_is_damaged() {
    let registry = Registry::start_in(&temporary(), CONFIGURATION);
    registry.push_image("/v2/docker/app", "v1", b"a layer").await;
    let url = registry.url("");
    let (code, sound) = verify(&["--server", &url]);
    assert_eq!(
        (code, &sound["problems"], &sound["findings"]),
        (Some(0), &0.into(), &serde_json::json!([]))
    );
    let link = a_layer_link(&registry.data());
    let right = fs::read(&link).expect("a link");
    fs::write(&link, "").expect("it can be damaged");
    let (code, found) = verify(&["--server", &url]);
    assert_eq!((code, &found["problems"]), (Some(1), &1.into()), "{found}");
    assert_eq!(found["findings"][0]["defect"], "link-empty");
    assert_eq!(fs::read(&link).expect("a link"), b"");
    let (code, mended) = verify(&["--repair", "--server", &url]);
    assert_eq!((code, &mended["mended"]), (Some(0), &1.into()), "{mended}");
    assert_eq!(fs::read(&link).expect("a link"), right);
    let digest = String::from_utf8(right).expect("text");
    let path = format!("/v2/docker/app/blobs/{digest}");
    expect(registry.get(&path).send().await.expect("an answer"), StatusCode::OK).await;
}

#[tokio::test]
async fn of_a_stopped_store_it_tells_without_a_byte_changed_and_says_what_cannot_be_mended() {
    let registry = Registry::start_in(&temporary(), CONFIGURATION);
    let digest = registry.push_image("/v2/docker/app", "v1", b"a layer").await;
    let directory = std::sync::Arc::clone(&registry.directory);
    let file = directory.path().join("repositories.yml");
    let file = file.to_str().expect("text");
    let in_use = entrepot(&["verify", "--repair", "-c", file]).output().expect("it runs");
    assert_eq!(in_use.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&in_use.stderr).contains("--server URL"),
        "{in_use:?}"
    );
    let data = registry.data();
    registry.stop();
    let manifest = tree(&data)
        .into_iter()
        .find(|name| name.contains(digest.hex()) && name.ends_with("/data"))
        .expect("its bytes");
    let manifest = data.join(manifest);
    let mut bytes = fs::read(&manifest).expect("its bytes");
    bytes[0] ^= 1;
    fs::write(&manifest, &bytes).expect("it can be damaged");
    let (code, found) = verify(&["-c", file]);
    assert_eq!(
        (code, &found["findings"][0]["defect"]),
        (Some(1), &"blob-wrong-bytes".into())
    );
    assert_eq!(fs::read(&manifest).expect("its bytes"), bytes, "not a byte");
    let (code, left) = verify(&["--repair", "-c", file]);
    assert_eq!(
        (code, &left["problems"], &left["mended"]),
        (Some(1), &1.into(), &1.into()),
        "{left}"
    );
    assert!(!manifest.exists());
    let kept = tree(&data)
        .into_iter()
        .find(|name| name.starts_with("quarantine/") && name.ends_with("/data"));
    assert_eq!(fs::read(data.join(kept.expect("it is kept"))).expect("bytes"), bytes);
    let again = entrepot(&["verify", "-c", file]).output().expect("it runs");
    assert_eq!(again.status.code(), Some(1));
    let text = String::from_utf8_lossy(&again.stdout).into_owned();
    assert!(text.contains("revision-dangling: found"), "{text}");
}

/// One that looks through what it has all the time, reading so much in a second.
fn scrubbing(rate: &str) -> Registry {
    let scrub = format!("scrub: {{ every: 20ms, rate: {rate} }}, gc:");
    Registry::start_in(&temporary(), &CONFIGURATION.replace("gc:", &scrub))
}

/// How many times it has come to the end of it.
async fn passes(registry: &Registry) -> u32 {
    let metrics = registry.metrics().await;
    let mut lines = metrics.lines();
    let passes = lines.find_map(|line| line.strip_prefix("entrepot_scrub_runs_total{result=\"success\"} "));
    passes.map_or(0, |passes| passes.parse().expect("a number"))
}

async fn after_the_next_pass(registry: &Registry) {
    // The one under way may be past what has been changed.
    let enough = passes(registry).await + 2;
    until("a whole pass", async || passes(registry).await >= enough).await;
}

#[tokio::test]
async fn what_rots_is_put_aside_when_its_time_has_come_and_records_are_only_told_of() {
    let registry = scrubbing("1GiB");
    let layer = b"a layer";
    registry.push_image("/v2/docker/app", "v1", layer).await;
    after_the_next_pass(&registry).await;
    let says = async |line: &str| {
        registry
            .metrics()
            .await
            .contains(&format!("entrepot_scrub_problems {line}\n"))
    };
    assert!(says("0").await);

    let digest = crate::support::sha256(layer);
    let names = tree(&registry.data());
    let name = names
        .iter()
        .find(|name| name.contains(digest.hex()) && name.ends_with("/data"));
    let name = name.expect("its bytes");
    fs::write(registry.data().join(name), b"A layer").expect("it can be damaged");
    until("it is put aside", async || !registry.data().join(name).exists()).await;
    let is_it = |kept: &String| kept.starts_with("quarantine/") && kept.ends_with(name.as_str());
    let kept = tree(&registry.data()).into_iter().find(is_it).expect("it is kept");
    assert_eq!(fs::read(registry.data().join(kept)).expect("bytes"), b"A layer");
    until("it is told", async || {
        !says("0").await && registry.log().contains("something that is kept is damaged")
    })
    .await;
    let path = format!("/v2/docker/app/blobs/{digest}");
    expect(
        registry.get(&path).send().await.expect("an answer"),
        StatusCode::NOT_FOUND,
    )
    .await;
    registry.push_blob("/v2/docker/app", layer).await;
    expect(registry.get(&path).send().await.expect("an answer"), StatusCode::OK).await;
    until("nothing is damaged", async || says("0").await).await;

    let link = a_layer_link(&registry.data());
    fs::write(&link, "").expect("it can be damaged");
    until("it is told", async || !says("0").await).await;
    after_the_next_pass(&registry).await;
    assert_eq!(
        fs::read(&link).expect("a link"),
        b"",
        "who has not asked for it has no record changed"
    );
}

#[tokio::test]
async fn what_is_kept_is_looked_through_no_faster_than_it_may_be() {
    let (slow, fast) = (scrubbing("256KiB"), scrubbing("2MiB"));
    for registry in [&slow, &fast] {
        registry.push_image("/v2/docker/app", "v1", &vec![7; 512 << 10]).await;
    }
    // The first one may have begun before all of it was there.
    let begun = passes(&slow).await;
    until("a pass has ended", async || passes(&slow).await > begun).await;
    let (slow_before, fast_before) = (passes(&slow).await, passes(&fast).await);
    until("another one has", async || passes(&slow).await > slow_before).await;
    let (of_slow, of_fast) = (passes(&slow).await - slow_before, passes(&fast).await - fast_before);
    // Eight times as many, but for what else there is to do.
    assert!(of_fast >= 3 * of_slow, "{of_slow} slow ones, {of_fast} fast ones");
}
