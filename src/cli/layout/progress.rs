//! How far long work is: a bar for whoever looks at a terminal, and a line for each image there and elsewhere.

use std::io::{IsTerminal as _, Write as _};

/// How wide the bar is.
const WIDTH: u64 = 24;

/// Lines, and below them one that is written anew.
#[derive(Debug)]
pub(in crate::cli) struct Progress {
    wanted: bool,
    shows: bool,
    done: u64,
    total: u64,
    shown: String,
}

impl Progress {
    /// If it is `wanted`; the bar, if there is a terminal.
    pub(in crate::cli) fn new(wanted: bool) -> Self {
        Self {
            wanted,
            shows: wanted && std::io::stderr().is_terminal(),
            done: 0,
            total: 0,
            shown: String::new(),
        }
    }

    /// What is going on, before it is known how much there is.
    pub(super) fn say(&mut self, what: &str) {
        self.show(what.to_owned());
    }

    /// One image is done.
    pub(super) fn tell(&mut self, line: &str) {
        if !self.wanted {
            return;
        }
        self.clear();
        eprintln!("{line}");
    }

    /// How many bytes there are in all.
    pub(super) fn expect(&mut self, total: u64) {
        self.total = total;
        self.add(0);
    }

    /// So many bytes more are done.
    pub(super) fn add(&mut self, bytes: u64) {
        self.done = self.done.saturating_add(bytes);
        if self.shows {
            self.show(bar(self.done, self.total));
        }
    }

    fn clear(&mut self) {
        if !self.shown.is_empty() {
            eprint!("\r\x1b[K");
            self.shown.clear();
        }
    }

    fn show(&mut self, line: String) {
        // A terminal that is far away is not told the same again and again.
        if self.shows && line != self.shown {
            eprint!("\r\x1b[K{line}");
            let _ = std::io::stderr().flush();
            self.shown = line;
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

fn bar(done: u64, total: u64) -> String {
    let done = done.min(total);
    let of = |whole: u64| u128::from(done) * u128::from(whole) / u128::from(total.max(1));
    let full = usize::try_from(of(WIDTH)).unwrap_or_default();
    let width = usize::try_from(WIDTH).unwrap_or_default();
    format!(
        "[{}{}] {:3} % of {}",
        "=".repeat(full),
        " ".repeat(width - full),
        of(100),
        size(total)
    )
}

/// A number of bytes for people.
pub(in crate::cli) fn size(bytes: u64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let Some((unit, shift)) = units.into_iter().find(|(_, shift)| bytes >> shift > 0) else {
        return format!("{bytes} bytes");
    };
    let tenths = (u128::from(bytes) * 10) >> shift;
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_full_as_the_work_is_done() {
        assert_eq!(bar(0, 0), "[                        ]   0 % of 0 bytes");
        assert_eq!(bar(512, 1024), "[============            ]  50 % of 1.0 KiB");
        assert_eq!(bar(9 << 30, 9 << 30), "[========================] 100 % of 9.0 GiB");
        assert_eq!(bar(u64::MAX, 1), "[========================] 100 % of 1 bytes");
        assert_eq!(size(1_500_000), "1.4 MiB");
    }
}
