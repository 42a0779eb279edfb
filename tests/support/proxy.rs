//! A proxy: `CONNECT`, and requests with a whole address. It knows names of its own, and can be told to misbehave.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use entrepot::config::{Credentials, ProxyConfig, Secret};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// What it does with who comes.
#[derive(Clone)]
pub enum Mood {
    /// What it should.
    Well,
    /// Answers this, whatever is asked.
    Says(&'static str),
    /// Reads and answers nothing.
    Hangs,
    /// Closes at once.
    Closes,
}

struct Shared {
    mood: Mutex<Mood>,
    /// Where a `host:port` is in truth. Others are not to be had, or all at one address.
    names: Mutex<HashMap<String, String>>,
    others: Mutex<Option<String>>,
    wants: Mutex<Option<String>>,
    asked: Mutex<Vec<String>>,
    connections: AtomicU64,
}

/// The proxy. It closes when dropped.
pub struct Proxy {
    shared: Arc<Shared>,
    port: u16,
    running: JoinSet<()>,
}

type Reader = BufReader<TcpStream>;

impl Proxy {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            mood: Mutex::new(Mood::Well),
            names: Mutex::default(),
            others: Mutex::default(),
            wants: Mutex::default(),
            asked: Mutex::default(),
            connections: AtomicU64::new(0),
        });
        let mut running = JoinSet::new();
        let accepting = Arc::clone(&shared);
        running.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                accepting.connections.fetch_add(1, Ordering::Relaxed);
                let shared = Arc::clone(&accepting);
                connections.spawn(async move { shared.serve(BufReader::new(stream)).await });
            }
        });
        Self { shared, port, running }
    }

    /// Refuses connections from now on.
    pub async fn stop(&mut self) {
        self.running.shutdown().await;
    }

    /// What it is called in errors.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// For `proxy`.
    pub fn config(&self, password: Option<&str>) -> ProxyConfig {
        ProxyConfig {
            url: format!("http://127.0.0.1:{}", self.port).parse().unwrap(),
            credentials: password.map(|password| Credentials {
                username: "through".to_owned(),
                password: Secret::new(password),
            }),
        }
    }

    pub fn be(&self, mood: Mood) {
        *self.shared.mood.lock().unwrap() = mood;
    }

    /// This `host:port` is at this address.
    pub fn knows(&self, name: &str, address: &str) {
        let mut names = self.shared.names.lock().unwrap();
        names.insert(name.to_owned(), address.to_owned());
    }

    /// Every other `host:port` is at this address.
    pub fn takes_others_to(&self, address: &str) {
        *self.shared.others.lock().unwrap() = Some(address.to_owned());
    }

    /// From now on wants this `Proxy-Authorization`.
    pub fn demand(&self, authorization: &str) {
        *self.shared.wants.lock().unwrap() = Some(authorization.to_owned());
    }

    /// The heads of all requests that came.
    pub fn asked(&self) -> Vec<String> {
        self.shared.asked.lock().unwrap().clone()
    }

    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }
}

impl Shared {
    async fn serve(&self, mut client: Reader) -> std::io::Result<()> {
        while let Some(head) = head(&mut client).await? {
            self.asked.lock().unwrap().push(head.clone());
            let mood = self.mood.lock().unwrap().clone();
            match mood {
                Mood::Well => {}
                Mood::Says(answer) => return client.write_all(answer.as_bytes()).await,
                Mood::Hangs => std::future::pending().await,
                Mood::Closes => return Ok(()),
            }
            let wanted = self.wants.lock().unwrap().clone();
            if wanted.is_some() && wanted.as_deref() != field(&head, "proxy-authorization") {
                let refusal = "HTTP/1.1 407 No\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n";
                client.write_all(refusal.as_bytes()).await?;
                continue;
            }
            let target = head.split(' ').nth(1).unwrap().to_owned();
            if head.starts_with("CONNECT ") {
                let Some(mut inside) = self.reach(&target).await else {
                    return client.write_all(b"HTTP/1.1 502 No\r\n\r\n").await;
                };
                client.write_all(b"HTTP/1.1 200 Go on\r\n\r\n").await?;
                tokio::io::copy_bidirectional(&mut client, &mut inside).await?;
                return Ok(());
            }
            self.forward(&mut client, &head, &target).await?;
        }
        Ok(())
    }

    async fn reach(&self, target: &str) -> Option<TcpStream> {
        let known = self.names.lock().unwrap().get(target).cloned();
        let address = known.or_else(|| self.others.lock().unwrap().clone())?;
        TcpStream::connect(address).await.ok()
    }

    /// A request with a whole address, and its answer, which says how long it is.
    async fn forward(&self, client: &mut Reader, head: &str, target: &str) -> std::io::Result<()> {
        let url: url::Url = target.parse().unwrap();
        let name = format!("{}:{}", url.host_str().unwrap(), url.port_or_known_default().unwrap());
        let Some(inside) = self.reach(&name).await else {
            return client.write_all(b"HTTP/1.1 502 No\r\nContent-Length: 0\r\n\r\n").await;
        };
        let path = &url[url::Position::BeforePath..];
        let own = |line: &&str| !line.to_ascii_lowercase().starts_with("proxy-");
        let lines: Vec<&str> = head.split("\r\n").filter(own).collect();
        let request = lines.join("\r\n").replacen(target, path, 1) + "\r\n\r\n";
        let mut inside = BufReader::new(inside);
        inside.write_all(request.as_bytes()).await?;
        let length = field(head, "content-length").and_then(|length| length.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        client.read_exact(&mut body).await?;
        inside.write_all(&body).await?;
        let answer = self::head(&mut inside).await?.unwrap_or_default();
        client.write_all(format!("{answer}\r\n\r\n").as_bytes()).await?;
        let length = field(&answer, "content-length").and_then(|length| length.parse().ok());
        if !head.starts_with("HEAD ") {
            tokio::io::copy(&mut inside.take(length.unwrap_or(0)), client).await?;
        }
        client.flush().await
    }
}

/// Everything up to the empty line.
async fn head(stream: &mut Reader) -> std::io::Result<Option<String>> {
    let mut head = String::new();
    loop {
        let before = head.len();
        if stream.read_line(&mut head).await? == 0 {
            return Ok(None);
        }
        if head[before..].trim().is_empty() {
            return Ok(Some(head[..before].trim_end().to_owned()));
        }
    }
}

fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.split("\r\n").find_map(|line| {
        let (known, value) = line.split_once(':')?;
        known.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}
