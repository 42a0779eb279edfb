//! What is pushed, against the most that its repository may have. Nothing is let go to make room for it.

use super::now;
use crate::oci::{Digest, RepositoryKey};
use crate::store::{Error, Inner};

impl Inner {
    /// Counts a blob that is about to be in a repository against its quota, if there is one. Whether it was counted now.
    pub(in crate::store) fn take_quota(
        &self,
        repository: &RepositoryKey,
        digest: &Digest,
        size: u64,
    ) -> Result<bool, Error> {
        let Some(kept) = self.keep.get(repository).filter(|kept| !kept.evictable) else {
            return Ok(false);
        };
        self.read_account(&kept)?;
        {
            let mut account = kept.account();
            if account.has(digest) {
                return Ok(false);
            }
            account.check_quota(size)?;
            account.add(digest, size, now());
        }
        self.keep.show(&kept);
        Ok(true)
    }

    /// Refuses if a blob would be too much for a repository that has not got it. What cannot be finished is better not
    /// begun: without a digest, it is whether anything fits at all.
    pub(in crate::store) fn check_quota(
        &self,
        repository: &RepositoryKey,
        blob: Option<(&Digest, u64)>,
    ) -> Result<(), Error> {
        let Some(kept) = self.keep.get(repository).filter(|kept| !kept.evictable) else {
            return Ok(());
        };
        self.read_account(&kept)?;
        let account = kept.account();
        match blob {
            Some((digest, _)) if account.has(digest) => Ok(()),
            Some((_, size)) => account.check_quota(size),
            None => account.check_quota(1),
        }
    }

    /// Refuses if blobs would be too much for a repository, all of those together that it has not got.
    pub(in crate::store) fn check_quota_for_all(
        &self,
        repository: &RepositoryKey,
        blobs: &[(&Digest, u64)],
    ) -> Result<(), Error> {
        let Some(kept) = self.keep.get(repository).filter(|kept| !kept.evictable) else {
            return Ok(());
        };
        self.read_account(&kept)?;
        let account = kept.account();
        let new = blobs.iter().filter(|(digest, _)| !account.has(digest));
        match new.map(|(_, size)| *size).sum() {
            0 => Ok(()),
            more => account.check_quota(more),
        }
    }
}
