use http::HeaderValue;

use super::*;

const PROXY: &str = "10.0.0.1";

fn proxies(external: Option<&str>) -> Proxies {
    let external: Option<Url> = external.map(|url| url.parse().expect("a URL"));
    Proxies::new(external.as_ref(), &["10.0.0.0/8".parse().expect("a network")])
}

fn headers(all: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in all {
        headers.append(*name, HeaderValue::from_str(value).expect("a value"));
    }
    headers
}

fn asked(peer: &str, all: &[(&'static str, &str)]) -> Origin {
    let peer = peer.parse().expect("an address");
    proxies(None).origin(peer, false, Some("Registry:5000"), &headers(all))
}

fn client(peer: &str, all: &[(&'static str, &str)]) -> String {
    asked(peer, all).client.to_string()
}

fn url(peer: &str, all: &[(&'static str, &str)]) -> String {
    asked(peer, all).base.url("/token")
}

#[test]
fn s16_only_trusted_proxies_are_believed() {
    let spoofed = [
        ("x-forwarded-for", "192.0.2.7"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "evil.example"),
        ("x-forwarded-prefix", "/evil"),
        ("forwarded", "for=192.0.2.7;proto=https;host=evil.example"),
    ];
    let origin = asked("198.51.100.1", &spoofed);
    assert_eq!(origin.client.to_string(), "198.51.100.1");
    assert_eq!(origin.base.url("/token"), "http://registry:5000/token");
    assert_eq!(origin.host(), Some("registry"));
    // The same from a proxy of ours counts.
    let origin = asked(PROXY, &spoofed);
    assert_eq!(origin.client.to_string(), "192.0.2.7");
    assert_eq!(origin.base.url("/token"), "https://evil.example/evil/token");
    assert_eq!(origin.host(), Some("evil.example"));
}

#[test]
fn s16_the_client_is_the_nearest_that_is_no_proxy() {
    for (forwarded_for, expected) in [
        ("192.0.2.7", "192.0.2.7"),
        // What the client made up stands to the left of what the proxy saw.
        ("203.0.113.9, 192.0.2.7", "192.0.2.7"),
        ("10.9.9.9, 192.0.2.7", "192.0.2.7"),
        ("192.0.2.7, 10.0.0.2", "192.0.2.7"),
        ("203.0.113.9, 192.0.2.7, 10.0.0.2, 10.0.0.3", "192.0.2.7"),
        ("10.0.0.2", "10.0.0.2"),
        ("192.0.2.7:1234", "192.0.2.7"),
        ("[2001:db8::7]:1234", "2001:db8::7"),
        ("2001:db8::7", "2001:db8::7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        // Nonsense ends the way at who said it.
        ("192.0.2.7, unknown", PROXY),
        ("192.0.2.7, ", PROXY),
        ("192.0.2.7, unknown, 10.0.0.2", "10.0.0.2"),
        ("", PROXY),
    ] {
        assert_eq!(
            client(PROXY, &[("x-forwarded-for", forwarded_for)]),
            expected,
            "{forwarded_for}"
        );
    }
    let lines = [("x-forwarded-for", "203.0.113.9"), ("x-forwarded-for", "192.0.2.7")];
    assert_eq!(client(PROXY, &lines), "192.0.2.7");
}

#[test]
fn s16_the_standard_header_means_the_same() {
    for (text, expected) in [
        ("for=192.0.2.7", "192.0.2.7"),
        ("for=203.0.113.9, for=192.0.2.7;proto=https", "192.0.2.7"),
        ("For=\"[2001:db8::7]:4711\"", "2001:db8::7"),
        ("for=192.0.2.7, for=10.0.0.2", "192.0.2.7"),
        ("for=\"_hidden\"", PROXY),
        ("for=192.0.2.7, for=unknown", PROXY),
        ("for=\"192.0.2.7", PROXY),
        ("nonsense", PROXY),
        ("for=192.0.2.7;for=192.0.2.8", PROXY),
    ] {
        assert_eq!(client(PROXY, &[("forwarded", text)]), expected, "{text}");
    }
    // One of them is the client's own invention.
    let both = [("forwarded", "for=203.0.113.9"), ("x-forwarded-for", "192.0.2.7")];
    assert_eq!(client(PROXY, &both), PROXY);
    let both = [
        ("forwarded", "for=192.0.2.7"),
        ("x-forwarded-for", "192.0.2.7, 10.0.0.2"),
    ];
    assert_eq!(client(PROXY, &both), "192.0.2.7");
}

#[test]
fn s16_scheme_host_and_path_are_those_of_the_proxy_next_to_the_client() {
    for (all, expected) in [
        (&[("x-forwarded-proto", "https")][..], "https://registry:5000/token"),
        (
            &[
                ("x-forwarded-proto", "HTTPS"),
                ("x-forwarded-host", "Images.Example.com"),
            ],
            "https://images.example.com/token",
        ),
        // The client's own word is left of the proxy's.
        (
            &[("x-forwarded-for", "192.0.2.7"), ("x-forwarded-proto", "http, https")],
            "https://registry:5000/token",
        ),
        // Two proxies, each with a word.
        (
            &[
                ("x-forwarded-for", "192.0.2.7, 10.0.0.2"),
                ("x-forwarded-proto", "https, http"),
            ],
            "https://registry:5000/token",
        ),
        (
            &[(
                "forwarded",
                "for=192.0.2.7;proto=https;host=\"images.example.com:8443\"",
            )],
            "https://images.example.com:8443/token",
        ),
        (
            &[(
                "forwarded",
                "for=1.2.3.4;host=evil.example, for=192.0.2.7;host=images.example.com",
            )],
            "http://images.example.com/token",
        ),
        (
            &[("x-forwarded-proto", "https"), ("x-forwarded-prefix", "/registry/")],
            "https://registry:5000/registry/token",
        ),
    ] {
        assert_eq!(url(PROXY, all), expected, "{all:?}");
    }
}

#[test]
fn s16_what_could_mislead_is_no_host_and_no_path() {
    for host in [
        "a\"b",
        "user@host",
        "a/b",
        "host:port",
        "host:99999",
        "",
        "a b",
        "ä.example",
        "a,b\\",
        "[::1",
        // Found by fuzzing: an IPv4 address that is none.
        "r.example.2.9",
        "[::]9999:19",
    ] {
        let peer = PROXY.parse().expect("an address");
        let mut all = HeaderMap::new();
        let Ok(value) = HeaderValue::from_bytes(host.as_bytes()) else {
            continue;
        };
        all.append("x-forwarded-host", value);
        let base = proxies(None).origin(peer, false, Some("registry:5000"), &all).base;
        // A list's last element is a value by itself.
        assert!(
            matches!(&*base.authority, "registry:5000"),
            "{host}: {}",
            base.authority
        );
        assert_eq!(
            proxies(None)
                .origin(peer, false, Some(host), &HeaderMap::new())
                .base
                .authority,
            "localhost"
        );
    }
    for path in [
        "//evil.example",
        "/a/../b",
        "/a//b",
        "evil",
        "/a\"b",
        "/a?b",
        "/a%2fb",
        "/./a",
    ] {
        assert_eq!(
            url(PROXY, &[("x-forwarded-prefix", path)]),
            "http://registry:5000/token",
            "{path}"
        );
    }
}

#[test]
fn the_configured_address_is_what_is_written_and_not_what_is_routed_by() {
    let proxies = proxies(Some("https://Registry.example.com/images/"));
    let peer = "198.51.100.1".parse().expect("an address");
    let origin = proxies.origin(peer, false, Some("docker.internal:5000"), &HeaderMap::new());
    assert_eq!(origin.base.url("/token"), "https://registry.example.com/images/token");
    assert_eq!(origin.base.host(), "registry.example.com");
    assert_eq!(origin.host(), Some("docker.internal"));
}

#[test]
fn forwarded_is_read_to_its_grammar() {
    let read = |text: &str| forwarded(text).map(|all| all.into_iter().map(|one| one.node).collect::<Vec<_>>());
    let node = |text: &str| Some(text.to_owned());
    assert_eq!(
        read("for=a;by=b, for=\"x,\\\"y;\""),
        Some(vec![node("a"), node("x,\"y;")])
    );
    assert_eq!(read("proto=http ; for=a"), Some(vec![node("a")]));
    assert_eq!(read(", for=a"), Some(vec![None, node("a")]));
    for wrong in ["for", "for=", "=a", "f r=a", "for=a b=c", "for=\"a\"b"] {
        assert_eq!(read(wrong), None, "{wrong}");
    }
}
