//! What a server answers, as it comes.

use std::sync::PoisonError;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::time::timeout;

use super::{Idle, PAUSE, Sender};

/// The longest pause within content that is asked for.
const SILENCE: Duration = Duration::from_secs(120);
/// The longest answer, or line of one, that is read as a whole.
const LONGEST: usize = 16 << 20;

/// An answer whose body comes.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// Its headers.
    headers: HeaderMap,
    body: Incoming,
    rest: BytesMut,
    is_over: bool,
    /// What takes the next request when this has been read to its end.
    connection: Option<(Sender, Idle)>,
}

impl Answer {
    pub(super) fn new(response: http::Response<Incoming>, sender: Sender, idle: Idle) -> Self {
        let (head, body) = response.into_parts();
        let mut answer = Self {
            status: head.status,
            headers: head.headers,
            body,
            rest: BytesMut::new(),
            is_over: false,
            connection: Some((sender, idle)),
        };
        if answer.body.is_end_stream() {
            answer.end();
        }
        answer
    }

    /// The whole body.
    pub async fn text(mut self) -> anyhow::Result<String> {
        while self.more().await? {}
        Ok(String::from_utf8_lossy(&self.rest).into_owned())
    }

    /// The whole body, as it came.
    pub async fn bytes(mut self) -> anyhow::Result<Bytes> {
        while self.more().await? {}
        Ok(self.rest.split().freeze())
    }

    /// What comes next of the body, however long all of it is; none at its end.
    pub async fn piece(&mut self) -> anyhow::Result<Option<Bytes>> {
        self.frame(SILENCE).await
    }

    /// A header that is text.
    pub fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The next line of the body, as soon as it is here.
    pub async fn line(&mut self) -> anyhow::Result<Option<String>> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line = self.rest.split_to(end + 1);
                return Ok(Some(String::from_utf8_lossy(&line).trim_end().to_owned()));
            }
            if !self.more().await? {
                let line = self.rest.split();
                return Ok((!line.is_empty()).then(|| String::from_utf8_lossy(&line).into_owned()));
            }
        }
    }

    async fn more(&mut self) -> anyhow::Result<bool> {
        let Some(bytes) = self.frame(PAUSE).await? else {
            return Ok(false);
        };
        if self.rest.len() + bytes.len() > LONGEST {
            bail!("the answer is too long");
        }
        self.rest.extend_from_slice(&bytes);
        Ok(true)
    }

    async fn frame(&mut self, pause: Duration) -> anyhow::Result<Option<Bytes>> {
        while !self.is_over {
            let frame = timeout(pause, self.body.frame())
                .await
                .context("the server fell silent")?;
            let Some(frame) = frame else {
                self.end();
                break;
            };
            if let Ok(bytes) = frame.context("the answer broke off")?.into_data() {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }

    fn end(&mut self) {
        self.is_over = true;
        if let Some((sender, idle)) = self.connection.take() {
            *idle.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        }
    }
}
