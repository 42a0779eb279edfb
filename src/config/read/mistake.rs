//! What is wrong with one value, in our words instead of serde's.

use std::fmt;

use serde::de::{self, Unexpected};

use super::super::node::At;
use super::super::spelling::nearest;
use super::super::units::excerpt;

/// What is wrong with one value.
pub(super) enum Mistake {
    /// It has been said already.
    Reported,
    /// `at` is where, when that is not the place of the value itself.
    New {
        at: Option<At>,
        message: String,
        hint: Option<String>,
    },
}

impl Mistake {
    pub(super) fn new(message: impl Into<String>, hint: Option<String>) -> Self {
        Self::New {
            at: None,
            message: message.into(),
            hint,
        }
    }
}

impl de::Error for Mistake {
    /// A [`Complaint`](super::super::units::Complaint) has its hint in a second line.
    fn custom<T: fmt::Display>(text: T) -> Self {
        let text = text.to_string();
        match text.split_once('\n') {
            Some((message, hint)) => Self::new(message, Some(hint.to_owned())),
            None => Self::new(text, None),
        }
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        let expected = match expected.to_string().as_str() {
            "a string" => "a text".to_owned(),
            "a boolean" => "`true` or `false`".to_owned(),
            other => other.to_owned(),
        };
        // What was found is not repeated: it may be a password.
        let found = match found {
            Unexpected::Unit => return Self::new(format!("no value: expected {expected}"), None),
            Unexpected::Bool(_) => "`true` or `false`",
            Unexpected::Unsigned(_) | Unexpected::Other(_) => "a number",
            Unexpected::Str(_) => "a text",
            Unexpected::Seq => "a list",
            _ => "a mapping",
        };
        let is_word = matches!(found, "a number" | "`true` or `false`");
        let hint = (expected == "a text" && is_word).then(|| "put it in quotes".to_owned());
        Self::new(format!("expected {expected}, found {found}"), hint)
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let all: Vec<_> = expected.iter().map(|name| format!("`{name}`")).collect();
        let hint = nearest(variant, expected.iter().copied()).map(|name| format!("did you mean `{name}`?"));
        Self::new(format!("`{}` is none of {}", excerpt(variant), all.join(", ")), hint)
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reported => f.write_str("reported"),
            Self::New { message, .. } => f.write_str(message),
        }
    }
}

impl fmt::Debug for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Mistake {}
