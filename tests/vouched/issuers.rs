//! S4: an issuer's keys, and how often it is asked for them.

use std::time::Duration;

use entrepot::access::{Kind, Unidentified};
use entrepot::config::{AuthConfig, IssuerKeys, OidcConfig};
use futures_util::future::join_all;
use serde_json::{Value, json};

use super::support::issuer::{Issuer, Signing};
use super::{access, bearer, closed, later, now, password};

const MINUTE: Duration = Duration::from_secs(60);

fn with(rules: Vec<OidcConfig>) -> AuthConfig {
    AuthConfig {
        oidc: rules,
        ..closed()
    }
}

fn token(issuer: &Issuer, key: &Signing, id: &str) -> String {
    key.token(&json!({"alg": "EdDSA", "kid": id, "typ": "JWT"}), &issuer.claims(now()))
}

#[tokio::test]
async fn s04_every_kind_of_key_vouches_for_a_workload() {
    let keys = [Signing::ed25519(), Signing::p256(), Signing::p384(), Signing::rsa()];
    let named: Vec<(&str, &Signing)> = ["ed", "p256", "p384", "rsa"].into_iter().zip(&keys).collect();
    let issuer = Issuer::start(&named).await;
    let access = access(&with(vec![issuer.rule()]), None);
    for (id, key, algorithms) in [
        ("ed", &keys[0], &["EdDSA"][..]),
        ("p256", &keys[1], &["ES256"]),
        ("p384", &keys[2], &["ES384"]),
        ("rsa", &keys[3], &["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"]),
    ] {
        for algorithm in algorithms {
            for header in [json!({"alg": algorithm, "kid": id}), json!({"alg": algorithm})] {
                let token = key.token(&header, &issuer.claims(now()));
                let workload = bearer(&access, &token).await.expect(algorithm);
                assert_eq!(
                    (workload.kind, workload.name.as_str()),
                    (Kind::Workload, "repo:acme/app")
                );
                assert!(workload.groups.contains("ci"));
                // By the password too, whatever name comes with it.
                assert_eq!(password(&access, "any", &token).await.expect(algorithm), workload);
            }
        }
    }
    assert_eq!(issuer.asked(), 1);
}

#[tokio::test]
async fn s04_what_a_rule_wants_decides_and_all_that_fit_count() {
    let key = Signing::ed25519();
    let issuer = Issuer::start(&[("a", &key)]).await;
    let wants = |name: &str, value: &str, group: &str| OidcConfig {
        claims: [(name.to_owned(), vec![value.to_owned()])].into(),
        groups: vec![group.to_owned()],
        ..issuer.rule()
    };
    let rules = vec![wants("owner", "acme", "ci"), wants("ref", "refs/tags/*", "release")];
    let access = access(&with(rules), None);
    for (owner, reference, groups) in [
        ("acme", "refs/heads/main", Some(&["ci"][..])),
        ("acme", "refs/tags/v1", Some(&["ci", "release"])),
        ("umbrella", "refs/tags/v1", Some(&["release"])),
        ("umbrella", "refs/heads/main", None),
    ] {
        let mut claims = issuer.claims(now());
        claims["owner"] = owner.into();
        claims["ref"] = reference.into();
        let said = bearer(&access, &key.token(&json!({"alg": "EdDSA", "kid": "a"}), &claims)).await;
        let found = said
            .ok()
            .map(|workload| workload.groups.iter().cloned().collect::<Vec<_>>());
        let groups = groups.map(|groups| groups.iter().map(ToString::to_string).collect());
        assert_eq!(found, groups, "{owner} {reference}");
    }
    assert_eq!(issuer.asked(), 1);
}

#[tokio::test]
async fn s04_a_flood_of_unknown_keys_asks_the_issuer_once_a_minute() {
    let (key, other) = (Signing::ed25519(), Signing::ed25519());
    let issuer = Issuer::start(&[("a", &key)]).await;
    let access = access(&with(vec![issuer.rule()]), None);
    let flood = async || {
        let tokens: Vec<String> = (0..1000)
            .map(|number| token(&issuer, &other, &format!("k{number}")))
            .collect();
        let said = join_all(tokens.iter().map(|token| bearer(&access, token))).await;
        assert!(said.iter().all(|said| *said == Err(Unidentified::Unknown)));
        assert!(bearer(&access, &token(&issuer, &key, "a")).await.is_ok());
    };
    for minute in 1..=3 {
        flood().await;
        flood().await;
        assert_eq!(issuer.asked(), minute);
        later(MINUTE).await;
    }
}

#[tokio::test]
async fn s04_keys_are_exchanged_and_the_old_ones_forgotten() {
    let (old, new) = (Signing::ed25519(), Signing::p256());
    let issuer = Issuer::start(&[("old", &old)]).await;
    let config = with(vec![issuer.rule()]);
    let access = access(&config, None);
    let by_old = token(&issuer, &old, "old");
    let by_new = new.token(&json!({"alg": "ES256", "kid": "new"}), &issuer.claims(now()));
    assert!(bearer(&access, &by_old).await.is_ok());
    issuer.exchange(&[("old", &old), ("new", &new)]);
    later(MINUTE).await;
    assert!(bearer(&access, &by_new).await.is_ok(), "as soon as it is shown");
    issuer.exchange(&[("new", &new)]);
    // A reload does not ask again.
    let access = super::access(&config, Some(&access));
    assert!(bearer(&access, &by_old).await.is_ok());
    assert_eq!(issuer.asked(), 2);
    later(60 * MINUTE).await;
    assert_eq!(bearer(&access, &by_old).await, Err(Unidentified::Unknown));
    assert!(bearer(&access, &by_new).await.is_ok());
    assert_eq!(issuer.asked(), 3);
}

