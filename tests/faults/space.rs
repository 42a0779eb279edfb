//! Too little space: of what a cache may use, and on the disk.

use std::collections::HashMap;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use entrepot::cache::{Blob, Outcome};
use entrepot::config::{CacheConfig, RemoteConfig};
use entrepot::oci::Digest;

use reqwest::StatusCode;

use crate::binary::{OCI_MANIFEST, Registry, expect, header, refused, sha256, temporary, until};
use crate::support::remote::{MIB, Remote, drain, pulling, until as until_now};
use crate::support::size::is_full;
use crate::support::upstream::{ALWAYS, Act, Gate, Server, noise, remote};

const KIB: usize = 1 << 10;

fn at_most(server: &Server, max_size: u64) -> RemoteConfig {
    let cache = CacheConfig {
        max_size: Some(max_size),
        unused_after: None,
    };
    RemoteConfig {
        cache,
        ..remote(server)
    }
}

/// All blobs on the disk: each file as it is, and its length.
fn blobs_on_disk(remote: &Remote) -> HashMap<(PathBuf, u64, i64, i64), u64> {
    fn below(path: &Path, found: &mut HashMap<(PathBuf, u64, i64, i64), u64>) {
        // They come and go while they are looked at.
        for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
            let path: PathBuf = entry.path();
            if path.is_dir() {
                below(&path, found);
            } else if let Ok(file) = entry.metadata() {
                found.insert((path, file.ino(), file.ctime(), file.ctime_nsec()), file.len());
            }
        }
    }
    let mut found = HashMap::new();
    below(&remote.directory.path().join("docker/registry/v2/blobs"), &mut found);
    found
}

/// The bytes of all blobs on the disk, and how many there are.
fn on_disk(remote: &Remote) -> (u64, usize) {
    let found = blobs_on_disk(remote);
    (found.values().sum(), found.len())
}

/// The bytes that were on the disk at one moment: those of what is there before it and after it. To look takes longer than
/// for some to go and others to come, and one sum over all of these was never there.
fn on_disk_at_once(remote: &Remote) -> u64 {
    let (before, after) = (blobs_on_disk(remote), blobs_on_disk(remote));
    before
        .iter()
        .filter(|(file, _)| after.contains_key(*file))
        .map(|(_, length)| length)
        .sum()
}

