//! Logs: one event a line, for people or as JSON for machines, to standard error.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Starts logging for the whole process. `ENTREPOT_LOG` filters (`info` without it; the syntax is tracing's `EnvFilter`);
/// the form is for people on a terminal and JSON elsewhere, unless `ENTREPOT_LOG_FORMAT` says `text` or `json`.
///
/// Field values are escaped by both forms: what a client sent can end no line and move no cursor (RUSTSEC-2025-0055).
pub fn start() {
    let filter = EnvFilter::try_from_env("ENTREPOT_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let terminal = std::io::stderr().is_terminal();
    let json = match std::env::var("ENTREPOT_LOG_FORMAT").as_deref() {
        Ok("json") => true,
        Ok("text") => false,
        _ => !terminal,
    };
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(terminal)
        .with_target(false);
    // A second start, as in tests, leaves the first one's as it is.
    let _ = if json {
        subscriber
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .try_init()
    } else {
        subscriber.try_init()
    };
}
