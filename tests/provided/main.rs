//! Vendors' registries, and what lets us in there where a cloud or a program gives it to us: by stand-ins that speak as the
//! vendors' documents say, and by some that do not.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that meets the unexpected should stop there"
)]

mod azure;
mod docker_config;
mod ecr;
mod google;
mod keys;
#[path = "../support/mod.rs"]
mod support;
mod vendors;
