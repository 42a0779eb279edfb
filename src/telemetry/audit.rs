//! Who did what: one JSON line for each decision that changes or refuses something.
//!
//! Lines are written by a thread of its own, over a queue with a bound: a disk or a pipe that is slow or stuck never
//! holds up an answer. What did not fit is counted, and a line says so where it is missing.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;

use super::{Metrics, plain, timestamp};

/// Lines that may wait to be written.
const WAITING: usize = 8192;
/// What is written at a time, in bytes.
const BATCH: usize = 64 * 1024;
/// The longest text in a line, in bytes: a name has 255, a reference not many more.
const LONGEST: usize = 512;
/// How long to wait before looking again whether there is room to ask for a flush.
const AGAIN: Duration = Duration::from_millis(10);

/// One decision.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Entry<'a> {
    /// The request's id, which the answer and the log have too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<&'a str>,
    /// Who.
    pub who: Who<'a>,
    /// The client's address, as trusted proxies tell it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<&'a str>,
    /// What they did or wanted to.
    pub action: &'a str,
    /// In which repository.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repository: Option<&'a str>,
    /// With which image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<&'a str>,
    /// With which tag or digest of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<&'a str>,
    /// What came of it.
    pub outcome: Outcome,
    /// The answer's status.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<&'a str>,
}

impl<'a> Entry<'a> {
    /// What the server does by itself.
    pub const fn of_system(action: &'a str, outcome: Outcome, why: Option<&'a str>) -> Self {
        Self {
            request_id: None,
            who: Who {
                kind: "system",
                name: None,
            },
            from: None,
            action,
            repository: None,
            image: None,
            reference: None,
            outcome,
            status: None,
            why,
        }
    }
}

/// Who did something.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Who<'a> {
    /// `user`, `robot`, `workload`; `anonymous`; `unproven`, who only said so; `system`, the server itself.
    pub kind: &'a str,
    /// Their name among their kind, if they have one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<&'a str>,
}

/// What came of a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It was allowed, and is done.
    Allowed,
    /// They may not.
    Denied,
    /// They may, but it could not be done.
    Failed,
}

#[derive(Serialize)]
struct Line<'a> {
    time: &'a str,
    #[serde(flatten)]
    entry: Entry<'a>,
}

/// Where lines go. A clone writes to the same place.
#[derive(Clone, Debug)]
pub struct Audit {
    /// `None`: nowhere.
    queue: Option<SyncSender<Order>>,
    lost: Arc<AtomicU64>,
    metrics: Arc<Metrics>,
    pulls: bool,
}

enum Order {
    Write(Vec<u8>),
    /// Tells when all before it is written.
    Flush(SyncSender<()>),
}

impl Audit {
    /// One that writes nothing.
    pub fn nowhere(metrics: &Arc<Metrics>) -> Self {
        Self {
            queue: None,
            lost: Arc::default(),
            metrics: Arc::clone(metrics),
            pulls: false,
        }
    }

    /// One that writes to standard output. `pulls`: each of them, too.
    pub fn stdout(pulls: bool, metrics: &Arc<Metrics>) -> io::Result<Self> {
        Self::start(io::stdout(), pulls, metrics)
    }

    /// One that appends to a file, which only we can read when we make it.
    pub fn file(path: &Path, pulls: bool, metrics: &Arc<Metrics>) -> io::Result<Self> {
        let file: File = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        Self::start(file, pulls, metrics)
    }

