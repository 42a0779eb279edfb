//! Entrepôt: an OCI registry that is three things behind one endpoint.
//!
//! *Local* repositories that people push to, *remote* ones that are pull-through caches of other registries, and
//! *virtual* ones that put an ordered list of both behind one name.
//!
//! # Layout
//!
//! Dependencies point one way; `tests/house.rs` sees to it. From the bottom:
//!
//! - [`oci`]: the words of the distribution specification. Pure.
//! - [`clock`]: how time passes. A leaf.
//! - [`mishap`]: panics for tests. A leaf, and nothing in a release.
//! - [`telemetry`]: logs and metrics. A leaf.
//! - [`config`]: `repositories.yml`, as plain data, or problems with line and column.
//! - [`store`]: what is kept on disk, and the index over it.
//! - [`upstream`]: one registry somewhere else.
//! - [`access`]: who may do what.
//! - [`cache`]: between an upstream and the store: fetch once, keep, serve many.
//! - [`repository`]: what a client sees: local, remote, virtual.
//! - [`http`]: the front door.
//! - [`app`], [`cli`]: wiring, and the command line.
//!
//! # Words
//!
//! *Repository*: an entry of `repositories.yml`. *Image*: the rest of a name. *Upstream*: the registry that a remote
//! repository proxies. *Member*: a repository in a virtual one. *Record*: a small file that is the truth. *Index*: what can
//! be rebuilt from the records. *Spool*: bytes that are not verified yet. *Flight*: one fetch shared by many. *Follower*: a
//! client reading a file that still grows.
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        reason = "a test that meets the unexpected should stop there"
    )
)]

pub mod access;
pub mod app;
pub mod cache;
pub mod cli;
pub mod clock;
pub mod config;
pub mod http;
pub mod mishap;
pub mod oci;
pub mod repository;
pub mod store;
pub mod telemetry;
pub mod upstream;
