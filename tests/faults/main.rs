//! Upstreams in trouble, and upstreams that make trouble. Each row of the table in `docs/guarantees.md` is a test here
//! that has its number in its name.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that meets the unexpected should stop there"
)]

#[path = "../registry/support.rs"]
#[allow(dead_code, clippy::print_stderr, reason = "the binary, of which a part is used here")]
mod binary;
mod bodies;
mod network;
mod outage;
mod policy;
mod space;
#[path = "../support/mod.rs"]
mod support;
mod tags;
mod trouble;
