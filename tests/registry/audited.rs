//! What the audit is told of those who work on the whole store: administrators, and the server itself.

use reqwest::StatusCode;
use serde_json::Value;

use crate::audit::{lines, told};
use crate::login::{As as _, SHARED, push, with_users};
use crate::support::{Registry, expect, sha256, tree, until};

fn working(storage: &str) -> Registry {
    with_users(&format!(
        "server: {{ listen: '127.0.0.1:0' }}\nstorage: {{ path: data, {storage} }}\n{SHARED}"
    ))
}

fn of_system(registry: &Registry, action: &str) -> Vec<Value> {
    let mut lines = lines(registry);
    lines.retain(|line| line["action"] == action && line["who"]["kind"] == "system");
    lines
}

async fn count(registry: &Registry, series: &str) -> u32 {
    let metrics = registry.metrics().await;
    let found = metrics.lines().find_map(|line| line.strip_prefix(series));
    found.map_or(0, |number| number.trim().parse().expect("a number"))
}

#[tokio::test]
async fn whoever_changes_the_whole_store_is_told_of_and_who_only_looks_is_not() {
    let registry = working("backups: backups, gc: { every: forever }");
    push(&registry, "/v2/docker/team/app", "v1").await;
    let table = [
        ("gc", "{}", "bob", 403, "denied"),
        ("gc", r#"{"dry_run":true}"#, "bob", 403, "denied"),
        ("gc", r#"{"dry_run":true}"#, "ada", 200, ""),
        ("gc", "{}", "ada", 200, "allowed"),
        ("gc", "{", "ada", 400, "failed"),
        ("verify", "{}", "bob", 403, "denied"),
        ("verify", "{}", "ada", 200, ""),
        ("verify", r#"{"repair":true}"#, "ada", 200, "allowed"),
        ("backup", "{}", "bob", 403, "denied"),
        ("backup", r#"{"directory":"nightly"}"#, "ada", 200, "allowed"),
        ("backup", r#"{"directory":"../data"}"#, "ada", 403, "denied"),
    ];
    for (number, (action, body, who, status, outcome)) in table.into_iter().enumerate() {
        let id = format!("request-{number}");
        let password = if who == "ada" { "lovelace" } else { "builder" };
        let request = registry.post(&format!("/api/v1/{action}")).by(who, password);
        let request = request.header("content-type", "application/json");
        let response = request.header("x-request-id", &id).body(body).send().await;
        let status = StatusCode::from_u16(status).expect("a status");
        expect(response.expect("an answer"), status).await;
        if outcome.is_empty() {
            continue;
        }
        let line = told(&registry, &id).await;
        assert_eq!(
            (&line["action"], &line["who"]["name"], &line["outcome"]),
            (&action.into(), &who.into(), &outcome.into()),
            "{line}"
        );
        let reference = line["reference"].as_str().unwrap_or_default();
        let is_made = action == "backup" && status == StatusCode::OK;
        assert_eq!(reference.ends_with("/backups/nightly"), is_made, "{line}");
    }
    // Lines are written in the order in which they were told: with the last, all are there.
    let silent = ["request-2", "request-6"];
    let is_silent = |line: &Value| !silent.iter().any(|id| line["request_id"] == *id);
    assert!(lines(&registry).iter().all(is_silent));
}

#[tokio::test]
async fn what_the_server_removes_or_puts_aside_by_itself_is_told_and_nothing_else() {
    let registry = working("gc: { every: 30ms, grace: 1ms }, scrub: { every: 30ms, rate: 1GiB }");
    push(&registry, "/v2/docker/team/app", "v1").await;
    let runs = "entrepot_gc_runs_total{result=\"success\"}";
    let passes = async |more: u32| {
        let enough = count(&registry, runs).await + more;
        until("passes", async || count(&registry, runs).await >= enough).await;
    };
    passes(3).await;
    // What is pushed slowly may have been in the trash meanwhile.
    let before = of_system(&registry, "gc").len();
    passes(3).await;
    assert_eq!(of_system(&registry, "gc").len(), before);
    assert!(of_system(&registry, "verify").is_empty());

    let left = b"left behind";
    let path = format!("/v2/docker/team/app/blobs/uploads/?digest={}", sha256(left));
    let pushed = registry.post(&path).by("ada", "lovelace").body(left.to_vec());
    expect(pushed.send().await.expect("an answer"), StatusCode::CREATED).await;
    until("it is gone for good", async || {
        count(&registry, "entrepot_gc_freed_bytes_total").await == 11
    })
    .await;
    until("it is told", async || of_system(&registry, "gc").len() > before).await;
    passes(3).await;
    let told = of_system(&registry, "gc").len() - before;
    assert!((1..=3).contains(&told), "a line for each that did something: {told}");

    let config = sha256(b"{}");
    let names = tree(&registry.data());
    let name = names
        .iter()
        .find(|name| name.contains(config.hex()) && name.ends_with("/data"));
    std::fs::write(registry.data().join(name.expect("its bytes")), b"[]").expect("it can be damaged");
    until("it is told", async || of_system(&registry, "verify").len() == 1).await;
    assert_eq!(of_system(&registry, "verify")[0]["outcome"], "allowed");
    let scrubs = "entrepot_scrub_runs_total{result=\"success\"}";
    let enough = count(&registry, scrubs).await + 3;
    until("more passes", async || count(&registry, scrubs).await >= enough).await;
    assert_eq!(of_system(&registry, "verify").len(), 1);
}
