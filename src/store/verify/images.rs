//! The records of one image, against each other and against what is stored.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use super::Keeps;
use super::defect::{Defect, Mend, Problem};
use super::look::{Said, foreign, linked, list, said, wrong};
use super::manifests;
use crate::oci::manifest::Contents;
use crate::oci::{Digest, Tag};
use crate::store::history;
use crate::store::layout::Place;
use crate::store::records::Records;
use crate::store::{disk, trash};

/// A longer file is no history.
const LONGEST_HISTORY: u64 = 1 << 20;

/// One image, being looked at.
pub(super) struct Look<'a> {
    pub(super) records: &'a Records,
    pub(super) place: &'a Place,
    pub(super) keeps: Keeps,
    pub(super) problems: Vec<Problem>,
    /// What lies under a link, whatever that says.
    pub(super) layers: HashMap<Digest, Said>,
    pub(super) revisions: HashMap<Digest, Said>,
    /// What the manifests that can be read say.
    pub(super) manifests: HashMap<Digest, Contents>,
    /// How many links there are.
    pub(super) links: u64,
}

impl<'a> Look<'a> {
    pub(super) fn at(records: &'a Records, place: &'a Place, keeps: Keeps) -> Self {
        let mut look = Self {
            records,
            place,
            keeps,
            problems: Vec::new(),
            layers: HashMap::new(),
            revisions: HashMap::new(),
            manifests: HashMap::new(),
            links: 0,
        };
        let layers = linked(&records.layout.layers(place), &[], &mut look.problems);
        // `signatures` is registry:2's.
        let beside = ["media-type", "signatures"];
        let revisions = linked(&records.layout.revisions(place), &beside, &mut look.problems);
        for entry in list(&records.layout.image(place).join("_manifests"), &mut look.problems) {
            if !matches!(&*entry.name, "revisions" | "tags") {
                foreign(&entry.path, &mut look.problems);
            }
        }
        look.layers = said_of(&layers);
        look.revisions = said_of(&revisions);
        look.links = (layers.len() + revisions.len()) as u64;
        for (digest, path, said) in &revisions {
            look.revision(digest, path, said);
        }
        manifests::check(&mut look);
        let needed: HashSet<Digest> = look.needed();
        for (digest, path, said) in &layers {
            look.layer(digest, path, said, &needed);
        }
        look.tags();
        look
    }

    fn needed(&self) -> HashSet<Digest> {
        let contents = self.manifests.values();
        let blobs = contents.flat_map(|contents| contents.config.iter().chain(&contents.layers));
        blobs.map(|descriptor| descriptor.digest.clone()).collect()
    }

    /// Whether bytes that could be it are stored.
    pub(super) fn is_stored(&self, digest: &Digest) -> bool {
        let found = std::fs::symlink_metadata(self.records.layout.blob(digest));
        match found {
            Ok(found) => found.is_symlink() || (found.is_file() && (found.len() > 0 || digest.is_of_nothing())),
            Err(error) => !disk::is_absence(&error),
        }
    }

    /// Whether this image had it, and the trash still has its bytes.
    pub(super) fn is_in_trash(&self, digest: &Digest) -> bool {
        trash::has(&self.records.layout, digest)
    }

    fn layer(&mut self, digest: &Digest, path: &PathBuf, said: &Said, needed: &HashSet<Digest>) {
        let is_remote = self.keeps == Keeps::Remote;
        let lost = if self.is_in_trash(digest) {
            Mend::PutBack(digest.clone())
        } else if is_remote || (self.manifests.len() == self.revisions.len() && !needed.contains(digest)) {
            Mend::Unlink(digest.clone())
        } else {
            Mend::Leave
        };
        self.link(Defect::LayerDangling, digest, path, said, lost);
    }

    fn revision(&mut self, digest: &Digest, path: &PathBuf, said: &Said) {
        let lost = if self.is_in_trash(digest) {
            Mend::PutBack(digest.clone())
        } else if self.keeps == Keeps::Remote {
            Mend::ForgetManifest(digest.clone())
        } else {
            Mend::Leave
        };
        self.link(Defect::RevisionDangling, digest, path, said, lost);
    }

    /// `lost` is what can be done when the bytes are not stored.
    fn link(&mut self, dangling: Defect, digest: &Digest, path: &PathBuf, said: &Said, lost: Mend) {
        let is_stored = self.is_stored(digest);
        if let Some(defect) = wrong(said, digest) {
            let mend = if is_stored { Mend::Link(digest.clone()) } else { lost };
            self.problems.push(Problem::new(defect, path, mend));
        } else if matches!(said, Said::Digest(_)) && !is_stored {
            self.problems.push(Problem::new(dangling, path, lost));
        }
    }

