//! Logs: one event a line, for people or as JSON for machines, to standard error.

use std::io::{self, IsTerminal, Write};

use tracing_subscriber::EnvFilter;

use super::plain;

/// Starts logging for the whole process. `ENTREPOT_LOG` filters (`info` without it; the syntax is tracing's `EnvFilter`);
/// the form is for people on a terminal and JSON elsewhere, unless `ENTREPOT_LOG_FORMAT` says `text` or `json`.
///
/// Field values are escaped by both forms: what a client sent can end no line and move no cursor (RUSTSEC-2025-0055).
pub fn start() {
    let filter = EnvFilter::try_from_env("ENTREPOT_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let terminal = io::stderr().is_terminal();
    let json = match std::env::var("ENTREPOT_LOG_FORMAT").as_deref() {
        Ok("json") => true,
        Ok("text") => false,
        _ => !terminal,
    };
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(move || Plain { json })
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

/// Standard error, where nothing arrives that turns the direction of text or begins another line: what writes events
/// leaves that to whoever reads them.
struct Plain {
    json: bool,
}

impl Write for Plain {
    /// Takes one event, which is always written at once.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let plain = match text.strip_suffix('\n') {
            Some(line) if self.json => plain::json(line) + "\n",
            _ => plain::text(&text),
        };
        io::stderr().write_all(plain.as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
