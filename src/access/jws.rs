//! A signed token and the keys that may have signed it (RFC 7515, 7517, 7518). Pure.
//!
//! Which algorithm is used, the key decides, never the token: it has to name one of those that its key is for. Secrets
//! shared with an issuer are no keys here, so nothing can be signed with what is public. What a token says of where its
//! key is (`jwk`, `jku`, `x5c`, `x5u`) is not read.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use serde::Deserialize;
use serde_json::{Map, Value};

/// The longest token that is looked at. GitHub's have 2 KiB, GitLab's 3.
const LONGEST: usize = 16 * 1024;
/// How many keys are tried for a token that does not say which one it was signed with.
const TRIED: usize = 16;

/// A token, taken apart. Nothing of it is true yet.
#[derive(Debug)]
pub(super) struct Token<'a> {
    algorithm: Algorithm,
    key_id: Option<String>,
    signed: &'a str,
    signature: Vec<u8>,
    /// What it says.
    pub(super) claims: Map<String, Value>,
}

/// The signatures that are known: each needs the issuer's private key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    EdDsa,
}

/// Whether a token was signed by one of the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It was.
    Signed,
    /// The key that it names has not signed it.
    Forged,
    /// The key that it names is not among them.
    NoSuchKey,
}

/// An issuer's keys.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Keys(Vec<Key>);

#[derive(Debug, PartialEq, Eq)]
struct Key {
    id: Option<String>,
    /// The only algorithm that it is for, when it says one.
    only: Option<Algorithm>,
    public: Public,
}

#[derive(Debug, PartialEq, Eq)]
enum Public {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    P256(Vec<u8>),
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    /// What must be understood to read the token; nothing of it is.
    crit: Option<Value>,
}

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<Value>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl<'a> Token<'a> {
    /// Takes one apart. `None`: it is no token of a kind that we take.
    pub(super) fn read(text: &'a str) -> Option<Self> {
        if text.len() > LONGEST {
            return None;
        }
        let (signed, signature) = text.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let header: Header = serde_json::from_slice(&decode(header)?).ok()?;
        if header.crit.is_some() {
            return None;
        }
        Some(Self {
            algorithm: Algorithm::read(&header.alg)?,
            key_id: header.kid,
            signed,
            signature: decode(signature)?,
            claims: serde_json::from_slice(&decode(claims)?).ok()?,
        })
    }

    /// Who says to have issued it.
    pub(super) fn issuer(&self) -> Option<&str> {
        self.claims.get("iss")?.as_str()
    }
}

impl Algorithm {
    fn read(name: &str) -> Option<Self> {
        Some(match name {
            "RS256" => Self::Rs256,
            "RS384" => Self::Rs384,
            "RS512" => Self::Rs512,
            "PS256" => Self::Ps256,
            "PS384" => Self::Ps384,
            "PS512" => Self::Ps512,
            "ES256" => Self::Es256,
            "ES384" => Self::Es384,
            "EdDSA" | "Ed25519" => Self::EdDsa,
            _ => return None,
        })
    }
}

impl Keys {
    /// Reads a JSON Web Key Set. Keys of kinds that are not known are left out, and so are those that are not for
    /// signatures.
    pub(super) fn read(document: &[u8]) -> Result<Self, String> {
        let set: KeySet =
            serde_json::from_slice(document).map_err(|error| format!("it is no JSON Web Key Set: {error}"))?;
        let keys: Vec<Key> = set.keys.into_iter().filter_map(Key::read).collect();
        if keys.is_empty() {
            return Err(
                "there is no key for signatures of a kind that is known in it: RSA, P-256, P-384, Ed25519".into(),
            );
        }
        Ok(Self(keys))
    }

    /// Whether one of them signed the token.
    pub(super) fn verify(&self, token: &Token<'_>) -> Verdict {
        if token.key_id.is_none() {
            let mut likely = self.0.iter().filter(|key| key.is_for(token.algorithm)).take(TRIED);
            return if likely.any(|key| key.has_signed(token)) {
                Verdict::Signed
            } else {
                Verdict::NoSuchKey
            };
        }
        let mut verdict = Verdict::NoSuchKey;
        for key in self.0.iter().filter(|key| key.id == token.key_id) {
            if key.is_for(token.algorithm) && key.has_signed(token) {
                return Verdict::Signed;
            }
            verdict = Verdict::Forged;
        }
        verdict
    }
}

