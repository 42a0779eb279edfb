//! Reads YAML into a tree of [`Node`]s, and tells line and column of any of them.
//!
//! The parser says where something is in one case only: when whoever reads it refuses it. So nodes are counted in
//! reading order; to find the line and column of node 17, the text is read again and node 17 refused. That costs one
//! more reading for each problem shown, and nothing for a file without problems.

use std::cell::Cell;
use std::fmt;

use serde::de::{Deserializer, EnumAccess, Error, IgnoredAny, MapAccess, SeqAccess, VariantAccess, Visitor};

use super::node::{At, Content, Node};
use super::problem::lines;
use super::scan::scan;

/// How many nodes a document may have, with aliases counted as what they stand for: some thousand repositories.
const MOST_NODES: u32 = 100_000;

/// Why a text is not YAML that we read.
pub(super) struct Unreadable {
    pub(super) message: String,
    pub(super) hint: Option<String>,
    /// Line and column, from 1.
    pub(super) position: Option<(usize, usize)>,
}

/// Reads a text. With a variable, every node is said to stand in that variable.
pub(super) fn read(text: &str, variable: Option<u32>) -> Result<Node, Unreadable> {
    scan(text)?;
    let passed = Cell::new(0);
    let walk = Walk {
        passed: &passed,
        refused: None,
        variable,
    };
    walk.value(serde_yaml::Deserializer::from_str(text))
        .map_err(|error| unreadable(text, &error))
}

/// Line and column, from 1, of a node of a text that can be read.
pub(super) fn position(text: &str, number: u32) -> Option<(usize, usize)> {
    let passed = Cell::new(0);
    let walk = Walk {
        passed: &passed,
        refused: Some(number),
        variable: None,
    };
    let error = walk.value(serde_yaml::Deserializer::from_str(text)).err()?;
    error.location().map(|location| (location.line(), location.column()))
}

/// What the parser says, in words for somebody who does not know what a parser is.
fn unreadable(text: &str, error: &serde_yaml::Error) -> Unreadable {
    let said = error.to_string();
    let position = error.location().map(|location| (location.line(), location.column()));
    let (message, hint) = if said.contains(TOO_MANY) || said.starts_with("repetition limit") {
        (
            "the file grows too large when its aliases are written out".to_owned(),
            None,
        )
    } else if said.starts_with("recursion limit") {
        ("nested too deeply".to_owned(), None)
    } else if said.contains("more than one document") {
        return Unreadable {
            message: "more than one YAML document".to_owned(),
            hint: Some("there is one configuration: remove the `---`".to_owned()),
            position: second_document(text),
        };
    } else if said.contains(COMPLEX_KEY) {
        ("a key is a word, not a list or a mapping".to_owned(), None)
    } else {
        let (problem, rest) = said.split_once(" at line ").unwrap_or((&said, ""));
        let hint = match rest.split_once(", ") {
            _ if indented_by_tab(text, position) => Some("YAML takes no tabs for indentation: use spaces".to_owned()),
            _ if problem.starts_with("mapping values are not allowed") => {
                Some("a text with `: ` in it needs quotes; a key needs the indentation of its neighbours".to_owned())
            }
            _ if problem.ends_with("cannot start any token") => {
                Some("a text that begins with this character needs quotes".to_owned())
            }
            Some((_, context)) => Some(context.to_owned()),
            None => None,
        };
        (format!("not YAML: {problem}"), hint)
    };
    Unreadable {
        message,
        hint,
        position,
    }
}

fn indented_by_tab(text: &str, position: Option<(usize, usize)>) -> bool {
    let Some((number, _)) = position else { return false };
    let line = lines(text).nth(number.saturating_sub(1)).unwrap_or_default();
    line.trim_start_matches(' ').starts_with('\t')
}

fn second_document(text: &str) -> Option<(usize, usize)> {
    let mut content = lines(text)
        .enumerate()
        .skip_while(|(_, line)| line.is_empty() || line.starts_with(['#', '%', '-']));
    content
        .find(|(_, line)| line.starts_with("---"))
        .map(|(index, _)| (index + 1, 1))
}

const TOO_MANY: &str = "too many nodes";
const COMPLEX_KEY: &str = "the word of a key";

/// Goes through a document, counting.
#[derive(Clone, Copy)]
struct Walk<'a> {
    passed: &'a Cell<u32>,
    /// The node to refuse.
    refused: Option<u32>,
    variable: Option<u32>,
}

