//! Robots: names of their own with secrets of ours, a scope, and mostly an end.
//!
//! Only a secret's SHA-256 is kept: it has 256 bits of chance in it, so nothing slower is needed. What is kept is one
//! small document, which whoever changes it writes before it is taken over here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;
use tokio::sync::{Mutex, MutexGuard};

use super::identity::{Grant, Kind, Principal};
use super::signer::random;
use crate::config::Secret;
use crate::oci::operation::Action;

/// What a secret begins with, so that scanners for lost secrets know it: `entrepot_<id>_<43 letters>`.
const PREFIX: &str = "entrepot_";
/// How many robots there may be.
pub const MOST: usize = 10_000;
/// How many grants one may have.
const GRANTS: usize = 64;
/// The longest name.
const LONGEST_NAME: usize = 64;
/// The longest document that they are kept in.
pub const DOCUMENT: u64 = 32 << 20;

/// All robots.
#[derive(Debug, Default)]
pub struct Robots {
    all: ArcSwap<Table>,
    /// Whether somebody was here since the document was written.
    is_outdated: AtomicBool,
    turn: Mutex<()>,
}

/// The robots as they are at one time.
#[derive(Clone, Debug, Default)]
pub struct Table {
    by_id: BTreeMap<String, Arc<Robot>>,
}

/// One robot.
#[derive(Debug)]
pub struct Robot {
    /// What its secret and whoever revokes it call it.
    pub id: String,
    /// What policies, audits and people call it; no two have the same.
    pub name: String,
    /// What it may do.
    pub scope: Vec<Grant>,
    /// Since when there is one.
    pub created: SystemTime,
    /// Who made it.
    pub created_by: String,
    /// When it ends.
    pub expires: Option<SystemTime>,
    sha256: [u8; 32],
    /// In seconds; none is 0.
    last_used: AtomicU64,
}

/// A robot to be.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Its name.
    pub name: String,
    /// What it may do.
    pub scope: Vec<Grant>,
    /// When it ends.
    pub expires: Option<SystemTime>,
    /// Who makes it.
    pub created_by: String,
}

/// Why there is no such robot.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RobotError {
    /// It cannot be called that.
    #[error("`{0}` is no name for a robot: letters, digits, `-`, `_` and `.`, at most {LONGEST_NAME} of them")]
    Name(String),
    /// Another one is.
    #[error("there is a robot `{0}` already: revoke it, or choose another name")]
    Taken(String),
    /// It could do nothing.
    #[error("a token needs to be for something: 1 to {GRANTS} grants of `may` and `on`")]
    Scope,
    /// It ends before it begins.
    #[error("the token would have expired already")]
    Expired,
    /// There are too many.
    #[error("there are {MOST} tokens already: revoke some")]
    TooMany,
    /// There is no randomness.
    #[error("the machine has no randomness to give")]
    Random,
}

impl Robots {
    /// Those of a document.
    pub fn from_document(document: &[u8]) -> Result<Self, serde_json::Error> {
        Ok(Self {
            all: ArcSwap::from_pointee(Table::from_document(document)?),
            ..Self::default()
        })
    }

    /// As they are now.
    pub fn table(&self) -> Arc<Table> {
        self.all.load_full()
    }

    /// To be held by whoever changes them, from reading to [`Robots::replace`].
    pub async fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// From now on they are these. What they are was written down before.
    pub fn replace(&self, table: Table) {
        self.all.store(Arc::new(table));
    }

    /// Whether somebody was here since the last time this was asked.
    pub fn take_outdated(&self) -> bool {
        self.is_outdated.swap(false, Ordering::AcqRel)
    }

