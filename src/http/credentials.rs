//! From a request's headers to who is asking.

use std::net::IpAddr;
use std::time::SystemTime;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use http::request::Parts;
use http::{HeaderMap, header};

use super::challenge::{TokenError, challenge};
use super::error::Failure;
use super::origin::Origin;
use super::serve::Peer;
use super::site::Site;
use crate::access::{Access, Identity, Presented, Unidentified};
use crate::oci::RepositoryKey;
use crate::oci::operation::{Operation, Request as Line};

/// Basic as RFC 7617 has it; some clients leave the padding out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);
/// The longest name of a user that is repeated in an audit.
const NAME: usize = 64;

/// What a request shows of who sends it. It has no `Debug`: it is made of secrets.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Shown {
    /// Nothing.
    Nothing,
    /// A user and a password.
    Password { user: String, password: String },
    /// A token.
    Token(String),
    /// The name in a verified certificate.
    Certificate(String),
    /// Something that cannot be read, or two things at once.
    Nonsense,
}

impl Shown {
    /// What is in these headers; else the `certificate` that the connection was opened with.
    pub(super) fn of(headers: &HeaderMap, certificate: Option<&str>) -> Self {
        let mut all = headers.get_all(header::AUTHORIZATION).iter();
        let shown = match (all.next(), all.next()) {
            (None, _) => Self::Nothing,
            (Some(only), None) => only.to_str().ok().and_then(Self::parse).unwrap_or(Self::Nonsense),
            // Which one counts, others could see otherwise.
            (Some(_), Some(_)) => Self::Nonsense,
        };
        match (shown, certificate) {
            (Self::Nothing, Some(name)) => Self::Certificate(name.to_owned()),
            (shown, _) => shown,
        }
    }

    /// `Authorization`; RFC 7617, 2, and RFC 6750, 2.1.
    fn parse(value: &str) -> Option<Self> {
        let (scheme, rest) = value.trim().split_once(' ')?;
        let rest = rest.trim();
        if scheme.eq_ignore_ascii_case("bearer") {
            return (!rest.is_empty()).then(|| Self::Token(rest.to_owned()));
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let pair = String::from_utf8(BASE64.decode(rest).ok()?).ok()?;
        let (user, password) = pair.split_once(':')?;
        Some(Self::password(user, password))
    }

    /// A user and a password. Both of them empty are nobody: some clients say so when they have none.
    pub(super) fn password(user: &str, password: &str) -> Self {
        if user.is_empty() && password.is_empty() {
            return Self::Nothing;
        }
        Self::Password {
            user: user.to_owned(),
            password: password.to_owned(),
        }
    }

    /// Whether it is a token by itself.
    pub(super) const fn is_token(&self) -> bool {
        matches!(self, Self::Token(_))
    }

    /// The name that somebody gave as theirs, if it looks like one: a token put in its place must not be repeated.
    pub(super) fn claimed(&self) -> Option<&str> {
        let name = match self {
            Self::Password { user, .. } => user,
            Self::Certificate(name) => name,
            Self::Nothing | Self::Token(_) | Self::Nonsense => return None,
        };
        let is_secret = name.starts_with("entrepot_") || name.starts_with("ey") && name.matches('.').count() == 2;
        (name.len() <= NAME && !is_secret).then_some(name)
    }

    /// Who shows this.
    pub(super) async fn identify(&self, access: &Access, client: IpAddr) -> Result<Identity, Unidentified> {
        let presented = match self {
            Self::Nothing => Presented::Nothing,
            Self::Password { user, password } => Presented::Password { user, password },
            Self::Token(token) => Presented::Token(token),
            Self::Certificate(name) => Presented::Certificate(name),
            Self::Nonsense => return Err(Unidentified::Unknown),
        };
        access.identify(presented, client).await
    }
}

/// Whoever sends a request, before it is known who that is.
pub(super) struct Visitor {
    pub(super) origin: Origin,
    pub(super) shown: Shown,
}

impl Visitor {
    /// The sender of this.
    pub(super) fn of(site: &Site, parts: &Parts) -> Self {
        let certificate = parts
            .extensions
            .get::<Peer>()
            .and_then(|peer| peer.certified.as_ref()?.user(SystemTime::now()));
        Self {
            origin: site.origin(parts),
            shown: Shown::of(&parts.headers, certificate),
        }
    }

    /// Who it is. Where what is asked is `mirrored`, credentials that nobody here knows count as none.
    pub(super) async fn identify(&self, site: &Site, mirrored: bool) -> Result<Identity, Failure> {
        match self.shown.identify(&site.access, self.origin.client).await {
            Ok(identity) => Ok(identity),
            Err(Unidentified::Unknown) if mirrored => Ok(Identity::Anonymous),
            Err(error) if self.shown.is_token() => Err(Failure::from(error).of_token(TokenError::Invalid)),
            Err(error) => Err(error.into()),
        }
    }

