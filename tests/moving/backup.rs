//! `entrepot backup` and `restore`, and a copy made by hand, while everything goes on.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use entrepot::oci::Digest;
use serde_json::Value;
use tempfile::TempDir;

use crate::binary::{Registry, entrepot, sha256, temporary, tree};
use crate::images::Spoken;
use crate::size::is_full;

/// Garbage goes soon here, so that it goes in the middle of a backup; too soon for a push that is slow.
const CONFIGURATION: &str = "server: { listen: '127.0.0.1:0' }\n\
                             storage: { path: data, backups: backups, gc: { every: forever, grace: 100ms } }\n\
                             repositories: { docker: { type: local } }\n";

fn here() -> Arc<TempDir> {
    let directory = temporary();
    std::fs::write(directory.path().join("repositories.yml"), CONFIGURATION).expect("a configuration");
    directory
}

/// A command about the stopped store of a directory.
fn run(directory: &TempDir, command: &str, more: &[&str]) -> Output {
    let mut command = entrepot(&[command, "--json", "-c"]);
    command.arg(directory.path().join("repositories.yml")).args(more);
    command.output().expect("it runs")
}

fn done(output: &Output) -> Value {
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn spoken(registry: &Registry) -> Spoken {
    Spoken::new(&registry.url(""), "docker/")
}

/// A backup by the server. Others go on meanwhile.
async fn back_up(registry: &Registry, directory: &str) -> Value {
    let mut command = entrepot(&["backup", "--json", "--server", &registry.url("")]);
    command.args(Some(directory).filter(|directory| !directory.is_empty()));
    let output = tokio::task::spawn_blocking(move || command.output().expect("it runs"));
    done(&output.await.expect("it ends"))
}

/// A new place with what is in a backup.
fn restored(from: &Path) -> Arc<TempDir> {
    let directory = here();
    let said = done(&run(&directory, "restore", &[from.to_str().expect("text")]));
    assert!(said["problems"].as_array().expect("problems").is_empty(), "{said}");
    directory
}

fn blob(root: &Path, digest: &Digest) -> PathBuf {
    root.join(format!(
        "docker/registry/v2/blobs/sha256/{}/{}/data",
        &digest.hex()[..2],
        digest.hex()
    ))
}

/// Pushes, moves a tag, deletes and collects garbage, until it is told to stop.
struct Busy {
    stop: Arc<AtomicBool>,
    /// What was acknowledged and is never deleted: by image and tag.
    acknowledged: Arc<Mutex<BTreeMap<(String, String), Digest>>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Busy {
    fn begin(registry: &Registry) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged: Arc<Mutex<BTreeMap<_, _>>> = Arc::default();
        let mut tasks = Vec::new();
        for pusher in 0..3 {
            let (spoken, stop, acknowledged) = (spoken(registry), Arc::clone(&stop), Arc::clone(&acknowledged));
            tasks.push(tokio::spawn(async move {
                let name = format!("team/app{pusher}");
                for number in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let content = format!("{pusher} {number}").repeat(1000);
                    let digest = spoken
                        .push_until_taken(&name, &format!("v{number}"), content.as_bytes())
                        .await;
                    let key = (name.clone(), format!("v{number}"));
                    acknowledged.lock().expect("not poisoned").insert(key, digest);
                    let passing = format!("goes {pusher} {number}").repeat(1000);
                    let digest = spoken
                        .push_until_taken("team/passing", "moves", passing.as_bytes())
                        .await;
                    spoken.delete("team/passing", digest.as_str()).await;
                }
            }));
        }
        let (url, client, stopped) = (registry.url("/api/v1/gc"), registry.client.clone(), Arc::clone(&stop));
        tasks.push(tokio::spawn(async move {
            while !stopped.load(Ordering::Relaxed) {
                let gc = client
                    .post(&url)
                    .json(&serde_json::json!({}))
                    .send()
                    .await
                    .expect("an answer");
                assert_eq!(gc.status(), 200);
            }
        }));
        Self {
            stop,
            acknowledged,
            tasks,
        }
    }

    fn so_far(&self) -> BTreeMap<(String, String), Digest> {
        self.acknowledged.lock().expect("not poisoned").clone()
    }

    /// Until so many pushes more have been acknowledged.
    async fn go_on(&self, pushes: usize) {
        let until = self.so_far().len() + pushes;
        while self.so_far().len() < until {
            assert!(
                self.tasks.iter().all(|task| !task.is_finished()),
                "it stopped by itself"
            );
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.expect("no push fails");
        }
    }
}

