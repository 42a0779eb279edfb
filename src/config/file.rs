//! `repositories.yml` as it is written: one structure for each mapping, one field for each key that works.
//!
//! The one place to add a key: its field here gives it a type, a description and a line in the schema. What it means
//! is said in [`check`](super::check). Keys that will come are in [`NOT_YET`]; they are refused, never ignored.

use schemars::JsonSchema;
use serde::Deserialize;

use super::field::{Entries, Field, OneOrMore};
use super::findings::Finding;
use super::node::{Content, Node};
use super::scalar::{
    Address, Amount, Authority, Count, Directory, External, For, Glob, Host, Issuer, Net, Part, Patience, Proxy, Size,
    Subject, Time, Timeout, Upstream, Warmed,
};
use super::schema;
use super::spelling::nearest;
use super::units::excerpt;

/// Which repositories there are, and how they are served.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(title = "repositories.yml", extend("required" = ["repositories"]))]
pub(super) struct Written {
    /// How and where the server listens.
    pub(super) server: Field<Server>,
    /// Where and how images are kept.
    pub(super) storage: Field<Storage>,
    /// Who may do what. Without this section everybody may do everything, and the server listens on loopback
    /// addresses only.
    pub(super) auth: Field<Auth>,
    /// What holds for every remote repository that does not say otherwise.
    pub(super) defaults: Field<Defaults>,
    /// The repositories by key: the first part of an image's name.
    pub(super) repositories: Field<Entries<Repository>>,
    /// The repository that a name belongs to when it begins with no key.
    pub(super) default: Field<String>,
    /// Where is written down who did what.
    pub(super) audit: Field<Audit>,
}

/// Where is written down who did what.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Audit {
    /// `stdout`, `none`, or the path of a file to which is appended.
    #[schemars(extend("default" = "stdout"))]
    pub(super) to: Field<String>,
    /// Whether every pull is written down, and not only what changes or refuses something.
    #[schemars(extend("default" = false))]
    pub(super) pulls: Field<bool>,
}

/// How and where the server listens.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Server {
    /// Where to listen: an address, or a list of them.
    #[schemars(extend("default" = "127.0.0.1:5000"))]
    pub(super) listen: Field<OneOrMore<Listen>>,
    /// An address of its own for `/metrics`, which is then no longer on the main one.
    pub(super) metrics: Field<Address>,
    /// Makes every connection TLS.
    pub(super) tls: Field<Tls>,
    /// What clients call the server, when it is not what they write in their requests.
    pub(super) external_url: Field<External>,
    /// Networks of the proxies in front, whose `Forwarded` and `X-Forwarded-*` count.
    pub(super) trusted_proxies: Field<Vec<Field<Net>>>,
    /// What clients may cost.
    pub(super) limits: Field<Limits>,
    /// How long running requests may go on after the server was asked to stop.
    #[schemars(extend("default" = "60s"))]
    pub(super) drain: Field<Time>,
}

/// An address to listen on.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["address"]), transform = schema::or_text)]
pub(super) struct Listen {
    /// IP address and port.
    pub(super) address: Field<Address>,
    /// The repository that this address is, for names that begin with no key.
    pub(super) repository: Field<String>,
}

/// A certificate and its key, in PEM files that are read again when they change.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["cert", "key"]))]
pub(super) struct Tls {
    /// The certificate chain, the server's own first.
    pub(super) cert: Field<String>,
    /// The private key.
    pub(super) key: Field<String>,
    /// The authorities whose certificates clients may show instead of a password.
    pub(super) client_ca: Field<String>,
}

/// What clients may cost.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Limits {
    /// The longest manifest, pushed or fetched.
    #[schemars(extend("default" = "4MiB"))]
    pub(super) manifest: Field<Size>,
    /// The longest blob that may be pushed.
    #[schemars(extend("default" = "100GiB"))]
    pub(super) upload: Field<Size>,
    /// How many uploads may be open at once.
    #[schemars(extend("default" = 1000))]
    pub(super) uploads: Field<Count>,
    /// How long an upload may lie untouched before it is thrown away.
    #[schemars(extend("default" = "24h"))]
    pub(super) upload_idle: Field<Timeout>,
    /// How many connections may be open at once.
    #[schemars(extend("default" = 4096))]
    pub(super) connections: Field<Count>,
    /// How long a client may take to send the headers of a request.
    #[schemars(extend("default" = "10s"))]
    pub(super) header_timeout: Field<Timeout>,
}

