//! `entrepot import`: a directory that a real `registry:2` has written.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Output;

use entrepot::oci::Digest;
use serde_json::Value;
use tempfile::TempDir;

use crate::binary::{Registry, entrepot, sha256, temporary};
use crate::distribution::Distribution;
use crate::images::{Answers, Spoken, referrer};
use crate::size::is_full;

const NAMES: [&str; 4] = ["alpine", "team/app", "team/app/sub/deep_er--er", "team/multi"];
const CONFIGURATION: &str =
    "server: { listen: '127.0.0.1:0' }\nstorage: { path: data }\nrepositories:\n  docker: { type: local }\n";

/// A configuration with a repository `docker`, where nothing is yet.
fn here() -> std::sync::Arc<TempDir> {
    let directory = temporary();
    std::fs::write(directory.path().join("repositories.yml"), CONFIGURATION).expect("a configuration");
    directory
}

fn import(ours: &TempDir, theirs: &Path, more: &[&str]) -> Output {
    let mut command = entrepot(&["import", "--json", "--into", "docker"]);
    command
        .arg("-c")
        .arg(ours.path().join("repositories.yml"))
        .arg(theirs)
        .args(more);
    command.output().expect("it runs")
}

/// What it says it did, and what it left out.
fn done(output: &Output) -> (Value, Vec<String>) {
    let said: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    let problems = said["problems"].as_array().expect("problems").iter();
    let problems: Vec<String> = problems
        .map(|problem| problem.as_str().expect("text").to_owned())
        .collect();
    assert_eq!(
        output.status.code(),
        Some(i32::from(!problems.is_empty())),
        "{output:?}"
    );
    (said, problems)
}

/// What a registry of theirs has, written by itself, and what it answers.
async fn written(directory: &Path) -> Answers {
    let theirs = Distribution::start(directory);
    let spoken = Spoken::new(&theirs.url, "");
    spoken.push_everything().await;
    spoken.answers(&NAMES, &[referrer()]).await
}

async fn served(ours: &std::sync::Arc<TempDir>, untagged: &[(&str, Digest)]) -> Answers {
    let registry = Registry::start_in(ours, CONFIGURATION);
    let answers = Spoken::new(&registry.url(""), "docker/")
        .answers(&NAMES, untagged)
        .await;
    registry.stop();
    answers
}

fn blob(root: &Path, bytes: &[u8]) -> std::path::PathBuf {
    let digest = sha256(bytes);
    root.join(format!(
        "docker/registry/v2/blobs/sha256/{}/{}/data",
        &digest.hex()[..2],
        digest.hex()
    ))
}

#[tokio::test]
async fn what_registry_2_wrote_is_served_whole_and_takes_no_room_twice() {
    let (theirs, ours) = (temporary(), here());
    let theirs = theirs.path().join("registry");
    let before = written(&theirs).await;
    assert!(before.len() > 20, "{:?}", before.keys());
    let (said, problems) = done(&import(&ours, &theirs, &[]));
    assert_eq!(
        (problems.len(), &said["images"], &said["copied"]),
        (0, &4.into(), &0.into()),
        "{said}"
    );
    assert_eq!(said["tags"], 9, "{said}");
    for bytes in [&b"alpine"[..], &vec![7; 3 << 20]] {
        let inode = |root: &Path| blob(root, bytes).metadata().expect("it is there").ino();
        assert_eq!(inode(&theirs), inode(&ours.path().join("data")), "one file");
    }
    assert!(served(&ours, &[referrer()]).await == before, "not the same");
    let (again, _) = done(&import(&ours, &theirs, &[]));
    for what in ["manifests", "tags", "linked", "copied"] {
        assert_eq!(again[what], 0, "{again}");
    }
    // And it is theirs still.
    let back = Distribution::start(&theirs);
    assert!(Spoken::new(&back.url, "").answers(&NAMES, &[referrer()]).await == before);
}

