//! Which part of a blob is asked for, and what vouches for it being a part of the same blob.

use http::HeaderValue;
use http::header::ETAG;
use url::{Origin, Url};

use super::send::Response;

/// Bytes of a blob: from `from` to before `to`, or to the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// The first byte.
    pub from: u64,
    /// The byte after the last one; none is the blob's end.
    pub to: Option<u64>,
}

impl Range {
    /// From here to the end.
    pub const fn from(from: u64) -> Self {
        Self { from, to: None }
    }

    /// As `Range` says it; the whole needs none.
    pub(super) fn header(self) -> Option<String> {
        match self.to {
            Some(to) => Some(format!("bytes={}-{}", self.from, to.saturating_sub(1))),
            None if self.from > 0 => Some(format!("bytes={}-", self.from)),
            None => None,
        }
    }
}

/// A strong entity tag, and whose it is: another host's means nothing to this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Validator {
    origin: Origin,
    tag: HeaderValue,
}

impl Validator {
    pub(super) fn of(response: &Response) -> Option<Self> {
        let tag = response.headers().get(ETAG)?;
        // A weak one does not promise the same bytes: `If-Range` must not have it.
        let is_strong = tag.len() >= 2 && tag.as_bytes().starts_with(b"\"") && tag.as_bytes().ends_with(b"\"");
        is_strong.then(|| Self {
            origin: response.url.origin(),
            tag: tag.clone(),
        })
    }

    /// What to show to the host of this address.
    pub(super) fn for_host(&self, url: &Url) -> Option<&HeaderValue> {
        (self.origin == url.origin()).then_some(&self.tag)
    }
}

/// What an answer says that it sends: the first byte, the byte after the last, and the length of the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sent {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) total: Option<u64>,
}

impl Sent {
    /// `bytes 10-19/20` or `bytes 10-19/*`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (range, total) = text.trim().strip_prefix("bytes")?.trim_start().split_once('/')?;
        let (start, last) = range.split_once('-')?;
        let (start, last): (u64, u64) = (start.trim().parse().ok()?, last.trim().parse().ok()?);
        let end = last.checked_add(1)?;
        let total = match total.trim() {
            "*" => None,
            total => Some(total.parse().ok()?),
        };
        (start < end && total.is_none_or(|total: u64| end <= total)).then_some(Self { start, end, total })
    }

    /// Whether this is all that was asked for, and nothing else.
    pub(super) fn answers(&self, asked: Range) -> bool {
        let wanted = match (asked.to, self.total) {
            (Some(to), Some(total)) => Some(to.min(total)),
            (to, total) => to.or(total),
        };
        self.start == asked.from && wanted.is_none_or(|end| end == self.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_range_answers_what_was_asked_or_nothing() {
        let sent = |start, end, total| Some(Sent { start, end, total });
        for (text, expected) in [
            ("bytes 10-19/20", sent(10, 20, Some(20))),
            ("bytes 0-0/1", sent(0, 1, Some(1))),
            ("bytes 10-19/*", sent(10, 20, None)),
            ("bytes 10-18/20", sent(10, 19, Some(20))),
            ("bytes 10-20/20", None),
            ("bytes 19-10/20", None),
            ("bytes */20", None),
            ("10-19/20", None),
            ("bytes 10-18446744073709551615/20", None),
            ("", None),
        ] {
            assert_eq!(Sent::parse(text), expected, "{text}");
        }
        let answers = |text: &str, from, to| Sent::parse(text).is_some_and(|sent| sent.answers(Range { from, to }));
        assert!(answers("bytes 10-19/20", 10, None));
        assert!(answers("bytes 10-19/*", 10, None));
        assert!(answers("bytes 10-14/20", 10, Some(15)));
        assert!(answers("bytes 10-19/20", 10, Some(30)), "no more than there is");
        assert!(!answers("bytes 10-18/20", 10, None), "not the rest");
        assert!(!answers("bytes 10-19/20", 10, Some(15)), "more than was asked for");
        assert!(!answers("bytes 10-13/20", 10, Some(15)), "less");
        assert!(!answers("bytes 9-19/20", 10, None));
    }

    #[test]
    fn a_range_is_written_as_clients_write_it() {
        assert_eq!(Range::default().header(), None);
        assert_eq!(Range::from(5).header().as_deref(), Some("bytes=5-"));
        let part = Range { from: 0, to: Some(10) };
        assert_eq!(part.header().as_deref(), Some("bytes=0-9"));
    }
}
