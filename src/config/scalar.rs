//! The kinds of single values: what they look like, what they mean, and what to say when one is wrong.

mod access;

pub(super) use access::{Directory, External, Issuer, Subject, is_loopback, is_name};

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, Visitor};
use url::{Host as ParsedHost, Url};

use super::units::{Complaint, excerpt, size, time};
use super::{Credentials, Network, ProxyConfig, Secret, Share, WarmImage};
use crate::oci::{ImageName, Pattern, Platform};

/// More of anything than a machine has, and less than what overflows.
const MOST: u64 = 1_000_000;

/// A value that is written as one word or number.
trait Scalar: Sized {
    const NAME: &'static str;
    /// What is expected, for "expected …, found a list".
    const EXPECTED: &'static str;
    /// What the word looks like, for editors.
    const PATTERN: &'static str;
    const TAKES_NUMBERS: bool = false;
    /// The smallest number it can be.
    const LEAST: u64 = 1;

    fn from_text(text: &str) -> Result<Self, Complaint>;
}

/// A number of bytes, at least one.
pub(super) struct Size(pub(super) u64);

impl Scalar for Size {
    const NAME: &'static str = "Size";
    const EXPECTED: &'static str = "a size such as `10GiB`";
    const PATTERN: &'static str = r"^\d+ ?([kKmMgGtT]?[bB]|[kKmMgGtT][iI][bB])?$";
    const TAKES_NUMBERS: bool = true;

    fn from_text(text: &str) -> Result<Self, Complaint> {
        match size(text)? {
            0 => Err(Complaint::new("a limit of 0 would let nothing through")),
            bytes => Ok(Self(bytes)),
        }
    }
}

/// How many of something, at least one.
pub(super) struct Count(pub(super) usize);

impl Scalar for Count {
    const NAME: &'static str = "Count";
    const EXPECTED: &'static str = "a whole number";
    const PATTERN: &'static str = r"^\d+$";
    const TAKES_NUMBERS: bool = true;

    fn from_text(text: &str) -> Result<Self, Complaint> {
        let number = text.trim().parse().ok().filter(|number| (1..=MOST).contains(number));
        let count = number.and_then(|number| usize::try_from(number).ok());
        count
            .map(Self)
            .ok_or_else(|| Complaint::new(format!("`{}` is not a whole number from 1 to {MOST}", excerpt(text))))
    }
}

/// How many of something; none is a number, too.
pub(super) struct Amount(pub(super) u64);

impl Scalar for Amount {
    const NAME: &'static str = "Amount";
    const EXPECTED: &'static str = "a whole number";
    const PATTERN: &'static str = r"^\d+$";
    const TAKES_NUMBERS: bool = true;
    const LEAST: u64 = 0;

    fn from_text(text: &str) -> Result<Self, Complaint> {
        let number = text.trim().parse().ok().filter(|number| *number <= MOST);
        number
            .map(Self)
            .ok_or_else(|| Complaint::new(format!("`{}` is not a whole number from 0 to {MOST}", excerpt(text))))
    }
}

/// A part of a disk: a size, or hundredths of the whole.
pub(super) struct Part(pub(super) Share);

impl Scalar for Part {
    const NAME: &'static str = "Part";
    const EXPECTED: &'static str = "a part of the disk such as `5%` or `10GiB`";
    const PATTERN: &'static str = r"^(\d{1,2} ?%|\d+ ?([kKmMgGtT]?[bB]|[kKmMgGtT][iI][bB])?)$";
    const TAKES_NUMBERS: bool = true;
    const LEAST: u64 = 0;

    fn from_text(text: &str) -> Result<Self, Complaint> {
        let Some(hundredths) = text.trim().strip_suffix('%') else {
            return size(text).map(|bytes| Self(Share::Bytes(bytes)));
        };
        let hundredths = hundredths.trim_end().parse().ok().filter(|share: &u8| *share < 100);
        hundredths.map(|share| Self(Share::Percent(share))).ok_or_else(|| {
            Complaint::new(format!("`{}` is not a part of a disk", excerpt(text)))
                .hint("a whole number from 0 to 99 with `%`, or a size: `5%`, `10GiB`")
        })
    }
}

const TIME: &str = r"^(\d+(ms|s|m|h|d))+$";

/// A time, which may be none at all.
pub(super) struct Time(pub(super) Duration);

impl Scalar for Time {
    const NAME: &'static str = "Time";
    const EXPECTED: &'static str = "a time such as `30s`";
    const PATTERN: &'static str = TIME;

    fn from_text(text: &str) -> Result<Self, Complaint> {
        time(text).map(Self)
    }
}

