//! Where an upstream may lead us.
//!
//! A registry says itself where its tokens and its bytes are. One that was taken over could name an address that only
//! we can reach, such as the cloud's metadata or a neighbour without a password, and have us ask there. So an address
//! that is not public is asked only if the configuration says so: it is the upstream's own host, a mirror's, or lies in
//! `allow_private`.
//!
//! Addresses in URLs are checked before each hop ([`Guard::check`]), those behind names when they are looked up
//! ([`Resolver`]): what was checked is what is dialled, so a name that means something else a moment later gains nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

use super::{Error, HUB_NAMES, HUB_REGISTRY};
use crate::config::{Network, RemoteConfig};

/// The one address that looks public and is the host that a virtual machine at Azure runs on.
const AZURE_HOST: Ipv4Addr = Ipv4Addr::new(168, 63, 129, 16);

/// Where one remote may lead.
pub(super) struct Guard {
    /// The registry and its mirrors, as they are asked.
    homes: Vec<Url>,
    proxy: Option<Host>,
    allowed: Vec<Network>,
}

impl Guard {
    pub(super) fn new(config: &RemoteConfig) -> Self {
        let mut homes = Vec::new();
        for url in std::iter::once(&config.url).chain(&config.mirrors) {
            homes.push(url.clone());
            let mut registry = url.clone();
            let is_hub = url.host_str().is_some_and(|host| HUB_NAMES.contains(&host));
            if is_hub && registry.set_host(Some(HUB_REGISTRY)).is_ok() {
                homes.push(registry);
            }
        }
        Self {
            homes,
            proxy: config.proxy.as_ref().and_then(|proxy| host(&proxy.url)),
            allowed: config.allow_private.clone(),
        }
    }

    /// Whether an address is the registry itself or a mirror: scheme, host and port.
    pub(super) fn is_home(&self, url: &Url) -> bool {
        self.homes.iter().any(|home| home.origin() == url.origin())
    }

    /// Refuses a URL whose host is an address that it may not be. A name is looked at when it is looked up: here, or
    /// where there is a proxy, there.
    pub(super) fn check(&self, url: &Url) -> Result<(), Error> {
        let address = match url.host() {
            Some(Host::Ipv4(address)) => IpAddr::V4(address),
            Some(Host::Ipv6(address)) => IpAddr::V6(address),
            Some(Host::Domain(_)) | None => return Ok(()),
        };
        if self.allows(address) || host(url).is_some_and(|host| self.is_own(&host)) {
            return Ok(());
        }
        Err(Error::Private {
            place: address.to_string(),
        })
    }

    /// Those of a name's addresses that may be dialled.
    fn choose(&self, name: &str, found: impl Iterator<Item = SocketAddr>) -> Result<Vec<SocketAddr>, Error> {
        let name = plain(name);
        let domain = Host::Domain(name.clone());
        if self.is_own(&domain) || self.proxy.as_ref() == Some(&domain) {
            return Ok(found.collect());
        }
        let (allowed, refused): (Vec<_>, Vec<_>) = found.partition(|address| self.allows(address.ip()));
        match refused.first() {
            Some(refused) if allowed.is_empty() => Err(Error::Private {
                place: format!("{name} ({})", refused.ip()),
            }),
            _ => Ok(allowed),
        }
    }

    fn is_own(&self, other: &Host) -> bool {
        self.homes.iter().filter_map(host).any(|home| home == *other)
    }

    fn allows(&self, address: IpAddr) -> bool {
        is_public(address) || self.allowed.iter().any(|network| network.contains(address))
    }
}

/// Looks names up, and keeps those addresses that may be dialled.
pub(super) struct Resolver(pub(super) Arc<Guard>);

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = Arc::clone(&self.0);
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let chosen = guard.choose(name.as_str(), found)?;
            Ok(Box::new(chosen.into_iter()) as Addrs)
        })
    }
}

fn host(url: &Url) -> Option<Host> {
    match url.host()? {
        Host::Domain(name) => Some(Host::Domain(plain(name))),
        address => Some(address.to_owned()),
    }
}

/// `Example.com.` is `example.com`.
fn plain(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

/// Whether an address is one of the whole internet, so that asking there shows nothing that others cannot see.
pub(super) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let is_special = match address.octets() {
        // "This network", carriers' own (CGNAT), the IETF's, those for measurements of networks, and all from the reserved
        // ones to 255.255.255.255.
        [0 | 240.., ..] | [100, 64..=127, ..] | [192, 0, 0, _] | [198, 18 | 19, ..] => true,
        _ => address == AZURE_HOST,
    };
    !(is_special
        || address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_broadcast())
}

/// Of IPv6 only what is given out to the internet is public, and what wraps an IPv4 address that is: a router on the
/// way may unwrap it.
fn is_public_v6(address: Ipv6Addr) -> bool {
    let embedded = |high: u16, low: u16| is_public_v4(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)));
    match address.segments() {
        // Mapped, NAT64 and 6to4.
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => {
            embedded(high, low)
        }
        // Teredo hides the address that it wraps; nobody uses it any more.
        [0x2001, 0, ..] => false,
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests;
