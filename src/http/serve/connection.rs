//! One connection, from accept to close. This is the one place that builds hyper's connections.

use std::convert::Infallible;
use std::fmt::Display;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use http::{HeaderValue, Request, StatusCode, Version, header};
use hyper::body::{Body as _, Incoming};
use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use tower::Service;
use tracing::debug;

use super::body::{Received, Sent};
use super::frames::Counted;
use super::slots::Pressure;
use super::socket::Socket;
use super::watch::{Patience, Verdict, Watch};
use super::{Peer, Stage};
use crate::http::sendfile::{self, Way};
use crate::http::shed::UntilSent;
use crate::http::tls::Tls;
use crate::oci::RepositoryKey;
use crate::telemetry::Metrics;

/// A request's line and headers, together; more is 431.
const HEAD_BYTES: usize = 32 * 1024;
/// Headers of a request; more is 431.
const HEADERS: usize = 64;
/// What is read or gathered for writing at a time. A large upload comes in frames of this size.
const BUFFER: usize = 256 * 1024;
/// Requests at once on one HTTP/2 connection.
const STREAMS: u32 = 100;
/// Streams that a client opens and resets at once before it is sent away (CVE-2023-44487).
const RESETS: usize = 20;
/// Streams that we reset for a client's mistakes before it is sent away (RUSTSEC-2024-0003).
const MISTAKES: usize = 100;

/// What somebody is told whose request has no host, or several.
const UNCLEAR: &str = "a request has one `Host`\n";

/// What every connection needs.
#[derive(Clone)]
pub(super) struct Reception {
    router: Router,
    metrics: Arc<Metrics>,
    patience: Patience,
    pressure: Pressure,
    http1: http1::Builder,
    http2: http2::Builder<Tracked>,
    stage: watch::Receiver<Stage>,
}

/// Runs the tasks of HTTP/2 requests where the end of all of them can be awaited.
#[derive(Clone)]
struct Tracked(TaskTracker);

impl<F> Executor<F> for Tracked
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, task: F) {
        self.0.spawn(task);
    }
}

impl Reception {
    pub(super) fn new(
        router: Router,
        metrics: Arc<Metrics>,
        patience: Patience,
        pressure: Pressure,
        tasks: TaskTracker,
        stage: watch::Receiver<Stage>,
    ) -> Self {
        let mut http1 = http1::Builder::new();
        http1
            .timer(TokioTimer::new())
            // The `Watch` tells a request's head, which must come fast, from the pause before it; this does not.
            .header_read_timeout(None)
            .max_headers(HEADERS)
            .max_header_size(HEAD_BYTES)
            .max_buf_size(BUFFER)
            // What `sendfile` lives on: a body's slices reach the socket as they are. (If not, the socket refuses.)
            .writev(true)
            .pipeline_flush(false);
        let mut http2 = http2::Builder::new(Tracked(tasks));
        http2
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            .max_header_list_size(u32::try_from(HEAD_BYTES).unwrap_or(u32::MAX))
            .max_pending_accept_reset_streams(RESETS)
            .max_local_error_reset_streams(MISTAKES)
            .max_send_buf_size(sendfile::FRAMES)
            .keep_alive_interval(patience.stall / 2)
            .keep_alive_timeout(patience.stall / 2);
        Self {
            router,
            metrics,
            patience,
            pressure,
            http1,
            http2,
            stage,
        }
    }

    /// Serves one connection until it ends.
    pub(super) async fn serve(
        mut self,
        stream: TcpStream,
        address: SocketAddr,
        repository: Option<RepositoryKey>,
        tls: Option<Tls>,
    ) {
        let _open = self.metrics.connection_opened();
        let watch = Arc::new(Watch::new(self.patience, self.pressure.clone()));
        let mut socket = Socket::new(stream, Arc::clone(&watch));
        let mut peer = Peer {
            // An IPv4 client of an IPv6 socket is still an IPv4 client, to address rules above all.
            address: SocketAddr::new(address.ip().to_canonical(), address.port()),
            repository,
            secure: tls.is_some(),
            certified: None,
        };
        if let Some(tls) = tls {
            let (acceptor, clients) = tls.acceptor();
            let handshake = timeout(self.patience.head, acceptor.accept(socket));
            let Some(shaken) = self.unless_closing(handshake).await else {
                return;
            };
            match shaken {
                Ok(Ok(stream)) => {
                    watch.handshake_done();
                    peer.certified = clients.named(stream.get_ref().1);
                    let multiplexed = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                    let way = if multiplexed { Way::Frames } else { Way::Chunks };
                    self.converse(stream, way, peer, watch).await;
                }
                Ok(Err(error)) => debug!(client = %peer.address, %error, "TLS handshake failed"),
                Err(_) => debug!(client = %peer.address, "TLS handshake took too long"),
            }
        } else {
            let first = async {
                tokio::select! {
                    multiplexed = socket.speaks_http2() => multiplexed.ok(),
                    _ = watch.verdict(false) => None,
                }
            };
            if let Some(multiplexed) = self.unless_closing(first).await.flatten() {
                let way = if multiplexed { Way::Frames } else { socket.open_lane() };
                self.converse(socket, way, peer, watch).await;
            }
        }
    }

