//! Names that have been given and are not durable yet, and who sees to it that they are.
//!
//! Giving a name is quick, syncing its directory is not, and many can be waited for at once: a journal writes all of them
//! together. So whoever gives names does it with the locks that this needs, and pays, by syncing, without them. Until then
//! the directories are known as owed, and whoever relies on a name in one of them, or below, owes it too.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::{Disk, Scrap};
use crate::store::error::Error;

/// Directories in which there are names that are not durable yet, and whether it is we who gave them. However this ends, the
/// count in [`Disk::owed`] is taken back; what we gave and did not make durable stays known as unsettled.
#[derive(Debug)]
pub(in crate::store) struct Debts<'a> {
    disk: &'a Disk,
    directories: Vec<(PathBuf, bool)>,
}

impl<'a> Debts<'a> {
    pub(super) const fn new(disk: &'a Disk) -> Self {
        Self {
            disk,
            directories: Vec::new(),
        }
    }

    /// Makes a directory below the root, and all above it.
    pub(in crate::store) fn make(&mut self, path: &Path) -> Result<(), Error> {
        let missing: Vec<&Path> = self.disk.below_root(path).take_while(|above| !above.is_dir()).collect();
        // Looked up after the directories were seen: who makes one enters it first.
        if let Some(there) = path.ancestors().nth(missing.len()) {
            self.rely(there);
        }
        for directory in missing.into_iter().rev() {
            self.owe_parent(directory);
            match fs::create_dir(directory) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(Error::disk(directory)(error)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Makes the directory that a path lies in.
    pub(in crate::store) fn make_parent(&mut self, path: &Path) -> Result<(), Error> {
        path.parent().map_or(Ok(()), |parent| self.make(parent))
    }

    /// Moves a synced file to where it belongs; the directory must be there.
    pub(in crate::store) fn place(&mut self, scrap: Scrap, target: &Path) -> Result<(), Error> {
        self.owe_parent(target);
        fs::rename(scrap.path(), target).map_err(Error::disk(target))?;
        scrap.keep();
        Ok(())
    }

    /// What has been found at this path is to be durable: what others owe for it is owed here too.
    pub(in crate::store) fn rely(&mut self, path: &Path) {
        let foreign: Vec<&Path> = {
            let owed = self.disk.owed();
            let trusted = self.disk.is_trusted();
            let unsettled = self.disk.unsettled();
            if trusted && owed.is_empty() && unsettled.is_empty() {
                return;
            }
            let parents = self.disk.below_root(path).filter_map(Path::parent);
            parents
                .filter(|parent| !trusted || owed.contains_key(*parent) || unsettled.contains(*parent))
                .collect()
        };
        // From above, so that they are paid from below.
        for directory in foreign.into_iter().rev() {
            self.owe(directory, false);
        }
    }

    fn owe_parent(&mut self, path: &Path) {
        if let Some(parent) = path.parent() {
            self.owe(parent, true);
        }
    }

    fn owe(&mut self, directory: &Path, is_ours: bool) {
        if let Some((_, ours)) = self.directories.iter_mut().find(|(known, _)| known == directory) {
            *ours |= is_ours;
            return;
        }
        *self.disk.owed().entry(directory.to_owned()).or_default() += 1;
        self.directories.push((directory.to_owned(), is_ours));
    }

    /// Makes all of it durable.
    pub(in crate::store) fn pay(mut self) -> Result<(), Error> {
        // From the deepest: on a journalling filesystem the first one writes all of them, and the rest are cheap.
        while let Some((directory, _)) = self.directories.last() {
            // Before the sync, which knows nothing of what comes into it meanwhile; it is owed for as long.
            let was_unsettled = self.disk.unsettled().remove(directory);
            let synced = self.disk.sync_nearest(directory);
            if synced.is_err() && was_unsettled {
                self.disk.unsettled().insert(directory.clone());
            }
            synced?;
            if let Some((directory, _)) = self.directories.pop() {
                self.disk.owe_less(&directory);
            }
        }
        Ok(())
    }
}

impl Drop for Debts<'_> {
    fn drop(&mut self) {
        for (directory, is_ours) in &self.directories {
            // First: somebody always knows.
            if *is_ours {
                self.disk.unsettled().insert(directory.clone());
            }
            self.disk.owe_less(directory);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::store::layout::Layout;

    fn paths(debts: &Debts<'_>) -> Vec<PathBuf> {
        debts.directories.iter().map(|(path, _)| path.clone()).collect()
    }

    #[test]
    fn a_directory_that_another_has_not_synced_yet_is_synced_by_who_relies_on_it() {
        let root = tempfile::tempdir().unwrap();
        let disk = Disk::of_tests(&Layout::new(root.path()));
        let (a, b) = (root.path().join("a"), root.path().join("a/b"));
        fs::create_dir_all(&b).unwrap();
        let mut mine = disk.debts();
        mine.make(&b).unwrap();
        assert!(mine.directories.is_empty(), "it has long been there");
        let mut other = disk.debts();
        other.owe(&a, true);
        mine.make(&b).unwrap();
        assert_eq!(paths(&mine), std::slice::from_ref(&a));
        drop(other);
        assert_eq!(disk.owed().get(&a), Some(&1));
        drop(mine);
        disk.failed.store(true, Ordering::Release);
        let mut wary = disk.debts();
        wary.make(&b).unwrap();
        assert_eq!(paths(&wary), [root.path().to_owned(), a]);
    }

    #[test]
    fn who_relies_on_a_name_that_is_not_durable_owes_it_too() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::new(root.path());
        fs::create_dir(layout.spool()).unwrap();
        let disk = Disk::of_tests(&layout);
        let (a, link) = (root.path().join("a"), root.path().join("a/b/link"));
        let mut pusher = disk.debts();
        pusher.make_parent(&link).unwrap();
        pusher.place(disk.draft(b"digest").unwrap(), &link).unwrap();
        let mut other = disk.debts();
        other.rely(&link);
        assert_eq!(paths(&other), [root.path().to_owned(), a, root.path().join("a/b")]);
        pusher.pay().unwrap();
        drop(other);
        assert!(disk.owed().is_empty());
        let mut later = disk.debts();
        later.rely(&link);
        assert!(later.directories.is_empty(), "it is durable");
        disk.inherit();
        later.rely(&link);
        assert_eq!(later.directories.len(), 3, "nobody knows whether it is");
        disk.settle_inheritance();
        assert!(disk.is_trusted());
    }

    #[test]
    fn what_was_given_and_not_paid_for_is_paid_by_who_relies_on_it() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::new(root.path());
        fs::create_dir(layout.spool()).unwrap();
        let disk = Disk::of_tests(&layout);
        let link = root.path().join("a/link");
        let mut pusher = disk.debts();
        pusher.make_parent(&link).unwrap();
        pusher.place(disk.draft(b"digest").unwrap(), &link).unwrap();
        // As after a sync that failed for want of room, which says nothing about the disk.
        drop(pusher);
        assert!(disk.is_trusted() && disk.owed().is_empty());
        let mut other = disk.debts();
        other.rely(&link);
        assert_eq!(paths(&other), [root.path().to_owned(), root.path().join("a")]);
        other.pay().unwrap();
        assert!(disk.unsettled().is_empty() && disk.owed().is_empty());
    }

    #[test]
    fn a_directory_that_is_gone_before_it_is_paid_for_is_no_failure() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::new(root.path());
        fs::create_dir(layout.spool()).unwrap();
        let disk = Disk::of_tests(&layout);
        let link = root.path().join("a/link");
        let mut pusher = disk.debts();
        pusher.make_parent(&link).unwrap();
        pusher.place(disk.draft(b"digest").unwrap(), &link).unwrap();
        assert!(disk.remove(&link).unwrap());
        fs::remove_dir(root.path().join("a")).unwrap();
        pusher.pay().unwrap();
        assert!(disk.is_trusted());
    }
}
