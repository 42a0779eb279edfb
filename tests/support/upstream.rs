//! A registry over real TCP that does as it is told, wrong things above all: it stalls, cuts, lies, redirects and
//! refuses on command, in the middle of a body too, and remembers every request with its headers.
//!
//! Written by hand on a socket: an HTTP framework would put right what is to be wrong.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use entrepot::oci::media_type::OCI_MANIFEST;
use entrepot::oci::{Algorithm, Digest};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// For a rule that never ends.
pub const ALWAYS: usize = usize::MAX;
/// The most of a flood: an end for tests that would fail.
const FLOOD: u64 = 256 << 20;
/// How much of a body is written at once.
const PIECE: usize = 16 * 1024;

/// What a rule does to an answer. Several may be combined.
#[derive(Clone)]
pub enum Act {
    /// Answer with this status and an empty body instead.
    Status(u16),
    /// Add or replace a header.
    Header(&'static str, String),
    /// Leave a header out.
    Without(&'static str),
    /// Send this body instead.
    Body(Bytes),
    /// Redirect (307) to this address.
    Redirect(String),
    /// Read the request and never answer.
    Hang,
    /// Close the connection without an answer.
    Close,
    /// Answer only after this.
    Delay(Duration),
    /// Send a body that is not kept in memory instead, of so many bytes, see [`pattern`].
    Pattern(u64),
    /// Close the connection after so many bytes of the body.
    CutAfter(usize),
    /// The same with a reset instead of an end.
    ResetAfter(usize),
    /// Stop after so many bytes of the body until the gate is opened.
    HoldAfter(usize, Gate),
    /// Send so many bytes of the body at a time.
    Trickle(usize, Duration),
    /// Send so many bytes of the body a second.
    Rate(u64),
    /// Send the body in chunks, without saying how long it is.
    Chunked,
    /// Send the whole whatever range is asked for.
    IgnoreRange,
    /// Say nothing about the length: the end of the connection is the end of the body.
    Unmeasured,
    /// Send these bytes, whatever they mean, and close the connection. `Trickle` and the like work on them too.
    Raw(Bytes),
    /// Send the first bytes, and then the second ones again and again, until the other side has had enough.
    Flood(Bytes, Bytes),
}

/// Something to wait for, opened by the test.
#[derive(Clone)]
pub struct Gate(Arc<watch::Sender<bool>>);

impl Gate {
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }

    pub fn open(&self) {
        self.0.send_replace(true);
    }

    async fn wait(&self) {
        let _ = self.0.subscribe().wait_for(|open| *open).await;
    }
}

struct Rule {
    pattern: String,
    left: usize,
    acts: Vec<Act>,
}

/// A request that came, and what it was answered.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub target: String,
    pub headers: HashMap<String, String>,
    pub body: String,
    pub status: u16,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    fn matches(&self, pattern: &str) -> bool {
        matches(pattern, &self.method, &self.target)
    }
}

/// `GET /v2/a/` matches every GET whose target contains `/v2/a/`; `*` is any method.
fn matches(pattern: &str, method: &str, target: &str) -> bool {
    let (wanted, part) = pattern.split_once(' ').unwrap_or((pattern, ""));
    (wanted == "*" || wanted == method) && target.contains(part)
}

/// How to get in.
#[derive(Clone)]
enum Auth {
    Open,
    Basic {
        credentials: Vec<String>,
    },
    Bearer {
        challenge: String,
        /// Nothing is added to it, not even what is asked for.
        is_whole: bool,
        valid: Arc<Mutex<HashSet<String>>>,
    },
}

#[derive(Default)]
struct Content {
    /// By image and reference.
    manifests: HashMap<(String, String), (Bytes, String)>,
    blobs: HashMap<(String, String), Body>,
    tags: BTreeMap<String, Vec<String>>,
    referrers: HashMap<(String, String), Bytes>,
    tags_a_page: Option<usize>,
}

