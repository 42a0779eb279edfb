//! What is told about the running server: [`metrics`], [`logs`], and in [`audit`] who did what.
//!
//! A leaf: it knows no room, every room may use it. Labels are the few things an operator chose — repository keys,
//! upstream roles — and never what a client sent, so the number of series is bounded by the configuration.

pub mod audit;
pub mod logs;
pub mod metrics;
mod plain;
pub mod timestamp;

pub use audit::Audit;
pub use metrics::Metrics;
