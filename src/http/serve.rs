//! The door: where we listen, whom we let in, and how it is closed.
//!
//! `slots` says how many may come in, `connection` serves one client, `watch` bounds how long it may keep us waiting,
//! `socket` and `body` are what passes through it, and `frames` counts what is only noise.

mod body;
mod connection;
mod frames;
mod slots;
mod socket;
mod watch;

pub use body::BodyError;
pub use slots::affordable;
pub use watch::Patience;

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use self::connection::Reception;
use self::slots::{Slot, Slots};
use super::tls::{Certified, Tls};
use crate::config::{Limits, Listen, Network};
use crate::oci::RepositoryKey;
use crate::telemetry::Metrics;

/// Connections that the kernel holds until we take them.
const BACKLOG: i32 = 1024;
/// The pauses after a failed accept: the first, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// When the kernel asks whether a silent client's machine still is there, and how often.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(15));
/// How often it is logged that clients are turned away.
const TELL_EVERY: Duration = Duration::from_secs(60);
/// How long tasks may take to notice that they were cut.
const LAST_BREATH: Duration = Duration::from_millis(250);

/// Why we cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address cannot be had.
    #[error("cannot listen on {address}: {source}{hint}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
        /// What may help.
        hint: &'static str,
    },
    /// The door is being closed.
    #[error("the server is stopping")]
    Stopping,
}

/// Who asks, and where they came in: in the extensions of every request.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The other end of the connection.
    pub address: SocketAddr,
    /// The repository that the address listened on belongs to.
    pub repository: Option<RepositoryKey>,
    /// The connection is TLS.
    pub secure: bool,
    /// Whom the certificate names that was shown in its handshake.
    pub certified: Option<Certified>,
}

/// How far the door is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Open,
    /// What runs may end.
    Draining,
    /// Nothing may go on.
    Cut,
}

/// The front door. A clone is the same door.
#[derive(Clone)]
pub struct Door(Arc<Inside>);

struct Inside {
    reception: Reception,
    patience: Patience,
    /// One for each connection that may be open.
    slots: Arc<Slots>,
    metrics: Arc<Metrics>,
    /// Everything that runs for a client.
    tasks: TaskTracker,
    stage: tokio::sync::watch::Sender<Stage>,
    listening: Mutex<Listening>,
}

#[derive(Default)]
struct Listening {
    places: Vec<Place>,
    acceptor: Option<JoinHandle<()>>,
}

/// An address that we listen on, as configured (its port may be 0).
#[derive(Clone)]
struct Place {
    configured: SocketAddr,
    listener: Arc<TcpListener>,
}

/// A place, and what it means to come in there.
struct Gate {
    listener: Arc<TcpListener>,
    repository: Option<RepositoryKey>,
    tls: Option<Tls>,
}

impl Door {
    /// A door that leads to `router` and is not open yet.
    pub fn new(limits: &Limits, metrics: Arc<Metrics>, router: Router) -> Self {
        let patience = Patience {
            head: limits.header_timeout,
            idle: Duration::from_secs(75),
            stall: Duration::from_secs(60),
        };
        Self::with_patience(limits, patience, metrics, router)
    }

    /// The same, with all of its times.
    pub fn with_patience(limits: &Limits, patience: Patience, metrics: Arc<Metrics>, router: Router) -> Self {
        let (stage, seen) = tokio::sync::watch::channel(Stage::Open);
        let tasks = TaskTracker::new();
        let slots = Arc::new(Slots::new(limits.connections));
        let reception = Reception::new(
            router,
            Arc::clone(&metrics),
            patience,
            slots.pressure(),
            tasks.clone(),
            seen,
        );
        Self(Arc::new(Inside {
            reception,
            patience,
            slots,
            metrics,
            tasks,
            stage,
            listening: Mutex::default(),
        }))
    }

    /// Lets these addresses have as many connections as there are: they are proxies, behind which clients are many.
    pub fn exempt(&self, proxies: &[Network]) {
        self.0.slots.exempt(proxies);
    }

    /// Listens on exactly these addresses, and returns them with the ports they got. What is new is bound first; if that
    /// fails, all stays as it was. Connections of an address that is gone go on.
    pub async fn listen(&self, listen: &[Listen], tls: Option<Tls>) -> Result<Vec<SocketAddr>, Error> {
        let mut listening = self.0.listening.lock().await;
        if *self.0.stage.borrow() != Stage::Open {
            return Err(Error::Stopping);
        }
        let mut kept = listening.places.clone();
        let mut places = Vec::with_capacity(listen.len());
        let mut locals = Vec::with_capacity(listen.len());
        for &Listen { address, .. } in listen {
            let place = match kept.iter().position(|place| place.configured == address) {
                Some(index) => kept.swap_remove(index),
                None => self.bind(address, listen, &listening.places)?,
            };
            let local = place.listener.local_addr();
            locals.push(local.map_err(|source| Error::bind(address, source, ""))?);
            places.push(place);
        }
        let gates = places.iter().zip(listen).map(|(place, listen)| Gate {
            listener: Arc::clone(&place.listener),
            repository: listen.repository.clone(),
            tls: tls.clone(),
        });
        let begun = self.accept_at(gates.collect(), &mut listening.acceptor);
        listening.places = places;
        drop(kept);
        // Only then has the one before let go of the addresses that are gone.
        let _ = begun.await;
        for address in &locals {
            info!(%address, tls = tls.is_some(), "listening");
        }
        Ok(locals)
    }

