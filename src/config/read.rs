//! From a tree of [`Node`]s into the types of [`file`](super::file), without stopping at the first mistake.
//!
//! serde stops at the first error that it is given, so it is given none: each value stands in a [`Field`], which
//! reports the mistake in it and is then [`Field::Wrong`]; and keys that a structure does not have are reported and
//! left out before serde sees them.

mod mistake;

use std::collections::HashMap;

use serde::Deserialize;
use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeSeed, Deserializer, IntoDeserializer, Unexpected, Visitor};
use serde::forward_to_deserialize_any;

use self::mistake::Mistake;
use super::field::{FIELD, Field};
use super::file;
use super::findings::{Finding, Findings};
use super::node::{At, Content, Node};
use super::spelling::nearest;
use super::units::excerpt;

/// Reads a document; what is wrong with it is in the findings.
pub(super) fn read<T: for<'de> Deserialize<'de>>(root: &Node, findings: &Findings) -> Field<T> {
    // A field reports its own mistake, so there is none left to return.
    Field::deserialize(Reader::new(root, findings)).unwrap_or_default()
}

/// One node, as serde wants to see it.
#[derive(Clone, Copy)]
struct Reader<'a> {
    node: &'a Node,
    /// Where the key stands that this is the value of: what is missing can be pointed at nowhere else.
    key: Option<At>,
    /// Its `type` has been read already.
    has_type: bool,
    findings: &'a Findings,
}

impl<'a> Reader<'a> {
    fn new(node: &'a Node, findings: &'a Findings) -> Self {
        Self {
            node,
            key: None,
            has_type: false,
            findings,
        }
    }

    /// Where the value stands, or else the key that has none.
    fn at(&self) -> At {
        match self.node.content {
            Content::Nothing => self.key.unwrap_or(self.node.at),
            _ => self.node.at,
        }
    }

    /// Says what is wrong with this node.
    fn report(&self, mistake: Mistake) {
        let Mistake::New { at, message, hint } = mistake else {
            return;
        };
        let mut finding = Finding::new(at.unwrap_or_else(|| self.at()), message).maybe_hint(hint);
        if let Some(raw) = &self.node.raw {
            // What the environment holds may be secret, and in the wrong place.
            finding = finding.without(&excerpt(raw));
        }
        self.findings.add(finding);
    }

    /// The mistake of finding this where something else was expected.
    fn instead_of(&self, expected: &str) -> Mistake {
        let found = match &self.node.content {
            Content::Nothing => Unexpected::Unit,
            Content::Switch(switch) => Unexpected::Bool(*switch),
            Content::Number(number) => Unexpected::Unsigned(*number),
            Content::OddNumber(number) => Unexpected::Other(number),
            Content::Text(text) => Unexpected::Str(text),
            Content::List(_) => Unexpected::Seq,
            Content::Map(_) => Unexpected::Map,
            Content::Tagged(tag) => {
                return Mistake::new(format!("a tag such as `!{}` means nothing here", excerpt(tag)), None);
            }
            Content::Broken => return Mistake::Reported,
        };
        de::Error::invalid_type(found, &expected)
    }

