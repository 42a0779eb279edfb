//! What the tests share.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "every test file is a crate of its own and uses a part of this"
)]

pub mod cloud;
pub mod directory;
pub mod issuer;
pub mod proxy;
pub mod remote;
pub mod site;
pub mod size;
pub mod tls;
pub mod upstream;