struct Shared {
    address: SocketAddr,
    content: Mutex<Content>,
    rules: Mutex<Vec<Rule>>,
    seen: Mutex<Vec<Seen>>,
    auth: Mutex<Auth>,
    valid_tokens: Arc<Mutex<HashSet<String>>>,
    token_field: Mutex<String>,
    issued: AtomicU64,
    connections: AtomicU64,
    flooded: AtomicU64,
    counted: Mutex<Option<Counted>>,
}

/// How often each who pulls has pulled, and may.
struct Counted {
    limit: u64,
    pulls: HashMap<String, u64>,
}

/// The server. It stops when dropped.
pub struct Server {
    shared: Arc<Shared>,
    running: Mutex<Option<JoinSet<()>>>,
}

/// An image that was put into a server.
pub struct Image {
    pub manifest: Bytes,
    pub digest: Digest,
    pub config: Digest,
    pub layers: Vec<Digest>,
}

/// Bytes that look like nothing, the same each time.
pub fn noise(length: usize, seed: u64) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
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

/// How long the noise is that a pattern repeats: no power of two, so that no two of its pieces are alike.
const PERIOD: u64 = 1_000_003;

/// Bytes `from..to` of a body of any length that nobody keeps.
pub fn pattern(from: u64, to: u64) -> Bytes {
    static NOISE: std::sync::OnceLock<Bytes> = std::sync::OnceLock::new();
    let noise = NOISE.get_or_init(|| noise(usize::try_from(PERIOD).unwrap(), 99));
    let mut bytes = Vec::with_capacity(usize::try_from(to - from).unwrap());
    let mut at = from;
    while at < to {
        let start = usize::try_from(at % PERIOD).unwrap();
        let length = (noise.len() - start).min(usize::try_from(to - at).unwrap());
        bytes.extend_from_slice(&noise[start..start + length]);
        at += length as u64;
    }
    bytes.into()
}

/// The SHA-256 of so many bytes of the pattern.
pub fn pattern_digest(length: u64) -> Digest {
    let mut hasher = Algorithm::Sha256.hasher();
    let mut at = 0;
    while at < length {
        let end = (at + (1 << 20)).min(length);
        hasher.update(&pattern(at, end));
        at = end;
    }
    hasher.finish()
}

/// A body in memory, or made as it is sent.
#[derive(Clone)]
enum Body {
    Bytes(Bytes),
    Pattern { from: u64, to: u64 },
}

impl<T: Into<Bytes>> From<T> for Body {
    fn from(bytes: T) -> Self {
        Self::Bytes(bytes.into())
    }
}

impl Body {
    fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Pattern { from, to } => to - from,
        }
    }

    fn slice(&self, start: u64, end: u64) -> Self {
        match self {
            Self::Bytes(bytes) => {
                Self::Bytes(bytes.slice(usize::try_from(start).unwrap()..usize::try_from(end).unwrap()))
            }
            Self::Pattern { from, .. } => Self::Pattern {
                from: from + start,
                to: from + end,
            },
        }
    }

    fn bytes(&self) -> Bytes {
        match self {
            Self::Bytes(bytes) => bytes.clone(),
            Self::Pattern { from, to } => pattern(*from, *to),
        }
    }
}

/// The SHA-256 of these bytes.
pub fn digest(bytes: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, bytes)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}

impl Server {
    /// An empty registry on a port of its own, open to all.
    pub async fn start() -> Self {
        Self::start_at("127.0.0.1:0").await
    }

