//! The name in a client's certificate. That it may be believed, the TLS handshake has found out.

use std::time::{Duration, SystemTime};

use x509_parser::prelude::{FromDer as _, X509Certificate};

/// The longest name of a user.
const LONGEST: usize = 255;

/// Whom a certificate names, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// The user.
    pub user: String,
    /// When it ends.
    pub until: SystemTime,
}

/// The user that a certificate was made for: the only common name (CN) of its subject. `None`: it names nobody, or not
/// only one.
pub fn named(certificate: &[u8]) -> Option<Named> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let until = u64::try_from(certificate.validity().not_after.timestamp()).ok()?;
    let mut names = certificate.subject().iter_common_name();
    let name = names.next()?.as_str().ok()?;
    let is_name = !name.is_empty() && name.len() <= LONGEST && !name.chars().any(char::is_control);
    (is_name && names.next().is_none()).then(|| Named {
        user: name.to_owned(),
        until: SystemTime::UNIX_EPOCH + Duration::from_secs(until),
    })
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

    use super::*;

    fn user(certificate: &[u8]) -> Option<String> {
        named(certificate).map(|named| named.user)
    }

    fn certificate(names: &[(DnType, &str)]) -> Vec<u8> {
        let mut params = CertificateParams::new(vec!["san.test".to_owned()]).expect("a name");
        params.distinguished_name = DistinguishedName::new();
        for (kind, name) in names {
            params.distinguished_name.push(kind.clone(), *name);
        }
        let made = params
            .self_signed(&KeyPair::generate().expect("a key"))
            .expect("signed");
        made.der().to_vec()
    }

    #[test]
    fn the_common_name_is_the_user() {
        let of = |names: &[(DnType, &str)]| user(&certificate(names));
        let organisation = (DnType::OrganizationName, "acme");
        assert_eq!(
            of(&[organisation.clone(), (DnType::CommonName, "ada")]).as_deref(),
            Some("ada")
        );
        assert_eq!(of(&[organisation]), None);
        assert_eq!(of(&[(DnType::CommonName, "")]), None);
        assert_eq!(of(&[(DnType::CommonName, "a\nb")]), None);
        assert_eq!(of(&[(DnType::CommonName, &"a".repeat(LONGEST + 1))]), None);
        assert_eq!(user(b"no certificate"), None);
    }

    #[test]
    fn two_names_are_none() {
        // No library makes one: the same subject twice in one name, by hand.
        let one = certificate(&[
            (DnType::CommonName, "ada"),
            (DnType::CustomDnType(vec![2, 5, 4, 41]), "bob"),
        ]);
        let custom = [0x55, 0x04, 41];
        let at = one.windows(3).position(|part| part == custom).expect("the second name");
        let mut two = one.clone();
        two[at + 2] = 3;
        assert_eq!(user(&one).as_deref(), Some("ada"));
        // The issuer comes first in a certificate that signs itself; the subject is what counts.
        let second = two.windows(3).rposition(|part| part == custom).expect("the subject");
        two[second + 2] = 3;
        assert_eq!(user(&two), None);
    }
}