impl Walk<'_> {
    fn value<'de, D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        let number = self.passed.get();
        if self.refused == Some(number) {
            return deserializer.deserialize_any(Refuse);
        }
        let at = self.next()?;
        let content = deserializer.deserialize_any(Contents(self))?;
        Ok(Node::new(at, content))
    }

    /// A key is a word, whatever it looks like: `on`, `5000`.
    fn key<'de, D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        let number = self.passed.get();
        if self.refused == Some(number) {
            return deserializer.deserialize_any(Refuse);
        }
        let at = self.next()?;
        let content = deserializer.deserialize_str(Word)?;
        Ok(Node::new(at, content))
    }

    fn next<E: Error>(self) -> Result<At, E> {
        let number = self.passed.get();
        if number >= MOST_NODES {
            return Err(E::custom(TOO_MANY));
        }
        self.passed.set(number + 1);
        Ok(match self.variable {
            Some(variable) => At::Variable(variable),
            None => At::Node(number),
        })
    }
}

/// Takes nothing, so that the parser says where it is.
struct Refuse;

impl Visitor<'_> for Refuse {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nothing")
    }
}

struct Word;

impl Visitor<'_> for Word {
    type Value = Content;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(COMPLEX_KEY)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Content, E> {
        Ok(Content::Text(text.to_owned()))
    }
}

/// Takes everything.
struct Contents<'a>(Walk<'a>);

