//! `repositories.yml`, read and checked: plain data that every room may read.
//!
//! A leaf but for the words of [`crate::oci`]: it knows no other room and starts nothing.
//!
//! On the way from a text to the types below: `locate` reads YAML into a tree of `node`s with places, `environment`
//! adds what the environment says, `read` fills the structures of `file` (the YAML as written), and `check` turns them
//! into what is meant. Nothing stops at a mistake; `findings` collects them, and [`Problem`] is one of them with file,
//! line and column.

mod amazon;
mod check;
mod environment;
mod field;
mod file;
mod findings;
mod load;
mod locate;
mod login;
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

pub use amazon::{AmazonRegistry, suffix_of as amazon_suffix_of};
pub use environment::Environment;
pub use load::{EMBEDDED, Loaded, load, load_text};
pub use login::{Login, Provider};
pub use problem::{Place, Problem};
pub use schema::schema;
pub use secret::Secret;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use url::Url;

use crate::oci::operation::Action;
use crate::oci::{ImageName, Pattern, Platform, RepositoryKey};

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
    /// Where is written down who did what.
    pub audit: AuditConfig,
}

/// Where is written down who did what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditConfig {
    /// Where the lines go.
    pub to: AuditTarget,
    /// Whether every pull is a line too, and not only what changes or refuses something.
    pub pulls: bool,
}

/// Where the lines of the audit go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuditTarget {
    /// Standard output. The log has standard error.
    Stdout,
    /// A file, to which is appended; opened anew at each reload.
    File(PathBuf),
    /// Nowhere.
    Nowhere,
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
    /// What clients call us: scheme, host, port and perhaps a path. Without it, the request says.
    pub external_url: Option<Url>,
    /// Whose `Forwarded` and `X-Forwarded-*` count.
    pub trusted_proxies: Vec<Network>,
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
    /// The authorities whose certificates clients may show instead of a password.
    pub client_ca: Option<PathBuf>,
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
    /// How much of the disk stays free: below it pushes are refused and what comes from upstreams is not kept.
    pub min_free: Share,
    /// How what nothing needs is reclaimed.
    pub gc: GcConfig,
    /// Below which directory a server that is asked to makes backups.
    pub backups: Option<PathBuf>,
    /// How what is kept is looked through for damage.
    pub scrub: ScrubConfig,
}

/// How what is kept is looked through for damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScrubConfig {
    /// How often; without it, when somebody asks for it.
    pub every: Option<Duration>,
    /// How many bytes are read in a second, at most.
    pub rate: u64,
}

/// How what nothing needs is reclaimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GcConfig {
    /// How often the store is looked through; without it, when somebody asks for it.
    pub every: Option<Duration>,
    /// For how long something has to have been needed by nothing.
    pub grace: Duration,
}

/// A part of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// So many bytes.
    Bytes(u64),
    /// So many hundredths.
    Percent(u8),
}

impl Share {
    /// How many bytes that is of a disk of `total`.
    pub fn of(self, total: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(hundredths) => total / 100 * u64::from(hundredths),
        }
    }
}

/// Who may do what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthConfig {
    /// The most that somebody may do who has not said who they are. Without an `auth` section: all, on loopback
    /// addresses only.
    pub anonymous: Anonymous,
    /// Users with the bcrypt hashes of their passwords.
    pub htpasswd: BTreeMap<String, Secret>,
    /// Whether there are tokens for robots.
    pub tokens: bool,
    /// Issuers whose tokens we take.
    pub oidc: Vec<OidcConfig>,
    /// The directory that knows more users.
    pub ldap: Option<LdapConfig>,
    /// Users by group.
    pub groups: BTreeMap<String, Vec<String>>,
    /// What is allowed. `None`: nothing was said, and what `anonymous` may do is all that anybody may.
    pub policies: Option<Vec<PolicyConfig>>,
}

impl AuthConfig {
    /// Nobody has to say who they are, and everybody may do this much.
    pub const fn open(anonymous: Anonymous) -> Self {
        Self {
            anonymous,
            htpasswd: BTreeMap::new(),
            tokens: false,
            oidc: Vec::new(),
            ldap: None,
            groups: BTreeMap::new(),
            policies: None,
        }
    }
}

