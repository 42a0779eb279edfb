//! Byte ranges: `Range` of a download, `Content-Range` of an upload's chunk.

/// What a `Range` header asks of a body of a known length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ranged {
    /// The whole body: no range, one in another unit, several at once, or one that does not parse. RFC 9110 lets a
    /// server ignore each of these.
    Whole,
    /// From `start` up to and including `end`.
    Part {
        /// The first byte.
        start: u64,
        /// The last byte.
        end: u64,
    },
    /// A range outside the body: 416.
    Outside,
}

/// Reads a `Range` value against a body of `length` bytes; RFC 9110, section 14.1.2.
pub fn ranged(header: Option<&str>, length: u64) -> Ranged {
    let Some(spec) = header.and_then(|value| value.trim().strip_prefix("bytes=")) else {
        return Ranged::Whole;
    };
    let Some((first, last)) = spec.split_once('-') else {
        return Ranged::Whole;
    };
    let (first, last) = (first.trim(), last.trim());
    match (number(first), number(last)) {
        // The last so many bytes.
        (None, Some(suffix)) if first.is_empty() => {
            if suffix == 0 || length == 0 {
                Ranged::Outside
            } else {
                Ranged::Part {
                    start: length.saturating_sub(suffix),
                    end: length - 1,
                }
            }
        }
        (Some(start), None) if last.is_empty() => part(start, u64::MAX, length),
        // RFC 9110 calls a range that ends before it begins invalid and lets it be ignored; the conformance suite asks for 416.
        (Some(start), Some(end)) if start > end => Ranged::Outside,
        (Some(start), Some(end)) => part(start, end, length),
        _ => Ranged::Whole,
    }
}

fn part(start: u64, end: u64, length: u64) -> Ranged {
    if start >= length {
        Ranged::Outside
    } else {
        Ranged::Part {
            start,
            end: end.min(length - 1),
        }
    }
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
        let part = |start, end| Ranged::Part { start, end };
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
            ("bytes=0-1,4-5", Ranged::Whole),
            ("items=0-1", Ranged::Whole),
            ("bytes=99999999999999999999-", Ranged::Whole),
        ] {
            assert_eq!(ranged(Some(header), 10), expected, "{header}");
        }
        assert_eq!(ranged(None, 10), Ranged::Whole);
        assert_eq!(ranged(Some("bytes=0-"), 0), Ranged::Outside);
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