    fn tags(&mut self) {
        let root = self.records.layout.tags(self.place);
        for entry in list(&root, &mut self.problems) {
            match entry.name.parse::<Tag>() {
                Ok(tag) if entry.is_directory => self.tag(&tag),
                _ => {
                    let problem = Problem::new(Defect::TagNoName, entry.path, Mend::PutAside);
                    self.problems.push(problem);
                }
            }
        }
    }

    fn tag(&mut self, tag: &Tag) {
        let layout = &self.records.layout;
        let (directory, current) = (layout.tag(self.place, tag), layout.current(self.place, tag));
        for entry in list(&directory, &mut self.problems) {
            if !matches!(&*entry.name, "current" | "index" | "history") {
                foreign(&entry.path, &mut self.problems);
            }
        }
        let meant = linked(&directory.join("index"), &[], &mut self.problems);
        for (digest, path, said) in &meant {
            if let Some(defect) = wrong(said, digest) {
                let mend = Mend::Link(digest.clone());
                self.problems.push(Problem::new(defect, path, mend));
            }
        }
        self.links += 1 + meant.len() as u64;
        match said(&current) {
            Said::Absent => {
                let problem = Problem::new(Defect::TagLeftOver, directory, Mend::PutAside);
                self.problems
                    .push(problem.because(&"it was deleted, or what it meant is lost"));
                return;
            }
            Said::Empty => self.senseless(Defect::TagEmpty, tag, current, &meant),
            Said::Garbage | Said::NotAFile => self.senseless(Defect::TagGarbage, tag, current, &meant),
            Said::Digest(digest) => self.meaning(tag, &digest, current),
            Said::Unclear => {}
        }
        self.history(tag);
    }

    /// A tag that is here and does not say what it means.
    fn senseless(&mut self, defect: Defect, tag: &Tag, path: PathBuf, meant: &[(Digest, PathBuf, Said)]) {
        let known = self.story(tag).and_then(|story| story.meanings.last().cloned());
        let guess = match (known, meant) {
            (Some(last), _) => Some(last.digest),
            (None, [(only, ..)]) => Some(only.clone()),
            _ => None,
        };
        let mend = match guess.filter(|digest| self.manifests.contains_key(digest)) {
            Some(digest) => Mend::SetTag(tag.clone(), digest),
            None if self.keeps == Keeps::Remote => Mend::ForgetTag(tag.clone()),
            None => Mend::Leave,
        };
        self.problems.push(Problem::new(defect, path, mend));
    }

    fn meaning(&mut self, tag: &Tag, digest: &Digest, path: PathBuf) {
        // What has a link, of whatever kind, is told there.
        let is_linked = self.revisions.get(digest).is_some_and(|said| *said != Said::Absent);
        if !is_linked {
            let mend = if manifests::is_one(self.records, digest) {
                Mend::Revision(digest.clone())
            } else if self.keeps == Keeps::Remote {
                Mend::ForgetTag(tag.clone())
            } else {
                Mend::Leave
            };
            let problem = Problem::new(Defect::TagDangling, path, mend).because(&digest);
            self.problems.push(problem);
        }
        let note = self.records.layout.meaning(self.place, tag, digest);
        if said(&note) == Said::Absent {
            let mend = Mend::Link(digest.clone());
            self.problems.push(Problem::new(Defect::TagMeaningMissing, note, mend));
        }
    }

    fn history(&mut self, tag: &Tag) {
        let path = self.records.layout.history(self.place, tag);
        if path.symlink_metadata().is_ok_and(|found| !found.is_symlink()) && self.story(tag).is_none() {
            let problem = Problem::new(Defect::TagHistoryGarbage, path, Mend::PutAside);
            self.problems
                .push(problem.because(&"whether the tag was pinned is lost with it"));
        }
    }

    fn story(&self, tag: &Tag) -> Option<history::Story> {
        let path = self.records.layout.history(self.place, tag);
        let text = disk::read_small(&path, LONGEST_HISTORY).ok()??;
        history::parse(&text).ok()
    }
}

fn said_of(links: &[(Digest, PathBuf, Said)]) -> HashMap<Digest, Said> {
    let said = links.iter().map(|(digest, _, said)| (digest.clone(), said.clone()));
    said.collect()
}