    /// The robot with this secret.
    pub(super) fn with_secret(&self, secret: &str, now: SystemTime) -> Option<Arc<Robot>> {
        let id = id_of(secret)?;
        let presented = digest(&SHA256, secret.as_bytes());
        let table = self.all.load();
        let robot = table.by_id.get(id)?;
        let is_right: bool = robot.sha256.as_slice().ct_eq(presented.as_ref()).into();
        let robot = (is_right && robot.is_alive(now)).then(|| Arc::clone(robot))?;
        self.was_used(&robot, now);
        Some(robot)
    }

    /// The robot of this name, if it is the one that is meant.
    pub(super) fn called(&self, name: &str, now: SystemTime) -> Option<Arc<Robot>> {
        let robot = self.all.load().called(name).cloned()?;
        robot.is_alive(now).then_some(robot)
    }

    pub(super) fn was_used(&self, robot: &Robot, now: SystemTime) {
        let now = seconds(now);
        // To the minute: that is enough for whoever wants to know, and a flood need not write all the time.
        if robot.last_used.load(Ordering::Relaxed) / 60 != now / 60 {
            robot.last_used.store(now, Ordering::Relaxed);
            self.is_outdated.store(true, Ordering::Release);
        }
    }
}

/// Whether this has the form of a robot's secret.
pub(super) fn is_secret(text: &str) -> bool {
    id_of(text).is_some()
}

fn id_of(secret: &str) -> Option<&str> {
    let (id, rest) = secret.strip_prefix(PREFIX)?.split_once('_')?;
    let is_id = id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    (is_id && rest.len() == 43).then_some(id)
}

impl Table {
    /// All of them, by name.
    pub fn robots(&self) -> Vec<&Arc<Robot>> {
        let mut robots: Vec<&Arc<Robot>> = self.by_id.values().collect();
        robots.sort_by(|one, other| one.name.cmp(&other.name));
        robots
    }

    /// One of them.
    pub fn get(&self, id: &str) -> Option<&Arc<Robot>> {
        self.by_id.get(id)
    }

    /// The one of this name.
    pub fn called(&self, name: &str) -> Option<&Arc<Robot>> {
        self.by_id.values().find(|robot| robot.name == name)
    }

    /// These and a new one, with its secret, which nobody will see again.
    pub fn with(&self, wanted: Wanted, now: SystemTime) -> Result<(Self, Arc<Robot>, Secret), RobotError> {
        let Wanted {
            name,
            scope,
            expires,
            created_by,
        } = wanted;
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if name.is_empty() || name.len() > LONGEST_NAME || !name.bytes().all(is_name) {
            return Err(RobotError::Name(
                name.chars().filter(|c| !c.is_control()).take(LONGEST_NAME).collect(),
            ));
        }
        if scope.is_empty() || scope.len() > GRANTS || scope.iter().any(|grant| grant.may.is_empty()) {
            return Err(RobotError::Scope);
        }
        if expires.is_some_and(|expires| expires <= now) {
            return Err(RobotError::Expired);
        }
        let mut table = self.clone();
        // Whoever has ended makes room for a successor.
        table.by_id.retain(|_, robot| robot.name != name || robot.is_alive(now));
        if table.called(&name).is_some() {
            return Err(RobotError::Taken(name));
        }
        if table.by_id.len() >= MOST {
            return Err(RobotError::TooMany);
        }
        let id = random::<8>().ok_or(RobotError::Random)?;
        let id = format!("{:016x}", u64::from_be_bytes(id));
        let chance = random::<32>().ok_or(RobotError::Random)?;
        let secret = format!("{PREFIX}{id}_{}", URL_SAFE_NO_PAD.encode(chance));
        let robot = Arc::new(Robot {
            sha256: sha256(&secret),
            id: id.clone(),
            name,
            scope,
            created: now,
            created_by,
            expires,
            last_used: AtomicU64::new(0),
        });
        table.by_id.insert(id, Arc::clone(&robot));
        Ok((table, robot, Secret::new(secret)))
    }

    /// These without one.
    pub fn without(&self, id: &str) -> Option<(Self, Arc<Robot>)> {
        let mut table = self.clone();
        let robot = table.by_id.remove(id)?;
        Some((table, robot))
    }

