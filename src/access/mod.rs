//! Who may do what: pure rules, asked once for every request, before anything else is done for it.
//!
//! Knows the words of the API and nothing of HTTP or of how things are kept. There is one way in so far, to be nobody;
//! a new one is a variant of [`Identity`].

use crate::config::{Anonymous, AuthConfig};
use crate::oci::operation::Action;

/// Who is asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// Somebody who has not said who they are.
    Anonymous,
}

/// Whether it is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is.
    Allowed,
    /// It is not; the sentence says what would have to change.
    Denied(&'static str),
}

/// The rules.
#[derive(Clone, Debug)]
pub struct Access {
    anonymous: Anonymous,
}

impl Access {
    /// The rules of a configuration.
    pub const fn new(config: &AuthConfig) -> Self {
        Self {
            anonymous: config.anonymous,
        }
    }

    /// Whether this caller may do this.
    pub const fn decide(&self, identity: &Identity, action: Action) -> Decision {
        let Identity::Anonymous = identity;
        match (self.anonymous, action) {
            (Anonymous::All, _) | (Anonymous::Pull, Action::Pull) => Decision::Allowed,
            (Anonymous::Pull, Action::Push | Action::Delete) => {
                Decision::Denied("pushing and deleting are not open to everyone here: `auth.anonymous` is `pull`")
            }
            (Anonymous::Pull, Action::Admin) => Decision::Denied(
                "changing tags and fetching ahead are not open to everyone here: `auth.anonymous` is `pull`",
            ),
            (Anonymous::None, _) => Decision::Denied("nothing is open to everyone here: `auth.anonymous` is `none`"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anonymous_callers_may_what_the_configuration_says() {
        let table = [
            (Anonymous::All, [true, true, true, true]),
            (Anonymous::Pull, [true, false, false, false]),
            (Anonymous::None, [false, false, false, false]),
        ];
        for (anonymous, allowed) in table {
            let access = Access::new(&AuthConfig { anonymous });
            for (action, allowed) in [Action::Pull, Action::Push, Action::Delete, Action::Admin]
                .into_iter()
                .zip(allowed)
            {
                let decision = access.decide(&Identity::Anonymous, action);
                assert_eq!(decision == Decision::Allowed, allowed, "{anonymous:?} {action:?}");
            }
        }
    }
}
