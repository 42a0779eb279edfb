//! Who may do what: proving who somebody is, and the rules about them.
//!
//! [`identity`] is what is known of a caller, [`policies`] what they may do; the rest are the ways to prove it. A new
//! one is a file here and a line in [`Access::identify`]. Knows the words of the API and nothing of how it is served or
//! how images are kept.

mod attempts;
pub mod certificate;
mod checks;
mod claims;
pub mod directory;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod identity;
mod issuer_keys;
mod issuers;
mod jws;
mod passwords;
pub mod policies;
pub mod robots;
mod signer;
mod trust;

pub use identity::{Grant, Identity, Kind, Principal};
pub use passwords::{PasswordError, hash_password};
pub use policies::Policies;
pub use robots::Robots;
pub use signer::{Minted, SigningKey};

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use attempts::Attempts;
use checks::{Checks, Mark};
use directory::Directory;
use issuers::Issuers;
use passwords::{Entry, Passwords};
use signer::{Bearer, Claims, Purpose, Reading, Signer, Subject};

use crate::config::AuthConfig;

/// What a caller shows to say who they are.
#[derive(Clone, Copy)]
pub enum Presented<'a> {
    /// Nothing.
    Nothing,
    /// A name and a password, or what stands for one.
    Password {
        /// The name.
        user: &'a str,
        /// The password, or a token.
        password: &'a str,
    },
    /// A token by itself: one of ours, a robot's, or an issuer's.
    Token(&'a str),
    /// The name in a certificate that the TLS handshake has verified.
    Certificate(&'a str),
}

/// Why it is not known who somebody is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unidentified {
    /// Nobody here knows what they showed.
    Unknown,
    /// A token of ours that has run out, or whose bearer is not what they were: it was fine once, and a new one is to
    /// be had for whoever still has what proved them.
    Expired,
    /// Too many are being checked: later.
    Busy {
        /// When to come again.
        retry_after: Duration,
    },
    /// Who would know cannot be asked; the reason is for the log.
    Unavailable(String),
}

/// Identities and rules of one configuration.
#[derive(Debug)]
pub struct Access {
    /// The rules.
    pub policies: Policies,
    passwords: Passwords,
    /// None, when there are to be no tokens for them.
    robots: Option<Arc<Robots>>,
    issuers: Issuers,
    directory: Option<Directory>,
    signer: Signer,
    checks: Arc<Checks>,
    attempts: Arc<Attempts>,
}

impl Access {
    /// What a configuration says. What was learned under the one before is taken on, where it is still true. An error
    /// says what of it cannot be used.
    pub fn new(
        config: &AuthConfig,
        key: &SigningKey,
        robots: &Arc<Robots>,
        before: Option<&Self>,
    ) -> Result<Self, String> {
        let checks = before.map_or_else(|| Arc::new(Checks::new()), |before| Arc::clone(&before.checks));
        let attempts = before.map_or_else(|| Arc::new(Attempts::new()), |before| Arc::clone(&before.attempts));
        Ok(Self {
            policies: Policies::new(config),
            passwords: Passwords::new(&config.htpasswd),
            robots: config.tokens.then(|| Arc::clone(robots)),
            issuers: Issuers::new(&config.oidc, before.map(|before| &before.issuers))?,
            directory: config.ldap.as_ref().map(Directory::new).transpose()?,
            signer: Signer::new(key),
            checks,
            attempts,
        })
    }