    /// What is to be kept of them.
    pub fn to_document(&self) -> Vec<u8> {
        let robots = self.by_id.values().map(|robot| Written::of(robot)).collect();
        serde_json::to_vec(&Document { robots }).unwrap_or_default()
    }

    fn from_document(document: &[u8]) -> Result<Self, serde_json::Error> {
        let document: Document = serde_json::from_slice(document)?;
        let mut by_id = BTreeMap::new();
        for written in document.robots {
            let robot = written.read().map_err(serde::de::Error::custom)?;
            by_id.insert(robot.id.clone(), Arc::new(robot));
        }
        Ok(Self { by_id })
    }
}

impl Robot {
    /// When it was last here; to the minute.
    pub fn last_used(&self) -> Option<SystemTime> {
        let seconds = self.last_used.load(Ordering::Relaxed);
        (seconds > 0).then(|| UNIX_EPOCH + Duration::from_secs(seconds))
    }

    /// Whether it has not ended.
    pub fn is_alive(&self, now: SystemTime) -> bool {
        self.expires.is_none_or(|expires| now < expires)
    }

    /// Who it is, for those who decide what it may.
    pub fn principal(&self) -> Principal {
        Principal {
            groups: BTreeSet::new(),
            scope: self.scope.clone(),
            until: self.expires,
            ..Principal::new(Kind::Robot, &self.name)
        }
    }
}

/// The document.
#[derive(Serialize, Deserialize)]
struct Document {
    robots: Vec<Written>,
}

/// A robot in it. Times are in seconds.
#[derive(Serialize, Deserialize)]
struct Written {
    id: String,
    name: String,
    sha256: String,
    scope: Vec<WrittenGrant>,
    created: u64,
    created_by: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_used: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct WrittenGrant {
    may: Vec<String>,
    on: String,
}

impl Written {
    fn of(robot: &Robot) -> Self {
        let grant = |grant: &Grant| WrittenGrant {
            may: grant.may.iter().map(|action| action.as_str().to_owned()).collect(),
            on: grant.on.as_str().to_owned(),
        };
        Self {
            id: robot.id.clone(),
            name: robot.name.clone(),
            sha256: URL_SAFE_NO_PAD.encode(robot.sha256),
            scope: robot.scope.iter().map(grant).collect(),
            created: seconds(robot.created),
            created_by: robot.created_by.clone(),
            expires: robot.expires.map(seconds),
            last_used: robot.last_used().map(seconds),
        }
    }

    fn read(self) -> Result<Robot, String> {
        let at = |seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
        let scope: Result<_, String> = self.scope.into_iter().map(WrittenGrant::read).collect();
        let sha256 = URL_SAFE_NO_PAD.decode(&self.sha256).ok();
        let sha256 = sha256.and_then(|bytes| bytes.try_into().ok());
        Ok(Robot {
            sha256: sha256.ok_or_else(|| format!("`{}` is no SHA-256", self.sha256))?,
            id: self.id,
            name: self.name,
            scope: scope?,
            created: at(self.created).ok_or("`created` is no time")?,
            created_by: self.created_by,
            expires: self
                .expires
                .map(|expires| at(expires).ok_or("`expires` is no time"))
                .transpose()?,
            last_used: AtomicU64::new(self.last_used.unwrap_or_default()),
        })
    }
}

impl WrittenGrant {
    fn read(self) -> Result<Grant, String> {
        let action = |word: &String| Action::named(word).ok_or_else(|| format!("`{word}` is nothing that may be done"));
        Ok(Grant {
            may: self.may.iter().map(action).collect::<Result<_, _>>()?,
            on: self.on.parse().map_err(|error| format!("`{}`: {error}", self.on))?,
        })
    }
}

fn sha256(text: &str) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest(&SHA256, text.as_bytes()).as_ref());
    bytes
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

impl fmt::Display for Robot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}