/// A time after which something is given up.
pub(super) struct Timeout(pub(super) Duration);

impl Scalar for Timeout {
    const NAME: &'static str = "Timeout";
    const EXPECTED: &'static str = "a time such as `30s`";
    const PATTERN: &'static str = TIME;

    fn from_text(text: &str) -> Result<Self, Complaint> {
        match time(text)? {
            Duration::ZERO => Err(Complaint::new("a limit of no time would let nothing through")),
            duration => Ok(Self(duration)),
        }
    }
}

/// A time that can be without end.
pub(super) struct Patience(pub(super) Option<Duration>);

impl Scalar for Patience {
    const NAME: &'static str = "Patience";
    const EXPECTED: &'static str = "a time such as `30s`, or `forever`";
    const PATTERN: &'static str = r"^(forever|(\d+(ms|s|m|h|d))+)$";

    fn from_text(text: &str) -> Result<Self, Complaint> {
        if text.trim() == "forever" {
            return Ok(Self(None));
        }
        time(text).map(|duration| Self(Some(duration)))
    }
}

/// An IP address with a port.
pub(super) struct Address(pub(super) SocketAddr);

impl Scalar for Address {
    const NAME: &'static str = "Address";
    const EXPECTED: &'static str = "an address such as `127.0.0.1:5000`";
    const PATTERN: &'static str = r"^[0-9A-Fa-f.:\[\]%]+:\d+$";

    fn from_text(text: &str) -> Result<Self, Complaint> {
        text.parse().map(Self).map_err(|_| {
            let meant = match text.rsplit_once(':') {
                _ if text.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv4()) => format!("write `{text}:5000`"),
                _ if text.parse::<IpAddr>().is_ok() => format!("write `[{text}]:5000`"),
                Some(("" | "*", port)) if is_port(port) => {
                    format!(
                        "write `0.0.0.0:{port}` for every address of this machine, or `127.0.0.1:{port}` for none but itself"
                    )
                }
                Some(("localhost", port)) if is_port(port) => format!("write `127.0.0.1:{port}`"),
                _ => "write IP address and port: `127.0.0.1:5000`, `0.0.0.0:5000`, `[::]:5000`".to_owned(),
            };
            Complaint::new(format!("`{}` is not an address to listen on", excerpt(text))).hint(meant)
        })
    }
}

fn is_port(text: &str) -> bool {
    text.parse::<u16>().is_ok()
}

/// A host name without a port, lower case.
pub(super) struct Host(pub(super) String);

impl Scalar for Host {
    const NAME: &'static str = "Host";
    const EXPECTED: &'static str = "a host name";
    const PATTERN: &'static str = r"^[^/:\s]+$";

    fn from_text(text: &str) -> Result<Self, Complaint> {
        host(text).map(Self).ok_or_else(|| {
            let complaint = Complaint::new(format!("`{}` is not a host name", excerpt(text)));
            if text.contains([':', '/', '*']) {
                return complaint.hint("write the name alone, without scheme, port, path or `*`: `docker.example.com`");
            }
            complaint
        })
    }
}

/// A host, with a port when it is not the usual one, lower case.
pub(super) struct Authority(pub(super) String);

impl Scalar for Authority {
    const NAME: &'static str = "Authority";
    const EXPECTED: &'static str = "a host, with a port when it is not the usual one";
    const PATTERN: &'static str = r"^[^/\s]+$";

    fn from_text(text: &str) -> Result<Self, Complaint> {
        let with_port = match text.rsplit_once(':') {
            Some((name, port)) if is_port(port) => host(name).map(|host| format!("{host}:{port}")),
            _ => host(text),
        };
        with_port.map(Self).ok_or_else(|| {
            Complaint::new(format!("`{}` is not a host", excerpt(text)))
                .hint("write `registry.example.com` or `registry.example.com:5000`, without scheme or path")
        })
    }
}

/// A host name as clients send it: lower case, without the final dot.
fn host(text: &str) -> Option<String> {
    let parsed = ParsedHost::parse(text.strip_suffix('.').unwrap_or(text)).ok()?;
    let plain = parsed.to_string();
    // The standard for URLs reads `5000` as an IP address.
    let is_address = matches!(parsed, ParsedHost::Ipv4(_));
    let is_whole = !plain.is_empty() && !plain.contains('*') && plain.len() <= 253;
    (is_whole && (!is_address || plain == text)).then_some(plain)
}

/// The address of a registry.
pub(super) struct Upstream(pub(super) Url);

