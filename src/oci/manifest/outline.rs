//! A manifest's outline: what can be told of a document before anything is made of it, and without keeping any of it.

use std::borrow::Cow;
use std::fmt;

use serde::de::{self, Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::ManifestError;

/// The deepest that a manifest's JSON may be nested. Real ones are at four.
pub(super) const DEPTH: usize = 64;

/// The fields of [`Written`](super::Written).
const FIELDS: [&str; 10] = [
    "schemaVersion",
    "mediaType",
    "artifactType",
    "config",
    "layers",
    "manifests",
    "blobs",
    "fsLayers",
    "subject",
    "annotations",
];
/// Those of them that are lists.
const LISTS: [&str; 4] = ["layers", "manifests", "blobs", "annotations"];

/// What a document is like.
#[derive(Debug, Default)]
pub(super) struct Outline {
    /// How many entries the longest of its lists has.
    pub(super) longest: usize,
    /// A name that some readers take for a field, and which.
    misspelt: Option<(String, &'static str)>,
}

impl Outline {
    /// Reads over a document, which is not deep: its names mean the same to everybody.
    pub(super) fn of(bytes: &[u8]) -> Result<Self, ManifestError> {
        let mut outline: Self =
            serde_json::from_slice(bytes).map_err(|error| ManifestError::Json(error.to_string()))?;
        match outline.misspelt.take() {
            Some((name, field)) => Err(ManifestError::Misspelt(name, field)),
            None => Ok(outline),
        }
    }

    /// Takes note of a name that is a field's but for its case: whoever reads it as ours sees another image than we do.
    fn see(&mut self, name: &str) {
        let is_meant = |field: &&str| *field != name && folded(field).eq(folded(name));
        if let Some(field) = FIELDS.into_iter().find(is_meant) {
            self.misspelt.get_or_insert_with(|| (name.to_owned(), field));
        }
    }
}

impl<'de> Deserialize<'de> for Outline {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Outline;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a manifest")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Outline, A::Error> {
                let mut outline = Outline::default();
                while let Some(Name(name)) = map.next_key()? {
                    outline.see(&name);
                    if LISTS.contains(&&*name) {
                        let Length(length) = map.next_value()?;
                        outline.longest = outline.longest.max(length);
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(outline)
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

/// A name, where it stands if it can be taken from there.
#[derive(serde::Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// How many entries a list or an object has; none, when it is neither: then it is refused when it is read.
struct Length(usize);

impl<'de> Deserialize<'de> for Length {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Length;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list, an object or null")
            }

            fn visit_unit<E: de::Error>(self) -> Result<Length, E> {
                Ok(Length(0))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut all: A) -> Result<Length, A::Error> {
                let mut length = 0;
                while all.next_element::<IgnoredAny>()?.is_some() {
                    length += 1;
                }
                Ok(Length(length))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut all: A) -> Result<Length, A::Error> {
                let mut length = 0;
                while all.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
                    length += 1;
                }
                Ok(Length(length))
            }
        }
        deserializer.deserialize_any(Entries)
    }
}

/// Whether a document is not too deep and holds no more than about so many values, without reading it: what stands in texts
/// does not count. Stops where it is known.
pub(super) fn scan(bytes: &[u8], most: usize) -> Result<(), ManifestError> {
    let (mut depth, mut values) = (0_usize, 0);
    let (mut in_text, mut escaped) = (false, false);
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_text,
            b'"' => in_text = !in_text,
            b'{' | b'[' if !in_text => {
                depth += 1;
                if depth > DEPTH {
                    return Err(ManifestError::TooDeep);
                }
            }
            b'}' | b']' if !in_text => depth = depth.saturating_sub(1),
            b',' if !in_text => {
                values += 1;
                if values >= most {
                    return Err(ManifestError::TooMuch);
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// A name as Go compares it: the long s and the sign for Kelvin are letters of ASCII to it.
fn folded(name: &str) -> impl Iterator<Item = char> + '_ {
    let letter = |c: char| match c {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        c => c.to_ascii_lowercase(),
    };
    name.chars().map(letter)
}