/// What some may do somewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyConfig {
    /// Whom it is about.
    pub who: Vec<Who>,
    /// What they may do.
    pub may: Vec<Action>,
    /// Where: patterns over `repository/image`.
    pub on: Vec<Pattern>,
}

/// Whom a policy is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// `*`: everybody. Who has not logged in may do no more than `anonymous` says.
    Everyone,
    /// A user.
    User(String),
    /// `@name`: a group.
    Group(String),
}

/// An issuer of OpenID Connect tokens, and which of them we take. One issuer may come several times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OidcConfig {
    /// The issuer, as it stands in `iss`.
    pub issuer: String,
    /// Whom tokens must be for: one of these is in `aud`.
    pub audience: Vec<String>,
    /// What else tokens must say: each claim is, or contains, one of these; `*` stands for anything.
    pub claims: BTreeMap<String, Vec<String>>,
    /// The groups of whoever shows such a token.
    pub groups: Vec<String>,
    /// Where the issuer's keys are, when its discovery document is not to be asked.
    pub keys: Option<IssuerKeys>,
    /// Certificate authorities in PEM that are trusted besides the machine's.
    pub ca: Option<Arc<[u8]>>,
}

/// Where an issuer's keys are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IssuerKeys {
    /// There.
    Url(Url),
    /// A JSON Web Key Set, from a file.
    Document(Arc<[u8]>),
}

/// A directory of users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LdapConfig {
    /// `ldaps://host[:port]` or `ldap://host[:port]`.
    pub url: Url,
    /// Whether `ldap://` is turned into TLS before anything is said.
    pub start_tls: bool,
    /// Allows `ldap://` without it, beyond loopback addresses.
    pub insecure: bool,
    /// Certificate authorities in PEM that are trusted besides the machine's.
    pub ca: Option<Arc<[u8]>>,
    /// The name of a user's entry; `{user}` stands for the user.
    pub user_dn: String,
    /// Below what groups are looked for.
    pub group_base: String,
    /// Which entries are groups of the user: `{user}` and `{dn}` stand for the user and their entry. Without it, the
    /// directory gives no groups.
    pub group_filter: Option<String>,
    /// The attribute that is a group's name.
    pub group_attribute: String,
    /// How long the directory may take to answer.
    pub timeout: Duration,
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
    /// Tags that, once pushed, neither move nor go.
    pub immutable_tags: Vec<Pattern>,
    /// What goes by rule.
    pub retention: Vec<RetentionRule>,
    /// The most bytes of blobs.
    pub quota: Option<u64>,
}

/// What goes although it could be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RetentionRule {
    /// Tags of an image.
    Tags {
        /// Which.
        matching: Pattern,
        /// But for so many of the newest.
        keep_last: Option<usize>,
        /// Only those that have meant the same for so long.
        older_than: Option<Duration>,
    },
    /// Manifests that no tag leads to.
    Untagged {
        /// For so long.
        after: Duration,
    },
}

/// A remote repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteConfig {
    /// The upstream; a path is a prefix of every image name there.
    pub url: Url,
    /// Other registries with the same images, asked before the upstream, in this order. Shown no credentials.
    pub mirrors: Vec<Url>,
    /// What we show the upstream to be let in: used in turn as their budgets run out.
    pub credentials: Vec<Login>,
    /// Hosts, other than the upstream's own, whose token endpoint may be shown the credentials: `host` or `host:port`.
    pub token_realms: Vec<String>,
    /// Only these images are asked for; all, when empty.
    pub include: Vec<Pattern>,
    /// These are not, even if they are included.
    pub exclude: Vec<Pattern>,
    /// The platforms that are fetched ahead of time; all, when empty.
    pub platforms: Vec<Platform>,
    /// How much is kept, and how long.
    pub cache: CacheConfig,
    /// How many pulls of the upstream's budget are kept for images that are not here at all.
    pub reserve: u64,
    /// For how long a tag that moved upstream is served as it was.
    pub hold: Duration,
    /// What is fetched ahead of time, again and again.
    pub warm: Vec<WarmConfig>,
    /// The proxy on the way to the upstream.
    pub proxy: Option<ProxyConfig>,
    /// Certificate authorities in PEM that are trusted besides the machine's.
    pub ca: Option<Arc<[u8]>>,
    /// The certificate that we show.
    pub client_tls: Option<ClientTls>,
    /// Private addresses that realms and redirects may lead to.
    pub allow_private: Vec<Network>,
    /// Allows an `http://` URL, and certificates that do not verify.
    pub insecure: bool,
    /// Never goes upstream.
    pub offline: bool,
    /// How long a tag is served without asking upstream.
    pub tag_ttl: Duration,
    /// How long a client waits for that question; then the copy is served and the question goes on.
    pub revalidate_timeout: Duration,
    /// How long an upstream's own 404 is remembered.
    pub negative_ttl: Duration,
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
    /// How many ranges of one large blob may be fetched at once.
    pub fetch_parts: usize,
    /// Whether the layers of a manifest begin to arrive when the manifest is asked for.
    pub prefetch_layers: bool,
}

