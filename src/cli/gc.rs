//! `entrepot gc`: the room of what nothing needs.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use serde_json::json;

use super::{File, api, block_on, load, stopped};
use crate::app;
use crate::config::{Config, RepositoryConfig};
use crate::store::{LocalRules, Reclaimed, Reclaiming, Store};
use crate::telemetry::{Metrics, logs};

/// By a running server.
pub(super) fn running(server: &str, dry_run: bool, as_json: bool) -> ExitCode {
    api::run(async move {
        let client = api::client(server)?.patient();
        let answer = client.post("/api/v1/gc", &json!({ "dry_run": dry_run })).await?;
        let document = api::document(answer).await?;
        let done = serde_json::from_value(document).context("the server says what this version does not know")?;
        tell(&done, dry_run, as_json);
        Ok(())
    })
}

/// On a store that no server has open.
pub(super) fn of_stopped(file: &File, dry_run: bool, as_json: bool) -> ExitCode {
    let loaded = match load(&file.source()) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    logs::start();
    block_on(async move {
        let what = what(&loaded.config);
        let done = if dry_run {
            let metrics = Arc::new(Metrics::new()?);
            Store::foresee(&app::store_options(&loaded.config), what, metrics).await?
        } else {
            let store = stopped::open(&loaded.config, stopped::OR_ASK).await?;
            let done = store.reclaim(what).await;
            store.close().await;
            done?
        };
        tell(&done, dry_run, as_json);
        Ok(())
    })
}

fn what(config: &Config) -> Reclaiming {
    let local = config
        .repositories
        .iter()
        .filter_map(|(key, repository)| match repository {
            RepositoryConfig::Local(local) => Some(LocalRules::of(key, local)),
            _ => None,
        });
    Reclaiming {
        local: local.collect(),
        grace: config.storage.gc.grace,
    }
}

fn tell(done: &Reclaimed, dry_run: bool, as_json: bool) {
    if as_json {
        println!("{}", serde_json::to_string(done).unwrap_or_default());
        return;
    }
    let would = if dry_run { "would be " } else { "" };
    for name in &done.expired {
        println!("{would}removed by `retention`: {name}");
    }
    println!(
        "{would}taken away: {} blobs and manifests ({} bytes), and {} links of images to blobs they do not need",
        done.blobs, done.bytes, done.links
    );
    println!(
        "{would}removed for good, of what was taken away earlier: {} ({} bytes)",
        done.emptied, done.freed
    );
    println!(
        "waits until nobody can be about to speak of it (`storage.gc.grace`): {} ({} bytes)",
        done.waiting, done.waiting_bytes
    );
    for image in &done.unclear {
        eprintln!("nothing of it goes: {image}");
    }
}