/// Everything of this is there, and whatever is listed is whole.
async fn holds(registry: &Registry, expected: &BTreeMap<(String, String), Digest>) {
    let spoken = spoken(registry);
    let names = spoken.names().await;
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let answers = spoken.answers(&names, &[]).await;
    for (key, digest) in expected {
        let (_, bytes) = answers.get(key).unwrap_or_else(|| panic!("{key:?} is lost"));
        assert_eq!(sha256(bytes), *digest, "{key:?}");
    }
}

#[tokio::test]
async fn a_backup_of_a_busy_server_has_all_that_was_acknowledged_and_nothing_half() {
    let directory = here();
    let registry = Registry::start_in(&directory, CONFIGURATION);
    let busy = Busy::begin(&registry);
    let mut backups = Vec::new();
    for _ in 0..if is_full() { 20 } else { 3 } {
        busy.go_on(10).await;
        let before = busy.so_far();
        let said = back_up(&registry, "nightly").await;
        assert!(said["problems"].as_array().expect("problems").is_empty(), "{said}");
        backups.push((PathBuf::from(said["directory"].as_str().expect("a path")), before, said));
    }
    busy.end().await;
    assert_eq!(backups[0].2["linked"], 0);
    for (number, (path, before, said)) in backups.iter().enumerate() {
        assert!(path.ends_with(format!("backups/nightly/{:06}", number + 1)), "{said}");
        assert!(number == 0 || said["linked"].as_u64() >= Some(20), "{said}");
        let copy = restored(path);
        let restored = Registry::start_in(&copy, CONFIGURATION);
        holds(&restored, before).await;
        restored.stop();
        // Taken away, so that the next one is asked for what it has itself.
        std::fs::remove_dir_all(path).expect("removed");
    }
}

#[tokio::test]
async fn what_is_unchanged_is_one_file_and_what_is_secret_stays_so() {
    let directory = here();
    let registry = Registry::start_in(&directory, CONFIGURATION);
    spoken(&registry).push_image("app", "v1", b"unchanged").await;
    let first = back_up(&registry, "").await;
    spoken(&registry).push_image("app", "v2", b"new").await;
    let second = back_up(&registry, "").await;
    // The first layer, its manifest and the configuration; and the second layer and its manifest.
    assert_eq!(
        (&second["linked"], &second["copied"]),
        (&3.into(), &2.into()),
        "{second}"
    );
    let path = |said: &Value| PathBuf::from(said["directory"].as_str().expect("a path"));
    let inode = |root: &Path| blob(root, &sha256(b"unchanged")).metadata().expect("it is there").ino();
    assert_eq!(inode(&path(&first)), inode(&path(&second)));
    assert_ne!(
        inode(&path(&first)),
        inode(&registry.data()),
        "a backup has its own bytes"
    );
    // What was removed here is removed in the next one, and is still in the one before.
    let tags = spoken(&registry).answers(&["app"], &[]).await;
    let digest = sha256(&tags[&("app".to_owned(), "v1".to_owned())].1);
    spoken(&registry).delete("app", digest.as_str()).await;
    let third = path(&back_up(&registry, "").await);
    registry.stop();
    assert!(!blob(&third, &digest).exists());
    let (old, new) = (restored(&path(&first)), restored(third.parent().expect("a directory")));
    for (copy, tag) in [(old, "v1"), (new, "v2")] {
        let key = directory.path().join("data/private/signing-key");
        let copied = copy.path().join("data/private/signing-key");
        assert_eq!(key.exists(), copied.exists());
        if copied.exists() {
            assert_eq!(
                copied.metadata().expect("it is there").permissions().mode() & 0o777,
                0o600
            );
            assert_eq!(
                std::fs::read(&key).expect("read"),
                std::fs::read(&copied).expect("read")
            );
        }
        let registry = Registry::start_in(&copy, CONFIGURATION);
        let answers = spoken(&registry).answers(&["app"], &[]).await;
        let tags: Vec<&str> = answers
            .keys()
            .map(|key| &*key.1)
            .filter(|tag| !tag.contains(':'))
            .collect();
        assert_eq!(tags, [tag]);
    }
}

