//! Getting in: what to show with a request, and what to show after a 401.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::HeaderValue;
use moka::sync::Cache;
use tokio::time::Instant;

use super::Error;
use super::challenge::{self, Bearer, Challenge};
use super::credentials::{Keyring, Proof};
use super::send::Response;
use super::tokens::{Key, Tokens};

/// How often a token endpoint is asked for one question to the registry.
const TOKEN_CALLS: u32 = 2;
/// For how many images the last challenge is remembered.
const REMEMBERED: u64 = 10_000;

/// What was learnt about how to get in at one upstream.
pub(super) struct Admission {
    repository: Arc<str>,
    keyring: Keyring,
    tokens: Tokens,
    /// Plain http to a token endpoint is allowed.
    insecure: bool,
    /// Whether the registry has asked for Basic: then it is shown without being asked for again.
    is_basic: AtomicBool,
    /// Whether it was told that the credentials are no use.
    is_told: AtomicBool,
    /// The challenge that a scope of ours met last: with it, the next request brings its token along.
    met: Cache<Arc<str>, Bearer>,
}

/// What is shown with a request.
pub(super) struct Pass {
    pub(super) header: HeaderValue,
    /// For which key it is a token; `None` for Basic.
    key: Option<Key>,
    /// Fetched for this question: if it is refused, another one would be too.
    is_fresh: bool,
}

/// What one question has cost so far.
pub(super) struct Visit<'a> {
    pub(super) scope: &'a Arc<str>,
    pub(super) deadline: Instant,
    /// Which of the credentials is shown.
    pub(super) who: usize,
    token_calls: u32,
    /// Whether what lets us in was fetched anew because it was refused: not twice.
    is_renewed: bool,
}

impl Pass {
    fn basic(header: HeaderValue) -> Self {
        Self {
            header,
            key: None,
            is_fresh: true,
        }
    }
}

impl<'a> Visit<'a> {
    pub(super) const fn new(scope: &'a Arc<str>, deadline: Instant, who: usize) -> Self {
        Self {
            scope,
            deadline,
            who,
            token_calls: 0,
            is_renewed: false,
        }
    }
}

impl Admission {
    pub(super) fn new(repository: &str, keyring: Keyring, tokens: Tokens, insecure: bool) -> Self {
        Self {
            repository: repository.into(),
            keyring,
            tokens,
            insecure,
            is_basic: AtomicBool::new(false),
            is_told: AtomicBool::new(false),
            met: Cache::new(REMEMBERED),
        }
    }

    /// What to bring along to the first request of a question.
    pub(super) async fn in_advance(&self, visit: &mut Visit<'_>) -> Result<Option<Pass>, Error> {
        if self.is_basic.load(Ordering::Relaxed) {
            return self.basic(visit).await;
        }
        let Some(bearer) = self.met.get(visit.scope) else {
            return Ok(None);
        };
        let pass = self.token(&bearer, false, None, visit).await;
        if pass.is_err() {
            // The registry may by now name another endpoint: the next question begins without knowing.
            self.met.invalidate(visit.scope);
        }
        pass
    }

    /// What to show after a 401; `None` if there is nothing more to show.
    pub(super) async fn after(
        &self,
        refusal: &Response,
        shown: Option<&Pass>,
        visit: &mut Visit<'_>,
    ) -> Result<Option<Pass>, Error> {
        for challenge in challenge::read(refusal.headers()) {
            let pass = match challenge {
                Challenge::Basic if refusal.is_foreign => None,
                Challenge::Basic if shown.is_some_and(|pass| pass.key.is_none()) => {
                    self.after_forbidden(shown, visit).await
                }
                Challenge::Basic => {
                    self.is_basic.store(true, Ordering::Relaxed);
                    self.basic(visit).await?
                }
                Challenge::Bearer(bearer) => self.token(&bearer, refusal.is_foreign, shown, visit).await?,
            };
            if pass.is_some() {
                return Ok(pass);
            }
        }
        Ok(None)
    }

