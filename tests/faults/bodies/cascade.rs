//! F20: a cache of a cache says what the first one says.

use reqwest::{Method, Response};

use super::restart::configuration;
use crate::binary::{Registry, temporary};
use crate::support::remote::MIB;
use crate::support::upstream::{Act, Server, noise};

/// What a client can tell one answer from another by.
async fn told(response: Response) -> (u16, Vec<(String, String)>, Vec<u8>) {
    let status = response.status().as_u16();
    let mut headers: Vec<(String, String)> = response
        .headers()
        .iter()
        .filter(|(name, _)| {
            let told = ["content-", "docker-content-", "etag", "accept-ranges", "cache-control"];
            told.iter().any(|prefix| name.as_str().starts_with(prefix))
        })
        .map(|(name, value)| (name.to_string(), value.to_str().expect("text").to_owned()))
        .collect();
    headers.sort();
    let body = response.bytes().await.expect("a whole body").to_vec();
    // An error names the repository and the request.
    (status, headers, if status < 400 { body } else { Vec::new() })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f20_a_cascade_answers_as_its_first_link() {
    let server = Server::start().await;
    let direct = Registry::start_in(&temporary(), &configuration(&server.url()));
    let first = Registry::start_in(&temporary(), &configuration(&server.url()));
    let second = Registry::start_in(&temporary(), &configuration(&first.url("")));
    let put = server.put_image("a", "v1", &[noise(100, 1)]);
    let missing = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let mut requests: Vec<(Method, String, Option<&str>)> = vec![
        (Method::HEAD, "manifests/v1".to_owned(), None),
        (Method::GET, "manifests/v1".to_owned(), None),
        (Method::GET, format!("manifests/{}", put.digest), None),
        (Method::HEAD, format!("manifests/{missing}"), None),
        (Method::GET, "manifests/none".to_owned(), None),
        (Method::GET, format!("blobs/{missing}"), None),
        (Method::HEAD, format!("blobs/{missing}"), None),
        (Method::GET, "tags/list".to_owned(), None),
    ];
    // Each blob is cold when it is asked for.
    for size in [1, 1000, 3 * MIB, 20 * MIB] {
        for (seed, (method, range)) in [
            (Method::HEAD, None),
            (Method::GET, None),
            (Method::GET, Some("bytes=0-0")),
            (Method::GET, Some("bytes=10-")),
            (Method::GET, Some("bytes=-5")),
            (Method::GET, Some("bytes=70000-2000000")),
            (Method::GET, Some("bytes=99999999-")),
            (Method::HEAD, Some("bytes=1-2")),
        ]
        .into_iter()
        .enumerate()
        {
            let digest = server.put_blob("a", &noise(size, 100 + seed as u64));
            requests.push((method, format!("blobs/{digest}"), range));
        }
    }
    // The upstream is not at its best meanwhile.
    server.on("GET /blobs/", 12, [Act::CutAfter(MIB)]);
    for (method, path, range) in requests {
        let mut answers = Vec::new();
        for registry in [&direct, &second] {
            let mut request = registry
                .client
                .request(method.clone(), registry.url(&format!("/v2/a/{path}")));
            if let Some(range) = range {
                request = request.header("range", range);
            }
            answers.push(told(request.send().await.expect("an answer")).await);
        }
        let (one, other) = (&answers[0], &answers[1]);
        assert_eq!((one.0, &one.1), (other.0, &other.1), "{method} {path} {range:?}");
        assert!(one.2 == other.2, "{method} {path} {range:?}");
    }
}