    /// Who shows this. `client` is where they ask from: who guesses is made to wait.
    pub async fn identify(&self, shown: Presented<'_>, client: IpAddr) -> Result<Identity, Unidentified> {
        match shown {
            Presented::Nothing | Presented::Password { user: "", password: "" } => Ok(Identity::Anonymous),
            Presented::Password { user, password } => {
                if robots::is_secret(password) {
                    return self.robot(password);
                }
                if let Some(workload) = self.issuers.identify(password, SystemTime::now()).await {
                    return workload.map(known);
                }
                self.user(user, password, client).await
            }
            Presented::Token(token) => {
                if robots::is_secret(token) {
                    return self.robot(token);
                }
                if let Some(workload) = self.issuers.identify(token, SystemTime::now()).await {
                    return workload.map(known);
                }
                self.bearer(Purpose::Access, token)
            }
            // Who vouches for it, the handshake has asked.
            Presented::Certificate(user) => Ok(known(Principal::new(Kind::User, user))),
        }
    }

    /// Whether there is a user of this name in the password file.
    pub fn has_password(&self, user: &str) -> bool {
        self.passwords.get(user).is_some()
    }

    /// A user who has proved nothing, for who wants to know what they might: somebody would have to say these groups of them.
    pub fn as_user(user: &str, groups: BTreeSet<String>) -> Identity {
        known(Principal {
            groups,
            ..Principal::new(Kind::User, user)
        })
    }

    /// Whether there are tokens for robots.
    pub const fn has_robots(&self) -> bool {
        self.robots.is_some()
    }

    /// Who was given this token for new ones.
    pub fn identify_refresh(&self, token: &str) -> Result<Identity, Unidentified> {
        self.bearer(Purpose::Refresh, token)
    }

    /// A token that says who they are.
    pub fn mint(&self, who: &Identity) -> Minted {
        self.signer.mint(Purpose::Access, self.subject(who), SystemTime::now())
    }

    /// A token for new tokens. Only for those whose proof is kept here: nobody could take it from the others again.
    pub fn mint_refresh(&self, who: &Identity) -> Option<Minted> {
        let subject = self.subject(who);
        subject.proof.as_ref()?;
        Some(self.signer.mint(Purpose::Refresh, subject, SystemTime::now()))
    }

    /// A user of the password file; or of the directory, if that does not know them.
    async fn user(&self, user: &str, password: &str, client: IpAddr) -> Result<Identity, Unidentified> {
        if let Some(directory) = &self.directory
            && self.passwords.get(user).is_none()
        {
            return self.user_of(directory, user, password, client).await;
        }
        let Some(entry) = self.passwords.entry(user) else {
            return Err(Unidentified::Unknown);
        };
        let mark = self.checks.mark(&[user, entry.hash.reveal(), password]);
        let is_right = match self.checks.remembered(&mark) {
            Some(is_right) => is_right,
            None => self.compute(entry, user, password, client, mark).await?,
        };
        if is_right {
            Ok(Identity::Known(Arc::new(Principal::new(Kind::User, user))))
        } else {
            Err(Unidentified::Unknown)
        }
    }

    /// A user of a directory. What it says of them does not hold for long.
    async fn user_of(
        &self,
        directory: &Directory,
        user: &str,
        password: &str,
        client: IpAddr,
    ) -> Result<Identity, Unidentified> {
        let mark = directory::mark(&self.checks, user, password);
        let mut groups = directory.remembered(&mark);
        if groups.is_none() {
            if let Some(retry_after) = self.attempts.pause(client, user, Instant::now()) {
                return Err(Unidentified::Busy { retry_after });
            }
            groups = directory.check(user, password, mark).await?;
        }
        let Some(groups) = groups else {
            self.attempts.failed(client, user, mark, Instant::now());
            return Err(Unidentified::Unknown);
        };
        self.attempts.succeeded(client, user);
        Ok(known(Principal {
            groups: groups.as_ref().clone(),
            until: Some(SystemTime::now() + directory::REMEMBERED),
            ..Principal::new(Kind::User, user)
        }))
    }

