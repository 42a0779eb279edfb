//! S4: what is no token of an issuer, however it is made to look like one.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use entrepot::access::{Access, Unidentified};
use entrepot::config::AuthConfig;
use ring::hmac;
use serde_json::{Value, json};

use super::support::issuer::{Issuer, Signing, encode};
use super::{access, bearer, closed, now, password};

/// An issuer with a key of each kind, under the names that `header` uses.
struct Stage {
    issuer: Issuer,
    rsa: Signing,
    p256: Signing,
    access: Access,
}

impl Stage {
    async fn new() -> Self {
        let (rsa, p256) = (Signing::rsa(), Signing::p256());
        let issuer = Issuer::start(&[("rsa", &rsa), ("p256", &p256)]).await;
        let access = access(
            &AuthConfig {
                oidc: vec![issuer.rule()],
                ..closed()
            },
            None,
        );
        Self {
            issuer,
            rsa,
            p256,
            access,
        }
    }

    fn claims(&self) -> Value {
        self.issuer.claims(now())
    }

    fn good(&self) -> String {
        self.p256.token(&json!({"alg": "ES256", "kid": "p256"}), &self.claims())
    }

    async fn refuses(&self, what: &str, token: &str) {
        for said in [
            bearer(&self.access, token).await,
            password(&self.access, "ada", token).await,
        ] {
            assert!(
                matches!(said, Err(Unidentified::Unknown | Unidentified::Expired)),
                "{what}: {said:?}"
            );
        }
    }
}

fn unsigned(header: &Value, claims: &Value) -> String {
    format!("{}.{}", encode(header.to_string()), encode(claims.to_string()))
}

#[tokio::test]
async fn s04_the_token_does_not_choose_how_it_is_checked() {
    let stage = Stage::new().await;
    assert!(bearer(&stage.access, &stage.good()).await.is_ok());
    for algorithm in ["none", "None", "NONE", "nOnE", ""] {
        for id in ["rsa", "p256"] {
            let header = json!({"alg": algorithm, "kid": id});
            let text = unsigned(&header, &stage.claims());
            let signature = stage.good().rsplit_once('.').expect("three parts").1.to_owned();
            for token in [format!("{text}."), text.clone(), format!("{text}.{signature}")] {
                stage.refuses(algorithm, &token).await;
            }
        }
    }
    // What is public, used as a secret: CVE-2015-9235 and all that followed it.
    let public = stage.rsa.public("rsa");
    let modulus = public["n"].as_str().expect("a modulus");
    let pem = format!(
        "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
        STANDARD.encode(modulus)
    );
    for secret in [modulus, &public.to_string(), &pem, ""] {
        for algorithm in ["HS256", "HS384", "HS512"] {
            for id in [Some("rsa"), Some("p256"), None] {
                let text = unsigned(&json!({"alg": algorithm, "kid": id}), &stage.claims());
                let kind = match algorithm {
                    "HS256" => hmac::HMAC_SHA256,
                    "HS384" => hmac::HMAC_SHA384,
                    _ => hmac::HMAC_SHA512,
                };
                let signature = hmac::sign(&hmac::Key::new(kind, secret.as_bytes()), text.as_bytes());
                stage.refuses(algorithm, &format!("{text}.{}", encode(signature))).await;
            }
        }
    }
    // One key's name with another's algorithm.
    for (key, algorithm, id) in [
        (&stage.p256, "RS256", "p256"),
        (&stage.p256, "ES256", "rsa"),
        (&stage.rsa, "RS256", "p256"),
        (&stage.rsa, "ES256", "rsa"),
        (&stage.rsa, "EdDSA", "rsa"),
        (&stage.p256, "ES384", "p256"),
    ] {
        stage
            .refuses(
                algorithm,
                &key.token(&json!({"alg": algorithm, "kid": id}), &stage.claims()),
            )
            .await;
    }
    assert_eq!(stage.issuer.asked(), 1);
}

#[tokio::test]
async fn s04_the_token_does_not_bring_its_key() {
    let stage = Stage::new().await;
    let evil = Signing::p256();
    let elsewhere = Issuer::start(&[("p256", &evil)]).await;
    let keys = format!("{}/keys", elsewhere.url());
    let own = evil.public("p256");
    for (name, value) in [
        ("jwk", own.clone()),
        ("jku", json!(keys)),
        ("x5u", json!(keys)),
        ("x5c", json!([STANDARD.encode(own.to_string())])),
        ("iss", json!(elsewhere.url())),
    ] {
        for id in [Some("p256"), Some("other"), None] {
            let mut header = json!({"alg": "ES256", name: value});
            if let Some(id) = id {
                header["kid"] = id.into();
            }
            stage.refuses(name, &evil.token(&header, &stage.claims())).await;
        }
    }
    for id in [
        "../../dev/null",
        "/dev/null",
        "p256\0",
        "P256",
        "' OR '1'='1",
        &keys,
        "",
        &"a".repeat(9000),
    ] {
        let forged = evil.token(&json!({"alg": "ES256", "kid": id}), &stage.claims());
        stage.refuses(id, &forged).await;
    }
    for critical in [json!(["b64"]), json!([]), json!(true)] {
        let header = json!({"alg": "ES256", "kid": "p256", "b64": false, "crit": critical});
        stage.refuses("crit", &stage.p256.token(&header, &stage.claims())).await;
    }
    assert_eq!(elsewhere.connections(), 0);
}

