//! S5: wrong passwords by the thousand beside right ones.
//!
//! The table's figures are 1,000 wrong and 5,000 right ones a second. A debug binary on a machine that does other things reaches a part of
//! that: what it reaches is measured first, and the flood is paced at a third of it, five right ones for one wrong one as in the
//! table. At the full size it is the table's, for a release binary on a quiet machine.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::net::TcpSocket;

use crate::binary::{Registry, temporary};
use crate::raw::percentile;
use crate::support::size::is_full;

/// Right ones a second, as in the table.
const FULL: f64 = 5000.0;
/// Connections of those who are right.
const RIGHT: usize = 8;
/// Of those who are not, each at an address of its own, where it has to be made to wait for itself. More than there are places to wait
/// for a hash.
const WRONG: u8 = 100;
/// How long a phase lasts. Phases are compared by the second of each that whatever else runs here disturbed least.
const SECONDS: usize = 6;
const PHASE: Duration = Duration::from_secs(SECONDS as u64);
/// Shorter differences are the scheduler's: on two processors that others use too, a thread that hashes keeps one of them for a
/// slice or two of its time.
const NOISE: Duration = Duration::from_millis(10);

/// A connection kept open.
struct Client(TcpStream);

impl Client {
    /// From an address of loopback.
    async fn new(registry: &Registry, from: [u8; 4]) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(SocketAddr::from((from, 0))).expect("an address");
        let address = registry.address().parse().expect("an address");
        let stream = socket.connect(address).await.expect("connects");
        let stream = stream.into_std().expect("a stream");
        stream.set_nonblocking(false).expect("an option");
        stream.set_nodelay(true).expect("an option");
        Self(stream)
    }

    /// Logs in; the status of the answer.
    fn log_in(&mut self, user: &str, password: &str) -> u16 {
        let proof = STANDARD.encode(format!("{user}:{password}"));
        let request = format!("GET /v2/ HTTP/1.1\r\nhost: registry\r\nauthorization: Basic {proof}\r\n\r\n");
        self.0.write_all(request.as_bytes()).expect("sent");
        let (mut answer, mut some) = (Vec::new(), [0; 4096]);
        loop {
            let read = self.0.read(&mut some).expect("an answer");
            assert!(read > 0, "the connection was closed");
            answer.extend_from_slice(&some[..read]);
            let text = String::from_utf8_lossy(&answer);
            let Some((head, body)) = text.split_once("\r\n\r\n") else {
                continue;
            };
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.and_then(|length| length.parse().ok()).unwrap_or(0) {
                return head[9..12].parse().expect("a status");
            }
        }
    }
}

/// Somebody who logged in, or tried to.
struct Login {
    began: Instant,
    took: Duration,
}

/// When the next of many is to log in, whoever of them is free.
struct Pace {
    next: Mutex<Instant>,
    pause: Duration,
    over: AtomicBool,
}

impl Pace {
    fn new(a_second: f64) -> Arc<Self> {
        Arc::new(Self {
            next: Mutex::new(Instant::now()),
            pause: Duration::from_secs_f64(1.0 / a_second),
            over: AtomicBool::new(false),
        })
    }

    /// Logs in again and again until told.
    fn keep(&self, mut log_in: impl FnMut() -> u16, expected: &[u16]) -> Vec<Login> {
        let mut took = Vec::new();
        while !self.over.load(Ordering::Relaxed) {
            let due = {
                // Who is late begins anew: a burst is not what is measured.
                let mut next = self.next.lock().expect("whole");
                let due = (*next).max(Instant::now());
                *next = due + self.pause;
                due
            };
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let began = Instant::now();
            let said = log_in();
            took.push(Login {
                began,
                took: began.elapsed(),
            });
            assert!(expected.contains(&said), "{said}");
        }
        took
    }
}

fn all(threads: Vec<thread::JoinHandle<Vec<Login>>>) -> Vec<Login> {
    let mut all: Vec<Login> = threads
        .into_iter()
        .flat_map(|thread| thread.join().expect("ends"))
        .collect();
    all.sort_by_key(|login| login.began);
    all
}

/// What one of a hundred takes, in the best second.
fn best(logins: &[Login]) -> Duration {
    let window = |login: &Login| (login.began - logins[0].began).as_secs();
    let seconds = logins.chunk_by(|one, other| window(one) == window(other));
    let of_second = |second: &[Login]| {
        let mut took: Vec<Duration> = second.iter().map(|login| login.took).collect();
        took.sort();
        percentile(&took, 99)
    };
    // The last one may be short.
    seconds.take(SECONDS).map(of_second).min().expect("some")
}

fn count(logins: &[Login]) -> f64 {
    f64::from(u32::try_from(logins.len()).expect("not so many"))
}

fn slowest(logins: &[Login]) -> Duration {
    logins.iter().map(|login| login.took).max().expect("some")
}

