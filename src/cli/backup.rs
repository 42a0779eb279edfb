//! `entrepot backup` and `entrepot restore`.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use serde_json::json;

use super::{File, api, block_on, load, stopped};
use crate::app;
use crate::store::{BackedUp, Store};
use crate::telemetry::{Metrics, logs};

/// By a running server, on its own machine.
pub(super) fn running(server: &str, directory: Option<&Path>, as_json: bool) -> ExitCode {
    api::run(async move {
        let client = api::client(server)?.patient();
        let asked = directory.map_or_else(|| json!({}), |directory| json!({ "directory": directory }));
        let answer = client.post("/api/v1/backup", &asked).await?;
        let document = api::document(answer).await?;
        let done = serde_json::from_value(document).context("the server says what this version does not know")?;
        Ok(tell(&done, as_json)?)
    })
}

/// Of a store that no server has open.
pub(super) fn of_stopped(file: &File, directory: Option<&Path>, as_json: bool) -> ExitCode {
    let loaded = match load(&file.source()) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    let Some(directory) = directory.or(loaded.config.storage.backups.as_deref()) else {
        eprintln!("entrepot: name a directory for the backup, or set `storage.backups`");
        return ExitCode::from(2);
    };
    logs::start();
    block_on(async {
        let store = stopped::open(&loaded.config, stopped::OR_ASK).await?;
        let done = store.back_up(directory.to_owned()).await;
        store.close().await;
        tell(&done?, as_json)
    })
}

fn tell(done: &BackedUp, as_json: bool) -> anyhow::Result<()> {
    if as_json {
        println!("{}", serde_json::to_string(done).unwrap_or_default());
    } else {
        println!(
            "{}: {} images; {} blobs and manifests copied ({} bytes), {} as in the backup before",
            done.directory.display(),
            done.images,
            done.copied,
            done.bytes,
            done.linked
        );
    }
    ended(&done.problems, as_json)
}

fn ended(problems: &[String], as_json: bool) -> anyhow::Result<()> {
    if problems.is_empty() {
        return Ok(());
    }
    if !as_json {
        for problem in problems {
            eprintln!("{problem}");
        }
    }
    anyhow::bail!("damaged or missing, and left out: {}", problems.len())
}

/// To where nothing is yet.
pub(super) fn restore(file: &File, from: &Path, as_json: bool) -> ExitCode {
    let loaded = match load(&file.source()) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    logs::start();
    block_on(async {
        let options = app::store_options(&loaded.config);
        let done = Store::restore(&options, from.to_owned()).await?;
        // The index is made now, and not when somebody waits for it.
        Store::open(options, Arc::new(Metrics::new()?)).await?.close().await;
        if as_json {
            println!("{}", serde_json::to_string(&done).unwrap_or_default());
        } else {
            let from = done.from.display();
            println!("{from}: {} blobs and manifests ({} bytes)", done.blobs, done.bytes);
        }
        ended(&done.problems, as_json)
    })
}
