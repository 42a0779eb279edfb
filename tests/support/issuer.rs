//! An issuer of OpenID Connect tokens over HTTPS, whose keys are exchanged, and which can be made to lie or to be away.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use entrepot::config::OidcConfig;
use ring::rand::SystemRandom;
use ring::rsa::{KeyPair as RsaKeyPair, KeyPairComponents, PublicKeyComponents};
use ring::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::tls::Authority;

/// An RSA key for tests and nothing else: `ring` makes none, and `openssl` made this one.
const RSA: &str = include_str!("../fixtures/issuer-rsa.json");

/// A key that signs.
pub enum Signing {
    Ed25519(Ed25519KeyPair),
    P256(EcdsaKeyPair),
    P384(EcdsaKeyPair),
    Rsa(Box<RsaKeyPair>),
}

/// An issuer.
pub struct Issuer {
    pub authority: Authority,
    port: u16,
    state: Arc<State>,
    _running: JoinSet<()>,
}

#[derive(Default)]
struct State {
    /// What is answered at a path; everything else is 404.
    pages: Mutex<BTreeMap<String, String>>,
    /// How often each path was asked for.
    asked: Mutex<BTreeMap<String, u64>>,
    connections: AtomicU64,
    is_away: AtomicBool,
}

pub fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Signing {
    pub fn ed25519() -> Self {
        let made = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self::Ed25519(Ed25519KeyPair::from_pkcs8(made.as_ref()).unwrap())
    }

    pub fn p256() -> Self {
        Self::P256(ecdsa(&signature::ECDSA_P256_SHA256_FIXED_SIGNING))
    }

    pub fn p384() -> Self {
        Self::P384(ecdsa(&signature::ECDSA_P384_SHA384_FIXED_SIGNING))
    }

    /// Always the same one.
    pub fn rsa() -> Self {
        let key: BTreeMap<String, String> = serde_json::from_str(RSA).unwrap();
        let part = |name: &str| URL_SAFE_NO_PAD.decode(&key[name]).unwrap();
        let components = KeyPairComponents {
            public_key: PublicKeyComponents {
                n: part("n"),
                e: part("e"),
            },
            d: part("d"),
            p: part("p"),
            q: part("q"),
            dP: part("dp"),
            dQ: part("dq"),
            qInv: part("qi"),
        };
        Self::Rsa(Box::new(RsaKeyPair::from_components(&components).unwrap()))
    }

    /// Its public half, as a JSON Web Key.
    pub fn public(&self, id: &str) -> Value {
        let mut key = match self {
            Self::Ed25519(key) => json!({"kty": "OKP", "crv": "Ed25519", "x": encode(key.public_key())}),
            Self::P256(key) => ec("P-256", key),
            Self::P384(key) => ec("P-384", key),
            Self::Rsa(_) => {
                let key: Value = serde_json::from_str(RSA).unwrap();
                json!({"kty": "RSA", "n": key["n"], "e": key["e"]})
            }
        };
        key["kid"] = id.into();
        key["use"] = "sig".into();
        key
    }

    /// A token with this header and these claims. `alg` says how an RSA key signs.
    pub fn token(&self, header: &Value, claims: &Value) -> String {
        let signed = format!("{}.{}", encode(header.to_string()), encode(claims.to_string()));
        let signature = self.sign(header["alg"].as_str().unwrap_or_default(), signed.as_bytes());
        format!("{signed}.{}", encode(signature))
    }

    fn sign(&self, algorithm: &str, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Ed25519(key) => key.sign(message).as_ref().to_vec(),
            Self::P256(key) | Self::P384(key) => key.sign(&random, message).unwrap().as_ref().to_vec(),
            Self::Rsa(key) => {
                let padding: &dyn signature::RsaEncoding = match algorithm {
                    "RS384" => &signature::RSA_PKCS1_SHA384,
                    "RS512" => &signature::RSA_PKCS1_SHA512,
                    "PS256" => &signature::RSA_PSS_SHA256,
                    "PS384" => &signature::RSA_PSS_SHA384,
                    "PS512" => &signature::RSA_PSS_SHA512,
                    _ => &signature::RSA_PKCS1_SHA256,
                };
                let mut signed = vec![0; key.public().modulus_len()];
                key.sign(padding, &random, message, &mut signed).unwrap();
                signed
            }
        }
    }
}

