//! Looking at what is there without changing or following anything.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::defect::{Defect, Mend, Problem};
use crate::oci::{Algorithm, Digest};
use crate::store::disk::is_absence;
use crate::store::records;

/// A link is read up to this length.
const LONGEST_LINK: u64 = 1024;

/// An entry of a directory that is a file or a directory.
pub(super) struct Entry {
    pub(super) path: PathBuf,
    pub(super) name: String,
    pub(super) is_directory: bool,
}

/// What a link says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    Absent,
    Digest(Digest),
    Empty,
    Garbage,
    NotAFile,
    /// Told elsewhere already, or not to be told.
    Unclear,
}

/// The files and directories in a directory, sorted; none if it is not there. What else is in it is a problem.
pub(super) fn list(directory: &Path, problems: &mut Vec<Problem>) -> Vec<Entry> {
    let mut entries = Vec::new();
    let read = match fs::read_dir(directory) {
        Ok(read) => read,
        Err(error) => {
            unreadable(directory, &error, problems);
            return entries;
        }
    };
    for entry in read {
        let found = entry.and_then(|entry| Ok((entry.path(), entry.file_name(), fs::symlink_metadata(entry.path())?)));
        let (path, name, metadata) = match found {
            Ok(found) => found,
            Err(error) => {
                unreadable(directory, &error, problems);
                continue;
            }
        };
        let kind = metadata.file_type();
        if kind.is_symlink() {
            problems.push(Problem::new(Defect::SymbolicLink, path, Mend::Leave));
        } else if !kind.is_file() && !kind.is_dir() {
            problems.push(Problem::new(Defect::ForeignFile, path, Mend::PutAside).because(&"no file and no directory"));
        } else if let Ok(name) = name.into_string() {
            permitted(&path, &metadata, problems);
            entries.push(Entry {
                path,
                name,
                is_directory: kind.is_dir(),
            });
        } else {
            problems.push(Problem::new(Defect::ForeignFile, path, Mend::PutAside).because(&"a name that is no text"));
        }
    }
    entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    entries
}

/// Whatever is not there is not unreadable.
pub(super) fn unreadable(path: &Path, error: &io::Error, problems: &mut Vec<Problem>) {
    if !is_absence(error) {
        problems.push(Problem::new(Defect::Unreadable, path, Mend::Leave).because(&error));
    }
}

/// Whoever is root reads everything, and the server need not be.
fn permitted(path: &Path, metadata: &Metadata, problems: &mut Vec<Problem>) {
    let needed = if metadata.is_dir() { 0o700 } else { 0o400 };
    if metadata.mode() & needed != needed {
        let mode = format!("mode {:o}", metadata.mode() & 0o7777);
        problems.push(Problem::new(Defect::Permissions, path, Mend::Permit).because(&mode));
    }
}

pub(super) fn foreign(path: &Path, problems: &mut Vec<Problem>) {
    problems.push(Problem::new(Defect::ForeignFile, path, Mend::PutAside));
}

/// What a link says.
pub(super) fn said(path: &Path) -> Said {
    match fs::symlink_metadata(path) {
        Err(error) if is_absence(&error) => return Said::Absent,
        Err(_) => return Said::Unclear,
        Ok(metadata) if metadata.is_symlink() => return Said::Unclear,
        Ok(metadata) if !metadata.is_file() => return Said::NotAFile,
        Ok(metadata) if metadata.len() > LONGEST_LINK => return Said::Garbage,
        Ok(_) => {}
    }
    match fs::read(path) {
        Err(error) if is_absence(&error) => Said::Absent,
        Err(_) => Said::Unclear,
        Ok(contents) if contents.is_empty() => Said::Empty,
        Ok(contents) => records::parse(&contents).map_or(Said::Garbage, Said::Digest),
    }
}

/// The directories of links below a directory, by the digest that their path names. `more` are the other names that may
/// be beside a link.
pub(super) fn linked(directory: &Path, more: &[&str], problems: &mut Vec<Problem>) -> Vec<(Digest, PathBuf, Said)> {
    let mut linked = Vec::new();
    for algorithm in list(directory, problems) {
        let Some(known) = algorithm
            .name
            .parse::<Algorithm>()
            .ok()
            .filter(|_| algorithm.is_directory)
        else {
            foreign(&algorithm.path, problems);
            continue;
        };
        for hex in list(&algorithm.path, problems) {
            let digest = format!("{known}:{}", hex.name).parse::<Digest>().ok();
            let Some(digest) = digest.filter(|_| hex.is_directory) else {
                foreign(&hex.path, problems);
                continue;
            };
            for beside in list(&hex.path, problems) {
                if beside.name != "link" && !more.contains(&&*beside.name) {
                    foreign(&beside.path, problems);
                }
            }
            let link = hex.path.join("link");
            let said = said(&link);
            linked.push((digest, link, said));
        }
    }
    linked
}

/// What is wrong with a link that can say but one thing.
pub(super) fn wrong(said: &Said, digest: &Digest) -> Option<Defect> {
    match said {
        Said::Digest(same) if same == digest => None,
        Said::Digest(_) => Some(Defect::LinkOtherDigest),
        Said::Empty => Some(Defect::LinkEmpty),
        Said::Garbage => Some(Defect::LinkGarbage),
        Said::NotAFile => Some(Defect::LinkNotAFile),
        Said::Absent | Said::Unclear => None,
    }
}