impl RemoteConfig {
    /// A remote of which only the URL is said.
    pub fn of(url: Url) -> Self {
        Self {
            url,
            mirrors: Vec::new(),
            credentials: Vec::new(),
            token_realms: Vec::new(),
            include: Vec::new(),
            exclude: Vec::new(),
            platforms: Vec::new(),
            cache: CacheConfig::default(),
            reserve: 0,
            hold: Duration::ZERO,
            warm: Vec::new(),
            proxy: None,
            ca: None,
            client_tls: None,
            allow_private: Vec::new(),
            insecure: false,
            offline: false,
            tag_ttl: Duration::from_secs(5 * 60),
            revalidate_timeout: Duration::from_secs(1),
            negative_ttl: Duration::from_secs(30),
            stale_if_error: None,
            connect_timeout: Duration::from_secs(3),
            first_byte_timeout: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(30),
            connections: 32,
            fetch_parts: 4,
            prefetch_layers: true,
        }
    }
}

/// How much of a remote is kept, and how long.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CacheConfig {
    /// The most bytes of blobs; without it, as many as fit.
    pub max_size: Option<u64>,
    /// Blobs that nobody wanted for so long are removed; without it, they stay.
    pub unused_after: Option<Duration>,
}

/// Images that are fetched ahead of time, again and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WarmConfig {
    /// The images and their tags.
    pub images: Vec<WarmImage>,
    /// How often.
    pub every: Duration,
}

/// An image, and a pattern of its tags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WarmImage {
    /// The image.
    pub image: ImageName,
    /// Its tags; one that is no pattern is fetched without a list of them.
    pub tags: Pattern,
}

/// A proxy on the way to an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyConfig {
    /// Its address, without a user in it.
    pub url: Url,
    /// What it is shown.
    pub credentials: Option<Credentials>,
}

/// A certificate for an upstream that wants one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientTls {
    /// The certificate chain in PEM, our own first.
    pub cert: Arc<[u8]>,
    /// Its private key in PEM.
    pub key: Secret,
}

/// A network of addresses: `10.0.0.0/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    /// Whether an address lies in it. One that only wraps an IPv4 address counts as that.
    pub fn contains(&self, address: IpAddr) -> bool {
        let shifted = |bits: u128, width: u32| bits.checked_shr(width - u32::from(self.bits)).unwrap_or_default();
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                shifted(u32::from(own).into(), 32) == shifted(u32::from(other).into(), 32)
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => shifted(own.into(), 128) == shifted(other.into(), 128),
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WRONG: &str = "a network is written `10.0.0.0/8` or `fd00::/8`";
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| WRONG)?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits: u8 = bits.map_or(Ok(most), str::parse).map_err(|_| WRONG)?;
        (bits <= most).then_some(Self { address, bits }).ok_or(WRONG)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_holds_its_addresses_and_no_others() {
        for (network, address, contains) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.0/8", "::ffff:10.1.2.3", true),
            ("0.0.0.0/0", "192.0.2.1", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1", "127.0.0.2", false),
            ("fd00::/8", "fd12::1", true),
            ("fd00::/8", "fe80::1", false),
            ("::/0", "fe80::1", true),
        ] {
            let network: Network = network.parse().expect(network);
            assert_eq!(
                network.contains(address.parse().expect(address)),
                contains,
                "{network:?} {address}"
            );
        }
        for text in [
            "",
            "10.0.0.0/33",
            "::/129",
            "10.0.0/8",
            "a/8",
            "10.0.0.0/-1",
            "10.0.0.0/",
        ] {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
    }
}
