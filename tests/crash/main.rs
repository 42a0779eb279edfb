//! What was acknowledged outlives what may happen to the real binary: kills, power cuts, calls of the kernel that fail.
//! Each row of the table in `docs/guarantees.md` is a test that has its number in its name. Linux, as root, with strace
//! and e2fsprogs.
//!
//! Start reading at `workload`: what clients do until it is over. `oracle` remembers, outside of the disk in question,
//! what they were told; `check` asks for all of it after the restart.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test that meets the unexpected should stop there, and tells how to do it again"
)]

#[path = "../registry/support.rs"]
#[allow(dead_code, reason = "the binary, of which a part is used here")]
mod binary;
mod caller;
mod check;
mod dice;
mod durability;
mod failing;
mod oracle;
mod order;
mod places;
mod promises;
mod pushing;
#[path = "../load/raw.rs"]
#[allow(dead_code, reason = "of which the size of the tests is used here")]
mod raw;
mod soak;
mod strace;
#[path = "../support/mod.rs"]
mod support;
mod survival;
mod tree;
mod workload;
mod world;
