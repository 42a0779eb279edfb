//! A registry process to test against, and images to put into it.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use entrepot::oci::{Algorithm, Digest};
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use tempfile::TempDir;

/// Nothing in these tests takes this long unless it hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A running `entrepot serve`, with a directory of its own.
pub(crate) struct Registry {
    child: Child,
    pub(crate) directory: Arc<TempDir>,
    /// `127.0.0.1:PORT` of each address, in the order of the configuration.
    pub(crate) addresses: Vec<String>,
    log: Arc<Mutex<String>>,
    pub(crate) client: Client,
}

/// Any free port of loopback.
const SERVER: &str = "server: { listen: '127.0.0.1:0' }\nstorage: { path: data }\n";

pub(crate) fn temporary() -> Arc<TempDir> {
    Arc::new(tempfile::tempdir().expect("a temporary directory"))
}

impl Registry {
    /// Starts one with these repositories, on a free port.
    pub(crate) fn start(repositories: &str) -> Self {
        Self::start_in(&temporary(), &format!("{SERVER}{repositories}"))
    }

    /// Starts one with this whole configuration, in a directory that may hold an older one's data.
    pub(crate) fn start_in(directory: &Arc<TempDir>, configuration: &str) -> Self {
        let file = directory.path().join("repositories.yml");
        std::fs::write(&file, configuration).expect("a configuration file");
        Self::started_by(directory, entrepot(&["serve", "-c"]).arg(&file))
    }

    /// The one that this command starts.
    pub(crate) fn started_by(directory: &Arc<TempDir>, command: &mut Command) -> Self {
        let mut child = command
            .env("ENTREPOT_LOG_FORMAT", "json")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let log = Arc::new(Mutex::new(String::new()));
        let mut errors = BufReader::new(child.stderr.take().expect("piped"));
        let copy = Arc::clone(&log);
        std::thread::spawn(move || {
            let mut line = String::new();
            while errors.read_line(&mut line).is_ok_and(|n| n > 0) {
                copy.lock().expect("not poisoned").push_str(&line);
                line.clear();
            }
        });
        let mut output = BufReader::new(child.stdout.take().expect("piped"));
        let mut addresses = Vec::new();
        let mut line = String::new();
        // The lines to try follow the addresses, and nothing follows those: the pipe stays open and is left alone.
        while output.read_line(&mut line).is_ok_and(|n| n > 0) {
            if let Some((_, address)) = line.trim().split_once("entrepot listens on ") {
                addresses.push(address.split("//").nth(1).expect("a URL").to_owned());
            } else if !addresses.is_empty() {
                break;
            }
            line.clear();
        }
        assert!(
            !addresses.is_empty(),
            "it does not listen: {}",
            log.lock().expect("not poisoned")
        );
        std::thread::spawn(move || {
            let _ = output.read_to_end(&mut Vec::new());
        });
        Self {
            child,
            directory: Arc::clone(directory),
            addresses,
            log,
            client: client(),
        }
    }

    /// The same again after it has ended, on what it left behind.
    pub(crate) fn restart(self) -> Self {
        let directory = Arc::clone(&self.directory);
        let configuration = std::fs::read_to_string(directory.path().join("repositories.yml")).expect("it was written");
        self.stop();
        Self::start_in(&directory, &configuration)
    }

    /// The number of its process.
    pub(crate) fn process(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn address(&self) -> &str {
        &self.addresses[0]
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address())
    }

    pub(crate) fn get(&self, path: &str) -> RequestBuilder {
        self.client.get(self.url(path))
    }

    pub(crate) fn head(&self, path: &str) -> RequestBuilder {
        self.client.head(self.url(path))
    }

    pub(crate) fn post(&self, path: &str) -> RequestBuilder {
        self.client.post(self.url(path))
    }

    pub(crate) fn put(&self, path: &str) -> RequestBuilder {
        self.client.put(self.url(path))
    }

    pub(crate) fn patch(&self, path: &str) -> RequestBuilder {
        self.client.patch(self.url(path))
    }

    pub(crate) fn delete(&self, path: &str) -> RequestBuilder {
        self.client.delete(self.url(path))
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().expect("not poisoned").clone()
    }

