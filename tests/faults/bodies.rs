//! Bodies that break off, lie, never end, come slowly or in parts, and what becomes of those who wait for them.

mod ahead;
mod broken;
mod cascade;
mod crowds;
mod drops;
mod full;
mod parts;
mod restart;

#[path = "../registry/support.rs"]
#[allow(
    dead_code,
    clippy::print_stderr,
    reason = "the registry as a process, of which these tests use a part"
)]
mod registry;
