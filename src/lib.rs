//! Entrepôt: an OCI registry.
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
pub mod cache;
pub mod config;
pub mod http;
pub mod oci;
pub mod store;
pub mod telemetry;
pub mod upstream;
