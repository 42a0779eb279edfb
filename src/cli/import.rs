//! `entrepot import`: what another registry has kept, taken over; images in a file, pushed.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;

use super::api::{self, Failure};
use super::layout::names::Placing;
use super::layout::plan::Plan;
use super::layout::progress::{Progress, size};
use super::layout::push::Pushing;
use super::layout::read::Layout;
use super::layout::registry::Registry;
use super::{File, block_on, count, load, stopped, usage};
use crate::config::{Config, RepositoryConfig};
use crate::store::{Imported, Importing};
use crate::telemetry::logs;

/// A directory of `registry:2`, into a store that no server has open.
pub(super) fn directory(file: &File, from: &Path, into: &[String], replace_tags: bool, as_json: bool) -> ExitCode {
    let [into] = into else {
        return usage("name the one repository that it goes into: `--into KEY`");
    };
    let loaded = match load(&file.source()) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    let mut what = match target(&loaded.config, into) {
        Ok(what) => what,
        Err(why) => return usage(&why),
    };
    from.clone_into(&mut what.from);
    what.replace_tags = replace_tags;
    logs::start();
    block_on(async move {
        let store = stopped::open(&loaded.config, stopped::OR_STOP).await?;
        let done = store.import(what).await;
        store.close().await;
        let done = done?;
        tell(&done, as_json);
        ended(&done)
    })
}

fn ended(done: &Imported) -> anyhow::Result<()> {
    match done.problems.len() {
        0 => Ok(()),
        1 => anyhow::bail!("1 thing was not taken over"),
        many => anyhow::bail!("{many} things were not taken over"),
    }
}

/// An OCI layout, to a running server.
pub(super) fn layout(server: &str, from: &Path, into: &[String], replace_tags: bool, as_json: bool) -> ExitCode {
    api::run(async {
        let into = into.iter().map(|text| text.parse::<Placing>());
        let into: Vec<Placing> = into.collect::<Result<_, _>>().map_err(Failure::Usage)?;
        let shown = || from.display().to_string();
        let registry = Registry::new(api::client(server)?.patient());
        let layout = Layout::open(from).with_context(shown)?;
        let plan = Plan::of(&layout, &into).with_context(shown)?;
        let progress = Progress::new(!as_json);
        let done = Pushing::new(&registry, &layout, &plan, replace_tags, progress)
            .run()
            .await?;
        if as_json {
            println!("{}", serde_json::to_string(&done).unwrap_or_default());
        } else {
            let counted =
                |number: u64, one, several| count(usize::try_from(number).unwrap_or(usize::MAX), one, several);
            println!(
                "{}: {}, {}, {} ({}); here already: {}",
                counted(done.images, "image", "images"),
                counted(done.manifests, "manifest", "manifests"),
                counted(done.tags, "tag", "tags"),
                counted(done.copied, "blob", "blobs"),
                size(done.bytes),
                done.present
            );
            for problem in &done.problems {
                eprintln!("{problem}");
            }
        }
        Ok(ended(&done)?)
    })
}

/// Where it goes, by the rules of that repository.
fn target(config: &Config, into: &str) -> Result<Importing, String> {
    let key = into.parse().map_err(|error| format!("`--into {into}`: {error}"))?;
    let (sparse, immutable, quota) = match config.repositories.get(&key) {
        Some(RepositoryConfig::Local(local)) => (local.allow_sparse, local.immutable_tags.clone(), local.quota),
        Some(RepositoryConfig::Remote(_)) => (true, Vec::new(), None),
        Some(RepositoryConfig::Virtual(_)) => {
            return Err(format!("`{key}` keeps nothing itself: name one of its members"));
        }
        None => return Err(format!("there is no repository `{key}` in the configuration")),
    };
    Ok(Importing {
        from: std::path::PathBuf::new(),
        into: key,
        sparse,
        replace_tags: false,
        immutable: immutable.into(),
        quota,
    })
}

fn tell(done: &Imported, as_json: bool) {
    if as_json {
        println!("{}", serde_json::to_string(done).unwrap_or_default());
        return;
    }
    println!(
        "{} images: {} manifests, {} tags, {} blobs linked and {} copied ({} bytes)",
        done.images, done.manifests, done.tags, done.linked, done.copied, done.bytes
    );
    println!("here already: {}", done.present);
    if done.dangling > 0 {
        println!(
            "links to blobs that are not there and that nothing needs: {}",
            done.dangling
        );
    }
    for problem in &done.problems {
        eprintln!("{problem}");
    }
}