fn ecdsa(algorithm: &'static signature::EcdsaSigningAlgorithm) -> EcdsaKeyPair {
    let random = SystemRandom::new();
    let made = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
    EcdsaKeyPair::from_pkcs8(algorithm, made.as_ref(), &random).unwrap()
}

fn ec(curve: &str, key: &EcdsaKeyPair) -> Value {
    let point = &key.public_key().as_ref()[1..];
    let (x, y) = point.split_at(point.len() / 2);
    json!({"kty": "EC", "crv": curve, "x": encode(x), "y": encode(y)})
}

impl Issuer {
    /// One with these keys, by their ids.
    pub async fn start(keys: &[(&str, &Signing)]) -> Self {
        let authority = Authority::new();
        let config = authority.server("localhost");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State::default());
        let mut running = JoinSet::new();
        running.spawn(serve(
            listener,
            tokio_rustls::TlsAcceptor::from(config),
            Arc::clone(&state),
        ));
        let issuer = Self {
            authority,
            port,
            state,
            _running: running,
        };
        let discovery = json!({"issuer": issuer.url(), "jwks_uri": format!("{}/keys", issuer.url())});
        issuer.page("/.well-known/openid-configuration", &discovery.to_string());
        issuer.exchange(keys);
        issuer
    }

    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.port)
    }

    /// These are its keys from now on.
    pub fn exchange(&self, keys: &[(&str, &Signing)]) {
        let keys: Vec<Value> = keys.iter().map(|(id, key)| key.public(id)).collect();
        self.page("/keys", &json!({ "keys": keys }).to_string());
    }

    /// Answers this at a path; what begins with `HTTP/1.1` is the whole answer.
    pub fn page(&self, path: &str, text: &str) {
        self.state
            .pages
            .lock()
            .unwrap()
            .insert(path.to_owned(), text.to_owned());
    }

    /// How often it was asked for its keys.
    pub fn asked(&self) -> u64 {
        self.state
            .asked
            .lock()
            .unwrap()
            .get("/keys")
            .copied()
            .unwrap_or_default()
    }

    /// How many connections there were.
    pub fn connections(&self) -> u64 {
        self.state.connections.load(Ordering::Relaxed)
    }

    /// Whether it answers nothing.
    pub fn be_away(&self, is_away: bool) {
        self.state.is_away.store(is_away, Ordering::Relaxed);
    }

    /// A rule that takes its tokens for `entrepot`.
    pub fn rule(&self) -> OidcConfig {
        OidcConfig {
            issuer: self.url(),
            audience: vec!["entrepot".to_owned()],
            claims: BTreeMap::new(),
            groups: vec!["ci".to_owned()],
            keys: None,
            ca: Some(self.authority.pem()),
        }
    }

    /// What a good token says, from `now` on, in seconds since 1970.
    pub fn claims(&self, now: u64) -> Value {
        json!({"iss": self.url(), "aud": "entrepot", "sub": "repo:acme/app", "iat": now, "exp": now + 3600})
    }
}

async fn serve(listener: TcpListener, acceptor: tokio_rustls::TlsAcceptor, state: Arc<State>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        state.connections.fetch_add(1, Ordering::Relaxed);
        if !state.is_away.load(Ordering::Relaxed) {
            connections.spawn(answer(acceptor.clone(), stream, Arc::clone(&state)));
        }
    }
}

async fn answer(acceptor: tokio_rustls::TlsAcceptor, stream: TcpStream, state: Arc<State>) -> Option<()> {
    let mut stream = acceptor.accept(stream).await.ok()?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).ok()?;
    let path = head.split(' ').nth(1)?.to_owned();
    let page = state.pages.lock().unwrap().get(&path).cloned();
    *state.asked.lock().unwrap().entry(path).or_default() += 1;
    let answer = match page {
        Some(whole) if whole.starts_with("HTTP/1.1") => whole,
        Some(text) => format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}",
            text.len()
        ),
        None => "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_owned(),
    };
    stream.write_all(answer.as_bytes()).await.ok()?;
    stream.shutdown().await.ok()
}
