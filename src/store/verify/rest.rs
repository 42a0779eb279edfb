//! What is neither content nor an image's: what is on its way, and the directories above images.

use std::collections::HashSet;

use super::Pass;
use super::defect::{Defect, Mend, Problem};
use super::look::{foreign, list};
use crate::oci::Digest;
use crate::oci::operation::UploadId;
use crate::store::Error;
use crate::store::disk::read_small;
use crate::store::keep::place_of;
use crate::store::uploads;

/// The longest note on an upload that is read.
const LONGEST_NOTE: u64 = 4096;

/// Whether what is on its way can be gone on with. Only while nobody is at work on it; the next start removes what cannot.
pub(super) fn check(pass: &mut Pass<'_>) -> Result<(), Error> {
    let layout = &pass.records.layout;
    let mut problems = Vec::new();
    let spooled = list(&layout.spool(), &mut problems);
    let names: HashSet<&str> = spooled.iter().map(|entry| &*entry.name).collect();
    for entry in &spooled {
        let stem = entry.name.rsplit_once('.');
        let is_part = stem.is_some_and(|(stem, kind)| {
            let is_digest = stem.replacen('-', ":", 1).parse::<Digest>().is_ok();
            let other = if kind == "part" { "note" } else { "part" };
            is_digest && matches!(kind, "part" | "note") && names.contains(&*format!("{stem}.{other}"))
        });
        if !is_part {
            problems.push(Problem::new(Defect::SpoolLeftOver, &entry.path, Mend::Leave));
        }
    }
    for entry in list(&layout.uploads(), &mut problems) {
        let note = read_small(&entry.path.join("state.json"), LONGEST_NOTE).ok().flatten();
        let is_whole = UploadId::parse(&entry.name).is_some()
            && note.is_some_and(|note| uploads::read_note(&note).is_some())
            && entry.path.join("data").is_file();
        if !is_whole {
            problems.push(Problem::new(Defect::UploadLeftOver, &entry.path, Mend::Leave));
        }
    }
    pass.settle_files(problems)
}

/// Every image below `repositories`.
pub(super) fn walk(pass: &mut Pass<'_>) -> Result<(), Error> {
    let root = pass.records.layout.repositories();
    let mut open = vec![root.clone()];
    while let Some(path) = open.pop() {
        pass.pace.went(0)?;
        let mut problems = Vec::new();
        let mut is_image = false;
        for entry in list(&path, &mut problems) {
            match &*entry.name {
                _ if !entry.is_directory => foreign(&entry.path, &mut problems),
                "_layers" | "_manifests" => is_image = true,
                // registry:2's uploads.
                name if name.starts_with('_') => {}
                _ => open.push(entry.path),
            }
        }
        if is_image {
            match place_of(&root, &path) {
                Some(place) => pass.image(&place)?,
                None => problems.push(Problem::new(Defect::NameUnreachable, &path, Mend::Leave)),
            }
        }
        pass.settle_files(problems)?;
    }
    Ok(())
}