    /// Whether what is shown is user and password themselves: then a 401 is about these.
    pub(super) fn shows_basic(&self) -> bool {
        self.is_basic.load(Ordering::Relaxed)
    }

    /// Whether there are credentials, and what is shown is a token that they are exchanged for.
    pub(super) fn shows_tokens(&self) -> bool {
        self.keyring.has_any() && !self.shows_basic()
    }

    /// Tells, once, that our credentials are no use.
    pub(super) fn tell_that_nobody_may(&self) {
        if !self.is_told.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                repository = %self.repository,
                "the upstream's token endpoint refuses the credentials, and gives images to anybody: those are asked for \
                 anonymously from now on, and all others are not to be had until the credentials are put right"
            );
        }
    }

    async fn basic(&self, visit: &Visit<'_>) -> Result<Option<Pass>, Error> {
        Ok(match self.keyring.proof(visit.who, visit.deadline).await? {
            Some(Proof::Basic(header)) => Some(Pass::basic(header)),
            // A token for tokens is no password.
            Some(Proof::Refresh(_)) | None => None,
        })
    }

    /// What to show once more after Basic was refused: what lets us in, fetched anew, if it is given for a while.
    pub(super) async fn after_forbidden(&self, shown: Option<&Pass>, visit: &mut Visit<'_>) -> Option<Pass> {
        let shown = shown.filter(|pass| pass.key.is_none())?;
        match self.renewed(&Proof::Basic(shown.header.clone()), visit).await? {
            Proof::Basic(header) => Some(Pass::basic(header)),
            Proof::Refresh(_) => None,
        }
    }

    async fn renewed(&self, refused: &Proof, visit: &mut Visit<'_>) -> Option<Proof> {
        if std::mem::replace(&mut visit.is_renewed, true) {
            return None;
        }
        self.keyring.instead_of(visit.who, refused, visit.deadline).await
    }

    /// A token for a challenge, kept or fetched. A host that a redirect led to (`is_foreign`) may ask for one too; it
    /// gets an anonymous one.
    async fn token(
        &self,
        bearer: &Bearer,
        is_foreign: bool,
        shown: Option<&Pass>,
        visit: &mut Visit<'_>,
    ) -> Result<Option<Pass>, Error> {
        if !self.insecure && !self.keyring.may_ask(&bearer.realm) {
            return Err(Error::Lies(
                "its token endpoint is http although it is https itself".to_owned(),
            ));
        }
        let may_see = !is_foreign && self.keyring.may_see(&self.repository, &bearer.realm, visit.who);
        let key = Key {
            url: bearer.token_url(visit.scope),
            credentials: may_see.then_some(visit.who),
        };
        if let Some(shown) = shown.filter(|pass| pass.key.as_ref() == Some(&key)) {
            if shown.is_fresh {
                return Ok(None);
            }
            self.tokens.forget(&key, &shown.header);
        }
        if let Some(token) = self.tokens.kept(&key) {
            return Ok(Some(Pass {
                header: token.header,
                key: Some(key),
                is_fresh: false,
            }));
        }
        if visit.token_calls == TOKEN_CALLS {
            return Ok(None);
        }
        visit.token_calls += 1;
        let proof = if may_see {
            self.keyring.proof(visit.who, visit.deadline).await?
        } else {
            None
        };
        let first = self.tokens.fetch(key.clone(), proof.clone(), visit.deadline);
        let mut fetched = first.await;
        if let (Err(Error::Refused { .. }), Some(refused)) = (&fetched, proof)
            && let Some(fresh) = self.renewed(&refused, visit).await
        {
            fetched = self.tokens.fetch(key.clone(), Some(fresh), visit.deadline).await;
        }
        let token = fetched?;
        if !is_foreign {
            self.is_basic.store(false, Ordering::Relaxed);
            self.met.insert(Arc::clone(visit.scope), bearer.clone());
        }
        Ok(Some(Pass {
            header: token.header,
            key: Some(key),
            is_fresh: true,
        }))
    }
}