impl Scalar for Upstream {
    const NAME: &'static str = "Upstream";
    const EXPECTED: &'static str = "a URL such as `https://registry.example.com`";
    const PATTERN: &'static str = r"^https?://\S+$";

    fn from_text(text: &str) -> Result<Self, Complaint> {
        let url = Url::parse(text).ok().filter(Url::has_host);
        let Some(url) = url.filter(|url| matches!(url.scheme(), "http" | "https")) else {
            // The text is not repeated: a URL with a password in it may be what is wrong.
            let complaint = Complaint::new("this is not the URL of a registry");
            return Err(complaint.hint(match text.contains("://") {
                true => "it begins with `https://` and a host: `https://registry.example.com`".to_owned(),
                false if text.contains('@') => "it begins with `https://`".to_owned(),
                false => format!("it begins with a scheme: `https://{}`", excerpt(text)),
            }));
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Complaint::new("a user or a password in a URL would end up in logs")
                .hint("use `credentials: { username: …, password: \"${NAME}\" }`"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(Complaint::new("the URL of a registry has no `?` and no `#`"));
        }
        match url.path().trim_matches('/') {
            "" => Ok(Self(url)),
            "v2" => Err(Complaint::new("the URL of a registry is written without `/v2/`")
                .hint("a path is a prefix of every image name there")),
            path if path.parse::<ImageName>().is_ok() => Ok(Self(url)),
            path => Err(
                Complaint::new(format!("`{}` cannot begin the name of an image", excerpt(path)))
                    .hint("a path is a prefix of every image name there: lower-case words joined by `/`"),
            ),
        }
    }
}

/// The address of a proxy, and what it is shown.
pub(super) struct Proxy(pub(super) ProxyConfig);

impl Scalar for Proxy {
    const NAME: &'static str = "Proxy";
    const EXPECTED: &'static str = "a URL such as `http://proxy.example.com:3128`";
    const PATTERN: &'static str = r"^https?://\S+$";

    fn from_text(text: &str) -> Result<Self, Complaint> {
        let is_proxy = |url: &Url| {
            let has_path = !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some();
            matches!(url.scheme(), "http" | "https") && url.has_host() && !has_path
        };
        // The text is not repeated: there may be a password in it.
        let wrong = || {
            Complaint::new("this is not the URL of a proxy")
                .hint("`http://proxy.example.com:3128`, or `http://user:${PROXY_PASSWORD}@proxy.example.com:3128`")
        };
        let mut url = Url::parse(text).ok().filter(is_proxy).ok_or_else(wrong)?;
        let credentials = match (plain(url.username()), url.password().map(plain)) {
            (None, _) | (_, Some(None)) => return Err(wrong()),
            (Some(username), None) if username.is_empty() => None,
            (Some(username), password) => Some(Credentials {
                username,
                password: Secret::new(password.flatten().unwrap_or_default()),
            }),
        };
        url.set_username("")
            .and_then(|()| url.set_password(None))
            .map_err(|()| wrong())?;
        Ok(Self(ProxyConfig { url, credentials }))
    }
}

/// A part of a URL as it is meant: `%40` is an at sign.
fn plain(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let byte = match byte {
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            byte => byte,
        };
        bytes.push(byte);
    }
    String::from_utf8(bytes)
        .ok()
        .filter(|text| !text.contains(char::is_control))
}

/// A pattern of names.
pub(super) struct Glob(pub(super) Pattern);

impl Scalar for Glob {
    const NAME: &'static str = "Glob";
    const EXPECTED: &'static str = "a pattern of image names such as `library/**`";
    const PATTERN: &'static str = r"^\S+$";

    fn from_text(text: &str) -> Result<Self, Complaint> {
        text.parse().map(Self).map_err(|error| {
            Complaint::new(format!("`{}` is not a pattern: {error}", excerpt(text)))
                .hint("`*` is anything but `/`, `**` anything at all: `library/*`, `team/**`, `*-nightly`")
        })
    }
}

/// What an image is for.
pub(super) struct For(pub(super) Platform);

impl Scalar for For {
    const NAME: &'static str = "For";
    const EXPECTED: &'static str = "a platform such as `linux/amd64`";
    const PATTERN: &'static str = r"^[a-z0-9.-]+/[a-z0-9.-]+(/[a-z0-9.-]+)?$";

    fn from_text(text: &str) -> Result<Self, Complaint> {
        text.parse()
            .map(Self)
            .map_err(|error| Complaint::new(format!("`{}` is not a platform", excerpt(text))).hint(format!("{error}")))
    }
}

