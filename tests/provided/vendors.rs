//! Registries of vendors as they are documented or were seen: their challenges, tokens, redirects and pages. In every one
//! of these tests, whoever is not the vendor's registry or its token endpoint is looked at for credentials.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use entrepot::config::RemoteConfig;
use entrepot::oci::Digest;
use entrepot::upstream::{Error, Range, Upstream};

use super::ecr::{manifest, upstream};
use crate::support::proxy::Proxy;
use crate::support::tls::{Authority, Front, Wants};
use crate::support::upstream::{ALWAYS, Act, Image, Server, login, noise, remote};

const PASSWORD: &str = "canary, of a password";

/// Hosts by their real names, and a remote that asks the first of them.
struct Stage {
    config: RemoteConfig,
    user: &'static str,
    _proxy: Proxy,
    _fronts: Vec<Front>,
}

impl Stage {
    async fn new(url: &str, user: &'static str, hosts: &[(&str, &Server)]) -> Self {
        let (proxy, authority) = (Proxy::start().await, Authority::new());
        let mut fronts = Vec::new();
        for (name, server) in hosts {
            let front = authority.front(server, name, Wants::Nothing).await;
            proxy.knows(&format!("{name}:443"), &format!("127.0.0.1:{}", front.port));
            fronts.push(front);
        }
        Self {
            config: RemoteConfig {
                url: url.parse().unwrap(),
                credentials: vec![login(user, PASSWORD)],
                proxy: Some(proxy.config(None)),
                ca: Some(authority.pem()),
                ..remote(hosts[0].1)
            },
            user,
            _proxy: proxy,
            _fronts: fronts,
        }
    }

    fn upstream(&self) -> Upstream {
        upstream(&self.config).unwrap()
    }

    fn basic(&self) -> String {
        format!("Basic {}", STANDARD.encode(format!("{}:{PASSWORD}", self.user)))
    }

    /// Where in this server user and password were seen.
    fn shown(&self, server: &Server) -> Vec<String> {
        let seen = server.seen();
        let shown = seen
            .iter()
            .filter(|seen| seen.header("authorization") == Some(&self.basic()));
        shown.map(|seen| seen.target.clone()).collect()
    }
}

/// That nothing that lets anybody in was shown there, though it was asked.
fn assert_asked_by_nobody(server: &Server) {
    assert!(!server.seen().is_empty());
    for seen in server.seen() {
        assert_eq!(seen.header("authorization"), None, "{seen:?}");
    }
}

/// A token endpoint at this path, that gives what this registry takes.
fn gives_tokens(endpoint: &Server, path: &str, registry: &Server) {
    registry.allow_token("given");
    let body = r#"{"token":"given","expires_in":300}"#;
    endpoint.on(
        &format!("GET {path}"),
        ALWAYS,
        [Act::Status(200), Act::Body(body.into())],
    );
}

/// An image whose blobs are elsewhere.
fn put(registry: &Server, name: &str, content: &Server, address: &str) -> Image {
    let layer = noise(1000, 3);
    let put = registry.put_image(name, "v1", std::slice::from_ref(&layer));
    content.put_blob("layers", &layer);
    let away = format!("https://{address}/v2/layers/blobs/{}?signature=f00", put.layers[0]);
    registry.on(&format!("GET /v2/{name}/blobs/"), ALWAYS, [Act::Redirect(away)]);
    put
}

async fn blob(upstream: &Upstream, name: &str, digest: &Digest) -> usize {
    let blob = upstream
        .blob(&name.parse().unwrap(), digest, Range::default(), None)
        .await;
    let (mut blob, mut length) = (blob.unwrap().unwrap(), 0);
    while let Some(chunk) = blob.chunk().await.unwrap() {
        length += chunk.len();
    }
    length
}

