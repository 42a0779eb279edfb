//! `repositories.yml`, read and checked: plain data that every room may read.
//!
//! A leaf but for the words of [`crate::oci`]: it knows no other room and starts nothing.
//!
//! On the way from a text to the types below: `locate` reads YAML into a tree of `node`s with places, `environment`
//! adds what the environment says, `read` fills the structures of `file` (the YAML as written), and `check` turns them
//! into what is meant. Nothing stops at a mistake; `findings` collects them, and [`Problem`] is one of them with file,
//! line and column.

mod check;
mod environment;
mod field;
mod file;
mod findings;
mod load;
mod locate;
mod mask;
mod node;
mod problem;
mod read;
mod scalar;
mod scan;
mod schema;
pub mod secret;
mod spelling;
mod units;

pub use environment::Environment;
pub use load::{EMBEDDED, Loaded, load, load_text};
pub use problem::{Place, Problem};
pub use schema::schema;
pub use secret::Secret;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use crate::oci::RepositoryKey;

/// A configuration without a mistake in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// How and where we listen.
    pub server: ServerConfig,
    /// Where and how things are kept.
    pub storage: StorageConfig,
    /// Who may do what.
    pub auth: AuthConfig,
    /// The repositories by key.
    pub repositories: BTreeMap<RepositoryKey, RepositoryConfig>,
    /// Where a name goes that names no repository.
    pub default: Option<RepositoryKey>,
}

/// The front door.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerConfig {
    /// Where to listen; never empty.
    pub listen: Vec<Listen>,
    /// The address for `/metrics`, when it is not the main one.
    pub metrics: Option<SocketAddr>,
    /// The certificate, when connections are to be TLS.
    pub tls: Option<TlsConfig>,
    /// What a client may cost us.
    pub limits: Limits,
    /// How long running requests may go on after we were asked to stop.
    pub drain: Duration,
}

/// One address that we listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// The address.
    pub address: SocketAddr,
    /// The repository that this address is, for names without a key.
    pub repository: Option<RepositoryKey>,
}

/// Certificate and key, as PEM files that are read again when they change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfig {
    /// The certificate chain, our own certificate first.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// What a client may cost us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest manifest, in bytes, pushed or fetched.
    pub manifest: u64,
    /// The longest blob pushed, in bytes.
    pub upload: u64,
    /// How many uploads may be open at once.
    pub uploads: usize,
    /// How long an upload may lie untouched.
    pub upload_idle: Duration,
    /// How many connections may be open at once.
    pub connections: usize,
    /// How long a client may take to send a request's headers; for a new connection, and its TLS handshake, too.
    pub header_timeout: Duration,
}

/// Where things are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageConfig {
    /// The directory of blobs, records and index.
    pub path: PathBuf,
}

/// Who may do what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthConfig {
    /// What somebody may do who has not said who they are. Without an `auth` section: all, on loopback addresses only.
    pub anonymous: Anonymous,
}

/// What somebody may do who has not said who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anonymous {
    /// Nothing.
    None,
    /// Pull.
    Pull,
    /// Everything.
    All,
}

/// One repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RepositoryConfig {
    /// Images pushed here.
    Local(LocalConfig),
    /// A pull-through cache of one upstream registry.
    Remote(Box<RemoteConfig>),
    /// An ordered list of other repositories behind one name.
    Virtual(VirtualConfig),
}

/// A local repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalConfig {
    /// Whether manifests, tags and blobs can be deleted; without it, 405.
    pub allow_delete: bool,
    /// Whether a manifest may be pushed before all that it refers to.
    pub allow_sparse: bool,
}

/// A remote repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteConfig {
    /// The upstream; a path is a prefix of every image name there.
    pub url: Url,
    /// What we show the upstream to be let in.
    pub credentials: Option<Credentials>,
    /// Hosts, other than the upstream's own, whose token endpoint may be shown the credentials: `host` or `host:port`.
    pub token_realms: Vec<String>,
    /// Allows an `http://` URL, and certificates that do not verify.
    pub insecure: bool,
    /// How long a tag is served without asking upstream.
    pub tag_ttl: Duration,
    /// How long a client waits for that question; then the copy is served and the question goes on.
    pub revalidate_timeout: Duration,
    /// How long past `tag_ttl` a tag is served while upstream fails; `None` is forever.
    pub stale_if_error: Option<Duration>,
    /// For the connection and its TLS handshake.
    pub connect_timeout: Duration,
    /// From the request to the first byte of the answer.
    pub first_byte_timeout: Duration,
    /// The longest pause within a body.
    pub idle_timeout: Duration,
    /// How many requests may be under way to this upstream at once.
    pub connections: usize,
}

/// A user and password for an upstream.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user.
    pub username: String,
    /// The password.
    pub password: Secret,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials({}, …)", self.username)
    }
}

/// A virtual repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualConfig {
    /// Who is asked, in this order.
    pub members: Vec<MemberConfig>,
    /// The member that pushes, mounts and deletes go to: a local repository, or a virtual one that has one.
    pub push_to: Option<RepositoryKey>,
    /// Host names that are this repository, without port, lower case.
    pub hosts: Vec<String>,
    /// The `?ns=` hosts that it answers for, besides those of its remotes.
    pub serves: Vec<String>,
}

/// A member of a virtual repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberConfig {
    /// The repository.
    pub repository: RepositoryKey,
    /// An image that lives here is never looked up in later members.
    pub priority: bool,
}
