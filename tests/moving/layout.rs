//! `entrepot export` and `import` of OCI layouts: out of one server, into another, and what is no layout.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::Output;

use entrepot::oci::Digest;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::binary::{OCI_INDEX, OCI_MANIFEST, Registry, entrepot, image_manifest, sha256, temporary, tree};
use crate::images::{Answers, Spoken, referrer};
use crate::size::is_full;

const LOCAL: &str = "repositories: { docker: { type: local } }\n";
const IMAGES: [&str; 5] = [
    "docker/alpine:3.20",
    "docker/team/app:v1",
    "docker/team/app:docker",
    "docker/team/app/sub/deep_er--er:v1",
    "docker/team/multi",
];
const NAMES: [&str; 4] = ["alpine", "team/app", "team/app/sub/deep_er--er", "team/multi"];

fn spoken(registry: &Registry, repository: &str) -> Spoken {
    Spoken::new(&registry.url(""), repository)
}

/// A command that talks to a server. Others go on meanwhile.
async fn run(registry: &Registry, command: &str, more: &[&str]) -> Output {
    let mut command = entrepot(&[command, "--server", &registry.url("")]);
    command.args(more);
    let output = tokio::task::spawn_blocking(move || command.output().expect("it runs"));
    output.await.expect("it ends")
}

async fn export(registry: &Registry, to: &Path, images: &[&str], more: &[&str]) -> Output {
    let to = to.to_str().expect("text");
    run(registry, "export", &[images, &["--json", "-o", to], more].concat()).await
}

async fn import(registry: &Registry, from: &Path, more: &[&str]) -> Output {
    let from = from.to_str().expect("text");
    run(registry, "import", &[&["--json", from], more].concat()).await
}

fn done(output: &Output) -> Value {
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn failed(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = [&*output.stdout, &*output.stderr].concat();
    String::from_utf8(said).expect("text")
}

/// The entries of a tar, in their order.
fn entries(tar: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut archive = tar::Archive::new(tar);
    let read = archive.entries().expect("a tar").map(|entry| {
        let mut entry = entry.expect("an entry");
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).expect("whole");
        (entry.path().expect("a path").display().to_string(), bytes)
    });
    read.collect()
}

/// What refers to a manifest, by the list and by the tag that stands for it.
async fn about(registry: &Registry, name: &str, subject: &Digest) -> BTreeSet<String> {
    let answer = registry.get(&format!("/v2/{name}/referrers/{subject}")).send().await;
    let document: Value = answer.expect("an answer").json().await.expect("JSON");
    let listed = document["manifests"].as_array().expect("a list").iter();
    listed
        .map(|entry| entry["digest"].as_str().expect("text").to_owned())
        .collect()
}

async fn answers(registry: &Registry, repository: &str) -> Answers {
    spoken(registry, repository).answers(&NAMES, &[referrer()]).await
}