    /// Closes the door: accepts no more, ends idle connections at once and the others after the requests that run.
    /// Whether all had ended `within` that time; what had not is cut.
    pub async fn drain(&self, within: Duration) -> bool {
        self.0.stage.send_replace(Stage::Draining);
        let mut listening = self.0.listening.lock().await;
        if let Some(acceptor) = listening.acceptor.take() {
            acceptor.abort();
            let _ = acceptor.await;
        }
        listening.places.clear();
        drop(listening);
        self.0.tasks.close();
        if timeout(within, self.0.tasks.wait()).await.is_ok() {
            return true;
        }
        self.0.stage.send_replace(Stage::Cut);
        let _ = timeout(LAST_BREATH, self.0.tasks.wait()).await;
        false
    }

    /// Lets `acceptor`'s successor take over; what is returned tells when it has.
    fn accept_at(&self, gates: Vec<Gate>, acceptor: &mut Option<JoinHandle<()>>) -> oneshot::Receiver<()> {
        let (ready, begun) = oneshot::channel();
        let before = acceptor.take();
        let (reception, tasks) = (self.0.reception.clone(), self.0.tasks.clone());
        let (slots, metrics) = (Arc::clone(&self.0.slots), Arc::clone(&self.0.metrics));
        *acceptor = Some(tokio::spawn(async move {
            // Never two at once: a listener wakes only the one who asked last.
            if let Some(before) = before {
                before.abort();
                let _ = before.await;
            }
            let _ = ready.send(());
            accept(gates, reception, slots, metrics, tasks).await;
        }));
        begun
    }

    fn bind(&self, address: SocketAddr, listen: &[Listen], places: &[Place]) -> Result<Place, Error> {
        // `[::]` means both families, unless IPv4 is listed by itself.
        let only_v6 = listen
            .iter()
            .any(|other| other.address.is_ipv4() && other.address.port() == address.port());
        match bind(address, only_v6, self.0.patience.stall) {
            Ok(listener) => Ok(Place {
                configured: address,
                listener: Arc::new(listener),
            }),
            Err(source) => {
                let ours = source.kind() == io::ErrorKind::AddrInUse && places.iter().any(|place| place.at(address));
                let hint = if ours {
                    " (by this server, until it is restarted)"
                } else {
                    ""
                };
                Err(Error::bind(address, source, hint))
            }
        }
    }
}

impl Place {
    /// Whether this is why `address` cannot be had.
    fn at(&self, address: SocketAddr) -> bool {
        let Ok(ours) = self.listener.local_addr() else {
            return false;
        };
        let all = [ours.ip(), address.ip()].iter().any(IpAddr::is_unspecified);
        ours.port() == address.port() && (all || ours.ip() == address.ip())
    }
}

impl Error {
    fn bind(address: SocketAddr, source: io::Error, hint: &'static str) -> Self {
        Self::Bind { address, source, hint }
    }
}

/// A listener whose connections inherit, as Linux has it, everything set here: no call is spent on each of them.
fn bind(address: SocketAddr, only_v6: bool, stall: Duration) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(only_v6)?;
    }
    // Without it a restart waits for the old process's last connections to time out.
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE.0).with_interval(KEEPALIVE.1))?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(stall))?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Accepts for ever. A connection is taken only when there is a slot for it: the others wait in the kernel.
async fn accept(gates: Vec<Gate>, reception: Reception, slots: Arc<Slots>, metrics: Arc<Metrics>, tasks: TaskTracker) {
    let mut pause = None;
    let mut first = 0;
    let mut told = None;
    while let Some(permit) = slots.any().await {
        match any(&gates, &mut first).await {
            Ok((stream, address, gate)) => {
                if pause.take().is_some() {
                    info!("accepting connections again");
                }
                match slots.give(permit, address.ip()) {
                    Some(slot) => admit(stream, address, gate, &reception, slot, &tasks),
                    None => turn_away(stream, address, &metrics, &mut told),
                }
            }
            // The client is already gone; the next one need not wait for that.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
                ) => {}
            Err(error) => {
                if pause.is_none() {
                    warn!(%error, "cannot accept connections; trying again");
                }
                let now = pause.map_or(PAUSE.0, |last: Duration| (last * 2).min(PAUSE.1));
                pause = Some(now);
                // What frees descriptors is the end of connections: they must not wait for this one.
                drop(permit);
                sleep(now).await;
            }
        }
    }
}

/// The next connection at any of the gates, which take turns in being asked first.
async fn any<'a>(gates: &'a [Gate], first: &mut usize) -> io::Result<(TcpStream, SocketAddr, &'a Gate)> {
    poll_fn(|cx| {
        for turn in 0..gates.len() {
            let gate = &gates[(*first + turn) % gates.len()];
            if let Poll::Ready(accepted) = gate.listener.poll_accept(cx) {
                *first = (*first + turn + 1) % gates.len();
                return Poll::Ready(accepted.map(|(stream, address)| (stream, address, gate)));
            }
        }
        Poll::Pending
    })
    .await
}

/// Closes the connection of a client that has its share. The log hears of it now and then: how often is not
/// for clients to say.
fn turn_away(stream: TcpStream, address: SocketAddr, metrics: &Metrics, told: &mut Option<Instant>) {
    drop(stream);
    metrics.connection_refused();
    if told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
        *told = Some(Instant::now());
        warn!(
            client = %address.ip().to_canonical(),
            "a client has a quarter of all connections and gets no more: if it is a proxy, name it in `server.trusted_proxies`"
        );
    }
}

fn admit(stream: TcpStream, address: SocketAddr, gate: &Gate, reception: &Reception, slot: Slot, tasks: &TaskTracker) {
    let served = reception
        .clone()
        .serve(stream, address, gate.repository.clone(), gate.tls.clone());
    // A panic of a handler ends this task and with it the connection, nothing else.
    tasks.spawn(async move {
        served.await;
        drop(slot);
    });
}
