//! Every byte that is stored, against its digest.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;

use super::defect::{Defect, Mend, Problem};
use super::look::{Entry, foreign, list, unreadable};
use super::{Pace, Pass};
use crate::oci::{Algorithm, Digest};
use crate::store::layout::Layout;
use crate::store::records::Records;
use crate::store::{Error, rebuild, trash};

/// What is wrong with the content of a file; the file, so that it is known again.
#[derive(Clone, Copy)]
pub(super) struct Wrong {
    pub(super) defect: Defect,
    pub(super) inode: u64,
}

/// Hashes a file, as fast as it may. None if it is right, or gone.
pub(super) fn hash(
    path: &Path,
    digest: &Digest,
    pace: &mut Pace<'_>,
    problems: &mut Vec<Problem>,
) -> Result<Option<Wrong>, Error> {
    let open = || -> io::Result<(File, u64, u64)> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        Ok((file, metadata.len(), metadata.ino()))
    };
    let (file, size, inode) = match open() {
        Ok(opened) => opened,
        Err(error) => {
            unreadable(path, &error, problems);
            return Ok(None);
        }
    };
    let mut hasher = digest.algorithm().hasher();
    let mut buffer = vec![0; 256 << 10];
    let mut at = 0;
    loop {
        match file.read_at(&mut buffer, at) {
            Ok(0) => break,
            Ok(read) => {
                hasher.update(&buffer[..read]);
                at += read as u64;
                pace.went(read as u64)?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                unreadable(path, &error, problems);
                return Ok(None);
            }
        }
    }
    if hasher.finish() == *digest {
        return Ok(None);
    }
    let defect = if size == 0 {
        Defect::BlobEmpty
    } else {
        Defect::BlobWrongBytes
    };
    Ok(Some(Wrong { defect, inode }))
}

/// Looks at everything below `blobs`.
pub(super) fn check(pass: &mut Pass<'_>) -> Result<(), Error> {
    let mut problems = Vec::new();
    for entry in list(&pass.records.layout.blobs(), &mut problems) {
        let Some(algorithm) = entry.name.parse::<Algorithm>().ok().filter(|_| entry.is_directory) else {
            foreign(&entry.path, &mut problems);
            continue;
        };
        for prefix in list(&entry.path, &mut problems) {
            if prefix.is_directory {
                for hex in list(&prefix.path, &mut problems) {
                    check_one(pass, algorithm, &prefix.name, &hex, &mut problems)?;
                }
            } else {
                foreign(&prefix.path, &mut problems);
            }
        }
        pass.settle_files(std::mem::take(&mut problems))?;
    }
    pass.settle_files(problems)
}

fn check_one(
    pass: &mut Pass<'_>,
    algorithm: Algorithm,
    prefix: &str,
    entry: &Entry,
    problems: &mut Vec<Problem>,
) -> Result<(), Error> {
    let digest = format!("{algorithm}:{}", entry.name).parse::<Digest>().ok();
    let Some(digest) = digest.filter(|_| entry.is_directory) else {
        foreign(&entry.path, problems);
        return Ok(());
    };
    let mut data = None;
    for inside in list(&entry.path, problems) {
        if inside.name == "data" {
            data = Some(inside);
        } else {
            foreign(&inside.path, problems);
        }
    }
    let Some(data) = data else { return Ok(()) };
    if data.is_directory {
        problems.push(Problem::new(Defect::BlobNotAFile, data.path, Mend::PutAside));
        return Ok(());
    }
    pass.report.blobs += 1;
    let wrong = hash(&data.path, &digest, &mut pass.pace, problems)?;
    if &digest.hex()[..2] != prefix {
        let mend = if wrong.is_none() {
            Mend::Move(digest)
        } else {
            Mend::PutAside
        };
        problems.push(Problem::new(Defect::BlobMisplaced, data.path, mend));
    } else if let Some(wrong) = wrong {
        pass.damaged(&digest, wrong, &data.path)?;
    }
    Ok(())
}

/// What lies in the trash is taken back by whoever needs it: as what it is called.
pub(super) fn check_trash(pass: &mut Pass<'_>) -> Result<(), Error> {
    let mut problems = Vec::new();
    for entry in list(&pass.records.layout.trash(), &mut problems) {
        let (name, is_note) = match entry.name.strip_suffix(".images") {
            Some(name) => (name, true),
            None => (&*entry.name, false),
        };
        let digest = name.replacen('-', ":", 1).parse::<Digest>().ok();
        let Some(digest) = digest.filter(|_| !entry.is_directory) else {
            foreign(&entry.path, &mut problems);
            continue;
        };
        if is_note {
            if !trash::is_note(&entry.path) {
                problems.push(Problem::new(Defect::TrashNoteGarbage, entry.path, Mend::PutAside));
            }
        } else if hash(&entry.path, &digest, &mut pass.pace, &mut problems)?.is_some() {
            problems.push(Problem::new(Defect::TrashWrongBytes, entry.path, Mend::PutAside));
        }
    }
    pass.settle_files(problems)
}

/// How long everything is that some manifest speaks of.
pub(super) fn sizes(records: &Records) -> HashMap<Digest, u64> {
    let mut sizes = HashMap::new();
    let walked = rebuild::walk(&records.layout, &mut |place| {
        for digest in records.revisions(place).flatten() {
            if let Ok(Some((_, contents))) = records.manifest(place, &digest) {
                let all = contents.config.into_iter().chain(contents.layers);
                let all = all.chain(contents.manifests);
                sizes.extend(all.map(|descriptor| (descriptor.digest, descriptor.size)));
            }
        }
        Ok(false)
    });
    if let Err(error) = walked {
        tracing::debug!(%error, "how long blobs should be is not known of all");
    }
    sizes
}

/// Whether a file is still the one that was looked at.
pub(super) fn is_same(layout: &Layout, digest: &Digest, wrong: &Wrong) -> bool {
    fs::symlink_metadata(layout.blob(digest)).is_ok_and(|found| found.ino() == wrong.inode)
}
