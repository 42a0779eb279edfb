//! `docker-credential-…`: a program that is told a registry and prints who we are there.
//!
//! It is somebody else's: it may hang, fail, or print whatever it likes, and what it prints is in no error.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::config::Environment;

/// How long it may take. No person is there whom it could ask.
const PATIENCE: Duration = Duration::from_secs(15);
/// More than any login.
const LONGEST: u64 = 64 << 10;
/// What helpers print, and fail, when they have no login for a registry.
const NOT_FOUND: &[u8] = b"credentials not found in native keychain";

/// What it knows.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Login {
    #[serde(rename = "Username")]
    pub(super) user: String,
    pub(super) secret: String,
}

/// `Ok(None)` if it has no login for this registry.
pub(super) async fn ask(name: &str, registry: &str, environment: &Environment) -> Result<Option<Login>, String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || !name.chars().all(is_plain) {
        return Err("what it names as a helper is no name of a helper".to_owned());
    }
    let program = format!("docker-credential-{name}");
    let Some(path) = find(&program, environment).await else {
        return Err(format!("it names {program}, which is nowhere in PATH"));
    };
    let wrong = |why: &str| format!("{program} {why}: try `echo {registry} | {program} get`");
    let child = Command::new(path)
        .arg("get")
        .env_clear()
        .envs(environment.for_programs())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn();
    let mut child = child.map_err(|error| wrong(&format!("cannot be started ({error})")))?;
    let group = Group(child.id());
    let said = timeout(PATIENCE, talk(&mut child, registry)).await;
    let (is_well, said) = said
        .map_err(|_| wrong("does not answer in time"))?
        .map_err(|error| wrong(&format!("cannot be talked to ({error})")))?
        .ok_or_else(|| wrong("prints more than a login"))?;
    group.let_go();
    match (is_well, said.trim_ascii()) {
        (true, said) => serde_json::from_slice(said)
            .map(Some)
            .map_err(|_| wrong("prints what is no login")),
        (false, NOT_FOUND) => Ok(None),
        (false, _) => Err(wrong("fails")),
    }
}

/// Whether it ends well, and what it prints. `Ok(None)` if it prints too much.
async fn talk(child: &mut Child, registry: &str) -> std::io::Result<Option<(bool, Vec<u8>)>> {
    let mut said = Vec::new();
    if let Some(mut input) = child.stdin.take() {
        // One that does not read may know all the same.
        let _ = input.write_all(registry.as_bytes()).await;
    }
    if let Some(output) = child.stdout.take() {
        output.take(LONGEST + 1).read_to_end(&mut said).await?;
    }
    if said.len() as u64 > LONGEST {
        return Ok(None);
    }
    Ok(Some((child.wait().await?.success(), said)))
}

/// A program's place, by PATH alone: not by where we happen to be.
async fn find(program: &str, environment: &Environment) -> Option<PathBuf> {
    for directory in environment.get("PATH")?.split(':').map(Path::new) {
        let path = directory.join(program);
        if !directory.is_absolute() {
            continue;
        }
        if let Ok(found) = tokio::fs::metadata(&path).await
            && found.is_file()
            && found.permissions().mode() & 0o111 != 0
        {
            return Some(path);
        }
    }
    None
}

/// A program and what it has started, ended with it.
struct Group(Option<u32>);

impl Group {
    /// It has ended by itself.
    fn let_go(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let id = self.0.and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        if let Some(id) = id {
            // It may have ended just now.
            let _ = kill_process_group(id, Signal::KILL);
        }
    }
}
