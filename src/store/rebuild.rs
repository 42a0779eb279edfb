//! The index from the tree: every image is visited, every record read. What is damaged is told and left out.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use std::{fs, io};

use super::IndexCounts;
use super::disk::is_absence;
use super::error::Error;
use super::index::Index;
use super::layout::{Layout, Place};
use super::records::Records;
use super::rows::Changes;
use super::stamp::Reason;
use super::turns::Turns;
use crate::oci::{Algorithm, Descriptor, Digest, ImageName, Page, RepositoryKey};

/// How much of an image is read in one of its turns.
const STEP: usize = 256;

/// Tells an index that has begun anew of everything in the tree, unless `may_go_on` says no. An image is read a little at a
/// time, each time with its turn: what was written to it before is read, and who writes after that tells the index himself.
pub(super) fn rebuild(
    index: &Index,
    records: &Records,
    turns: &Turns,
    reason: Reason,
    may_go_on: &dyn Fn() -> Result<(), Error>,
) -> Result<IndexCounts, Error> {
    let began = std::time::Instant::now();
    walk(&records.layout, &mut |place| {
        may_go_on()?;
        crate::mishap::at("rebuild");
        let visit = Visit {
            index,
            records,
            turns,
            place,
        };
        visit.tell()?;
        Ok(false)
    })?;
    index.complete()?;
    let counts = index.counts()?;
    // There is nothing to tell about a store in which nothing is yet.
    if reason != Reason::Missing || counts != IndexCounts::default() {
        records.blobs.metrics.index_rebuilt(reason.as_str());
        tracing::warn!(
            reason = reason.as_str(),
            images = counts.images,
            tags = counts.tags,
            manifests = counts.manifests,
            blobs = counts.blobs,
            duration_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
            "the index was rebuilt from the disk"
        );
    }
    Ok(counts)
}

/// Whether there is any record that an index would have to know.
pub(super) fn has_records(records: &Records) -> Result<bool, Error> {
    let mut found = false;
    walk(&records.layout, &mut |place| {
        found = found || records.revisions(place).next().is_some() || records.layers(place).next().is_some();
        Ok(found)
    })?;
    Ok(found)
}

/// Whether anything that the index lists was added to the tree or taken from it later than then, by somebody else. What
/// a tag means does not matter here: that is read from the tree.
pub(super) fn has_changed(layout: &Layout, since: SystemTime) -> bool {
    // What cannot be looked at may have changed.
    let is_later = |path: &Path| match fs::metadata(path).and_then(|found| found.modified()) {
        Ok(modified) => modified > since,
        Err(error) => !is_absence(&error),
    };
    let mut changed = is_later(&layout.repositories());
    let walked = walk(layout, &mut |place| {
        let image = layout.image(place);
        let nested = image.ancestors().take(1 + place.image.components().count());
        let mut listings = vec![layout.tags(place)];
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            listings.push(layout.revisions(place).join(algorithm.as_str()));
            listings.push(layout.layers(place).join(algorithm.as_str()));
        }
        changed = changed || nested.map(Path::to_owned).chain(listings).any(|path| is_later(&path));
        Ok(changed)
    });
    changed || walked.is_err()
}

/// Visits every image on the disk, in no order, until told that it is enough.
pub(super) fn walk(layout: &Layout, visit: &mut dyn FnMut(&Place) -> Result<bool, Error>) -> Result<(), Error> {
    // A directory that is no key, as registry:2 may have left here, cannot be reached and needs no rows.
    let keys = directories(&layout.repositories()).into_iter();
    let keys = keys.filter_map(|(path, name)| Some((path, name.parse::<RepositoryKey>().ok()?)));
    let mut open: Vec<(PathBuf, RepositoryKey, Option<ImageName>)> =
        keys.map(|(path, key)| (path, key, None)).collect();
    while let Some((path, key, image)) = open.pop() {
        let mut is_image = false;
        for (path, name) in directories(&path) {
            is_image = is_image || matches!(&*name, "_manifests" | "_layers");
            let name = image
                .as_ref()
                .map_or_else(|| name.clone(), |image| format!("{image}/{name}"));
            // What is no name, or too long for one, cannot be asked for; nor can what is below it.
            if let Ok(image) = name.parse() {
                open.push((path, key.clone(), Some(image)));
            }
        }
        if let Some(image) = image.filter(|_| is_image)
            && visit(&Place { repository: key, image })?
        {
            break;
        }
    }
    Ok(())
}

/// The directories in a directory. Links are not followed: they could lead in a circle.
fn directories(path: &Path) -> Vec<(PathBuf, String)> {
    let read = || -> io::Result<Vec<(PathBuf, String)>> {
        let mut directories = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            if entry.file_type()?.is_dir()
                && let Ok(name) = entry.file_name().into_string()
            {
                directories.push((entry.path(), name));
            }
        }
        Ok(directories)
    };
    read().unwrap_or_else(|error| {
        // Removed since it was seen.
        if is_absence(&error) {
            return Vec::new();
        }
        tracing::error!(path = %path.display(), %error, "a directory cannot be read: what is in it will be missing in lists");
        Vec::new()
    })
}

