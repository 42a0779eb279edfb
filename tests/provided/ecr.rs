//! `credentials: ecr` and `ecr-public`: who is asked for tokens, when, and who sees them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base64::Engine as _;
use entrepot::config::{Environment, Login, Provider, RemoteConfig};
use entrepot::oci::{Digest, ImageName};
use entrepot::telemetry::Metrics;
use entrepot::upstream::{Error, Range, Upstream};
use ring::{digest, hmac};

use crate::support::cloud::{Asked, Cloud, Says};
use crate::support::proxy::Proxy;
use crate::support::tls::{Authority, Front, Wants};
use crate::support::upstream::{ALWAYS, Act, Server, noise, remote};

pub(crate) const HOST: &str = "123456789012.dkr.ecr.eu-west-1.amazonaws.com";
const API: &str = "api.ecr.eu-west-1.amazonaws.com";
const BUCKET: &str = "prod-eu-west-1-starport-layer-bucket.s3.eu-west-1.amazonaws.com";
pub(crate) const ID: &str = "AKIDEXAMPLE";
pub(crate) const SECRET: &str = "canary-of-a-secret-key";

/// What an API thinks.
type Mind = Box<dyn FnMut(&Asked) -> Says + Send>;

/// A registry of Amazon's, its API, and where its blobs are; reached through a proxy that knows their names.
struct Amazon {
    registry: Server,
    bucket: Server,
    api: Cloud,
    config: RemoteConfig,
    proxy: Proxy,
    _fronts: Vec<Front>,
}

/// The API as it is documented: gives `password-1`, `password-2`, … to whoever signs as they should.
pub(crate) fn api(given: Arc<AtomicU64>) -> impl FnMut(&Asked) -> Says + Send + 'static {
    move |asked| {
        if !is_signed(asked, ("eu-west-1", "ecr"), SECRET) {
            let body = r#"{"__type":"InvalidSignatureException","message":"canary-of-a-message"}"#;
            return Says::This(400, body.to_owned());
        }
        let target = "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken";
        assert_eq!((asked.method.as_str(), asked.target.as_str()), ("POST", "/"));
        assert_eq!(asked.header("x-amz-target"), target);
        assert_eq!(asked.header("content-type"), "application/x-amz-json-1.1");
        assert_eq!(asked.body, "{}");
        let number = given.fetch_add(1, Ordering::SeqCst) + 1;
        let token = base64::engine::general_purpose::STANDARD.encode(format!("AWS:password-{number}"));
        let until = std::time::SystemTime::now() + Duration::from_secs(12 * 3600);
        let until = until.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        Says::This(
            200,
            format!(
                r#"{{"authorizationData":[{{"authorizationToken":"{token}","expiresAt":{until:.3},"proxyEndpoint":"https://{HOST}"}}]}}"#
            ),
        )
    }
}

/// Whether a request is signed with this key: worked out from what came over the wire.
pub(crate) fn is_signed(asked: &Asked, (region, service): (&str, &str), secret: &str) -> bool {
    let hex = |bytes: &[u8]| {
        bytes
            .iter()
            .fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
    };
    let sha = |text: &str| hex(digest::digest(&digest::SHA256, text.as_bytes()).as_ref());
    let mac = |key: &[u8], text: &str| {
        let key = hmac::Key::new(hmac::HMAC_SHA256, key);
        hmac::sign(&key, text.as_bytes()).as_ref().to_vec()
    };
    let part = |name: &str| {
        let (_, rest) = asked.header("authorization").split_once(&format!("{name}="))?;
        rest.split(',').next().map(str::to_owned)
    };
    let (Some(credential), Some(names), Some(signature)) =
        (part("Credential"), part("SignedHeaders"), part("Signature"))
    else {
        return false;
    };
    assert!(names.contains("host") && names.contains("x-amz-date"), "{names}");
    assert!(names.contains("content-type"), "{names}");
    let moment = asked.header("x-amz-date");
    let scope = format!("{}/{region}/{service}/aws4_request", &moment[..8]);
    if !credential.ends_with(&scope) {
        return false;
    }
    let lines = names.split(';').fold(String::new(), |lines, name| {
        lines + name + ":" + asked.header(name) + "\n"
    });
    let request = format!("POST\n/\n\n{lines}\n{names}\n{}", sha(&asked.body));
    let text = format!("AWS4-HMAC-SHA256\n{moment}\n{scope}\n{}", sha(&request));
    let key = [&moment[..8], region, service, "aws4_request"]
        .into_iter()
        .fold(format!("AWS4{secret}").into_bytes(), |key, part| mac(&key, part));
    hex(&mac(&key, &text)) == signature
}

