//! A client that does as little as one can, so that what is measured is the server.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// One connection, a request at a time.
pub(crate) struct Connection {
    stream: TcpStream,
    address: SocketAddr,
    buffer: Vec<u8>,
}

/// What came of a request.
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The path and the query of where to go on.
    pub(crate) location: Option<String>,
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            address,
            buffer: Vec::new(),
        }
    }

    pub(crate) async fn ask(&mut self, method: &str, path: &str, length: u64, body: &[u8]) -> Answer {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/octet-stream\r\ncontent-length: \
             {length}\r\n\r\n",
            self.address
        );
        self.stream.write_all(&[head.as_bytes(), body].concat()).await.unwrap();
        if body.len() as u64 == length {
            self.answer().await
        } else {
            Answer {
                status: 0,
                location: None,
            }
        }
    }

    /// More of a body that was begun.
    pub(crate) async fn go_on(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    pub(crate) async fn answer(&mut self) -> Answer {
        let end = loop {
            if let Some(end) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break end;
            }
            self.read().await;
        };
        let head = String::from_utf8(self.buffer[..end].to_vec()).unwrap();
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap();
        let headers: Vec<(&str, &str)> = lines.filter_map(|line| line.split_once(": ")).collect();
        let header = |name: &str| {
            let mut found = headers.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name));
            found.next().map(|(_, value)| *value)
        };
        let length = header("content-length").map_or(0, |length| length.parse().unwrap());
        let answer = Answer {
            status: status.parse().unwrap(),
            location: header("location").map(|location| {
                let after = location.split_once("://").map_or(location, |(_, rest)| rest);
                after[after.find('/').unwrap()..].to_owned()
            }),
        };
        while self.buffer.len() < end + 4 + length {
            self.read().await;
        }
        self.buffer.drain(..end + 4 + length);
        answer
    }

    async fn read(&mut self) {
        let read = self.stream.read_buf(&mut self.buffer).await.unwrap();
        assert!(read > 0, "the server has closed the connection");
    }
}
