//! Users of the password file: who gets in, what that costs, and how soon it ends. S5, and the secrets of S6 that belong
//! to it.

use std::io::Write as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use reqwest::{Response, StatusCode};
use serde_json::Value;

use super::support::{PATIENCE, Registry, entrepot, expect, temporary, until};

/// Cheap hashes of `pass-ada` and `pass-bob`, as users of an old file have them.
const COST: u32 = 5;

pub(crate) fn hash(password: &str) -> String {
    bcrypt::hash(password, COST).expect("a hash")
}

/// A registry where `ada` may do everything and `bob` may pull.
pub(crate) fn start() -> Registry {
    let directory = temporary();
    let users = format!("ada:{}\nbob:{}\n", hash("pass-ada"), hash("pass-bob"));
    std::fs::write(directory.path().join("htpasswd"), users).expect("a password file");
    let configuration = "
server: { listen: '127.0.0.1:0' }
storage: { path: data }
auth:
  anonymous: none
  htpasswd: ./htpasswd
  tokens: true
  policies:
    - { who: [ada], may: [pull, push, delete, admin], on: ['**'] }
    - { who: [bob], may: [pull], on: ['images/**'] }
repositories: { images: { type: local } }
";
    Registry::start_in(&directory, configuration)
}

pub(crate) async fn version(registry: &Registry, user: &str, password: &str) -> Response {
    let request = registry.get("/v2/").basic_auth(user, Some(password));
    request.send().await.expect("an answer")
}

async fn token(registry: &Registry, user: &str, password: &str) -> String {
    let request = registry.get("/token?service=x").basic_auth(user, Some(password));
    let response = expect(request.send().await.expect("an answer"), StatusCode::OK).await;
    let document: Value = response.json().await.expect("JSON");
    document["token"].as_str().expect("a token").to_owned()
}

async fn with_token(registry: &Registry, token: &str) -> StatusCode {
    let request = registry.get("/v2/").bearer_auth(token);
    request.send().await.expect("an answer").status()
}

#[tokio::test]
async fn a_right_password_gets_in_and_nothing_else_does() {
    let registry = start();
    for (user, password, status) in [
        ("ada", "pass-ada", StatusCode::OK),
        ("bob", "pass-bob", StatusCode::OK),
        ("ada", "pass-bob", StatusCode::UNAUTHORIZED),
        ("ada", "", StatusCode::UNAUTHORIZED),
        ("", "pass-ada", StatusCode::UNAUTHORIZED),
        ("Ada", "pass-ada", StatusCode::UNAUTHORIZED),
        ("", "", StatusCode::UNAUTHORIZED),
    ] {
        assert_eq!(
            version(&registry, user, password).await.status(),
            status,
            "{user}:{password}"
        );
    }
    let token = token(&registry, "ada", "pass-ada").await;
    assert_eq!(with_token(&registry, &token).await, StatusCode::OK);
    // Signed by somebody else, for something else, or by nobody.
    let (head, signature) = token.rsplit_once('.').expect("a token");
    let (header, claims) = head.split_once('.').expect("a token");
    let none = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0";
    for forged in [
        format!("{head}."),
        format!("{head}.{}", signature.chars().rev().collect::<String>()),
        format!("{none}.{claims}."),
        format!("{none}.{claims}.{signature}"),
        format!("{header}.e30.{signature}"),
        format!("{header}..{signature}"),
        format!("{token}.{signature}"),
    ] {
        assert_eq!(
            with_token(&registry, &forged).await,
            StatusCode::UNAUTHORIZED,
            "{forged}"
        );
    }
}

