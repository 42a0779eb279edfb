//! Where a request comes from, and by which address the client knows us. What proxies say of both counts only from
//! those whom the configuration trusts, and is read from the nearest one backwards: whatever the client itself put
//! there stands further left than any word of a proxy of ours.

use std::net::{IpAddr, SocketAddr};

use http::header::{self, HeaderMap, HeaderName};
use http::uri::Authority;
use url::Url;

use crate::config::Network;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");

/// The longest host name with its port, and the longest path in front of ours.
const LONGEST: usize = 255 + 6;

/// What stands in front of us.
#[derive(Clone, Debug, Default)]
pub struct Proxies {
    /// What clients call us, when that is configured.
    external: Option<Base>,
    /// Whose word counts.
    trusted: Vec<Network>,
}

/// Where a request comes from, and what it was sent to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The client: the nearest address that is no proxy of ours.
    pub client: IpAddr,
    /// The host and port that the client asked for, in lower case.
    pub authority: Option<String>,
    /// How our own addresses begin.
    pub base: Base,
}

/// The beginning of our addresses, as clients write them. All of it is plain lower-case text that ends no quotes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// `https`, and not `http`.
    pub secure: bool,
    /// Host and port.
    pub authority: String,
    /// The path in front of `/v2` and `/token` that a proxy takes away: empty, or `/…` without a slash at its end.
    pub path: String,
}

impl Origin {
    /// The host that the client asked for, without its port.
    pub fn host(&self) -> Option<&str> {
        self.authority.as_deref().map(without_port)
    }
}

impl Base {
    /// The host alone.
    pub fn host(&self) -> &str {
        without_port(&self.authority)
    }

    /// One of our addresses, in full.
    pub fn url(&self, path: &str) -> String {
        let scheme = if self.secure { "https" } else { "http" };
        format!("{scheme}://{}{}{path}", self.authority, self.path)
    }
}

impl Proxies {
    /// What a configuration says.
    pub fn new(external_url: Option<&Url>, trusted: &[Network]) -> Self {
        let external = external_url.and_then(|url| {
            let host = url.host_str()?;
            let authority = url
                .port()
                .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
            Some(Base {
                secure: url.scheme() == "https",
                authority: authority.to_ascii_lowercase(),
                path: url.path().trim_end_matches('/').to_owned(),
            })
        });
        Self {
            external,
            trusted: trusted.to_vec(),
        }
    }

    /// Whether what this address says of others counts.
    pub fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(address))
    }

    /// Where a request comes from. `authority` is its own: HTTP/2's, or `Host`.
    pub fn origin(&self, peer: IpAddr, secure: bool, authority: Option<&str>, headers: &HeaderMap) -> Origin {
        let told = if self.trusts(peer) {
            self.told(peer, headers)
        } else {
            Told::nothing(peer)
        };
        let authority = told.authority.or_else(|| authority.and_then(plain_authority));
        let base = self.external.clone().unwrap_or_else(|| Base {
            secure: told.secure.unwrap_or(secure),
            // Whoever sends no host has no use for our name either.
            authority: authority.clone().unwrap_or_else(|| "localhost".to_owned()),
            path: told.path.unwrap_or_default(),
        });
        Origin {
            client: told.client,
            authority,
            base,
        }
    }

    /// What trusted proxies say. Of `Forwarded` and `X-Forwarded-For` a proxy writes one and may pass the other on as
    /// the client made it up: where they differ, neither is believed.
    fn told(&self, peer: IpAddr, headers: &HeaderMap) -> Told {
        let hops: Vec<Option<IpAddr>> = listed(headers, &FORWARDED_FOR).map(address).collect();
        let (client, depth) = self.walk(peer, &hops);
        let simple = Told {
            client,
            secure: nth_from_right(headers, &FORWARDED_PROTO, depth).and_then(scheme),
            authority: nth_from_right(headers, &FORWARDED_HOST, depth).and_then(plain_authority),
            path: nth_from_right(headers, &FORWARDED_PREFIX, depth).and_then(plain_path),
        };
        let lines: Vec<&str> = headers
            .get_all(header::FORWARDED)
            .iter()
            .filter_map(|line| line.to_str().ok())
            .collect();
        if lines.is_empty() {
            return simple;
        }
        let Some(elements) = forwarded(&lines.join(",")) else {
            return Told::nothing(peer);
        };
        let hops: Vec<Option<IpAddr>> = elements
            .iter()
            .map(|element| element.node.as_deref().and_then(address))
            .collect();
        let (client, depth) = self.walk(peer, &hops);
        let element = elements.len().checked_sub(depth).and_then(|at| elements.get(at));
        let has_simple = headers.contains_key(&FORWARDED_FOR);
        if has_simple && client != simple.client {
            return Told::nothing(peer);
        }
        Told {
            client,
            secure: element
                .and_then(|element| scheme(element.proto.as_deref()?))
                .or(simple.secure),
            authority: element
                .and_then(|element| plain_authority(element.host.as_deref()?))
                .or(simple.authority),
            path: simple.path,
        }
    }

    /// The client, by a list of who each proxy was asked by; and how many of its entries, from the right, were proxies'
    /// words. An entry that is no address ends the way: what asked the last proxy is then not known, and it counts.
    fn walk(&self, peer: IpAddr, hops: &[Option<IpAddr>]) -> (IpAddr, usize) {
        let mut client = peer;
        for (behind, hop) in hops.iter().rev().enumerate() {
            match hop {
                Some(address) => client = *address,
                None => return (client, behind + 1),
            }
            if !self.trusts(client) {
                return (client, behind + 1);
            }
        }
        (client, hops.len().max(1))
    }
}

