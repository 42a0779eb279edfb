//! Debian's `docker-registry`, which is `registry:2`, with a directory of its own.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A running one. It ends with this.
pub(crate) struct Distribution {
    child: Child,
    pub(crate) url: String,
}

impl Distribution {
    /// One that keeps what is pushed to it there.
    pub(crate) fn start(directory: &Path) -> Self {
        Self::start_with(directory, "")
    }

    /// A cache of another registry.
    pub(crate) fn proxy(directory: &Path, upstream: &str) -> Self {
        Self::start_with(directory, &format!("proxy: {{ remoteurl: '{upstream}' }}\n"))
    }

    fn start_with(directory: &Path, more: &str) -> Self {
        let file = directory.with_extension("yml");
        let configuration = format!(
            "version: 0.1\nlog: {{ formatter: text, accesslog: {{ disabled: true }} }}\n\
             storage: {{ filesystem: {{ rootdirectory: '{}' }}, delete: {{ enabled: true }} }}\n\
             http: {{ addr: '127.0.0.1:0' }}\n{more}",
            directory.display()
        );
        std::fs::write(&file, configuration).expect("a configuration");
        let mut child = Command::new("docker-registry")
            .arg("serve")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("`docker-registry` has to be installed for these tests: `apt-get install docker-registry`");
        let mut log = BufReader::new(child.stderr.take().expect("piped"));
        let mut said = String::new();
        let address = loop {
            let before = said.len();
            assert!(
                log.read_line(&mut said).is_ok_and(|read| read > 0),
                "it does not listen: {said}"
            );
            if let Some((_, rest)) = said[before..].split_once("listening on ") {
                break rest
                    .chars()
                    .take_while(|c| !c.is_whitespace() && *c != '"')
                    .collect::<String>();
            }
        };
        // Nobody reads on, and it must not wait for that.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Self {
            child,
            url: format!("http://{address}"),
        }
    }
}

impl Drop for Distribution {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