    async fn unless_closing<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            _ = self.stage.wait_for(|stage| *stage >= Stage::Draining) => None,
            done = work => Some(done),
        }
    }

    async fn converse<I>(self, stream: I, way: Way, peer: Peer, watch: Arc<Watch>)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (router, client, requests) = (self.router, peer.address, Arc::clone(&watch));
        let multiplexed = matches!(way, Way::Frames);
        let service = service_fn(move |request| answer(router.clone(), request, peer.clone(), way.clone(), &requests));
        if multiplexed {
            let stream = TokioIo::new(Counted::new(stream));
            drive(self.http2.serve_connection(stream, service), client, &watch, self.stage).await;
        } else {
            let stream = TokioIo::new(stream);
            drive(self.http1.serve_connection(stream, service), client, &watch, self.stage).await;
        }
    }
}

/// Lets a connection go on until it ends by itself, is asked to and does, or has kept us waiting for too long.
async fn drive<C>(connection: C, client: SocketAddr, watch: &Watch, mut stage: watch::Receiver<Stage>)
where
    C: GracefulConnection<Error: Display>,
{
    let mut connection = pin!(connection);
    let mut leaving = false;
    loop {
        let next = if leaving { Stage::Cut } else { Stage::Draining };
        let verdict = tokio::select! {
            biased;
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    debug!(%client, %error, "connection ended");
                }
                return;
            }
            _ = stage.wait_for(|stage| *stage >= next) => None,
            verdict = watch.verdict(leaving) => Some(verdict),
        };
        match verdict {
            None | Some(Verdict::Idle) if !leaving => {
                leaving = true;
                connection.as_mut().graceful_shutdown();
            }
            None => return,
            Some(verdict) => return debug!(%client, ?verdict, "connection cut"),
        }
    }
}

/// Whether everybody who reads this request takes it to be for the same host (RFC 9112, 3.2): a proxy before us may have
/// read the other one.
fn is_clear(request: &Request<Incoming>) -> bool {
    let hosts = request.headers().get_all(header::HOST).iter().count();
    match request.version() {
        Version::HTTP_11 => hosts == 1,
        _ => hosts <= 1,
    }
}

fn answer(
    mut router: Router,
    mut request: Request<Incoming>,
    peer: Peer,
    way: Way,
    watch: &Arc<Watch>,
) -> impl Future<Output = Result<http::Response<Sent>, Infallible>> + use<> {
    let multiplexed = matches!(way, Way::Frames);
    let running = watch.request(multiplexed);
    let is_clear = is_clear(&request);
    request.extensions_mut().insert(peer);
    let request = request.map(|body| {
        if body.is_end_stream() {
            Body::empty()
        } else {
            Body::new(Received::new(body, Arc::clone(running.watch())))
        }
    });
    let answer = is_clear.then(|| router.call(request));
    async move {
        let Some(answer) = answer else {
            let mut refusal = http::Response::new(Sent::new(Body::from(UNCLEAR), way, running, None));
            *refusal.status_mut() = StatusCode::BAD_REQUEST;
            let close = HeaderValue::from_static("close");
            refusal.headers_mut().insert(header::CONNECTION, close);
            return Ok(refusal);
        };
        let mut answer = answer.await?;
        let until_sent = answer.extensions_mut().remove::<UntilSent>();
        // Who is refused for want of room should not keep the room that a connection takes.
        if answer.status() == StatusCode::SERVICE_UNAVAILABLE && !multiplexed && running.watch().is_scarce() {
            let close = HeaderValue::from_static("close");
            answer.headers_mut().insert(header::CONNECTION, close);
        }
        Ok(answer.map(|body| Sent::new(body, way, running, until_sent)))
    }
}