#[tokio::test]
async fn a_server_writes_only_below_its_directory_of_backups() {
    let directory = here();
    let registry = Registry::start_in(&directory, CONFIGURATION);
    let ask = |registry: &Registry, body: Value| registry.post("/api/v1/backup").json(&body).send();
    for path in ["..", "/etc", "a/../../b", directory.path().to_str().expect("text")] {
        let answer = ask(&registry, serde_json::json!({ "directory": path }))
            .await
            .expect("an answer");
        assert_eq!(answer.status(), 403, "{path}");
    }
    assert!(!directory.path().join("backups").exists());
    registry.stop();
    let without = CONFIGURATION.replace("backups: backups, ", "");
    let registry = Registry::start_in(&directory, &without);
    let answer = ask(&registry, serde_json::json!({})).await.expect("an answer");
    assert_eq!(answer.status(), 403);
    assert!(answer.text().await.expect("text").contains("storage.backups"));
}

#[tokio::test]
async fn killed_in_a_backup_or_a_restore_it_goes_on() {
    let directory = here();
    let registry = Registry::start_in(&directory, CONFIGURATION);
    let mut expected = BTreeMap::new();
    for number in 0..40 {
        let tag = format!("v{number}");
        let content = format!("{number}").repeat(200_000);
        let digest = spoken(&registry).push_image("app", &tag, content.as_bytes()).await;
        expected.insert(("app".to_owned(), tag), digest);
    }
    registry.stop();
    let backups = directory.path().join("elsewhere");
    let to = backups.to_str().expect("text");
    let began = std::time::Instant::now();
    done(&run(&directory, "backup", &[to]));
    let takes = began.elapsed();
    std::fs::remove_dir_all(&backups).expect("removed");
    let kills = if is_full() { 50 } else { 5 };
    let cut = |mut command: std::process::Command, after| {
        let (out, err) = (std::process::Stdio::null(), std::process::Stdio::null());
        let mut child = command.stdout(out).stderr(err).spawn().expect("it starts");
        std::thread::sleep(after);
        child.kill().expect("killed");
        child.wait().expect("ended");
    };
    let command = |which: &str, of: &TempDir| {
        let mut command = entrepot(&[which, to, "-c"]);
        command.arg(of.path().join("repositories.yml"));
        command
    };
    for kill in 0..kills {
        cut(command("backup", &directory), takes * kill / kills);
    }
    done(&run(&directory, "backup", &[to]));
    let copy = here();
    for kill in 0..kills {
        cut(command("restore", &copy), takes * kill / kills);
        let format = std::fs::read_to_string(copy.path().join("data/format")).unwrap_or_default();
        if format.starts_with("being") {
            let refused = run(&copy, "gc", &[]);
            let why = String::from_utf8_lossy(&refused.stderr).into_owned();
            assert!(
                !refused.status.success() && why.contains("run `entrepot restore` again"),
                "{why}"
            );
        } else if format == "1\n" {
            std::fs::remove_dir_all(copy.path().join("data")).expect("removed");
        }
    }
    if !copy.path().join("data/format").exists() || !run(&copy, "gc", &[]).status.success() {
        done(&run(&copy, "restore", &[to]));
    }
    let again = run(&copy, "restore", &[to]);
    assert!(
        String::from_utf8_lossy(&again.stderr).contains("is not empty"),
        "{again:?}"
    );
    let registry = Registry::start_in(&copy, CONFIGURATION);
    holds(&registry, &expected).await;
}