#[tokio::test]
async fn github_gives_public_images_to_nobody_where_it_refuses_somebody() {
    const CONTENT: &str = "pkg-containers.githubusercontent.com";
    let (registry, content) = (Server::start().await, Server::start().await);
    let put = put(&registry, "acme/app", &content, CONTENT);
    registry.demand_bearer_of("https://ghcr.io/token", &registry);
    let stage = Stage::new("https://ghcr.io", "ada", &[("ghcr.io", &registry), (CONTENT, &content)]).await;
    let own = stage.upstream();
    assert_eq!(manifest(&own, "acme/app").await, Ok(Some(put.digest.clone())));
    assert_eq!(blob(&own, "acme/app", &put.layers[0]).await, 1000);
    let query = "service=test&scope=repository%3Aacme%2Fapp%3Apull";
    assert_eq!(stage.shown(&registry), [format!("/token?{query}")]);
    assert_asked_by_nobody(&content);

    // A token that has ended: whoever logs out can pull.
    let denied = || {
        let body = r#"{"errors":[{"code":"DENIED","message":"denied"}]}"#;
        [Act::Status(403), Act::Body(body.into())]
    };
    let ended = stage.upstream();
    registry.forget();
    registry.on("GET /token", 1, denied());
    assert_eq!(manifest(&ended, "acme/app").await, Ok(Some(put.digest.clone())));
    assert_eq!(manifest(&ended, "acme/app").await, Ok(Some(put.digest.clone())));
    assert_eq!(registry.asked("GET /token"), 2, "it does not go on being refused");
    assert_eq!(stage.shown(&registry).len(), 1);

    // What is private stays so, and is never taken for what there is not.
    let private = stage.upstream();
    registry.on("GET /token", 2, denied());
    assert_eq!(
        manifest(&private, "acme/app").await,
        Err(Error::Refused { status: 403 })
    );
    registry.on("GET /token", 1, denied());
    registry.on(
        "GET /v2/acme/gone/manifests/",
        1,
        [Act::Status(401), challenge("https://ghcr.io/token")],
    );
    registry.on("GET /v2/acme/gone/manifests/", ALWAYS, [Act::Status(404)]);
    assert_eq!(
        manifest(&private, "acme/gone").await,
        Err(Error::Refused { status: 403 })
    );
}

fn challenge(realm: &str) -> Act {
    Act::Header("WWW-Authenticate", format!("Bearer realm=\"{realm}\",service=\"s\""))
}

#[tokio::test]
async fn gitlabs_tokens_come_from_the_host_beside_the_registry() {
    let (registry, gitlab, content) = (Server::start().await, Server::start().await, Server::start().await);
    let put = put(&registry, "acme/app", &content, "cdn.registry.gitlab-static.net");
    registry.demand_challenge(
        "Bearer realm=\"https://gitlab.com/jwt/auth\",service=\"container_registry\",scope=\"repository:acme/app:pull\"",
        &registry,
    );
    gives_tokens(&gitlab, "/jwt/auth", &registry);
    let hosts = [
        ("registry.gitlab.com", &registry),
        ("gitlab.com", &gitlab),
        ("cdn.registry.gitlab-static.net", &content),
    ];
    let stage = Stage::new("https://registry.gitlab.com", "deploy-token", &hosts).await;
    let own = stage.upstream();
    assert_eq!(manifest(&own, "acme/app").await, Ok(Some(put.digest.clone())));
    assert_eq!(blob(&own, "acme/app", &put.layers[0]).await, 1000);
    let expected = "/jwt/auth?service=container_registry&scope=repository%3Aacme%2Fapp%3Apull";
    assert_eq!(stage.shown(&gitlab), [expected]);
    assert_eq!(stage.shown(&registry), [""; 0]);
    assert_asked_by_nobody(&content);
}

#[tokio::test]
async fn a_gitlab_of_ones_own_on_another_domain_has_to_be_listed() {
    let (registry, gitlab) = (Server::start().await, Server::start().await);
    let put = registry.put_image("acme/app", "v1", &[]);
    registry.demand_bearer_of("https://git.corp.example/jwt/auth", &registry);
    gives_tokens(&gitlab, "/jwt/auth", &registry);
    let hosts = [("images.acme.test", &registry), ("git.corp.example", &gitlab)];
    let mut stage = Stage::new("https://images.acme.test", "deploy-token", &hosts).await;
    assert_eq!(
        manifest(&stage.upstream(), "acme/app").await,
        Ok(Some(put.digest.clone()))
    );
    assert_asked_by_nobody(&gitlab);
    gitlab.forget();
    stage.config.token_realms = vec!["git.corp.example".to_owned()];
    assert_eq!(manifest(&stage.upstream(), "acme/app").await, Ok(Some(put.digest)));
    assert_eq!(stage.shown(&gitlab).len(), 1);
}