#[tokio::test]
async fn a_store_of_ours_copied_is_served_by_registry_2() {
    let (ours, copy) = (here(), temporary());
    let registry = Registry::start_in(&ours, CONFIGURATION);
    let spoken = Spoken::new(&registry.url(""), "docker/");
    spoken.push_everything().await;
    let before = spoken.answers(&NAMES, &[referrer()]).await;
    registry.stop();
    let copy = copy.path().join("copy");
    let copied = std::process::Command::new("cp")
        .arg("-a")
        .arg(ours.path().join("data"))
        .arg(&copy)
        .status();
    assert!(copied.expect("cp").success());
    let theirs = Distribution::start(&copy);
    let spoken = Spoken::new(&theirs.url, "docker/");
    assert_eq!(spoken.names().await, NAMES);
    assert!(spoken.answers(&NAMES, &[referrer()]).await == before, "not the same");
}

#[tokio::test]
async fn a_cache_of_registry_2_becomes_one_of_ours() {
    let directory = temporary();
    let (upstream, cache) = (directory.path().join("upstream"), directory.path().join("cache"));
    let theirs = Distribution::start(&upstream);
    let spoken = Spoken::new(&theirs.url, "");
    spoken.push_everything().await;
    spoken.push_image("team/cold", "v1", b"nobody asked for it").await;
    let before = {
        let proxy = Distribution::proxy(&cache, &theirs.url);
        Spoken::new(&proxy.url, "").answers(&NAMES, &[referrer()]).await
    };
    let configuration = format!(
        "server: {{ listen: '127.0.0.1:0' }}\nstorage: {{ path: data }}\n\
         repositories: {{ docker: {{ type: remote, url: '{}', insecure: true, tag_ttl: 1ms }} }}\n",
        theirs.url
    );
    let ours = temporary();
    std::fs::write(ours.path().join("repositories.yml"), &configuration).expect("a configuration");
    let (said, problems) = done(&import(&ours, &cache, &[]));
    assert_eq!(
        (problems, &said["images"], &said["tags"]),
        (vec![], &4.into(), &9.into()),
        "{said}"
    );
    let registry = Registry::start_in(&ours, &configuration);
    let spoken = Spoken::new(&registry.url(""), "docker/");
    // What was not in their cache is fetched like anything else.
    assert_eq!(spoken.answers(&["team/cold"], &[]).await.len(), 4);
    drop(theirs);
    // With the upstream gone, everything that was in their cache is served from ours.
    assert!(spoken.answers(&NAMES, &[referrer()]).await == before, "not the same");
}

#[tokio::test]
async fn what_is_odd_damaged_or_in_the_way_is_told_and_the_rest_comes() {
    let (theirs, ours) = (temporary(), here());
    let theirs = theirs.path().join("registry");
    let before = written(&theirs).await;
    let repositories = theirs.join("docker/registry/v2/repositories");
    std::fs::create_dir_all(repositories.join("Team/App/_manifests/revisions")).expect("a directory");
    std::fs::create_dir_all(repositories.join("team/empty/_uploads/1")).expect("a directory");
    std::fs::write(repositories.join("notes.txt"), "by hand").expect("a file");
    std::os::unix::fs::symlink("/", repositories.join("elsewhere")).expect("a link");
    std::fs::create_dir_all(repositories.join("alpine/_manifests/tags/b ad/current")).expect("a directory");
    let broken = blob(&theirs, b"another version");
    std::fs::write(&broken, b"ANOTHER VERSION").expect("damage");
    std::fs::remove_file(blob(&theirs, b"for one")).expect("damage");
    // A tag that means something else here.
    let registry = Registry::start_in(&ours, CONFIGURATION);
    let own = Spoken::new(&registry.url(""), "docker/")
        .push_image("alpine", "3.20", b"our own")
        .await;
    registry.stop();
    let (_, problems) = done(&import(&ours, &theirs, &[]));
    let told = |what: &str| problems.iter().filter(|problem| problem.contains(what)).count();
    for (what, count) in [
        ("Team/App: is no name", 1),
        ("elsewhere: a symbolic link", 1),
        ("`b ad` is no tag", 1),
        (
            &format!(
                "the blob {} is left out: its bytes have the digest",
                sha256(b"another version")
            ),
            1,
        ),
        ("is left out, with its tags", 3),
        ("the tag `3.20` stays", 1),
    ] {
        assert_eq!(told(what), count, "{what}: {problems:#?}");
    }
    assert_eq!(problems.len(), 8, "{problems:#?}");
    let registry = Registry::start_in(&ours, CONFIGURATION);
    let spoken = Spoken::new(&registry.url(""), "docker/");
    let answers = spoken.answers(&NAMES, &[referrer()]).await;
    for gone in ["v2", "amd64", "latest"] {
        assert!(
            !answers
                .keys()
                .any(|(name, tag)| name.starts_with("team/") && tag == gone && name != "team/app/sub"),
            "{gone}"
        );
    }
    let alpine = ("alpine".to_owned(), "3.20".to_owned());
    assert_eq!(sha256(&answers[&alpine].1), own);
    for (key, answer) in answers.iter().filter(|(key, _)| key.0 != "alpine") {
        assert!(before.get(key) == Some(answer), "{key:?}");
    }
    registry.stop();
    let (said, _) = done(&import(&ours, &theirs, &["--replace-tags"]));
    assert_eq!(said["tags"], 1, "{said}");
    assert!(served(&ours, &[referrer()]).await[&alpine] == before[&alpine]);
}