#[tokio::test]
async fn what_is_exported_is_imported_as_it_was_with_signatures_and_referrers() {
    let (ours, theirs, directory) = (Registry::start(LOCAL), Registry::start(LOCAL), temporary());
    spoken(&ours, "docker/").push_everything().await;
    let (_, referrer) = referrer();
    // What is about what is about it, too.
    let subject = format!(r#","subject":{{"mediaType":"{OCI_MANIFEST}","digest":"{referrer}","size":400}}"#);
    let second = image_manifest((&sha256(b"{}"), 2), &[], &subject);
    ours.push_manifest(
        "/v2/docker/team/app",
        sha256(second.as_bytes()).as_str(),
        OCI_MANIFEST,
        second.as_bytes(),
    )
    .await;
    let file = directory.path().join("images.tar");
    let said = done(&export(&ours, &file, &IMAGES, &[]).await);
    assert_eq!(said["images"], 5, "{said}");
    let bytes = std::fs::read(&file).expect("a file");
    let inside = entries(&bytes);
    let paths: Vec<&str> = inside.iter().map(|(path, _)| &**path).collect();
    assert_eq!(paths[..2], ["oci-layout", "index.json"]);
    assert_eq!(
        paths.iter().collect::<BTreeSet<_>>().len(),
        paths.len(),
        "each once: {paths:?}"
    );
    for (path, bytes) in &inside[2..] {
        assert_eq!(*path, format!("blobs/sha256/{}", sha256(bytes).hex()));
    }
    // Done again it is the same file, and nothing is left beside it.
    done(&export(&ours, &file, &IMAGES, &[]).await);
    assert!(std::fs::read(&file).expect("a file") == bytes, "another file");
    assert_eq!(tree(directory.path()), ["images.tar"]);

    let said = done(&import(&theirs, &file, &[]).await);
    // Five, and the signature's.
    assert_eq!((&said["images"], &said["tags"]), (&4.into(), &6.into()), "{said}");
    let (before, after) = (answers(&ours, "docker/").await, answers(&theirs, "docker/").await);
    let left: Vec<_> = before.iter().filter(|(key, _)| !after.contains_key(key)).collect();
    // Only what was not asked for is missing: the other tags, and what is only theirs.
    assert!(
        left.iter().all(|((name, reference), (_, bytes))| {
            ["v2", "amd64", "arm64"].contains(&&**reference) || (name == "team/app" && has(bytes, b"another version"))
        }),
        "{:?}",
        left.iter().map(|(key, _)| key).collect::<Vec<_>>()
    );
    for (key, answer) in &after {
        assert!(before[key] == *answer, "{key:?} is not the same");
    }
    let app = sha256(&before[&("team/app".to_owned(), "v1".to_owned())].1);
    assert!(after.contains_key(&("team/app".to_owned(), format!("sha256-{}.sig", app.hex()))));
    for subject in [&app, &referrer] {
        let there = about(&theirs, "docker/team/app", subject).await;
        assert_eq!(there, about(&ours, "docker/team/app", subject).await);
        assert_eq!(there.len(), 1);
    }
    let again = done(&import(&theirs, &file, &[]).await);
    for what in ["manifests", "tags", "copied"] {
        assert_eq!(again[what], 0, "{again}");
    }
    // Out of the second one it is the same again, but for the name of the server.
    let back = directory.path().join("back.tar");
    done(&export(&theirs, &back, &IMAGES, &[]).await);
    let names = |entries: Vec<(String, Vec<u8>)>| entries.into_iter().map(|(path, _)| path).collect::<BTreeSet<_>>();
    assert_eq!(names(entries(&std::fs::read(&back).expect("a file"))), names(inside));
}

/// Whether these are the bytes, or a manifest that lists them.
fn has(bytes: &[u8], content: &[u8]) -> bool {
    let digest = sha256(content).to_string();
    bytes == content || String::from_utf8_lossy(bytes).contains(&digest)
}

#[tokio::test]
async fn through_a_remote_everything_comes_too_and_a_directory_will_do() {
    let upstream = Registry::start(LOCAL);
    spoken(&upstream, "docker/").push_everything().await;
    let ours = Registry::start(&format!(
        "repositories: {{ hub: {{ type: remote, url: '{}/docker', insecure: true }} }}\n",
        upstream.url("")
    ));
    let (theirs, directory) = (Registry::start(LOCAL), temporary());
    let file = directory.path().join("images.tar");
    let images = IMAGES.map(|image| image.replace("docker/", "hub/"));
    let said = done(&export(&ours, &file, &images.each_ref().map(|image| &**image), &[]).await);
    assert!(said["problems"].as_array().expect("problems").is_empty(), "{said}");
    let unpacked = directory.path().join("layout");
    tar::Archive::new(&*std::fs::read(&file).expect("a file"))
        .unpack(&unpacked)
        .expect("unpacked");
    let said = done(&import(&theirs, &unpacked, &["--into", "hub=docker"]).await);
    assert_eq!((&said["images"], &said["tags"]), (&4.into(), &6.into()), "{said}");
    let (before, after) = (answers(&upstream, "docker/").await, answers(&theirs, "docker/").await);
    for (key, answer) in &after {
        assert!(before[key] == *answer, "{key:?} is not the same");
    }
    assert!(after.contains_key(&("team/multi".to_owned(), "latest".to_owned())));
    let (name, referrer) = referrer();
    assert!(after.contains_key(&(name.to_owned(), referrer.to_string())));
}

#[tokio::test]
async fn what_is_large_goes_in_pieces_and_without_signatures_there_are_none() {
    let (ours, theirs, directory) = (Registry::start(LOCAL), Registry::start(LOCAL), temporary());
    // Every piece differs from the others.
    let large: Vec<u8> = (0..10_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let spoken_to = spoken(&ours, "docker/");
    let app = spoken_to.push_image("app", "v1", &large).await;
    spoken_to.push_image("other", "v1", &large).await;
    spoken_to
        .push_image("app", &format!("sha256-{}.sig", app.hex()), b"a signature")
        .await;
    // To the standard output.
    let by_digest = format!("docker/other@{app}");
    let images = ["docker/app:v1", &by_digest, "--without-signatures", "-o", "-"];
    let output = run(&ours, "export", &images).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let inside = entries(&output.stdout);
    // The mark, the list, one manifest, its configuration and its layer.
    assert_eq!(inside.len(), 5);
    let file = directory.path().join("images.tar");
    std::fs::write(&file, &output.stdout).expect("a file");
    let said = done(&import(&theirs, &file, &[]).await);
    assert_eq!((&said["images"], &said["tags"]), (&2.into(), &1.into()), "{said}");
    // The second image has them from the first.
    assert_eq!((&said["copied"], &said["present"]), (&2.into(), &2.into()), "{said}");
    let (to, from) = (spoken(&theirs, "docker/"), spoken(&ours, "docker/"));
    assert!(to.image("app", "v1").await == from.image("app", "v1").await);
    assert!(to.image("other", app.as_str()).await == from.image("other", "v1").await);
}

#[tokio::test]
async fn a_tag_that_means_something_else_stays_unless_it_is_to_move() {
    let (ours, theirs, directory) = (Registry::start(LOCAL), Registry::start(LOCAL), temporary());
    let theirs_now = spoken(&theirs, "docker/").push_image("app", "v1", b"theirs").await;
    let new = spoken(&ours, "docker/").push_image("app", "v1", b"ours").await;
    let file = directory.path().join("images.tar");
    done(&export(&ours, &file, &["docker/app:v1"], &[]).await);
    let said = failed(&import(&theirs, &file, &[]).await);
    assert!(
        said.contains("--replace-tags") && said.contains(theirs_now.as_str()),
        "{said}"
    );
    let now = async || sha256(&spoken(&theirs, "docker/").image("app", "v1").await[0]);
    assert_eq!(now().await, theirs_now);
    done(&import(&theirs, &file, &["--replace-tags"]).await);
    assert_eq!(now().await, new);
    done(&import(&theirs, &file, &["--into", "docker/elsewhere:v2"]).await);
    done(&import(&theirs, &file, &["--into", "docker=docker/below"]).await);
    let names = spoken(&theirs, "docker/").names().await;
    assert_eq!(names, ["app", "below/app", "elsewhere"]);
    // A repository that there is not.
    let said = failed(&import(&theirs, &file, &["--into", "nowhere"]).await);
    assert!(said.contains("nowhere/docker/app"), "{said}");
}

#[tokio::test]
async fn an_export_that_fails_leaves_nothing() {
    let (ours, directory) = (Registry::start(LOCAL), temporary());
    spoken(&ours, "docker/").push_image("app", "v1", b"as it was").await;
    let file = directory.path().join("images.tar");
    let said = failed(&export(&ours, &file, &["docker/app:v1", "docker/app:v2"], &[]).await);
    assert!(said.contains("the server has no docker/app:v2"), "{said}");
    let digest = sha256(b"as it was");
    let blob = format!(
        "docker/registry/v2/blobs/sha256/{}/{}/data",
        &digest.hex()[..2],
        digest.hex()
    );
    std::fs::write(ours.data().join(blob), b"AS IT WAS").expect("damage");
    let said = failed(&export(&ours, &file, &["docker/app:v1"], &[]).await);
    assert!(
        said.contains(digest.as_str()) && said.contains("has the digest"),
        "{said}"
    );
    assert!(tree(directory.path()).is_empty(), "{:?}", tree(directory.path()));
    for wrong in ["Docker/App", "elsewhere:5000/app:v1", "docker/app@sha256:1"] {
        let output = export(&ours, &file, &[wrong], &[]).await;
        assert_eq!(output.status.code(), Some(2), "{output:?}");
    }
    // What is there already stays until there is something whole.
    std::fs::write(&file, b"of yesterday").expect("a file");
    failed(&export(&ours, &file, &["docker/app:v1"], &[]).await);
    assert_eq!(std::fs::read(&file).expect("a file"), b"of yesterday");
}

/// A way to a server on which each connection is cut after so many bytes, one way or the other.
async fn cutting(to: &Registry, after: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let server = to.address().to_owned();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(&server).await.expect("the server");
            tokio::spawn(async move {
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = server.into_split();
                // Whichever comes to its end first takes the other one along.
                tokio::select! {
                    () = some(&mut from_client, &mut to_server, after) => {}
                    () = some(&mut from_server, &mut to_client, after) => {}
                }
            });
        }
    });
    format!("http://{address}")
}