/// Where and how images are kept.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Storage {
    /// The directory for blobs and records; a relative one is relative to this file.
    #[schemars(extend("default" = "./data"))]
    pub(super) path: Field<String>,
    /// How much of the disk stays free: below it pushes are refused, and what is fetched is passed on but not kept.
    #[schemars(extend("default" = "5%"))]
    pub(super) min_free: Field<Part>,
    /// How what nothing needs is reclaimed.
    pub(super) gc: Field<Reclaiming>,
    /// Below this directory the server makes backups when it is asked to (`entrepot backup`); without it, it makes none.
    pub(super) backups: Field<String>,
    /// How what is kept is looked through for damage.
    pub(super) scrub: Field<Scrubbing>,
}

/// How what is kept is looked through for damage while the server runs.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Scrubbing {
    /// How often; `forever` is only when somebody asks for it (`entrepot verify`).
    #[schemars(extend("default" = "7d"))]
    pub(super) every: Field<Patience>,
    /// How many bytes are read in a second, at most.
    #[schemars(extend("default" = "20MiB"))]
    pub(super) rate: Field<Size>,
}

/// How what nothing needs is reclaimed while the server runs.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Reclaiming {
    /// How often the store is looked through; `forever` is only when somebody asks for it (`entrepot gc`).
    #[schemars(extend("default" = "6h"))]
    pub(super) every: Field<Patience>,
    /// For how long something has to have been needed by nothing, and been promised to nobody, before it goes.
    #[schemars(extend("default" = "24h"))]
    pub(super) grace: Field<Timeout>,
}

/// Who may do what.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Auth {
    /// The most that somebody may do who has not said who they are.
    #[schemars(extend("default" = "none"))]
    pub(super) anonymous: Field<Anonymous>,
    /// A file of users and bcrypt hashes, as `entrepot passwd` and `htpasswd -B` write them.
    pub(super) htpasswd: Field<String>,
    /// Whether there are tokens for robots.
    #[schemars(extend("default" = false))]
    pub(super) tokens: Field<bool>,
    /// Issuers of OpenID Connect tokens, and which of their tokens are taken.
    pub(super) oidc: Field<OneOrMore<Oidc>>,
    /// A directory that knows more users.
    pub(super) ldap: Field<Ldap>,
    /// Users by group.
    pub(super) groups: Field<Entries<OneOrMore<String>>>,
    /// What is allowed; nothing is, that none of these allows.
    pub(super) policies: Field<Vec<Field<Policy>>>,
}

/// What some may do somewhere.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["who", "may", "on"]))]
pub(super) struct Policy {
    /// Users, `@groups`, or `*` for everybody.
    pub(super) who: Field<OneOrMore<Subject>>,
    /// What they may do.
    pub(super) may: Field<OneOrMore<Permission>>,
    /// Patterns over `repository/image`.
    pub(super) on: Field<OneOrMore<Glob>>,
}

/// What can be allowed.
#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Permission {
    /// Read.
    Pull,
    /// Write.
    Push,
    /// Remove.
    Delete,
    /// Pin and roll back tags, fetch ahead of time, and, on everything, create tokens.
    Admin,
}

/// An issuer of OpenID Connect tokens.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["issuer", "audience"]))]
pub(super) struct Oidc {
    /// The issuer, exactly as its tokens name it.
    pub(super) issuer: Field<Issuer>,
    /// Whom tokens must be for.
    pub(super) audience: Field<OneOrMore<String>>,
    /// What else tokens must say; `*` stands for anything.
    pub(super) claims: Field<Entries<OneOrMore<String>>>,
    /// The groups of whoever shows such a token.
    pub(super) groups: Field<OneOrMore<String>>,
    /// Where the issuer's keys are, a URL or a file, when the issuer is not to be asked for that.
    pub(super) keys: Field<String>,
    /// A PEM file of certificate authorities that are trusted besides the machine's.
    pub(super) ca: Field<String>,
}

