//! `entrepot export`: images of a running server, in a file.

use std::io::IsTerminal as _;
use std::path::Path;
use std::process::ExitCode;

use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use super::api::{self, Failure};
use super::count;
use super::layout::gather::{Gathered, Wanted};
use super::layout::progress::{Progress, size};
use super::layout::registry::Registry;
use super::layout::write::{Output, Unfinished};
use crate::http::image_text::ImageText;
use crate::oci::Reference;

/// What is to be written, and where.
#[derive(Debug)]
pub(super) struct Exporting<'a> {
    /// As they were typed.
    pub(super) images: &'a [String],
    /// The file.
    pub(super) to: &'a Path,
    /// Every tag of each.
    pub(super) all_tags: bool,
    /// Not what is about them.
    pub(super) bare: bool,
    pub(super) as_json: bool,
}

/// Writes images with all that belongs to them.
pub(super) fn export(server: &str, what: &Exporting<'_>) -> ExitCode {
    api::run(async {
        let mut terminate = signal(SignalKind::terminate()).map_err(anyhow::Error::from)?;
        let code = tokio::select! {
            done = work(server, what) => return done,
            _ = tokio::signal::ctrl_c() => 130,
            _ = terminate.recv() => 143,
        };
        // What was begun is gone by now, and whoever still writes it need not be waited for.
        eprintln!("entrepot: interrupted");
        std::process::exit(code)
    })
}

/// The images that were typed, and why there may be more of them.
async fn wanted(registry: &Registry, what: &Exporting<'_>) -> Result<(Vec<Wanted>, Vec<String>), Failure> {
    let (mut wanted, mut problems) = (Vec::new(), Vec::new());
    for image in what.images {
        let read = ImageText::parse(image, Some(&registry.authority())).and_then(ImageText::of_this_server);
        let ImageText { name, reference, .. } =
            read.map_err(|refusal| Failure::Usage(format!("`{image}`: {}", refusal.message)))?;
        if !what.all_tags {
            wanted.push(Wanted { name, reference });
            continue;
        }
        if !image.ends_with(name.as_str()) {
            return Err(Failure::Usage(format!(
                "`{image}`: with `--all-tags` an image is named without a tag or digest"
            )));
        }
        let (tags, warning) = registry.tags(&name).await?;
        problems.extend(warning.map(|warning| format!("{name}: there may be more tags: {warning}")));
        wanted.extend(tags.into_iter().map(|tag| Wanted {
            name: name.clone(),
            reference: Reference::Tag(tag),
        }));
    }
    Ok((wanted, problems))
}

async fn work(server: &str, what: &Exporting<'_>) -> Result<(), Failure> {
    let Exporting { to, as_json, .. } = *what;
    let registry = Registry::new(api::client(server)?);
    let is_standard = to == Path::new("-");
    let output = if is_standard {
        if as_json || std::io::stdout().is_terminal() {
            return Err(Failure::Usage(
                "`-o -` writes the tar to the standard output: lead it somewhere, and leave `--json` out".to_owned(),
            ));
        }
        Output::Standard
    } else {
        Output::File(Unfinished::begin(to)?)
    };
    let (wanted, mut problems) = wanted(&registry, what).await?;
    let mut progress = Progress::new(!as_json);
    let mut gathered = Gathered::default();
    for wanted in &wanted {
        gathered.add(&registry, wanted, what.bare, &mut progress).await?;
    }
    let (manifests, blobs) = gathered.count();
    problems.append(&mut gathered.problems);
    let (elsewhere, warnings) = (gathered.elsewhere, std::mem::take(&mut gathered.warnings));
    let bytes = output.write(&registry, gathered, progress).await?;
    if let Output::File(unfinished) = output {
        unfinished.finish()?;
    }
    let images = wanted.len();
    if as_json {
        let said = json!({
            "file": to.display().to_string(), "images": images, "manifests": manifests, "blobs": blobs,
            "bytes": bytes, "elsewhere": elsewhere, "warnings": warnings, "problems": problems,
        });
        println!("{said}");
    } else {
        let said = format!(
            "{}: {}, {}, {} ({})",
            to.display(),
            count(images, "image", "images"),
            count(manifests, "manifest", "manifests"),
            count(blobs, "blob", "blobs"),
            size(bytes)
        );
        if is_standard {
            eprintln!("{said}");
        } else {
            println!("{said}");
        }
        if elsewhere > 0 {
            eprintln!("layers that lie elsewhere, as their manifests say, and are left out: {elsewhere}");
        }
        for problem in warnings.iter().chain(&problems) {
            eprintln!("{problem}");
        }
    }
    match problems.len() {
        0 => Ok(()),
        count => Err(Failure::Trouble(format!(
            "what belongs to the images may be missing ({count}); `--without-signatures` does not ask for what is only about \
             them"
        ))),
    }
}
