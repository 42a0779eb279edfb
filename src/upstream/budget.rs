//! What an upstream says about how often it may still be asked. Pure: time is an argument.
//!
//! Docker Hub counts the GET of a manifest as a pull, and says with every manifest how many are left. Others say the
//! same in other words: the drafts of the IETF, and the `X-RateLimit-*` that came before them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::HeaderMap;
use tokio::time::Instant;

/// For how long is believed what is said without a window.
const DEFAULT_WINDOW: Duration = Duration::from_secs(60);
/// No window is believed to be longer.
const LONGEST_WINDOW: Duration = Duration::from_secs(31 * 24 * 60 * 60);
/// The longest name of who is counted that is kept.
const LONGEST_SOURCE: usize = 64;

/// How often an upstream may still be asked, as it said last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    /// How often in all, in one window.
    pub limit: u64,
    /// How often it still may be.
    pub remaining: u64,
    /// How long a window is, or what is left of it; after it, nothing is known any more.
    pub window: Duration,
    /// When it said so.
    pub seen: Instant,
    /// Whose budget it is, as it says: an address or the name of an account.
    pub source: Option<String>,
}

impl Budget {
    /// Whether it still holds: after its window it is another one, and nobody has said yet how large.
    pub fn is_current(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.seen) < self.window
    }

    /// What the headers of an answer say. `None` if they say nothing, as those of an unlimited account do.
    pub(super) fn read(headers: &HeaderMap, now: Instant, clock: SystemTime) -> Option<Self> {
        let text = |name: &str| headers.get(name)?.to_str().ok();
        let (limit, remaining, window) = separate(&text, "ratelimit", clock)
            .or_else(|| combined(&text))
            .or_else(|| separate(&text, "x-ratelimit", clock))?;
        Some(Self {
            limit: limit.max(remaining),
            remaining,
            window: window.unwrap_or(DEFAULT_WINDOW).min(LONGEST_WINDOW),
            seen: now,
            source: text("docker-ratelimit-source").and_then(source),
        })
    }
}

/// Who is counted, if it can be printed.
fn source(text: &str) -> Option<String> {
    let is_plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "-._:".contains(c));
    (is_plain && !text.is_empty() && text.len() <= LONGEST_SOURCE).then(|| text.to_owned())
}

/// `ratelimit-limit: 100;w=21600` and its like: a header for each number.
fn separate<'a>(
    text: &impl Fn(&str) -> Option<&'a str>,
    prefix: &str,
    clock: SystemTime,
) -> Option<(u64, u64, Option<Duration>)> {
    let limit = text(&format!("{prefix}-limit"));
    let remaining = text(&format!("{prefix}-remaining"))?;
    let left = first_number(remaining)?;
    let limit_number = limit.and_then(first_number).unwrap_or(left);
    let window = parameter(remaining, "w").or_else(|| limit.and_then(|limit| parameter(limit, "w")));
    let reset = text(&format!("{prefix}-reset")).and_then(first_number);
    let window = window
        .map(Duration::from_secs)
        .or_else(|| reset.map(|reset| until(reset, clock)));
    Some((limit_number, left, window))
}

/// `RateLimit: limit=100, remaining=50, reset=30`, or `RateLimit: "default";r=50;t=30` with a `RateLimit-Policy`.
fn combined<'a>(text: &impl Fn(&str) -> Option<&'a str>) -> Option<(u64, u64, Option<Duration>)> {
    let header = text("ratelimit")?;
    let remaining = parameter(header, "remaining").or_else(|| parameter(header, "r"))?;
    let policy = text("ratelimit-policy").unwrap_or_default();
    let limit = parameter(header, "limit").or_else(|| parameter(policy, "q"));
    let window = parameter(header, "reset")
        .or_else(|| parameter(header, "t"))
        .or_else(|| parameter(policy, "w"));
    Some((limit.unwrap_or(remaining), remaining, window.map(Duration::from_secs)))
}

/// Some say a time of the clock where others say seconds from now.
fn until(reset: u64, clock: SystemTime) -> Duration {
    let now = clock.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    match reset.checked_sub(now) {
        Some(left) => Duration::from_secs(left),
        None if reset > 1_000_000_000 => Duration::ZERO,
        None => Duration::from_secs(reset),
    }
}