async fn some(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin), mut left: usize) {
    let mut bytes = vec![0; 64 << 10];
    while left > 0 {
        let most = bytes.len().min(left);
        let Ok(count @ 1..) = from.read(&mut bytes[..most]).await else {
            return;
        };
        left -= count;
        if to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn what_breaks_off_is_gone_on_with() {
    let (ours, theirs, directory) = (Registry::start(LOCAL), Registry::start(LOCAL), temporary());
    let large: Vec<u8> = (0..12_000_000_u32).flat_map(u32::to_le_bytes).collect();
    spoken(&ours, "docker/").push_image("app", "v1", &large).await;
    let file = directory.path().join("images.tar");
    let path = file.to_str().expect("text");
    for (server, command) in [
        (
            cutting(&ours, 20_000_000).await,
            &["export", "docker/app:v1", "-o", path][..],
        ),
        (cutting(&theirs, 20_000_000).await, &["import", path]),
    ] {
        let mut command = entrepot(command);
        command.args(["--json", "--server", &server]);
        let output = tokio::task::spawn_blocking(move || command.output().expect("it runs"));
        done(&output.await.expect("it ends"));
    }
    let (to, from) = (spoken(&theirs, "docker/"), spoken(&ours, "docker/"));
    assert!(to.image("app", "v1").await == from.image("app", "v1").await);
}

#[tokio::test]
async fn wherever_it_is_killed_no_file_and_no_image_is_half_there() {
    let (ours, theirs, directory) = (Registry::start(LOCAL), Registry::start(LOCAL), temporary());
    let mut images = Vec::new();
    for number in 0..6_u32 {
        let layer: Vec<u8> = (0..1_000_000)
            .flat_map(|byte: u32| (byte ^ number << 24).to_le_bytes())
            .collect();
        spoken(&ours, "docker/")
            .push_image("app", &format!("v{number}"), &layer)
            .await;
        images.push(format!("docker/app:v{number}"));
    }
    let images: Vec<&str> = images.iter().map(String::as_str).collect();
    let file = directory.path().join("images.tar");
    let began = std::time::Instant::now();
    done(&export(&ours, &file, &images, &[]).await);
    let takes = began.elapsed();
    let whole = std::fs::read(&file).expect("a file");
    std::fs::remove_file(&file).expect("removed");
    let path = file.to_str().expect("text");
    let kills = if is_full() { 50 } else { 5 };
    let cut = async |registry: &Registry, command: &[&str], signal: &str, after| {
        let mut command_line = entrepot(command);
        command_line.args(["--json", "--server", &registry.url("")]);
        let (out, err) = (std::process::Stdio::null(), std::process::Stdio::null());
        let mut child = command_line.stdout(out).stderr(err).spawn().expect("it starts");
        tokio::time::sleep(after).await;
        let status = std::process::Command::new("kill")
            .args([signal, &child.id().to_string()])
            .status();
        status.expect("kill");
        tokio::task::spawn_blocking(move || child.wait().expect("ended"))
            .await
            .expect("it ends");
    };
    for kill in 0..kills {
        let signal = if kill % 2 == 0 { "-KILL" } else { "-TERM" };
        let command = [&["export", "-o", path], &*images].concat();
        cut(&ours, &command, signal, takes * kill / kills).await;
        if file.exists() {
            assert!(std::fs::read(&file).expect("a file") == whole, "half of it");
            std::fs::remove_file(&file).expect("removed");
        }
        // Whoever is asked to stop takes along what was begun.
        if signal == "-TERM" {
            assert!(tree(directory.path()).is_empty(), "{:?}", tree(directory.path()));
        }
    }
    done(&export(&ours, &file, &images, &[]).await);
    assert!(std::fs::read(&file).expect("a file") == whole, "another one");
    for kill in 0..kills {
        cut(&theirs, &["import", path], "-KILL", takes * kill / kills).await;
        // Whatever has a tag is whole: `answers` fails at what is not.
        spoken(&theirs, "docker/").answers(&["app"], &[]).await;
    }
    done(&import(&theirs, &file, &[]).await);
    let (to, from) = (spoken(&theirs, "docker/"), spoken(&ours, "docker/"));
    assert!(to.answers(&["app"], &[]).await == from.answers(&["app"], &[]).await);
}

#[tokio::test]
async fn all_tags_come_when_they_are_asked_for() {
    let (ours, theirs, directory) = (Registry::start(LOCAL), Registry::start(LOCAL), temporary());
    spoken(&ours, "docker/").push_everything().await;
    let file = directory.path().join("images.tar");
    let output = export(&ours, &file, &["docker/team/app:v1"], &["--all-tags"]).await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    done(&export(&ours, &file, &["docker/team/app"], &["--all-tags"]).await);
    done(&import(&theirs, &file, &[]).await);
    let (to, from) = (spoken(&theirs, "docker/"), spoken(&ours, "docker/"));
    let (to, from) = (
        to.answers(&["team/app"], &[referrer()]).await,
        from.answers(&["team/app"], &[referrer()]).await,
    );
    assert!(to == from);
}

#[tokio::test]
async fn what_cannot_be_told_is_told() {
    // A remote whose upstream nobody is at.
    let away = |member: &str| {
        let repositories = "local: { type: local }, hub: { type: remote, url: 'http://127.0.0.1:1', insecure: true }";
        let docker = format!("docker: {{ type: virtual, members: [{member}, hub], push_to: local }}");
        Registry::start(&format!("repositories: {{ {repositories}, {docker} }}\n"))
    };
    let (upstream, directory) = (Registry::start(LOCAL), temporary());
    spoken(&upstream, "docker/").push_image("app", "v1", b"an image").await;
    let file = directory.path().join("images.tar");
    done(&export(&upstream, &file, &["docker/app:v1"], &[]).await);
    // What is local comes first, so nobody else need be asked.
    done(&import(&away("{ repository: local, priority: true }"), &file, &[]).await);
    let inside = away("local");
    let said = failed(&import(&inside, &file, &[]).await);
    assert!(
        said.contains("cannot be told") && said.contains("--replace-tags"),
        "{said}"
    );
    done(&import(&inside, &file, &["--into", "docker=local"]).await);
    done(&import(&inside, &file, &["--replace-tags"]).await);
    let back = directory.path().join("back.tar");
    done(&export(&inside, &back, &["local/app:v1"], &[]).await);
    // A remote that has the image, and cannot ask for its signature any more.
    let ours = Registry::start(&format!(
        "repositories: {{ hub: {{ type: remote, url: '{}/docker', insecure: true, tag_ttl: 1ms }} }}\n",
        upstream.url("")
    ));
    spoken(&ours, "hub/").image("app", "v1").await;
    upstream.stop();
    let said = failed(&export(&ours, &back, &["hub/app:v1"], &[]).await);
    assert!(said.contains("whether there is a signature cannot be told"), "{said}");
    assert!(back.exists(), "the image itself is there");
    // It cannot be told either whether the tag has moved.
    assert!(said.contains(r#""warnings":["hub/app:v1: "#), "{said}");
    let never = directory.path().join("never.tar");
    let said = failed(&export(&ours, &never, &["hub/app:v2"], &[]).await);
    assert!(said.contains("hub/app:v2") && !never.exists(), "{said}");
    done(&export(&ours, &back, &["hub/app:v1"], &["--without-signatures"]).await);
    let said = failed(&import(&ours, &file, &["--into", "docker=hub"]).await);
    assert!(said.contains("hub/app:v1 is left out"), "{said}");
}

#[tokio::test]
async fn who_may_not_is_told_how_to_log_in() {
    let directory = temporary();
    let mut passwd = entrepot(&["passwd", "ada"]);
    passwd
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped());
    let mut child = passwd.spawn().expect("it starts");
    child
        .stdin
        .take()
        .expect("piped")
        .write_all(b"lovelace")
        .expect("written");
    let line = child.wait_with_output().expect("it ends").stdout;
    std::fs::write(directory.path().join("users"), line).expect("a password file");
    let registry = Registry::start_in(
        &directory,
        "server: { listen: '127.0.0.1:0' }\nstorage: { path: data }\nauth:\n  htpasswd: users\n  policies: [{ who: ada, may: \
         [pull, push], on: '**' }]\nrepositories: { docker: { type: local } }\n",
    );
    let file = directory.path().join("images.tar");
    std::fs::write(&file, Bad::good().tar()).expect("a file");
    let command = async |arguments: &[&str], login: &str| {
        let auth = json!({ "auths": { registry.address(): { "username": "ada", "password": login } } });
        std::fs::write(directory.path().join("config.json"), auth.to_string()).expect("a login");
        let mut command = entrepot(arguments);
        command
            .env("DOCKER_CONFIG", directory.path())
            .env_remove("ENTREPOT_TOKEN");
        command.args(["--json", "--server", &registry.url("")]);
        let output = tokio::task::spawn_blocking(move || command.output().expect("it runs"));
        output.await.expect("it ends")
    };
    let path = file.to_str().expect("text");
    let (import, export) = (["import", path], ["export", "docker/app:v1", "-o", path]);
    for arguments in [&import[..], &export] {
        let said = failed(&command(arguments, "byron").await);
        assert!(said.contains("docker login"), "{said}");
    }
    for arguments in [&import[..], &export] {
        done(&command(arguments, "lovelace").await);
    }
}

/// A layout of one image, to be made worse.
struct Bad {
    entries: Vec<(String, Vec<u8>)>,
}

fn blob(bytes: &[u8]) -> (String, Vec<u8>) {
    (format!("blobs/sha256/{}", sha256(bytes).hex()), bytes.to_vec())
}

fn listed(digest: &Digest, size: usize, media_type: &str, name: &str) -> Value {
    json!({ "mediaType": media_type, "digest": digest, "size": size, "annotations": { "org.opencontainers.image.ref.name": name } })
}

fn list(entries: &[Value]) -> (String, Vec<u8>) {
    let document = json!({ "schemaVersion": 2, "manifests": entries });
    ("index.json".to_owned(), document.to_string().into_bytes())
}

impl Bad {
    fn good() -> Self {
        let manifest = image_manifest((&sha256(b"{}"), 2), &[(&sha256(b"a layer"), 7)], "");
        let manifest = manifest.as_bytes();
        Self {
            entries: vec![
                ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
                list(&[listed(&sha256(manifest), manifest.len(), OCI_MANIFEST, "docker/app:v1")]),
                blob(manifest),
                blob(b"{}"),
                blob(b"a layer"),
            ],
        }
    }

    /// With this in the place of what had the name, or without that.
    fn with(mut self, path: &str, bytes: Option<&[u8]>) -> Self {
        match bytes {
            Some(bytes) => {
                let found = self.entries.iter_mut().find(|(found, _)| found == path);
                found.expect("it is there").1 = bytes.to_vec();
            }
            None => self.entries.retain(|(found, _)| found != path),
        }
        self
    }

    fn and(mut self, entry: (String, Vec<u8>)) -> Self {
        self.entries.push(entry);
        self
    }

    fn tar(&self) -> Vec<u8> {
        let mut tar = Vec::new();
        for (path, bytes) in &self.entries {
            tar.extend(entry(path, bytes, bytes.len() as u64, tar::EntryType::Regular));
        }
        tar.extend([0; 1024]);
        tar
    }
}

/// An entry of a tar, whatever it says of itself.
fn entry(path: &str, bytes: &[u8], size: u64, kind: tar::EntryType) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(size);
    header.set_cksum();
    let mut entry = header.as_bytes().to_vec();
    entry.extend(bytes);
    entry.resize(entry.len().next_multiple_of(512), 0);
    entry
}

#[tokio::test]
async fn what_is_no_sound_layout_is_refused_by_name_and_nothing_of_it_is_served() {
    let registry = Registry::start(LOCAL);
    let directory = temporary();
    let layer = blob(b"a layer").0;
    let index = |entries: &[Value]| list(entries).1;
    let nested = {
        let child = sha256(b"a child that is not there");
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{{"mediaType":"{OCI_MANIFEST}","digest":"{child}","size":25}}]}}"#
        );
        let bytes = text.as_bytes();
        let entries = index(&[listed(&sha256(bytes), bytes.len(), OCI_INDEX, "docker/app:v1")]);
        Bad::good().with("index.json", Some(&entries)).and(blob(bytes)).tar()
    };
    let special = |path: &str, kind| [entry(path, b"", 0, kind), Bad::good().tar()].concat();
    let nameless = |name: &str| {
        let manifest = &Bad::good().entries[2].1;
        let entries = index(&[listed(&sha256(manifest), manifest.len(), OCI_MANIFEST, name)]);
        Bad::good().with("index.json", Some(&entries)).tar()
    };
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("nothing", Vec::new(), "there is no `oci-layout` in it"),
        ("a text", b"no tar at all".repeat(100), "it is no tar that can be read"),
        (
            "compressed",
            b"\x1f\x8b\x08\x00\x00\x00\x00\x00".to_vec(),
            "`gunzip` it first",
        ),
        (
            "no mark",
            Bad::good().with("oci-layout", None).tar(),
            "there is no `oci-layout` in it",
        ),
        (
            "no list",
            Bad::good().with("index.json", None).tar(),
            "there is no `index.json` in it",
        ),
        (
            "another version",
            Bad::good()
                .with("oci-layout", Some(br#"{"imageLayoutVersion":"2.0.0"}"#))
                .tar(),
            "has version 2.0.0",
        ),
        (
            "a broken list",
            Bad::good().with("index.json", Some(b"{")).tar(),
            "`index.json` cannot be read",
        ),
        (
            "a gigantic list",
            Bad::good().with("index.json", Some(&vec![b' '; (16 << 20) + 1])).tar(),
            "are the most that is read",
        ),
        (
            "a way out",
            special("../../etc/passwd", tar::EntryType::Regular),
            "leads out of it",
        ),
        (
            "an absolute path",
            special("/etc/passwd", tar::EntryType::Regular),
            "leads out of it",
        ),
        (
            "a symbolic link",
            special(&layer, tar::EntryType::Symlink),
            "is no plain file",
        ),
        ("a hard link", special(&layer, tar::EntryType::Link), "is no plain file"),
        ("a device", special(&layer, tar::EntryType::Block), "is no plain file"),
        (
            "a sparse file",
            special(&layer, tar::EntryType::GNUSparse),
            "it is no tar that can be read",
        ),
        (
            "twice the same",
            Bad::good().and(blob(b"a layer")).tar(),
            "is in it twice",
        ),
        (
            "two lists",
            Bad::good().and(list(&[])).tar(),
            "`index.json` is in it twice",
        ),
        (
            "a size beyond the end",
            [
                Bad::good().tar()[..512 * 2].to_vec(),
                entry(&layer, b"a layer", 1 << 40, tar::EntryType::Regular),
            ]
            .concat(),
            "it is cut off",
        ),
        (
            "a name without end",
            [
                entry(
                    "././@LongLink",
                    &vec![b'a'; 1 << 20],
                    1 << 20,
                    tar::EntryType::GNULongName,
                ),
                Bad::good().tar(),
            ]
            .concat(),
            "a name of absurd length",
        ),
        (
            "wrong bytes",
            Bad::good().with(&layer, Some(b"A LAYER")).tar(),
            "has the digest",
        ),
        (
            "a wrong length",
            Bad::good().with(&layer, Some(b"a longer layer")).tar(),
            "and 7 in its manifest",
        ),
        (
            "no layer",
            Bad::good().with(&layer, None).tar(),
            "neither in the file nor on the server",
        ),
        (
            "no manifest",
            Bad::good().with(&Bad::good().entries[2].0, None).tar(),
            "is listed, and not there",
        ),
        (
            "a manifest with wrong bytes",
            Bad::good()
                .with(&Bad::good().entries[2].0, Some(br#"{"schemaVersion":2,"config":null}"#))
                .tar(),
            "sha256:",
        ),
        ("a child that is missing", nested, "docker/app:v1 is left out"),
        ("only a tag", nameless("v1"), "--into REPOSITORY/IMAGE"),
        ("no name", nameless(""), "--into REPOSITORY/IMAGE:TAG"),
        ("no name that can be", nameless("Docker/App:v1"), "--into OLD=NEW"),
        (
            "an empty list",
            Bad::good().with("index.json", Some(&index(&[]))).tar(),
            "",
        ),
    ];
    for (what, bytes, expected) in cases {
        let file = directory.path().join("bad.tar");
        std::fs::write(&file, bytes).expect("a file");
        let output = import(&registry, &file, &[]).await;
        if expected.is_empty() {
            done(&output);
        } else {
            let said = failed(&output);
            assert!(said.contains(expected), "{what}: {said}");
        }
        let tags = spoken(&registry, "docker/").answers(&["app"], &[]).await;
        assert!(tags.is_empty(), "{what}: {:?}", tags.keys());
    }
    // And the good one is good.
    let file = directory.path().join("good.tar");
    std::fs::write(&file, Bad::good().tar()).expect("a file");
    done(&import(&registry, &file, &[]).await);
    assert_eq!(spoken(&registry, "docker/").image("app", "v1").await.len(), 3);
    // What has no name gets one, and what only has a tag gets the rest.
    std::fs::write(&file, nameless("")).expect("a file");
    done(&import(&registry, &file, &["--into", "docker/other:v2"]).await);
    std::fs::write(&file, nameless("v3")).expect("a file");
    done(&import(&registry, &file, &["--into", "docker/other"]).await);
    for tag in ["v2", "v3"] {
        assert_eq!(spoken(&registry, "docker/").image("other", tag).await.len(), 3);
    }
}

#[test]
fn what_is_asked_for_in_the_wrong_place_is_told() {
    let directory = temporary();
    let configuration = directory.path().join("repositories.yml");
    std::fs::write(&configuration, LOCAL).expect("a configuration");
    let file = directory.path().join("images.tar");
    std::fs::write(&file, Bad::good().tar()).expect("a file");
    let (file, configuration) = (file.to_str().expect("text"), configuration.to_str().expect("text"));
    let here = directory.path().to_str().expect("text");
    for (arguments, expected) in [
        (&["-c", configuration, file][..], "pushed to a running server"),
        (
            &["--server", "http://127.0.0.1:1", "--into", "docker", here],
            "while no server has the store",
        ),
        (&["-c", configuration, here], "--into KEY"),
    ] {
        let output = entrepot(&[&["import"], arguments].concat()).output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && said.contains(expected), "{said}");
    }
}
