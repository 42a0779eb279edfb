//! A8: a runtime whose threads do not come back. The server runs in this process for it, so that they can be kept away.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use entrepot::app::{App, Source};
use tokio::runtime::Runtime;

use crate::raw::LONG;

const WORKERS: usize = 2;
/// When a runtime that has done nothing meanwhile counts as stuck.
const STUCK: Duration = Duration::from_secs(10);

struct Server {
    runtime: Runtime,
    app: App,
    address: SocketAddr,
    _directory: tempfile::TempDir,
}

fn start() -> Server {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("repositories.yml");
    std::fs::write(
        &path,
        "server: { listen: '127.0.0.1:0' }\nstorage: { path: data }\nrepositories: { docker: { type: local } }\n",
    )
    .expect("written");
    let source = Source {
        path: Some(path),
        environment: [("ENTREPOT__STORAGE__MIN_FREE", "0%")].into_iter().collect(),
    };
    let loaded = source.load().unwrap_or_else(|problems| panic!("{problems:?}"));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .expect("a runtime");
    let app = runtime.block_on(App::start(source, loaded)).expect("starts");
    Server {
        address: app.addresses()[0],
        runtime,
        app,
        _directory: directory,
    }
}

impl Server {
    /// Keeps so many of the runtime's threads from anything else, until what is returned is dropped.
    fn block(&self, workers: usize) -> Vec<Sender<()>> {
        let (begin, blocked_now) = channel();
        let blocked = (0..workers)
            .map(|_| {
                let (release, released) = channel::<()>();
                let begin = begin.clone();
                self.runtime.spawn(async move {
                    let _ = begin.send(());
                    released.recv()
                });
                release
            })
            .collect();
        for _ in 0..workers {
            blocked_now.recv_timeout(LONG).expect("it is blocked");
        }
        blocked
    }

    fn stop(self) {
        self.runtime.block_on(self.app.stop());
    }
}

/// What `/livez` says, if anything within this time.
fn live(address: SocketAddr, within: Duration) -> Option<u16> {
    let mut stream = TcpStream::connect(address).expect("the kernel takes it");
    stream.set_read_timeout(Some(within)).expect("set");
    stream
        .write_all(b"GET /livez HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        .expect("sent");
    let mut status = [0; 12];
    stream.read_exact(&mut status).ok()?;
    std::str::from_utf8(&status[9..]).ok()?.parse().ok()
}

#[test]
fn a08_one_blocked_thread_is_no_reason_to_restart() {
    let server = start();
    let blocked = server.block(1);
    let began = Instant::now();
    while began.elapsed() <= STUCK + Duration::from_secs(1) {
        assert_eq!(live(server.address, LONG), Some(200), "after {:?}", began.elapsed());
        thread::sleep(Duration::from_millis(100));
    }
    drop(blocked);
    server.stop();
}

#[test]
fn a08_a_blocked_runtime_is_alive_until_it_is_stuck() {
    let server = start();
    let address = server.address;
    // Half of the time: who asked meanwhile hears late that all is well.
    let blocked = server.block(WORKERS);
    let asking = thread::spawn(move || live(address, LONG));
    thread::sleep(STUCK / 2);
    assert!(!asking.is_finished(), "it is blocked");
    drop(blocked);
    assert_eq!(asking.join().expect("no panic"), Some(200));
    // All of it, and whoever asks hears nothing good.
    let blocked = server.block(WORKERS);
    thread::sleep(STUCK);
    assert_ne!(live(address, Duration::from_secs(1)), Some(200));
    drop(blocked);
    // Well again as soon as it turns.
    let began = Instant::now();
    while live(address, LONG) != Some(200) {
        assert!(began.elapsed() < LONG, "it does not come back");
        thread::sleep(Duration::from_millis(50));
    }
    server.stop();
}
