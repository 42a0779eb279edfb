//! Clients that speak raw HTTP, and what is measured with them.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::binary::Registry;

/// Nothing here takes this long unless it hangs.
pub(crate) const LONG: Duration = Duration::from_secs(60);

pub(crate) async fn connect(address: &str) -> TcpStream {
    timeout(LONG, TcpStream::connect(address))
        .await
        .expect("in time")
        .expect("connects")
}

/// Sends these bytes and reads until the other side closes, until `enough`, or, of somebody who does neither, for ten
/// seconds. Whether it has closed.
pub(crate) async fn exchange(address: &str, bytes: &[u8], enough: impl Fn(&str) -> bool) -> (String, bool) {
    let mut stream = connect(address).await;
    // Who is refused may be cut off while still sending.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let closed = timeout(LONG / 6, async {
        loop {
            match stream.read_buf(&mut answer).await {
                Ok(0) | Err(_) => return true,
                Ok(_) if enough(&String::from_utf8_lossy(&answer)) => return false,
                Ok(_) => {}
            }
        }
    })
    .await
    .unwrap_or(false);
    (String::from_utf8_lossy(&answer).into_owned(), closed)
}

/// The statuses of all answers in a text.
pub(crate) fn statuses(text: &str) -> Vec<u16> {
    text.match_indices("HTTP/1.")
        .filter_map(|(at, _)| text.get(at + 9..at + 12)?.parse().ok())
        .collect()
}

/// How long so many requests took, each, one after the other on a connection kept open; sorted.
pub(crate) async fn timings(registry: &Registry, path: &str, count: usize) -> Vec<Duration> {
    let mut took = Vec::with_capacity(count);
    for _ in 0..count {
        let began = Instant::now();
        let response = registry.get(path).send().await.expect("an answer");
        assert_eq!(response.status(), 200, "{path}");
        response.bytes().await.expect("whole");
        took.push(began.elapsed());
    }
    took.sort();
    took
}

pub(crate) fn percentile(sorted: &[Duration], hundredths: usize) -> Duration {
    sorted[(sorted.len() * hundredths / 100).min(sorted.len() - 1)]
}

/// A number of the metrics.
pub(crate) async fn metric(registry: &Registry, series: &str) -> f64 {
    let text = registry.metrics().await;
    text.lines()
        .filter_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse::<f64>().ok())
        .sum()
}

/// Memory of the process in use, in bytes.
pub(crate) fn resident(registry: &Registry) -> u64 {
    status(registry, "VmRSS:")
}

/// The most that was in use since [`forget_peak`].
pub(crate) fn peak(registry: &Registry) -> u64 {
    status(registry, "VmHWM:")
}

pub(crate) fn forget_peak(registry: &Registry) {
    // `5`: the peak becomes what is in use now (proc_pid_clear_refs(5)).
    let file = format!("/proc/{}/clear_refs", registry.process());
    std::fs::write(file, "5").expect("its own child");
}

fn status(registry: &Registry, name: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/status", registry.process())).expect("its status");
    let line = text.lines().find_map(|line| line.strip_prefix(name)).expect(name);
    let kilobytes: u64 = line.trim().strip_suffix(" kB").expect("kB").parse().expect("a number");
    kilobytes * 1024
}