/// A directory that knows more users.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["url", "user_dn"]))]
pub(super) struct Ldap {
    /// `ldaps://host`, or `ldap://host` with `start_tls`.
    pub(super) url: Field<Directory>,
    /// Whether a connection to `ldap://` becomes TLS before anything is said.
    #[schemars(extend("default" = false))]
    pub(super) start_tls: Field<bool>,
    /// Allows `ldap://` without TLS: passwords travel in the clear.
    #[schemars(extend("default" = false))]
    pub(super) insecure: Field<bool>,
    /// A PEM file of certificate authorities that are trusted besides the machine's.
    pub(super) ca: Field<String>,
    /// The name of a user's entry, with `{user}` in it.
    pub(super) user_dn: Field<String>,
    /// Below what groups are looked for; the `dc=` parts of `user_dn`, without this key.
    pub(super) group_base: Field<String>,
    /// Which entries are a user's groups, with `{user}` or `{dn}` in it.
    pub(super) group_filter: Field<String>,
    /// The attribute that is a group's name.
    #[schemars(extend("default" = "cn"))]
    pub(super) group_attribute: Field<String>,
    /// How long the directory may take to answer.
    #[schemars(extend("default" = "5s"))]
    pub(super) timeout: Field<Timeout>,
}

/// What somebody may do who has not said who they are.
#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Anonymous {
    /// Nothing.
    None,
    /// Pull.
    Pull,
    /// Everything.
    All,
}

/// What holds for every remote repository that does not say otherwise.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Defaults {
    /// How long a tag is served without asking upstream.
    #[schemars(extend("default" = "5m"))]
    pub(super) tag_ttl: Field<Time>,
    /// How long a client waits for that question; then the copy is served and the question goes on.
    #[schemars(extend("default" = "1s"))]
    pub(super) revalidate_timeout: Field<Time>,
    /// How long an upstream's own 404 is remembered.
    #[schemars(extend("default" = "30s"))]
    pub(super) negative_ttl: Field<Time>,
    /// How long past `tag_ttl` a tag is served while upstream fails, or `forever`.
    #[schemars(extend("default" = "forever"))]
    pub(super) stale_if_error: Field<Patience>,
    /// For a connection to upstream and its TLS handshake.
    #[schemars(extend("default" = "3s"))]
    pub(super) connect_timeout: Field<Timeout>,
    /// From a request to the first byte of its answer.
    #[schemars(extend("default" = "15s"))]
    pub(super) first_byte_timeout: Field<Timeout>,
    /// The longest pause within an answer.
    #[schemars(extend("default" = "30s"))]
    pub(super) idle_timeout: Field<Timeout>,
    /// How many requests to one upstream may be under way at once.
    #[schemars(extend("default" = 32))]
    pub(super) connections: Field<Count>,
    /// How many ranges of one large blob may be fetched at once.
    #[schemars(extend("default" = 4))]
    pub(super) fetch_parts: Field<Count>,
    /// Whether a manifest's layers begin to arrive when the manifest is asked for.
    #[schemars(extend("default" = true))]
    pub(super) prefetch_layers: Field<bool>,
}

/// A repository; its `type` says which keys it has.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(tag = "type")]
pub(super) enum Repository {
    /// Images that are pushed here.
    Local(Local),
    /// A pull-through cache of one upstream registry.
    Remote(Box<Remote>),
    /// An ordered list of other repositories behind one key.
    Virtual(Virtual),
}

/// The enum whose variant is said by a key, and that key. serde's own `tag` would lose where things stand.
pub(super) const TYPED: &str = "Repository";
pub(super) const TYPE: &str = "type";