#[tokio::test]
async fn an_image_that_is_beyond_the_quota_is_named_and_the_rest_comes() {
    let (theirs, ours) = (temporary(), here());
    let theirs = theirs.path().join("registry");
    let before = written(&theirs).await;
    let limited = |quota: &str| {
        let configuration = CONFIGURATION.replace("type: local", &format!("type: local, quota: {quota}"));
        std::fs::write(ours.path().join("repositories.yml"), configuration).expect("a configuration");
    };
    limited("1MiB");
    for used in ["", "54 "] {
        let (_, problems) = done(&import(&ours, &theirs, &[]));
        let expected = format!("team/multi: is left out, with its tags: the repository has {used}");
        assert!(
            problems.len() == 1 && problems[0].starts_with(&expected),
            "{problems:#?}"
        );
    }
    let without = |mut answers: Answers| {
        answers.retain(|key, _| key.0 != "team/multi");
        answers
    };
    assert!(
        served(&ours, &[referrer()]).await == without(before.clone()),
        "not the rest"
    );
    assert!(
        !blob(&ours.path().join("data"), &vec![7; 3 << 20]).exists(),
        "half of it"
    );
    // What all images have together, each blob once.
    limited("3145789");
    done(&import(&ours, &theirs, &[]));
    assert!(served(&ours, &[referrer()]).await == before, "not the same");
}

#[tokio::test]
async fn wherever_it_is_killed_nothing_is_half_there_and_it_goes_on() {
    let theirs = temporary();
    let theirs = theirs.path().join("registry");
    let before = written(&theirs).await;
    let whole = here();
    let began = std::time::Instant::now();
    done(&import(&whole, &theirs, &[]));
    let takes = began.elapsed();
    let kills = if is_full() { 100 } else { 8 };
    let ours = here();
    for kill in 0..kills {
        // From the beginning and, every other time, on from where the last one was.
        if kill % 2 == 0 {
            let _ = std::fs::remove_dir_all(ours.path().join("data"));
        }
        let mut command = entrepot(&["import", "--json", "--into", "docker"]);
        let mut child = command
            .arg("-c")
            .arg(ours.path().join("repositories.yml"))
            .arg(&theirs)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("it starts");
        std::thread::sleep(takes * kill / kills);
        child.kill().expect("killed");
        child.wait().expect("ended");
        // Every answer there is is a right one, whatever was listed; `answers` fails at what is half there.
        for (key, answer) in served(&ours, &[]).await {
            assert!(before.get(&key) == Some(&answer), "{key:?} after kill {kill}");
        }
    }
    done(&import(&ours, &theirs, &[]));
    assert!(served(&ours, &[referrer()]).await == before, "not the same");
}

#[test]
fn what_cannot_be_meant_is_refused_and_nothing_is_written() {
    let ours = here();
    let empty = temporary();
    for (into, code) in [("nowhere", 2), ("No/Key", 2), ("docker", 1)] {
        let mut command = entrepot(&["import", "--into", into]);
        command
            .arg("-c")
            .arg(ours.path().join("repositories.yml"))
            .arg(empty.path());
        let output = command.output().expect("it runs");
        assert_eq!(output.status.code(), Some(code), "{into}: {output:?}");
    }
    let itself = import(&ours, &ours.path().join("data"), &[]);
    assert!(
        String::from_utf8_lossy(&itself.stderr).contains("that is the store itself"),
        "{itself:?}"
    );
}
