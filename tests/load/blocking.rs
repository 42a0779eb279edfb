//! A12: nothing that takes long runs where everything else has to wait for it.
//!
//! The binary has one thread for its tasks here, so whatever a task does for long is seen from outside: an easy request that comes
//! meanwhile waits for it. What it waited for a processor is no task's doing; the kernel says how long that was
//! (`/proc/PID/task/TID/schedstat`), and it is taken off; so is what any one of the other threads waited, which may hold what a task
//! needs. Of the rest, what a pair of threads of the test itself is late by in the
//! same run is the machine's.

use std::collections::HashMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use reqwest::StatusCode;

use crate::binary::{Registry, entrepot, expect, temporary};
use crate::support::upstream::{Server, noise};

const LONGEST: Duration = Duration::from_millis(50);
const LOAD: Duration = Duration::from_secs(8);
const LIVEZ: &[u8] = b"GET /livez HTTP/1.1\r\nhost: registry\r\n\r\n";

/// The same of all other threads of a process, those that have ended left out.
fn others(process: &str, threads: &[String]) -> HashMap<PathBuf, Duration> {
    let entries = fs::read_dir(process).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    let others = paths.filter(|path| !threads.iter().any(|thread| path.as_path() == Path::new(thread)));
    others
        .filter_map(|path| {
            let text = fs::read_to_string(path.join("schedstat")).ok()?;
            let nanoseconds = text.split_whitespace().nth(1)?.parse().ok()?;
            Some((path, Duration::from_nanos(nanoseconds)))
        })
        .collect()
}

/// For how long a thread was ready to run and no processor was.
fn waited(thread: &str) -> Duration {
    let text = fs::read_to_string(format!("{thread}/schedstat")).expect("a kernel that counts");
    let nanoseconds = text.split_whitespace().nth(1).and_then(|number| number.parse().ok());
    Duration::from_nanos(nanoseconds.expect("a number"))
}

/// The threads of a process that tasks run on: the first one, and the runtime's own, which is older than those for what blocks.
fn of_tasks(process: u32) -> Vec<String> {
    let folder = format!("/proc/{process}/task");
    let entries = fs::read_dir(&folder).expect("threads").map(|entry| entry.expect("one"));
    let mut threads: Vec<u32> = entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    threads.sort_unstable();
    let is_worker = |thread: &&u32| {
        let name = fs::read_to_string(format!("{folder}/{thread}/comm")).unwrap_or_default();
        name.starts_with("tokio")
    };
    let worker = threads.iter().find(is_worker).expect("a worker");
    [threads[0], *worker]
        .map(|thread| format!("{folder}/{thread}"))
        .to_vec()
}

/// One question and its answer after the other, until told: how long the longest took, less what nobody could help, and how many
/// there were.
fn longest(address: &str, threads: &[String], done: &AtomicBool) -> (Duration, usize) {
    let mut stream = TcpStream::connect(address).expect("connects");
    stream.set_nodelay(true).expect("an option");
    let mut answer = [0; 4096];
    let (mut worst, mut count) = (Duration::ZERO, 0);
    let process = threads[0].rsplit_once('/').expect("a folder").0;
    let all = || threads.iter().map(|thread| waited(thread)).sum::<Duration>() + waited("/proc/thread-self");
    while !done.load(Ordering::Relaxed) {
        let known = others(process, threads);
        let (before, began) = (all(), Instant::now());
        stream.write_all(LIVEZ).expect("sent");
        let read = stream.read(&mut answer).expect("an answer");
        let took = began.elapsed();
        assert!(read > 0, "the connection was closed");
        let waited = all().saturating_sub(before);
        let held = others(process, threads).into_iter();
        let held = held.map(|(thread, total)| total.saturating_sub(known.get(&thread).copied().unwrap_or_default()));
        worst = worst.max(took.saturating_sub(waited + held.max().unwrap_or_default()));
        count += 1;
        thread::sleep(Duration::from_millis(3));
    }
    (worst, count)
}

