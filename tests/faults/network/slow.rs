//! F5: upstreams that take their time: a byte now and then, in the body or before it, or no connection at all. Each is
//! given up when the configuration says so, and nobody else waits for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use entrepot::cache::PullThrough;
use entrepot::config::RemoteConfig;
use entrepot::oci::media_type::OCI_MANIFEST;
use entrepot::upstream::Error;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;

use super::asking::{asking, blob, image, manifest};
use crate::support::remote::{Remote, pulling, reference, until};
use crate::support::upstream::{ALWAYS, Act, Image, Server, noise, remote};

const CONNECT: Duration = Duration::from_millis(300);
const FIRST_BYTE: Duration = Duration::from_millis(600);
const IDLE: Duration = Duration::from_millis(500);
/// What a wait may be longer than it should on a machine that is busy with something else.
const MARGIN: Duration = Duration::from_secs(4);

fn impatient(server: &Server) -> RemoteConfig {
    RemoteConfig {
        connect_timeout: CONNECT,
        first_byte_timeout: FIRST_BYTE,
        idle_timeout: IDLE,
        ..remote(server)
    }
}

/// A port that takes no connection: its queue is full, and nobody empties it.
struct BlackHole {
    url: url::Url,
    _listener: TcpListener,
    _queue: Vec<TcpStream>,
}

impl BlackHole {
    async fn open() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let mut queue = Vec::new();
        while let Ok(stream) = timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
            queue.push(stream.unwrap());
            assert!(queue.len() < 1000, "a queue without an end");
        }
        Self {
            url: format!("http://{address}").parse().unwrap(),
            _listener: listener,
            _queue: queue,
        }
    }
}

#[tokio::test]
async fn f05_a_byte_now_and_then_is_given_up() {
    let server = Server::start().await;
    let put = server.put_image("a", "v1", &[noise(100_000, 1)]);
    let upstream = asking(&impatient(&server));
    let drip = Act::Trickle(1, Duration::from_millis(50));

    // In the body. It is never idle, and yet too slow.
    server.on("GET /blobs/", ALWAYS, [drip.clone()]);
    let begin = Instant::now();
    let error = blob(&upstream, "a", &put.layers[0]).await.unwrap_err();
    assert!(matches!(error, Error::Slow { .. }), "{error}");
    assert!(begin.elapsed() < 2 * IDLE + MARGIN);

    // In the headers.
    let answer = Bytes::from(format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {OCI_MANIFEST}\r\nX: {}\r\n\r\n",
        "x".repeat(500)
    ));
    server.behave();
    server.on("GET /v2/", ALWAYS, [Act::Raw(answer), drip]);
    for _ in 0..2 {
        let begin = Instant::now();
        let error = manifest(&upstream, "a", "v1").await.unwrap_err();
        assert!(matches!(error, Error::Timeout(_)), "{error}");
        assert!(begin.elapsed() < FIRST_BYTE + MARGIN);
        let begin = Instant::now();
        let error = blob(&upstream, "a", &put.layers[0]).await.unwrap_err();
        assert!(matches!(error, Error::Timeout(_)), "{error}");
        assert!(begin.elapsed() < FIRST_BYTE + MARGIN);
    }
    server.behave();
    let well = loop {
        match manifest(&upstream, "a", "v1").await {
            // Whoever fails often is left alone for a moment first.
            Err(Error::Open { retry_after, .. }) => tokio::time::sleep(retry_after).await,
            answer => break answer,
        }
    };
    assert_eq!(well, Ok(Some(put.digest)));
}

#[tokio::test]
async fn f05_a_manifest_that_stops_is_given_up() {
    let server = Server::start().await;
    let put = server.put_image("a", "v1", &[]);
    let upstream = asking(&impatient(&server));
    let gate = crate::support::upstream::Gate::new();
    server.on("GET /v2/", ALWAYS, [Act::HoldAfter(20, gate.clone())]);
    let begin = Instant::now();
    let error = manifest(&upstream, "a", "v1").await.unwrap_err();
    assert!(matches!(error, Error::Timeout(_)), "{error}");
    assert!(upstream.tags(&image("a")).await.is_err());
    assert!(begin.elapsed() < 2 * (FIRST_BYTE + IDLE) + MARGIN);
    server.behave();
    gate.open();
    assert_eq!(manifest(&upstream, "a", "v1").await, Ok(Some(put.digest)));
}