/// Images that are pushed here.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Local {
    /// Whether manifests, tags and blobs can be deleted.
    #[schemars(extend("default" = true))]
    pub(super) allow_delete: Field<bool>,
    /// Whether a manifest may be pushed before all that it refers to.
    #[schemars(extend("default" = false))]
    pub(super) allow_sparse: Field<bool>,
    /// Patterns of tags that, once pushed, neither move nor go.
    pub(super) immutable_tags: Field<Vec<Field<Glob>>>,
    /// The most bytes of blobs; a push that would exceed it is refused.
    pub(super) quota: Field<Size>,
    /// What goes by itself.
    pub(super) retention: Field<Vec<Field<Retention>>>,
}

/// What goes of an image by itself: tags, or manifests that no tag leads to.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Retention {
    /// A pattern of tags; with `keep_last`, `older_than`, or both.
    #[serde(rename = "match")]
    pub(super) matching: Field<Glob>,
    /// How many of the tags that match stay in each image, the newest ones.
    pub(super) keep_last: Field<Amount>,
    /// Only tags that have meant the same for so long go.
    pub(super) older_than: Field<Timeout>,
    /// Manifests go that no tag has led to for so long.
    pub(super) untagged_after: Field<Timeout>,
}

/// A pull-through cache of one upstream registry.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["url"]))]
pub(super) struct Remote {
    /// The upstream registry. A path after the host is a prefix of every image name there.
    pub(super) url: Field<Upstream>,
    /// Registries with the same images, asked before the upstream, in this order. They are shown no credentials.
    pub(super) mirrors: Field<Vec<Field<Upstream>>>,
    /// The user and password that the upstream lets us in with; or a list, used in turn as their budgets run out.
    pub(super) credentials: Field<OneOrMore<Credentials>>,
    /// Hosts, besides the upstream's own, that may be shown the credentials.
    pub(super) token_realms: Field<Vec<Field<Authority>>>,
    /// Patterns of image names; what none of them means is never asked for.
    pub(super) include: Field<Vec<Field<Glob>>>,
    /// Patterns of image names that are never asked for.
    pub(super) exclude: Field<Vec<Field<Glob>>>,
    /// What is fetched ahead of time of an image for several platforms; all of it, without this key.
    pub(super) platforms: Field<Vec<Field<For>>>,
    /// How much is kept, and how long.
    pub(super) cache: Field<Cache>,
    /// How the upstream's limit of pulls is used.
    pub(super) rate_limit: Field<RateLimit>,
    /// For how long a tag that moved upstream is served as it was.
    #[schemars(extend("default" = "0s"))]
    pub(super) hold: Field<Time>,
    /// What is fetched ahead of time, again and again.
    pub(super) warm: Field<Vec<Field<Warm>>>,
    /// The proxy on the way to the upstream.
    pub(super) proxy: Field<Proxy>,
    /// A PEM file of certificate authorities that are trusted besides the machine's.
    pub(super) ca: Field<String>,
    /// The certificate that is shown to the upstream.
    pub(super) client_tls: Field<ClientTls>,
    /// Private networks that token endpoints and redirects may be in; the upstream's own host always may.
    pub(super) allow_private: Field<Vec<Field<Net>>>,
    /// Allows an `http://` url and certificates that do not verify.
    #[schemars(extend("default" = false))]
    pub(super) insecure: Field<bool>,
    /// Serves what is cached and never asks the upstream.
    #[schemars(extend("default" = false))]
    pub(super) offline: Field<bool>,
    /// How long a tag is served without asking upstream.
    pub(super) tag_ttl: Field<Time>,
    /// How long a client waits for that question; then the copy is served and the question goes on.
    pub(super) revalidate_timeout: Field<Time>,
    /// How long an upstream's own 404 is remembered.
    pub(super) negative_ttl: Field<Time>,
    /// How long past `tag_ttl` a tag is served while upstream fails, or `forever`.
    pub(super) stale_if_error: Field<Patience>,
    /// For a connection to upstream and its TLS handshake.
    pub(super) connect_timeout: Field<Timeout>,
    /// From a request to the first byte of its answer.
    pub(super) first_byte_timeout: Field<Timeout>,
    /// The longest pause within an answer.
    pub(super) idle_timeout: Field<Timeout>,
    /// How many requests to this upstream may be under way at once.
    pub(super) connections: Field<Count>,
    /// How many ranges of one large blob may be fetched at once.
    pub(super) fetch_parts: Field<Count>,
    /// Whether a manifest's layers begin to arrive when the manifest is asked for.
    pub(super) prefetch_layers: Field<bool>,
}

