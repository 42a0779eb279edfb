//! What lets us in at an upstream, where a cloud gives it to us: from stand-ins that speak as the vendors' documents say,
//! and from some that do not.
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
