//! The command line's end of the API: requests to a running server, one after the other.

mod answer;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, header};
use http_body_util::Full;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use url::Url;

use crate::config::Secret;

pub use answer::Answer;

/// For the connection and its TLS handshake.
const CONNECT: Duration = Duration::from_secs(10);
/// From the request to the headers of the answer, unless it is known to take longer; what is asked may have to ask an upstream.
const ANSWER: Duration = Duration::from_secs(120);
/// The longest pause within an answer.
const PAUSE: Duration = Duration::from_secs(3600);
/// For a connection that was used before to take the next request.
const AGAIN: Duration = Duration::from_secs(1);

/// A connection.
type Sender = SendRequest<Full<Bytes>>;
/// The connection that nobody uses at the moment, if there is one.
type Idle = Arc<Mutex<Option<Sender>>>;

/// A server that is running somewhere.
#[derive(Clone, Debug)]
pub struct Client {
    server: Url,
    host: String,
    port: u16,
    login: Option<Login>,
    /// From the request to the headers of the answer.
    answer: Duration,
    idle: Idle,
}

/// Who we are to a server.
#[derive(Clone, Debug)]
pub enum Login {
    /// A user and their password, or what stands for one.
    Password {
        /// The user.
        user: String,
        /// The password.
        password: Secret,
    },
    /// A token that is shown as it is.
    Token(Secret),
    /// A token for tokens.
    Refresh(Secret),
}

impl Client {
    /// The server at this address: `http://127.0.0.1:5000`.
    pub fn new(server: &str) -> anyhow::Result<Self> {
        let server: Url = server
            .parse()
            .with_context(|| format!("`{server}` is no address of a server"))?;
        if !matches!(server.scheme(), "http" | "https") {
            bail!("the server's address begins with http:// or https://");
        }
        if server.path() != "/" || server.query().is_some() || !server.username().is_empty() {
            bail!(
                "the server's address has nothing but a host and a port: {}",
                server.host_str().unwrap_or_default()
            );
        }
        let host = server
            .host_str()
            .context("the server's address has no host")?
            .to_owned();
        let port = server
            .port_or_known_default()
            .context("the server's address has no port")?;
        Ok(Self {
            server,
            host,
            port,
            login: None,
            answer: ANSWER,
            idle: Idle::default(),
        })
    }

    /// The same for what takes its time, such as looking through a whole store.
    pub fn patient(self) -> Self {
        Self { answer: PAUSE, ..self }
    }

    /// The same as somebody.
    pub fn with_login(self, login: Option<Login>) -> Self {
        Self { login, ..self }
    }

    /// The server's host, with its port where it is not the usual one: what logins are kept under.
    pub fn authority(&self) -> String {
        match self.server.port() {
            Some(port) => format!("{}:{port}", self.host),
            None => self.host.clone(),
        }
    }

    /// Asks for a path.
    pub async fn get(&self, path: &str) -> anyhow::Result<Answer> {
        self.send(Method::GET, path, &JSON, Bytes::new()).await
    }

    /// Sends a JSON document to a path.
    pub async fn post(&self, path: &str, document: &serde_json::Value) -> anyhow::Result<Answer> {
        self.send(Method::POST, path, &JSON, document.to_string().into()).await
    }

    /// Removes what a path names.
    pub async fn delete(&self, path: &str) -> anyhow::Result<Answer> {
        self.send(Method::DELETE, path, &JSON, Bytes::new()).await
    }

    /// Asks with these headers and this body, and whatever says who we are.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(HeaderName, &str)],
        body: Bytes,
    ) -> anyhow::Result<Answer> {
        let mut request = self.request(method, path, headers, body)?;
        if let Some(proof) = self.proof().await? {
            request.headers_mut().insert(header::AUTHORIZATION, proof);
        }
        self.exchange(request).await
    }

    /// What says who we are. Basic is taken everywhere, so nobody has to ask for a token first who has a password.
    async fn proof(&self) -> anyhow::Result<Option<HeaderValue>> {
        let text = match &self.login {
            None => return Ok(None),
            Some(Login::Token(token)) => format!("Bearer {}", token.reveal()),
            Some(Login::Refresh(token)) => format!("Bearer {}", self.token_for(token).await?.reveal()),
            Some(Login::Password { user, password }) => {
                let plain = format!("{user}:{}", password.reveal());
                format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(plain))
            }
        };
        let mut value = HeaderValue::try_from(text).context("the login has what no header can have in it")?;
        value.set_sensitive(true);
        Ok(Some(value))
    }

    /// A token for a token for tokens.
    async fn token_for(&self, refresh: &Secret) -> anyhow::Result<Secret> {
        let form = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("grant_type", "refresh_token")
            .append_pair("refresh_token", refresh.reveal())
            .append_pair("client_id", "entrepot")
            .append_pair("service", &self.authority())
            .finish();
        let form_type = [(header::CONTENT_TYPE, "application/x-www-form-urlencoded")];
        let request = self.request(Method::POST, "/token", &form_type, form.into())?;
        let answer = self.exchange(request).await?;
        if !answer.status.is_success() {
            bail!("the login is not taken any more ({}): log in again", answer.status);
        }
        let document: serde_json::Value = serde_json::from_str(&answer.text().await?)?;
        let token = document["access_token"].as_str().or_else(|| document["token"].as_str());
        Ok(Secret::new(token.context("the server gave no token")?))
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        headers: &[(HeaderName, &str)],
        body: Bytes,
    ) -> anyhow::Result<Request<Full<Bytes>>> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, self.authority())
            .header(header::USER_AGENT, concat!("entrepot/", env!("CARGO_PKG_VERSION")));
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        Ok(request.body(Full::new(body))?)
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> anyhow::Result<Answer> {
        let asked = async {
            // One that has been idle may be gone before it is noticed: then it has answered nothing, and a new one is asked. But
            // what adds to something is not said twice: whoever adds knows how to find out how far it came.
            if let Some(mut used) = self.used().await {
                match used.send_request(request.clone()).await {
                    Ok(response) => return Ok((used, response)),
                    Err(error) if request.method() == Method::PATCH => return Err(error.into()),
                    Err(_) => {}
                }
            }
            let mut new = self.connect().await?;
            let response = new.send_request(request).await?;
            anyhow::Ok((new, response))
        };
        let (sender, response) = match timeout(CONNECT + self.answer, asked).await {
            Ok(answered) => answered.with_context(|| format!("{} cannot be asked", self.server))?,
            Err(_) => bail!("{} did not answer in time", self.server),
        };
        Ok(Answer::new(response, sender, Arc::clone(&self.idle)))
    }

    /// The connection of an answer that was read to its end.
    async fn used(&self) -> Option<Sender> {
        let mut used = self.idle.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        matches!(timeout(AGAIN, used.ready()).await, Ok(Ok(()))).then_some(used)
    }

    async fn connect(&self) -> anyhow::Result<Sender> {
        let address = (self.host.trim_matches(['[', ']']), self.port);
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        if self.server.scheme() == "http" {
            return begin(stream).await;
        }
        let name = ServerName::try_from(self.host.trim_matches(['[', ']']).to_owned())?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(trusting()?));
        begin(timeout(CONNECT, connector.connect(name, stream)).await??).await
    }
}

/// The headers of what has a document in it.
const JSON: [(HeaderName, &str); 1] = [(header::CONTENT_TYPE, "application/json")];

async fn begin<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S) -> anyhow::Result<Sender> {
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

/// Trusts what the machine trusts.
fn trusting() -> anyhow::Result<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth())
}
