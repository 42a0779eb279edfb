//! Values of `auth`, and the addresses that it and the front door are about.

use std::net::IpAddr;

use url::{Host, Url};

use super::super::Who;
use super::super::units::{Complaint, excerpt};
use super::Scalar;

/// Whom a policy is about.
pub(in crate::config) struct Subject(pub(in crate::config) Who);

impl Scalar for Subject {
    const NAME: &'static str = "Subject";
    const EXPECTED: &'static str = "a user, an `@group`, or `*`";
    const PATTERN: &'static str = r"^(\*|@?[^\s*@:]+)$";

    fn from_text(text: &str) -> Result<Self, Complaint> {
        let wrong = || {
            Complaint::new(format!("`{}` is neither a user nor a group", excerpt(text)))
                .hint("write a user's name, `@` and a group's name, or `*` for everybody")
        };
        if text == "*" {
            return Ok(Self(Who::Everyone));
        }
        let (group, name) = match text.strip_prefix('@') {
            Some(name) => (true, name),
            None => (false, text),
        };
        if !is_name(name) || name.starts_with('@') {
            return Err(wrong());
        }
        Ok(Self(if group {
            Who::Group(name.to_owned())
        } else {
            Who::User(name.to_owned())
        }))
    }
}

/// Whether this can be the name of a user or a group: in a `user:password` it has to end somewhere.
pub(in crate::config) fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 256
        && !text.contains([':', '*'])
        && !text.contains(|c: char| c.is_control() || c.is_whitespace())
}

/// What clients call the server.
pub(in crate::config) struct External(pub(in crate::config) Url);

impl Scalar for External {
    const NAME: &'static str = "External";
    const EXPECTED: &'static str = "a URL such as `https://registry.example.com`";
    const PATTERN: &'static str = r"^https?://\S+$";

    fn from_text(text: &str) -> Result<Self, Complaint> {
        let url = parsed(text, &["http", "https"], "https://registry.example.com")?;
        if url.path().to_lowercase() != url.path() {
            return Err(
                Complaint::new("a path here is written in lower case: some clients write it so")
                    .hint("clients are told this URL, and Watchtower makes it all lower case"),
            );
        }
        Ok(Self(url))
    }
}

/// An issuer of OpenID Connect tokens, exactly as it was written: tokens name it so.
pub(in crate::config) struct Issuer(pub(in crate::config) String);

impl Scalar for Issuer {
    const NAME: &'static str = "Issuer";
    const EXPECTED: &'static str = "a URL such as `https://token.actions.githubusercontent.com`";
    const PATTERN: &'static str = r"^https?://\S+$";

    fn from_text(text: &str) -> Result<Self, Complaint> {
        let url = parsed(text, &["http", "https"], "https://issuer.example.com")?;
        if url.scheme() == "http" && !is_loopback(&url) {
            return Err(Complaint::new("an issuer's keys have to come over `https://`")
                .hint("whoever can change them on the way can be anybody here"));
        }
        Ok(Self(text.to_owned()))
    }
}

/// The address of a directory.
pub(in crate::config) struct Directory(pub(in crate::config) Url);

impl Scalar for Directory {
    const NAME: &'static str = "Directory";
    const EXPECTED: &'static str = "a URL such as `ldaps://directory.example.com`";
    const PATTERN: &'static str = r"^ldaps?://\S+$";

    fn from_text(text: &str) -> Result<Self, Complaint> {
        let url = parsed(text, &["ldap", "ldaps"], "ldaps://directory.example.com")?;
        if !matches!(url.path(), "" | "/") {
            return Err(Complaint::new("the address of a directory has no path")
                .hint("where users are is said by `user_dn`, where groups are by `group_base`"));
        }
        Ok(Self(url))
    }
}

/// A URL with a host and nothing that would not belong there.
fn parsed(text: &str, schemes: &[&str], example: &str) -> Result<Url, Complaint> {
    // The text is not repeated: a URL with a password in it may be what is wrong.
    let url = Url::parse(text).ok().filter(Url::has_host);
    let Some(url) = url.filter(|url| schemes.contains(&url.scheme())) else {
        return Err(Complaint::new("this is not such a URL").hint(format!("as in `{example}`")));
    };
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Complaint::new("a user or a password in a URL would end up in logs"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(Complaint::new("this URL has no `?` and no `#`"));
    }
    Ok(url)
}

/// Whether a URL leads to this machine and nowhere else.
pub(in crate::config) fn is_loopback(url: &Url) -> bool {
    let address: Option<IpAddr> = match url.host() {
        Some(Host::Ipv4(address)) => Some(address.into()),
        Some(Host::Ipv6(address)) => Some(address.into()),
        // Another scheme than the web's leaves addresses as they are.
        Some(Host::Domain(name)) => name.parse().ok(),
        None => None,
    };
    address.is_some_and(|address| address.to_canonical().is_loopback()) || url.host_str() == Some("localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_is_everybody_a_group_or_a_user() {
        for (text, who) in [
            ("*", Who::Everyone),
            ("@ci", Who::Group("ci".to_owned())),
            ("ada@example.com", Who::User("ada@example.com".to_owned())),
        ] {
            assert_eq!(Subject::from_text(text).expect(text).0, who);
        }
        for text in ["", "@", "@@ci", "a b", "a:b", "team-*", "a\u{1b}"] {
            assert!(Subject::from_text(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn addresses_are_whole_and_hold_no_secrets() {
        assert!(External::from_text("https://a.b/images").is_ok());
        assert!(Issuer::from_text("https://a.b/realms/x").is_ok());
        assert!(Issuer::from_text("http://127.0.0.1:1").is_ok());
        assert!(Directory::from_text("ldap://a.b:389").is_ok());
        for text in [
            "https://a.b/Images",
            "ftp://a",
            "https://u:p@a.b",
            "https://a.b?c",
            "a.b",
        ] {
            assert!(External::from_text(text).is_err(), "{text}");
        }
        assert!(Issuer::from_text("http://a.b").is_err());
        assert!(Directory::from_text("https://a.b").is_err());
        assert!(Directory::from_text("ldaps://a.b/dc=x").is_err());
        assert!(is_loopback(&Url::parse("ldap://127.0.0.1:389").unwrap()));
        assert!(!is_loopback(&Url::parse("ldap://127.0.0.1.example").unwrap()));
    }
}