#[tokio::test]
async fn s05_a_removed_user_and_a_changed_password_end_at_the_reload() {
    let registry = start();
    let tokens = [
        token(&registry, "ada", "pass-ada").await,
        token(&registry, "bob", "pass-bob").await,
    ];
    let file = registry.directory.path().join("htpasswd");
    // Ada has another password, and Bob is gone.
    std::fs::write(&file, format!("ada:{}\n", hash("other"))).expect("a password file");
    registry.signal("-HUP");
    let asked = Instant::now();
    until("the new password is taken", async || {
        version(&registry, "ada", "other").await.status() == StatusCode::OK
    })
    .await;
    let took = asked.elapsed();
    for (user, password) in [("ada", "pass-ada"), ("bob", "pass-bob")] {
        assert_eq!(
            version(&registry, user, password).await.status(),
            StatusCode::UNAUTHORIZED
        );
    }
    for token in &tokens {
        assert_eq!(with_token(&registry, token).await, StatusCode::UNAUTHORIZED);
    }
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[tokio::test]
async fn tokens_outlive_a_restart() {
    let registry = start();
    let token = token(&registry, "ada", "pass-ada").await;
    let registry = registry.restart();
    assert_eq!(with_token(&registry, &token).await, StatusCode::OK);
}

/// Welch's t over two series of times.
#[expect(clippy::cast_precision_loss, reason = "a few hundred")]
fn welch(one: &[f64], other: &[f64]) -> f64 {
    let mean = |series: &[f64]| series.iter().sum::<f64>() / series.len() as f64;
    let variance =
        |series: &[f64], mean: f64| series.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (series.len() - 1) as f64;
    let (a, b) = (mean(one), mean(other));
    let spread = variance(one, a) / one.len() as f64 + variance(other, b) / other.len() as f64;
    (a - b) / spread.sqrt()
}

/// How many series are measured at most.
const SERIES: u32 = 3;

/// A tenth of a series, the slowest, is the machine's doing.
fn trimmed(mut series: Vec<f64>) -> Vec<f64> {
    series.sort_by(f64::total_cmp);
    series.truncate(series.len() * 9 / 10);
    series
}

#[tokio::test]
async fn s05_a_stranger_takes_as_long_as_a_user() {
    use entrepot::access::{Access, Presented, Robots, SigningKey};
    use entrepot::config::{Anonymous, AuthConfig, Secret};

    let config = AuthConfig {
        htpasswd: [("ada".to_owned(), Secret::new(hash("pass-ada")))].into(),
        ..AuthConfig::open(Anonymous::None)
    };
    let key = SigningKey::generate().expect("randomness");
    let access = Access::new(&config, &key, &std::sync::Arc::new(Robots::default()), None).expect("access");
    // A difference is there in every series; what others do on this machine is not.
    let mut told = Vec::new();
    for series in 0..SERIES {
        let mut times = [Vec::new(), Vec::new()];
        for round in 0_u32..600 {
            let known = (round % 2) as usize;
            // Never the same twice, and never from the same address: nothing is remembered, and nobody is made to wait.
            let number = series * 1000 + round;
            let (password, client) = (
                format!("guess-{number}"),
                std::net::Ipv4Addr::from(0x0a00_0000 + number),
            );
            let user = if known == 1 { "ada" } else { "eve" };
            let began = Instant::now();
            let shown = Presented::Password {
                user,
                password: &password,
            };
            access.identify(shown, client.into()).await.expect_err("wrong");
            times[known].push(began.elapsed().as_secs_f64());
        }
        let [strangers, users] = times.map(trimmed);
        let t = welch(&strangers, &users).abs();
        if t < 4.5 {
            return;
        }
        told.push(t);
    }
    panic!("|t| = {told:?}");
}

#[tokio::test]
async fn s05_one_hash_serves_all_who_show_the_same_password() {
    use entrepot::access::{Access, Presented, Robots, SigningKey};
    use entrepot::config::{Anonymous, AuthConfig, Secret};

    // At this cost one hash takes longer than all the rest of the test: more than one would show.
    let slow = bcrypt::hash("pass-ada", 11).expect("a hash");
    let began = Instant::now();
    assert!(bcrypt::verify("pass-ada", &slow).expect("a hash"));
    let one = began.elapsed();
    let config = AuthConfig {
        htpasswd: [("ada".to_owned(), Secret::new(slow))].into(),
        ..AuthConfig::open(Anonymous::None)
    };
    let key = SigningKey::generate().expect("randomness");
    let robots = std::sync::Arc::new(Robots::default());
    let access = std::sync::Arc::new(Access::new(&config, &key, &robots, None).expect("access"));
    let client = [127, 0, 0, 1].into();
    let shown = Presented::Password {
        user: "ada",
        password: "pass-ada",
    };
    let began = Instant::now();
    let crowd = futures_util::future::join_all((0..200).map(|_| access.identify(shown, client))).await;
    assert!(crowd.iter().all(Result::is_ok));
    for _ in 0..5000 {
        access.identify(shown, client).await.expect("ada");
    }
    // A configuration read again knows them still: their line is the same.
    let again = Access::new(&config, &key, &robots, Some(&access)).expect("access");
    again.identify(shown, client).await.expect("ada");
    let took = began.elapsed();
    assert!(took < one * 10, "{took:?} for 5,201 logins, {one:?} for one hash");
}

#[tokio::test]
async fn s05_a_flood_of_guesses_hurts_nobody_who_is_known() {
    let registry = std::sync::Arc::new(start());
    assert_eq!(version(&registry, "ada", "pass-ada").await.status(), StatusCode::OK);
    let measure = async || {
        let mut times = Vec::new();
        for _ in 0..400 {
            let began = Instant::now();
            let response = version(&registry, "ada", "pass-ada").await;
            assert_eq!(response.status(), StatusCode::OK);
            times.push(began.elapsed());
        }
        times.sort();
        times[times.len() * 99 / 100]
    };
    let quiet = measure().await;
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let flood = tokio::spawn({
        let (registry, stop) = (std::sync::Arc::clone(&registry), std::sync::Arc::clone(&stop));
        async move {
            let (mut refused, mut waiting) = (0, 0);
            for number in 0..20_000_u32 {
                if stop.load(std::sync::atomic::Ordering::Relaxed) {
                    break;
                }
                let response = version(&registry, &format!("user-{}", number % 7), &format!("guess-{number}")).await;
                match response.status() {
                    StatusCode::UNAUTHORIZED => refused += 1,
                    StatusCode::TOO_MANY_REQUESTS => {
                        assert!(response.headers().contains_key("retry-after"));
                        waiting += 1;
                    }
                    other => panic!("{other}"),
                }
            }
            (refused, waiting)
        }
    });
    let flooded = measure().await;
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let (refused, waiting) = flood.await.expect("the flood");
    assert!(waiting > refused, "{refused} were hashed and {waiting} made to wait");
    // The flood itself takes a share of the machine and of this client; what is measured must not wait for hashes.
    let room = (quiet * 2).max(quiet + Duration::from_millis(50));
    assert!(flooded < room, "{flooded:?} under a flood, {quiet:?} without");
}

#[tokio::test]
async fn a_line_for_the_password_file_is_one_that_is_taken() {
    let run = |user: &str, input: &str| {
        let mut child = entrepot(&["passwd", user])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let mut stdin = child.stdin.take().expect("piped");
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        child.wait_with_output().expect("it ends")
    };
    let made = run("eve", "pass-eve\n");
    assert!(made.status.success());
    let line = String::from_utf8(made.stdout).expect("text");
    let registry = start();
    std::fs::write(registry.directory.path().join("htpasswd"), &line).expect("a password file");
    registry.signal("-HUP");
    until("eve is a user", async || {
        version(&registry, "eve", "pass-eve").await.status() == StatusCode::OK
    })
    .await;
    for (user, input) in [("eve", ""), ("e:ve", "x\n"), ("", "x\n"), ("eve", &"x".repeat(73))] {
        let refused = run(user, input);
        assert_eq!(refused.status.code(), Some(2), "{user} {input}");
        assert!(refused.stdout.is_empty() && !refused.stderr.is_empty());
    }
}

#[tokio::test]
async fn s06_no_password_token_or_hash_is_ever_told() {
    let mut registry = start();
    let minted = token(&registry, "ada", "pass-ada").await;
    let mut answers = String::new();
    for (user, password) in [("ada", "canary-wrong-1"), ("canary-user-as-password", "canary-wrong-2")] {
        answers.push_str(&version(&registry, user, password).await.text().await.expect("text"));
    }
    for bearer in ["canary-bearer", minted.as_str(), "entrepot_0123456789abcdef_canary"] {
        let response = registry.get("/v2/nothing/here/manifests/x").bearer_auth(bearer);
        answers.push_str(&response.send().await.expect("an answer").text().await.expect("text"));
    }
    // A line that is wrong is refused with its number, not with what is in it.
    std::fs::write(registry.directory.path().join("htpasswd"), "ada:canary-in-clear\n").expect("a password file");
    registry.signal("-HUP");
    until("the reload is refused", async || {
        registry.log().contains("the old one runs on")
    })
    .await;
    let metrics = registry.get("/metrics").basic_auth("ada", Some("pass-ada"));
    answers.push_str(&metrics.send().await.expect("an answer").text().await.expect("text"));
    let data = registry.data();
    registry.signal("-TERM");
    let ended = tokio::time::timeout(PATIENCE, async { registry.wait() })
        .await
        .expect("it stops");
    assert!(ended.success());
    let told = format!("{answers}\n{}", registry.log());
    let key = std::fs::read(data.join("private/signing-key")).expect("a key");
    assert_eq!(key.len(), 32);
    for canary in [
        "canary-wrong",
        "canary-bearer",
        "canary-in-clear",
        "_canary",
        "$2b$",
        &minted,
        "pass-ada",
    ] {
        assert!(!told.contains(canary), "{canary} was told");
    }
    for (path, mode) in [("private", 0o700), ("private/signing-key", 0o600)] {
        use std::os::unix::fs::PermissionsExt as _;
        let found = std::fs::metadata(data.join(path)).expect(path).permissions().mode() & 0o777;
        assert_eq!(found, mode, "{path}");
    }
}
