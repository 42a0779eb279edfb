//! Looking for damage, and mending it, while the server runs.
//!
//! Every file of the tree is looked at, the bytes of every blob are hashed, and nothing but the tree is believed. First
//! comes what belongs to nobody, then content, then the records of each image, which are judged by the content that is left.
//!
//! Beside whoever writes: what seems wrong with an image is looked at again with the image's turn, what seems wrong with a
//! file once it is known to be still the same, and only what is wrong then is believed. With the same turn it is mended.
//!
//! Nothing is removed that could be worth anything: it goes to `quarantine/`, under the path that it had.

mod blobs;
mod defect;
mod images;
mod look;
mod manifests;
mod mend;
mod rest;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

pub use defect::Defect;

use super::disk::Disk;
use super::layout::{Layout, Place};
use super::records::Records;
use super::{Error, Image, Inner, Options, Store, blocking};
use crate::oci::{Digest, RepositoryKey};
use crate::telemetry::Metrics;
use blobs::Wrong;
use defect::{Mend, Problem};
use images::Look;
use mend::Quarantine;

/// So many findings are told one by one.
const TOLD: usize = 10_000;
/// How often an image is looked at again after something of it was mended: one thing may hide another.
const ROUNDS: usize = 4;
/// How long a pass that takes its time sleeps before it looks whether the store was closed.
const NAP: Duration = Duration::from_millis(100);

/// What a repository promises of what its manifests need.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keeps {
    /// It is all here.
    Local,
    /// It need not be here, and cannot be fetched.
    #[default]
    Sparse,
    /// It can be fetched again.
    Remote,
}

/// What may be changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Repair {
    /// Nothing, not a byte.
    #[default]
    Nothing,
    /// Damaged content is put aside, and what can be fetched is.
    Content,
    /// All that can be mended is.
    All,
}

/// What is to be looked at, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verifying {
    /// The repositories there are; of others nothing is expected.
    pub repositories: HashMap<RepositoryKey, Keeps>,
    /// What may be changed.
    pub repair: Repair,
    /// The most bytes to read in a second; without it, as many as come.
    pub rate: Option<u64>,
}

/// What has become of something that was wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It was not to be mended.
    Found,
    /// It is right again.
    Mended,
    /// It was put aside.
    Quarantined,
    /// It cannot be mended from what is here.
    Left,
}

/// Something that was wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What.
    pub defect: Defect,
    /// Where, below the store's directory.
    pub path: String,
    /// More about it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// What has become of it.
    pub outcome: Outcome,
}

/// What a pass has found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// Contents that were hashed.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Images that were looked at.
    pub images: u64,
    /// Their links.
    pub links: u64,
    /// What is wrong and stays so.
    pub problems: u64,
    /// What was wrong and is not any more.
    pub mended: u64,
    /// What a crash leaves behind, and nobody misses.
    pub notices: u64,
    /// All of it, but for what is too much.
    pub findings: Vec<Finding>,
}

/// How fast bytes are read.
pub(super) struct Pace<'a> {
    rate: Option<u64>,
    began: Instant,
    bytes: u64,
    inner: Option<&'a Inner>,
}

impl Pace<'_> {
    /// So many more have been read.
    fn went(&mut self, bytes: u64) -> Result<(), Error> {
        self.bytes += bytes;
        loop {
            if self.inner.is_some_and(|inner| inner.turns.is_closed()) {
                return Err(Error::Closed);
            }
            let due = self
                .rate
                .map_or(0, |rate| self.bytes.saturating_mul(1000) / rate.max(1));
            let early = Duration::from_millis(due).saturating_sub(self.began.elapsed());
            if early.is_zero() {
                return Ok(());
            }
            std::thread::sleep(early.min(NAP));
        }
    }
}

/// One pass.
pub(super) struct Pass<'a> {
    records: &'a Records,
    /// The store, if we have it open.
    inner: Option<&'a Arc<Inner>>,
    what: &'a Verifying,
    quarantine: Quarantine,
    pace: Pace<'a>,
    /// How long things should be: asked for once something is not.
    sizes: Option<HashMap<Digest, u64>>,
    report: Verified,
}

impl<'a> Pass<'a> {
    fn new(records: &'a Records, inner: Option<&'a Arc<Inner>>, what: &'a Verifying) -> Self {
        Self {
            records,
            inner,
            what,
            quarantine: Quarantine::of(&records.layout),
            pace: Pace {
                rate: what.rate,
                began: Instant::now(),
                bytes: 0,
                inner: inner.map(|inner| &**inner),
            },
            sizes: None,
            report: Verified::default(),
        }
    }

    fn run(mut self) -> Result<Verified, Error> {
        if self.inner.is_none() {
            rest::check(&mut self)?;
        }
        blobs::check_trash(&mut self)?;
        blobs::check(&mut self)?;
        rest::walk(&mut self)?;
        self.report.bytes = self.pace.bytes;
        Ok(self.report)
    }

    fn may_mend(&self, defect: Defect) -> bool {
        self.inner.is_some()
            && match self.what.repair {
                Repair::Nothing => false,
                Repair::Content => defect.is_of_content(),
                Repair::All => true,
            }
    }