fn environment(more: &[(&str, &str)]) -> Environment {
    let own = [("AWS_ACCESS_KEY_ID", ID), ("AWS_SECRET_ACCESS_KEY", SECRET)];
    own.iter().chain(more).copied().collect()
}

impl Amazon {
    async fn start() -> Self {
        Self::with(environment(&[])).await
    }

    async fn with(environment: Environment) -> Self {
        let (registry, bucket) = (Server::start().await, Server::start().await);
        let api = Cloud::start(api(Arc::default())).await;
        let (proxy, authority) = (Proxy::start().await, Authority::new());
        let mut fronts = Vec::new();
        for (name, address) in [(HOST, registry.host()), (BUCKET, bucket.host()), (API, api.host())] {
            let front = authority.front_of(address, name, Wants::Nothing).await;
            proxy.knows(&format!("{name}:443"), &format!("127.0.0.1:{}", front.port));
            fronts.push(front);
        }
        registry.demand_basic("AWS", "password-1");
        let config = RemoteConfig {
            url: format!("https://{HOST}").parse().unwrap(),
            credentials: vec![Login::Provided(Provider::Ecr, environment)],
            proxy: Some(proxy.config(None)),
            ca: Some(authority.pem()),
            ..remote(&registry)
        };
        Self {
            registry,
            bucket,
            api,
            config,
            proxy,
            _fronts: fronts,
        }
    }
}

pub(crate) fn upstream(config: &RemoteConfig) -> Result<Upstream, Error> {
    let metrics = Arc::new(Metrics::new().unwrap());
    Upstream::new(&"remote".parse().unwrap(), config, 64 * 1024, metrics)
}

fn image(name: &str) -> ImageName {
    name.parse().unwrap()
}

pub(crate) async fn manifest(upstream: &Upstream, name: &str) -> Result<Option<Digest>, Error> {
    let answer = upstream.manifest(&image(name), &"v1".parse().unwrap()).await?;
    Ok(answer.map(|(manifest, _)| manifest.digest))
}

/// Lets time pass for who counts it, without waiting.
pub(crate) async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

#[tokio::test]
async fn one_signed_question_lets_all_in_and_nobody_else_sees_the_token() {
    let amazon = Amazon::start().await;
    let bytes = noise(100_000, 1);
    let put = amazon
        .registry
        .put_image("team/app", "v1", std::slice::from_ref(&bytes));
    amazon.bucket.put_blob("layers", &bytes);
    let signed = format!("https://{BUCKET}/v2/layers/blobs/{}?X-Amz-Signature=f00", put.layers[0]);
    amazon
        .registry
        .on("GET /v2/team/app/blobs/", ALWAYS, [Act::Redirect(signed)]);
    let upstream = upstream(&amazon.config).unwrap();

    let all = futures_util::future::join_all((0..20).map(|_| manifest(&upstream, "team/app"))).await;
    assert!(all.iter().all(|one| *one == Ok(Some(put.digest.clone()))), "{all:?}");
    let mut blob = upstream
        .blob(&image("team/app"), &put.layers[0], Range::default(), None)
        .await
        .unwrap()
        .unwrap();
    let mut length = 0;
    while let Some(chunk) = blob.chunk().await.unwrap() {
        length += chunk.len();
    }
    assert_eq!(length, bytes.len());
    assert_eq!(amazon.api.asked().len(), 1, "one question for all of them");
    let at_the_bucket = amazon.bucket.seen();
    assert!(!at_the_bucket.is_empty());
    for seen in &at_the_bucket {
        assert_eq!(seen.header("authorization"), None, "{seen:?}");
    }
    for asked in amazon.api.asked() {
        assert!(!format!("{asked:?}").contains(SECRET), "the key itself is never sent");
    }
    assert!(amazon.proxy.asked().iter().all(|head| head.starts_with("CONNECT ")));
}