/// The same between two threads that have nothing else to do: what the machine is late by that the kernel does not count.
fn control(done: &AtomicBool) -> Duration {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let (tell, told) = std::sync::mpsc::channel();
    let echo = thread::spawn(move || {
        let itself = fs::canonicalize("/proc/thread-self").expect("a thread");
        tell.send(itself.to_string_lossy().into_owned())
            .expect("somebody waits");
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut bytes = [0; 4096];
        while let Ok(read @ 1..) = stream.read(&mut bytes) {
            if stream.write_all(&bytes[..read]).is_err() {
                break;
            }
        }
    });
    let (worst, _) = longest(&address, &[told.recv().expect("a thread")], done);
    echo.join().expect("ends");
    worst
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a12_no_task_waits_for_another_ones_work() {
    let upstream = Server::start().await;
    let images: Vec<_> = (0..40)
        .map(|number| upstream.put_image("app", &format!("v{number}"), &[noise(4 << 20, 1000 + number)]))
        .collect();
    let directory = temporary();
    // As slow as what `entrepot passwd` writes.
    let hash = bcrypt::hash("pass-ada", 12).expect("a hash");
    fs::write(directory.path().join("htpasswd"), format!("ada:{hash}\n")).expect("written");
    let file = directory.path().join("repositories.yml");
    let configuration = format!(
        "server: {{ listen: '127.0.0.1:0' }}\nstorage: {{ path: data }}\nauth: {{ anonymous: all, htpasswd: ./htpasswd }}\nrepositories:\n  \
         docker: {{ type: local }}\n  cache: {{ type: remote, url: '{}', insecure: true, cache: {{ max_size: 32MiB }} }}\n",
        upstream.url()
    );
    fs::write(&file, configuration).expect("written");
    let mut command = entrepot(&["serve", "-c"]);
    command.arg(&file).env("TOKIO_WORKER_THREADS", "1");
    let registry = Registry::started_by(&directory, &mut command);
    let done = Arc::new(AtomicBool::new(false));
    let (threads, address, ended) = (
        of_tasks(registry.process()),
        registry.address().to_owned(),
        Arc::clone(&done),
    );
    let probe = thread::spawn(move || longest(&address, &threads, &ended));
    let ended = Arc::clone(&done);
    let control = thread::spawn(move || control(&ended));

    let end = Instant::now() + LOAD;
    let pushing = async |number: u64| {
        let mut turn = 0;
        while Instant::now() < end {
            turn += 1;
            let (base, content) = (format!("/v2/docker/image{number}"), noise(4 << 20, 100 * number + turn));
            registry.push_image(&base, &format!("v{turn}"), &content).await;
            let list = registry.get(&format!("{base}/tags/list")).send().await;
            expect(list.expect("an answer"), StatusCode::OK).await;
        }
        turn
    };
    let pulling = async || {
        let mut turn = 0;
        while Instant::now() < end {
            let image = &images[turn % images.len()];
            turn += 1;
            let path = format!("/v2/cache/app/blobs/{}", image.layers[0]);
            let response = registry.get(&path).send().await.expect("an answer");
            assert_eq!(response.bytes().await.expect("whole").len(), 4 << 20);
        }
        turn
    };
    // Never the same twice, so that each is computed.
    let guessing = async |user: &str| {
        let mut refused = 0;
        while Instant::now() < end {
            refused += 1;
            let guess = format!("guess-{refused}");
            let request = registry.get("/v2/").basic_auth(format!("{user}{refused}"), Some(guess));
            request.send().await.expect("an answer");
        }
        refused
    };
    let (pushes, pulls, guesses) = tokio::join!(
        join_all((0..3).map(pushing)),
        pulling(),
        join_all(["ada", "eve"].map(guessing)),
    );
    done.store(true, Ordering::Relaxed);
    let (worst, count) = probe.join().expect("ends");
    let machine = control.join().expect("ends");
    assert!(count > 100 && pulls > 3 && guesses.iter().all(|guesses| *guesses > 2));
    assert!(pushes.iter().all(|pushes| *pushes > 2), "{pushes:?}");
    assert!(
        worst <= LONGEST + machine,
        "{worst:?} late, the machine itself {machine:?}"
    );
}
