//! What is on the disk, and what of it nothing needs: the whole tree is looked at, and nothing but the tree is believed.
//!
//! What is not found here to be needed goes, sooner or later. So what cannot be read is an error, and of an image with a
//! manifest that cannot be read nothing is loose.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;

use crate::oci::{Algorithm, Digest, RepositoryKey};
use crate::store::Error;
use crate::store::disk::{is_absence, read_small};
use crate::store::keep::{entries, place_of};
use crate::store::layout::Place;
use crate::store::records::{self, Listed, Records};
use crate::store::trash;

/// A link is read up to this length.
const LONGEST_LINK: u64 = 1024;

/// What the tree says.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// How many links there are to a digest, by a part of it: should two have the same, both seem to be needed.
    holders: HashMap<u128, u32>,
    /// Blobs that may be read in an image of which no manifest needs them, and their bytes.
    pub(super) loose: HashMap<(Place, Digest), u64>,
    /// Content that nothing is linked to, and its bytes.
    pub(super) orphans: HashMap<Digest, u64>,
    /// What has been taken away already, and its bytes.
    pub(super) trash: HashMap<Digest, u64>,
    /// Images of which it cannot be told what they need, and why.
    pub(super) unclear: Vec<(Place, String)>,
}

impl Survey {
    /// Looks at everything. Only images of these repositories can have loose links: what remotes keep is not decided here.
    pub(super) fn of(records: &Records, local: &[RepositoryKey]) -> Result<Self, Error> {
        let mut survey = Self::default();
        let root = records.layout.repositories();
        let mut open = vec![root.clone()];
        while let Some(path) = open.pop() {
            let mut is_image = false;
            for name in entries(&path)? {
                match &*name {
                    "_layers" | "_manifests" => is_image = true,
                    _ if name.starts_with('_') => {}
                    _ => open.push(path.join(&name)),
                }
            }
            if is_image {
                let place = place_of(&root, &path).filter(|place| local.contains(&place.repository));
                survey.look_at(records, &path, place)?;
            }
        }
        survey.look_for_orphans(records)?;
        survey.trash = trash::list(&records.layout)?;
        Ok(survey)
    }

    /// Whether anything is linked to a digest.
    pub(super) fn is_held(&self, digest: &Digest) -> bool {
        self.holders.get(&part(digest)).is_some_and(|count| *count > 0)
    }

    /// One link to it is gone.
    pub(super) fn let_go(&mut self, digest: &Digest) {
        if let Some(count) = self.holders.get_mut(&part(digest)) {
            *count = count.saturating_sub(1);
        }
    }

    /// The bytes that will be free once nothing waits any more.
    pub(super) fn waiting_bytes(&self) -> u64 {
        let mut loose: HashMap<&Digest, (u32, u64)> = HashMap::new();
        for ((_, digest), size) in &self.loose {
            loose.entry(digest).or_insert((0, *size)).0 += 1;
        }
        let only_loose = loose
            .into_iter()
            .filter(|(digest, (links, _))| self.holders.get(&part(digest)) == Some(links));
        let loose: u64 = only_loose.map(|(_, (_, size))| size).sum();
        loose + self.orphans.values().chain(self.trash.values()).sum::<u64>()
    }

    fn hold(&mut self, digest: &Digest) {
        *self.holders.entry(part(digest)).or_default() += 1;
    }

    fn look_at(&mut self, records: &Records, path: &Path, local: Option<Place>) -> Result<(), Error> {
        let revisions = linked(&path.join("_manifests/revisions"))?;
        let layers = linked(&path.join("_layers"))?;
        revisions.iter().chain(&layers).for_each(|digest| self.hold(digest));
        let tags = path.join("_manifests/tags");
        for tag in entries(&tags)? {
            // A tag that means a manifest that is not there is damage: nothing of it shall go before it is mended.
            let link = read_small(&tags.join(tag).join("current/link"), LONGEST_LINK)?;
            if let Some(digest) = link.and_then(|text| records::parse(&text)) {
                self.hold(&digest);
            }
        }
        if let Some(place) = local {
            match needed(records, &place, &revisions)? {
                Ok(needed) => {
                    for digest in layers.into_iter().filter(|digest| !needed.contains(digest)) {
                        let size = records.blobs.look(&digest)?.map_or(0, |(size, _)| size);
                        self.loose.insert((place.clone(), digest), size);
                    }
                }
                Err(why) => self.unclear.push((place, why)),
            }
        }
        Ok(())
    }

    fn look_for_orphans(&mut self, records: &Records) -> Result<(), Error> {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let directory = records.layout.blobs().join(algorithm.as_str());
            for prefix in entries(&directory)? {
                for hex in entries(&directory.join(&prefix))? {
                    let Ok(digest) = format!("{algorithm}:{hex}").parse::<Digest>() else {
                        continue;
                    };
                    if !self.is_held(&digest)
                        && let Some((size, _)) = records.blobs.look(&digest)?
                    {
                        self.orphans.insert(digest, size);
                    }
                }
            }
        }
        Ok(())
    }
}

/// The blobs that an image's manifests need; or why that cannot be told.
fn needed(records: &Records, place: &Place, revisions: &[Digest]) -> Result<Result<HashSet<Digest>, String>, Error> {
    let mut needed = HashSet::new();
    for digest in revisions {
        let contents = match records.listed(place, digest)? {
            Listed::Says(contents) => contents,
            Listed::Gone => continue,
            Listed::Unreadable => return Ok(Err(format!("the manifest {digest} cannot be read"))),
        };
        let blobs = contents.config.into_iter().chain(contents.layers);
        needed.extend(blobs.map(|descriptor| descriptor.digest));
    }
    Ok(Ok(needed))
}

/// The digests that have a link below a directory, whatever it says.
fn linked(directory: &Path) -> Result<Vec<Digest>, Error> {
    let mut linked = Vec::new();
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        let directory = directory.join(algorithm.as_str());
        for hex in entries(&directory)? {
            let path = directory.join(&hex).join("link");
            match fs::symlink_metadata(&path) {
                Ok(_) => linked.extend(format!("{algorithm}:{hex}").parse::<Digest>()),
                Err(error) if is_absence(&error) => {}
                Err(error) => return Err(Error::disk(&path)(error)),
            }
        }
    }
    Ok(linked)
}

/// As much of a digest as fits: of those that are needed there may be millions.
fn part(digest: &Digest) -> u128 {
    u128::from_str_radix(&digest.hex()[..32], 16).unwrap_or_default()
}
