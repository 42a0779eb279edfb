//! What a search went by: which members it asked, which it left out, and why.
//!
//! The search itself writes it down while it goes ([`VirtualRepository`]), so that it cannot say
//! something else than what a pull does. Nobody looks on at a pull, which then writes nothing.

use std::sync::{Arc, Mutex, PoisonError};

use url::Url;

use super::virtual_repository::Member;
use super::{Error, Repository, Served, VirtualRepository};
use crate::oci::{Answer, ImageName, Manifest, Reference, RepositoryKey};
use crate::telemetry::metrics::Outcome;

/// What a search has found so far.
#[derive(Debug, Default)]
pub struct Trace(Mutex<Vec<Step>>);

/// What it found at one member.
#[derive(Clone, Debug)]
struct Step {
    through: RepositoryKey,
    member: RepositoryKey,
    finding: Finding,
}

/// What came of a member.
#[derive(Clone, Debug)]
pub(super) enum Finding {
    /// It had it.
    Answered,
    /// It does not have it; why nobody elsewhere was asked by it, if so.
    Absent { known: Option<&'static str> },
    /// Nothing of it is stored there; it may be asked yet.
    NotStored,
    /// It could not tell; whether nobody else may answer in its place.
    Failed { why: String, ends: bool },
    /// It has `priority`, and the image lives in it: those after it are not asked.
    Keeps,
}

/// Whether members are asked, or only looked at what they have stored.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stage {
    Stored,
    Asked,
}

impl Stage {
    pub(super) const fn absent(self) -> Finding {
        match self {
            Self::Stored => Finding::NotStored,
            Self::Asked => Finding::Absent { known: None },
        }
    }
}

/// What came of a search, and of each repository that it could have asked.
#[derive(Debug)]
pub struct Explained {
    /// What a pull would be answered.
    pub answer: Answer<Served<Manifest>, Error>,
    /// The repositories, in the order of the configuration.
    pub told: Vec<Told>,
}

/// What came of one repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The virtual repository whose member it is.
    pub through: Option<RepositoryKey>,
    /// The repository.
    pub repository: RepositoryKey,
    /// `local`, `remote` or `virtual`.
    pub kind: &'static str,
    /// What came of it.
    pub verdict: Verdict,
    /// Why, for a person.
    pub why: String,
    /// Where a remote asks for it: its mirrors in order, and last its upstream.
    pub places: Vec<Url>,
}

/// What came of a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It has it.
    Answered,
    /// It certainly does not.
    Absent,
    /// It could not tell.
    Failed,
    /// It was not asked.
    Skipped,
}

impl Verdict {
    /// Its word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Absent => "absent",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }
}

impl Trace {
    pub(super) fn note(&self, through: &RepositoryKey, member: &Member, finding: Finding) {
        let step = Step {
            through: through.clone(),
            member: member.repository.key().clone(),
            finding,
        };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(step);
    }

    fn steps(&self) -> Vec<Step> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A question, and what its answer looks like to whom it is told.
struct Telling<'a> {
    image: &'a ImageName,
    reference: &'a Reference,
    answer: &'a Answer<Served<Manifest>, Error>,
    steps: &'a [Step],
}

impl Repository {
    /// Asks for a manifest as a pull does, and says how the answer came about.
    pub async fn explain(&self, image: &ImageName, reference: &Reference) -> Explained {
        let trace = Arc::new(Trace::default());
        let known = self.why_not_asked(image, reference);
        let answer = self.traced(&trace).manifest(image, reference).await;
        let telling = Telling {
            image,
            reference,
            answer: &answer,
            steps: &trace.steps(),
        };
        let told = match self {
            Self::Virtual(several) => telling.of_members(several),
            Self::Local(_) | Self::Remote(_) => {
                let finding = match &answer {
                    Ok(Some(_)) => Finding::Answered,
                    Ok(None) => Finding::Absent { known },
                    Err(error) => Finding::Failed {
                        why: error.to_string(),
                        ends: true,
                    },
                };
                vec![telling.of(None, self, &finding)]
            }
        };
        Explained { answer, told }
    }

    /// The names by which this image is pulled: its own, and those of what is behind it.
    pub fn pull_names(&self, image: &ImageName) -> Vec<(RepositoryKey, ImageName)> {
        let image = match self {
            Self::Remote(remote) => remote.canonical(image),
            Self::Local(_) | Self::Virtual(_) => image.clone(),
        };
        let mut names = vec![(self.key().clone(), image.clone())];
        if let Self::Virtual(several) = self {
            let inside = several.members().iter();
            for name in inside.flat_map(|member| member.repository.pull_names(&image)) {
                if !names.contains(&name) {
                    names.push(name);
                }
            }
        }
        names
    }

