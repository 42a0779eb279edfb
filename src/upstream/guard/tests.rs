//! Which addresses are public, and which others an upstream may lead to.

use super::super::tests::remote;
use super::*;
use crate::config::ProxyConfig;

const PRIVATE: [&str; 46] = [
    "198.18.0.1",
    "198.19.255.255",
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "10.255.255.255",
    "100.64.0.1",
    "100.100.100.200",
    "100.127.255.255",
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",
    "169.254.0.1",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.192",
    "192.168.0.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::8.8.8.8",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:0:127.0.0.1",
    "64:ff9b::127.0.0.1",
    "64:ff9b::169.254.169.254",
    "64:ff9b:1::8.8.8.8",
    "100::1",
    "2001::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2002:7f00:1::",
    "2002:a9fe:a9fe::1",
    "2002:c0a8:1::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "febf::1",
    "fec0::1",
    "ff02::1",
];
const PUBLIC: [&str; 15] = [
    "1.1.1.1",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "128.0.0.1",
    "168.63.129.17",
    "172.15.255.255",
    "172.32.0.0",
    "192.0.1.1",
    "223.255.255.255",
    "2606:4700::1111",
    "::ffff:8.8.8.8",
    "64:ff9b::8.8.8.8",
    "2002:808:808::1",
];

fn guard(config: &RemoteConfig) -> Guard {
    Guard::new(config)
}

fn goes(guard: &Guard, url: &str) -> bool {
    guard.check(&url.parse().expect("a URL")).is_ok()
}

fn chosen(guard: &Guard, name: &str, addresses: &[&str]) -> Option<usize> {
    let addresses = addresses
        .iter()
        .map(|address| SocketAddr::new(address.parse().expect("an address"), 0));
    guard.choose(name, addresses).ok().map(|chosen| chosen.len())
}

#[test]
fn an_address_is_public_or_it_is_not() {
    for address in PRIVATE {
        assert!(!is_public(address.parse().expect(address)), "{address}");
    }
    for address in PUBLIC {
        assert!(is_public(address.parse().expect(address)), "{address}");
    }
}

#[test]
fn a_private_address_in_a_url_is_refused_however_it_is_written() {
    let guard = guard(&remote("https://r.example.com"));
    for address in PRIVATE {
        let host = if address.contains(':') {
            format!("[{address}]")
        } else {
            address.to_owned()
        };
        assert!(!goes(&guard, &format!("https://{host}:8443/x")), "{address}");
    }
    for host in [
        "0x7f.1",
        "127.1",
        "2130706433",
        "017700000001",
        "%31%32%37.0.0.1",
        "0xa9fea9fe",
        "127.0.0.1.",
    ] {
        assert!(!goes(&guard, &format!("http://{host}/")), "{host}");
    }
    assert!(goes(&guard, "https://1.1.1.1/x"));
    assert!(goes(&guard, "https://[2606:4700::1111]/x"));
    let refused = guard.check(&"http://127.0.0.1/?secret".parse().expect("a URL"));
    let text = refused.expect_err("private").to_string();
    assert!(text.contains("127.0.0.1") && text.contains("allow_private"), "{text}");
    assert!(!text.contains("secret"), "{text}");
}

#[test]
fn what_the_configuration_names_may_be_private() {
    let mut config = remote("http://10.0.0.5:5000/prefix");
    config.mirrors = vec![
        "http://[fd00::1]".parse().expect("a URL"),
        "https://Mirror.lan".parse().expect("a URL"),
    ];
    config.allow_private = vec!["10.1.0.0/16".parse().expect("a network")];
    let guard = guard(&config);
    for (url, may) in [
        ("http://10.0.0.5:5000/v2/", true),
        ("https://10.0.0.5/token", true),
        ("http://10.0.0.6:5000/", false),
        ("http://[::ffff:10.0.0.5]/", false),
        ("https://[fd00::1]:8443/", true),
        ("https://[fd00::2]/", false),
        ("http://10.1.2.3/", true),
        ("http://[::ffff:10.1.2.3]/", true),
        ("http://10.2.0.1/", false),
    ] {
        assert_eq!(goes(&guard, url), may, "{url}");
    }
    assert_eq!(chosen(&guard, "mirror.lan", &["192.168.0.9", "fd00::7"]), Some(2));
    assert_eq!(chosen(&guard, "MIRROR.lan.", &["127.0.0.1"]), Some(1));
    assert_eq!(chosen(&guard, "a.mirror.lan", &["192.168.0.9"]), None);
    assert_eq!(chosen(&guard, "other.lan", &["192.168.0.9", "10.1.9.9"]), Some(1));
}

#[test]
fn a_name_means_its_public_addresses_each_time_it_is_asked() {
    let guard = guard(&remote("https://r.example.com"));
    assert_eq!(chosen(&guard, "cdn.example.com", &["8.8.8.8"]), Some(1));
    // Rebinding: what was public a moment ago.
    assert_eq!(chosen(&guard, "cdn.example.com", &["127.0.0.1"]), None);
    assert_eq!(
        chosen(&guard, "cdn.example.com", &["10.0.0.1", "8.8.8.8", "::1"]),
        Some(1)
    );
    assert_eq!(
        chosen(&guard, "nobody.example.com", &[]),
        Some(0),
        "no address is not a private one"
    );
    let refused = guard.choose("cdn.example.com", [SocketAddr::from(([10, 0, 0, 1], 0))].into_iter());
    let text = refused.expect_err("private").to_string();
    assert!(text.contains("cdn.example.com (10.0.0.1)"), "{text}");
}

#[test]
fn the_proxy_may_be_dialled_and_is_no_place_to_be_led_to() {
    let mut config = remote("https://r.example.com");
    config.proxy = Some(ProxyConfig {
        url: "http://proxy.lan:3128".parse().expect("a URL"),
        credentials: None,
    });
    assert_eq!(chosen(&guard(&config), "proxy.lan", &["10.0.0.9"]), Some(1));
    config.proxy = Some(ProxyConfig {
        url: "http://10.0.0.9:3128".parse().expect("a URL"),
        credentials: None,
    });
    assert!(!goes(&guard(&config), "http://10.0.0.9/"));
}

#[test]
fn docker_hub_is_home_under_the_name_that_it_is_asked_by() {
    let guard = guard(&remote("https://docker.io"));
    assert!(guard.is_home(&"https://registry-1.docker.io/v2/".parse().expect("a URL")));
    assert!(!guard.is_home(&"https://auth.docker.io/token".parse().expect("a URL")));
    assert!(!guard.is_home(&"https://registry-1.docker.io:444/".parse().expect("a URL")));
    assert_eq!(chosen(&guard, "registry-1.docker.io", &["10.0.0.1"]), Some(1));
    assert_eq!(chosen(&guard, "auth.docker.io", &["10.0.0.1"]), None);
}
