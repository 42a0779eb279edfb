//! S9: requests that two readers could read differently. Each is followed by a second one on the same connection: what
//! must be refused is refused, and nothing behind it is answered.

use std::fmt::Write as _;
use std::process::{Child, Command, Stdio};

use futures_util::future::join_all;
use tempfile::TempDir;

use crate::binary::{Registry, until};
use crate::raw::{exchange, statuses};

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// 4xx or 5xx, or nothing, and the connection is closed.
    Refused,
    /// Answered or not, but nothing behind it is.
    Closed,
    /// Read as everybody reads it: it is answered, and so is the one behind it.
    Read,
}
use Fate::{Closed, Read, Refused};

const BEHIND: &str = "GET /livez HTTP/1.1\r\nhost: a\r\nx-request-id: behind\r\n\r\n";
const INSIDE: &str = "GET /v2/docker/smuggled/tags/list HTTP/1.1\r\nhost: a\r\n\r\n";
const POST: &str = "POST /v2/docker/a/blobs/uploads/ HTTP/1.1\r\nhost: a\r\n";

fn requests() -> Vec<(String, String, Fate)> {
    let mut all: Vec<(String, String, Fate)> = Vec::new();
    let mut add = |name: &str, text: String, fate: Fate| all.push((name.to_owned(), text, fate));
    // Lengths that are none, or several.
    for (value, fate) in [
        ("5, 5", Refused),
        ("5,6", Refused),
        ("+5", Refused),
        ("-5", Refused),
        ("0x5", Refused),
        ("5 5", Refused),
        ("5;", Refused),
        ("5.0", Refused),
        ("1e1", Refused),
        ("", Refused),
        (" ", Refused),
        ("five", Refused),
        ("\u{0665}", Refused),
        ("18446744073709551616", Refused),
        ("99999999999999999999999999", Refused),
        ("\"5\"", Refused),
    ] {
        add(
            &format!("content-length {value:?}"),
            format!("{POST}content-length: {value}\r\n\r\nhello"),
            fate,
        );
    }
    add(
        "two lengths",
        format!("{POST}content-length: 5\r\ncontent-length: 6\r\n\r\nhello!"),
        Refused,
    );
    add(
        "two lengths, one hidden",
        format!(
            "{POST}content-length: 0\r\ncontent-length: {}\r\n\r\n{INSIDE}",
            INSIDE.len()
        ),
        Refused,
    );
    add(
        "a length and a request",
        format!("{POST}content-length: 0\r\n\r\n"),
        Read,
    );
    // Codings that are not `chunked`, or not only.
    for value in [
        "xchunked",
        "chunked, identity",
        "identity, chunked, identity",
        "x, y",
        "gzip",
        "chunked;q=1",
        "\"chunked\"",
        "chunked\u{b}",
        "[chunked]",
        "chunk",
        ", chunked,gzip",
        "identity",
    ] {
        add(
            &format!("transfer-encoding {value:?}"),
            format!("{POST}transfer-encoding: {value}\r\n\r\n0\r\n\r\n"),
            Refused,
        );
    }
    for (name, headers) in [
        (
            "length and coding",
            "content-length: 5\r\ntransfer-encoding: chunked\r\n",
        ),
        (
            "coding and length",
            "transfer-encoding: chunked\r\ncontent-length: 5\r\n",
        ),
        (
            "length of 0 and coding",
            "content-length: 0\r\ntransfer-encoding: chunked\r\n",
        ),
        (
            "coding and wrong length",
            "transfer-encoding: chunked\r\ncontent-length: 5, 5\r\n",
        ),
    ] {
        add(name, format!("{POST}{headers}\r\n0\r\n\r\n"), Closed);
    }
    add(
        "coding twice, one not",
        format!("{POST}transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n0\r\n\r\n"),
        Refused,
    );
    add(
        "coding in HTTP/1.0",
        "POST /v2/docker/a/blobs/uploads/ HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
        Closed,
    );
    // Names and lines of headers.
    for (name, line) in [
        ("space before the colon", "content-length : 5"),
        ("tab before the colon", "content-length\t: 5"),
        ("coding with a space before the colon", "transfer-encoding : chunked"),
        ("no name", ": 5"),
        ("no colon", "content-length"),
        ("space in a name", "content length: 5"),
        ("a byte 0 in a name", "content\0length: 5"),
        ("a byte 0 in a value", "x: a\0b"),
        ("a lone CR in a value", "x: a\rcontent-length: 5"),
        ("a folded line", "x: a\r\n b"),
        ("a folded coding", "transfer-encoding:\r\n chunked"),
        ("a folded first line", " x: a"),
        ("a letter outside ASCII in a name", "h\u{e9}ader: 1"),
        ("a parenthesis in a name", "x(y): 1"),
        ("a control character in a name", "x\u{1}: 1"),
        ("an escape in a value", "x: \u{1b}[31m\u{1}"),
    ] {
        add(name, format!("GET /v2/ HTTP/1.1\r\nhost: a\r\n{line}\r\n\r\n"), Refused);
    }
    // The line of a request.
    for (name, line) in [
        ("no version", "GET /v2/"),
        ("a version that is none", "GET /v2/ HTTP/1.1x"),
        ("a version to come", "GET /v2/ HTTP/9.9"),
        ("a lower-case version", "GET /v2/ http/1.1"),
        ("another protocol", "GET /v2/ ICE/1.1"),
        ("two targets", "GET /v2/ /v2/ HTTP/1.1"),
        ("a space in the target", "GET /v2/a b HTTP/1.1"),
        ("a byte 0 in the target", "GET /v2/\0 HTTP/1.1"),
        ("a tab between", "GET\t/v2/ HTTP/1.1"),
        ("no method", " /v2/ HTTP/1.1"),
        ("a method that is none", "GE(T /v2/ HTTP/1.1"),
        ("a fragment of nothing", "GET HTTP/1.1"),
        ("a lone CR", "GET /v2/ HTTP/1.1\rx: y"),
    ] {
        add(name, format!("{line}\r\nhost: a\r\n\r\n"), Refused);
    }
    // Chunks.
    for (name, body) in [
        ("a chunk of a negative size", "-1\r\nx\r\n0\r\n\r\n"),
        ("a chunk of no size", "\r\nx\r\n0\r\n\r\n"),
        ("a chunk size with a prefix", "0x1\r\nx\r\n0\r\n\r\n"),
        ("a chunk size with a plus", "+1\r\nx\r\n0\r\n\r\n"),
        ("a chunk size that overflows", "10000000000000001\r\nx\r\n0\r\n\r\n"),
        ("a chunk size that is none", "zz\r\nx\r\n0\r\n\r\n"),
        ("a chunk that is longer than it says", "1\r\nxyz\r\n0\r\n\r\n"),
        ("a chunk size ended by LF alone", "1\nx\r\n0\r\n\r\n"),
        ("a chunk ended by LF alone", "1\r\nx\n0\r\n\r\n"),
        ("a chunk extension with a line break", "1;a=\"\n\"\r\nx\r\n0\r\n\r\n"),
        ("a size with a space inside", "1 1\r\nx\r\n0\r\n\r\n"),
    ] {
        let head = "PUT /v2/docker/a/manifests/v1 HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
        add(name, format!("{head}{body}"), Refused);
    }
    let mut long = String::from("GET /v2/ HTTP/1.1\r\nhost: a\r\n");
    for number in 0..65 {
        let _ = write!(long, "x-{number}: 1\r\n");
    }
    add("65 headers", format!("{long}\r\n"), Refused);
    add(
        "a long header",
        format!("GET /v2/ HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "a".repeat(40_000)),
        Refused,
    );
    add(
        "a long target",
        format!("GET /v2/{} HTTP/1.1\r\nhost: a\r\n\r\n", "a".repeat(70_000)),
        Refused,
    );
    add(
        "hosts that differ",
        "GET /v2/ HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n".to_owned(),
        Refused,
    );
    add("no host", "GET /v2/ HTTP/1.1\r\n\r\n".to_owned(), Refused);
    add(
        "an empty line first",
        "\r\nGET /v2/ HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(),
        Read,
    );
    all
}

#[tokio::test]
async fn s09_what_two_readers_could_read_differently_is_refused() {
    let registry = Registry::start("repositories: { docker: { type: local } }");
    let requests = requests();
    assert!(requests.len() >= 60, "{}", requests.len());
    let sent = requests.iter().map(|(name, text, fate)| {
        let address = registry.address().to_owned();
        async move {
            let text = format!("{text}{BEHIND}");
            let both = |answer: &str| *fate == Read && statuses(answer).len() == 2 && answer.ends_with("ok\n");
            let (answer, closed) = exchange(&address, text.as_bytes(), both).await;
            let found = statuses(&answer);
            let right = match fate {
                Refused => closed && found.len() <= 1 && found.iter().all(|status| *status >= 400),
                Closed => closed && found.len() <= 1,
                Read => found.len() == 2 && found[1] == 200,
            };
            (!right).then(|| format!("{name}: {fate:?}, but {found:?}, closed: {closed}"))
        }
    });
    let wrong: Vec<String> = join_all(sent).await.into_iter().flatten().collect();
    assert!(wrong.is_empty(), "of {}:\n{}", requests.len(), wrong.join("\n"));
    assert!(!registry.log().contains("smuggled"), "{}", registry.log());
}

/// nginx in front of the registry, with connections that it uses again.
struct Nginx {
    child: Child,
    address: String,
    _directory: TempDir,
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Nginx {
    /// None where it is not installed.
    fn start(upstream: &str) -> Option<Self> {
        let directory = tempfile::tempdir().expect("a directory");
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .expect("a port")
            .local_addr()
            .expect("bound");
        let root = directory.path().display();
        let text = format!(
            "daemon off; master_process off; pid {root}/pid; error_log stderr crit;\n\
             events {{ worker_connections 256; }}\n\
             http {{ access_log off; client_body_temp_path {root}/body; proxy_temp_path {root}/proxy;\n\
             fastcgi_temp_path {root}/f; uwsgi_temp_path {root}/u; scgi_temp_path {root}/s;\n\
             upstream registry {{ server {upstream}; keepalive 4; }}\n\
             server {{ listen {port}; client_max_body_size 0; location / {{ proxy_pass http://registry; proxy_http_version 1.1;\n\
             proxy_set_header Connection ''; proxy_request_buffering off; }} }} }}\n"
        );
        let file = directory.path().join("nginx.conf");
        std::fs::write(&file, text).expect("written");
        let child = Command::new("nginx")
            .arg("-c")
            .arg(&file)
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        Some(Self {
            child,
            address: port.to_string(),
            _directory: directory,
        })
    }
}

#[tokio::test]
async fn s09_a_proxy_in_front_and_we_agree_where_a_request_ends() {
    let registry = Registry::start("repositories: { docker: { type: local } }");
    let Some(nginx) = Nginx::start(registry.address()) else {
        return;
    };
    until("nginx listens", async || {
        std::net::TcpStream::connect(&nginx.address).is_ok()
    })
    .await;
    let mut answered = 0;
    for (name, text, _) in requests() {
        let enough = |answer: &str| statuses(answer).len() >= 2;
        let (answer, _) = exchange(&nginx.address, format!("{text}{BEHIND}").as_bytes(), enough).await;
        answered += statuses(&answer).len();
        // A request of somebody else's, on what may be the same connection to the registry, gets its own answer.
        let (own, _) = exchange(
            &nginx.address,
            b"GET /v2/docker/mine/tags/list HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
            |_| false,
        )
        .await;
        assert!(own.contains("NAME_UNKNOWN") || own.contains("404"), "{name}: {own}");
        assert!(own.contains("mine"), "{name}: {own}");
    }
    assert!(answered > 0);
    assert!(!registry.log().contains("smuggled"), "{}", registry.log());
}
