//! A client that does as little as one can, so that what is measured is the server.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use entrepot::oci::{Algorithm, Digest};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

/// Longer than anything is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(35);

/// What came of a request.
pub(crate) struct Pulled {
    /// 0: none came.
    pub(crate) status: u16,
    pub(crate) headers: String,
    /// The first byte of the body.
    pub(crate) first_byte: Duration,
    pub(crate) total: Duration,
    pub(crate) length: usize,
    announced: Option<usize>,
    /// Small bodies only.
    pub(crate) body: Vec<u8>,
    pub(crate) digest: Option<Digest>,
    pub(crate) gave_up: bool,
}

impl Pulled {
    /// Whether a body of this length came to its end.
    pub(crate) fn is_whole(&self, length: usize) -> bool {
        self.status == 200 && self.length == length && self.announced.is_none_or(|announced| announced == length)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header's value.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.headers.lines();
        let mut pairs = lines.filter_map(|line| line.split_once(':'));
        pairs
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
    }
}

impl std::fmt::Debug for Pulled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} with {} bytes in {:?}", self.status, self.length, self.total)
    }
}

/// How a request is made.
#[derive(Clone, Copy, Default)]
pub(crate) struct How {
    /// Leave after so many bytes of the body.
    pub(crate) leave_at: Option<usize>,
    /// Compute the digest of what comes.
    pub(crate) hashed: bool,
}

/// A GET over a connection of its own.
pub(crate) async fn get(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Pulled {
    get_as(address, path, headers, How::default()).await
}

pub(crate) async fn get_as(address: SocketAddr, path: &str, headers: &[(&str, &str)], how: How) -> Pulled {
    let begin = Instant::now();
    let mut pulled = Pulled {
        status: 0,
        headers: String::new(),
        first_byte: Duration::ZERO,
        total: Duration::ZERO,
        length: 0,
        announced: None,
        body: Vec::new(),
        digest: None,
        gave_up: false,
    };
    let exchange = exchange(&mut pulled, begin, address, path, headers, how);
    let ended = timeout(PATIENCE, exchange).await;
    pulled.gave_up = ended.is_err();
    pulled.total = begin.elapsed();
    pulled
}

async fn exchange(
    pulled: &mut Pulled,
    begin: Instant,
    address: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
    how: How,
) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
    request.push_str(
        "Accept: application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json\r\n",
    );
    for (name, value) in headers {
        write!(request, "{name}: {value}\r\n").expect("a string grows");
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut buffer = vec![0; 256 * 1024];
    let mut head = Vec::new();
    let rest = loop {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        head.extend_from_slice(&buffer[..read]);
        if let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") {
            break head.split_off(end + 4);
        }
    };
    pulled.headers = String::from_utf8_lossy(&head).into_owned();
    pulled.status = pulled
        .headers
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .unwrap_or(0);
    pulled.announced = pulled.header("content-length").and_then(|text| text.parse().ok());
    let announced = pulled.announced;
    let mut hasher = how.hashed.then(|| Algorithm::Sha256.hasher());
    let mut take = |bytes: &[u8]| {
        if bytes.is_empty() {
            return;
        }
        if pulled.length == 0 {
            pulled.first_byte = begin.elapsed();
        }
        pulled.length += bytes.len();
        if pulled.length <= 64 * 1024 {
            pulled.body.extend_from_slice(bytes);
        }
        if let Some(hasher) = &mut hasher {
            hasher.update(bytes);
        }
    };
    take(&rest);
    let mut taken = rest.len();
    while announced.is_none_or(|announced| taken < announced) {
        if how.leave_at.is_some_and(|most| taken >= most) {
            return Ok(());
        }
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            break;
        }
        taken += read;
        take(&buffer[..read]);
    }
    pulled.digest = hasher.map(entrepot::oci::Hasher::finish);
    Ok(())
}
