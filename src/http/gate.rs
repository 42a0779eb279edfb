//! What a caller may: the one place. Nothing of the front door reaches a repository but through here, and what comes
//! out shows of it what this caller may see.
//!
//! A refusal is decided by the name, as the client wrote it, and the rules alone, before anything is looked up: what is
//! private and what is absent look and take the same.

use std::sync::{Arc, Mutex, PoisonError};

use super::credentials::Visitor;
use super::error::Failure;
use super::site::Site;
use crate::access::policies::Ground;
use crate::access::{Identity, Policies};
use crate::oci::operation::Action;
use crate::oci::{Digest, ErrorCode, ImageName, RepositoryKey};
use crate::repository::router::{Hints, Lost, Route};
use crate::repository::{Listed, LocalRepository, Repositories, Repository, Sight, View};
use crate::store::Store;

const ALL: [Action; 4] = [Action::Pull, Action::Push, Action::Delete, Action::Admin];

/// Who asks, as far as they have proved it.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub(super) identity: Identity,
    /// They showed a token of ours, which may say that they are nobody.
    pub(super) by_token: bool,
}

impl Caller {
    /// Who sends this. Where what is asked is `mirrored`, credentials that nobody here knows count as none.
    pub(super) async fn of(site: &Site, visitor: &Visitor, mirrored: bool) -> Result<Self, Failure> {
        Ok(Self {
            identity: visitor.identify(site, mirrored).await?,
            by_token: visitor.shown.is_token(),
        })
    }

    /// Who an upload belongs to; empty for nobody.
    pub(super) fn owner(&self) -> String {
        match &self.identity {
            Identity::Anonymous => String::new(),
            Identity::Known(known) => format!("{}:{}", known.kind.as_str(), known.name),
        }
    }
}

/// One request before the repositories.
pub(super) struct Gate<'a> {
    pub(super) site: &'a Site,
    pub(super) caller: &'a Caller,
    pub(super) hints: Hints<'a>,
    /// Where what is decided about names is written down, if somebody wants to know.
    pub(super) judged: Option<&'a Judgements>,
}

/// What was decided about names, in that order.
#[derive(Debug, Default)]
pub(super) struct Judgements(Mutex<Vec<Judgement>>);

/// What was decided about one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Judgement {
    pub(super) repository: RepositoryKey,
    pub(super) image: ImageName,
    pub(super) action: Action,
    /// What allows it, if anything does.
    pub(super) ground: Option<Ground>,
}

impl Judgements {
    fn note(&self, judgement: Judgement) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !all.contains(&judgement) {
            all.push(judgement);
        }
    }

    pub(super) fn all(&self) -> Vec<Judgement> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Where a push, a deletion or a mount lands.
pub(super) struct Target {
    /// The repository.
    pub(super) repository: Arc<LocalRepository>,
    /// The image in it.
    pub(super) image: ImageName,
    /// What the caller may read behind the name that they push to.
    pub(super) through: Repository,
}

/// What this caller may see.
struct Eyes<'a> {
    policies: &'a Policies,
    identity: &'a Identity,
    action: Action,
    judged: Option<&'a Judgements>,
}

impl Sight for Eyes<'_> {
    fn sees(&self, repository: &RepositoryKey, image: &ImageName) -> bool {
        let Some(judged) = self.judged else {
            return self.policies.allow(self.identity, self.action, repository, image);
        };
        let ground = self.policies.ground(self.identity, self.action, repository, image);
        judged.note(Judgement {
            repository: repository.clone(),
            image: image.clone(),
            action: self.action,
            ground,
        });
        ground.is_some()
    }

    fn sees_some(&self, repository: &RepositoryKey) -> bool {
        self.policies.allow_some_of(self.identity, self.action, repository)
    }
}