    const fn kind(&self) -> &'static str {
        match self {
            Self::Local(_) => "local",
            Self::Remote(_) => "remote",
            Self::Virtual(_) => "virtual",
        }
    }
}

impl Telling<'_> {
    /// Of the members of a virtual repository that was searched.
    fn of_members(&self, several: &VirtualRepository) -> Vec<Told> {
        let here: Vec<&Step> = self
            .steps
            .iter()
            .filter(|step| step.through == *several.key())
            .collect();
        let mut told = Vec::new();
        for member in several.shown() {
            let repository = &member.repository;
            let own = here.iter().filter(|step| step.member == *repository.key());
            let last = own.rev().find(|step| !matches!(step.finding, Finding::Keeps));
            match last {
                Some(step) => {
                    told.push(self.of(Some(several.key()), repository, &step.finding));
                    if let Repository::Virtual(inner) = repository {
                        told.extend(self.of_members(inner));
                    }
                }
                None => told.push(Told {
                    why: why_skipped(&here),
                    verdict: Verdict::Skipped,
                    ..self.of(Some(several.key()), repository, &Finding::NotStored)
                }),
            }
        }
        told
    }

    fn of(&self, through: Option<&RepositoryKey>, repository: &Repository, finding: &Finding) -> Told {
        let (verdict, why) = match finding {
            Finding::Answered => (Verdict::Answered, self.how_answered(repository)),
            Finding::Absent { known: Some(why) } => (Verdict::Absent, (*why).to_owned()),
            Finding::Absent { known: None } => (Verdict::Absent, why_absent(repository).to_owned()),
            Finding::NotStored | Finding::Keeps => (Verdict::Absent, "nothing of it is stored here".to_owned()),
            Finding::Failed { why, ends: true } => {
                (Verdict::Failed, format!("{why}; nobody else may answer in its place"))
            }
            Finding::Failed { why, ends: false } => (Verdict::Failed, format!("{why}; passed over")),
        };
        let places = match repository {
            Repository::Remote(remote) => remote.places(self.image, self.reference),
            Repository::Local(_) | Repository::Virtual(_) => Vec::new(),
        };
        Told {
            through: through.cloned(),
            repository: repository.key().clone(),
            kind: repository.kind(),
            verdict,
            why,
            places,
        }
    }

    fn how_answered(&self, repository: &Repository) -> String {
        let served = match self.answer {
            Ok(Some(served)) if served.by == *repository.key() => served,
            _ => return "one of its members has it".to_owned(),
        };
        let how = match served.outcome {
            Outcome::Hit if served.proxied => "it is stored, and fresh",
            Outcome::Hit => "it was pushed here",
            Outcome::Miss => "its upstream was asked, and gave it",
            Outcome::Stale => "it is stored; its upstream could not be asked whether it is still the same",
            Outcome::Revalidated => "it is stored, and its upstream was asked what the tag means",
        };
        match &served.warning {
            Some(warning) => format!("{how}: {warning}"),
            None => how.to_owned(),
        }
    }
}

const fn why_absent(repository: &Repository) -> &'static str {
    match repository {
        Repository::Local(_) => "nobody has pushed it here",
        Repository::Remote(_) => "its upstream does not have it",
        Repository::Virtual(_) => "none of its members has it",
    }
}

/// Why the search did not come to a member.
fn why_skipped(steps: &[&Step]) -> String {
    let by = |wanted: fn(&Finding) -> bool| {
        let step = steps.iter().find(|step| wanted(&step.finding))?;
        Some(&step.member)
    };
    if let Some(keeper) = by(|finding| matches!(finding, Finding::Keeps)) {
        return format!("not asked: the image lives in `{keeper}`, which has `priority`, so its name never leaves");
    }
    if let Some(answering) = by(|finding| matches!(finding, Finding::Answered)) {
        return format!("not asked: `{answering}` comes before it and has it");
    }
    match by(|finding| matches!(finding, Finding::Failed { ends: true, .. })) {
        Some(failing) => format!("not asked: `{failing}` could not tell, and nobody may answer in its place"),
        None => "not asked".to_owned(),
    }
}