    pub(crate) async fn metrics(&self) -> String {
        let response = self.get("/metrics").send().await.expect("metrics");
        response.text().await.expect("text")
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    pub(crate) fn signal(&self, signal: &str) {
        let status = Command::new("kill")
            .args([signal, &self.process().to_string()])
            .status()
            .expect("kill");
        assert!(status.success());
    }

    /// Asks it to stop and waits until it has.
    pub(crate) fn stop(mut self) -> ExitStatus {
        self.signal("-TERM");
        self.wait()
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status;
            }
            assert!(Instant::now() < until, "it does not stop: {}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends it as a crash would.
    pub(crate) fn kill(mut self) -> Arc<TempDir> {
        let _ = self.child.kill();
        let _ = self.child.wait();
        Arc::clone(&self.directory)
    }

    /// Pushes a blob in one request.
    pub(crate) async fn push_blob(&self, base: &str, bytes: &[u8]) -> Digest {
        let digest = sha256(bytes);
        let response = self
            .post(&format!("{base}/blobs/uploads/?digest={digest}"))
            .body(bytes.to_vec())
            .send()
            .await
            .expect("an answer");
        expect(response, StatusCode::CREATED).await;
        digest
    }

    /// Pushes an image of one layer with this content, under this tag. Its manifest's digest is returned.
    pub(crate) async fn push_image(&self, base: &str, tag: &str, content: &[u8]) -> Digest {
        let layer = self.push_blob(base, content).await;
        let config = self.push_blob(base, b"{}").await;
        let manifest = image_manifest((&config, 2), &[(&layer, content.len())], "");
        self.push_manifest(base, tag, OCI_MANIFEST, manifest.as_bytes()).await
    }

    pub(crate) async fn push_manifest(&self, base: &str, reference: &str, media_type: &str, bytes: &[u8]) -> Digest {
        let response = self
            .put(&format!("{base}/manifests/{reference}"))
            .header("content-type", media_type)
            .body(bytes.to_vec())
            .send()
            .await
            .expect("an answer");
        expect(response, StatusCode::CREATED).await;
        sha256(bytes)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the registry's log\n{}", self.log());
        }
    }
}

/// The binary with these arguments, and nothing of the environment that could change what it does.
pub(crate) fn entrepot(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_entrepot"));
    command.args(arguments).env_remove("ENTREPOT_LOG");
    // How full the disk of the machine is that runs the tests is not what they are about.
    command.env("ENTREPOT__STORAGE__MIN_FREE", "0%");
    command
}

pub(crate) fn client() -> Client {
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    Client::builder()
        .tls_backend_preconfigured(tls)
        .no_proxy()
        .timeout(PATIENCE)
        .build()
        .expect("a client")
}

pub(crate) fn sha256(bytes: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, bytes)
}

/// An image manifest over these blobs; `extra` is put before the last brace.
pub(crate) fn image_manifest(config: (&Digest, usize), layers: &[(&Digest, usize)], extra: &str) -> String {
    let mut text = format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{}","size":{}}},"layers":["#,
        config.0, config.1
    );
    for (index, (digest, size)) in layers.iter().enumerate() {
        let comma = if index > 0 { "," } else { "" };
        let _ = write!(
            text,
            r#"{comma}{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{digest}","size":{size}}}"#
        );
    }
    text.push(']');
    text.push_str(extra);
    text.push('}');
    text
}

/// The answer, if it has this status; else a panic that shows it.
pub(crate) async fn expect(response: Response, status: StatusCode) -> Response {
    if response.status() == status {
        return response;
    }
    let url = response.url().clone();
    let found = response.status();
    let text = response.text().await.unwrap_or_default();
    panic!("{url}: {found} instead of {status}: {text}");
}

/// The specification's error code in an answer of this status.
pub(crate) async fn refused(response: Response, status: StatusCode) -> String {
    let response = expect(response, status).await;
    assert_eq!(header(&response, "content-type"), "application/json");
    let document: serde_json::Value = response.json().await.expect("the specification's JSON");
    let entry = &document["errors"][0];
    assert!(
        entry["message"].as_str().is_some_and(|text| !text.is_empty()),
        "{document}"
    );
    entry["code"].as_str().expect("a code").to_owned()
}

pub(crate) fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    response
        .headers()
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

/// Waits until a condition holds, looking often.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < end, "it never came to be: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A directory tree, for looking at.
pub(crate) fn tree(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in std::fs::read_dir(directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                waiting.push(path);
            } else {
                found.push(path.strip_prefix(root).expect("below").to_string_lossy().into_owned());
            }
        }
    }
    found.sort();
    found
}