    fn start(target: impl Write + Send + 'static, pulls: bool, metrics: &Arc<Metrics>) -> io::Result<Self> {
        let (queue, orders) = sync_channel(WAITING);
        let lost = Arc::new(AtomicU64::new(0));
        let writer = Writer {
            target,
            lost: Arc::clone(&lost),
            metrics: Arc::clone(metrics),
            has_failed: false,
        };
        std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || writer.run(&orders))?;
        Ok(Self {
            queue: Some(queue),
            lost,
            metrics: Arc::clone(metrics),
            pulls,
        })
    }

    /// Whether every pull is to be told.
    pub const fn wants_pulls(&self) -> bool {
        self.pulls && self.queue.is_some()
    }

    /// Writes an entry down. Never waits.
    pub fn tell(&self, entry: Entry<'_>, time: SystemTime) {
        let Some(queue) = &self.queue else {
            return;
        };
        match queue.try_send(Order::Write(line(entry, time))) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.lost.fetch_add(1, Ordering::Relaxed);
                self.metrics.audit_lost(1);
            }
        }
    }

    /// Waits until what was told before is written, no longer than this. It blocks: not for an async task.
    pub fn flush(&self, within: Duration) -> bool {
        let Some(queue) = &self.queue else {
            return true;
        };
        let until = Instant::now() + within;
        let (done, written) = sync_channel(1);
        let mut order = Order::Flush(done);
        loop {
            match queue.try_send(order) {
                Ok(()) => break,
                Err(TrySendError::Full(back)) if Instant::now() < until => order = back,
                Err(_) => return false,
            }
            std::thread::sleep(AGAIN);
        }
        written
            .recv_timeout(until.saturating_duration_since(Instant::now()))
            .is_ok()
    }
}

/// One line: JSON in which nothing ends a line or moves a cursor, whatever names and tags were sent.
fn line(entry: Entry<'_>, time: SystemTime) -> Vec<u8> {
    let entry = Entry {
        who: Who {
            name: entry.who.name.map(cut),
            ..entry.who
        },
        request_id: entry.request_id.map(cut),
        repository: entry.repository.map(cut),
        image: entry.image.map(cut),
        reference: entry.reference.map(cut),
        why: entry.why.map(cut),
        ..entry
    };
    let time = timestamp::of(time);
    // Plain data of texts and a number: nothing that JSON could not say.
    let json = serde_json::to_string(&Line { time: &time, entry }).unwrap_or_default();
    let mut line = plain::json(&json).into_owned();
    line.push('\n');
    line.into_bytes()
}

fn cut(text: &str) -> &str {
    let mut end = text.len().min(LONGEST);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

struct Writer<W> {
    target: W,
    /// Lines that are not there and have not been told of.
    lost: Arc<AtomicU64>,
    metrics: Arc<Metrics>,
    has_failed: bool,
}

impl<W: Write> Writer<W> {
    /// Writes until nobody is left who could tell anything.
    fn run(mut self, orders: &Receiver<Order>) {
        let mut batch = Vec::with_capacity(BATCH);
        while let Ok(first) = orders.recv() {
            let mut waiting = Vec::new();
            let mut next = Some(first);
            let mut lines = 0;
            while let Some(order) = next {
                match order {
                    Order::Write(line) => {
                        batch.extend_from_slice(&line);
                        lines += 1;
                    }
                    Order::Flush(done) => waiting.push(done),
                }
                next = (batch.len() < BATCH).then(|| orders.try_recv().ok()).flatten();
            }
            self.write(&batch, lines);
            batch.clear();
            for done in waiting {
                let _ = done.try_send(());
            }
        }
    }

    fn write(&mut self, batch: &[u8], lines: u64) {
        let lost = self.lost.swap(0, Ordering::Relaxed);
        let mut all = Vec::new();
        if lost > 0 {
            let why = format!("{lost} lines before this one are lost");
            let gap = Entry::of_system("audit", Outcome::Failed, Some(&why));
            all = line(gap, SystemTime::now());
        }
        all.extend_from_slice(batch);
        match self.target.write_all(&all).and_then(|()| self.target.flush()) {
            Ok(()) => {
                if std::mem::take(&mut self.has_failed) {
                    tracing::info!("the audit is written again");
                }
            }
            Err(error) => {
                self.lost.fetch_add(lost + lines, Ordering::Relaxed);
                self.metrics.audit_lost(lines);
                if !std::mem::replace(&mut self.has_failed, true) {
                    tracing::error!(%error, "the audit cannot be written; what is missing is counted");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