/// So many right ones a second for one phase.
async fn right_ones(registry: &Registry, a_second: f64, meanwhile: impl AsyncFnOnce()) -> Vec<Login> {
    let (pace, mut threads) = (Pace::new(a_second), Vec::new());
    for _ in 0..RIGHT {
        let (mut client, pace) = (Client::new(registry, [127, 0, 0, 1]).await, Arc::clone(&pace));
        threads.push(thread::spawn(move || {
            pace.keep(|| client.log_in("ada", "pass-ada"), &[200])
        }));
    }
    tokio::time::sleep(PHASE).await;
    meanwhile().await;
    pace.over.store(true, Ordering::Relaxed);
    all(threads)
}

/// Wrong ones, so many a second, until told.
async fn wrong_ones(registry: &Registry, pace: &Arc<Pace>) -> Vec<thread::JoinHandle<Vec<Login>>> {
    let guesses = Arc::new(AtomicU64::new(0));
    let mut threads = Vec::new();
    for number in 0..WRONG {
        let (mut client, pace) = (Client::new(registry, [127, 0, 1, number]).await, Arc::clone(pace));
        let guesses = Arc::clone(&guesses);
        threads.push(thread::spawn(move || {
            let guess = || {
                // Half of them at one who is known, none twice.
                let guess = guesses.fetch_add(1, Ordering::Relaxed);
                let user = if guess.is_multiple_of(2) { "ada" } else { "eve" };
                client.log_in(user, &format!("guess-{guess}"))
            };
            pace.keep(guess, &[401, 429, 503])
        }));
    }
    threads
}

/// How late a thread is that has nothing to do, until told; in one of a hundred times.
fn control(done: &AtomicBool) -> Duration {
    let mut late = Vec::new();
    while !done.load(Ordering::Relaxed) {
        let due = Instant::now() + Duration::from_millis(1);
        thread::sleep(Duration::from_millis(1));
        late.push(due.elapsed());
    }
    late.sort();
    percentile(&late, 99)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s05_a_flood_of_wrong_passwords_beside_right_ones() {
    let directory = temporary();
    let file = directory.path().join("htpasswd");
    // At this cost a hash takes longer than anything else here: whoever waited for one would show.
    let ada = bcrypt::hash("pass-ada", 13).expect("a hash");
    let began = Instant::now();
    assert!(bcrypt::verify("pass-ada", &ada).expect("a hash"));
    let one_hash = began.elapsed();
    let bob = bcrypt::hash("pass-bob", 5).expect("a hash");
    std::fs::write(&file, format!("ada:{ada}\nbob:{bob}\n")).expect("written");
    let configuration = "
server: { listen: '127.0.0.1:0' }
storage: { path: data }
auth: { htpasswd: ./htpasswd, policies: [{ who: [ada, bob], may: pull, on: '**' }] }
repositories: { docker: { type: local } }
";
    let registry = Registry::start_in(&directory, configuration);
    let (mut first, mut bob) = (
        Client::new(&registry, [127, 0, 0, 1]).await,
        Client::new(&registry, [127, 0, 0, 1]).await,
    );
    assert_eq!(first.log_in("ada", "pass-ada"), 200);
    assert_eq!(bob.log_in("bob", "pass-bob"), 200);
    let reached = count(&right_ones(&registry, 1e6, async || {}).await) / PHASE.as_secs_f64();
    let right = if is_full() { FULL } else { (reached / 3.0).min(FULL) };
    let quiet = right_ones(&registry, right, async || {}).await;
    let (pace, done) = (Pace::new(right / 5.0), Arc::new(AtomicBool::new(false)));
    let (guessing, ended) = (wrong_ones(&registry, &pace).await, Arc::clone(&done));
    let machine = thread::spawn(move || control(&ended));
    let mut took = Duration::ZERO;
    let flooded = right_ones(&registry, right, async || {
        // Bob is taken out while all that goes on.
        std::fs::write(&file, format!("ada:{ada}\n")).expect("written");
        registry.signal("-HUP");
        let began = Instant::now();
        // When he was let in last: to be told that he is nobody may take him a hash.
        while bob.log_in("bob", "pass-bob") == 200 {
            took = began.elapsed();
            assert!(took < Duration::from_secs(30), "bob stays");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    done.store(true, Ordering::Relaxed);
    pace.over.store(true, Ordering::Relaxed);
    let (wrong, machine) = (all(guessing).len(), machine.join().expect("ends"));
    let (alone, beside) = (best(&quiet), best(&flooded));
    let figures = format!(
        "{reached:.0}/s reached, {right:.0}/s asked; {} right ones in {alone:?}, {} beside {wrong} wrong ones in {beside:?}, {:?} at \
         most; the machine {machine:?}; one hash {one_hash:?}; out after {took:?}",
        quiet.len(),
        flooded.len(),
        slowest(&flooded)
    );
    assert!(
        wrong * 6 >= flooded.len() && flooded.len() * 2 >= quiet.len(),
        "{figures}"
    );
    assert!(beside <= (2 * alone).max(alone + NOISE + machine), "{figures}");
    // One hash each, at the first login, and none for what they show again: also when the file was read anew.
    assert!(slowest(&quiet).max(slowest(&flooded)) < one_hash, "{figures}");
    assert!(took < Duration::from_secs(1), "{figures}");
}