#[tokio::test]
async fn a_token_that_is_refused_is_fetched_anew_once() {
    for status in [401, 403] {
        let amazon = Amazon::start().await;
        let put = amazon.registry.put_image("a", "v1", &[]);
        let upstream = upstream(&amazon.config).unwrap();
        assert_eq!(manifest(&upstream, "a").await, Ok(Some(put.digest.clone())));

        let refusal = || {
            let challenge = "Basic realm=\"https://ecr\",service=\"ecr.amazonaws.com\"".to_owned();
            [Act::Status(status), Act::Header("WWW-Authenticate", challenge)]
        };
        // What was fetched just now is not what is wrong: a right that is missing costs no token.
        amazon.registry.on("GET /v2/a/manifests/", 3, refusal());
        for _ in 0..3 {
            assert_eq!(manifest(&upstream, "a").await, Err(Error::Refused { status }));
        }
        assert_eq!(amazon.api.asked().len(), 1);

        pass(Duration::from_secs(31)).await;
        amazon.registry.demand_basic("AWS", "password-2");
        if status == 403 {
            amazon.registry.on("GET /v2/a/manifests/", 1, refusal());
        }
        assert_eq!(manifest(&upstream, "a").await, Ok(Some(put.digest.clone())));
        assert_eq!(amazon.api.asked().len(), 2);

        // Refused all the same: the answer is told, after one more question at most.
        pass(Duration::from_secs(31)).await;
        amazon.registry.on("GET /v2/a/manifests/", ALWAYS, refusal());
        assert_eq!(manifest(&upstream, "a").await, Err(Error::Refused { status }));
        assert_eq!(manifest(&upstream, "a").await, Err(Error::Refused { status }));
        assert_eq!(amazon.api.asked().len(), 3);
    }
}

#[tokio::test]
async fn a_token_is_renewed_beside_the_questions_and_kept_while_it_cannot_be() {
    let amazon = Amazon::start().await;
    let put = amazon.registry.put_image("a", "v1", &[]);
    let upstream = upstream(&amazon.config).unwrap();
    assert_eq!(manifest(&upstream, "a").await, Ok(Some(put.digest.clone())));
    amazon.api.think(|_| Says::This(503, "<html>".to_owned()));
    pass(Duration::from_secs(10 * 3600)).await;
    for _ in 0..5 {
        assert_eq!(manifest(&upstream, "a").await, Ok(Some(put.digest.clone())));
    }
    assert!(amazon.api.asked().len() <= 3, "nobody is pestered");
    pass(Duration::from_secs(2 * 3600)).await;
    assert_fails_with(&upstream, "Amazon ECR's API answers 503").await;
    amazon.registry.demand_basic("AWS", "password-1");
    amazon.api.think(api(Arc::default()));
    pass(Duration::from_secs(60)).await;
    assert_eq!(
        manifest(&upstream, "a").await,
        Ok(Some(put.digest)),
        "trouble does not stick"
    );
}

