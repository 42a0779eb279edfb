//! The audit: who did what, one line each; and S7, what clients send can write no line of its own.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::StatusCode;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::login::{As as _, push, shared};
use crate::support::{Registry, expect, until};

/// The audit's lines so far: valid JSON, each of them, and nothing in it that a terminal would obey.
pub(crate) fn lines(registry: &Registry) -> Vec<Value> {
    let text = std::fs::read_to_string(registry.directory.path().join("audit.log")).unwrap_or_default();
    read(&text)
}

fn read(text: &str) -> Vec<Value> {
    let is_harmless = |letter: char| letter == '\n' || !(letter.is_control() || hides(letter));
    assert!(text.chars().all(is_harmless), "{text:?}");
    text.lines()
        .map(|line| serde_json::from_str(line).expect(line))
        .collect()
}

/// What turns the direction of text, or is not seen.
fn hides(letter: char) -> bool {
    matches!(letter, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

pub(crate) async fn told(registry: &Registry, id: &str) -> Value {
    let find = || {
        lines(registry)
            .into_iter()
            .filter(|line| line["request_id"] == id)
            .collect::<Vec<_>>()
    };
    until("the line is written", async || !find().is_empty()).await;
    let mut found = find();
    assert_eq!(found.len(), 1, "one line for each decision: {found:?}");
    found.remove(0)
}

#[tokio::test]
async fn every_change_and_refusal_is_a_line() {
    let registry = shared("");
    push(&registry, "/v2/docker/team/app", "v1").await;
    let digest = crate::support::sha256(b"{}");
    let app = "/v2/docker/team/app";
    let ada = |request: reqwest::RequestBuilder| request.by("ada", "lovelace");
    let bob = |request: reqwest::RequestBuilder| request.by("bob", "builder");
    let pin = registry
        .post("/api/v1/tags/pin")
        .header("content-type", "application/json");
    let pinned = |image: &str| {
        pin.try_clone()
            .expect("a request")
            .body(format!("{{\"image\":\"{image}\"}}"))
    };
    let upload = format!("{app}/blobs/uploads/?digest={digest}");
    let mount = format!("/v2/docker/team/other/blobs/uploads/?mount={digest}&from=docker/team/app");
    let table = [
        (
            "push-blob",
            ada(registry.post(&upload).body("{}")),
            201,
            "user ada allowed",
        ),
        ("mount", ada(registry.post(&mount)), 201, "user ada allowed"),
        ("pull", registry.get("/v2/public/none/manifests/v1"), 404, ""),
        (
            "pull",
            ada(registry.get(&format!("{app}/manifests/v1"))),
            200,
            "user ada allowed",
        ),
        (
            "pull-blob",
            bob(registry.get(&format!("{app}/blobs/{digest}"))),
            200,
            "user bob allowed",
        ),
        (
            "pull",
            bob(registry.get("/v2/secret/app/manifests/v1")),
            403,
            "user bob denied",
        ),
        (
            "pull",
            registry.get("/v2/secret/app/manifests/v1"),
            401,
            "anonymous denied",
        ),
        (
            "push",
            bob(registry.put("/v2/public/app/manifests/v1").body("{}")),
            403,
            "user bob denied",
        ),
        (
            "push",
            ada(registry.put(&format!("{app}/manifests/v2")).body("{}")),
            400,
            "user ada failed",
        ),
        ("pin", ada(pinned("docker/team/app:v1")), 200, "user ada allowed"),
        ("pin", bob(pinned("docker/team/app:v1")), 403, "user bob denied"),
        (
            "delete",
            ada(registry.delete(&format!("{app}/manifests/v1"))),
            403,
            "user ada denied",
        ),
        (
            "delete",
            bob(registry.delete(&format!("{app}/manifests/v1"))),
            403,
            "user bob denied",
        ),
        (
            "login",
            registry.get("/token").by("ada", "byron"),
            401,
            "unproven ada denied",
        ),
        (
            "login",
            registry.get("/v2/").by("eve", "apple"),
            401,
            "unproven eve denied",
        ),
        ("", registry.get("/v2/"), 401, ""),
        ("", registry.get("/token"), 200, ""),
    ];
    let mut silent = Vec::new();
    for (number, (action, request, status, expected)) in table.into_iter().enumerate() {
        let id = format!("request-{number}");
        let response = request.header("x-request-id", &id).send().await.expect("an answer");
        expect(response, StatusCode::from_u16(status).expect("a status")).await;
        let Some((who, outcome)) = words(expected) else {
            silent.push(id);
            continue;
        };
        let line = told(&registry, &id).await;
        assert_eq!(line["action"], action, "{line}");
        assert_eq!(line["status"], status, "{line}");
        assert_eq!(line["outcome"], outcome, "{line}");
        assert_eq!(line["from"], "127.0.0.1", "{line}");
        let name = line["who"]["name"]
            .as_str()
            .map(|name| format!(" {name}"))
            .unwrap_or_default();
        assert_eq!(
            format!("{}{name}", line["who"]["kind"].as_str().expect("a kind")),
            who,
            "{line}"
        );
        assert_eq!(line["why"].is_null(), outcome == "allowed", "{line}");
        assert!(
            line["time"]
                .as_str()
                .is_some_and(|time| time.ends_with('Z') && time.len() == 20),
            "{line}"
        );
    }
    for line in lines(&registry) {
        assert!(
            !silent.iter().any(|id| line["request_id"] == *id),
            "nothing was decided: {line}"
        );
    }
    let all = serde_json::to_string(&lines(&registry)).expect("JSON");
    for secret in ["lovelace", "builder", "byron", "apple", "Basic"] {
        assert!(!all.contains(secret), "{secret} is in {all}");
    }
    let pushed = lines(&registry)
        .into_iter()
        .find(|line| line["action"] == "push")
        .expect("a push");
    assert_eq!(pushed["repository"], "local");
    assert_eq!(pushed["image"], "team/app");
    assert_eq!(pushed["reference"], "v1");

    registry.signal("-HUP");
    let reloaded = || lines(&registry).into_iter().find(|line| line["action"] == "reload");
    until("the reload is told", async || reloaded().is_some()).await;
    assert_eq!(reloaded().expect("a line")["who"]["kind"], "system");
}

/// `user ada allowed …` → `user ada` and `allowed`.
fn words(text: &str) -> Option<(String, &'static str)> {
    let outcomes = ["allowed", "denied", "failed"];
    let all: Vec<&str> = text.split(' ').collect();
    let at = all.iter().position(|word| outcomes.contains(word))?;
    let outcome = outcomes.into_iter().find(|outcome| *outcome == all[at])?;
    Some((all[..at].join(" "), outcome))
}

/// The audit is written to the end before the server is gone.
#[tokio::test]
async fn nothing_is_lost_when_the_server_stops() {
    let registry = shared("");
    push(&registry, "/v2/team/app", "v1").await;
    let directory = std::sync::Arc::clone(&registry.directory);
    assert!(registry.stop().success());
    let text = std::fs::read_to_string(directory.path().join("audit.log")).expect("an audit");
    assert_eq!(read(&text).last().expect("a line")["action"], "push");
}

/// What a client may put where, raw.
const HOSTILE: [&[u8]; 10] = [
    b"%0d%0a{\"outcome\":\"allowed\"}",
    b"%1b[2J%1b]0;title%07",
    b"%e2%80%ae%e2%81%a6txt.exe",
    "\u{202e}\u{2066}gnp.exe".as_bytes(),
    "\u{2028}\u{2029}\u{85}".as_bytes(),
    b"\xc2\x9b31m\x7f",
    b"%00%2500",
    b"\xff\xfe\xc0\xaf",
    b"\\u001b\\r\\n\"}{\"",
    "🙂\u{feff}\u{200b}ä".as_bytes(),
];

#[tokio::test]
async fn s07_what_clients_send_writes_no_line_and_moves_no_cursor() {
    let registry = shared("");
    let mut answered = 0;
    for text in HOSTILE {
        let basic = STANDARD.encode([text, b":", text].concat());
        let raw = STANDARD.encode([b"\r\n\x1b[2J", text, b"\x00:pw"].concat());
        let target = |before: &str, after: &str| [before.as_bytes(), text, after.as_bytes()].concat();
        let requests: [(&str, Vec<u8>, Vec<u8>); 12] = [
            ("GET", target("/v2/", "/manifests/v1"), Vec::new()),
            ("GET", target("/v2/a/manifests/", ""), Vec::new()),
            ("GET", target("/v2/a/blobs/sha256:", ""), Vec::new()),
            ("DELETE", target("/v2/secret/a/manifests/", ""), Vec::new()),
            ("GET", target("/v2/library/a/manifests/v1?ns=", ""), Vec::new()),
            ("GET", target("/api/v1/tags/history?image=", ""), Vec::new()),
            (
                "GET",
                target("/token?account=", "&scope=x"),
                [b"Authorization: Basic ", basic.as_bytes()].concat(),
            ),
            (
                "GET",
                b"/token".to_vec(),
                [b"Authorization: Basic ", raw.as_bytes()].concat(),
            ),
            ("GET", b"/v2/".to_vec(), [b"Authorization: Bearer ", text].concat()),
            (
                "GET",
                b"/v2/secret/a/manifests/v1".to_vec(),
                [b"X-Request-Id: ", text].concat(),
            ),
            (
                "GET",
                b"/v2/secret/a/manifests/v1".to_vec(),
                [b"User-Agent: ", text].concat(),
            ),
            (
                "GET",
                b"/v2/secret/a/manifests/v1".to_vec(),
                [b"X-Forwarded-For: ", text].concat(),
            ),
        ];
        for (method, target, header) in requests {
            answered += u32::from(ask(&registry, method, &target, &header).await);
        }
    }
    assert!(answered >= 80, "most of it is a request: {answered}");
    let answers = || {
        let log = registry.log();
        let whole = log.rfind('\n').map_or("", |end| &log[..=end]);
        read(whole)
            .into_iter()
            .filter(|line| line["message"] == "answered")
            .count()
    };
    let expected = answered as usize;
    until("the log has it all", async || answers() >= expected).await;
    assert_eq!(answers(), expected, "one line for each request");
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    for line in lines(&registry) {
        if let Some(id) = line["request_id"].as_str() {
            *seen.entry(id.to_owned()).or_default() += 1;
        }
    }
    assert!(seen.len() >= 40, "{seen:?}");
    assert!(seen.values().all(|times| *times == 1), "{seen:?}");
}

/// Whether a request was answered by a handler of ours, and not refused as no HTTP.
async fn ask(registry: &Registry, method: &str, target: &[u8], header: &[u8]) -> bool {
    let mut stream = TcpStream::connect(registry.address()).await.expect("a connection");
    let mut request = [
        method.as_bytes(),
        b" ",
        target,
        b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n",
    ]
    .concat();
    if !header.is_empty() {
        request.extend_from_slice(header);
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    stream.write_all(&request).await.expect("sent");
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8(answer).expect("text");
    assert!(!answer.starts_with("HTTP/1.1 5"), "{answer}");
    let head = answer.split("\r\n\r\n").next().unwrap_or_default();
    assert!(
        head.bytes().all(|byte| matches!(byte, b'\r' | b'\n' | b' '..=b'~')),
        "{head:?}"
    );
    head.to_ascii_lowercase().contains("\r\nx-request-id:")
}
