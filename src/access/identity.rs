//! Who is asking, once it is known.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use crate::oci::Pattern;
use crate::oci::operation::Action;

/// Who is asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// Somebody who has not said who they are.
    Anonymous,
    /// Somebody who has proved it.
    Known(Arc<Principal>),
}

/// Somebody known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// What they are. A name says nothing without it: a robot may be called like a user.
    pub kind: Kind,
    /// Their name among their kind.
    pub name: String,
    /// The groups that whoever vouched for them says they are in; those of the configuration are not among them.
    pub groups: BTreeSet<String>,
    /// What a robot may do; its policies, and all of them.
    pub scope: Vec<Grant>,
    /// When what proved it runs out; a token of ours that is made of it lasts no longer.
    pub until: Option<SystemTime>,
}

impl Principal {
    /// Somebody of whom nothing more is known.
    pub fn new(kind: Kind, name: impl Into<String>) -> Self {
        Self {
            kind,
            name: name.into(),
            groups: BTreeSet::new(),
            scope: Vec::new(),
            until: None,
        }
    }
}

/// What somebody known is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A user: of the password file, the directory, or with a certificate.
    User,
    /// A robot with a token of ours.
    Robot,
    /// A workload that its issuer vouches for.
    Workload,
}

/// What may be done where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// What.
    pub may: Vec<Action>,
    /// Where: a pattern over `repository/image`.
    pub on: Pattern,
}

impl Identity {
    /// Whether they have not said who they are.
    pub const fn is_anonymous(&self) -> bool {
        matches!(self, Self::Anonymous)
    }
}

impl Kind {
    /// Its word, in audits and tokens.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Robot => "robot",
            Self::Workload => "workload",
        }
    }
}

/// For people: `nobody`, `ada`, `robot ci`.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("nobody"),
            Self::Known(known) => match known.kind {
                Kind::User => f.write_str(&known.name),
                kind => write!(f, "{} {}", kind.as_str(), known.name),
            },
        }
    }
}