impl<'de> Visitor<'de> for Contents<'_> {
    type Value = Content;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E: Error>(self) -> Result<Content, E> {
        Ok(Content::Nothing)
    }

    fn visit_none<E: Error>(self) -> Result<Content, E> {
        Ok(Content::Nothing)
    }

    fn visit_bool<E: Error>(self, switch: bool) -> Result<Content, E> {
        Ok(Content::Switch(switch))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Content, E> {
        Ok(Content::Number(number))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Content, E> {
        Ok(Content::OddNumber(number.to_string()))
    }

    fn visit_u128<E: Error>(self, number: u128) -> Result<Content, E> {
        Ok(Content::OddNumber(number.to_string()))
    }

    fn visit_i128<E: Error>(self, number: i128) -> Result<Content, E> {
        Ok(Content::OddNumber(number.to_string()))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Content, E> {
        Ok(Content::OddNumber(number.to_string()))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Content, E> {
        Ok(Content::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Content, A::Error> {
        let mut list = Vec::new();
        while let Some(element) = elements.next_element_seed(Value(self.0))? {
            list.push(element);
        }
        Ok(Content::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Content, A::Error> {
        let mut map = Vec::new();
        while let Some(key) = entries.next_key_seed(Key(self.0))? {
            map.push((key, entries.next_value_seed(Value(self.0))?));
        }
        Ok(Content::Map(map))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, tagged: A) -> Result<Content, A::Error> {
        let (tag, content) = tagged.variant::<String>()?;
        content.newtype_variant::<IgnoredAny>()?;
        Ok(Content::Tagged(tag))
    }
}

struct Value<'a>(Walk<'a>);

impl<'de> serde::de::DeserializeSeed<'de> for Value<'_> {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        self.0.value(deserializer)
    }
}

struct Key<'a>(Walk<'a>);

impl<'de> serde::de::DeserializeSeed<'de> for Key<'_> {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        self.0.key(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every node as `line:column kind`, in reading order.
    fn outline(text: &str) -> Vec<String> {
        fn add(node: &Node, text: &str, all: &mut Vec<String>) {
            let At::Node(number) = node.at else {
                panic!("not of the file")
            };
            let (line, column) = position(text, number).unwrap();
            let kind = match &node.content {
                Content::Nothing => "nothing".to_owned(),
                Content::Switch(switch) => switch.to_string(),
                Content::Number(number) => number.to_string(),
                Content::OddNumber(number) => format!("odd {number}"),
                Content::Text(text) => format!("{text:?}"),
                Content::List(_) => "list".to_owned(),
                Content::Map(_) => "map".to_owned(),
                Content::Tagged(tag) => format!("tag {tag}"),
                Content::Broken => "broken".to_owned(),
            };
            all.push(format!("{line}:{column} {kind}"));
            match &node.content {
                Content::List(list) => list.iter().for_each(|node| add(node, text, all)),
                Content::Map(map) => map.iter().for_each(|(key, value)| {
                    add(key, text, all);
                    add(value, text, all);
                }),
                _ => {}
            }
        }
        let mut all = Vec::new();
        let root = read(text, None).map_err(|error| error.message).unwrap();
        add(&root, text, &mut all);
        all
    }

    #[test]
    fn every_node_knows_its_line_and_column() {
        let text = "a: 1\nb:\n  - x: yes\n    z:\n  - [true, -1, 'q']\n\"c d\": { e: ~ }\n5: é\n";
        assert_eq!(
            outline(text),
            [
                "1:1 map",
                "1:1 \"a\"",
                "1:4 1",
                "2:1 \"b\"",
                "3:3 list",
                "3:5 map",
                "3:5 \"x\"",
                "3:8 \"yes\"",
                "4:5 \"z\"",
                "4:7 nothing",
                "5:5 list",
                "5:6 true",
                "5:12 odd -1",
                "5:16 \"q\"",
                "6:1 \"c d\"",
                "6:8 map",
                "6:10 \"e\"",
                "6:13 nothing",
                "7:1 \"5\"",
                "7:4 \"é\"",
            ]
        );
    }

    #[test]
    fn aliases_and_tags_are_followed() {
        assert_eq!(
            outline("a: &x [1]\nb: *x\nc: !t [2]\n"),
            [
                "1:1 map",
                "1:1 \"a\"",
                "1:4 list",
                "1:8 1",
                "2:1 \"b\"",
                "1:4 list",
                "1:8 1",
                "3:1 \"c\"",
                "3:4 tag t",
            ]
        );
    }

    #[test]
    fn nothing_is_nothing() {
        for text in ["", "\n\n", "# only words\n", "---\n", "~"] {
            assert!(
                matches!(read(text, None).ok().unwrap().content, Content::Nothing),
                "{text:?}"
            );
        }
    }

    fn refused(text: &str) -> String {
        let Err(error) = read(text, None) else {
            panic!("was read: {text:.40}")
        };
        format!(
            "{:?} {} ({})",
            error.position,
            error.message,
            error.hint.unwrap_or_default()
        )
    }

    #[test]
    fn what_is_not_yaml_is_said_where() {
        insta::assert_snapshot!(
            [
                "a: [1, 2\nb: 3\n",
                "a:\n\tb: 1\n",
                "a: b: c\n",
                "a: @b\n",
                "a: \"b\n",
                "a: *b\n",
                "a: b\n c: d\n",
                "a: 1\n---\nb: 2\n",
                "---\n# x\n[a]: 1\n",
                "{a: 1}: 2",
                "a: \u{0}",
                "a: b\nc: \u{7f}",
                "%YAML 9.9\n---\na: 1",
            ]
            .map(refused)
            .join("\n"),
            @r#"
Some((2, 2)) not YAML: did not find expected ',' or ']' (while parsing a flow sequence at line 1 column 4)
Some((2, 1)) not YAML: found character that cannot start any token (YAML takes no tabs for indentation: use spaces)
Some((1, 5)) not YAML: mapping values are not allowed in this context (a text with `: ` in it needs quotes; a key needs the indentation of its neighbours)
Some((1, 4)) not YAML: found character that cannot start any token (a text that begins with this character needs quotes)
Some((2, 1)) not YAML: found unexpected end of stream (while scanning a quoted scalar at line 1 column 4)
Some((1, 4)) not YAML: unknown anchor ()
Some((2, 3)) not YAML: mapping values are not allowed in this context (a text with `: ` in it needs quotes; a key needs the indentation of its neighbours)
Some((2, 1)) more than one YAML document (there is one configuration: remove the `---`)
Some((3, 1)) a key is a word, not a list or a mapping ()
Some((1, 1)) a key is a word, not a list or a mapping ()
Some((1, 4)) the control character U+0000 cannot stand in YAML ()
Some((2, 4)) the control character U+007F cannot stand in YAML ()
Some((1, 1)) not YAML: found incompatible YAML document ()
"#
        );
    }

    /// Each took minutes, or all memory, in one parser or another.
    #[test]
    fn bombs_are_refused_soon() {
        let doubling = |width: usize| {
            let levels = (1..30).map(|level| {
                let aliases = vec![format!("*a{}", level - 1); width].join(", ");
                format!("a{level}: &a{level} [{aliases}]\n")
            });
            "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned() + &levels.collect::<String>()
        };
        let bombs = [
            doubling(2),
            doubling(10),
            format!("a: &a [{}]\nb: [{}]\n", "x, ".repeat(50_000), "*a, ".repeat(50_000)),
            "a: &a [*a]".to_owned(),
            "a: &a [*a, *a]".to_owned(),
            "&a { *a : *a }".to_owned(),
            "[".repeat(500_000),
            "{a: ".repeat(200_000),
            "- ".repeat(200_000),
            "? ".repeat(200_000),
            "a: [".repeat(200_000),
            "!a ".repeat(200_000),
            format!("[{}]", "x, ".repeat(200_000)),
        ];
        let begun = std::time::Instant::now();
        for bomb in &bombs {
            assert!(read(bomb, None).is_err(), "was read: {bomb:.40}");
        }
        // Some seconds, even without optimisation; the limit is for a machine that is busy with other things.
        assert!(
            begun.elapsed() < std::time::Duration::from_secs(120),
            "{:?}",
            begun.elapsed()
        );
    }
}
