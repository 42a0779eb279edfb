use proptest::prelude::*;

use super::*;

const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn parse(method: &str, target: &str) -> Result<Request, ParseError> {
    let (path, query) = target
        .split_once('?')
        .map_or((target, None), |(path, query)| (path, Some(query)));
    Request::parse(method, path, query)
}

fn name(text: &str) -> ImageName {
    text.parse().expect("a name")
}

#[test]
fn every_operation_is_read_from_its_path() {
    let id = UploadId::new();
    let digest: Digest = DIGEST.parse().expect("a digest");
    let latest = || Reference::Tag("latest".parse().expect("a tag"));
    let cases = [
        ("GET", "/v2".to_owned(), Operation::CheckVersion),
        ("GET", "/v2/".to_owned(), Operation::CheckVersion),
        (
            "GET",
            "/v2/_catalog?n=3".to_owned(),
            Operation::Catalog {
                page: Page { n: Some(3), last: None },
            },
        ),
        (
            "HEAD",
            "/v2/a/b/manifests/latest".to_owned(),
            Operation::PullManifest {
                name: name("a/b"),
                reference: latest(),
            },
        ),
        (
            "GET",
            format!("/v2/a/manifests/{}", DIGEST.replace(':', "%3A")),
            Operation::PullManifest {
                name: name("a"),
                reference: Reference::Digest(digest.clone()),
            },
        ),
        (
            "PUT",
            "/v2/a/manifests/latest?tag=x&tag=y".to_owned(),
            Operation::PushManifest {
                name: name("a"),
                reference: latest(),
                tags: vec!["x".parse().expect("a tag"), "y".parse().expect("a tag")],
            },
        ),
        (
            "DELETE",
            "/v2/a/manifests/latest".to_owned(),
            Operation::DeleteManifest {
                name: name("a"),
                reference: latest(),
            },
        ),
        (
            "GET",
            format!("/v2/a/blobs/{DIGEST}"),
            Operation::PullBlob {
                name: name("a"),
                digest: digest.clone(),
            },
        ),
        (
            "DELETE",
            format!("/v2/a/blobs/{DIGEST}"),
            Operation::DeleteBlob {
                name: name("a"),
                digest: digest.clone(),
            },
        ),
        (
            "POST",
            "/v2/a/blobs/uploads/".to_owned(),
            Operation::StartUpload {
                name: name("a"),
                start: StartUpload::default(),
            },
        ),
        (
            "POST",
            "/v2/a/blobs/uploads".to_owned(),
            Operation::StartUpload {
                name: name("a"),
                start: StartUpload::default(),
            },
        ),
        (
            "POST",
            format!("/v2/a/blobs/uploads/?mount={}&from=b%2Fc", DIGEST.replace(':', "%3A")),
            Operation::StartUpload {
                name: name("a"),
                start: StartUpload {
                    mount: Some(digest.clone()),
                    from: Some(name("b/c")),
                    ..StartUpload::default()
                },
            },
        ),
        (
            "GET",
            format!("/v2/a/blobs/uploads/{id}"),
            Operation::UploadStatus { name: name("a"), id },
        ),
        (
            "PATCH",
            format!("/v2/a/blobs/uploads/{id}"),
            Operation::AppendUpload { name: name("a"), id },
        ),
        (
            "PUT",
            format!("/v2/a/blobs/uploads/{id}?digest={DIGEST}"),
            Operation::FinishUpload {
                name: name("a"),
                id,
                digest: digest.clone(),
            },
        ),
        (
            "DELETE",
            format!("/v2/a/blobs/uploads/{id}"),
            Operation::CancelUpload { name: name("a"), id },
        ),
        (
            "GET",
            "/v2/a/tags/list?last=b".to_owned(),
            Operation::ListTags {
                name: name("a"),
                page: Page {
                    n: None,
                    last: Some("b".to_owned()),
                },
            },
        ),
        (
            "GET",
            format!("/v2/a/referrers/{DIGEST}?artifactType=x%2Fy"),
            Operation::ListReferrers {
                name: name("a"),
                subject: digest,
                artifact_type: Some("x/y".to_owned()),
            },
        ),
        // Words of the API may be components of a name.
        (
            "GET",
            "/v2/manifests/blobs/uploads/manifests/latest".to_owned(),
            Operation::PullManifest {
                name: name("manifests/blobs/uploads"),
                reference: latest(),
            },
        ),
    ];
    for (method, target, operation) in cases {
        assert_eq!(
            parse(method, &target).map(|request| request.operation),
            Ok(operation),
            "{method} {target}"
        );
    }
}

#[test]
fn the_key_before_v2_and_the_namespace_are_read() {
    let request = parse("GET", "/docker/v2/library/alpine/manifests/latest?ns=docker.io").expect("a request");
    assert_eq!(request.prefix, Some("docker".parse().expect("a key")));
    assert_eq!(request.namespace.as_deref(), Some("docker.io"));
    assert_eq!(request.operation.name(), Some(&name("library/alpine")));
    assert_eq!(
        parse("GET", "/docker/v2/").map(|request| request.operation),
        Ok(Operation::CheckVersion)
    );
}

