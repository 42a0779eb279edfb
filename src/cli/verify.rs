//! `entrepot verify`: whether what is kept is what was stored.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use serde_json::json;

use super::api::Failure;
use super::{File, api, block_on, load, stopped};
use crate::app;
use crate::config::Config;
use crate::store::{Outcome, Repair, Store, Verified, Verifying};
use crate::telemetry::{Metrics, logs};

/// By a running server.
pub(super) fn running(server: &str, repair: bool, as_json: bool) -> ExitCode {
    api::run(async move {
        let client = api::client(server)?.patient();
        let answer = client.post("/api/v1/verify", &json!({ "repair": repair })).await?;
        let document = api::document(answer).await?;
        let done: Verified =
            serde_json::from_value(document).context("the server says what this version does not know")?;
        tell(&done, as_json);
        judge(&done).map_err(Failure::from)
    })
}

/// Of a store that no server has open.
pub(super) fn of_stopped(file: &File, repair: bool, as_json: bool) -> ExitCode {
    let loaded = match load(&file.source()) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    logs::start();
    block_on(async move {
        let done = look(&loaded.config, repair).await?;
        tell(&done, as_json);
        judge(&done)
    })
}

async fn look(config: &Config, repair: bool) -> anyhow::Result<Verified> {
    let what = Verifying {
        repositories: app::keeps(config),
        repair: if repair { Repair::All } else { Repair::Nothing },
        rate: None,
    };
    if !repair {
        let metrics = Arc::new(Metrics::new()?);
        return Ok(Store::examine(&app::store_options(config), what, metrics).await?);
    }
    let store = stopped::open(config, stopped::OR_ASK).await?;
    let done = store.verify(what).await;
    store.close().await;
    Ok(done?)
}

/// Whether all is well now.
fn judge(done: &Verified) -> anyhow::Result<()> {
    anyhow::ensure!(done.problems == 0, "problems that are left: {}", done.problems);
    Ok(())
}

fn tell(done: &Verified, as_json: bool) {
    if as_json {
        println!("{}", serde_json::to_string(done).unwrap_or_default());
        return;
    }
    for finding in &done.findings {
        let outcome = match finding.outcome {
            Outcome::Found => "found",
            Outcome::Mended => "mended",
            Outcome::Quarantined => "put aside",
            Outcome::Left if finding.defect.is_notice() => "noticed",
            Outcome::Left => "cannot be mended",
        };
        let detail = if finding.detail.is_empty() {
            String::new()
        } else {
            format!(" ({})", finding.detail)
        };
        println!("{}: {outcome}: {}{detail}", finding.defect.name(), finding.path);
    }
    println!(
        "looked at: {} blobs and manifests ({} bytes), {} images ({} links)",
        done.blobs, done.bytes, done.images, done.links
    );
    println!(
        "mended: {}; left: {}; and {} that a crash leaves behind and nobody misses",
        done.mended, done.problems, done.notices
    );
}