/// How much of a remote is kept, and how long.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Cache {
    /// The most bytes of blobs; the least recently used make room.
    pub(super) max_size: Field<Size>,
    /// Blobs that nobody wanted for so long are removed.
    pub(super) unused_after: Field<Timeout>,
}

/// How the upstream's limit of pulls is used.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RateLimit {
    /// How many pulls are kept for images that are not here at all.
    #[schemars(extend("default" = 0))]
    pub(super) reserve: Field<Amount>,
}

/// Images that are fetched ahead of time, again and again.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["images", "every"]))]
pub(super) struct Warm {
    /// Images with a tag or a pattern of tags.
    pub(super) images: Field<Vec<Field<Warmed>>>,
    /// How often.
    pub(super) every: Field<Timeout>,
}

/// A certificate and its key, in PEM files.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["cert", "key"]))]
pub(super) struct ClientTls {
    /// The certificate chain, our own first.
    pub(super) cert: Field<String>,
    /// The private key.
    pub(super) key: Field<String>,
}

/// A user and a password; the password is here or in a file.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(transform = schema::or_provider)]
pub(super) struct Credentials {
    /// Who gives us what lets us in; as the only key, it can be written alone.
    pub(super) from: Field<Provider>,
    /// The user.
    pub(super) username: Field<String>,
    /// The password; better `${NAME}` than the password itself.
    pub(super) password: Field<String>,
    /// A file with the password and nothing else; a relative path is relative to this file.
    pub(super) password_file: Field<String>,
}

/// Who gives us what lets us in.
#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Provider {
    /// Amazon ECR: a token that is fetched with AWS's usual credentials, and renewed.
    Ecr,
    /// Amazon's public registry, in the same way.
    EcrPublic,
    /// Google's registries: an access token, by Google's usual credentials.
    Gcp,
    /// Azure's registries: a token of the registry's, by Azure's usual credentials.
    Azure,
    /// docker's `config.json`, and the helper programs that it names.
    DockerConfig,
}

/// The words for [`Provider`].
pub(super) const PROVIDERS: [&str; 5] = ["ecr", "ecr-public", "gcp", "azure", "docker-config"];

/// An ordered list of other repositories behind one key.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["members"]))]
pub(super) struct Virtual {
    /// The repositories that are asked, in this order.
    pub(super) members: Field<Vec<Field<Member>>>,
    /// The member that pushes go to: a local repository, or a virtual one that has a `push_to`.
    pub(super) push_to: Field<String>,
    /// Host names that are this repository.
    pub(super) hosts: Field<Vec<Field<Host>>>,
    /// The upstream hosts, as clients send them in `?ns=`, that it answers for besides those of its remotes.
    pub(super) serves: Field<Vec<Field<Authority>>>,
}

/// A member of a virtual repository.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["repository"]), transform = schema::or_text)]
pub(super) struct Member {
    /// The key of the repository.
    pub(super) repository: Field<String>,
    /// An image that lives in this member is never looked up in later ones.
    #[schemars(extend("default" = false))]
    pub(super) priority: Field<bool>,
}

/// The structures that can be written as the value of one of their keys.
pub(super) fn short_form(structure: &str, content: &Content) -> Option<&'static str> {
    match structure {
        "Credentials" => match content {
            // Nothing else: it may be a password in the wrong place, and is not to be shown.
            Content::Text(text) if PROVIDERS.contains(&text.as_str()) => Some("from"),
            _ => None,
        },
        "Listen" => Some("address"),
        "Member" => Some("repository"),
        _ => None,
    }
}

