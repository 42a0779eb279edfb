//! `entrepot export`: images of a running server, in a file.

use std::io::IsTerminal as _;
use std::path::Path;
use std::process::ExitCode;

use serde_json::json;

use super::api::{self, Failure};
use super::count;
use super::layout::gather::{Gathered, Wanted};
use super::layout::progress::{Progress, size};
use super::layout::registry::Registry;
use super::layout::write::{Output, Unfinished};
use crate::http::image_text::ImageText;

/// Writes images with all that belongs to them; unless `bare`, with what is about them.
pub(super) fn export(server: &str, images: &[String], to: &Path, bare: bool, as_json: bool) -> ExitCode {
    api::run(async {
        let work = work(server, images, to, bare, as_json);
        tokio::select! {
            done = work => done,
            _ = tokio::signal::ctrl_c() => {
                // What was begun is gone by now, and whoever still writes it need not be waited for.
                eprintln!("entrepot: interrupted");
                std::process::exit(130)
            }
        }
    })
}

async fn work(server: &str, images: &[String], to: &Path, bare: bool, as_json: bool) -> Result<(), Failure> {
    let registry = Registry::new(api::client(server)?);
    let mut wanted = Vec::new();
    for image in images {
        let read = ImageText::parse(image, Some(&registry.authority()));
        let ImageText { name, reference } =
            read.map_err(|refusal| Failure::Usage(format!("`{image}`: {}", refusal.message)))?;
        wanted.push(Wanted { name, reference });
    }
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
    let mut progress = Progress::new(!as_json);
    let mut gathered = Gathered::default();
    for wanted in &wanted {
        gathered.add(&registry, wanted, bare, &mut progress).await?;
    }
    let (manifests, blobs) = gathered.count();
    let problems = std::mem::take(&mut gathered.problems);
    let elsewhere = gathered.elsewhere;
    let bytes = output.write(&registry, gathered, progress).await?;
    if let Output::File(unfinished) = output {
        unfinished.finish()?;
    }
    let images = wanted.len();
    if as_json {
        let said = json!({
            "file": to.display().to_string(), "images": images, "manifests": manifests, "blobs": blobs,
            "bytes": bytes, "elsewhere": elsewhere, "problems": problems,
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
        for problem in &problems {
            eprintln!("{problem}");
        }
    }
    match problems.len() {
        0 => Ok(()),
        count => Err(Failure::Trouble(format!(
            "what is about the images may be missing ({count}); `--without-signatures` does not ask for it"
        ))),
    }
}
