//! S3: no spelling of a path leads out of the store, or past the gate.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;

use crate::house::{House, User};
use crate::support::{PATIENCE, sha256, tree};

const CANARY: &str = "what lies beside the store";

/// Ways up, hidden separators, ends of strings, what only looks like a letter.
const HOSTILE: &[&str] = &[
    "..",
    "../..",
    "../../..",
    "../../../canary",
    "./..",
    ".",
    "...",
    "..;",
    "..;/..",
    "....//",
    "..%2f",
    "%2e%2e",
    "%2e.",
    ".%2e",
    "%2E%2E",
    "%2e%2e%2f",
    "%2e%2e/%2e%2e",
    "..%2f..%2fcanary",
    "%2f",
    "%2F",
    "%2f%2f..%2fcanary",
    "//",
    "///",
    "/../canary",
    "..%5c..%5ccanary",
    "%5c",
    "%5C",
    "\\..\\",
    "..\\",
    "%252e%252e",
    "%252e%252e%252f",
    "%25252e",
    "%252f",
    "%c0%ae%c0%ae",
    "%c0%af",
    "%e0%80%ae",
    "%e0%80%af",
    "%c1%9c",
    "%f0%80%80%ae",
    "%uff0e%uff0e",
    "%ef%bc%8e%ef%bc%8e",
    "%ef%bc%8f",
    "\u{ff0e}\u{ff0e}",
    "%e2%80%ae",
    "%e2%88%95",
    "%00",
    "..%00",
    "app%00",
    "%00..",
    "app%00.json",
    "%0a",
    "%0d%0a",
    "%7f",
    "%ff",
    "%",
    "%2",
    "%zz",
    "%2e%2e%00",
    "~",
    "~root",
    "$HOME",
    "`id`",
    ";id",
    "|id",
    "a b",
    "a%20b",
    "+",
    "*",
    "?",
    "%3f",
    "%23",
    "%3f..",
    "con",
    "nul",
    "_manifests",
    "_layers",
    "_uploads",
    "app/_manifests",
    "-app",
    "app-",
    "App",
    "APP",
    "app..",
    "..app",
    "app/..",
    "app/../app",
    "app/.",
    "app/./app",
    "app//app",
    "app/%2e%2e/app",
    "app%2fapp",
    "file:",
    "file:%2f%2f%2fetc%2fpasswd",
    "http:%2f%2fx",
    "/etc/passwd",
    "%2fetc%2fpasswd",
    "etc/../../canary",
    "v2",
    "v2/..",
    "library/..",
    "images/../images",
    "%69mages/..",
    "images%2fapp",
    "images%2Fapp",
    "images%5capp",
    "images;app",
    "images%3bapp",
    "images..",
    "images/%61pp/..",
    "private",
    "privat%65",
    "%70rivate",
    "privat%65%2fapp",
    "private%2fapp",
    "open/../private",
    "open%2f..%2fprivate",
    "open/%2e%2e/private",
];

/// A request as it is, on a connection of its own: a client library would tidy it up.
fn raw(house: &House, verb: &str, path: &str) -> Option<(u16, String)> {
    let credentials = base64::engine::general_purpose::STANDARD.encode("bob:correct horse");
    let request = format!(
        "{verb} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {credentials}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    );
    let mut stream = TcpStream::connect(house.registry.address()).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1)?.parse().ok()?;
    Some((status, answer))
}

/// Every hostile text in every place of a path.
fn corpus() -> Vec<(&'static str, String)> {
    let digest = sha256(b"content");
    let mut all = Vec::new();
    for text in HOSTILE {
        for (verb, path) in [
            ("GET", format!("/v2/{text}/manifests/v1")),
            ("GET", format!("/v2/images/{text}/manifests/v1")),
            ("GET", format!("/v2/images/open/app/manifests/{text}")),
            ("GET", format!("/v2/images/open/app/blobs/{text}")),
            ("GET", format!("/v2/images/open/app/blobs/sha256:{text}")),
            ("GET", format!("/v2/images/open/app/referrers/{text}")),
            ("GET", format!("/v2/images/open/app/blobs/uploads/{text}")),
            ("DELETE", format!("/v2/images/open/app/blobs/uploads/{text}")),
            ("GET", format!("/{text}/v2/open/app/blobs/{digest}")),
            ("GET", format!("/v2/{text}/blobs/{digest}")),
            ("GET", format!("/{text}")),
            ("GET", format!("/api/v1/{text}")),
            ("GET", format!("/api/v1/tags/history?image={text}:v1")),
            ("GET", format!("/v2/images/open/app/tags/list?last={text}")),
            ("GET", format!("/v2/_catalog?last={text}&ns={text}")),
            (
                "POST",
                format!("/v2/images/open/app/blobs/uploads/?mount={digest}&from={text}"),
            ),
            ("PUT", format!("/v2/images/{text}/manifests/{text}")),
        ] {
            all.push((verb, path));
        }
    }
    all
}