#[tokio::test]
async fn nvidias_scope_is_in_the_realm_and_stays_there() {
    let (registry, content) = (Server::start().await, Server::start().await);
    let put = put(&registry, "nvidia/cuda", &content, "xfiles.ngc.nvidia.com");
    registry.demand_challenge(
        "Bearer realm=\"https://nvcr.io/proxy_auth?scope=repository:nvidia/cuda:pull,push\"",
        &registry,
    );
    gives_tokens(&registry, "/proxy_auth", &registry);
    let hosts = [("nvcr.io", &registry), ("xfiles.ngc.nvidia.com", &content)];
    let stage = Stage::new("https://nvcr.io", "$oauthtoken", &hosts).await;
    let own = stage.upstream();
    assert_eq!(manifest(&own, "nvidia/cuda").await, Ok(Some(put.digest.clone())));
    assert_eq!(blob(&own, "nvidia/cuda", &put.layers[0]).await, 1000);
    assert_eq!(
        stage.shown(&registry),
        ["/proxy_auth?scope=repository:nvidia/cuda:pull,push"]
    );
    assert_asked_by_nobody(&content);
}

#[tokio::test]
async fn fly_takes_its_token_for_a_password_however_it_asks() {
    for is_basic in [true, false] {
        let (registry, content) = (Server::start().await, Server::start().await);
        let put = put(&registry, "app", &content, "fly-registry.s3.example");
        if is_basic {
            registry.demand_basic("x", PASSWORD);
        } else {
            registry.demand_bearer_of("https://registry.fly.io/token", &registry);
        }
        let hosts = [("registry.fly.io", &registry), ("fly-registry.s3.example", &content)];
        let stage = Stage::new("https://registry.fly.io", "x", &hosts).await;
        let own = stage.upstream();
        assert_eq!(manifest(&own, "app").await, Ok(Some(put.digest.clone())));
        assert_eq!(blob(&own, "app", &put.layers[0]).await, 1000);
        assert!(!stage.shown(&registry).is_empty());
        assert_asked_by_nobody(&content);
    }
}