#[tokio::test]
async fn f05_no_connection_is_given_up() {
    let (server, hole) = (Server::start().await, BlackHole::open().await);
    let mut config = impatient(&server);
    config.url = hole.url.clone();
    // As the registry itself.
    let upstream = asking(&config);
    for _ in 0..2 {
        let begin = Instant::now();
        let error = manifest(&upstream, "a", "v1").await.unwrap_err();
        assert!(matches!(error, Error::Timeout(_)) && error.is_outage(), "{error}");
        assert!(begin.elapsed() < FIRST_BYTE + MARGIN);
    }
    // And as what a registry that is well leads to.
    let put = server.put_image("a", "v1", &[noise(100, 2)]);
    let upstream = asking(&impatient(&server));
    server.on("GET /blobs/", ALWAYS, [Act::Redirect(format!("{}x", hole.url))]);
    let begin = Instant::now();
    assert!(blob(&upstream, "a", &put.layers[0]).await.is_err());
    assert!(begin.elapsed() < FIRST_BYTE + MARGIN);
    server.behave();
    server.demand_bearer_of(&format!("{}token", hole.url), &server);
    let begin = Instant::now();
    assert!(manifest(&upstream, "a", "v1").await.is_err());
    assert!(begin.elapsed() < FIRST_BYTE + MARGIN);
}

/// Two remotes over one store: one whose upstream can be made slow, and one whose upstream is well.
struct Pair {
    slow: Server,
    kept: Image,
    remote: Remote,
    well: Server,
    other: PullThrough,
}

impl Pair {
    async fn start() -> Self {
        let (slow, well) = (Server::start().await, Server::start().await);
        let kept = slow.put_image("kept", "v1", &[noise(20_000, 3)]);
        let config = RemoteConfig {
            first_byte_timeout: Duration::from_secs(20),
            idle_timeout: Duration::from_secs(20),
            ..remote(&slow)
        };
        let pulled = pulling(&config).await;
        assert!(pulled.tag("kept", "v1").await.unwrap().is_some());
        pulled.whole("kept", &kept.layers[0]).await.unwrap();
        let other = PullThrough::new(
            &"other".parse().unwrap(),
            &remote(&well),
            4 << 20,
            pulled.store.clone(),
            Arc::clone(&pulled.metrics),
            entrepot::cache::load::Load::new(1000),
        );
        Self {
            slow,
            kept,
            remote: pulled,
            well,
            other: other.unwrap(),
        }
    }

    /// How long it takes to get what is here, and to get from the other upstream what is not: nearly the longest.
    async fn measure(&self, round: &str) -> [Duration; 2] {
        let (mut hits, mut misses) = (Vec::new(), Vec::new());
        for number in 0..40 {
            let begin = Instant::now();
            assert!(self.remote.tag("kept", "v1").await.unwrap().is_some());
            let (_, bytes) = self.remote.whole("kept", &self.kept.layers[0]).await.unwrap();
            assert_eq!(bytes.len(), 20_000);
            hits.push(begin.elapsed());
            let name = format!("{round}/{number}");
            self.well.put_image(&name, "v1", &[]);
            let begin = Instant::now();
            let answer = self.other.manifest(&image(&name), &reference("v1")).await;
            assert!(answer.unwrap().is_some());
            misses.push(begin.elapsed());
        }
        [hits, misses].map(|mut times| {
            times.sort();
            times[38]
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f05_nobody_else_waits_for_a_slow_upstream() {
    let pair = Arc::new(Pair::start().await);
    let before = pair.measure("before").await;
    // Half of them wait for a head that drips, the others for such a body.
    let drip = || Act::Trickle(1, Duration::from_secs(1));
    let head = Bytes::from_static(b"HTTP/1.1 200 OK\r\nX: yyyyyyyyyyyyyyyyyyyy\r\n\r\n");
    pair.slow.on("GET /manifests/", ALWAYS, [Act::Raw(head), drip()]);
    pair.slow.on("GET /blobs/", ALWAYS, [drip()]);
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..64 {
        let blob = pair.slow.put_blob("slow", &noise(50_000, 100 + number));
        let pair = Arc::clone(&pair);
        clients.spawn(async move {
            if number % 2 == 0 {
                let _ = pair.remote.tag(&format!("slow/{number}"), "v1").await;
            } else {
                let _ = pair.remote.whole("slow", &blob).await;
            }
        });
    }
    until("every connection to the slow one is taken", || {
        pair.slow.asked("GET /slow") >= 6
    })
    .await;
    let mut during = Vec::new();
    for round in 0..3 {
        let [hits, misses] = pair.measure(&format!("during/{round}")).await;
        during.push([hits, misses]);
        // The machine is shared with other tests: one quiet round is enough to see that nobody waits.
        let is_unmoved = |now: Duration, then: Duration| now <= then.mul_f64(1.2) + Duration::from_millis(1);
        if is_unmoved(hits, before[0]) && is_unmoved(misses, before[1]) {
            break;
        }
    }
    // No quiet round: then at least nobody has waited for the slow one, which would have been seconds.
    let longest = during.iter().flatten().max().unwrap();
    assert!(*longest < Duration::from_millis(900), "{before:?} {during:?}");
    assert!(
        !clients.is_empty() && pair.slow.asked("GET /slow") < 64,
        "they still wait"
    );
    clients.shutdown().await;
}
