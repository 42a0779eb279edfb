//! What an operator meets: probes, metrics, logs, stopping.

use std::sync::Arc;

use reqwest::StatusCode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::{Registry, entrepot, expect, refused, sha256, temporary, until};

const LOCAL: &str = "repositories: { images: { type: local } }";

#[tokio::test]
async fn probes_answer_and_metrics_count() {
    let registry = Registry::start(LOCAL);
    for path in ["/livez", "/readyz", "/healthz", "/", "/v2/"] {
        let response = registry.get(path).send().await.expect("an answer");
        assert_eq!(response.status(), StatusCode::OK, "{path}");
    }
    registry.push_image("/v2/images/app", "v1", b"content").await;
    let response = registry
        .get("/v2/images/app/manifests/v1")
        .send()
        .await
        .expect("an answer");
    expect(response, StatusCode::OK).await;
    let metrics = registry.metrics().await;
    for line in [
        r#"registry_http_requests_total{code="200",handler="manifest",method="GET"} 1"#,
        r#"entrepot_cache_requests_total{kind="manifest",outcome="hit",repository="images"} 1"#,
        r#"entrepot_sent_bytes_total{repository="images"}"#,
        r#"entrepot_received_bytes_total{repository="images"}"#,
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    let file = registry.directory.path().join("repositories.yml");
    let configuration = std::fs::read_to_string(&file)
        .expect("readable")
        .replace("127.0.0.1:0", registry.address());
    let checked = registry.directory.path().join("healthcheck.yml");
    std::fs::write(&checked, configuration).expect("written");
    let ready = || {
        entrepot(&["healthcheck", "-c"])
            .arg(&checked)
            .output()
            .expect("it runs")
    };
    assert!(ready().status.success(), "{:?}", ready());
    let _directory = Arc::clone(&registry.directory);
    registry.stop();
    assert_eq!(ready().status.code(), Some(1));
}

#[tokio::test]
async fn metrics_can_have_an_address_of_their_own() {
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .expect("a port")
        .local_addr()
        .expect("an address");
    let directory = temporary();
    let registry = Registry::start_in(
        &directory,
        &format!("server: {{ listen: '127.0.0.1:0', metrics: '{port}' }}\nstorage: {{ path: data }}\n{LOCAL}\n"),
    );
    let response = registry.get("/metrics").send().await.expect("an answer");
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
    let response = registry
        .client
        .get(format!("http://{port}/metrics"))
        .send()
        .await
        .expect("an answer");
    assert_eq!(response.status(), StatusCode::OK);
    assert!(response.text().await.expect("text").contains("entrepot_build_info"));
}

#[tokio::test]
async fn a_failure_is_one_log_line_with_the_request_s_id() {
    let registry = Registry::start(LOCAL);
    let response = registry
        .get("/v2/images/app/manifests/v1\u{1b}[31m")
        .header("x-request-id", "find-me")
        .send()
        .await
        .expect("an answer");
    assert!(response.status().is_client_error());
    until("it is logged", async || registry.log().contains("find-me")).await;
    let log = registry.log();
    let line = log.lines().find(|line| line.contains("find-me")).expect("logged");
    let event: serde_json::Value = serde_json::from_str(line).expect("one JSON document a line");
    assert_eq!(event["request_id"], "find-me");
    assert!(event["status"].is_number(), "{event}");
    assert!(!log.contains('\u{1b}'));
}

#[tokio::test]
async fn a_push_under_way_is_finished_before_it_stops() {
    let registry = Registry::start(LOCAL);
    let bytes = vec![7_u8; 1 << 20];
    let digest = sha256(&bytes);
    let mut stream = tokio::net::TcpStream::connect(registry.address())
        .await
        .expect("a connection");
    let head = format!(
        "POST /v2/images/app/blobs/uploads/?digest={digest} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
        bytes.len()
    );
    stream.write_all(head.as_bytes()).await.expect("sent");
    stream.write_all(&bytes[..1000]).await.expect("sent");
    let url = registry.url("/readyz");
    until("the request is being answered", async || {
        registry
            .metrics()
            .await
            .contains(r#"registry_http_in_flight_requests{handler="blob_upload"} 1"#)
    })
    .await;
    registry.signal("-TERM");
    until("nothing new is taken", async || {
        match registry.client.get(&url).send().await {
            Ok(response) => response.status() == StatusCode::SERVICE_UNAVAILABLE,
            Err(_) => true,
        }
    })
    .await;
    stream.write_all(&bytes[1000..]).await.expect("sent");
    let mut answer = vec![0; 12];
    stream.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(String::from_utf8_lossy(&answer), "HTTP/1.1 201");
    drop(stream);
    let mut registry = registry;
    assert!(registry.wait().success());
    let directory = Arc::clone(&registry.directory);
    drop(registry);
    let again = Registry::start_in(
        &directory,
        &format!("server: {{ listen: '127.0.0.1:0' }}\nstorage: {{ path: data }}\n{LOCAL}\n"),
    );
    let response = again
        .get(&format!("/v2/images/app/blobs/{digest}"))
        .send()
        .await
        .expect("an answer");
    let response = expect(response, StatusCode::OK).await;
    assert_eq!(response.bytes().await.expect("a body").len(), bytes.len());
}

#[tokio::test]
async fn a_store_belongs_to_one_process() {
    let registry = Registry::start(LOCAL);
    let file = registry.directory.path().join("repositories.yml");
    let output = entrepot(&["serve", "-c"]).arg(&file).output().expect("it runs");
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("in use"), "{output:?}");
}

#[tokio::test]
async fn uploads_are_bounded_in_number_and_size() {
    let directory = temporary();
    let registry = Registry::start_in(
        &directory,
        &format!(
            "server: {{ listen: '127.0.0.1:0', limits: {{ uploads: 2, upload: 10 }} }}\nstorage: {{ path: data }}\n{LOCAL}\n"
        ),
    );
    let start = async || {
        registry
            .post("/v2/images/app/blobs/uploads/")
            .send()
            .await
            .expect("an answer")
    };
    // An upload in one request that fails leaves no session behind: nobody was told of one.
    let digest = sha256(b"more than ten bytes");
    for _ in 0..3 {
        let path = format!("/v2/images/app/blobs/uploads/?digest={digest}");
        let response = registry
            .post(&path)
            .body("more than ten bytes")
            .send()
            .await
            .expect("an answer");
        assert_eq!(refused(response, StatusCode::PAYLOAD_TOO_LARGE).await, "SIZE_INVALID");
    }
    let first = expect(start().await, StatusCode::ACCEPTED).await;
    let location = crate::support::header(&first, "location").to_owned();
    expect(start().await, StatusCode::ACCEPTED).await;
    assert_eq!(
        refused(start().await, StatusCode::TOO_MANY_REQUESTS).await,
        "TOOMANYREQUESTS"
    );
    let response = registry
        .patch(&location)
        .body("more than ten bytes")
        .send()
        .await
        .expect("an answer");
    assert_eq!(refused(response, StatusCode::PAYLOAD_TOO_LARGE).await, "SIZE_INVALID");
    expect(
        registry.delete(&location).send().await.expect("an answer"),
        StatusCode::NO_CONTENT,
    )
    .await;
    expect(start().await, StatusCode::ACCEPTED).await;
}

#[tokio::test]
async fn few_files_are_few_connections_and_nothing_else() {
    let directory = temporary();
    let file = directory.path().join("repositories.yml");
    let limits = "limits: { header_timeout: 500ms }";
    let text = format!("server: {{ listen: '127.0.0.1:0', {limits} }}\nstorage: {{ path: data }}\n{LOCAL}\n");
    std::fs::write(&file, text).expect("written");
    let mut command = std::process::Command::new("sh");
    command
        .args([
            "-c",
            "ulimit -n 64 && exec \"$0\" serve -c \"$1\"",
            env!("CARGO_BIN_EXE_entrepot"),
        ])
        .arg(&file);
    let registry = Registry::started_by(&directory, &mut command);
    let mut crowd = Vec::new();
    for _ in 0..200 {
        crowd.push(
            tokio::net::TcpStream::connect(registry.address())
                .await
                .expect("waits in the kernel"),
        );
    }
    // Every one of them is taken some time, and sent away for saying nothing.
    for stream in &mut crowd {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }
    assert!(
        registry.log().contains("fewer connections than configured"),
        "nobody is told: {}",
        registry.log()
    );
    registry.push_image("/v2/images/app", "v1", b"content").await;
    assert!(registry.stop().success());
}

#[tokio::test]
async fn a_server_with_a_certificate_speaks_tls_and_checks_its_own_health() {
    let directory = temporary();
    let certificate = |name: &str| {
        let made = rcgen::generate_simple_self_signed(["registry.example.com".to_owned()]).expect("a certificate");
        std::fs::write(directory.path().join(format!("{name}.crt")), made.cert.pem()).expect("written");
        std::fs::write(
            directory.path().join(format!("{name}.key")),
            made.signing_key.serialize_pem(),
        )
        .expect("written");
    };
    certificate("tls");
    certificate("other");
    let text = |address: &str, name: &str| {
        format!(
            "server: {{ listen: '{address}', tls: {{ cert: {name}.crt, key: {name}.key }} }}\nstorage: {{ path: data }}\n{LOCAL}\n"
        )
    };
    let registry = Registry::start_in(&directory, &text("127.0.0.1:0", "tls"));
    assert!(registry.get("/v2/").send().await.is_err(), "it answers without TLS");
    let healthy = |name: &str| {
        let file = directory.path().join("healthcheck.yml");
        std::fs::write(&file, text(registry.address(), name)).expect("written");
        entrepot(&["healthcheck", "-c"]).arg(&file).output().expect("it runs")
    };
    let output = healthy("tls");
    assert!(output.status.success(), "{output:?}");
    let output = healthy("other");
    assert_eq!(output.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("another certificate"),
        "{output:?}"
    );
}
