//! Whose store it is: one process at a time, and one version of the tree.

use std::fs::{self, File, TryLockError};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::disk::{Disk, read_small};
use super::error::Error;
use super::layout::Layout;

/// The version of the tree. A change that an older version would misread makes it one more.
const FORMAT: u32 = 1;

/// In place of the version, while a backup is being copied.
pub(super) const RESTORING: &str = "being restored\n";

/// What says of which version a tree is.
pub(super) fn stamp() -> String {
    format!("{FORMAT}\n")
}

/// Refuses a tree that we would misread.
pub(super) fn check_format(layout: &Layout) -> Result<(), Error> {
    read_format(layout).map(drop)
}

/// Whether a restore into it was not finished.
pub(super) fn is_being_restored(layout: &Layout) -> Result<bool, Error> {
    match read_format(layout) {
        Err(Error::Unfinished { .. }) => Ok(true),
        Err(error) => Err(error),
        Ok(_) => Ok(false),
    }
}

/// Takes the store for this process, and makes the directories that everything else relies on. The lock is held as long
/// as the file is open: a process that is killed lets go of it.
pub(super) fn claim(layout: &Layout, disk: &Disk) -> Result<File, Error> {
    let root = layout.root();
    let known = read_format(layout)?;
    make_root(root)?;
    let lock = lock(&layout.lock(), root)?;
    let parts = [
        layout.spool(),
        layout.uploads(),
        layout.trash(),
        layout.blobs(),
        layout.repositories(),
    ];
    for directory in &parts {
        disk.make_directories(&[directory])?;
    }
    one_filesystem(&parts)?;
    if !known {
        disk.write(&layout.format(), stamp().as_bytes())?;
    }
    Ok(lock)
}

/// Makes the directory of the store, durably like all that comes to lie in it.
pub(super) fn make_root(root: &Path) -> Result<(), Error> {
    let missing: Vec<&Path> = root.ancestors().take_while(|above| !above.is_dir()).collect();
    fs::create_dir_all(root).map_err(Error::disk(root))?;
    for parent in missing.into_iter().filter_map(Path::parent) {
        // The parent of `data` is written as nothing.
        let parent = if parent.as_os_str().is_empty() {
            Path::new(".")
        } else {
            parent
        };
        let synced = File::open(parent).and_then(|directory| directory.sync_all());
        synced.map_err(Error::disk(parent))?;
    }
    Ok(())
}

/// Whether the tree says that it is of a version we know; one that says nothing is new, or registry:2's.
fn read_format(layout: &Layout) -> Result<bool, Error> {
    let Some(contents) = read_small(&layout.format(), 1024)? else {
        return Ok(false);
    };
    let text = String::from_utf8_lossy(&contents);
    // Nothing is lost with an empty one: it is written before anything else, and every version since can read version 1.
    if text.trim().is_empty() {
        return Ok(false);
    }
    if text == RESTORING {
        return Err(Error::Unfinished {
            path: layout.root().to_owned(),
        });
    }
    match text.trim().parse::<u32>() {
        Ok(format) if format <= FORMAT => Ok(true),
        _ => Err(Error::NewerFormat {
            path: layout.root().to_owned(),
            found: text.trim().chars().filter(|c| !c.is_control()).take(40).collect(),
            known: FORMAT,
        }),
    }
}

pub(super) fn lock(path: &Path, root: &Path) -> Result<File, Error> {
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(Error::disk(path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::Locked { path: root.to_owned() }),
        Err(TryLockError::Error(error)) => Err(Error::disk(path)(error)),
    }
}

fn one_filesystem(parts: &[PathBuf]) -> Result<(), Error> {
    let device = |path: &Path| fs::metadata(path).map(|found| found.dev()).map_err(Error::disk(path));
    for pair in parts.windows(2) {
        if device(&pair[0])? != device(&pair[1])? {
            return Err(Error::Filesystems {
                first: pair[0].clone(),
                second: pair[1].clone(),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_taken_once_and_keeps_its_format() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::new(&root.path().join("new/store"));
        let disk = Disk::of_tests(&layout);
        let held = claim(&layout, &disk).unwrap();
        assert!(matches!(claim(&layout, &disk), Err(Error::Locked { path }) if path == layout.root()));
        drop(held);
        drop(claim(&layout, &disk).unwrap());
        assert_eq!(fs::read_to_string(layout.format()).unwrap(), "1\n");
    }

    #[test]
    fn newer_data_is_refused_and_nothing_is_written() {
        for found in ["2\n", "entrepot 9", "-1"] {
            let root = tempfile::tempdir().unwrap();
            let layout = Layout::new(root.path());
            fs::write(layout.format(), found).unwrap();
            let error = claim(&layout, &Disk::of_tests(&layout)).unwrap_err();
            assert!(matches!(error, Error::NewerFormat { .. }), "{error}");
            assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
        }
    }
}