    /// The entries of a mapping that are known and there once; the others are reported.
    fn known_entries(
        &self,
        structure: &str,
        fields: &'static [&'static str],
        entries: &'a [(Node, Node)],
    ) -> Vec<&'a (Node, Node)> {
        let once = self.each_once(entries);
        let known = once.into_iter().filter(|(key, _)| {
            let is_known = fields.contains(&key.text());
            let is_type = self.has_type && key.text() == file::TYPE;
            if !is_known && !is_type {
                self.findings
                    .add(file::unknown_key(key, structure, fields, self.findings.is_full()));
            }
            is_known
        });
        known.collect()
    }

    fn each_once(&self, entries: &'a [(Node, Node)]) -> Vec<&'a (Node, Node)> {
        let mut seen: HashMap<&str, At> = HashMap::new();
        let once = entries.iter().filter(|(key, _)| match seen.get(key.text()) {
            Some(first) => {
                let message = format!("`{}` is here a second time", excerpt(key.text()));
                self.findings.add(Finding::new(key.at, message).first(*first));
                false
            }
            None => seen.insert(key.text(), key.at).is_none(),
        });
        once.collect()
    }

    fn visit_entries<'de, V: Visitor<'de>>(
        &self,
        entries: Vec<&'a (Node, Node)>,
        visitor: V,
    ) -> Result<V::Value, Mistake> {
        visitor.visit_map(Pairs {
            entries: entries.into_iter(),
            value: None,
            findings: self.findings,
        })
    }

    /// An enum whose variant is said by the key `type`.
    fn visit_typed<'de, V: Visitor<'de>>(
        &self,
        entries: &'a [(Node, Node)],
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mistake> {
        let Some((key, node)) = entries.iter().find(|(key, _)| key.text() == file::TYPE) else {
            let all: Vec<_> = variants.iter().map(|name| format!("`type: {name}`")).collect();
            return Err(Mistake::New {
                at: Some(self.key.unwrap_or(self.node.at)),
                message: "the `type` is missing".to_owned(),
                hint: Some(format!("one of {}", all.join(", "))),
            });
        };
        let of_type = Reader {
            key: Some(key.at),
            ..Reader::new(node, self.findings)
        };
        let Content::Text(written) = &node.content else {
            of_type.report(of_type.instead_of("a type of repository"));
            return Err(Mistake::Reported);
        };
        let known = variants.iter().find(|name| *name == written).copied();
        let variant = known.or_else(|| {
            of_type.report(de::Error::unknown_variant(written, variants));
            // The rest can still be checked when it is clear what was meant.
            nearest(written, variants.iter().copied())
        });
        let variant = variant.ok_or(Mistake::Reported)?;
        visitor.visit_enum(Typed {
            variant,
            reader: Reader {
                has_type: true,
                ..*self
            },
        })
    }
}

impl<'de> Deserializer<'de> for Reader<'_> {
    type Error = Mistake;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        if let Some(raw) = &self.node.raw {
            return visitor.visit_str(raw);
        }
        match &self.node.content {
            Content::Switch(switch) => visitor.visit_bool(*switch),
            Content::Number(number) => visitor.visit_u64(*number),
            Content::Text(text) => visitor.visit_str(text),
            _ => Err(self.instead_of(&(&visitor as &dyn de::Expected).to_string())),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        match self.node.raw.as_deref() {
            Some("true") => visitor.visit_bool(true),
            Some("false") => visitor.visit_bool(false),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        _length: usize,
        visitor: V,
    ) -> Result<V::Value, Mistake> {
        match &self.node.content {
            _ if name == FIELD => visitor.visit_seq(Parts { reader: self, given: 0 }),
            Content::List(list) => visitor.visit_seq(Elements {
                nodes: list.iter(),
                findings: self.findings,
            }),
            _ => visitor.visit_seq(Elements {
                nodes: std::slice::from_ref(self.node).iter(),
                findings: self.findings,
            }),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        match &self.node.content {
            Content::List(list) => visitor.visit_seq(Elements {
                nodes: list.iter(),
                findings: self.findings,
            }),
            _ => Err(self.instead_of("a list")),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        match &self.node.content {
            Content::Nothing => self.visit_entries(Vec::new(), visitor),
            Content::Map(entries) => self.visit_entries(self.each_once(entries), visitor),
            _ => Err(self.instead_of("a mapping")),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mistake> {
        match &self.node.content {
            Content::Nothing => self.visit_entries(Vec::new(), visitor),
            Content::Map(entries) => self.visit_entries(self.known_entries(name, fields, entries), visitor),
            content if !matches!(content, Content::List(_)) && file::short_form(name, content).is_some() => visitor
                .visit_map(Short {
                    key: file::short_form(name, content),
                    reader: self,
                }),
            _ => {
                let quoted = |words: &[&str]| {
                    words
                        .iter()
                        .map(|word| format!("`{word}`"))
                        .collect::<Vec<_>>()
                        .join(", ")
                };
                let mapping = format!("a mapping with {}", quoted(fields));
                Err(self.instead_of(&match file::words(name) {
                    [] => mapping,
                    words => format!("{} or {mapping}", quoted(words)),
                }))
            }
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mistake> {
        match &self.node.content {
            Content::Map(entries) if name == file::TYPED => self.visit_typed(entries, variants, visitor),
            Content::Nothing if name == file::TYPED => self.visit_typed(&[], variants, visitor),
            Content::Text(text) if name != file::TYPED => {
                visitor.visit_enum(StrDeserializer::new(self.node.raw.as_deref().unwrap_or(text)))
            }
            _ if name == file::TYPED => Err(self.instead_of("a mapping such as `{ type: local }`")),
            _ => {
                let all: Vec<_> = variants.iter().map(|name| format!("`{name}`")).collect();
                Err(self.instead_of(&format!("one of {}", all.join(", "))))
            }
        }
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct tuple identifier ignored_any
    }
}

/// The two parts of a field: where it is, and what it is, unless that is wrong.
struct Parts<'a> {
    reader: Reader<'a>,
    given: usize,
}

impl<'de> de::SeqAccess<'de> for Parts<'_> {
    type Error = Mistake;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Mistake> {
        self.given += 1;
        if self.given == 1 {
            return seed
                .deserialize(self.reader.at().to_code().into_deserializer())
                .map(Some);
        }
        match seed.deserialize(self.reader) {
            Ok(value) => Ok(Some(value)),
            Err(mistake) => {
                self.reader.report(mistake);
                Ok(None)
            }
        }
    }
}

struct Elements<'a> {
    nodes: std::slice::Iter<'a, Node>,
    findings: &'a Findings,
}

impl<'de> de::SeqAccess<'de> for Elements<'_> {
    type Error = Mistake;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Mistake> {
        let next = self.nodes.next();
        next.map(|node| seed.deserialize(Reader::new(node, self.findings)))
            .transpose()
    }
}

struct Pairs<'a> {
    entries: std::vec::IntoIter<&'a (Node, Node)>,
    value: Option<&'a (Node, Node)>,
    findings: &'a Findings,
}

impl<'de> de::MapAccess<'de> for Pairs<'_> {
    type Error = Mistake;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Mistake> {
        self.value = self.entries.next();
        let key = self.value.map(|(key, _)| Reader::new(key, self.findings));
        key.map(|key| seed.deserialize(key)).transpose()
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Mistake> {
        let (key, value) = self.value.take().ok_or(Mistake::Reported)?;
        seed.deserialize(Reader {
            key: Some(key.at),
            ..Reader::new(value, self.findings)
        })
    }
}

/// A structure written as the value of one of its keys.
struct Short<'a> {
    key: Option<&'static str>,
    reader: Reader<'a>,
}

impl<'de> de::MapAccess<'de> for Short<'_> {
    type Error = Mistake;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Mistake> {
        self.key
            .take()
            .map(|key| seed.deserialize(key.into_deserializer()))
            .transpose()
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Mistake> {
        seed.deserialize(self.reader)
    }
}

/// A mapping whose `type` is known.
struct Typed<'a> {
    variant: &'static str,
    reader: Reader<'a>,
}

impl<'de> de::EnumAccess<'de> for Typed<'_> {
    type Error = Mistake;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Mistake> {
        Ok((seed.deserialize(self.variant.into_deserializer())?, self))
    }
}

impl<'de> de::VariantAccess<'de> for Typed<'_> {
    type Error = Mistake;

    fn unit_variant(self) -> Result<(), Mistake> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Mistake> {
        seed.deserialize(self.reader)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _length: usize, visitor: V) -> Result<V::Value, Mistake> {
        self.reader.deserialize_seq(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(self, fields: &'static [&'static str], visitor: V) -> Result<V::Value, Mistake> {
        self.reader.deserialize_struct("", fields, visitor)
    }
}
