//! Our own tokens: JSON Web Tokens (RFC 7519) that name somebody and hold no rights.
//!
//! Their header is always the same and is compared as a text, so that there is no algorithm to choose for whoever
//! shows one.
//!
//! Each is bound to what proved its bearer by a fingerprint of that, so that a changed password or a revoked robot ends
//! it at the next request. What it is for — to be shown to the registry, or for a new one — is in it, and neither is
//! taken for the other.

use std::collections::BTreeSet;
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::{Deserialize, Serialize};

/// How long a token is good for.
pub(super) const LIFETIME: Duration = Duration::from_secs(300);
/// How long it is taken after that: it may have been shown in time, and clocks differ. Not announced.
const GRACE: Duration = Duration::from_secs(30);
/// How far in the future it may say that it was made. More, and the clock was put back: by the new one it would last longer than
/// any token may.
const AHEAD: Duration = Duration::from_secs(60);
/// How long a token for new tokens is good for.
pub(super) const REFRESH_LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);
/// Nothing that we sign is longer.
const LONGEST: usize = 16 << 10;
/// `{"alg":"HS256","typ":"JWT"}`
const HEADER: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9";
const ISSUER: &str = "entrepot";

/// What signs our tokens. Whoever has it can be anybody.
#[derive(Clone)]
pub struct SigningKey([u8; Self::LENGTH]);

/// A token, and how long it is good for.
#[derive(Clone)]
pub struct Minted {
    /// The token.
    pub token: String,
    /// From now.
    pub expires_in: Duration,
}

/// What a token of ours says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Claims {
    iss: String,
    /// What it is for.
    #[serde(rename = "use")]
    pub(super) purpose: Purpose,
    pub(super) kind: Bearer,
    /// The name; none for nobody.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) sub: String,
    /// The groups that somebody else said they are in.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(super) groups: BTreeSet<String>,
    /// A fingerprint of what proved it, when that is kept here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) proof: Option<String>,
    iat: u64,
    exp: u64,
}

/// What a token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Purpose {
    /// To be shown with a request.
    Access,
    /// To be shown for a new one.
    Refresh,
}

/// Whose token it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Bearer {
    Nobody,
    User,
    Robot,
    Workload,
}

/// What a token is about, before it is one.
pub(super) struct Subject<'a> {
    pub(super) kind: Bearer,
    pub(super) name: &'a str,
    pub(super) groups: &'a BTreeSet<String>,
    pub(super) proof: Option<String>,
    /// When what proved it runs out.
    pub(super) until: Option<SystemTime>,
}

/// What became of a token that was shown.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// It is ours and good.
    Good(Claims),
    /// It is ours and has run out.
    Expired,
    /// We have not signed it, or not for this.
    NotOurs,
}

/// Signs and reads our tokens.
pub(super) struct Signer {
    key: hmac::Key,
}

impl SigningKey {
    /// How many bytes it has.
    pub const LENGTH: usize = 32;

    /// A new one; none when the machine has no randomness to give.
    pub fn generate() -> Option<Self> {
        random().map(Self)
    }

    /// The one that these bytes are, if they are one.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// To be kept where nobody else reads.
    pub const fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Random bytes that nobody can guess.
pub(super) fn random<const N: usize>() -> Option<[u8; N]> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).ok().map(|()| bytes)
}

impl Signer {
    pub(super) fn new(key: &SigningKey) -> Self {
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, &key.0),
        }
    }

    /// A fingerprint of something secret that is kept here.
    pub(super) fn fingerprint(&self, what: &str) -> String {
        let mut context = hmac::Context::with_key(&self.key);
        // No token begins like this, so none of our signatures is one of our fingerprints.
        context.update(b"\0fingerprint\0");
        context.update(what.as_bytes());
        URL_SAFE_NO_PAD.encode(&context.sign().as_ref()[..16])
    }

    pub(super) fn mint(&self, purpose: Purpose, subject: Subject<'_>, now: SystemTime) -> Minted {
        let longest = match purpose {
            Purpose::Access => LIFETIME,
            Purpose::Refresh => REFRESH_LIFETIME,
        };
        let left = subject.until.map(|until| until.duration_since(now).unwrap_or_default());
        let expires_in = left.map_or(longest, |left| left.min(longest));
        let claims = Claims {
            iss: ISSUER.to_owned(),
            purpose,
            kind: subject.kind,
            sub: subject.name.to_owned(),
            groups: subject.groups.clone(),
            proof: subject.proof,
            iat: seconds(now),
            exp: seconds(now + expires_in),
        };
        let claims = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&claims).unwrap_or_default());
        let signed = format!("{HEADER}.{claims}");
        let signature = URL_SAFE_NO_PAD.encode(hmac::sign(&self.key, signed.as_bytes()));
        let token = format!("{signed}.{signature}");
        Minted { token, expires_in }
    }

    /// Reads a token that was shown for this.
    pub(super) fn read(&self, purpose: Purpose, token: &str, now: SystemTime) -> Reading {
        let Some(claims) = self.verified(token).filter(|claims| claims.iss == ISSUER) else {
            return Reading::NotOurs;
        };
        if claims.purpose != purpose {
            return Reading::NotOurs;
        }
        let grace = match purpose {
            Purpose::Access => GRACE,
            Purpose::Refresh => Duration::ZERO,
        };
        let now = seconds(now);
        if now >= claims.exp.saturating_add(grace.as_secs()) || claims.iat > now.saturating_add(AHEAD.as_secs()) {
            return Reading::Expired;
        }
        Reading::Good(claims)
    }

    /// What a token says that we have signed.
    fn verified(&self, token: &str) -> Option<Claims> {
        if token.len() > LONGEST {
            return None;
        }
        let (signed, signature) = token.rsplit_once('.')?;
        let claims = signed.strip_prefix(HEADER)?.strip_prefix('.')?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        hmac::verify(&self.key, signed.as_bytes(), &signature).ok()?;
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()
    }
}