    /// The same at another address.
    pub async fn start_at(address: &str) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let shared = Arc::new(Shared {
            address: listener.local_addr().unwrap(),
            content: Mutex::default(),
            rules: Mutex::default(),
            seen: Mutex::default(),
            auth: Mutex::new(Auth::Open),
            valid_tokens: Arc::default(),
            token_field: Mutex::new("token".to_owned()),
            issued: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            flooded: AtomicU64::new(0),
            counted: Mutex::default(),
        });
        let server = Self {
            shared,
            running: Mutex::default(),
        };
        server.accept(listener);
        server
    }

    fn accept(&self, listener: TcpListener) {
        let shared = Arc::clone(&self.shared);
        let mut running = JoinSet::new();
        running.spawn(async move {
            // Connections end with the set that they are in.
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                shared.connections.fetch_add(1, Ordering::Relaxed);
                let shared = Arc::clone(&shared);
                connections.spawn(async move {
                    let _ = shared.serve(stream).await;
                });
            }
        });
        *lock(&self.running) = Some(running);
    }

    /// Closes every connection and refuses new ones.
    pub async fn stop(&self) {
        let running = lock(&self.running).take();
        if let Some(mut running) = running {
            running.shutdown().await;
        }
    }

    /// Listens again where it did.
    pub async fn resume(&self) {
        let listener = TcpListener::bind(self.shared.address).await.unwrap();
        self.accept(listener);
    }

    /// `127.0.0.1:port`.
    pub fn host(&self) -> String {
        self.shared.address.to_string()
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.shared.address)
    }

    /// How many connections were opened.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    pub fn port(&self) -> u16 {
        self.shared.address.port()
    }

    /// How many bytes of floods were taken, by whoever reads or by what lies between.
    pub fn flooded(&self) -> u64 {
        self.shared.flooded.load(Ordering::Relaxed)
    }

    /// From now on, the next `times` requests that match are answered with these acts. The first rule that matches
    /// and is not used up counts.
    pub fn on(&self, pattern: &str, times: usize, acts: impl IntoIterator<Item = Act>) {
        lock(&self.shared.rules).push(Rule {
            pattern: pattern.to_owned(),
            left: times,
            acts: acts.into_iter().collect(),
        });
    }

    /// Behaves again.
    pub fn behave(&self) {
        lock(&self.shared.rules).clear();
    }

    /// How many requests came that match.
    pub fn asked(&self, pattern: &str) -> usize {
        lock(&self.shared.seen)
            .iter()
            .filter(|seen| seen.matches(pattern))
            .count()
    }

    /// All requests that came.
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.shared.seen).clone()
    }

    /// What came is not remembered any more.
    pub fn forget(&self) {
        lock(&self.shared.seen).clear();
    }

    /// From now on wants this user and password.
    pub fn demand_basic(&self, username: &str, password: &str) {
        self.demand_any_basic(&[(username, password)]);
    }

    /// From now on wants one of these.
    pub fn demand_any_basic(&self, users: &[(&str, &str)]) {
        let credentials = users.iter().map(|(username, password)| {
            let plain = format!("{username}:{password}");
            format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(plain))
        });
        *lock(&self.shared.auth) = Auth::Basic {
            credentials: credentials.collect(),
        };
    }

    /// From now on counts as Docker Hub does: the GET of a manifest is a pull, and everybody has so many of them.
    pub fn count_pulls(&self, limit: u64) {
        let pulls = HashMap::new();
        *lock(&self.shared.counted) = Some(Counted { limit, pulls });
    }

    /// How many pulls were counted, of all who pulled.
    pub fn pulls(&self) -> u64 {
        let counted = lock(&self.shared.counted);
        counted.as_ref().map_or(0, |counted| counted.pulls.values().sum())
    }

    /// From now on wants a token of that server.
    pub fn demand_bearer(&self, tokens: &Self) {
        self.demand_bearer_of(&format!("{}/token?kept=yes", tokens.url()), tokens);
    }

    /// The same with a realm of its own.
    pub fn demand_bearer_of(&self, realm: &str, tokens: &Self) {
        *lock(&self.shared.auth) = Auth::Bearer {
            challenge: format!("Bearer realm=\"{realm}\",service=\"test\""),
            is_whole: false,
            valid: Arc::clone(&tokens.shared.valid_tokens),
        };
    }

    /// The same with these words, as a vendor has them.
    pub fn demand_challenge(&self, challenge: &str, tokens: &Self) {
        *lock(&self.shared.auth) = Auth::Bearer {
            challenge: challenge.to_owned(),
            is_whole: true,
            valid: Arc::clone(&tokens.shared.valid_tokens),
        };
    }

    /// Every token given out so far is void.
    pub fn revoke_tokens(&self) {
        lock(&self.shared.valid_tokens).clear();
    }

    /// This token lets in too.
    pub fn allow_token(&self, token: &str) {
        lock(&self.shared.valid_tokens).insert(format!("Bearer {token}"));
    }

    /// Tokens are given out under this name: `token` or `access_token`.
    pub fn name_tokens(&self, field: &str) {
        field.clone_into(&mut lock(&self.shared.token_field));
    }

    pub fn put_blob(&self, image: &str, bytes: &Bytes) -> Digest {
        let digest = digest(bytes);
        lock(&self.shared.content)
            .blobs
            .insert((image.to_owned(), digest.to_string()), bytes.clone().into());
        digest
    }

    /// Puts a blob of so many bytes of the pattern.
    pub fn put_pattern(&self, image: &str, length: u64) -> Digest {
        let digest = pattern_digest(length);
        let body = Body::Pattern { from: 0, to: length };
        lock(&self.shared.content)
            .blobs
            .insert((image.to_owned(), digest.to_string()), body);
        digest
    }

    pub fn remove_blob(&self, image: &str, digest: &Digest) {
        let key = (image.to_owned(), digest.to_string());
        lock(&self.shared.content).blobs.remove(&key);
    }

    /// Puts a manifest under its digest and, if there is one, a tag.
    pub fn put_manifest(&self, image: &str, tag: Option<&str>, bytes: &Bytes, media_type: &str) -> Digest {
        let digest = digest(bytes);
        self.put_manifest_as(image, digest.as_str(), bytes, media_type);
        if let Some(tag) = tag {
            self.put_manifest_as(image, tag, bytes, media_type);
            let mut content = lock(&self.shared.content);
            let tags = content.tags.entry(image.to_owned()).or_default();
            if !tags.iter().any(|known| known == tag) {
                tags.push(tag.to_owned());
            }
        }
        digest
    }

    /// Puts a manifest under whatever name.
    pub fn put_manifest_as(&self, image: &str, reference: &str, bytes: &Bytes, media_type: &str) {
        lock(&self.shared.content).manifests.insert(
            (image.to_owned(), reference.to_owned()),
            (bytes.clone(), media_type.to_owned()),
        );
    }

    pub fn remove_manifest(&self, image: &str, reference: &str) {
        let mut content = lock(&self.shared.content);
        content.manifests.remove(&(image.to_owned(), reference.to_owned()));
        if let Some(tags) = content.tags.get_mut(image) {
            tags.retain(|tag| tag != reference);
        }
    }

    /// Puts a whole image: a configuration, these layers and a manifest with a tag.
    pub fn put_image(&self, image: &str, tag: &str, layers: &[Bytes]) -> Image {
        let config = Bytes::from(format!("{{\"made for\":\"{image}:{tag}\"}}"));
        let descriptor = |media_type: &str, bytes: &Bytes| {
            format!(
                r#"{{"mediaType":"{media_type}","digest":"{}","size":{}}}"#,
                digest(bytes),
                bytes.len()
            )
        };
        let layer_type = "application/vnd.oci.image.layer.v1.tar+gzip";
        let listed: Vec<String> = layers.iter().map(|layer| descriptor(layer_type, layer)).collect();
        let manifest = Bytes::from(format!(
            r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{},"layers":[{}]}}"#,
            descriptor("application/vnd.oci.image.config.v1+json", &config),
            listed.join(",")
        ));
        Image {
            digest: self.put_manifest(image, Some(tag), &manifest, OCI_MANIFEST),
            config: self.put_blob(image, &config),
            layers: layers.iter().map(|layer| self.put_blob(image, layer)).collect(),
            manifest,
        }
    }

    /// Lists this many tags a page, and says where the next one is.
    pub fn page_tags(&self, count: usize) {
        lock(&self.shared.content).tags_a_page = Some(count);
    }

    /// Answers the referrers API about a manifest with this document.
    pub fn put_referrers(&self, image: &str, subject: &Digest, index: &Bytes) {
        lock(&self.shared.content)
            .referrers
            .insert((image.to_owned(), subject.to_string()), index.clone());
    }
}

