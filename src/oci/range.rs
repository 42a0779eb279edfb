//! Byte ranges: `Range` of a download, `Content-Range` of an upload's chunk.

/// How many parts of a body one request may ask for: as many as a client of zstd:chunked does.
const PARTS: usize = 1024;

/// What a `Range` header asks of a body of a known length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ranged {
    /// The whole body: no range, one in another unit, or one that does not parse. RFC 9110 lets a server ignore each of
    /// these, and, in section 14.2, what could make it send more than the body has: parts that overlap or go back.
    Whole,
    /// One part of it.
    Part(Part),
    /// Several parts, in order, none touching a byte of another.
    Parts(Vec<Part>),
    /// Nothing that is in the body: 416.
    Outside,
}

/// A part of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The first byte.
    pub start: u64,
    /// The last byte.
    pub end: u64,
}

impl Part {
    /// How many bytes it has; never 0.
    pub const fn length(self) -> u64 {
        self.end - self.start + 1
    }
}

/// Reads a `Range` value against a body of `length` bytes; RFC 9110, section 14.1.2.
pub fn ranged(header: Option<&str>, length: u64) -> Ranged {
    let Some(specs) = header.and_then(|value| value.trim().strip_prefix("bytes=")) else {
        return Ranged::Whole;
    };
    let mut parts: Vec<Part> = Vec::new();
    for (index, spec) in specs.split(',').enumerate() {
        if index == PARTS {
            return Ranged::Whole;
        }
        match one(spec.trim(), length) {
            One::Inside(part) if parts.last().is_some_and(|last| part.start <= last.end) => return Ranged::Whole,
            One::Inside(part) => parts.push(part),
            One::Outside => {}
            One::Unread => return Ranged::Whole,
        }
    }
    match parts.as_slice() {
        [] => Ranged::Outside,
        [part] => Ranged::Part(*part),
        _ => Ranged::Parts(parts),
    }
}

/// One of the ranges of a header.
enum One {
    Inside(Part),
    Outside,
    /// None, as it is written.
    Unread,
}

fn one(spec: &str, length: u64) -> One {
    let Some((first, last)) = spec.split_once('-') else {
        return One::Unread;
    };
    let (first, last) = (first.trim(), last.trim());
    let (start, end) = match (number(first), number(last)) {
        // The last so many bytes.
        (None, Some(suffix)) if first.is_empty() && suffix > 0 => (length.saturating_sub(suffix), u64::MAX),
        (None, Some(_)) if first.is_empty() => return One::Outside,
        (Some(start), None) if last.is_empty() => (start, u64::MAX),
        (Some(start), Some(end)) => (start, end),
        _ => return One::Unread,
    };
    // RFC 9110 calls a range that ends before it begins invalid and lets it be ignored; the conformance suite asks for 416.
    if start > end || start >= length {
        return One::Outside;
    }
    One::Inside(Part {
        start,
        end: end.min(length - 1),
    })
}

/// Digits only: `+1` and `1_0` are no numbers here.
fn number(text: &str) -> Option<u64> {
    (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()))
        .then(|| text.parse().ok())
        .flatten()
}

/// Where a chunk of an upload begins and ends: the specification's `Content-Range: <start>-<end>`, both included.
/// `bytes <start>-<end>/<length>`, as HTTP proper writes it, is understood too.
pub fn content_range(header: &str) -> Option<(u64, u64)> {
    let value = header.trim();
    let value = value.strip_prefix("bytes").map_or(value, str::trim_start);
    let value = value.split('/').next().unwrap_or(value);
    let (start, end) = value.split_once('-')?;
    let (start, end) = (number(start.trim())?, number(end.trim())?);
    (start <= end).then_some((start, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_the_rfc_says() {
        let part = |start, end| Ranged::Part(Part { start, end });
        let parts =
            |parts: &[(u64, u64)]| Ranged::Parts(parts.iter().map(|&(start, end)| Part { start, end }).collect());
        for (header, expected) in [
            ("bytes=0-0", part(0, 0)),
            ("bytes=2-", part(2, 9)),
            ("bytes=2-100", part(2, 9)),
            ("bytes=-3", part(7, 9)),
            ("bytes=-30", part(0, 9)),
            ("bytes=10-", Ranged::Outside),
            ("bytes=-0", Ranged::Outside),
            ("bytes=3-2", Ranged::Outside),
            ("bytes=a-b", Ranged::Whole),
            ("bytes=0-1,4-5", parts(&[(0, 1), (4, 5)])),
            ("bytes=0-1, 4-5 ,-2", parts(&[(0, 1), (4, 5), (8, 9)])),
            ("bytes=0-1,2-3", parts(&[(0, 1), (2, 3)])),
            ("bytes=0-1,20-30", part(0, 1)),
            ("bytes=20-30,40-", Ranged::Outside),
            ("bytes=4-5,0-1", Ranged::Whole),
            ("bytes=0-5,5-9", Ranged::Whole),
            ("bytes=0-,0-,0-", Ranged::Whole),
            ("bytes=0-1,", Ranged::Whole),
            ("bytes=0-1,x", Ranged::Whole),
            ("items=0-1", Ranged::Whole),
            ("bytes=99999999999999999999-", Ranged::Whole),
        ] {
            assert_eq!(ranged(Some(header), 10), expected, "{header}");
        }
        assert_eq!(ranged(None, 10), Ranged::Whole);
        assert_eq!(ranged(Some("bytes=0-"), 0), Ranged::Outside);
    }

    #[test]
    fn as_many_parts_are_read_as_a_client_asks_for_and_no_more() {
        let asked = |count: u64| {
            let parts: Vec<String> = (0..count).map(|at| format!("{}-{}", at * 10, at * 10 + 1)).collect();
            ranged(Some(&format!("bytes={}", parts.join(","))), 1 << 20)
        };
        assert!(matches!(asked(1024), Ranged::Parts(parts) if parts.len() == 1024));
        assert_eq!(asked(1025), Ranged::Whole);
    }

    #[test]
    fn chunks_are_read_in_both_spellings() {
        assert_eq!(content_range("0-9"), Some((0, 9)));
        assert_eq!(content_range("bytes 10-19/*"), Some((10, 19)));
        for bad in ["", "5", "9-0", "-1", "a-b", "0-"] {
            assert_eq!(content_range(bad), None, "{bad}");
        }
    }
}
