//! Ways in to what this room reads, for `fuzz/`, which is a crate of its own. Compiled for that alone.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};

use super::credentials::Shown;
use crate::access;

/// `Authorization`, as often as there are lines.
pub fn authorization(text: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in text.split(|byte| *byte == b'\n') {
        let Ok(value) = HeaderValue::from_bytes(line) else {
            return;
        };
        headers.append(AUTHORIZATION, value);
    }
    let shown = Shown::of(&headers, Some("certified"));
    assert!(headers.len() == 1 || shown == Shown::Nonsense, "two are none");
    match &shown {
        Shown::Password { user, password } => {
            assert!(!user.contains(':') && !(user.is_empty() && password.is_empty()));
            let written = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
            let again = HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_str(&written).expect("plain"))]);
            assert!(Shown::of(&again, None) == shown, "written again, it says the same");
        }
        Shown::Token(token) => {
            assert!(!token.is_empty() && token.trim() == token);
            access::fuzzing::token(token);
        }
        // Nobody is shown by a user and a password that are empty.
        Shown::Certificate(name) => assert_eq!(name, "certified"),
        Shown::Nothing => unreachable!("there is a certificate"),
        Shown::Nonsense => {}
    }
    assert!(shown.claimed().is_none_or(|name| name.len() <= 64));
}