/// What proxies say of a request.
struct Told {
    client: IpAddr,
    secure: Option<bool>,
    authority: Option<String>,
    path: Option<String>,
}

impl Told {
    const fn nothing(peer: IpAddr) -> Self {
        Self {
            client: peer,
            secure: None,
            authority: None,
            path: None,
        }
    }
}

/// What one proxy says; RFC 7239, 4.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Element {
    /// `for`: who asked it.
    pub node: Option<String>,
    /// `host`: what it was asked as.
    pub host: Option<String>,
    /// `proto`: how.
    pub proto: Option<String>,
}

/// Reads a `Forwarded`, the lines of it joined by commas; `None` when it breaks the grammar.
pub fn forwarded(text: &str) -> Option<Vec<Element>> {
    let mut elements = vec![Element::default()];
    let mut rest = text.trim();
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix(',') {
            elements.push(Element::default());
            rest = after.trim_start();
            continue;
        }
        if let Some(after) = rest.strip_prefix(';') {
            rest = after.trim_start();
            continue;
        }
        let (name, after) = rest.split_once('=')?;
        if name.is_empty() || !name.bytes().all(is_token) {
            return None;
        }
        let (value, after) = value(after)?;
        let element = elements.last_mut()?;
        let place = match name.to_ascii_lowercase().as_str() {
            "for" => Some(&mut element.node),
            "host" => Some(&mut element.host),
            "proto" => Some(&mut element.proto),
            _ => None,
        };
        // RFC 7239, 4: each parameter once.
        if let Some(place) = place
            && place.replace(value).is_some()
        {
            return None;
        }
        rest = after.trim_start();
        if !rest.is_empty() && !rest.starts_with([',', ';']) {
            return None;
        }
    }
    Some(elements)
}

/// A token or a quoted string at the beginning of a text, and what follows it.
fn value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        // Many write addresses and hosts with their colons and brackets without the quotes that these would need.
        let end = text.find([',', ';', '"', ' ', '\t']).unwrap_or(text.len());
        return (end > 0).then(|| (text[..end].to_owned(), &text[end..]));
    };
    let mut value = String::new();
    let mut letters = quoted.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(letters.next()?.1),
            _ => value.push(letter),
        }
    }
    None
}

/// RFC 9110, 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// The elements of a list, over all lines of a header.
fn listed<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl DoubleEndedIterator<Item = &'a str> {
    let lines = headers.get_all(name).iter().filter_map(|line| line.to_str().ok());
    let all: Vec<&str> = lines.flat_map(|line| line.split(',')).map(str::trim).collect();
    all.into_iter()
}

/// What the proxy said that is so many steps away. One that appends to no list has written a single value.
fn nth_from_right<'a>(headers: &'a HeaderMap, name: &HeaderName, depth: usize) -> Option<&'a str> {
    let all: Vec<&str> = listed(headers, name).collect();
    all.get(all.len().saturating_sub(depth)).copied()
}

/// An address with or without brackets and a port.
fn address(text: &str) -> Option<IpAddr> {
    let address = match text.parse::<IpAddr>() {
        Ok(address) => address,
        Err(_) => match text.parse::<SocketAddr>() {
            Ok(address) => address.ip(),
            Err(_) => text.strip_prefix('[')?.strip_suffix(']')?.parse().ok()?,
        },
    };
    Some(address.to_canonical())
}

fn scheme(text: &str) -> Option<bool> {
    if text.eq_ignore_ascii_case("https") {
        Some(true)
    } else if text.eq_ignore_ascii_case("http") {
        Some(false)
    } else {
        None
    }
}

/// A host with or without a port, in lower case: nothing in it can end a quoted string or begin a path.
fn plain_authority(text: &str) -> Option<String> {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b);
    if text.is_empty() || text.len() > LONGEST || !text.bytes().all(is_plain) {
        return None;
    }
    let authority: Authority = text.parse().ok()?;
    let port = authority.as_str().strip_prefix(authority.host())?;
    // `a.1.2` is no host to whoever reads URLs as browsers do: it would be a broken address.
    url::Host::parse(authority.host()).ok()?;
    let is_port = |digits: &str| digits.parse::<u16>().is_ok();
    (port.is_empty() || port.strip_prefix(':').is_some_and(is_port)).then(|| text.to_ascii_lowercase())
}

/// A path that can stand in front of ours: neither a host in disguise (`//host`) nor a way up.
fn plain_path(text: &str) -> Option<String> {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~/".contains(&b);
    let path = text.trim_end_matches('/');
    let sane = path.len() <= LONGEST
        && (path.is_empty() || path.starts_with('/'))
        && path.bytes().all(is_plain)
        && path
            .split('/')
            .skip(1)
            .all(|segment| !matches!(segment, "" | "." | ".."));
    sane.then(|| path.to_owned())
}

/// The host of `host:port`.
fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    }
}

#[cfg(test)]
mod tests;
