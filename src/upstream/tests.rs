//! What an upstream is called and where it is asked. What it does on the wire is in `tests/upstream.rs`.

use super::*;

/// A remote with every default.
pub(super) fn remote(url: &str) -> RemoteConfig {
    RemoteConfig::of(url.parse().expect("a URL"))
}

fn upstream(url: &str) -> Result<Upstream, Error> {
    let key = "remote".parse().expect("a key");
    let metrics = Arc::new(Metrics::new().expect("metrics"));
    Upstream::new(&key, &remote(url), 4 << 20, metrics)
}

fn asked(url: &str, image: &str) -> String {
    let upstream = upstream(url).expect("an upstream");
    let image = image.parse().expect("a name");
    let ask = upstream.question(Method::GET, &image, "manifests/latest");
    ask.map_or_else(String::new, |ask| format!("{} {}", ask.url, ask.scope))
}

#[test]
fn docker_hub_is_asked_where_it_answers_whatever_it_is_called() {
    for url in [
        "https://registry-1.docker.io",
        "https://docker.io/",
        "https://index.docker.io",
        "https://registry.hub.docker.com",
        "https://DOCKER.io:443",
    ] {
        let hub = upstream(url).expect("an upstream");
        assert_eq!(hub.host(), "docker.io");
        assert_eq!(namespace(&remote(url)).as_deref(), Some("docker.io"));
        assert_eq!(
            asked(url, "alpine"),
            "https://registry-1.docker.io/v2/library/alpine/manifests/latest repository:library/alpine:pull"
        );
        assert_eq!(
            asked(url, "grafana/loki"),
            "https://registry-1.docker.io/v2/grafana/loki/manifests/latest repository:grafana/loki:pull"
        );
    }
}

#[test]
fn other_hosts_keep_their_names_and_a_path_is_a_prefix() {
    assert_eq!(
        asked("https://quay.io", "alpine"),
        "https://quay.io/v2/alpine/manifests/latest repository:alpine:pull"
    );
    assert_eq!(
        asked("http://localhost:5001/mirror/hub/", "library/alpine"),
        "http://localhost:5001/v2/mirror/hub/library/alpine/manifests/latest \
         repository:mirror/hub/library/alpine:pull"
    );
    let upstream = upstream("http://localhost:5001/mirror").expect("an upstream");
    assert_eq!(upstream.host(), "localhost:5001");
    assert_eq!(namespace(&remote("http://localhost:5001/mirror")), None);
    assert_eq!(
        asked("http://localhost/mirror", &"a".repeat(255)),
        "",
        "too long with the prefix"
    );
}

#[test]
fn urls_that_cannot_be_asked_are_refused() {
    for url in [
        "ftp://r.example.com",
        "https://ada:lovelace@r.example.com",
        "https://r.example.com/UPPER",
        "file:///etc",
    ] {
        assert!(matches!(upstream(url), Err(Error::Url(_))), "{url}");
    }
}

#[test]
fn nothing_printed_holds_a_secret() {
    let mut config = remote("https://r.example.com");
    let login = crate::config::Credentials {
        username: "ada".to_owned(),
        password: crate::config::Secret::new("lovelace"),
    };
    config.credentials.push(login.into());
    let key = "remote".parse().expect("a key");
    let metrics = Arc::new(Metrics::new().expect("metrics"));
    let upstream = Upstream::new(&key, &config, 1, metrics).expect("an upstream");
    assert_eq!(format!("{upstream:?}"), "Upstream(remote at r.example.com)");
    assert!(!format!("{config:?}").contains("lovelace"));
}
