//! What clients may cost the real binary: slow ones, many, wrong ones, and what is asked of the process meanwhile.
//! Each row of the tables of availability and security is a test that has its number in its name.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that meets the unexpected should stop there"
)]

#[path = "../registry/support.rs"]
#[allow(dead_code, clippy::print_stderr, reason = "the binary, of which a part is used here")]
mod binary;
mod blocked;
mod blocking;
mod clock;
mod descriptors;
mod floods;
mod lag;
mod limits;
mod memory;
mod overload;
mod panics;
mod passwords;
mod probes;
mod raw;
mod reloads;
mod slow;
mod smuggling;
mod stopping;
#[path = "../support/mod.rs"]
mod support;