/// An image, and a pattern of its tags.
pub(super) struct Warmed(pub(super) WarmImage);

impl Scalar for Warmed {
    const NAME: &'static str = "Warmed";
    const EXPECTED: &'static str = "an image and its tags such as `library/alpine:3.*`";
    const PATTERN: &'static str = r"^\S+$";

    fn from_text(text: &str) -> Result<Self, Complaint> {
        let (image, tags) = text.split_once(':').unwrap_or((text, "latest"));
        let wrong = |why: String| {
            Complaint::new(format!("`{}` is not an image with tags: {why}", excerpt(text))).hint(
                "the image's name as the upstream knows it, `:`, and a tag or a pattern of tags: `library/alpine:3.*`",
            )
        };
        Ok(Self(WarmImage {
            image: image.parse().map_err(|error| wrong(format!("{error}")))?,
            tags: tags.parse().map_err(|error| wrong(format!("{error}")))?,
        }))
    }
}

/// A network.
pub(super) struct Net(pub(super) Network);

impl Scalar for Net {
    const NAME: &'static str = "Net";
    const EXPECTED: &'static str = "a network such as `10.0.0.0/8`";
    const PATTERN: &'static str = r"^[0-9A-Fa-f.:]+(/\d+)?$";

    fn from_text(text: &str) -> Result<Self, Complaint> {
        text.parse()
            .map(Self)
            .map_err(|hint| Complaint::new(format!("`{}` is not a network", excerpt(text))).hint(hint))
    }
}

/// Reads a [`Scalar`] from whatever is there.
struct One<T>(PhantomData<T>);

impl<T: Scalar> Visitor<'_> for One<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        T::from_text(text).map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        if T::TAKES_NUMBERS {
            return self.visit_str(&number.to_string());
        }
        Err(E::invalid_type(de::Unexpected::Unsigned(number), &self))
    }
}

macro_rules! scalars {
    ($($name:ident)+) => {$(
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(One(PhantomData))
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                Self::NAME.into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                // Behind a variable there can be anything.
                let text = format!("{}|\\$\\{{", Self::PATTERN);
                let expected = Self::EXPECTED;
                if Self::TAKES_NUMBERS {
                    json_schema!({ "type": ["integer", "string"], "minimum": Self::LEAST, "pattern": text, "description": expected })
                } else {
                    json_schema!({ "type": "string", "pattern": text, "description": expected })
                }
            }
        }
    )+};
}

