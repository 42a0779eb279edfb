//! The binary, as its users meet it: started with a `repositories.yml`, spoken to over HTTP, stopped and killed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "a test that meets the unexpected should stop there"
)]

mod audit;
mod audited;
mod bad_input;
mod client_configuration;
mod configuration;
mod index;
mod large_index;
mod login;
mod operations;
mod origins;
mod outage;
mod passwords;
mod prefetch;
mod push;
mod reclaim;
mod resolve;
mod robots;
mod routing;
#[path = "../support/size.rs"]
mod size;
mod support;
mod tags;
mod verify;
mod virtual_repository;