#[tokio::test]
async fn quays_pages_are_followed_as_they_are_named_and_on_its_own_host_only() {
    let (registry, content, evil) = (Server::start().await, Server::start().await, Server::start().await);
    let put = put(&registry, "acme/app", &content, "cdn01.quay.io");
    registry.demand_bearer_of("https://quay.io/v2/auth", &registry);
    gives_tokens(&registry, "/v2/auth", &registry);
    let hosts = [
        ("quay.io", &registry),
        ("cdn01.quay.io", &content),
        ("evil.example", &evil),
    ];
    let stage = Stage::new("https://quay.io", "acme+puller", &hosts).await;
    let own = stage.upstream();
    assert_eq!(manifest(&own, "acme/app").await, Ok(Some(put.digest.clone())));
    assert_eq!(blob(&own, "acme/app", &put.layers[0]).await, 1000);
    assert_eq!(stage.shown(&registry).len(), 1);
    assert!(stage.shown(&registry)[0].starts_with("/v2/auth?"));
    assert_asked_by_nobody(&content);

    let opaque = "gAAAAABm-4Zk_cQ%3D%3D";
    let page = |tags: &str, next: Option<&str>| {
        let mut acts = vec![Act::Body(format!(r#"{{"name":"acme/app","tags":[{tags}]}}"#).into())];
        acts.extend(next.map(|next| Act::Header("Link", format!("<{next}>; rel=\"next\""))));
        acts
    };
    let second = format!("/v2/acme/app/tags/list?n=50&next_page={opaque}");
    let tags = || async {
        let tags = own.tags(&"acme/app".parse().unwrap()).await;
        tags.map(|tags| tags.unwrap().iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    registry.on(&format!("GET next_page={opaque}"), 1, page(r#""v1","v2""#, None));
    registry.on("GET /tags/list", 1, page(r#""v3","latest""#, Some(&second)));
    assert_eq!(tags().await.unwrap(), ["latest", "v1", "v2", "v3"]);
    assert!(registry.seen().iter().any(|seen| seen.target == second));

    registry.on(
        "GET /tags/list",
        1,
        page(
            r#""v3""#,
            Some("https://evil.example/v2/acme/app/tags/list?next_page=x"),
        ),
    );
    assert!(matches!(tags().await, Err(Error::Lies(_))));
    assert!(evil.seen().is_empty());
}

#[tokio::test]
async fn artifactory_says_403_of_what_it_does_not_have_and_that_is_no_absence() {
    let (registry, content) = (Server::start().await, Server::start().await);
    let put = put(
        &registry,
        "docker-remote/library/app",
        &content,
        "jfrog-prod.s3.amazonaws.com",
    );
    let realm = "https://acme.jfrog.io/artifactory/api/docker/docker-remote/v2/token";
    registry.demand_bearer_of(realm, &registry);
    gives_tokens(&registry, "/artifactory/api/docker/docker-remote/v2/token", &registry);
    let hosts = [("acme.jfrog.io", &registry), ("jfrog-prod.s3.amazonaws.com", &content)];
    let stage = Stage::new("https://acme.jfrog.io/docker-remote", "ada", &hosts).await;
    let own = stage.upstream();
    assert_eq!(manifest(&own, "library/app").await, Ok(Some(put.digest.clone())));
    assert_eq!(blob(&own, "library/app", &put.layers[0]).await, 1000);
    let shown = stage.shown(&registry);
    assert_eq!(shown.len(), 1, "{shown:?}");
    assert!(
        shown[0].ends_with("&scope=repository%3Adocker-remote%2Flibrary%2Fapp%3Apull"),
        "{shown:?}"
    );
    assert_asked_by_nobody(&content);

    let body = r#"{"errors":[{"code":"DENIED","message":"Unauthorized: not authorized or not found"}]}"#;
    registry.on(
        "GET /v2/docker-remote/library/none/",
        ALWAYS,
        [Act::Status(403), Act::Body(body.into())],
    );
    assert_eq!(
        manifest(&own, "library/none").await,
        Err(Error::Refused { status: 403 })
    );
    assert_eq!(manifest(&own, "library/gone").await, Ok(None), "404 is one");
}

#[tokio::test]
async fn harbors_proxy_projects_send_hub_images_on_to_library() {
    let registry = Server::start().await;
    let put = registry.put_image("proxy/library/alpine", "v1", &[noise(1000, 3)]);
    registry.demand_bearer_of("https://harbor.acme.test/service/token", &registry);
    gives_tokens(&registry, "/service/token", &registry);
    let target = "/v2/proxy/library/alpine/manifests/v1".to_owned();
    let moved = [Act::Status(301), Act::Header("Location", target)];
    registry.on("GET /v2/proxy/alpine/manifests/", ALWAYS, moved);
    let hosts = [("harbor.acme.test", &registry)];
    let stage = Stage::new("https://harbor.acme.test/proxy", "robot$puller", &hosts).await;
    let own = stage.upstream();
    assert_eq!(manifest(&own, "alpine").await, Ok(Some(put.digest.clone())));
    assert_eq!(blob(&own, "library/alpine", &put.layers[0]).await, 1000);
    for target in stage.shown(&registry) {
        assert!(target.starts_with("/service/token?"), "{target}");
    }
    let body = r#"{"errors":[{"code":"NOT_FOUND","message":"artifact proxy/none:v1 not found"}]}"#;
    registry.on(
        "GET /v2/proxy/none/",
        ALWAYS,
        [Act::Status(404), Act::Body(body.into())],
    );
    assert_eq!(manifest(&own, "none").await, Ok(None));
}

#[tokio::test]
async fn the_manifests_of_kubernetes_are_elsewhere_and_so_is_who_asks_for_a_token() {
    const STORE: &str = "us-west1-docker.pkg.dev";
    const BUCKET: &str = "prod-registry-k8s-io-us-west-1.s3.dualstack.us-west-1.amazonaws.com";
    let (registry, store, bucket) = (Server::start().await, Server::start().await, Server::start().await);
    let image = "k8s-artifacts-prod/images/pause";
    let layer = noise(1000, 3);
    let put = store.put_image(image, "v1", std::slice::from_ref(&layer));
    bucket.put_blob("layers", &layer);
    store.demand_bearer_of(&format!("https://{STORE}/v2/token"), &store);
    gives_tokens(&store, "/v2/token", &store);
    let there = format!("https://{STORE}/v2/{image}/manifests/v1");
    registry.on("GET /v2/pause/manifests/", ALWAYS, [Act::Redirect(there)]);
    let there = format!("https://{BUCKET}/v2/layers/blobs/{}", put.layers[0]);
    registry.on("GET /v2/pause/blobs/", ALWAYS, [Act::Redirect(there)]);
    let hosts = [("registry.k8s.io", &registry), (STORE, &store), (BUCKET, &bucket)];
    // It needs no credentials. Whoever writes some down all the same gives them to nobody else.
    let stage = Stage::new("https://registry.k8s.io", "ada", &hosts).await;
    let own = stage.upstream();
    assert_eq!(manifest(&own, "pause").await, Ok(Some(put.digest.clone())));
    assert_eq!(blob(&own, "pause", &put.layers[0]).await, 1000);
    assert_asked_by_nobody(&bucket);
    assert_asked_by_nobody(&registry);
    for seen in store.seen() {
        let shown = seen.header("authorization");
        assert!(shown.is_none_or(|shown| shown == "Bearer given"), "{seen:?}");
    }
}