#[tokio::test]
async fn s04_while_the_issuer_is_away_its_keys_are_used_and_nobody_is_taken_for_unknown() {
    let (key, other) = (Signing::ed25519(), Signing::ed25519());
    let issuer = Issuer::start(&[("a", &key)]).await;
    let access = access(&with(vec![issuer.rule()]), None);
    let good = token(&issuer, &key, "a");
    issuer.be_away(true);
    let said = bearer(&access, &good).await;
    assert!(matches!(said, Err(Unidentified::Unavailable(_))), "{said:?}");
    // It is not asked at once again, nor is the answer another.
    let connections = issuer.connections();
    assert_eq!(bearer(&access, &good).await, said);
    assert_eq!(issuer.connections(), connections);
    issuer.be_away(false);
    later(MINUTE).await;
    assert!(bearer(&access, &good).await.is_ok());
    issuer.be_away(true);
    later(24 * 60 * MINUTE).await;
    assert!(bearer(&access, &good).await.is_ok());
    let said = bearer(&access, &token(&issuer, &other, "b")).await;
    assert!(matches!(said, Err(Unidentified::Unavailable(_))), "{said:?}");
    assert_eq!(
        bearer(&access, &token(&issuer, &other, "a")).await,
        Err(Unidentified::Unknown)
    );
}

#[tokio::test]
async fn s04_keys_come_from_the_issuer_and_nowhere_else() {
    let (key, evil) = (Signing::ed25519(), Signing::ed25519());
    let elsewhere = Issuer::start(&[("a", &evil)]).await;
    let discovery = |issuer: &str, keys: &str| json!({"issuer": issuer, "jwks_uri": keys}).to_string();
    let away = format!("{}/keys", elsewhere.url());
    let moved = format!("HTTP/1.1 302 Found\r\nlocation: {away}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    let long = format!("{{\"keys\": [\"{}\"]}}", "a".repeat(2 << 20));
    let page = "/.well-known/openid-configuration";
    for (case, path, text) in [
        ("another host", page, discovery("SELF", &away)),
        ("in the clear", page, discovery("SELF", "http://localhost:1/keys")),
        ("another issuer", page, discovery("https://other.test", "SELF/keys")),
        ("no document", page, "<html>".to_owned()),
        ("moved", page, moved.clone()),
        ("keys moved", "/keys", moved),
        ("too long", "/keys", long),
        ("no keys", "/keys", "{}".to_owned()),
        (
            "a secret",
            "/keys",
            json!({"keys": [{"kty": "oct", "k": "YQ", "kid": "a"}]}).to_string(),
        ),
    ] {
        let issuer = Issuer::start(&[("a", &key)]).await;
        issuer.page(path, &text.replace("SELF", &issuer.url()));
        let mut rule = issuer.rule();
        rule.ca = Some([issuer.authority.pem(), elsewhere.authority.pem()].concat().into());
        let access = access(&with(vec![rule]), None);
        let said = bearer(&access, &token(&issuer, &evil, "a")).await;
        assert!(matches!(said, Err(Unidentified::Unavailable(_))), "{case}: {said:?}");
    }
    assert_eq!(elsewhere.connections(), 0);
    // Nor from somebody who only says to be it.
    let issuer = Issuer::start(&[("a", &key)]).await;
    let rule = OidcConfig {
        ca: None,
        ..issuer.rule()
    };
    let access = access(&with(vec![rule]), None);
    let said = bearer(&access, &token(&issuer, &key, "a")).await;
    assert!(matches!(said, Err(Unidentified::Unavailable(_))), "{said:?}");
}

#[tokio::test]
async fn s04_keys_that_are_given_are_not_asked_for() {
    let key = Signing::ed25519();
    let issuer = Issuer::start(&[("a", &key)]).await;
    let document: Value = json!({"keys": [key.public("a")]});
    let rule = OidcConfig {
        issuer: "https://kubernetes.default.svc".to_owned(),
        keys: Some(IssuerKeys::Document(document.to_string().into_bytes().into())),
        ..issuer.rule()
    };
    let access = access(&with(vec![rule]), None);
    let mut claims = issuer.claims(now());
    claims["iss"] = "https://kubernetes.default.svc".into();
    claims["aud"] = json!(["entrepot"]);
    claims["sub"] = "system:serviceaccount:team:builder".into();
    let pod = bearer(&access, &key.token(&json!({"alg": "EdDSA", "kid": "a"}), &claims)).await;
    assert_eq!(pod.expect("given").name, "system:serviceaccount:team:builder");
    let unknown = key.token(&json!({"alg": "EdDSA", "kid": "b"}), &claims);
    assert_eq!(bearer(&access, &unknown).await, Err(Unidentified::Unknown));
    assert_eq!(issuer.connections(), 0);
}

#[tokio::test]
async fn s04_our_token_ends_with_the_issuers() {
    let key = Signing::ed25519();
    let issuer = Issuer::start(&[("a", &key)]).await;
    let access = access(&with(vec![issuer.rule()]), None);
    for (seconds, at_most) in [(3600, 300), (100, 100)] {
        let mut claims = issuer.claims(now());
        claims["exp"] = (now() + seconds).into();
        let token = key.token(&json!({"alg": "EdDSA", "kid": "a"}), &claims);
        let workload = bearer(&access, &token).await.expect("good");
        let who = entrepot::access::Identity::Known(workload);
        let minted = access.mint(&who);
        assert!(minted.expires_in.as_secs() <= at_most && minted.expires_in.as_secs() + 20 >= at_most);
        assert!(access.mint_refresh(&who).is_none());
        let again = bearer(&access, &minted.token).await.expect("ours");
        assert_eq!((again.kind, again.name.as_str()), (Kind::Workload, "repo:acme/app"));
        assert!(again.groups.contains("ci"));
    }
}