/// The words that can stand in a structure's place.
pub(super) fn words(structure: &str) -> &'static [&'static str] {
    if structure == "Credentials" { &PROVIDERS } else { &[] }
}

/// What is to come, by structure. A key that has come moves from here to its structure.
pub(super) const NOT_YET: &[(&str, &[&str])] = &[("Written", &["webhooks"]), ("Storage", &["blobs", "index"])];

fn not_yet(what: &str) -> String {
    format!("{what} is not supported by this version yet")
}

fn later_keys(structure: &str) -> &'static [&'static str] {
    let found = NOT_YET.iter().find(|(name, _)| *name == structure);
    found.map_or(&[], |(_, keys)| keys)
}

/// What a structure is to the user.
const PLACES: &[(&str, &str)] = &[
    ("Local", "a local repository"),
    ("Remote", "a remote repository"),
    ("Virtual", "a virtual repository"),
    ("Reclaiming", "`storage.gc`"),
    ("Retention", "a rule of `retention`"),
    ("Scrubbing", "`storage.scrub`"),
    ("Server", "`server`"),
    ("Limits", "`server.limits`"),
    ("Tls", "`server.tls`"),
    ("Storage", "`storage`"),
    ("Auth", "`auth`"),
    ("Policy", "`auth.policies`"),
    ("Oidc", "`auth.oidc`"),
    ("Ldap", "`auth.ldap`"),
    ("Audit", "`audit`"),
    ("Defaults", "`defaults`"),
    ("Credentials", "`credentials`"),
    ("Cache", "`cache`"),
    ("RateLimit", "`rate_limit`"),
    ("Warm", "`warm`"),
    ("ClientTls", "`client_tls`"),
    ("Written", "the top level of the file"),
];

/// How many of [`PLACES`] are kinds of repositories.
const KINDS: usize = 3;

/// What is wrong with a key that its structure does not have. `terse` saves the search for what was meant.
pub(super) fn unknown_key(key: &Node, structure: &str, fields: &[&'static str], terse: bool) -> Finding {
    let word = key.text();
    if later_keys(structure).contains(&word) {
        return Finding::new(key.at, not_yet(&format!("`{word}`")));
    }
    if terse {
        return Finding::new(key.at, format!("unknown key `{}`", excerpt(word)));
    }
    let elsewhere = PLACES.iter().position(|(other, _)| {
        *other != structure && (later_keys(other).contains(&word) || schema::keys(other).iter().any(|key| key == word))
    });
    let kind = PLACES[..KINDS].iter().find(|(name, _)| *name == structure);
    if let (Some((_, kind)), Some(owner)) = (kind, elsewhere)
        && owner < KINDS
    {
        return Finding::new(key.at, format!("`{word}` means nothing for {kind}"))
            .hint(format!("it is a key of {}", PLACES[owner].1));
    }
    let known = fields.iter().chain(later_keys(structure)).copied();
    let hint = match (nearest(word, known), elsewhere) {
        _ if word == "<<" => "mappings cannot be merged; what holds for every remote goes under `defaults`".to_owned(),
        (Some(meant), _) => format!("did you mean `{meant}`?"),
        (None, Some(owner)) => format!("it is a key of {}", PLACES[owner].1),
        (None, None) => {
            let all: Vec<_> = fields.iter().map(|field| format!("`{field}`")).collect();
            format!("the keys here are {}", all.join(", "))
        }
    };
    Finding::new(key.at, format!("unknown key `{}`", excerpt(word))).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_both_works_and_is_to_come() {
        for (structure, keys) in NOT_YET {
            let working = schema::keys(structure);
            assert!(!working.is_empty(), "no structure is called {structure}");
            for key in *keys {
                assert!(!working.iter().any(|working| working == key), "{structure}.{key}");
            }
        }
    }

    #[test]
    fn every_place_is_a_structure() {
        for (structure, _) in PLACES {
            assert!(!schema::keys(structure).is_empty(), "{structure}");
        }
    }
}