impl Key {
    fn read(key: Value) -> Option<Self> {
        let key: Jwk = serde_json::from_value(key).ok()?;
        let is_for_signatures = key.usage.as_deref().is_none_or(|usage| usage == "sig")
            && key.key_ops.is_none_or(|all| all.iter().any(|one| one == "verify"));
        if !is_for_signatures {
            return None;
        }
        let point = |length: usize| {
            let (x, y) = (decode(key.x.as_deref()?)?, decode(key.y.as_deref()?)?);
            // What comes before the coordinates says that they are both there.
            (x.len() == length && y.len() == length).then(|| [&[4][..], &x, &y].concat())
        };
        let public = match (key.kty.as_str(), key.crv.as_deref()) {
            ("RSA", _) => Public::Rsa {
                n: decode(key.n.as_deref()?)?,
                e: decode(key.e.as_deref()?)?,
            },
            ("EC", Some("P-256")) => Public::P256(point(32)?),
            ("EC", Some("P-384")) => Public::P384(point(48)?),
            ("OKP", Some("Ed25519")) => Public::Ed25519(decode(key.x.as_deref()?)?),
            _ => return None,
        };
        Some(Self {
            id: key.kid,
            // An algorithm that is not known is one that no token can name.
            only: match key.alg {
                Some(name) => Some(Algorithm::read(&name)?),
                None => None,
            },
            public,
        })
    }

    fn is_for(&self, algorithm: Algorithm) -> bool {
        self.only.is_none_or(|only| only == algorithm)
            && match self.public {
                Public::Rsa { .. } => matches!(
                    algorithm,
                    Algorithm::Rs256
                        | Algorithm::Rs384
                        | Algorithm::Rs512
                        | Algorithm::Ps256
                        | Algorithm::Ps384
                        | Algorithm::Ps512
                ),
                Public::P256(_) => algorithm == Algorithm::Es256,
                Public::P384(_) => algorithm == Algorithm::Es384,
                Public::Ed25519(_) => algorithm == Algorithm::EdDsa,
            }
    }

    fn has_signed(&self, token: &Token<'_>) -> bool {
        let (message, shown) = (token.signed.as_bytes(), &token.signature);
        let checked = match &self.public {
            Public::Rsa { n, e } => {
                let parameters = match token.algorithm {
                    Algorithm::Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
                    Algorithm::Rs384 => &signature::RSA_PKCS1_2048_8192_SHA384,
                    Algorithm::Rs512 => &signature::RSA_PKCS1_2048_8192_SHA512,
                    Algorithm::Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
                    Algorithm::Ps384 => &signature::RSA_PSS_2048_8192_SHA384,
                    Algorithm::Ps512 => &signature::RSA_PSS_2048_8192_SHA512,
                    Algorithm::Es256 | Algorithm::Es384 | Algorithm::EdDsa => return false,
                };
                RsaPublicKeyComponents { n, e }.verify(parameters, message, shown)
            }
            Public::P256(point) => {
                UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point).verify(message, shown)
            }
            Public::P384(point) => {
                UnparsedPublicKey::new(&signature::ECDSA_P384_SHA384_FIXED, point).verify(message, shown)
            }
            Public::Ed25519(point) => UnparsedPublicKey::new(&signature::ED25519, point).verify(message, shown),
        };
        checked.is_ok()
    }
}