impl<'a> Gate<'a> {
    fn repositories(&self) -> &'a Repositories {
        &self.site.repositories
    }

    fn eyes(&self, action: Action) -> Eyes<'a> {
        Eyes {
            policies: &self.site.access.policies,
            identity: &self.caller.identity,
            action,
            judged: self.judged,
        }
    }

    /// What a name means to this caller, for a purpose: only what they may do that with is in it.
    pub(super) fn route(&self, name: &ImageName, action: Action) -> Result<Route, Failure> {
        let route = self.find(name, action)?;
        let view = self.view(&route, action);
        match view.shown() {
            Some(repository) => Ok(Route { repository, ..route }),
            None => Err(self.refuse(action, Some(name))),
        }
    }

    /// Where a push or deletion by this name lands. Any name on the way there may allow it.
    pub(super) fn target(&self, name: &ImageName, action: Action) -> Result<Target, Failure> {
        let route = self.find(name, action)?;
        let eyes = self.eyes(action);
        let Some(target) = route.repository.push_target() else {
            if eyes.sees(route.repository.key(), &route.image) {
                return Err(self.takes_no_pushes(route.repository.key()));
            }
            return Err(self.refuse(action, Some(name)));
        };
        let mut names = route.repository.push_names().into_iter();
        if !names.any(|key| eyes.sees(key, &route.image)) {
            return Err(self.refuse(action, Some(name)));
        }
        Ok(Target {
            repository: Arc::clone(target),
            through: self.view(&route, Action::Pull).behind_push(target),
            image: route.image,
        })
    }

    /// Whether this caller may read a blob, so that a mount may take it over. Without a source, only who may read
    /// everything is told what there is: looking for it takes longer where there is something to hide.
    pub(super) async fn may_mount(
        &self,
        store: &Store,
        digest: &Digest,
        from: Option<&ImageName>,
    ) -> Result<bool, Failure> {
        let Some(from) = from else {
            return self.may_take_from_anywhere(store, digest).await;
        };
        Ok(match self.route(from, Action::Pull) {
            Ok(source) => matches!(source.repository.stored_blob(&source.image, digest).await, Ok(Some(_))),
            Err(_) => false,
        })
    }

    async fn may_take_from_anywhere(&self, store: &Store, digest: &Digest) -> Result<bool, Failure> {
        if self.everywhere(Action::Pull).is_err() {
            return Ok(false);
        }
        let owners = store.find_blob_owners(digest).await?;
        Ok(owners
            .iter()
            .any(|(repository, image)| match self.repositories().get(repository) {
                Some(Repository::Remote(remote)) => remote.admits(image),
                other => other.is_some(),
            }))
    }

    /// Whether the caller may do this with everything.
    pub(super) fn everywhere(&self, action: Action) -> Result<(), Failure> {
        if self
            .site
            .access
            .policies
            .allow_everywhere(&self.caller.identity, action)
        {
            return Ok(());
        }
        Err(self.refuse(action, None))
    }

    /// Whether there may be something that the caller may do this with: asked before much is read from who may not.
    pub(super) fn somewhere(&self, action: Action) -> Result<(), Failure> {
        if self.sees_any(action) {
            return Ok(());
        }
        Err(self.refuse(action, None))
    }

    /// Whether `/v2/` lets them in. Clients ask it whether they have to log in, so it says yes as soon as anything here
    /// needs it; where a whole address is open, nothing of it does.
    pub(super) fn version(&self) -> Result<(), Failure> {
        let policies = &self.site.access.policies;
        let open_address = |key: &RepositoryKey| policies.allow_all_of(&Identity::Anonymous, Action::Pull, key);
        let is_in = !self.caller.identity.is_anonymous()
            || policies.is_open()
            || self.hints.prefix.is_none() && self.hints.listener.is_some_and(open_address)
            || self.caller.by_token && self.sees_any(Action::Pull);
        if !is_in {
            return Err(self.refuse(Action::Pull, None));
        }
        // A key or a namespace that does not exist is told here already, at the first request of every client.
        let sees_prefix = |key: &RepositoryKey| ALL.iter().any(|action| self.sees_key(key, *action));
        if self.hints.prefix.is_some_and(|key| !sees_prefix(key)) {
            return Err(self.refuse(Action::Pull, None));
        }
        match self.repositories().surface(self.hints) {
            Ok(_) => Ok(()),
            Err(lost) => Err(self.tell(&lost, Action::Pull)),
        }
    }

    /// Whether they may see figures about all of this server.
    pub(super) fn metrics(&self) -> Result<(), Failure> {
        if !self.caller.identity.is_anonymous() || self.sees_any(Action::Pull) {
            return Ok(());
        }
        Err(self.refuse(Action::Pull, None))
    }

    /// The names of all images, as this client would write them here: of the repository that the request is addressed
    /// to, or of all, each behind its key.
    pub(super) async fn catalog(&self) -> Result<Listed<String>, Failure> {
        let eyes = self.eyes(Action::Pull);
        if self.hints.prefix.is_some_and(|key| !self.sees_key(key, Action::Pull)) {
            return Err(self.refuse_list());
        }
        let surface = self.repositories().surface(self.hints);
        let surface = surface.map_err(|lost| self.tell(&lost, Action::Pull))?;
        let Some(repository) = surface else {
            return self.catalog_of_all(&eyes).await;
        };
        let through = self.through(
            &repository,
            self.hints.namespace.is_some() && self.hints.prefix.is_none(),
        );
        if !repository.is_seen(&eyes) && !through.is_some_and(|key| eyes.sees_some(key)) {
            return Err(self.refuse_list());
        }
        let images = repository.images_seen(through, &eyes).await?;
        Ok(Listed {
            entries: images.entries.iter().map(ToString::to_string).collect(),
            warnings: images.warnings,
        })
    }

    async fn catalog_of_all(&self, eyes: &Eyes<'_>) -> Result<Listed<String>, Failure> {
        let mut all: Listed<String> = Listed::default();
        let seen: Vec<&Repository> = self.seen(Action::Pull).collect();
        if seen.is_empty() {
            return Err(self.refuse_list());
        }
        for repository in seen {
            let key = repository.key();
            let images = repository.images_seen(None, eyes).await?;
            all.entries
                .extend(images.entries.iter().map(|image| format!("{key}/{image}")));
            all.warnings.extend(images.warnings);
        }
        all.entries.sort_unstable();
        Ok(all)
    }

    /// Every name that a rule may be about when it allows this, whoever asks. None for a name that means nothing.
    pub(super) fn names(&self, name: &ImageName, action: Action) -> Vec<(RepositoryKey, ImageName)> {
        let Ok(Route { repository, image, .. }) = self.repositories().route(name, self.hints) else {
            return Vec::new();
        };
        if action == Action::Pull {
            return repository.pull_names(&image);
        }
        let keys = repository.push_names().into_iter();
        keys.map(|key| (key.clone(), image.clone())).collect()
    }

    /// Whether a name leads to something that this caller may not see.
    pub(super) fn hides(&self, name: &ImageName) -> bool {
        let route = self.repositories().route(name, self.hints);
        route.is_ok_and(|route| self.view(&route, Action::Pull).hides())
    }

    /// What "not found" is for this caller. Where something is hidden from somebody who has not said who they are, it
    /// may be for that reason.
    pub(super) fn not_found(&self, failure: Failure, name: &ImageName) -> Failure {
        if failure.is_not_found() && self.caller.identity.is_anonymous() && self.hides(name) {
            return self.refuse(Action::Pull, Some(name));
        }
        failure
    }

    /// What a name means, whoever asks. A name that means nothing is refused like one that does, to who may not do this
    /// with it.
    fn find(&self, name: &ImageName, action: Action) -> Result<Route, Failure> {
        let lost = match self.repositories().route(name, self.hints) {
            Ok(route) => return Ok(route),
            Err(lost) => lost,
        };
        let written = match (self.hints.prefix, name.split_first()) {
            (Some(prefix), _) => Some((prefix.clone(), name.clone())),
            (None, Some((first, image))) if lost == Lost::NoRepository => first.parse().ok().map(|key| (key, image)),
            _ => None,
        };
        let eyes = self.eyes(action);
        match written {
            Some((key, image)) if !eyes.sees(&key, &image) => Err(self.refuse(action, Some(name))),
            Some(_) => Err(lost.refusal(self.known_keys()).into()),
            None => Err(self.tell(&lost, action)),
        }
    }

    fn view(&self, route: &Route, action: Action) -> View {
        let through = self.through(&route.repository, route.by_namespace);
        route.repository.view(&route.image, through, &self.eyes(action))
    }

    /// `?ns=` finds the remotes of the default repository: on its behalf they are asked.
    fn through(&self, repository: &Repository, by_namespace: bool) -> Option<&'a RepositoryKey> {
        let is_found = by_namespace && matches!(repository, Repository::Remote(_));
        is_found.then(|| self.repositories().default_key()).flatten()
    }

    /// The repositories of which they may see something.
    fn seen(&self, action: Action) -> impl Iterator<Item = &'a Repository> {
        let (repositories, eyes) = (self.repositories(), self.eyes(action));
        repositories
            .keys()
            .filter_map(|key| repositories.get(key))
            .filter(move |repository| repository.is_seen(&eyes))
    }

    fn sees_any(&self, action: Action) -> bool {
        self.seen(action).next().is_some()
    }

    /// Whether they may see something of a repository, if there were one with this key.
    fn sees_key(&self, key: &RepositoryKey, action: Action) -> bool {
        let eyes = self.eyes(action);
        match self.repositories().get(key) {
            Some(repository) => repository.is_seen(&eyes),
            None => eyes.sees_some(key),
        }
    }

    /// The keys that they may know of.
    fn known_keys(&self) -> impl Iterator<Item = &'a RepositoryKey> {
        self.repositories()
            .keys()
            .filter(|key| ALL.iter().any(|action| self.sees_key(key, *action)))
    }

    fn tell(&self, lost: &Lost, action: Action) -> Failure {
        if self.sees_any(action) {
            lost.refusal(self.known_keys()).into()
        } else {
            self.refuse(action, None)
        }
    }

    fn takes_no_pushes(&self, key: &RepositoryKey) -> Failure {
        let takers: Vec<String> = self
            .seen(Action::Push)
            .filter(|other| other.push_target().is_some())
            .map(|other| format!("`{}`", other.key()))
            .collect();
        let instead = if takers.is_empty() {
            "no repository here takes pushes".to_owned()
        } else {
            format!("push to {}", takers.join(" or "))
        };
        let message = format!("`{key}` does not take pushes: {instead}");
        Failure::new(ErrorCode::Unsupported, message)
    }

    fn refuse_list(&self) -> Failure {
        self.refuse(Action::Pull, None)
            .with_scope("registry:catalog:*".to_owned())
    }

    /// Nobody is asked to say who they are; somebody is told that they may not. Nothing in it depends on what is here.
    fn refuse(&self, action: Action, name: Option<&ImageName>) -> Failure {
        let (what, asked) = words(action);
        let on = name.map_or_else(|| "here".to_owned(), |name| format!("`{name}`"));
        let identity = &self.caller.identity;
        if !identity.is_anonymous() {
            let message = format!("{identity} may not {what} {on}: `auth.policies` in the configuration say who may");
            return Failure::new(ErrorCode::Denied, message);
        }
        let message = format!("to {what} {on}, log in: who has not said who they are may not");
        let failure = Failure::new(ErrorCode::Unauthorized, message);
        match name {
            Some(name) => failure.with_scope(format!("repository:{name}:{asked}")),
            None => failure,
        }
    }
}

/// What is done, for people, and what a token for it is asked for.
const fn words(action: Action) -> (&'static str, &'static str) {
    match action {
        Action::Pull => ("pull", "pull"),
        Action::Push => ("push to", "pull,push"),
        Action::Delete => ("delete from", "delete"),
        Action::Admin => ("administer", "*"),
    }
}
