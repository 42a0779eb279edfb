//! Who may do what: proving who somebody is, and the rules about them.
//!
//! [`identity`] is what is known of a caller, [`policies`] what they may do; the rest are the ways to prove it. A new
//! one is a file here and a line in [`Access::identify`]. Knows the words of the API and nothing of how it is served or
//! how images are kept.

pub mod identity;
pub mod policies;

pub use identity::{Grant, Identity, Kind, Principal};
pub use policies::Policies;

use std::net::IpAddr;
use std::time::Duration;

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
    /// A token of ours that has run out.
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
}

impl Access {
    /// What a configuration says.
    pub fn new(config: &AuthConfig) -> Self {
        Self {
            policies: Policies::new(config),
        }
    }

    /// Who shows this. `client` is where they ask from: who guesses is made to wait.
    #[expect(clippy::unused_async, reason = "a directory or an issuer is waited for")]
    pub async fn identify(&self, shown: Presented<'_>, _client: IpAddr) -> Result<Identity, Unidentified> {
        match shown {
            Presented::Nothing | Presented::Password { user: "", password: "" } => Ok(Identity::Anonymous),
            _ => Err(Unidentified::Unknown),
        }
    }
}