    /// A failure as this visitor is told it: one that a login would mend says how to log in.
    pub(super) fn tell(&self, failure: Failure, prefix: Option<&RepositoryKey>, scope: Option<&str>) -> Failure {
        if !failure.wants_login() {
            return failure;
        }
        let shown = || self.shown.is_token().then_some(TokenError::InsufficientScope);
        let error = failure.token_error().or_else(shown);
        let challenge = challenge(&self.origin.base, prefix, failure.scope().or(scope), error);
        failure.with(header::WWW_AUTHENTICATE, challenge)
    }

    /// Whether anything was shown.
    pub(super) fn shows_something(&self) -> bool {
        self.shown != Shown::Nothing
    }
}

/// Whether this is what a Docker daemon asks of a mirror of Docker Hub: a pull of a name without any key of ours. It
/// shows its login at the Hub, and if that were refused, every such daemon would go around us.
pub(super) fn is_mirrored(line: &Line, is_key: impl Fn(&str) -> bool) -> bool {
    let (Operation::PullManifest { name, .. }
    | Operation::PullBlob { name, .. }
    | Operation::ListTags { name, .. }
    | Operation::ListReferrers { name, .. }) = &line.operation
    else {
        return false;
    };
    line.prefix.is_none() && !name.split_first().is_some_and(|(first, _)| is_key(first))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn shown(values: &[&str], certificate: Option<&str>) -> Shown {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::AUTHORIZATION, HeaderValue::from_str(value).expect("a value"));
        }
        Shown::of(&headers, certificate)
    }

    fn basic(user: &str, password: &str) -> Shown {
        Shown::Password {
            user: user.to_owned(),
            password: password.to_owned(),
        }
    }

    #[test]
    fn what_is_shown_is_read_as_clients_write_it() {
        let table = [
            (&[][..], None, Shown::Nothing),
            (&["Basic YWRhOnB3"][..], None, basic("ada", "pw")),
            (&["basic  YWRhOnB3 "], None, basic("ada", "pw")),
            (&["Basic YWRhOnB3Og=="], None, basic("ada", "pw:")),
            (&["Basic YWRhOnB3Og"], None, basic("ada", "pw:")),
            (&["Basic Og=="], None, Shown::Nothing),
            (&["Basic Og=="], Some("ada"), Shown::Certificate("ada".to_owned())),
            (&["Bearer x.y.z"], Some("ada"), Shown::Token("x.y.z".to_owned())),
            (&[], Some("ada"), Shown::Certificate("ada".to_owned())),
            (&["Bearer"], None, Shown::Nonsense),
            (&["Bearer "], None, Shown::Nonsense),
            (&["Basic !"], None, Shown::Nonsense),
            (&["Basic YWRh"], None, Shown::Nonsense),
            (&["Digest username=ada"], None, Shown::Nonsense),
            (&[""], None, Shown::Nonsense),
            (&["Basic YWRhOnB3", "Bearer x"], None, Shown::Nonsense),
        ];
        for (values, certificate, expected) in table {
            assert!(shown(values, certificate) == expected, "{values:?} {certificate:?}");
        }
    }

    #[test]
    fn a_secret_in_the_wrong_place_is_not_repeated() {
        for (user, claimed) in [
            ("ada", Some("ada")),
            ("entrepot_12_secret", None),
            ("eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0.x", None),
        ] {
            assert_eq!(basic(user, "pw").claimed(), claimed, "{user}");
        }
        assert_eq!(basic(&"x".repeat(65), "").claimed(), None);
        assert_eq!(Shown::Token("ada".to_owned()).claimed(), None);
    }

    #[test]
    fn only_pulls_of_names_without_a_key_are_a_mirrors() {
        for (method, path, mirrored) in [
            ("GET", "/v2/library/alpine/manifests/latest", true),
            ("HEAD", "/v2/alpine/manifests/latest", true),
            ("GET", "/v2/docker/manifests/latest", true),
            ("GET", "/v2/library/alpine/tags/list", true),
            ("GET", "/v2/docker/library/alpine/manifests/latest", false),
            ("GET", "/docker/v2/library/alpine/manifests/latest", false),
            ("PUT", "/v2/library/alpine/manifests/latest", false),
            ("DELETE", "/v2/library/alpine/manifests/latest", false),
            ("GET", "/v2/", false),
            ("GET", "/v2/_catalog", false),
        ] {
            let line = Line::parse(method, path, None).expect(path);
            assert_eq!(is_mirrored(&line, |key| key == "docker"), mirrored, "{method} {path}");
        }
    }
}