/// The path of a blob's file.
fn file_of(remote: &Remote, digest: &Digest) -> PathBuf {
    let hex = digest.hex();
    let blobs = remote.directory.path().join("docker/registry/v2/blobs/sha256");
    blobs.join(&hex[..2]).join(hex).join("data")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[expect(clippy::print_stdout, reason = "what was seen, and not only that it was enough")]
async fn d10_sixty_four_readers_at_a_tenth_of_the_space_see_nothing_of_the_eviction() {
    const BLOBS: usize = 100;
    const LENGTH: usize = 128 * KIB;
    const LIMIT: u64 = (BLOBS * LENGTH / 10) as u64;
    /// For so long at the full size.
    const LASTS: Duration = Duration::from_secs(30 * 60);
    let end = is_full().then(|| Instant::now() + LASTS);
    let server = Arc::new(Server::start().await);
    let blobs: Vec<Bytes> = (0..BLOBS as u64).map(|seed| noise(LENGTH, seed)).collect();
    let digests: Vec<Digest> = blobs.iter().map(|blob| server.put_blob("a", blob)).collect();
    let remote = Arc::new(pulling(&at_most(&server, LIMIT)).await);
    let (blobs, digests) = (Arc::new(blobs), Arc::new(digests));

    let over = Arc::new(AtomicBool::new(false));
    let highest = Arc::new(AtomicU64::new(0));
    let sampling = tokio::spawn({
        let (remote, over, highest) = (Arc::clone(&remote), Arc::clone(&over), Arc::clone(&highest));
        let server = Arc::clone(&server);
        async move {
            while !over.load(Ordering::Relaxed) {
                let accounted = remote.counted("entrepot_cache_bytes{repository=\"remote\"}");
                let reserved = remote.counted("entrepot_cache_reserved_bytes{repository=\"remote\"}");
                assert!(accounted <= LIMIT && reserved <= LIMIT, "{accounted} {reserved}");
                let bytes = on_disk_at_once(&remote);
                assert!(bytes <= LIMIT + LENGTH as u64, "{bytes} on the disk, {LIMIT} allowed");
                highest.fetch_max(bytes, Ordering::Relaxed);
                remote.store.tidy().await.unwrap();
                // Half an hour of it would not fit into memory.
                server.forget();
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
    });
    let readers = (0..64).map(|reader| {
        let (remote, blobs, digests) = (Arc::clone(&remote), Arc::clone(&blobs), Arc::clone(&digests));
        tokio::spawn(async move {
            let mut state = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(reader + 1);
            let mut hits = 0;
            let mut reads = 0;
            while end.map_or(reads < 12, |end| Instant::now() < end) {
                reads += 1;
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                // Some are wanted more often than others.
                let number = usize::try_from(state % 100 * (state >> 32 & 0x7f) / 127).unwrap() % BLOBS;
                let (outcome, bytes) = remote.whole("a", &digests[number]).await.unwrap();
                assert!(bytes == blobs[number], "blob {number} is not what it should be");
                hits += usize::from(outcome == Outcome::Hit);
            }
            (hits, reads)
        })
    });
    let readers: Vec<_> = readers.collect();
    let (mut hits, mut reads) = (0, 0);
    for reader in readers {
        let of_reader = reader.await.unwrap();
        hits += of_reader.0;
        reads += of_reader.1;
    }
    over.store(true, Ordering::Relaxed);
    sampling.await.unwrap();
    let evicted = remote.counted("entrepot_evicted_blobs_total{reason=\"max_size\",repository=\"remote\"}");
    println!(
        "D10: {reads} reads, {hits} of what was here; {evicted} blobs went; {highest:?} bytes at most, {LIMIT} allowed"
    );
    assert!(evicted > 0, "nothing had to go");
    assert!(hits > 0, "what was kept was never of use");
    assert!(highest.load(Ordering::Relaxed) > LIMIT / 2, "next to nothing was kept");
    // Nothing is left over: what the account says is what there is.
    until_now("nothing is on its way", || {
        remote.counted("entrepot_cache_reserved_bytes{repository=\"remote\"}") == 0
    })
    .await;
    let accounted = remote.counted("entrepot_cache_bytes{repository=\"remote\"}");
    assert_eq!(on_disk(&remote).0, accounted);
}

#[tokio::test]
async fn d10_a_blob_that_is_read_or_fetched_does_not_go() {
    let server = Server::start().await;
    let blobs: Vec<Bytes> = (0..3).map(|seed| noise(128 * KIB, seed)).collect();
    let digests: Vec<Digest> = blobs.iter().map(|blob| server.put_blob("a", blob)).collect();
    let remote = pulling(&at_most(&server, 200 * KIB as u64)).await;
    remote.whole("a", &digests[0]).await.unwrap();
    let read = remote.blob("a", &digests[0]).await.unwrap().unwrap();
    // There is no room for the next one, and it comes all the same.
    assert_eq!(
        remote.whole("a", &digests[1]).await.unwrap(),
        (Outcome::Miss, blobs[1].to_vec())
    );
    assert_eq!(remote.counted("entrepot_cache_no_room_total{repository=\"remote\"}"), 1);
    assert_eq!(on_disk(&remote), (128 * KIB as u64, 1));
    assert!(matches!(&read.value, Blob::Stored(_)));
    drop(read);
    // While one arrives, nobody takes its room.
    let gate = Gate::new();
    server.on("GET /blobs/", 1, [Act::HoldAfter(64 * KIB, gate.clone())]);
    let mut arriving = remote.arriving("a", &digests[1]).await;
    assert_eq!(remote.whole("a", &digests[2]).await.unwrap().1, blobs[2]);
    gate.open();
    assert_eq!(drain(&mut arriving).await.unwrap(), blobs[1]);
    drop(arriving);
    until_now("it is stored", || on_disk(&remote) == (128 * KIB as u64, 1)).await;
    assert_eq!(remote.whole("a", &digests[1]).await.unwrap().0, Outcome::Hit);
}

#[tokio::test]
async fn d10_what_has_no_length_is_kept_as_far_as_it_fits() {
    let server = Server::start().await;
    let (fits, does_not) = (noise(128 * KIB, 1), noise(300 * KIB, 2));
    server.on("GET /blobs/", ALWAYS, [Act::Unmeasured]);
    let remote = pulling(&at_most(&server, 200 * KIB as u64)).await;
    for (blob, kept) in [(fits, true), (does_not, false)] {
        let digest = server.put_blob("a", &blob);
        assert_eq!(remote.whole("a", &digest).await.unwrap().1, blob);
        assert_eq!(file_of(&remote, &digest).exists(), kept);
        assert!(on_disk(&remote).0 <= 200 * KIB as u64);
    }
}

#[tokio::test]
async fn a_blob_that_is_damaged_on_the_disk_is_fetched_again() {
    let server = Server::start().await;
    let layer = noise(128 * KIB, 1);
    let digest = server.put_blob("a", &layer);
    server.put_blob("b", &layer);
    let remote = pulling(&remote(&server)).await;
    remote.whole("a", &digest).await.unwrap();
    let path = file_of(&remote, &digest);
    let cut = |to: u64| {
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.set_len(to).unwrap();
    };
    let damages: [(&str, &dyn Fn()); 5] = [
        ("removed", &|| std::fs::remove_file(&path).unwrap()),
        ("emptied", &|| cut(0)),
        ("truncated", &|| cut(100)),
        ("longer", &|| cut(200 * KIB as u64)),
        ("with its directory", &|| {
            std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
        }),
    ];
    for (number, (what, damage)) in damages.into_iter().enumerate() {
        damage();
        // By an image that has it, and by one that would take it over.
        let image = if number % 2 == 0 { "a" } else { "b" };
        let (outcome, bytes) = remote.whole(image, &digest).await.unwrap();
        assert_eq!((outcome, bytes == layer), (Outcome::Miss, true), "{what}");
        assert_eq!(remote.whole(image, &digest).await.unwrap().0, Outcome::Hit, "{what}");
        assert_eq!(remote.whole("a", &digest).await.unwrap().0, Outcome::Hit, "{what}");
    }
    assert_eq!(server.asked("GET /v2/a/blobs/") + server.asked("GET /v2/b/blobs/"), 6);
}

/// A filesystem of 128 MiB that only the registry sees, and we through its eyes.
struct SmallDisk {
    registry: Registry,
    data: PathBuf,
}

impl SmallDisk {
    /// A registry on it, in front of this server. Mounting takes root, or a user namespace in which we are.
    fn start(server: &Server, min_free: &str) -> Self {
        let directory = temporary();
        let data = directory.path().join("data");
        std::fs::create_dir(&data).unwrap();
        let configuration = format!(
            r"
server: {{ listen: '127.0.0.1:0' }}
storage: {{ path: data, min_free: {min_free} }}
repositories:
  local: {{ type: local }}
  hub: {{ type: remote, url: '{}', insecure: true }}
",
            server.url()
        );
        let file = directory.path().join("repositories.yml");
        std::fs::write(&file, configuration).unwrap();
        let mut command = Command::new("unshare");
        if !is_root() {
            command.arg("--map-root-user");
        }
        let mount = r#"mount -t tmpfs -o size=128m tmpfs "$0" && exec "$@""#;
        command.args(["--mount", "sh", "-c", mount]).arg(&data);
        command
            .arg(env!("CARGO_BIN_EXE_entrepot"))
            .args(["serve", "-c"])
            .arg(&file);
        // Fails, and shows why, where no filesystem can be mounted: a disk that is not full shows nothing.
        let registry = Registry::started_by(&directory, &mut command);
        let data = Path::new("/proc").join(registry.process().to_string()).join("root");
        let data = data.join(directory.path().strip_prefix("/").unwrap()).join("data");
        let disk = Self { registry, data };
        let size = rustix::fs::statvfs(&disk.data).unwrap();
        assert_eq!(size.f_blocks * size.f_frsize, 128 << 20, "the small disk is not there");
        disk
    }

    /// Leaves nothing free but this.
    fn fill(&self, leave: u64) {
        let free = rustix::fs::statvfs(&self.data).unwrap();
        let filler = (free.f_bavail * free.f_frsize).saturating_sub(leave);
        let mut file = std::fs::File::create(self.data.join("filler")).unwrap();
        let piece = vec![7; 64 * KIB];
        let mut left = usize::try_from(filler).unwrap();
        while left > 0 {
            match file.write(&piece[..left.min(piece.len())]) {
                Ok(written) => left -= written,
                Err(error) => {
                    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
                    return;
                }
            }
        }
    }

    fn empty(&self) {
        std::fs::remove_file(self.data.join("filler")).unwrap();
    }

    async fn status(&self, request: reqwest::RequestBuilder) -> StatusCode {
        let response = request.send().await.expect("an answer");
        response.status()
    }

    async fn push(&self, bytes: &Bytes) -> reqwest::Response {
        let path = format!("/v2/local/app/blobs/uploads/?digest={}", sha256(bytes));
        self.registry
            .post(&path)
            .body(bytes.clone())
            .send()
            .await
            .expect("an answer")
    }

    async fn pull(&self, path: &str) -> Bytes {
        let response = self.registry.get(path).send().await.expect("an answer");
        expect(response, StatusCode::OK).await.bytes().await.expect("a body")
    }
}

async fn full_and_free_again(min_free: &str, leave: u64) {
    let server = Server::start().await;
    let hub = server.put_image("a", "v1", &[noise(2 * MIB, 1)]);
    let small = server.put_image("a", "v2", &[noise(100 * KIB, 2)]);
    let disk = SmallDisk::start(&server, min_free);
    let pushed = noise(3 * MIB, 3);
    disk.registry.push_image("/v2/local/app", "v1", &pushed).await;
    let layer = sha256(&pushed);
    let mut pulls = vec![
        "/v2/local/app/manifests/v1".to_owned(),
        format!("/v2/local/app/blobs/{layer}"),
        "/v2/hub/a/manifests/v1".to_owned(),
    ];
    let cached = [&hub.config, &hub.layers[0]];
    pulls.extend(cached.map(|digest| format!("/v2/hub/a/blobs/{digest}")));
    let mut bodies = Vec::new();
    for path in &pulls {
        bodies.push(disk.pull(path).await);
    }
    let started = disk.registry.post("/v2/local/app/blobs/uploads/").send().await.unwrap();
    let upload = header(&expect(started, StatusCode::ACCEPTED).await, "location").to_owned();
    let upload = upload
        .strip_prefix(&disk.registry.url(""))
        .unwrap_or(&upload)
        .to_owned();
    let (half, rest) = (pushed.slice(..MIB), noise(MIB, 4));
    let status = disk.status(disk.registry.patch(&upload).body(half.clone())).await;
    assert_eq!(status, StatusCode::ACCEPTED);

    disk.fill(leave);
    let lost = noise(MIB, 5);
    // As soon as it is noticed, for a second at most.
    until("a push is refused", async || {
        disk.push(&lost).await.status() == StatusCode::INSUFFICIENT_STORAGE
    })
    .await;
    for _ in 0..3 {
        let response = disk.push(&lost).await;
        assert_eq!(refused(response, StatusCode::INSUFFICIENT_STORAGE).await, "UNKNOWN");
        let status = disk.status(disk.registry.patch(&upload).body(rest.clone())).await;
        assert_eq!(status, StatusCode::INSUFFICIENT_STORAGE);
        let path = "/v2/local/app/manifests/v2";
        let manifest = disk.registry.put(path).header("content-type", OCI_MANIFEST);
        let status = disk.status(manifest.body(bodies[0].clone())).await;
        assert_eq!(status, StatusCode::INSUFFICIENT_STORAGE);
        for (path, body) in pulls.iter().zip(&bodies) {
            assert!(disk.pull(path).await == *body, "{path}");
        }
        for probe in ["/livez", "/readyz"] {
            let probe = disk.registry.get(probe);
            assert_eq!(disk.status(probe).await, StatusCode::OK);
        }
    }
    if leave > 0 {
        // What is not here is passed on, and not kept.
        let path = format!("/v2/hub/a/blobs/{}", small.layers[0]);
        assert_eq!(disk.pull(&path).await, noise(100 * KIB, 2));
        assert_eq!(disk.pull(&path).await, noise(100 * KIB, 2));
        assert_eq!(server.asked(&format!("GET /v2/a/blobs/{}", small.layers[0])), 2);
    }

    disk.empty();
    let freed = Instant::now();
    until("a push is taken", async || {
        disk.push(&lost).await.status() == StatusCode::CREATED
    })
    .await;
    assert!(freed.elapsed() < Duration::from_secs(5), "{:?}", freed.elapsed());
    // The upload that was under way goes on where it was.
    let state = disk.registry.get(&upload).send().await.unwrap();
    assert_eq!(
        header(&expect(state, StatusCode::NO_CONTENT).await, "range"),
        format!("0-{}", MIB - 1)
    );
    let whole = Bytes::from([half, rest.clone()].concat());
    let status = disk.status(disk.registry.patch(&upload).body(rest)).await;
    assert_eq!(status, StatusCode::ACCEPTED);
    let status = disk
        .status(disk.registry.put(&format!("{upload}?digest={}", sha256(&whole))))
        .await;
    assert_eq!(status, StatusCode::CREATED);
    for (path, body) in pulls.iter().zip(&bodies) {
        assert!(disk.pull(path).await == *body, "{path}");
    }
    for blob in [&lost, &whole] {
        assert!(disk.pull(&format!("/v2/local/app/blobs/{}", sha256(blob))).await == *blob);
    }
    let metrics = disk.registry.metrics().await;
    assert!(
        metrics.contains("entrepot_damaged_content_total 0"),
        "something is damaged"
    );
    assert!(disk.registry.stop().success());
}

#[tokio::test]
async fn d9_below_min_free_pushes_are_507_and_pulls_and_fills_go_on_until_there_is_room_again() {
    full_and_free_again("10%", 8 << 20).await;
}

#[tokio::test]
async fn d9_a_disk_without_a_byte_left_refuses_pushes_and_serves_what_it_has() {
    full_and_free_again("0%", 0).await;
}

fn is_root() -> bool {
    // Who this process belongs to, as the kernel shows it.
    std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}