#[test]
fn bad_targets_get_the_code_of_what_is_wrong() {
    let cases = [
        ("GET", "/v2/UPPER/manifests/latest", ErrorCode::NameInvalid),
        ("GET", "/v2/a/../b/manifests/latest", ErrorCode::NameInvalid),
        ("GET", "/v2/a//b/manifests/latest", ErrorCode::NameInvalid),
        ("GET", "/v2/a%2Fb/manifests/latest", ErrorCode::NameInvalid),
        ("GET", "/v2/a%5cb/manifests/latest", ErrorCode::NameInvalid),
        ("GET", "/v2/a%00/manifests/latest", ErrorCode::NameInvalid),
        ("GET", "/v2/a%252F/manifests/latest", ErrorCode::NameInvalid),
        ("GET", "/v2/a%zz/manifests/latest", ErrorCode::NameInvalid),
        ("GET", "/v2/a%ff/manifests/latest", ErrorCode::NameInvalid),
        ("GET", "/v2//manifests/latest", ErrorCode::NameInvalid),
        ("GET", "/v2/manifests/latest", ErrorCode::NameInvalid),
        ("GET", "/v2/a/manifests/sha256:bad", ErrorCode::DigestInvalid),
        ("PUT", "/v2/a/manifests/sha256:bad", ErrorCode::DigestInvalid),
        ("GET", "/v2/a/manifests/.bad", ErrorCode::ManifestUnknown),
        ("PUT", "/v2/a/manifests/.bad", ErrorCode::TagInvalid),
        ("PUT", "/v2/a/manifests/good?tag=.bad", ErrorCode::TagInvalid),
        ("GET", "/v2/a/blobs/nonsense", ErrorCode::DigestInvalid),
        ("GET", "/v2/a/referrers/nonsense", ErrorCode::DigestInvalid),
        ("GET", "/v2/a/tags/list?n=-1", ErrorCode::PaginationNumberInvalid),
        ("GET", "/v2/a/tags/list?n=x", ErrorCode::PaginationNumberInvalid),
        ("PATCH", "/v2/a/blobs/uploads/..%2e", ErrorCode::BlobUploadUnknown),
        ("PATCH", "/v2/a/blobs/uploads/0123", ErrorCode::BlobUploadUnknown),
        (
            "PUT",
            "/v2/a/blobs/uploads/00000000000040008000000000000000",
            ErrorCode::DigestInvalid,
        ),
        ("POST", "/v2/a/blobs/uploads/?digest=sha256:x", ErrorCode::DigestInvalid),
        (
            "POST",
            "/v2/a/blobs/uploads/?digest-algorithm=md5",
            ErrorCode::DigestInvalid,
        ),
        ("GET", "/UPPER/v2/a/manifests/latest", ErrorCode::NameInvalid),
    ];
    for (method, target, code) in cases {
        match parse(method, target) {
            Err(ParseError::Refused(refusal)) => {
                assert_eq!(refusal.code, code, "{method} {target}");
            }
            other => panic!("{method} {target}: {other:?}"),
        }
    }
}

#[test]
fn methods_and_paths_that_are_not_the_api_are_told_apart() {
    assert_eq!(parse("POST", "/v2/"), Err(ParseError::Method { allow: "GET, HEAD" }));
    assert_eq!(
        parse("GET", "/v2/a/blobs/uploads/"),
        Err(ParseError::Method { allow: "POST" })
    );
    for target in ["/", "/metrics", "/v3/a/manifests/b", "/v2/a", "/a/b/v2/"] {
        assert_eq!(parse("GET", target), Err(ParseError::Elsewhere), "{target}");
    }
}

#[test]
fn a_page_never_follows_a_number_too_far() {
    let target = "/v2/a/tags/list?n=18446744073709551616";
    let Ok(Request {
        operation: Operation::ListTags { page, .. },
        ..
    }) = parse("GET", target)
    else {
        panic!("a list of tags");
    };
    assert_eq!(page.n, Some(MAX_PAGE));
}

proptest! {
    #[test]
    fn no_request_line_makes_it_panic(method in "[A-Z]{0,7}", path in "\\PC{0,80}", query in proptest::option::of("\\PC{0,80}")) {
        let _ = Request::parse(&method, &path, query.as_deref());
    }

    #[test]
    fn whatever_is_taken_is_a_name_of_the_grammar(path in "/v2/[a-z0-9./_%-]{0,40}/manifests/[a-zA-Z0-9:._%-]{0,20}") {
        if let Ok(request) = Request::parse("GET", &path, None) {
            let name = request.operation.name().expect("a manifest has a name").as_str().to_owned();
            prop_assert!(!name.contains("..") && !name.contains("//") && !name.starts_with('/'));
            prop_assert!(name.parse::<ImageName>().is_ok());
        }
    }
}