/// Follows which files a process opens. None where the machine does not let us.
fn follow(process: u32, into: &std::path::Path) -> Option<Child> {
    let mut strace = Command::new("strace")
        .args(["-f", "-qq", "-e", "trace=%file", "-s", "4096", "-o"])
        .arg(into)
        .args(["-p", &process.to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let until = Instant::now() + Duration::from_secs(5);
    while Instant::now() < until {
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
        if status
            .lines()
            .any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"))
        {
            return Some(strace);
        }
        if strace.try_wait().ok()?.is_some() {
            return None;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = strace.kill();
    None
}

#[tokio::test]
async fn s03_no_spelling_of_a_path_leads_out() {
    let house = House::new(
        &["ada", "bob"],
        "",
        r#"
auth:
  htpasswd: ./htpasswd
  policies:
    - { who: [ada], may: [pull, push], on: "**" }
    - { who: [bob], may: [pull, push], on: "images/open/**" }
repositories:
  images: { type: local }
  private: { type: local }
"#,
    );
    let directory = house.registry.directory.path().to_owned();
    std::fs::write(directory.join("canary"), CANARY).expect("a file");
    house.push(User("ada"), "/v2/images/open/app", "v1", b"open").await;
    house
        .push(User("ada"), "/v2/private/app", "v1", b"the private content")
        .await;
    let before = tree(&directory);
    let trace = tempfile::NamedTempFile::new().expect("a file");
    let mut strace = follow(house.registry.process(), trace.path());
    let corpus = corpus();
    let (mut wrong, mut statuses) = (Vec::new(), BTreeSet::new());
    for (verb, path) in &corpus {
        let Some((status, answer)) = raw(&house, verb, path) else {
            wrong.push(format!("{verb} {path}: no answer"));
            continue;
        };
        statuses.insert(status);
        let leaks = answer.contains(CANARY) || answer.contains("the private content") || answer.contains("root:");
        if status >= 500 || leaks {
            wrong.push(format!("{verb} {path}: {status}"));
        }
    }
    let followed = strace.is_some();
    if let Some(strace) = &mut strace {
        let _ = Command::new("kill").arg(strace.id().to_string()).status();
        let _ = strace.wait();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(corpus.len() >= 300, "{}", corpus.len());
    let uploads = |path: &String| path.contains("uploads/") || path.contains("index");
    let new: Vec<String> = tree(&directory)
        .into_iter()
        .filter(|path| !before.contains(path) && !uploads(path))
        .collect();
    assert!(new.is_empty(), "{new:?}");
    let touched = std::fs::read_to_string(trace.path()).expect("a trace");
    let outside = outside(&touched, &directory);
    assert!(outside.is_empty(), "{}", outside.join("\n"));
    eprintln!("{} requests, {statuses:?}, files followed: {followed}", corpus.len());
}

/// The lines of a trace that name a file out of the store. The configuration is looked at again and again, whoever asks.
fn outside(trace: &str, directory: &std::path::Path) -> Vec<String> {
    let store = directory.join("data");
    let own = ["repositories.yml", "htpasswd"].map(|name| directory.join(name));
    let mut lines = Vec::new();
    for line in trace.lines() {
        let mut quoted = line.split('"').skip(1).step_by(2);
        let is_ours = |path: &str| {
            let inside = path.starts_with(&*store.to_string_lossy()) && !path.split('/').any(|part| part == "..");
            inside || own.iter().any(|own| *own == std::path::Path::new(path)) || path.starts_with("/proc/self/")
        };
        if quoted.any(|path| path.starts_with('/') && !is_ours(path) || path.split('/').any(|part| part == "..")) {
            lines.push(line.to_owned());
        }
    }
    lines
}
