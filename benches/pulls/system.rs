//! The systems that are compared, each as a process of its own over a directory of its own.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use entrepot::oci::Digest;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::upstream::Upstream;

/// The image that all of it is about.
pub(crate) const IMAGE: &str = "bench/app";

/// Who.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Entrepot,
    Distribution,
    Nginx,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Entrepot, Self::Distribution, Self::Nginx];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Entrepot => "entrepot",
            Self::Distribution => "Distribution (Debian's docker-registry)",
            Self::Nginx => "nginx proxy cache",
        }
    }

    fn program(self) -> String {
        match self {
            Self::Entrepot => {
                std::env::var("ENTREPOT_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_entrepot").to_owned())
            }
            Self::Distribution => "docker-registry".to_owned(),
            Self::Nginx => "nginx".to_owned(),
        }
    }
}

/// One that runs.
pub(crate) struct System {
    kind: Kind,
    pub(crate) address: SocketAddr,
    process: Child,
    _directory: TempDir,
}

impl System {
    /// Starts it in front of an upstream; `None` when it is not installed.
    pub(crate) async fn start(kind: Kind, upstream: &Upstream) -> Option<Self> {
        let address = free();
        let directory = TempDir::new().unwrap();
        let mut command = Command::new(kind.program());
        let path = directory.path();
        match kind {
            Kind::Entrepot => {
                let file = write(path, "repositories.yml", &entrepot(address, path, upstream));
                command.args(["serve", "-c", &file]);
            }
            Kind::Distribution => {
                let file = write(path, "config.yml", &distribution(address, path, upstream));
                command.args(["serve", &file]);
            }
            Kind::Nginx => {
                let file = write(path, "nginx.conf", &nginx(address, path, upstream));
                command.args(["-c", &file, "-p", path.to_str().unwrap(), "-e", "stderr"]);
            }
        }
        command.stdout(Stdio::null()).stderr(Stdio::null()).stdin(Stdio::null());
        let process = match command.spawn() {
            Ok(process) => process,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
            Err(error) => panic!("{} does not start: {error}", kind.name()),
        };
        let mut system = Self {
            kind,
            address,
            process,
            _directory: directory,
        };
        for _ in 0..1000 {
            if TcpStream::connect(address).await.is_ok() {
                return Some(system);
            }
            assert!(
                system.process.try_wait().unwrap().is_none(),
                "{} has stopped",
                kind.name()
            );
            sleep(Duration::from_millis(10)).await;
        }
        panic!("{} does not listen", kind.name());
    }

    pub(crate) const fn name(&self) -> &'static str {
        self.kind.name()
    }

    /// The most memory that it has had, with its children: nginx works in them.
    pub(crate) fn most_resident_mib(&self) -> u64 {
        let own = self.process.id();
        let children = std::fs::read_to_string(format!("/proc/{own}/task/{own}/children")).unwrap_or_default();
        let all = children
            .split_whitespace()
            .filter_map(|id| id.parse().ok())
            .chain([own]);
        all.map(most_resident_kib).sum::<u64>() / 1024
    }

    pub(crate) async fn stop(mut self) {
        // SIGTERM, for nginx has children that a SIGKILL would leave behind.
        let id = self.process.id().to_string();
        let _ = Command::new("kill").arg(&id).status();
        for _ in 0..500 {
            if self.process.try_wait().unwrap().is_some() {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for System {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Where a manifest is.
pub(crate) fn manifest(reference: &str) -> String {
    format!("/v2/{IMAGE}/manifests/{reference}")
}

/// Where a blob is.
pub(crate) fn blob(digest: &Digest) -> String {
    format!("/v2/{IMAGE}/blobs/{digest}")
}

fn most_resident_kib(id: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn write(directory: &Path, name: &str, text: &str) -> String {
    let path = directory.join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Tags are asked for each time, as Distribution does: what is compared is the trouble.
fn entrepot(address: SocketAddr, directory: &Path, upstream: &Upstream) -> String {
    format!(
        "server: {{ listen: '{address}' }}\nstorage: {{ path: '{}' }}\nrepositories:\n  hub: {{ type: remote, url: \
         'http://{}', insecure: true, tag_ttl: 0s }}\ndefault: hub\n",
        directory.join("data").display(),
        upstream.address
    )
}

fn distribution(address: SocketAddr, directory: &Path, upstream: &Upstream) -> String {
    format!(
        "version: 0.1\nlog: {{ level: error }}\nstorage: {{ filesystem: {{ rootdirectory: '{}' }} }}\nhttp: {{ addr: \
         '{address}' }}\nproxy: {{ remoteurl: 'http://{}' }}\n",
        directory.join("data").display(),
        upstream.address
    )
}

/// One fill for all who wait, stale answers while the upstream fails, as its documentation recommends.
fn nginx(address: SocketAddr, directory: &Path, upstream: &Upstream) -> String {
    let directory = directory.display();
    format!(
        "worker_processes 2; pid {directory}/pid; error_log stderr crit; daemon off;
events {{ worker_connections 1024; }}
http {{
  access_log off; sendfile on;
  client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/f;
  uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
  proxy_cache_path {directory}/cache levels=1:2 keys_zone=all:10m max_size=10g use_temp_path=off;
  upstream hub {{ server {}; keepalive 32; }}
  server {{
    listen {address};
    proxy_http_version 1.1; proxy_set_header Connection '';
    proxy_cache all; proxy_cache_lock on; proxy_cache_lock_timeout 60s; proxy_cache_lock_age 60s;
    proxy_ignore_headers Cache-Control; proxy_connect_timeout 3s; proxy_read_timeout 30s;
    proxy_cache_use_stale error timeout updating http_500 http_502 http_503 http_504 http_429;
    proxy_cache_background_update on; proxy_max_temp_file_size 0; proxy_buffers 32 64k;
    # What a digest names stays as it is; what a tag names does not.
    location ~ /blobs/ {{ proxy_pass http://hub; proxy_cache_valid 200 1h; }}
    location / {{ proxy_pass http://hub; proxy_cache_valid 200 1s; }}
  }}
}}
",
        upstream.open
    )
}
