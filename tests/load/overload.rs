//! A4: ten times as much as there is room for.

use std::pin::pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use reqwest::Client;
use tokio::time::{Instant, sleep};

use crate::binary::{Registry, client, header, temporary, until};
use crate::raw::{metric, percentile};
use crate::support::size::is_full;
use crate::support::upstream::{ALWAYS, Act, Server};

const HIT: &str = "/v2/docker/a/manifests/hit";
/// Connections and requests at once.
const ROOM: u32 = 64;
/// For how long something is counted at a time.
const SLICE: Duration = Duration::from_secs(1);
/// After this it is as if nothing had been.
const RECOVERY: Duration = Duration::from_secs(2);

/// How often there is too much.
const SLICES: usize = 3;
/// A refusal takes no longer.
const AT_ONCE: Duration = Duration::from_millis(50);

/// Hits in a slice by four clients: by ones that keep their connections, and by ones that make a new one each time.
#[derive(Clone, Copy, Debug, Default)]
struct Goodput {
    kept: usize,
    anew: usize,
}

impl Goodput {
    async fn measure(registry: &Registry, keeping: &Client) -> Self {
        Self {
            kept: Self::hits(registry, Some(keeping)).await,
            anew: Self::hits(registry, None).await,
        }
    }

    async fn hits(registry: &Registry, keeping: Option<&Client>) -> usize {
        let end = Instant::now() + SLICE;
        let one = async || {
            let mut count = 0;
            while Instant::now() < end {
                let client = keeping.cloned().unwrap_or_else(client);
                let request = client.get(registry.url(HIT));
                let response = request.send().await.expect("an answer");
                assert_eq!(response.status(), 200, "a hit");
                response.bytes().await.expect("whole");
                count += 1;
            }
            count
        };
        join_all((0..4).map(|_| one())).await.into_iter().sum()
    }

    /// At least nine tenths of the other; half of it, where the machine has more to do than this test.
    fn is_nearly(self, other: Self) -> bool {
        let tenths = if is_full() { 9 } else { 5 };
        self.kept * 10 >= other.kept * tenths && self.anew * 10 >= other.anew * tenths
    }
}

/// Clients that ask now and then: for what is here, or for what is not, and then they come back when they are told to.
/// So there are as many of them, and as many requests, with too much under way as without.
struct Crowd<'a> {
    registry: &'a Registry,
    missing: AtomicBool,
    gone: AtomicBool,
    asked: AtomicUsize,
    refused: AtomicUsize,
    /// How long refusals took, but for those who were the first: six hundred at once are one after the other.
    took: Mutex<Vec<Duration>>,
}

impl<'a> Crowd<'a> {
    fn new(registry: &'a Registry) -> Self {
        Self {
            registry,
            missing: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            asked: AtomicUsize::new(0),
            refused: AtomicUsize::new(0),
            took: Mutex::default(),
        }
    }

    async fn ask(&self, number: u32) {
        let mut crowded = 0;
        for turn in 0.. {
            if self.gone.load(Ordering::Relaxed) {
                return;
            }
            let missing = self.missing.load(Ordering::Relaxed);
            let path = if missing {
                format!("/v2/slow/image{number}-{turn}/manifests/v1")
            } else {
                HIT.to_owned()
            };
            let began = Instant::now();
            // With a connection of its own: six hundred that are kept idle would be more than there may be.
            let response = client().get(self.registry.url(&path)).send().await.expect("an answer");
            let took = began.elapsed();
            self.asked.fetch_add(1, Ordering::Relaxed);
            let mut pause = 1 + u64::from((number + turn) % 8);
            crowded = if missing { crowded + 1 } else { 0 };
            if response.status() == 503 {
                pause = header(&response, "retry-after").parse().expect("when to come back");
                assert!((1..=60).contains(&pause), "{pause}");
                if response.text().await.expect("whole").contains("being fetched") {
                    self.refused.fetch_add(1, Ordering::Relaxed);
                    if crowded > 1 {
                        self.took.lock().expect("not poisoned").push(took);
                    }
                }
            }
            sleep(Duration::from_secs(pause)).await;
        }
    }
}

/// How much later than it should a task of this process goes on, until the other ends.
async fn lag<T>(meanwhile: impl Future<Output = T>) -> (T, Vec<Duration>) {
    const PAUSE: Duration = Duration::from_millis(10);
    let mut late = Vec::new();
    let mut meanwhile = pin!(meanwhile);
    loop {
        let began = Instant::now();
        tokio::select! {
            done = &mut meanwhile => {
                late.sort();
                return (done, late);
            }
            () = sleep(PAUSE) => late.push(began.elapsed().saturating_sub(PAUSE)),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a04_misses_are_refused_before_hits_are() {
    let upstream = Server::start().await;
    let registry = Registry::start_in(
        &temporary(),
        &format!(
            "server: {{ listen: '127.0.0.1:0', limits: {{ connections: {ROOM} }} }}\nstorage: {{ path: data }}\n\
             repositories:\n  docker: {{ type: local }}\n  slow: {{ type: remote, url: '{}', insecure: true }}\n",
            upstream.url()
        ),
    );
    registry.push_image("/v2/docker/a", "hit", b"layer").await;
    let keeping = client();
    let crowd = Crowd::new(&registry);
    let measured = async {
        until("everybody has come", async || {
            crowd.asked.load(Ordering::Relaxed) >= 10 * ROOM as usize
        })
        .await;
        let mut slices = vec![(Goodput::default(), Goodput::measure(&registry, &keeping).await)];
        let mut refusals = Vec::new();
        for _ in 0..SLICES {
            let before = crowd.refused.load(Ordering::Relaxed);
            upstream.on("* /v2/", ALWAYS, [Act::Hang]);
            crowd.missing.store(true, Ordering::Relaxed);
            until("misses are refused", async || {
                crowd.refused.load(Ordering::Relaxed) > before + ROOM as usize
            })
            .await;
            let crowded = Goodput::measure(&registry, &keeping).await;
            refusals.push(std::mem::take(&mut *crowd.took.lock().expect("not poisoned")));
            crowd.missing.store(false, Ordering::Relaxed);
            upstream.behave();
            sleep(RECOVERY).await;
            slices.push((crowded, Goodput::measure(&registry, &keeping).await));
        }
        crowd.gone.store(true, Ordering::Relaxed);
        (slices, refusals)
    };
    let all = join_all((0..10 * ROOM).map(|number| crowd.ask(number)));
    let (((slices, refusals), _), late) = lag(async { tokio::join!(measured, all) }).await;

    // What else the machine does takes from one slice and not from the next.
    let goes_on = slices.windows(2).any(|pair| pair[1].0.is_nearly(pair[0].1));
    assert!(goes_on, "crowded, and then not: {slices:?}");
    let recovers = slices.windows(2).any(|pair| pair[1].1.is_nearly(pair[0].1));
    assert!(recovers, "crowded, and then not: {slices:?}");
    let late = percentile(&late, 99);
    let refusals = refusals.into_iter().filter(|took| !took.is_empty());
    let refused = refusals.map(|mut took| {
        took.sort();
        percentile(&took, 99)
    });
    let refused: Vec<Duration> = refused.collect();
    assert!(
        refused.iter().any(|refused| *refused <= AT_ONCE + late),
        "refused in {refused:?}, this process is late by {late:?}"
    );
    assert!(metric(&registry, "entrepot_shed_requests_total{class=\"miss\"}").await >= 1.0);
}