impl Claims {
    /// When it runs out.
    pub(super) fn until(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.exp)
    }
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Debug for Minted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Minted")
            .field("token", &"***")
            .field("expires_in", &self.expires_in)
            .finish()
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signer")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1_800_000_000);

    fn signer() -> Signer {
        Signer::new(&SigningKey::from_bytes(&[7; 32]).unwrap())
    }

    fn mint(purpose: Purpose, until: Option<Duration>) -> Minted {
        let subject = Subject {
            kind: Bearer::User,
            name: "ada",
            groups: &BTreeSet::new(),
            proof: Some("proof".to_owned()),
            until: until.map(|until| UNIX_EPOCH + until),
        };
        signer().mint(purpose, subject, UNIX_EPOCH + NOW)
    }

    fn outcome(purpose: Purpose, token: &str, after: u64) -> &'static str {
        match signer().read(purpose, token, UNIX_EPOCH + NOW + Duration::from_secs(after)) {
            Reading::Good(claims) => {
                assert_eq!((claims.sub.as_str(), claims.proof.as_deref()), ("ada", Some("proof")));
                "good"
            }
            Reading::Expired => "expired",
            Reading::NotOurs => "not ours",
        }
    }

    #[test]
    fn a_token_is_good_for_a_time_and_a_moment_more_and_for_one_thing() {
        let access = mint(Purpose::Access, None);
        assert_eq!(access.expires_in, LIFETIME);
        for (after, expected) in [
            (0, "good"),
            (300, "good"),
            (329, "good"),
            (330, "expired"),
            (1 << 40, "expired"),
        ] {
            assert_eq!(
                outcome(Purpose::Access, &access.token, after),
                expected,
                "after {after} s"
            );
        }
        assert_eq!(outcome(Purpose::Refresh, &access.token, 0), "not ours");
        let refresh = mint(Purpose::Refresh, None);
        let month = REFRESH_LIFETIME.as_secs();
        for (after, expected) in [(month - 1, "good"), (month, "expired")] {
            assert_eq!(
                outcome(Purpose::Refresh, &refresh.token, after),
                expected,
                "after {after} s"
            );
        }
        assert_eq!(outcome(Purpose::Access, &refresh.token, 0), "not ours");
    }

    #[test]
    fn a_token_of_later_than_now_is_none_for_now() {
        for purpose in [Purpose::Access, Purpose::Refresh] {
            let token = mint(purpose, None).token;
            for (before, is_good) in [(1, true), (60, true), (61, false), (3600, false)] {
                let then = UNIX_EPOCH + NOW - Duration::from_secs(before);
                let reading = signer().read(purpose, &token, then);
                assert_eq!(
                    matches!(reading, Reading::Good(_)),
                    is_good,
                    "{before} s before it was made"
                );
                assert!(is_good || reading == Reading::Expired, "a new one is to be had");
            }
        }
    }

    #[test]
    fn a_token_lasts_no_longer_than_what_it_is_made_of() {
        for (until, expected) in [(60, 60), (3600, 300), (0, 0)] {
            let minted = mint(Purpose::Access, Some(NOW + Duration::from_secs(until)));
            assert_eq!(minted.expires_in.as_secs(), expected);
        }
        assert_eq!(mint(Purpose::Access, Some(Duration::ZERO)).expires_in, Duration::ZERO);
    }

    #[test]
    fn nothing_is_taken_that_this_key_has_not_signed_as_it_is() {
        let token = mint(Purpose::Access, None).token;
        let other = Signer::new(&SigningKey::from_bytes(&[8; 32]).unwrap());
        assert_eq!(other.read(Purpose::Access, &token, UNIX_EPOCH + NOW), Reading::NotOurs);
        for at in 0..token.len() {
            let mut changed = token.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert_eq!(outcome(Purpose::Access, &changed, 0), "not ours", "{at}");
        }
        for nonsense in ["", ".", "..", HEADER, &format!("{HEADER}.."), &"x".repeat(LONGEST + 1)] {
            assert_eq!(outcome(Purpose::Access, nonsense, 0), "not ours");
        }
        // What a fingerprint is made of is no token, and the other way round.
        assert_ne!(signer().fingerprint("a"), other.fingerprint("a"));
        assert!(!format!("{:?} {:?}", mint(Purpose::Access, None), SigningKey([7; 32])).contains("eyJ"));
    }
}
