//! A3: sixty-four transfers at once, and trouble beside them, where there are 256 MiB of memory.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use entrepot::oci::{Algorithm, Digest};
use futures_util::stream;
use reqwest::{Body, StatusCode};
use tokio::task::JoinSet;

use crate::binary::{OCI_INDEX, Registry, expect, temporary};
use crate::raw::peak;
use crate::support::size::is_full;
use crate::support::upstream::{ALWAYS, Act, Server, pattern, pattern_digest};

const MEBIBYTE: u64 = 1 << 20;
/// What the whole group of processes may have, file caches too.
const LIMIT: u64 = 256 * MEBIBYTE;
/// What the server may have in memory at any time.
const RESIDENT: u64 = 200 * MEBIBYTE;
const HITS: usize = 24;
const MISSES: usize = 20;
const PUSHES: usize = 20;
/// No transfer takes this long unless it hangs.
const LASTING: Duration = Duration::from_secs(600);
/// How often each kind of trouble is made.
const TROUBLES: usize = 4;

/// A control group with a limit of memory. Making one takes root.
struct Group(PathBuf);

impl Group {
    fn new() -> Option<Self> {
        let name = format!("entrepot-{}", std::process::id());
        let root = Path::new("/sys/fs/cgroup");
        let (parent, limit) = if root.join("memory/tasks").exists() {
            (root.join("memory"), "memory.limit_in_bytes")
        } else {
            (root.to_owned(), "memory.max")
        };
        let group = parent.join(name);
        std::fs::create_dir(&group).ok()?;
        let group = Self(group);
        std::fs::write(group.0.join(limit), LIMIT.to_string()).ok()?;
        Some(group)
    }