#[tokio::test]
async fn an_api_that_misbehaves_is_told_and_gives_nothing_away() {
    let elsewhere = Cloud::start(|_| Says::This(200, String::new())).await;
    let amazon = Amazon::start().await;
    amazon.registry.put_image("a", "v1", &[]);
    let to = elsewhere.url();
    let minds: Vec<(Mind, &str)> = vec![
        (
            Box::new(|_| {
                let body =
                    r#"{"__type":"com.amazon.coral.service#AccessDeniedException","message":"canary-of-a-message"}"#;
                Says::This(400, body.to_owned())
            }),
            "answers 400 (AccessDeniedException)",
        ),
        (
            Box::new(|_| Says::This(200, "canary-of-a-message".to_owned())),
            "gives no token",
        ),
        (
            Box::new(|_| Says::This(200, r#"{"authorizationData":[]}"#.to_owned())),
            "gives no token",
        ),
        (Box::new(|_| Says::Flood), "sends more than"),
        (Box::new(move |_| Says::Elsewhere(to.clone())), "answers 307"),
    ];
    for (mind, expected) in minds {
        amazon.api.think(mind);
        let upstream = upstream(&amazon.config).unwrap();
        let error = manifest(&upstream, "a").await.unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(text.contains(expected), "{text}");
        for canary in [SECRET, "canary-of-a-message"] {
            assert!(!text.contains(canary), "{text}");
        }
    }
    assert!(elsewhere.asked().is_empty(), "a redirect is no answer");
    assert!(!format!("{:?}", amazon.config).contains(SECRET));
    // One that hangs takes no longer than a question may.
    amazon.api.think(|_| Says::Nothing);
    let upstream = upstream(&amazon.config).unwrap();
    assert!(matches!(manifest(&upstream, "a").await, Err(Error::Timeout(_))));
}

#[tokio::test]
async fn a_registry_that_names_a_realm_elsewhere_gets_no_token_there() {
    let amazon = Amazon::start().await;
    amazon.registry.put_image("a", "v1", &[]);
    let realm = format!("https://{BUCKET}/token");
    amazon.registry.demand_bearer_of(&realm, &amazon.bucket);
    let upstream = upstream(&amazon.config).unwrap();
    assert!(manifest(&upstream, "a").await.is_ok(), "asked anonymously");
    for seen in amazon.bucket.seen() {
        assert_eq!(seen.header("authorization"), None, "{seen:?}");
    }
    assert!(
        amazon.api.asked().is_empty(),
        "nothing is fetched that may not be shown"
    );
}

#[tokio::test]
async fn the_public_registry_has_its_own_api_and_takes_the_token_at_its_realm() {
    let registry = Server::start().await;
    let put = registry.put_image("docker/library/busybox", "v1", &[]);
    registry.demand_bearer_of("https://public.ecr.aws/token/", &registry);
    let api = Cloud::start(|asked: &Asked| {
        assert!(is_signed(asked, ("us-east-1", "ecr-public"), SECRET));
        assert_eq!(
            asked.header("x-amz-target"),
            "SpencerFrontendService.GetAuthorizationToken"
        );
        let token = base64::engine::general_purpose::STANDARD.encode("AWS:public-password");
        let body = format!(r#"{{"authorizationData":{{"authorizationToken":"{token}","expiresAt":9999999999.0}}}}"#);
        Says::This(200, body)
    })
    .await;
    let (proxy, authority) = (Proxy::start().await, Authority::new());
    let mut fronts = Vec::new();
    for (name, address) in [
        ("public.ecr.aws", registry.host()),
        ("api.ecr-public.us-east-1.amazonaws.com", api.host()),
    ] {
        let front = authority.front_of(address, name, Wants::Nothing).await;
        proxy.knows(&format!("{name}:443"), &format!("127.0.0.1:{}", front.port));
        fronts.push(front);
    }
    let config = RemoteConfig {
        url: "https://public.ecr.aws".parse().unwrap(),
        credentials: vec![Login::Provided(Provider::EcrPublic, environment(&[]))],
        proxy: Some(proxy.config(None)),
        ca: Some(authority.pem()),
        ..remote(&registry)
    };
    let upstream = upstream(&config).unwrap();
    assert_eq!(
        manifest(&upstream, "docker/library/busybox").await,
        Ok(Some(put.digest))
    );
    let seen = registry.seen();
    let shown: Vec<&str> = seen
        .iter()
        .filter(|seen| seen.target.starts_with("/token/"))
        .filter_map(|seen| seen.header("authorization"))
        .collect();
    let expected = base64::engine::general_purpose::STANDARD.encode("AWS:public-password");
    assert_eq!(shown, [format!("Basic {expected}")]);
    assert_eq!(api.asked().len(), 1);
}

#[tokio::test]
async fn nobody_but_amazon_is_shown_such_a_token() {
    for (provider, url) in [
        (Provider::Ecr, "https://registry.example.com"),
        (
            Provider::Ecr,
            "https://123456789012.dkr.ecr.eu-west-1.amazonaws.com.evil.org",
        ),
        (Provider::Ecr, "http://123456789012.dkr.ecr.eu-west-1.amazonaws.com"),
        (
            Provider::Ecr,
            "https://123456789012.dkr.ecr.eu-west-1.amazonaws.com:8443",
        ),
        (Provider::Ecr, "https://public.ecr.aws"),
        (Provider::EcrPublic, "https://public.ecr.aws.evil.org"),
        (
            Provider::EcrPublic,
            "https://123456789012.dkr.ecr.eu-west-1.amazonaws.com",
        ),
    ] {
        let mut config = RemoteConfig::of(url.parse().unwrap());
        config.credentials = vec![Login::Provided(provider, environment(&[]))];
        let error = upstream(&config).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("`repositories.remote.credentials` cannot be used"),
            "{text}"
        );
    }
}

/// That a pull fails with this in the end: what was under way while time was advanced may have run out of it.
pub(crate) async fn assert_fails_with(upstream: &Upstream, expected: &str) {
    for _ in 0..20 {
        let error = manifest(upstream, "a").await.unwrap_err().to_string();
        if error.contains(expected) {
            return;
        }
        assert!(error.contains("in time"), "{error}");
        pass(Duration::from_secs(61)).await;
    }
    panic!("it never says {expected}");
}
