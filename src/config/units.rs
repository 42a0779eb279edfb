//! Sizes and times as people write them: `10GiB`, `30s`.

use std::fmt;
use std::time::Duration;

/// The longest time that means something other than `forever`. It keeps sums of times far from overflowing.
const LONGEST: Duration = Duration::from_secs(36_500 * 24 * 60 * 60);

/// What is wrong with a value, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Complaint {
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

impl Complaint {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: None,
        }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// The hint follows the message on a line of its own: serde carries nothing but text.
impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\n{hint}"),
            None => Ok(()),
        }
    }
}

/// As much of a value as a message may repeat: it is cut and cleaned.
pub(super) fn excerpt(text: &str) -> String {
    let mut short: String = text
        .chars()
        .take(60)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect();
    if short.len() < text.len() && text.chars().nth(60).is_some() {
        short.push('…');
    }
    short
}

/// `10GiB`, `500MB`, `4096`: bytes.
pub(super) fn size(text: &str) -> Result<u64, Complaint> {
    let wrong = || {
        Complaint::new(format!("`{}` is not a size", excerpt(text))).hint(
            "a whole number with B, kB, MB, GB, TB (powers of 1000) or KiB, MiB, GiB, TiB (powers of 1024): `10GiB`",
        )
    };
    let (number, unit) = split_number(text.trim()).ok_or_else(wrong)?;
    let factor: u64 = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1000,
        "mb" => 1000_u64.pow(2),
        "gb" => 1000_u64.pow(3),
        "tb" => 1000_u64.pow(4),
        "kib" => 1024,
        "mib" => 1024_u64.pow(2),
        "gib" => 1024_u64.pow(3),
        "tib" => 1024_u64.pow(4),
        _ => return Err(wrong()),
    };
    number
        .checked_mul(factor)
        .ok_or_else(|| Complaint::new(format!("`{}` is larger than any disk", excerpt(text))))
}

/// `500ms`, `30s`, `10m`, `24h`, `7d`, or a sum of them such as `1h30m`.
pub(super) fn time(text: &str) -> Result<Duration, Complaint> {
    let wrong = || {
        Complaint::new(format!("`{}` is not a time", excerpt(text)))
            .hint("a whole number with a unit, ms, s, m, h or d: `500ms`, `30s`, `10m`, `24h`, `7d`")
    };
    let mut total = Duration::ZERO;
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let (number, after) = split_number(rest).ok_or_else(wrong)?;
        let unit_end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_end);
        let part = match unit {
            "ms" => Some(Duration::from_millis(number)),
            "s" => Some(Duration::from_secs(number)),
            "m" => number.checked_mul(60).map(Duration::from_secs),
            "h" => number.checked_mul(60 * 60).map(Duration::from_secs),
            "d" => number.checked_mul(24 * 60 * 60).map(Duration::from_secs),
            _ => return Err(wrong()),
        };
        total = part
            .and_then(|part| total.checked_add(part))
            .filter(|total| *total <= LONGEST)
            .ok_or_else(|| Complaint::new(format!("`{}` is longer than a hundred years", excerpt(text))))?;
        rest = next;
    }
    Ok(total)
}

/// The digits a text begins with, as a number, and what follows them.
fn split_number(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    // A number too large for 64 bits is too large for whatever it was meant for.
    (!digits.is_empty()).then(|| (digits.parse().unwrap_or(u64::MAX), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("7B", 7),
            ("1kB", 1000),
            ("500MB", 500_000_000),
            ("4MiB", 4 << 20),
            ("10 GiB", 10 << 30),
            ("10gib", 10 << 30),
            ("2TiB", 2 << 40),
        ] {
            assert_eq!(size(text).unwrap(), bytes, "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in [
            "", "GiB", "10G", "10Gi", "-1", "1.5GiB", "1e3", "10GiBs", "ten", "1 2", "٣MB",
        ] {
            let complaint = size(text).unwrap_err();
            assert!(complaint.message.contains("is not a size"), "{text}: {complaint:?}");
        }
        for text in [
            "18446744073709551616",
            "99999999TiB",
            "99999999999999999999999999999999999999999KiB",
        ] {
            assert!(size(text).is_err() || size(text).unwrap() == u64::MAX, "{text}");
        }
    }

    #[test]
    fn times_are_read() {
        for (text, seconds) in [
            ("0s", 0.0),
            ("500ms", 0.5),
            ("30s", 30.0),
            ("10m", 600.0),
            ("24h", 86_400.0),
            ("7d", 604_800.0),
            ("1h30m", 5400.0),
            (" 30s ", 30.0),
        ] {
            assert_eq!(time(text).unwrap(), Duration::from_secs_f64(seconds), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            " ",
            "30",
            "s",
            "30 s",
            "1.5s",
            "-1s",
            "10min",
            "5M",
            "forever",
            "1h30",
            "99999999999d",
            "18446744073709551615h",
            "18446744073709551615s1s",
        ] {
            assert!(time(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_excerpt_is_short_and_clean() {
        assert_eq!(excerpt("abc"), "abc");
        assert_eq!(excerpt("a\u{1b}b"), "a\u{fffd}b");
        assert_eq!(excerpt(&"é".repeat(100)).chars().count(), 61);
    }
}
