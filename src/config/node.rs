//! A YAML document as a tree that remembers where everything stands.

/// Where something stands, as cheaply as it can be said; [`Findings`](super::findings::Findings) turns it into words.
///
/// The order is that of reports: from the top of the file to its end, then the variables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum At {
    /// In the file: the how-manieth node it is, in reading order. See [`locate`](super::locate).
    Node(u32),
    /// In the environment: the how-manieth of the variables that set a key.
    Variable(u32),
}

impl At {
    /// As a number, which is all that serde can carry from a deserializer to a type.
    pub(super) fn to_code(self) -> u64 {
        match self {
            Self::Node(number) => u64::from(number) << 1,
            Self::Variable(number) => u64::from(number) << 1 | 1,
        }
    }

    /// Back from [`to_code`](Self::to_code).
    pub(super) fn from_code(code: u64) -> Self {
        let number = u32::try_from(code >> 1).unwrap_or(u32::MAX);
        if code & 1 == 0 {
            Self::Node(number)
        } else {
            Self::Variable(number)
        }
    }
}

/// A value of the document.
pub(super) struct Node {
    pub(super) at: At,
    pub(super) content: Content,
    /// The text that came from the environment. It is read as whatever is wanted: `5` as a number or as a text.
    pub(super) raw: Option<String>,
}

/// What a node holds.
pub(super) enum Content {
    /// No value, or `null`.
    Nothing,
    Switch(bool),
    Number(u64),
    /// A number that no key wants: negative, broken, or very large.
    OddNumber(String),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Node, Node)>),
    /// `!something`, which means nothing here.
    Tagged(String),
    /// What this is has been reported as a problem already.
    Broken,
}

impl Node {
    pub(super) fn new(at: At, content: Content) -> Self {
        Self { at, content, raw: None }
    }

    /// The text of a map's key.
    pub(super) fn text(&self) -> &str {
        match &self.content {
            Content::Text(text) => text,
            _ => "",
        }
    }
}