#[tokio::test]
async fn s04_no_other_signature_is_as_good() {
    let stage = Stage::new().await;
    let good = stage.good();
    let (text, signature) = good.rsplit_once('.').expect("three parts");
    // CVE-2022-21449: zeros are a signature of everything, where nobody looks.
    for length in [0, 1, 63, 64, 65, 96, 256] {
        for byte in [0_u8, 1, 0xff] {
            stage
                .refuses("constant", &format!("{text}.{}", encode(vec![byte; length])))
                .await;
        }
    }
    // Nor is a token that differs in one letter, wherever.
    for at in 0..good.len() {
        for other in ['A', '_', '.', '=', '\u{e9}'] {
            let mut forged: Vec<char> = good.chars().collect();
            if forged[at] == other {
                continue;
            }
            forged[at] = other;
            let forged: String = forged.into_iter().collect();
            assert!(bearer(&stage.access, &forged).await.is_err(), "{at} {other}");
        }
    }
    for (what, forged) in [
        ("cut", good[..good.len() - 1].to_owned()),
        ("longer", format!("{good}AA")),
        ("padded", format!("{good}==")),
        ("five parts", format!("{good}.{signature}.{signature}")),
        ("spaces", format!(" {good}")),
        ("a line", format!("{good}\n")),
        ("no parts", "....".to_owned()),
    ] {
        stage.refuses(what, &forged).await;
    }
}

#[tokio::test]
async fn s04_what_a_token_must_say_it_has_to_say() {
    let stage = Stage::new().await;
    let header = json!({"alg": "ES256", "kid": "p256"});
    let sign = |claims: &Value| stage.p256.token(&header, claims);
    for name in ["iss", "aud", "sub", "exp", "iat"] {
        let mut claims = stage.claims();
        claims.as_object_mut().expect("an object").remove(name);
        stage.refuses(name, &sign(&claims)).await;
        claims[name] = Value::Null;
        stage.refuses(name, &sign(&claims)).await;
    }
    let issuer = stage.issuer.url();
    for (name, value) in [
        ("exp", json!(now() - 61)),
        ("exp", json!(0)),
        ("exp", json!(-1)),
        ("exp", json!(u64::MAX)),
        ("exp", json!(i64::MAX)),
        ("exp", json!(1e308)),
        ("exp", json!("9999999999")),
        ("exp", json!(true)),
        ("exp", json!({})),
        ("iat", json!(now() + 3600)),
        ("iat", json!(u64::MAX)),
        ("nbf", json!(now() + 3600)),
        ("nbf", json!(u64::MAX)),
        ("nbf", json!("soon")),
        ("aud", json!("")),
        ("aud", json!("entrepot ")),
        ("aud", json!("other entrepot")),
        ("aud", json!([])),
        ("aud", json!([["entrepot"]])),
        ("aud", json!({"0": "entrepot"})),
        ("iss", json!(format!("{issuer}/"))),
        ("iss", json!([issuer])),
        ("iss", json!(issuer.to_uppercase())),
        ("iss", json!(format!("{issuer}\0"))),
        ("sub", json!("")),
        ("sub", json!("a\r\nb")),
        ("sub", json!(["a"])),
        ("sub", json!("a".repeat(4000))),
    ] {
        let mut claims = stage.claims();
        claims[name] = value.clone();
        stage.refuses(&format!("{name} {value}"), &sign(&claims)).await;
    }
    // Not even JSON: too deep, a number that is none, and something else than an object.
    let raw = |claims: &str| {
        let signed = sign(&stage.claims());
        let (header, _) = signed.split_once('.').expect("three parts");
        format!(
            "{header}.{}.{}",
            encode(claims),
            signed.rsplit_once('.').expect("three parts").1
        )
    };
    for text in [
        format!("{}1{}", "[".repeat(5000), "]".repeat(5000)),
        "{\"exp\": 1e999}".to_owned(),
        "[]".to_owned(),
        "null".to_owned(),
        String::new(),
    ] {
        stage.refuses("raw", &raw(&text)).await;
    }
    assert_eq!(stage.issuer.asked(), 1);
}