fn decode(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};
    use serde_json::json;

    use super::*;

    fn encode(bytes: impl AsRef<[u8]>) -> String {
        URL_SAFE_NO_PAD.encode(bytes)
    }

    fn ed25519() -> Ed25519KeyPair {
        let made = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("a key");
        Ed25519KeyPair::from_pkcs8(made.as_ref()).expect("a key")
    }

    fn keys(keys: &[Value]) -> Keys {
        Keys::read(json!({ "keys": keys }).to_string().as_bytes()).expect("keys")
    }

    fn public(key: &Ed25519KeyPair, id: &str) -> Value {
        json!({"kty": "OKP", "crv": "Ed25519", "kid": id, "use": "sig", "x": encode(key.public_key())})
    }

    fn token(header: &Value, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
        let signed = format!("{}.{}", encode(header.to_string()), encode(r#"{"iss":"us"}"#));
        let signature = sign(signed.as_bytes());
        format!("{signed}.{}", encode(signature))
    }

    fn verdict(keys: &Keys, token: &str) -> Option<Verdict> {
        Token::read(token).map(|token| keys.verify(&token))
    }

    #[test]
    fn a_key_vouches_for_what_it_signed_and_nothing_else() {
        let (ours, theirs) = (ed25519(), ed25519());
        let by = |key: &Ed25519KeyPair, header: &Value| token(header, |text| key.sign(text).as_ref().to_vec());
        let both = keys(&[public(&theirs, "old"), public(&ours, "new")]);
        let named = |id: &str| json!({"alg": "EdDSA", "kid": id});
        let good = by(&ours, &named("new"));
        assert_eq!(verdict(&both, &good), Some(Verdict::Signed));
        assert_eq!(
            verdict(&both, &by(&ours, &json!({"alg": "EdDSA"}))),
            Some(Verdict::Signed)
        );
        assert_eq!(verdict(&both, &by(&ours, &named("old"))), Some(Verdict::Forged));
        assert_eq!(verdict(&both, &by(&ours, &named("other"))), Some(Verdict::NoSuchKey));
        assert_eq!(
            verdict(&both, &by(&ed25519(), &json!({"alg": "EdDSA"}))),
            Some(Verdict::NoSuchKey)
        );
        let (signed, signature) = good.rsplit_once('.').expect("dots");
        let (header, _) = signed.split_once('.').expect("dots");
        let other = format!("{header}.{}.{signature}", encode(r#"{"iss":"them"}"#));
        assert_eq!(verdict(&both, &other), Some(Verdict::Forged));
    }

    #[test]
    fn the_key_decides_the_algorithm() {
        let random = SystemRandom::new();
        let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).expect("a key");
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, made.as_ref(), &random).expect("a key");
        let point = key.public_key().as_ref();
        let (x, y) = (encode(&point[1..33]), encode(&point[33..]));
        let sign = |header: &Value| {
            token(header, |text| {
                key.sign(&random, text).expect("signed").as_ref().to_vec()
            })
        };
        let set = |alg: Option<&str>| {
            let mut one = json!({"kty": "EC", "crv": "P-256", "kid": "a", "x": x, "y": y});
            if let Some(alg) = alg {
                one["alg"] = alg.into();
            }
            json!({ "keys": [one, public(&ed25519(), "b")] }).to_string()
        };
        let read = |alg| Keys::read(set(alg).as_bytes()).expect("keys");
        let good = sign(&json!({"alg": "ES256", "kid": "a"}));
        assert_eq!(verdict(&read(None), &good), Some(Verdict::Signed));
        assert_eq!(verdict(&read(Some("ES256")), &good), Some(Verdict::Signed));
        // A key for something else is for nothing else.
        assert_eq!(verdict(&read(Some("ES384")), &good), Some(Verdict::Forged));
        assert_eq!(verdict(&read(Some("ECDH-ES")), &good), Some(Verdict::NoSuchKey));
        for alg in ["ES384", "EdDSA", "RS256"] {
            let forged = sign(&json!({"alg": alg, "kid": "a"}));
            assert_eq!(verdict(&read(None), &forged), Some(Verdict::Forged), "{alg}");
        }
        for alg in ["none", "None", "HS256", "es256", ""] {
            assert_eq!(
                verdict(&read(None), &sign(&json!({"alg": alg, "kid": "a"}))),
                None,
                "{alg}"
            );
        }
    }

    #[test]
    fn what_is_no_token_is_not_read() {
        let key = ed25519();
        let good = token(&json!({"alg": "EdDSA"}), |text| key.sign(text).as_ref().to_vec());
        assert!(Token::read(&good).is_some());
        let critical = token(&json!({"alg": "EdDSA", "crit": ["exp"]}), |text| {
            key.sign(text).as_ref().to_vec()
        });
        let long = format!("{good}{}", "A".repeat(LONGEST));
        let list = format!("{}.{}.AAAA", encode(r#"{"alg":"EdDSA"}"#), encode("[]"));
        let padded = format!("{good}==");
        let five = format!("{good}.AAAA.AAAA");
        for text in [
            "", ".", "..", "a.b.c", "no token", &critical, &long, &list, &padded, &five,
        ] {
            assert!(Token::read(text).is_none(), "{text}");
        }
    }

    #[test]
    fn a_set_of_keys_holds_what_can_be_used_of_it() {
        let secret = json!({"kty": "oct", "k": "c2VjcmV0", "kid": "a", "alg": "HS256"});
        let encryption = json!({"kty": "RSA", "use": "enc", "n": "AQAB", "e": "AQAB"});
        let wrong_point = json!({"kty": "EC", "crv": "P-256", "x": "AQAB", "y": "AQAB"});
        let signing_only = json!({"kty": "RSA", "key_ops": ["sign"], "n": "AQAB", "e": "AQAB"});
        let useless = [secret, encryption, wrong_point, signing_only, json!(1)];
        let read = |keys: Vec<Value>| Keys::read(json!({ "keys": keys }).to_string().as_bytes());
        assert!(read(useless.to_vec()).is_err());
        let mut more = useless.to_vec();
        more.push(public(&ed25519(), "good"));
        assert_eq!(read(more).expect("one").0.len(), 1);
        for text in ["", "{}", "[]", "{\"keys\": 1}", "<html>"] {
            assert!(Keys::read(text.as_bytes()).is_err(), "{text}");
        }
    }
}