    /// Compares a password with a hash, unless too many wrong ones came from there.
    async fn compute(
        &self,
        entry: Entry<'_>,
        user: &str,
        password: &str,
        client: IpAddr,
        mark: Mark,
    ) -> Result<bool, Unidentified> {
        if let Some(retry_after) = self.attempts.pause(client, user, Instant::now()) {
            return Err(Unidentified::Busy { retry_after });
        }
        let (hash, password, exists) = (entry.hash.clone(), password.to_owned(), entry.exists);
        let work = move || passwords::is_right(&password, &hash) && exists;
        let is_right = self.checks.check(mark, work).await?;
        if is_right {
            self.attempts.succeeded(client, user);
        } else {
            self.attempts.failed(client, user, mark, Instant::now());
        }
        Ok(is_right)
    }

    fn robot(&self, secret: &str) -> Result<Identity, Unidentified> {
        let robot = self
            .robots
            .as_ref()
            .and_then(|robots| robots.with_secret(secret, SystemTime::now()));
        let robot = robot.ok_or(Unidentified::Unknown)?;
        Ok(Identity::Known(Arc::new(robot.principal())))
    }

    /// Whom a token of ours names, if they are still who they were.
    fn bearer(&self, purpose: Purpose, token: &str) -> Result<Identity, Unidentified> {
        let now = SystemTime::now();
        let claims = match self.signer.read(purpose, token, now) {
            Reading::Good(claims) => claims,
            Reading::Expired => return Err(Unidentified::Expired),
            Reading::NotOurs => return Err(Unidentified::Unknown),
        };
        let principal = match claims.kind {
            Bearer::Nobody => return Ok(Identity::Anonymous),
            Bearer::Robot => self.robot_of(&claims, now),
            Bearer::User => self.is_proved(&claims).then(|| principal(Kind::User, &claims)),
            Bearer::Workload => Some(principal(Kind::Workload, &claims)),
        };
        let mut principal = principal.ok_or(Unidentified::Expired)?;
        if purpose == Purpose::Access {
            // A token that is had for this one lasts no longer: who has lost their password has it ended by that.
            principal.until = Some(claims.until());
        }
        Ok(Identity::Known(Arc::new(principal)))
    }

    fn robot_of(&self, claims: &Claims, now: SystemTime) -> Option<Principal> {
        let robots = self.robots.as_ref()?;
        let robot = robots.called(&claims.sub, now)?;
        let is_same = claims.proof.as_ref() == Some(&robot.id);
        is_same.then(|| {
            robots.was_used(&robot, now);
            robot.principal()
        })
    }

    /// Whether a user is still proved by what proved them. One with a password here never is by anything else.
    fn is_proved(&self, claims: &Claims) -> bool {
        claims.proof == self.proof_of_user(&claims.sub)
    }

    fn proof_of_user(&self, user: &str) -> Option<String> {
        let hash = self.passwords.get(user)?;
        Some(self.signer.fingerprint(&format!("{user}:{}", hash.reveal())))
    }

    fn subject<'a>(&self, who: &'a Identity) -> Subject<'a> {
        const NONE: &BTreeSet<String> = &BTreeSet::new();
        let Identity::Known(known) = who else {
            return Subject {
                kind: Bearer::Nobody,
                name: "",
                groups: NONE,
                proof: None,
                until: None,
            };
        };
        let (kind, proof) = match known.kind {
            Kind::User => (Bearer::User, self.proof_of_user(&known.name)),
            Kind::Workload => (Bearer::Workload, None),
            Kind::Robot => {
                let robots = self.robots.as_ref();
                let robot = robots.and_then(|robots| robots.called(&known.name, SystemTime::now()));
                (Bearer::Robot, robot.map(|robot| robot.id.clone()))
            }
        };
        Subject {
            kind,
            name: &known.name,
            groups: &known.groups,
            proof,
            until: known.until,
        }
    }
}

fn known(principal: Principal) -> Identity {
    Identity::Known(Arc::new(principal))
}

fn principal(kind: Kind, claims: &Claims) -> Principal {
    Principal {
        groups: claims.groups.clone(),
        ..Principal::new(kind, &claims.sub)
    }
}
