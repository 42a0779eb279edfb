//! The store of a configuration, while no server has it.

use std::sync::Arc;

use anyhow::Context as _;

use crate::app;
use crate::config::Config;
use crate::store::{Error, Store};
use crate::telemetry::Metrics;

/// What to do about a server that has it, where that server can do the same.
pub(super) const OR_ASK: &str = "to ask a server that runs, leave `-c` away or name it: `--server URL`";
/// What to do about it where it cannot.
pub(super) const OR_STOP: &str = "stop the server first";

/// Opens it, for us alone; `instead` is what to do if a server has it.
pub(super) async fn open(config: &Config, instead: &str) -> anyhow::Result<Store> {
    let options = app::store_options(config);
    let path = options.path.display().to_string();
    match Store::open(options, Arc::new(Metrics::new()?)).await {
        Err(error @ Error::Locked { .. }) => anyhow::bail!("{error}; {instead}"),
        opened => opened.with_context(|| format!("the store at {path} cannot be opened")),
    }
}