/// An answer before anything is done to it.
struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Body,
}

impl Answer {
    fn new(status: u16, body: impl Into<Body>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.into(),
        }
    }

    fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.without(name);
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    fn without(&mut self, name: &str) {
        self.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
    }
}

impl Shared {
    async fn serve(self: Arc<Self>, mut stream: TcpStream) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        let mut buffer = Vec::new();
        while let Some(mut request) = read_request(&mut stream, &mut buffer).await? {
            let acts = self.acts(&request);
            let mut answer = self.answer(&request, &acts);
            for act in &acts {
                match act {
                    Act::Status(status) => answer = Answer::new(*status, ""),
                    Act::Redirect(to) => answer = Answer::new(307, "").with("Location", to),
                    Act::Body(body) => {
                        answer.body = body.clone().into();
                        if answer.headers.iter().any(|(name, _)| name == "Content-Length") {
                            answer = answer.with("Content-Length", body.len().to_string());
                        }
                    }
                    Act::Pattern(length) => answer.body = Body::Pattern { from: 0, to: *length },
                    _ => {}
                }
            }
            for act in &acts {
                match act {
                    Act::Header(name, value) => answer = answer.with(name, value),
                    Act::Without(name) => answer.without(name),
                    _ => {}
                }
            }
            request.status = answer.status;
            let is_head = request.method == "HEAD";
            lock(&self.seen).push(request);
            for act in &acts {
                match act {
                    Act::Hang => std::future::pending().await,
                    Act::Close => return Ok(()),
                    Act::Delay(pause) => tokio::time::sleep(*pause).await,
                    Act::Raw(bytes) => {
                        write_body(&mut stream, &Body::Bytes(bytes.clone()), &acts).await?;
                        return Ok(());
                    }
                    Act::Flood(first, again) => {
                        stream.write_all(first).await?;
                        while self.flooded.fetch_add(again.len() as u64, Ordering::Relaxed) < FLOOD {
                            stream.write_all(again).await?;
                        }
                        return Ok(());
                    }
                    _ => {}
                }
            }
            if !write(&mut stream, answer, &acts, is_head).await? {
                return Ok(());
            }
        }
        Ok(())
    }

    fn acts(&self, request: &Seen) -> Vec<Act> {
        let mut rules = lock(&self.rules);
        let rule = rules
            .iter_mut()
            .find(|rule| rule.left > 0 && request.matches(&rule.pattern));
        let Some(rule) = rule else { return Vec::new() };
        if rule.left != ALWAYS {
            rule.left -= 1;
        }
        rule.acts.clone()
    }

    fn answer(&self, request: &Seen, acts: &[Act]) -> Answer {
        let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
        // Amazon's public registry has a slash there.
        if path.trim_end_matches('/') == "/token" {
            return self.token(request);
        }
        let Some(rest) = path.strip_prefix("/v2/") else {
            return Answer::new(404, "");
        };
        if let Some(refusal) = self.refusal(request, rest) {
            return refusal;
        }
        for kind in ["/manifests/", "/blobs/", "/tags/", "/referrers/"] {
            if let Some((image, reference)) = rest.rsplit_once(kind) {
                let ranged = !acts.iter().any(|act| matches!(act, Act::IgnoreRange));
                return match kind {
                    "/manifests/" => self.count(request, self.manifest(image, reference)),
                    "/blobs/" => self.blob(image, reference, request, ranged),
                    "/tags/" => self.tags(image, query),
                    _ => self.referrers(image, reference),
                };
            }
        }
        Answer::new(404, "")
    }

    /// A manifest as it is given to those who are counted.
    fn count(&self, request: &Seen, mut answer: Answer) -> Answer {
        let mut counted = lock(&self.counted);
        let Some(Counted { limit, pulls }) = &mut *counted else {
            return answer;
        };
        let pulled = pulls
            .entry(payer(request.header("authorization").unwrap_or_default()))
            .or_default();
        if request.method == "GET" && answer.status == 200 {
            if *pulled < *limit {
                *pulled += 1;
            } else {
                answer = Answer::new(429, r#"{"errors":[{"code":"TOOMANYREQUESTS"}]}"#);
            }
        }
        answer
            .with("ratelimit-limit", format!("{limit};w=21600"))
            .with("ratelimit-remaining", format!("{};w=21600", *limit - *pulled))
            .with("docker-ratelimit-source", "192.0.2.1")
    }

    fn token(&self, request: &Seen) -> Answer {
        let number = self.issued.fetch_add(1, Ordering::Relaxed);
        let mut token = format!("secret-token-{number}");
        if let Some(credentials) = request.header("authorization") {
            token = format!("{token}-{}", payer(credentials));
        }
        lock(&self.valid_tokens).insert(format!("Bearer {token}"));
        let field = lock(&self.token_field).clone();
        let body = format!(r#"{{"{field}":"{token}","expires_in":300}}"#);
        Answer::new(200, body).with("Content-Type", "application/json")
    }

    fn refusal(&self, request: &Seen, rest: &str) -> Option<Answer> {
        let shown = request.header("authorization").unwrap_or_default();
        let challenge = match lock(&self.auth).clone() {
            Auth::Open => return None,
            Auth::Basic { credentials } if credentials.iter().any(|known| known == shown) => return None,
            Auth::Bearer { valid, .. } if lock(&valid).contains(shown) => return None,
            Auth::Basic { .. } => "Basic realm=\"test\"".to_owned(),
            Auth::Bearer {
                challenge,
                is_whole: true,
                ..
            } => challenge,
            Auth::Bearer { challenge, .. } => {
                let (image, _) = rest.rsplit_once('/')?;
                let (image, _) = image.rsplit_once('/')?;
                format!("{challenge},scope=\"repository:{image}:pull\"")
            }
        };
        Some(Answer::new(401, "{\"errors\":[]}").with("WWW-Authenticate", challenge))
    }

    fn manifest(&self, image: &str, reference: &str) -> Answer {
        let content = lock(&self.content);
        let Some((bytes, media_type)) = content.manifests.get(&(image.to_owned(), reference.to_owned())) else {
            return Answer::new(404, "{\"errors\":[{\"code\":\"MANIFEST_UNKNOWN\"}]}");
        };
        Answer::new(200, bytes.clone())
            .with("Content-Type", media_type)
            .with("Docker-Content-Digest", digest(bytes).to_string())
    }

    fn blob(&self, image: &str, reference: &str, request: &Seen, ranged: bool) -> Answer {
        let content = lock(&self.content);
        let Some(body) = content.blobs.get(&(image.to_owned(), reference.to_owned())) else {
            return Answer::new(404, "{\"errors\":[{\"code\":\"BLOB_UNKNOWN\"}]}");
        };
        let tag = format!("\"{reference}\"");
        let is_same = request.header("if-range").is_none_or(|shown| shown == tag);
        let range = request.header("range").filter(|_| ranged && is_same).and_then(asked);
        let total = body.len();
        let answer = match range {
            None => Answer::new(200, body.clone()),
            Some((from, _)) if from >= total => return Answer::new(416, ""),
            Some((from, to)) => {
                let to = to.unwrap_or(total).min(total);
                Answer::new(206, body.slice(from, to)).with("Content-Range", format!("bytes {from}-{}/{total}", to - 1))
            }
        };
        answer
            .with("Content-Type", "application/octet-stream")
            .with("ETag", tag)
    }

    fn tags(&self, image: &str, query: &str) -> Answer {
        let content = lock(&self.content);
        let Some(tags) = content.tags.get(image) else {
            return Answer::new(404, "{\"errors\":[{\"code\":\"NAME_UNKNOWN\"}]}");
        };
        // The next page's address is opaque, as Quay's is.
        let at = query
            .split('&')
            .find_map(|parameter| parameter.strip_prefix("next_page=")?.parse().ok())
            .unwrap_or(0);
        let count = content.tags_a_page.unwrap_or(tags.len());
        let page: Vec<String> = tags
            .iter()
            .skip(at)
            .take(count)
            .map(|tag| format!("\"{tag}\""))
            .collect();
        let answer = Answer::new(200, format!(r#"{{"name":"{image}","tags":[{}]}}"#, page.join(",")))
            .with("Content-Type", "application/json");
        if at + count >= tags.len() {
            return answer;
        }
        answer.with(
            "Link",
            format!("</v2/{image}/tags/list?next_page={}>; rel=\"next\"", at + count),
        )
    }

    fn referrers(&self, image: &str, subject: &str) -> Answer {
        let content = lock(&self.content);
        match content.referrers.get(&(image.to_owned(), subject.to_owned())) {
            Some(index) => Answer::new(200, index.clone()).with("Content-Type", entrepot::oci::media_type::OCI_INDEX),
            None => Answer::new(404, "404 page not found").with("Content-Type", "text/plain"),
        }
    }
}

/// `bytes=a-` or `bytes=a-b`, half open.
fn asked(range: &str) -> Option<(u64, Option<u64>)> {
    let (from, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let to = match last {
        "" => None,
        last => Some(last.parse::<u64>().ok()? + 1),
    };
    Some((from.parse().ok()?, to))
}

/// Whose budget a pull is counted against: that of who is shown, or of whom a token was given to.
fn payer(authorization: &str) -> String {
    match authorization.split_once(' ') {
        Some(("Basic", credentials)) => digest(credentials.as_bytes()).hex()[..8].to_owned(),
        Some(("Bearer", token)) => token.splitn(4, '-').nth(3).unwrap_or("anonymous").to_owned(),
        _ => "anonymous".to_owned(),
    }
}

async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> std::io::Result<Option<Seen>> {
    loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
            buffer.drain(..end + 4);
            let Some(mut request) = parse(&head) else {
                return Ok(None);
            };
            let length = request.header("content-length").and_then(|length| length.parse().ok());
            let length = length.unwrap_or(0);
            while buffer.len() < length {
                if stream.read_buf(buffer).await? == 0 {
                    return Ok(None);
                }
            }
            request.body = String::from_utf8_lossy(&buffer[..length]).into_owned();
            buffer.drain(..length);
            return Ok(Some(request));
        }
        assert!(buffer.len() < 64 * 1024, "a request head without end");
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
}

fn parse(head: &str) -> Option<Seen> {
    let mut lines = head.split("\r\n");
    let mut first = lines.next()?.split(' ');
    let (method, target) = (first.next()?.to_owned(), first.next()?.to_owned());
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    Some(Seen {
        method,
        target,
        headers,
        body: String::new(),
        status: 0,
    })
}

/// Writes an answer; false when the connection is over.
async fn write(stream: &mut TcpStream, mut answer: Answer, acts: &[Act], is_head: bool) -> std::io::Result<bool> {
    let chunked = acts.iter().any(|act| matches!(act, Act::Chunked));
    let measured = !acts.iter().any(|act| matches!(act, Act::Unmeasured));
    let says_length = answer.headers.iter().any(|(name, _)| name == "Content-Length");
    let hides_length = acts.iter().any(|act| matches!(act, Act::Without("Content-Length")));
    if chunked {
        answer = answer.with("Transfer-Encoding", "chunked");
    }
    if measured && !chunked && !says_length && !hides_length {
        let length = answer.body.len().to_string();
        answer = answer.with("Content-Length", length);
    }
    let mut head = format!("HTTP/1.1 {} Whatever\r\n", answer.status);
    for (name, value) in &answer.headers {
        head.extend([name, ": ", value, "\r\n"]);
    }
    if !measured {
        head.push_str("Connection: close\r\n");
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes()).await?;
    if is_head {
        return Ok(measured);
    }
    write_body(stream, &answer.body, acts)
        .await
        .map(|whole| whole && measured)
}

/// Where a body is interrupted, and how.
#[derive(Clone)]
enum Stop {
    Cut,
    Reset,
    Hold(Gate),
}

async fn write_body(stream: &mut TcpStream, body: &Body, acts: &[Act]) -> std::io::Result<bool> {
    let mut piece = PIECE;
    let mut pause = None;
    let mut rate = None;
    let mut chunked = false;
    let mut stops: Vec<(u64, Stop)> = Vec::new();
    for act in acts {
        match act {
            Act::CutAfter(at) => stops.push((*at as u64, Stop::Cut)),
            Act::ResetAfter(at) => stops.push((*at as u64, Stop::Reset)),
            Act::HoldAfter(at, gate) => stops.push((*at as u64, Stop::Hold(gate.clone()))),
            Act::Trickle(bytes, every) => (piece, pause) = (*bytes, Some(*every)),
            Act::Rate(bytes) => rate = Some(*bytes),
            Act::Chunked => chunked = true,
            _ => {}
        }
    }
    let begin = tokio::time::Instant::now();
    let mut written = 0;
    loop {
        for (_, stop) in stops.iter().filter(|(at, _)| *at == written) {
            match stop {
                Stop::Hold(gate) => gate.wait().await,
                Stop::Cut => {
                    stream.shutdown().await?;
                    return Ok(false);
                }
                Stop::Reset => {
                    stream.set_zero_linger()?;
                    return Ok(false);
                }
            }
        }
        if written == body.len() {
            if chunked {
                stream.write_all(b"0\r\n\r\n").await?;
            }
            return Ok(true);
        }
        let next_stop = stops.iter().map(|(at, _)| *at).filter(|at| *at > written).min();
        let end = (written + piece as u64)
            .min(body.len())
            .min(next_stop.unwrap_or(u64::MAX));
        // What is to break off is announced as longer than it is.
        let whole_chunk = next_stop.is_none_or(|stop| stop != end);
        if chunked {
            let more = u64::from(!whole_chunk);
            let head = format!("{:x}\r\n", end - written + more);
            stream.write_all(head.as_bytes()).await?;
        }
        stream.write_all(&body.slice(written, end).bytes()).await?;
        if chunked && whole_chunk {
            stream.write_all(b"\r\n").await?;
        }
        written = end;
        if let Some(rate) = rate {
            tokio::time::sleep_until(begin + Duration::from_micros(written * 1_000_000 / rate)).await;
        }
        if let Some(pause) = pause {
            tokio::time::sleep(pause).await;
        }
    }
}

/// A remote in front of a server, with the patience of a test.
pub fn remote(server: &Server) -> entrepot::config::RemoteConfig {
    entrepot::config::RemoteConfig {
        revalidate_timeout: Duration::from_millis(300),
        connect_timeout: Duration::from_secs(2),
        first_byte_timeout: Duration::from_secs(2),
        idle_timeout: Duration::from_secs(1),
        connections: 8,
        // Requests are counted: what is not asked for is switched on by those who test it.
        fetch_parts: 1,
        prefetch_layers: false,
        ..entrepot::config::RemoteConfig::of(server.url().parse().unwrap())
    }
}

/// Credentials that no other host may ever see.
pub fn credentials() -> entrepot::config::Login {
    login("ada", "lovelace")
}

/// A user and password.
pub fn login(username: &str, password: &str) -> entrepot::config::Login {
    entrepot::config::Login::Password(entrepot::config::Credentials {
        username: username.to_owned(),
        password: entrepot::config::Secret::new(password),
    })
}

/// A port in front of a server that speaks TLS, with a certificate that nobody vouches for. Ends with the set.
pub async fn behind_tls(server: &Server) -> (String, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let address = server.shared.address;
    let mut running = JoinSet::new();
    running.spawn(async move {
        while let Ok((outside, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut outside = acceptor.accept(outside).await?;
                let mut inside = TcpStream::connect(address).await?;
                tokio::io::copy_bidirectional(&mut outside, &mut inside).await
            });
        }
    });
    (url, running)
}
