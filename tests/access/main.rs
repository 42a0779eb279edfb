//! Who may, over HTTP: the whole table of it, what is not told, what is not taken.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    dead_code,
    reason = "a test that meets the unexpected should stop there, and uses a part of what is shared"
)]

mod house;
mod matrix;
mod oracle;
#[path = "../registry/support.rs"]
mod support;
mod traversal;
mod uploads;
mod writes;