    fn tell(&mut self, problem: Problem, outcome: Outcome) {
        let Problem {
            defect, path, detail, ..
        } = problem;
        let path = path.strip_prefix(self.records.layout.root()).unwrap_or(&path);
        let path = path.to_string_lossy().into_owned();
        let report = &mut self.report;
        match outcome {
            Outcome::Mended | Outcome::Quarantined => report.mended += 1,
            Outcome::Found | Outcome::Left if defect.is_notice() => report.notices += 1,
            Outcome::Found | Outcome::Left => report.problems += 1,
        }
        if report.findings.len() < TOLD {
            report.findings.push(Finding {
                defect,
                path,
                detail,
                outcome,
            });
        }
    }

    /// Tells and mends what belongs to no image.
    fn settle_files(&mut self, problems: Vec<Problem>) -> Result<(), Error> {
        for problem in problems {
            // It may have been on its way out.
            if problem.path.symlink_metadata().is_err() {
                continue;
            }
            let outcome = if self.may_mend(problem.defect) {
                mend::mend_file(self.records, &self.quarantine, &problem, None)?
            } else {
                Outcome::Found
            };
            self.tell(problem, outcome);
        }
        Ok(())
    }

    /// The bytes of a blob are wrong.
    fn damaged(&mut self, digest: &Digest, wrong: Wrong, path: &Path) -> Result<(), Error> {
        let size = path.symlink_metadata().map(|found| found.len()).unwrap_or_default();
        let records = self.records;
        let known = self.sizes.get_or_insert_with(|| blobs::sizes(records)).get(digest);
        let defect = match known {
            _ if size == 0 => wrong.defect,
            Some(known) if size < *known => Defect::BlobTruncated,
            Some(known) if size > *known => Defect::BlobLonger,
            _ => wrong.defect,
        };
        let _alone = records.blobs.guards.exclude(digest);
        if !blobs::is_same(&records.layout, digest, &wrong) {
            return Ok(());
        }
        let problem = Problem::new(defect, path, Mend::PutAside);
        let outcome = if self.may_mend(defect) {
            records
                .blobs
                .damaged(digest, "its bytes have another digest, and are put aside");
            mend::mend_file(records, &self.quarantine, &problem, None)?
        } else {
            Outcome::Found
        };
        self.tell(problem, outcome);
        Ok(())
    }

    /// Looks at an image.
    fn image(&mut self, place: &Place) -> Result<(), Error> {
        let keeps = self.what.repositories.get(&place.repository).copied();
        let keeps = keeps.unwrap_or_default();
        let first = Look::at(self.records, place, keeps);
        self.report.images += 1;
        self.report.links += first.links;
        let Some(inner) = self.inner else {
            for problem in first.problems {
                self.tell(problem, Outcome::Found);
            }
            return Ok(());
        };
        if first.problems.is_empty() {
            return Ok(());
        }
        let image = Image::new(Arc::clone(inner), place.clone());
        let _turn = inner.turns.take_now(image.stripe)?;
        let mut settled: Vec<(Problem, Outcome)> = Vec::new();
        for _ in 0..ROUNDS {
            let now = Look::at(self.records, place, keeps).problems;
            for (known, outcome) in &mut settled {
                let is_back = |problem: &Problem| problem.defect == known.defect && problem.path == known.path;
                let is_there = now.iter().any(is_back);
                match outcome {
                    Outcome::Mended | Outcome::Quarantined if is_there => *outcome = Outcome::Left,
                    // Something else that was mended has mended it too.
                    Outcome::Left if !is_there => *outcome = Outcome::Mended,
                    _ => {}
                }
            }
            let is_new = |problem: &Problem| {
                let mut settled = settled.iter();
                !settled.any(|(known, _)| {
                    known.defect == problem.defect && known.path == problem.path && known.detail == problem.detail
                })
            };
            let new: Vec<Problem> = now.into_iter().filter(is_new).collect();
            if new.is_empty() {
                break;
            }
            for problem in new {
                let outcome = if self.may_mend(problem.defect) {
                    mend::mend_image(inner, &image, &self.quarantine, &problem).unwrap_or_else(|error| {
                        tracing::warn!(path = %problem.path.display(), %error, "what is damaged could not be mended");
                        Outcome::Left
                    })
                } else {
                    Outcome::Found
                };
                settled.push((problem, outcome));
            }
        }
        for (problem, outcome) in settled {
            self.tell(problem, outcome);
        }
        Ok(())
    }
}

impl Store {
    /// Looks at everything, and mends what may be.
    pub async fn verify(&self, what: Verifying) -> Result<Verified, Error> {
        self.inner.indexed().await;
        let inner = Arc::clone(&self.inner);
        let metrics = Arc::clone(&inner.blobs.metrics);
        let done = blocking(move || Pass::new(&inner.records, Some(&inner), &what).run()).await;
        metrics.verified(done.as_ref().ok().map(|done| (done.bytes, done.problems)));
        done
    }

    /// Looks at a store that nobody has open. Not a byte of it is changed.
    pub async fn examine(options: &Options, what: Verifying, metrics: Arc<Metrics>) -> Result<Verified, Error> {
        let layout = Layout::new(&options.path);
        blocking(move || {
            let records = Records::of(&layout, &Arc::new(Disk::new(&layout, &metrics)), &metrics);
            Pass::new(&records, None, &what).run()
        })
        .await
    }
}