scalars!(Size Count Amount Part Time Timeout Patience Address Host Authority Upstream Proxy Glob For Warmed Net Subject External Issuer Directory);

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint<T: Scalar>(text: &str) -> String {
        match T::from_text(text) {
            Ok(_) => format!("{text:?} is taken"),
            Err(complaint) => complaint.to_string().replace('\n', " // "),
        }
    }

    #[test]
    fn what_is_meant_is_taken() {
        assert_eq!(Size::from_text("4MiB").unwrap().0, 4 << 20);
        assert_eq!(Count::from_text("7").unwrap().0, 7);
        assert_eq!(Time::from_text("0s").unwrap().0, Duration::ZERO);
        assert_eq!(Timeout::from_text("1s").unwrap().0, Duration::from_secs(1));
        assert_eq!(Patience::from_text("forever").unwrap().0, None);
        assert_eq!(Address::from_text("[::1]:0").unwrap().0, "[::1]:0".parse().unwrap());
        assert_eq!(Host::from_text("Docker.Example.com.").unwrap().0, "docker.example.com");
        assert_eq!(Host::from_text("10.0.0.7").unwrap().0, "10.0.0.7");
        assert_eq!(Amount::from_text("0").unwrap().0, 0);
        assert_eq!(Part::from_text("5%").unwrap().0, Share::Percent(5));
        assert_eq!(Part::from_text("1 GiB").unwrap().0, Share::Bytes(1 << 30));
        let proxy = Proxy::from_text("http://ada:b%40c@proxy:3128").unwrap().0;
        assert_eq!(proxy.url.as_str(), "http://proxy:3128/");
        let shown = proxy.credentials.unwrap();
        assert_eq!((shown.username.as_str(), shown.password.reveal()), ("ada", "b@c"));
        assert_eq!(Proxy::from_text("https://proxy").unwrap().0.credentials, None);
        let warmed = Warmed::from_text("library/alpine:3.*").unwrap().0;
        assert_eq!((warmed.image.as_str(), warmed.tags.as_str()), ("library/alpine", "3.*"));
        assert_eq!(Warmed::from_text("alpine").unwrap().0.tags.as_str(), "latest");
        assert_eq!(Authority::from_text("Docker.IO").unwrap().0, "docker.io");
        assert_eq!(Authority::from_text("[::1]:5000").unwrap().0, "[::1]:5000");
        assert_eq!(Authority::from_text("localhost:5000").unwrap().0, "localhost:5000");
        for url in ["https://a.b", "http://a.b:5000/", "https://a.b/team/images/"] {
            assert!(Upstream::from_text(url).is_ok(), "{url}");
        }
    }

    #[test]
    fn what_is_not_is_refused_with_a_way_out() {
        let all = [
            complaint::<Size>("0"),
            complaint::<Size>("ten"),
            complaint::<Count>("0"),
            complaint::<Count>("1000001"),
            complaint::<Count>("-1"),
            complaint::<Time>("30"),
            complaint::<Time>("forever"),
            complaint::<Timeout>("0s"),
            complaint::<Patience>("ever"),
            complaint::<Address>(":5000"),
            complaint::<Address>("localhost:5000"),
            complaint::<Address>("10.0.0.1"),
            complaint::<Address>("::1"),
            complaint::<Address>("example.com:5000"),
            complaint::<Address>("1.2.3.4:99999"),
            complaint::<Host>("a:5000"),
            complaint::<Host>("*.example.com"),
            complaint::<Host>("5000"),
            complaint::<Host>("a b"),
            complaint::<Host>(""),
            complaint::<Authority>("https://a.b"),
            complaint::<Authority>("a.b/c"),
            complaint::<Upstream>("registry-1.docker.io"),
            complaint::<Upstream>("a:pw@b"),
            complaint::<Upstream>("ftp://a.b"),
            complaint::<Upstream>("https://"),
            complaint::<Upstream>("https://a:pw@b"),
            complaint::<Upstream>("https://a.b?c=d"),
            complaint::<Upstream>("https://a.b/v2/"),
            complaint::<Upstream>("https://a.b/Team"),
        ];
        insta::assert_snapshot!(all.join("\n"), @r#"
a limit of 0 would let nothing through
`ten` is not a size // a whole number with B, kB, MB, GB, TB (powers of 1000) or KiB, MiB, GiB, TiB (powers of 1024): `10GiB`
`0` is not a whole number from 1 to 1000000
`1000001` is not a whole number from 1 to 1000000
`-1` is not a whole number from 1 to 1000000
`30` is not a time // a whole number with a unit, ms, s, m, h or d: `500ms`, `30s`, `10m`, `24h`, `7d`
`forever` is not a time // a whole number with a unit, ms, s, m, h or d: `500ms`, `30s`, `10m`, `24h`, `7d`
a limit of no time would let nothing through
`ever` is not a time // a whole number with a unit, ms, s, m, h or d: `500ms`, `30s`, `10m`, `24h`, `7d`
`:5000` is not an address to listen on // write `0.0.0.0:5000` for every address of this machine, or `127.0.0.1:5000` for none but itself
`localhost:5000` is not an address to listen on // write `127.0.0.1:5000`
`10.0.0.1` is not an address to listen on // write `10.0.0.1:5000`
`::1` is not an address to listen on // write `[::1]:5000`
`example.com:5000` is not an address to listen on // write IP address and port: `127.0.0.1:5000`, `0.0.0.0:5000`, `[::]:5000`
`1.2.3.4:99999` is not an address to listen on // write IP address and port: `127.0.0.1:5000`, `0.0.0.0:5000`, `[::]:5000`
`a:5000` is not a host name // write the name alone, without scheme, port, path or `*`: `docker.example.com`
`*.example.com` is not a host name // write the name alone, without scheme, port, path or `*`: `docker.example.com`
`5000` is not a host name
`a b` is not a host name
`` is not a host name
`https://a.b` is not a host // write `registry.example.com` or `registry.example.com:5000`, without scheme or path
`a.b/c` is not a host // write `registry.example.com` or `registry.example.com:5000`, without scheme or path
this is not the URL of a registry // it begins with a scheme: `https://registry-1.docker.io`
this is not the URL of a registry // it begins with `https://`
this is not the URL of a registry // it begins with `https://` and a host: `https://registry.example.com`
this is not the URL of a registry // it begins with `https://` and a host: `https://registry.example.com`
a user or a password in a URL would end up in logs // use `credentials: { username: …, password: "${NAME}" }`
the URL of a registry has no `?` and no `#`
the URL of a registry is written without `/v2/` // a path is a prefix of every image name there
`Team` cannot begin the name of an image // a path is a prefix of every image name there: lower-case words joined by `/`
"#);
    }
}
