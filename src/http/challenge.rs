//! What somebody is told who has to say who they are: one `Bearer` challenge that every client understands.
//!
//! Never `Basic` beside it: docker tries every challenge that it knows, and ends with "no basic auth credentials". All
//! of it is safe in lower case, because some clients read it so.

use std::fmt::Write as _;

use http::HeaderValue;

use super::origin::Base;
use crate::oci::operation::{Action, Operation};
use crate::oci::{ImageName, RepositoryKey};

/// What was wrong with a token that was shown; RFC 6750, 3.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenError {
    /// Nobody here knows it, or no longer.
    Invalid,
    /// Whoever it belongs to may not do this.
    InsufficientScope,
}

impl TokenError {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Invalid => "invalid_token",
            Self::InsufficientScope => "insufficient_scope",
        }
    }
}

/// The challenge. `prefix` is the key in front of `/v2` that the client used: clients ask the realm with the query that
/// it has, so `/token` knows it too.
pub(super) fn challenge(
    base: &Base,
    prefix: Option<&RepositoryKey>,
    scope: Option<&str>,
    error: Option<TokenError>,
) -> HeaderValue {
    let mut text = format!("Bearer realm=\"{}", base.url("/token"));
    // Writing to a string cannot fail.
    if let Some(prefix) = prefix {
        let _ = write!(text, "?prefix={prefix}");
    }
    let _ = write!(text, "\",service=\"{}\"", base.host());
    if let Some(scope) = scope {
        let _ = write!(text, ",scope=\"{scope}\"");
    }
    if let Some(error) = error {
        let _ = write!(text, ",error=\"{}\"", error.as_str());
    }
    // Host and path were checked and the rest is ours: this is a header's value.
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("Bearer"))
}

/// What a token would have to be for, in the words of the token protocol.
pub(super) fn scope(operation: &Operation) -> Option<String> {
    let name = match operation {
        Operation::CheckVersion => return None,
        Operation::Catalog { .. } => return Some("registry:catalog:*".to_owned()),
        operation => operation.name()?,
    };
    let source = match operation {
        Operation::StartUpload { start, .. } => start.from.as_ref(),
        _ => None,
    };
    let mut scope = image_scope(name, operation.action());
    if let Some(source) = source {
        let _ = write!(scope, " {}", image_scope(source, Action::Pull));
    }
    Some(scope)
}

fn image_scope(name: &ImageName, action: Action) -> String {
    let actions = match action {
        Action::Pull => "pull",
        Action::Push => "pull,push",
        Action::Delete => "delete",
        Action::Admin => "*",
    };
    format!("repository:{name}:{actions}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::operation::Request;

    fn base() -> Base {
        Base {
            secure: true,
            authority: "registry.example.com:8443".to_owned(),
            path: String::new(),
        }
    }

    #[test]
    fn it_is_one_line_in_the_form_that_all_clients_read() {
        let key: RepositoryKey = "docker".parse().expect("a key");
        let plain = challenge(&base(), None, None, None);
        assert_eq!(
            plain,
            "Bearer realm=\"https://registry.example.com:8443/token\",service=\"registry.example.com\""
        );
        let full = challenge(
            &base(),
            Some(&key),
            Some("repository:a/b:pull"),
            Some(TokenError::InsufficientScope),
        );
        assert_eq!(
            full,
            "Bearer realm=\"https://registry.example.com:8443/token?prefix=docker\",service=\"registry.example.com\",\
             scope=\"repository:a/b:pull\",error=\"insufficient_scope\""
        );
        // Watchtower lower-cases it before it reads it; only the scheme's own word may change by that.
        let text = full.to_str().expect("text");
        assert_eq!(text.to_lowercase(), text.replacen("Bearer", "bearer", 1));
    }

    #[test]
    fn the_scope_is_what_was_asked() {
        let digest = format!("sha256:{}", "0".repeat(64));
        for (method, path, query, expected) in [
            ("GET", "/v2/", None, None),
            ("GET", "/v2/_catalog", None, Some("registry:catalog:*")),
            ("HEAD", "/v2/a/b/manifests/v1", None, Some("repository:a/b:pull")),
            ("PUT", "/v2/a/manifests/v1", None, Some("repository:a:pull,push")),
            ("DELETE", "/v2/a/manifests/v1", None, Some("repository:a:delete")),
            (
                "POST",
                "/v2/a/blobs/uploads/",
                Some(format!("mount={digest}&from=b/c")),
                Some("repository:a:pull,push repository:b/c:pull"),
            ),
        ] {
            let request = Request::parse(method, path, query.as_deref()).expect(path);
            assert_eq!(scope(&request.operation).as_deref(), expected, "{method} {path}");
        }
    }
}
