//! A directory that speaks just enough LDAP to be bound to and searched, and misbehaves on command. A real one is in
//! `tests/clients`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use entrepot::config::LdapConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// A directory.
pub struct Directory {
    port: u16,
    state: Arc<State>,
    _running: JoinSet<()>,
}

/// What it does when it is asked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// Answers.
    Good,
    /// Answers every bind with this code.
    Says(u8),
    /// Answers no search.
    Secretive,
    /// Says nothing.
    Silent,
    /// Says something else.
    Mad,
    /// Ends connections.
    Closed,
}

struct State {
    mood: Mutex<Mood>,
    /// Passwords by entry.
    entries: BTreeMap<String, String>,
    groups: Vec<String>,
    binds: Mutex<Vec<String>>,
}

impl Directory {
    /// One with this entry, its password, and its groups.
    pub async fn start(entry: &str, password: &str, groups: &[&str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State {
            mood: Mutex::new(Mood::Good),
            entries: [(entry.to_owned(), password.to_owned())].into(),
            groups: groups.iter().map(ToString::to_string).collect(),
            binds: Mutex::default(),
        });
        let mut running = JoinSet::new();
        running.spawn(serve(listener, Arc::clone(&state)));
        Self {
            port,
            state,
            _running: running,
        }
    }

    pub fn be(&self, mood: Mood) {
        *self.state.mood.lock().unwrap() = mood;
    }

    /// The entries that were bound to, right or wrong.
    pub fn binds(&self) -> Vec<String> {
        self.state.binds.lock().unwrap().clone()
    }

    /// A configuration that asks it.
    pub fn config(&self) -> LdapConfig {
        LdapConfig {
            url: format!("ldap://127.0.0.1:{}", self.port).parse().unwrap(),
            start_tls: false,
            insecure: false,
            ca: None,
            user_dn: "uid={user},ou=people,dc=acme".to_owned(),
            group_base: "ou=groups,dc=acme".to_owned(),
            group_filter: Some("(member={dn})".to_owned()),
            group_attribute: "cn".to_owned(),
            timeout: Duration::from_secs(20),
        }
    }
}

async fn serve(listener: TcpListener, state: Arc<State>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(converse(stream, Arc::clone(&state)));
    }
}

async fn converse(mut stream: TcpStream, state: Arc<State>) -> Option<()> {
    loop {
        let mood = *state.mood.lock().unwrap();
        if mood == Mood::Closed {
            return None;
        }
        let message = message(&mut stream).await?;
        let (_, id, rest) = element(&message)?;
        let (kind, operation, _) = element(rest)?;
        let answers = match (kind, mood) {
            (0x60, Mood::Mad) => vec![vec![0x61, 0x7f, 1, 2, 3]],
            (_, Mood::Silent) | (0x63, Mood::Secretive) => Vec::new(),
            (0x60, mood) => {
                let (_, _, rest) = element(operation)?;
                let (_, entry, rest) = element(rest)?;
                let (_, password, _) = element(rest)?;
                let entry = String::from_utf8(entry.to_vec()).ok()?;
                let is_right = state
                    .entries
                    .get(&entry)
                    .is_some_and(|right| right.as_bytes() == password);
                state.binds.lock().unwrap().push(entry);
                let code = match mood {
                    Mood::Says(code) => code,
                    _ if is_right => 0,
                    _ => 49,
                };
                vec![result(0x61, code)]
            }
            (0x63, _) => {
                let mut answers: Vec<Vec<u8>> = state.groups.iter().map(|group| group_entry(group)).collect();
                answers.push(result(0x65, 0));
                answers
            }
            _ => return None,
        };
        for answer in answers {
            let whole = with(0x30, &[with(2, id), answer].concat());
            stream.write_all(&whole).await.ok()?;
        }
    }
}

/// The content of one message.
async fn message(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut head = [0; 2];
    stream.read_exact(&mut head).await.ok()?;
    let length = if head[1] < 0x80 {
        usize::from(head[1])
    } else {
        let mut length = vec![0; usize::from(head[1] & 0x7f)];
        stream.read_exact(&mut length).await.ok()?;
        length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte))
    };
    let mut content = vec![0; length];
    stream.read_exact(&mut content).await.ok()?;
    Some(content)
}

/// The first element of some: its tag, its content, and what follows.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&length, rest) = rest.split_first()?;
    let (length, rest) = if length < 0x80 {
        (usize::from(length), rest)
    } else {
        let (length, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
        (length.iter().fold(0, |all, byte| all << 8 | usize::from(*byte)), rest)
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

fn with(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap().to_be_bytes();
    [&[tag, 0x82], &length[..], content].concat()
}

fn result(kind: u8, code: u8) -> Vec<u8> {
    with(kind, &[&with(10, &[code])[..], &with(4, b""), &with(4, b"")].concat())
}

fn group_entry(name: &str) -> Vec<u8> {
    let values = with(0x31, &with(4, name.as_bytes()));
    let attribute = with(0x30, &[with(4, b"CN"), values].concat());
    let entry = with(4, format!("cn={name},ou=groups,dc=acme").as_bytes());
    with(0x64, &[entry, with(0x30, &attribute)].concat())
}