    /// How many processes were ended for want of memory.
    fn killed(&self) -> u64 {
        ["memory.oom_control", "memory.events"]
            .iter()
            .filter_map(|file| std::fs::read_to_string(self.0.join(file)).ok())
            .find_map(|text| {
                text.lines()
                    .find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok())
            })
            .expect("the group tells")
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

fn start(group: Option<&Group>, server: &Server) -> Registry {
    let directory = temporary();
    let file = directory.path().join("repositories.yml");
    let configuration = format!(
        "server: {{ listen: '127.0.0.1:0' }}\nstorage: {{ path: data }}\nrepositories:\n  docker: {{ type: local }}\n  \
         hub: {{ type: remote, url: '{}', insecure: true }}\n",
        server.url()
    );
    std::fs::write(&file, configuration).expect("a configuration file");
    let mut command = Command::new("sh");
    let tasks = group.map_or_else(|| "/dev/null".into(), |group| group.0.join("cgroup.procs"));
    command.args(["-c", r#"echo $$ > "$0" && exec "$@""#]).arg(tasks);
    command
        .arg(env!("CARGO_BIN_EXE_entrepot"))
        .args(["serve", "-c"])
        .arg(&file)
        .env("ENTREPOT__STORAGE__MIN_FREE", "0%");
    Registry::started_by(&directory, &mut command)
}

fn pieces(length: u64) -> impl Iterator<Item = Bytes> {
    (0..length.div_ceil(MEBIBYTE)).map(move |piece| pattern(piece * MEBIBYTE, ((piece + 1) * MEBIBYTE).min(length)))
}

async fn push(registry: Arc<Registry>, length: u64, digest: Digest) {
    let response = registry
        .post("/v2/docker/a/blobs/uploads/")
        .send()
        .await
        .expect("an answer");
    let response = expect(response, StatusCode::ACCEPTED).await;
    let location = response.headers()["location"].to_str().expect("text").to_owned();
    let location = if location.starts_with('/') {
        registry.url(&location)
    } else {
        location
    };
    let body = Body::wrap_stream(stream::iter(pieces(length).map(Ok::<_, std::io::Error>)));
    let response = registry
        .client
        .put(format!("{location}?digest={digest}"))
        .header("content-length", length)
        .timeout(LASTING)
        .body(body)
        .send()
        .await
        .expect("an answer");
    expect(response, StatusCode::CREATED).await;
}

/// Reads a blob of the pattern, and looks at every byte of it.
async fn pull(registry: Arc<Registry>, repository: &'static str, digest: Digest) {
    let request = registry
        .get(&format!("/v2/{repository}/a/blobs/{digest}"))
        .timeout(LASTING);
    let mut response = expect(request.send().await.expect("an answer"), StatusCode::OK).await;
    let mut hash = Algorithm::Sha256.hasher();
    while let Some(piece) = response.chunk().await.expect("whole") {
        hash.update(&piece);
    }
    assert_eq!(hash.finish(), digest);
}

/// Manifests without end, bombs, and documents that mean to be large once they are read (F4, F12, S11).
async fn trouble(registry: &Registry, server: &Server) {
    server.on("GET /v2/endless/", ALWAYS, [Act::Pattern(10 << 30), Act::Chunked]);
    server.on("GET /v2/longer/", ALWAYS, [Act::Pattern(10 << 30), Act::Unmeasured]);
    let zeros = Act::Body(Bytes::from(vec![0; (4 << 20) - 1]));
    let compressed = Act::Header("content-encoding", "gzip".to_owned());
    server.on("GET /v2/bomb/", ALWAYS, [zeros, compressed]);
    for _ in 0..TROUBLES {
        for image in ["endless", "longer", "bomb"] {
            let response = registry
                .get(&format!("/v2/hub/{image}/manifests/v1"))
                .send()
                .await
                .expect("an answer");
            assert!(!response.status().is_success(), "{image}");
        }
        let deep = format!(
            r#"{{"schemaVersion":2,"x":{}{}}}"#,
            "[".repeat(2_000_000),
            "]".repeat(2_000_000)
        );
        let many = format!(r#"{{"schemaVersion":2,"manifests":[{}{{}}]}}"#, "{},".repeat(1_000_000));
        for document in [deep, many] {
            let request = registry
                .put("/v2/docker/a/manifests/v1")
                .header("content-type", OCI_INDEX);
            let response = request.body(document).send().await.expect("an answer");
            assert!(response.status().is_client_error(), "{}", response.status());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a03_sixty_four_large_transfers_in_little_memory() {
    // One byte more for each: so there are no two of the same.
    let large = if is_full() { 1024 * MEBIBYTE } else { 24 * MEBIBYTE };
    let server = Server::start().await;
    let cold: Vec<Digest> = (1..=MISSES as u64)
        .map(|more| server.put_pattern("a", large + more))
        .collect();
    // Hashed before: who hashes for seconds between two steps of a request is a slow client, and sent away.
    let fresh: Vec<(u64, Digest)> = (1..=PUSHES as u64)
        .map(|more| large + 100 + more)
        .map(|length| (length, pattern_digest(length)))
        .collect();
    let hit = (large, pattern_digest(large));
    // As root there is a limit; without, only what the server has is looked at.
    let group = Group::new();
    assert!(
        group.is_some() || !is_full(),
        "the full size takes root, and a control group of memory"
    );
    let registry = Arc::new(start(group.as_ref(), &server));
    push(Arc::clone(&registry), hit.0, hit.1.clone()).await;

    // Each on its own: a client that is kept from its connection by others is sent away as a slow one.
    let mut transfers = JoinSet::new();
    for _ in 0..HITS {
        transfers.spawn(pull(Arc::clone(&registry), "docker", hit.1.clone()));
    }
    for digest in cold {
        transfers.spawn(pull(Arc::clone(&registry), "hub", digest));
    }
    for (length, digest) in &fresh {
        transfers.spawn(push(Arc::clone(&registry), *length, digest.clone()));
    }
    trouble(&registry, &server).await;
    while let Some(ended) = transfers.join_next().await {
        ended.expect("it is whole");
    }
    for (_, digest) in fresh {
        let path = format!("/v2/docker/a/blobs/{digest}");
        expect(registry.head(&path).send().await.expect("an answer"), StatusCode::OK).await;
    }
    let peak = peak(&registry);
    assert!(peak <= RESIDENT, "{} MiB in memory", peak / MEBIBYTE);
    if let Some(group) = &group {
        assert_eq!(group.killed(), 0, "ended for want of memory");
    }
    Arc::into_inner(registry).expect("nobody else has it").stop();
}
