//! The systems that are compared, each as a process of its own over a directory of its own.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::time::sleep;

/// Where everything is pushed to.
pub(crate) const IMAGE: &str = "bench/app";

/// Who.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Entrepot,
    Distribution,
}

impl Kind {
    pub(crate) const ALL: [Self; 2] = [Self::Entrepot, Self::Distribution];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Entrepot => "entrepot, each durable when acknowledged",
            Self::Distribution => "Distribution (Debian's docker-registry)",
        }
    }
}

/// One that runs.
pub(crate) struct System {
    pub(crate) address: SocketAddr,
    process: Child,
    directory: Option<TempDir>,
}

impl System {
    /// Starts it; `None` when it is not installed.
    pub(crate) async fn start(kind: Kind) -> Option<Self> {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let directory = std::env::var_os("ENTREPOT_BENCH_DIRECTORY").map_or_else(TempDir::new, TempDir::new_in);
        let directory = directory.unwrap();
        let data = directory.path().join("data");
        let data = data.display();
        let (program, text) = match kind {
            Kind::Entrepot => (
                std::env::var("ENTREPOT_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_entrepot").to_owned()),
                format!(
                    "server: {{ listen: '{address}' }}\nstorage: {{ path: '{data}' }}\nrepositories: {{ bench: {{ type: \
                     local }} }}\n"
                ),
            ),
            Kind::Distribution => (
                "docker-registry".to_owned(),
                format!(
                    "version: 0.1\nlog: {{ level: error, accesslog: {{ disabled: true }} }}\nstorage: {{ filesystem: {{ \
                     rootdirectory: '{data}' }} }}\nhttp: {{ addr: '{address}' }}\n"
                ),
            ),
        };
        let file = directory.path().join("configuration.yml");
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new(program);
        match kind {
            Kind::Entrepot => command.arg("serve").arg("-c").arg(&file),
            Kind::Distribution => command.arg("serve").arg(&file),
        };
        command.stdout(Stdio::null()).stderr(Stdio::null()).stdin(Stdio::null());
        let process = match command.spawn() {
            Ok(process) => process,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
            Err(error) => panic!("{} does not start: {error}", kind.name()),
        };
        let system = Self {
            address,
            process,
            directory: Some(directory),
        };
        for _ in 0..1000 {
            if TcpStream::connect(address).await.is_ok() {
                return Some(system);
            }
            sleep(Duration::from_millis(10)).await;
        }
        panic!("{} does not listen", kind.name());
    }

    /// The processor time that it has used so far.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        let stat = Path::new("/proc").join(self.process.id().to_string()).join("stat");
        let text = std::fs::read_to_string(stat).unwrap();
        // After the name, which may have spaces: the 12th and 13th are its own ticks, of which there are 100 a second.
        let after = text.rsplit_once(')').unwrap().1;
        let ticks = after.split_whitespace().skip(11).take(2);
        ticks.map(|ticks| ticks.parse::<f64>().unwrap()).sum::<f64>() / 100.0
    }

    /// Stops it. Its directory is to be kept until all is measured: a file system may be slow to make files where many
    /// have just been removed.
    pub(crate) async fn stop(mut self) -> Option<TempDir> {
        let _ = Command::new("kill").arg(self.process.id().to_string()).status();
        for _ in 0..500 {
            if self.process.try_wait().unwrap().is_some() {
                break;
            }
            sleep(Duration::from_millis(10)).await;
        }
        self.directory.take()
    }
}

impl Drop for System {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
