//! What of a layout goes where.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::names::{Called, Placing, Target, is_about, target};
use super::read::Layout;
use crate::oci::{Descriptor, Digest, ImageName, Tag};

/// More manifests than any file has.
const MOST: usize = 100_000;
/// More than there can be to push, each manifest counted in each image that it goes to.
const MOST_PUSHED: usize = 1_000_000;

/// What is known of a manifest.
#[derive(Debug)]
pub(super) struct Node {
    /// As the layout lists it.
    pub(super) descriptor: Descriptor,
    /// Configuration and layers.
    pub(super) blobs: Vec<Descriptor>,
    children: Vec<Digest>,
    subject: Option<Digest>,
}

/// What goes to one image.
#[derive(Debug, Default)]
pub(super) struct Image {
    /// A manifest, what it lists before it, and the tag for the last.
    pub(super) units: Vec<Unit>,
}

/// A manifest with all that it lists.
#[derive(Debug)]
pub(super) struct Unit {
    /// From the leaves up.
    pub(super) manifests: Vec<Digest>,
    pub(super) tag: Option<Tag>,
}

/// All of it.
#[derive(Debug, Default)]
pub(in crate::cli) struct Plan {
    pub(super) images: BTreeMap<ImageName, Image>,
    pub(super) nodes: HashMap<Digest, Node>,
    /// What goes nowhere, and why: a line each.
    pub(super) problems: Vec<String>,
    pushed: usize,
}

impl Plan {
    /// Reads all manifests of a layout, and decides.
    pub(in crate::cli) fn of(layout: &Layout, into: &[Placing]) -> anyhow::Result<Self> {
        let mut plan = Self::default();
        plan.read(layout)?;
        let children: HashSet<Digest> = plan.nodes.values().flat_map(|node| node.children.clone()).collect();
        let mut named = HashSet::new();
        let mut only = BTreeSet::new();
        let mut open = Vec::new();
        // What has a name first: the same may be listed a second time without one.
        let (with, without): (Vec<_>, Vec<_>) = layout
            .entries
            .iter()
            .map(|entry| (entry, Called::by(entry.annotations.as_ref())))
            .partition(|(_, called)| called.is_some());
        for (entry, called) in with.into_iter().chain(without) {
            let digest = &entry.digest;
            let Some(node) = plan.nodes.get(digest) else {
                continue;
            };
            if called.is_none() {
                if named.contains(digest) || children.contains(digest) {
                    continue;
                }
                if node.subject.is_some() {
                    open.push(digest.clone());
                    continue;
                }
            }
            named.insert(digest.clone());
            match target(called.as_ref(), digest, into) {
                Ok(target) => {
                    let is_about = target.tag.as_ref().is_some_and(is_about);
                    if !is_about && into.iter().any(|into| matches!(into, Placing::Only(..))) {
                        only.insert(digest.clone());
                    }
                    plan.add(target, digest)?;
                }
                Err(why) => plan.problems.push(why),
            }
        }
        if only.len() > 1 {
            anyhow::bail!(
                "there are {} images in it, and `--into` says what one is called",
                only.len()
            );
        }
        plan.add_referrers(&open)?;
        Ok(plan)
    }

    /// The bytes of all blobs, if none is there already.
    pub(super) fn size(&self) -> u64 {
        let manifests = self.images.values().flat_map(|image| &image.units);
        let manifests: HashSet<&Digest> = manifests.flat_map(|unit| &unit.manifests).collect();
        let nodes = manifests.iter().filter_map(|digest| self.nodes.get(*digest));
        let blobs: HashMap<&Digest, u64> = nodes
            .flat_map(|node| &node.blobs)
            .map(|blob| (&blob.digest, blob.size))
            .collect();
        blobs.values().fold(0, |all, size| all.saturating_add(*size))
    }

    fn read(&mut self, layout: &Layout) -> anyhow::Result<()> {
        let listed: HashSet<&Digest> = layout.entries.iter().map(|entry| &entry.digest).collect();
        let mut open: Vec<Descriptor> = layout.entries.clone();
        let mut seen = HashSet::new();
        while let Some(descriptor) = open.pop() {
            if !seen.insert(descriptor.digest.clone()) {
                continue;
            }
            if seen.len() > MOST {
                anyhow::bail!("it has more than {MOST} manifests");
            }
            match layout.manifest(&descriptor) {
                Ok(Some((_, contents))) => {
                    open.extend(contents.manifests.iter().cloned());
                    let node = Node {
                        blobs: contents.config.into_iter().chain(contents.layers).collect(),
                        children: contents.manifests.into_iter().map(|child| child.digest).collect(),
                        subject: contents.subject.map(|subject| subject.digest),
                        descriptor,
                    };
                    self.nodes.insert(node.descriptor.digest.clone(), node);
                }
                Ok(None) => {
                    // Of an index only some platforms may be there: whether that will do, the server says.
                    if listed.contains(&descriptor.digest) {
                        self.problems
                            .push(format!("{} is listed, and not there", descriptor.digest));
                    }
                }
                Err(why) => self.problems.push(format!("{why:#}")),
            }
        }
        Ok(())
    }

    fn add(&mut self, target: Target, root: &Digest) -> anyhow::Result<()> {
        let manifests = self.below(root);
        self.pushed += manifests.len();
        if self.pushed > MOST_PUSHED {
            anyhow::bail!("it leads to more than {MOST_PUSHED} manifests");
        }
        let image = self.images.entry(target.name).or_default();
        image.units.push(Unit {
            manifests,
            tag: target.tag,
        });
        Ok(())
    }

    /// A manifest and all that it lists and is there, from the leaves up.
    fn below(&self, root: &Digest) -> Vec<Digest> {
        let mut order = Vec::new();
        let mut seen = HashSet::new();
        let mut open = vec![(root, false)];
        while let Some((digest, is_done)) = open.pop() {
            let Some(node) = self.nodes.get(digest) else {
                continue;
            };
            if is_done {
                order.push(digest.clone());
            } else if seen.insert(digest) {
                open.push((digest, true));
                open.extend(node.children.iter().rev().map(|child| (child, false)));
            }
        }
        order
    }

    /// What is about a manifest goes wherever that goes.
    fn add_referrers(&mut self, waiting: &[Digest]) -> anyhow::Result<()> {
        let mut about: HashMap<Digest, Vec<&Digest>> = HashMap::new();
        for digest in waiting {
            let subject = self.nodes.get(digest).and_then(|node| node.subject.clone());
            about
                .entry(subject.unwrap_or_else(|| digest.clone()))
                .or_default()
                .push(digest);
        }
        let mut placed = HashSet::new();
        let names: Vec<ImageName> = self.images.keys().cloned().collect();
        for name in names {
            let units = self.images.get(&name).map_or(&[][..], |image| &image.units);
            let mut open: Vec<Digest> = units.iter().flat_map(|unit| unit.manifests.clone()).collect();
            let mut here: HashSet<Digest> = open.iter().cloned().collect();
            while let Some(subject) = open.pop() {
                for digest in about.get(&subject).into_iter().flatten() {
                    if here.insert((*digest).clone()) {
                        placed.insert(*digest);
                        let (name, tag) = (name.clone(), None);
                        self.add(Target { name, tag }, digest)?;
                        open.extend(self.below(digest));
                    }
                }
            }
        }
        for digest in waiting.iter().filter(|digest| !placed.contains(digest)) {
            self.problems.push(format!(
                "{digest} has no name in the file and is about something that goes nowhere"
            ));
        }
        Ok(())
    }
}
