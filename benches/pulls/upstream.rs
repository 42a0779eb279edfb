//! An upstream at the end of a line: so far away, so wide. It counts what it sends, and can be in trouble.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use entrepot::oci::{Algorithm, Digest};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::system::IMAGE;

/// What a client shows that has its token.
pub(crate) const AUTHORIZATION: &str = "Bearer benchmark";
/// How often the line lets a portion through.
const TICK: Duration = Duration::from_millis(5);
const TICKS_A_SECOND: usize = 200;

/// The line to an upstream.
#[derive(Clone, Copy)]
pub(crate) struct Link {
    /// There and back.
    round_trip: Duration,
    /// Bytes a second.
    a_connection: usize,
    in_all: usize,
}

impl Link {
    /// A registry on another continent.
    pub(crate) const FAR: Self = Self {
        round_trip: Duration::from_millis(50),
        a_connection: 20_000_000,
        in_all: 125_000_000,
    };
    /// One next door.
    pub(crate) const NEAR: Self = Self {
        round_trip: Duration::ZERO,
        a_connection: 400_000_000,
        in_all: 800_000_000,
    };
}

/// An image that was put there.
pub(crate) struct Image {
    pub(crate) tag: String,
    pub(crate) layer: Digest,
}

/// By path: a body and its type.
type Content = HashMap<String, (Bytes, &'static str)>;

struct Shared {
    link: Link,
    content: Mutex<Content>,
    address: SocketAddr,
    sent: AtomicU64,
    busy: AtomicUsize,
    /// When the next portion may leave, by the line as a whole, in nanoseconds since the start.
    line: Mutex<Instant>,
    hangs: AtomicBool,
    lies: AtomicBool,
    /// The next blob is cut after so many bytes.
    cut: AtomicUsize,
}

/// The upstream. It stops when dropped.
pub(crate) struct Upstream {
    /// Wants a token.
    pub(crate) address: SocketAddr,
    /// Wants none: nginx cannot fetch one.
    pub(crate) open: SocketAddr,
    shared: Arc<Shared>,
    running: Mutex<JoinSet<()>>,
}

impl Upstream {
    pub(crate) async fn start(link: Link) -> Self {
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = closed.local_addr().unwrap();
        let shared = Arc::new(Shared {
            link,
            content: Mutex::default(),
            address,
            sent: AtomicU64::new(0),
            busy: AtomicUsize::new(0),
            line: Mutex::new(Instant::now()),
            hangs: AtomicBool::new(false),
            lies: AtomicBool::new(false),
            cut: AtomicUsize::new(0),
        });
        let upstream = Self {
            address,
            open: open.local_addr().unwrap(),
            shared,
            running: Mutex::default(),
        };
        upstream.accept(closed, true);
        upstream.accept(open, false);
        upstream
    }

    fn accept(&self, listener: TcpListener, wants_token: bool) {
        let shared = Arc::clone(&self.shared);
        self.running.lock().unwrap().spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let shared = Arc::clone(&shared);
                connections.spawn(async move {
                    let _ = shared.serve(stream, wants_token).await;
                });
                while connections.try_join_next().is_some() {}
            }
        });
    }

    /// Closes every connection and refuses new ones.
    pub(crate) async fn stop(&self) {
        let mut running = std::mem::take(&mut *self.running.lock().unwrap());
        running.shutdown().await;
    }

    /// Listens again where it did.
    pub(crate) async fn resume(&self) {
        self.accept(TcpListener::bind(self.address).await.unwrap(), true);
        self.accept(TcpListener::bind(self.open).await.unwrap(), false);
    }

    /// From now on accepts and says nothing; or answers again.
    pub(crate) fn hang(&self, hangs: bool) {
        self.shared.hangs.store(hangs, Ordering::SeqCst);
    }

    /// From now on sends wrong bytes for blobs; or the right ones again.
    pub(crate) fn lie(&self, lies: bool) {
        self.shared.lies.store(lies, Ordering::SeqCst);
    }

    /// The next blob's body breaks off after so many bytes.
    pub(crate) fn cut_once(&self, after: usize) {
        self.shared.cut.store(after, Ordering::SeqCst);
    }

    /// Bytes of blobs sent so far.
    pub(crate) fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::SeqCst)
    }

    /// Waits until nothing is under way.
    pub(crate) async fn quiet(&self) {
        let mut idle = 0;
        while idle < 10 {
            idle = if self.shared.busy.load(Ordering::SeqCst) == 0 {
                idle + 1
            } else {
                0
            };
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// An image of one layer that nobody has seen.
    pub(crate) fn put_image(&self, tag: &str, length: usize, seed: u64) -> Image {
        let layer = noise(length, seed);
        let config = Bytes::from(format!(
            "{{\"architecture\":\"amd64\",\"os\":\"linux\",\"seed\":{seed}}}"
        ));
        let digest = |bytes: &[u8]| Digest::of(Algorithm::Sha256, bytes);
        let (of_layer, of_config) = (digest(&layer), digest(&config));
        let kind = "application/vnd.docker.distribution.manifest.v2+json";
        let manifest = Bytes::from(format!(
            "{{\"schemaVersion\":2,\"mediaType\":\"{kind}\",\"config\":{{\"mediaType\":\
             \"application/vnd.docker.container.image.v1+json\",\"size\":{},\"digest\":\"{of_config}\"}},\"layers\":[{{\
             \"mediaType\":\"application/vnd.docker.image.rootfs.diff.tar.gzip\",\"size\":{length},\"digest\":\
             \"{of_layer}\"}}]}}",
            config.len()
        ));
        let of_manifest = digest(&manifest);
        let binary = "application/octet-stream";
        let mut content = self.shared.content.lock().unwrap();
        // Old layers would fill the memory.
        content.retain(|_, (body, _)| body.len() < length);
        content.insert(format!("/v2/{IMAGE}/blobs/{of_layer}"), (layer, binary));
        content.insert(format!("/v2/{IMAGE}/blobs/{of_config}"), (config, binary));
        for reference in [tag, of_manifest.as_str()] {
            let path = format!("/v2/{IMAGE}/manifests/{reference}");
            content.insert(path, (manifest.clone(), kind));
        }
        Image {
            tag: tag.to_owned(),
            layer: of_layer,
        }
    }
}

struct Request {
    method: String,
    path: String,
    authorized: bool,
    range: Option<(usize, Option<usize>)>,
}

impl Shared {
    async fn serve(&self, mut stream: TcpStream, wants_token: bool) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        // The handshake.
        sleep(self.link.round_trip).await;
        let mut buffer = Vec::new();
        while let Some(request) = read_request(&mut stream, &mut buffer).await? {
            if self.hangs.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
            self.busy.fetch_add(1, Ordering::SeqCst);
            let answered = self.answer(&mut stream, &request, wants_token).await;
            self.busy.fetch_sub(1, Ordering::SeqCst);
            if !answered? {
                break;
            }
        }
        Ok(())
    }

    /// False when the connection is over.
    async fn answer(&self, stream: &mut TcpStream, request: &Request, wants_token: bool) -> std::io::Result<bool> {
        sleep(self.link.round_trip).await;
        if request.path.starts_with("/token") {
            let body = "{\"token\":\"benchmark\",\"expires_in\":300}";
            return say(stream, "200 OK", "Content-Type: application/json\r\n", body).await;
        }
        if wants_token && !request.authorized {
            let challenge = format!(
                "WWW-Authenticate: Bearer realm=\"http://{}/token\",service=\"benchmark\"\r\n",
                self.address
            );
            return say(stream, "401 Unauthorized", &challenge, "{\"errors\":[]}").await;
        }
        if request.path == "/v2/" {
            return say(
                stream,
                "200 OK",
                "Docker-Distribution-API-Version: registry/2.0\r\n",
                "{}",
            )
            .await;
        }
        let path = request.path.split('?').next().unwrap_or_default();
        let found = self.content.lock().unwrap().get(path).cloned();
        let Some((body, kind)) = found else {
            let body = "{\"errors\":[{\"code\":\"MANIFEST_UNKNOWN\",\"message\":\"unknown\"}]}";
            return say(stream, "404 Not Found", "Content-Type: application/json\r\n", body).await;
        };
        self.send(stream, request, body, kind).await
    }

    async fn send(
        &self,
        stream: &mut TcpStream,
        request: &Request,
        body: Bytes,
        kind: &'static str,
    ) -> std::io::Result<bool> {
        let is_blob = request.path.contains("/blobs/");
        let total = body.len();
        let (from, to) = match request.range {
            Some((from, to)) => (from.min(total), to.map_or(total, |last| (last + 1).min(total))),
            None => (0, total),
        };
        let digest = if is_blob {
            request.path.rsplit('/').next().unwrap_or_default().to_owned()
        } else {
            Digest::of(Algorithm::Sha256, &body).to_string()
        };
        let (status, range) = match request.range {
            Some(_) => (
                "206 Partial Content",
                format!("Content-Range: bytes {from}-{}/{total}\r\n", to.saturating_sub(1)),
            ),
            None => ("200 OK", String::new()),
        };
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nAccept-Ranges: bytes\r\n{range}ETag: \
             \"{digest}\"\r\nDocker-Content-Digest: {digest}\r\nCache-Control: max-age=31536000\r\n\r\n",
            to - from
        );
        stream.write_all(head.as_bytes()).await?;
        if request.method == "HEAD" {
            return Ok(true);
        }
        if !is_blob || total < 64 * 1024 {
            stream.write_all(&body[from..to]).await?;
            return Ok(true);
        }
        let cut = match self.cut.swap(0, Ordering::SeqCst) {
            0 => None,
            after => Some(after),
        };
        let lies = self.lies.load(Ordering::SeqCst);
        let end = cut.map_or(to, |cut| to.min(from + cut));
        let mut at = from;
        let mut next = Instant::now();
        while at < end {
            let portion = self.portion().min(end - at);
            self.wait(&mut next, portion).await;
            if lies && at == from {
                let mut wrong = body[at..at + portion].to_vec();
                wrong[0] ^= 1;
                stream.write_all(&wrong).await?;
            } else {
                stream.write_all(&body[at..at + portion]).await?;
            }
            self.sent.fetch_add(portion as u64, Ordering::SeqCst);
            at += portion;
        }
        Ok(cut.is_none())
    }

    /// What one connection may send in a tick.
    const fn portion(&self) -> usize {
        self.link.a_connection / TICKS_A_SECOND
    }

    /// Waits for the connection's turn, and for the line's.
    async fn wait(&self, next: &mut Instant, portion: usize) {
        let takes = |rate: usize| Duration::from_secs_f64(portion as f64 / rate as f64);
        let now = Instant::now();
        *next = (*next).max(now.checked_sub(TICK * 2).unwrap_or(now)) + takes(self.link.a_connection);
        let line = {
            let mut line = self.line.lock().unwrap();
            *line = (*line).max(now.checked_sub(TICK).unwrap_or(now)) + takes(self.link.in_all);
            *line
        };
        sleep_until((*next).max(line)).await;
    }
}

async fn say(stream: &mut TcpStream, status: &str, headers: &str, body: &str) -> std::io::Result<bool> {
    let answer = format!(
        "HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    Ok(true)
}

async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> std::io::Result<Option<Request>> {
    let end = loop {
        if let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    };
    let head: Vec<u8> = buffer.drain(..end).collect();
    let head = String::from_utf8_lossy(&head);
    let mut words = head.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let header = |name: &str| {
        let mut pairs = head.lines().filter_map(|line| line.split_once(": "));
        pairs
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    };
    let range = header("range").and_then(|text| text.strip_prefix("bytes=")?.split_once('-'));
    Ok(Some(Request {
        method: method.to_owned(),
        path: path.to_owned(),
        authorized: header("authorization") == Some(AUTHORIZATION),
        range: range.and_then(|(from, to)| Some((from.parse().ok()?, to.parse().ok()))),
    }))
}

/// Bytes that look like nothing, the same each time.
fn noise(length: usize, seed: u64) -> Bytes {
    let mut state = (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes.into()
}