#[tokio::test]
async fn damage_is_told_by_a_backup_and_by_a_restore() {
    let directory = here();
    let registry = Registry::start_in(&directory, CONFIGURATION);
    for (tag, content) in [("v1", &b"sound"[..]), ("v2", b"rots here"), ("v3", b"rots there")] {
        spoken(&registry).push_image("app", tag, content).await;
    }
    registry.stop();
    std::fs::write(
        blob(&directory.path().join("data"), &sha256(b"rots here")),
        b"ROTS HERE",
    )
    .expect("damage");
    let backups = directory.path().join("elsewhere");
    let output = run(&directory, "backup", &[backups.to_str().expect("text")]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let problems = said["problems"].as_array().expect("problems");
    assert!(
        problems.len() == 1 && problems[0].to_string().contains(sha256(b"rots here").as_str()),
        "{said}"
    );
    std::fs::write(blob(&backups.join("000001"), &sha256(b"rots there")), b"ROTS THERE").expect("damage");
    let copy = here();
    let output = run(&copy, "restore", &[backups.to_str().expect("text")]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(
        String::from_utf8_lossy(&output.stdout).contains(sha256(b"rots there").hex()),
        "{output:?}"
    );
    let registry = Registry::start_in(&copy, CONFIGURATION);
    for (content, status) in [(&b"sound"[..], 200), (b"rots here", 404), (b"rots there", 404)] {
        let path = format!("/v2/docker/app/blobs/{}", sha256(content));
        assert_eq!(
            registry.get(&path).send().await.expect("an answer").status(),
            status,
            "{path}"
        );
    }
}

#[tokio::test]
async fn d13_newer_data_is_refused_by_every_command_and_nothing_is_written() {
    let directory = here();
    let registry = Registry::start_in(&directory, CONFIGURATION);
    spoken(&registry).push_image("app", "v1", b"content").await;
    registry.stop();
    let data = directory.path().join("data");
    std::fs::write(data.join("format"), "2\n").expect("written");
    let content = || -> Vec<_> {
        let state = |path: &Path| {
            (
                path.metadata().expect("there").modified().ok(),
                std::fs::read(path).unwrap_or_default(),
            )
        };
        tree(&data)
            .into_iter()
            .map(|name| (state(&data.join(&name)), name))
            .collect()
    };
    let before = content();
    let (other, file) = (here(), directory.path().join("repositories.yml"));
    let (other, file) = (other.path().to_str().expect("text"), file.to_str().expect("text"));
    for arguments in [
        vec!["serve", "-c", file],
        vec!["reindex", "-c", file],
        vec!["gc", "-c", file],
        vec!["import", "-c", file, "--into", "docker", other],
        vec!["backup", "-c", file, other],
        vec!["restore", "-c", file, data.to_str().expect("text")],
    ] {
        let output = entrepot(&arguments).output().expect("it runs");
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
        let why = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            why.contains("has format 2") && why.contains("use a newer version"),
            "{arguments:?}: {why}"
        );
        assert!(content() == before, "{arguments:?} has written");
    }
}

#[tokio::test]
async fn d14_a_copy_of_a_live_store_has_all_that_was_acknowledged() {
    for _ in 0..if is_full() { 20 } else { 3 } {
        let directory = here();
        let registry = Registry::start_in(&directory, CONFIGURATION);
        let busy = Busy::begin(&registry);
        busy.go_on(15).await;
        let before = busy.so_far();
        let copy = here();
        let mut copying = std::process::Command::new("cp");
        copying.arg("-a").arg(registry.data()).arg(copy.path().join("data"));
        // What goes away while it looks, it complains of.
        copying.stderr(std::process::Stdio::null());
        let copied = tokio::task::spawn_blocking(move || copying.status().expect("cp"));
        copied.await.expect("it ends");
        busy.end().await;
        // Not the copy's fault, if it were so.
        holds(&registry, &before).await;
        registry.stop();
        let copied = Registry::start_in(&copy, CONFIGURATION);
        for ((name, tag), digest) in &before {
            let answers = spoken(&copied).image(name, tag).await;
            assert_eq!(
                answers.first().map(|bytes| sha256(bytes)).as_ref(),
                Some(digest),
                "{name}:{tag}"
            );
        }
    }
}
