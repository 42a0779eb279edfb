//! Those for whom others vouch: workloads with a token of an issuer, and users of a directory.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test that meets the unexpected should stop there"
)]

#[path = "../support/mod.rs"]
mod support;

mod directory;
mod forgeries;
mod issuers;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use entrepot::access::{Access, Identity, Presented, Principal, Robots, SigningKey, Unidentified};
use entrepot::config::{Anonymous, AuthConfig};

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

fn access(config: &AuthConfig, before: Option<&Access>) -> Access {
    let key = SigningKey::generate().expect("randomness");
    Access::new(config, &key, &Arc::new(Robots::default()), before).expect("it can be used")
}

fn closed() -> AuthConfig {
    AuthConfig {
        policies: Some(Vec::new()),
        ..AuthConfig::open(Anonymous::None)
    }
}

async fn bearer(access: &Access, token: &str) -> Result<Arc<Principal>, Unidentified> {
    access.identify(Presented::Token(token), HERE).await.map(principal)
}

async fn password(access: &Access, user: &str, password: &str) -> Result<Arc<Principal>, Unidentified> {
    let shown = Presented::Password { user, password };
    access.identify(shown, HERE).await.map(principal)
}

fn principal(identity: Identity) -> Arc<Principal> {
    match identity {
        Identity::Known(principal) => principal,
        Identity::Anonymous => panic!("they said who they are"),
    }
}

/// Lets time pass. Only here does the clock stand still: what waits for a socket needs it to go on.
async fn later(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.expect("after 1970").as_secs()
}