/// The number before the first `;` or `,`.
fn first_number(text: &str) -> Option<u64> {
    text.split([';', ',']).next()?.trim().parse().ok()
}

/// The number of `name=…` among what `;` and `,` separate.
fn parameter(text: &str, name: &str) -> Option<u64> {
    text.split([';', ',']).find_map(|part| {
        let (key, value) = part.split_once('=')?;
        let is_it = key.trim().eq_ignore_ascii_case(name);
        value.trim().trim_matches('"').parse().ok().filter(|_| is_it)
    })
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    use super::*;

    fn read(lines: &[(&str, &str)]) -> Option<Budget> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let name: HeaderName = name.parse().expect("a name");
            headers.insert(name, HeaderValue::from_str(value).expect("a value"));
        }
        Budget::read(
            &headers,
            Instant::now(),
            UNIX_EPOCH + Duration::from_secs(1_800_000_000),
        )
    }

    #[test]
    fn what_registries_say_is_understood() {
        let hub = [
            ("ratelimit-limit", "100;w=21600"),
            ("ratelimit-remaining", "20;w=21600"),
            ("docker-ratelimit-source", "192.0.2.1"),
        ];
        let budget = read(&hub).expect("a budget");
        assert_eq!(budget.source.as_deref(), Some("192.0.2.1"));
        for (lines, expected) in [
            (&hub[..], Some((100, 20, 21600))),
            (&hub[1..2], Some((20, 20, 21600))),
            (&hub[..1], None),
            (
                &[
                    ("RateLimit-Limit", "100, 100;w=60"),
                    ("RateLimit-Remaining", "7"),
                    ("RateLimit-Reset", "30"),
                ],
                Some((100, 7, 60)),
            ),
            (
                &[("RateLimit", "limit=100, remaining=50, reset=30")],
                Some((100, 50, 30)),
            ),
            (
                &[
                    ("RateLimit", r#""default";r=50;t=30"#),
                    ("RateLimit-Policy", r#""default";q=100;w=60"#),
                ],
                Some((100, 50, 30)),
            ),
            (
                &[
                    ("X-RateLimit-Limit", "180"),
                    ("X-RateLimit-Remaining", "0"),
                    ("X-RateLimit-Reset", "1800000090"),
                ],
                Some((180, 0, 90)),
            ),
            (
                &[("X-RateLimit-Remaining", "3"), ("X-RateLimit-Reset", "5")],
                Some((3, 3, 5)),
            ),
            (&[("ratelimit-remaining", "many")], None),
            (&[("ratelimit-remaining", "-1")], None),
            (&[], None),
        ] {
            let found = read(lines).map(|budget| (budget.limit, budget.remaining, budget.window.as_secs()));
            assert_eq!(found, expected, "{lines:?}");
        }
        for source in ["a b", "<script>", &"x".repeat(65), ""] {
            let budget = read(&[("ratelimit-remaining", "1"), ("docker-ratelimit-source", source)]);
            assert_eq!(budget.expect("a budget").source, None, "{source}");
        }
    }

    #[test]
    fn a_budget_is_forgotten_with_its_window() {
        let budget = read(&[("ratelimit-remaining", "0;w=60")]).expect("a budget");
        assert!(budget.is_current(budget.seen + Duration::from_secs(59)));
        assert!(!budget.is_current(budget.seen + Duration::from_secs(60)));
    }

    proptest! {
        #[test]
        fn no_header_is_too_much(limit in "[ -~]{0,40}", remaining in "[ -~]{0,40}", reset in "[ -~]{0,40}") {
            for prefix in ["ratelimit", "x-ratelimit"] {
                let names = ["limit", "remaining", "reset"].map(|name| format!("{prefix}-{name}"));
                if let Some(budget) = read(&[(&names[0], &limit), (&names[1], &remaining), (&names[2], &reset)]) {
                    prop_assert!(budget.remaining <= budget.limit && budget.window <= LONGEST_WINDOW);
                }
            }
        }
    }
}
