//! Whoever gives credentials: a cloud's API, a metadata service. It answers what the test says, whatever that is, and
//! remembers every request with its body.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// A request that came.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    pub method: String,
    pub target: String,
    pub headers: HashMap<String, String>,
    pub body: String,
}

impl Asked {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

/// What is answered.
pub enum Says {
    /// A status and a body.
    This(u16, String),
    /// A redirect there.
    Elsewhere(String),
    /// Nothing, ever.
    Nothing,
    /// Bytes without an end.
    Flood,
}

type Mind = Box<dyn FnMut(&Asked) -> Says + Send>;

struct Shared {
    mind: Mutex<Mind>,
    asked: Mutex<Vec<Asked>>,
}

/// The service. It ends when dropped.
pub struct Cloud {
    shared: Arc<Shared>,
    address: String,
    _running: JoinSet<()>,
}

impl Cloud {
    pub async fn start(mind: impl FnMut(&Asked) -> Says + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let shared = Arc::new(Shared {
            mind: Mutex::new(Box::new(mind)),
            asked: Mutex::default(),
        });
        let mut running = JoinSet::new();
        let accepting = Arc::clone(&shared);
        running.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let shared = Arc::clone(&accepting);
                connections.spawn(async move { shared.serve(BufReader::new(stream)).await });
            }
        });
        Self {
            shared,
            address,
            _running: running,
        }
    }

    /// From now on thinks otherwise.
    pub fn think(&self, mind: impl FnMut(&Asked) -> Says + Send + 'static) {
        *self.shared.mind.lock().unwrap() = Box::new(mind);
    }

    pub fn host(&self) -> String {
        self.address.clone()
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.shared.asked.lock().unwrap().clone()
    }
}

impl Shared {
    async fn serve(&self, mut stream: BufReader<TcpStream>) -> std::io::Result<()> {
        while let Some(asked) = read(&mut stream).await? {
            let says = (*self.mind.lock().unwrap())(&asked);
            self.asked.lock().unwrap().push(asked);
            match says {
                Says::This(status, body) => {
                    let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n", body.len());
                    stream.write_all((head + &body).as_bytes()).await?;
                }
                Says::Elsewhere(to) => {
                    let head = format!("HTTP/1.1 307 X\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n");
                    stream.write_all(head.as_bytes()).await?;
                }
                Says::Nothing => std::future::pending().await,
                Says::Flood => {
                    stream.write_all(b"HTTP/1.1 200 X\r\n\r\n").await?;
                    loop {
                        stream.write_all(&[b' '; 4096]).await?;
                    }
                }
            }
            stream.flush().await?;
        }
        Ok(())
    }
}

async fn read(stream: &mut BufReader<TcpStream>) -> std::io::Result<Option<Asked>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(None);
        }
        let line = line.trim_end().to_owned();
        if line.is_empty() {
            break;
        }
        lines.push(line);
    }
    let mut words = lines[0].split(' ');
    let mut asked = Asked {
        method: words.next().unwrap().to_owned(),
        target: words.next().unwrap().to_owned(),
        ..Asked::default()
    };
    for line in &lines[1..] {
        let (name, value) = line.split_once(':').unwrap();
        asked.headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = asked.header("content-length").parse().unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    asked.body = String::from_utf8(body).unwrap();
    Ok(Some(asked))
}
