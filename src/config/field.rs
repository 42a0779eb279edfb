//! The shapes that values of `repositories.yml` come in, besides serde's own.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};

use super::node::At;

/// The value of a key, and where it stands.
#[derive(Default)]
pub(super) enum Field<T> {
    /// The key is not there.
    #[default]
    Absent,
    /// It has a value that is not one; that has been reported.
    Wrong,
    Given(At, T),
}

/// One or a list of them.
pub(super) struct OneOrMore<T>(pub(super) Vec<Field<T>>);

/// Keys that the user chose, in the order of the file, each once.
pub(super) struct Entries<T>(pub(super) Vec<(Field<String>, Field<T>)>);

impl<T> Field<T> {
    pub(super) fn get(&self) -> Option<&T> {
        match self {
            Self::Given(_, value) => Some(value),
            Self::Absent | Self::Wrong => None,
        }
    }

    pub(super) fn with_place(&self) -> Option<(At, &T)> {
        match self {
            Self::Given(at, value) => Some((*at, value)),
            Self::Absent | Self::Wrong => None,
        }
    }

    pub(super) fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }

    /// Whether it could not be read, which has been told.
    pub(super) fn is_wrong(&self) -> bool {
        matches!(self, Self::Wrong)
    }
}

// The names by which these types ask the reader for what serde has no word for.
pub(super) const FIELD: &str = "config::Field";
pub(super) const ONE_OR_MORE: &str = "config::OneOrMore";

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Field<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Parts<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Parts<T> {
            type Value = Field<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a place and a value")
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut parts: A) -> Result<Field<T>, A::Error> {
                let at = parts.next_element()?.map(At::from_code);
                let value = parts.next_element()?;
                Ok(at
                    .zip(value)
                    .map_or(Field::Wrong, |(at, value)| Field::Given(at, value)))
            }
        }
        deserializer.deserialize_tuple_struct(FIELD, 2, Parts(PhantomData))
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneOrMore<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Each<T> {
            type Value = OneOrMore<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("one or a list")
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut elements: A) -> Result<OneOrMore<T>, A::Error> {
                let mut all = Vec::new();
                while let Some(element) = elements.next_element()? {
                    all.push(element);
                }
                Ok(OneOrMore(all))
            }
        }
        deserializer.deserialize_tuple_struct(ONE_OR_MORE, 0, Each(PhantomData))
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Entries<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct All<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for All<T> {
            type Value = Entries<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("keys, each with what it stands for")
            }

            fn visit_map<A: de::MapAccess<'de>>(self, mut entries: A) -> Result<Entries<T>, A::Error> {
                let mut all = Vec::new();
                while let Some(entry) = entries.next_entry()? {
                    all.push(entry);
                }
                Ok(Entries(all))
            }
        }
        deserializer.deserialize_map(All(PhantomData))
    }
}
