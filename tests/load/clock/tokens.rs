//! What a token says of its times is about the clock that everybody reads: it is followed wherever it goes, forwards and
//! backwards, with a leeway of a minute at most.

use std::time::SystemTime;

use reqwest::{RequestBuilder, StatusCode};
use serde_json::{Value, json};

use super::Faked;
use crate::binary::{expect, temporary};
use crate::support::issuer::Signing;

const CONFIGURATION: &str = "
server: { listen: '127.0.0.1:0' }
storage: { path: data }
auth:
  anonymous: none
  htpasswd: ./htpasswd
  tokens: true
  oidc: { issuer: 'https://issuer.test', audience: entrepot, groups: ci, keys: ./keys.json }
  policies: [{ who: [ada, '@ci'], may: [pull, push, delete, admin], on: '**' }]
repositories: { docker: { type: local } }
";

async fn json_of(request: RequestBuilder, status: StatusCode) -> Value {
    let response = expect(request.send().await.expect("an answer"), status).await;
    response.json().await.expect("JSON")
}

#[tokio::test]
async fn a09_tokens_follow_the_clock_within_a_minute() {
    let directory = temporary();
    let hash = bcrypt::hash("pass-ada", 5).expect("a hash");
    std::fs::write(directory.path().join("htpasswd"), format!("ada:{hash}\n")).expect("written");
    let key = Signing::ed25519();
    let keys = json!({ "keys": [key.public("one")] }).to_string();
    std::fs::write(directory.path().join("keys.json"), keys).expect("written");
    let faked = Faked::start(&directory, "+0", CONFIGURATION);
    let as_ada = |request: RequestBuilder| request.basic_auth("ada", Some("pass-ada"));
    // Ours lasts five minutes, the issuer's as long, the robot's half an hour.
    let ours = json_of(as_ada(faked.registry.get("/token?service=x")), StatusCode::OK).await;
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .expect("after 1970");
    let now = now.as_secs();
    let claims = json!({"iss": "https://issuer.test", "aud": "entrepot", "sub": "app", "iat": now, "exp": now + 300});
    let theirs = key.token(&json!({"alg": "EdDSA", "kid": "one"}), &claims);
    let wanted = json!({"name": "robot", "scope": [{"may": ["pull"], "on": "**"}], "expires_in": 1800});
    let made = as_ada(faked.registry.post("/api/v1/tokens")).json(&wanted);
    let robot = json_of(made, StatusCode::CREATED).await;
    let tokens = [
        ("ours", ours["token"].as_str().expect("a token").to_owned()),
        ("theirs", theirs),
        ("robot", robot["token"].as_str().expect("a token").to_owned()),
    ];
    for (time, taken) in [
        ("+0", &["ours", "theirs", "robot"][..]),
        ("+240", &["ours", "theirs", "robot"]),
        ("-30", &["ours", "theirs", "robot"]),
        // A minute and more after its end, and before its beginning: the minute that the test itself may take is no part of it.
        ("+361", &["robot"]),
        ("-121", &["robot"]),
        ("+1h", &[]),
        ("-1h", &["robot"]),
        ("@1970-01-02 00:00:00", &["robot"]),
        ("@2106-01-01 00:00:00", &[]),
        ("+0", &["ours", "theirs", "robot"]),
    ] {
        faked.set(time);
        for (whose, token) in &tokens {
            let response = faked.registry.get("/v2/").bearer_auth(token).send().await;
            let is_taken = response.expect("an answer").status() == StatusCode::OK;
            assert_eq!(is_taken, taken.contains(whose), "{time}: {whose}");
        }
        // Whoever has a password gets a new one, and that is good at once.
        let again = json_of(as_ada(faked.registry.get("/token?service=x")), StatusCode::OK).await;
        let token = again["token"].as_str().expect("a token");
        let response = faked.registry.get("/v2/").bearer_auth(token).send().await;
        expect(response.expect("an answer"), StatusCode::OK).await;
    }
    faked.stop();
}
