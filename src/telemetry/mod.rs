//! What is told about the running server: metrics here, logs in [`logs`].
//!
//! A leaf: it knows no room, every room may use it. Labels are the few things an operator chose — repository keys,
//! upstream roles — and never what a client sent, so the number of series is bounded by the configuration.

pub mod logs;
pub mod metrics;

pub use metrics::Metrics;