/// One image, of which the index is told.
struct Visit<'a> {
    index: &'a Index,
    records: &'a Records,
    turns: &'a Turns,
    place: &'a Place,
}

impl Visit<'_> {
    fn tell(&self) -> Result<(), Error> {
        let Self { records, place, .. } = *self;
        self.in_steps(records.tags(place).map(some), |changes, (tag, digest)| {
            changes.tag(place, &tag, &digest, None);
            Ok(())
        })?;
        let manifest = |digest: Result<Digest, Error>| digest.and_then(|digest| records.manifest(place, &digest));
        let mut sizes: HashMap<Digest, u64> = HashMap::new();
        self.in_steps(
            records.revisions(place).map(manifest),
            |changes, (manifest, contents)| {
                changes.manifest(place, &manifest, &contents);
                let blobs = contents.config.into_iter().chain(contents.layers);
                sizes.extend(blobs.map(|descriptor| (descriptor.digest, descriptor.size)));
                Ok(())
            },
        )?;
        self.in_steps(records.layers(place).map(some), |changes, digest| {
            // A file that is shorter than its manifest says was cut: what the file itself says would be believed for ever.
            let size = match sizes.get(&digest) {
                Some(size) => Some(*size),
                None => records.blobs.look(&digest)?.map(|(size, _)| size),
            };
            match size {
                Some(size) => changes.blob(place, &digest, size),
                None => changes.blob_of_some_size(place, &digest),
            }
            Ok(())
        })
    }

    /// Reads on, and tells the index, in the image's turn.
    fn in_steps<T>(
        &self,
        mut rows: impl Iterator<Item = Result<Option<T>, Error>>,
        mut add: impl FnMut(&mut Changes, T) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let stripe = self.turns.stripe(self.place);
        loop {
            let _turn = self.turns.take_now(stripe)?;
            let mut changes = Changes::default();
            let mut is_over = true;
            for row in rows.by_ref().take(STEP) {
                is_over = false;
                if let Some(row) = readable(self.place, row) {
                    add(&mut changes, row)?;
                }
            }
            self.index.apply(changes);
            if is_over {
                return Ok(());
            }
        }
    }
}

fn some<T>(read: Result<T, Error>) -> Result<Option<T>, Error> {
    read.map(Some)
}

fn readable<T>(place: &Place, read: Result<Option<T>, Error>) -> Option<T> {
    read.unwrap_or_else(|error| {
        tracing::warn!(repository = %place.repository, image = %place.image, %error, "a record that cannot be read is left out of the index");
        None
    })
}

/// What [`Index::tags`] answers, without it.
pub(super) fn tags(records: &Records, place: &Place, page: &Page) -> Result<(Vec<String>, bool), Error> {
    let mut tags = Vec::new();
    for read in records.tags(place) {
        tags.push(read?.0.to_string());
    }
    tags.sort_unstable();
    Ok(page.cut(tags))
}

/// What [`Index::images`] answers, without it.
pub(super) fn images(records: &Records, repository: &RepositoryKey) -> Result<Vec<ImageName>, Error> {
    let mut images = Vec::new();
    walk(&records.layout, &mut |place| {
        if place.repository == *repository && records.revisions(place).next().transpose()?.is_some() {
            images.push(place.image.clone());
        }
        Ok(false)
    })?;
    images.sort_unstable();
    Ok(images)
}

/// What [`Index::contents`] answers, without it.
pub(super) fn contents(records: &Records, repository: &RepositoryKey) -> Result<(Vec<Digest>, Vec<Digest>), Error> {
    let (mut blobs, mut manifests) = (BTreeSet::new(), BTreeSet::new());
    walk(&records.layout, &mut |place| {
        if place.repository == *repository {
            for digest in records.layers(place) {
                blobs.insert(digest?);
            }
            for digest in records.revisions(place) {
                manifests.insert(digest?);
            }
        }
        Ok(false)
    })?;
    Ok((blobs.into_iter().collect(), manifests.into_iter().collect()))
}

/// What [`Index::has_owner_in`] answers, without it.
pub(super) fn has_owner_in(records: &Records, repository: &RepositoryKey, digest: &Digest) -> Result<bool, Error> {
    let mut found = false;
    walk(&records.layout, &mut |place| {
        found = place.repository == *repository && records.has_layer(place, digest)?;
        Ok(found)
    })?;
    Ok(found)
}

/// What [`Index::referrers`] answers, without it.
pub(super) fn referrers(records: &Records, place: &Place, subject: &Digest) -> Result<Vec<Descriptor>, Error> {
    let mut referrers = Vec::new();
    for digest in records.revisions(place) {
        if let Some((manifest, contents)) = records.manifest(place, &digest?)?
            && contents.subject.as_ref().is_some_and(|about| about.digest == *subject)
        {
            referrers.push(manifest.as_referrer(&contents));
        }
    }
    referrers.sort_unstable_by(|a, b| a.digest.as_str().cmp(b.digest.as_str()));
    Ok(referrers)
}
