//! Moving in and out: what `registry:2` has kept is served by us, what we keep is served by `registry:2`, and what is backed
//! up is there again; what is exported is imported. `registry:2` is Debian's `docker-registry`, which has to be installed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "a test that meets the unexpected should stop there"
)]

mod backup;
#[path = "../registry/support.rs"]
#[allow(dead_code, reason = "not every test crate asks for everything")]
mod binary;
mod distribution;
mod images;
mod import;
mod layout;
#[path = "../support/size.rs"]
mod size;
