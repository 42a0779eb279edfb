//! D3: no answer leaves before what it acknowledges would outlive a power cut, by the order of the calls alone.

use std::collections::HashMap;

use entrepot::oci::Digest;

use crate::caller::Door;
use crate::dice::{Dice, seed};
use crate::durability::Disk;
use crate::places::{Kills, Place as _, started};
use crate::raw::is_full;
use crate::strace::{Call, Moment, Strace, Trace};
use crate::workload::Crowd;
use crate::world::World;

const CALLS: &str = "trace=openat,write,pwrite64,writev,ftruncate,fsync,fdatasync,rename,link,unlink,unlinkat,rmdir,\
                     mkdir,mkdirat,sendto,sendmsg,recvfrom";

/// What goes over one connection.
#[derive(Default)]
struct Connection {
    asked: String,
}

/// What was seen of answers.
#[derive(Default)]
struct Report {
    /// Those that promise that something is durable.
    promises: usize,
    complaints: Vec<String>,
}

struct Checker<'a> {
    registry: String,
    world: &'a World,
    disk: Disk,
    connections: HashMap<String, Connection>,
    report: Report,
}

/// An answer and what it answers.
struct Acknowledged<'a> {
    method: &'a str,
    /// Without a query.
    target: &'a str,
    status: &'a str,
    digest: Option<Digest>,
}

impl Checker<'_> {
    fn check(trace: &Trace, without: Option<usize>, registry: &str, world: &World) -> Report {
        let mut checker = Checker {
            registry: registry.to_owned(),
            world,
            disk: Disk::default(),
            connections: HashMap::new(),
            report: Report::default(),
        };
        for moment in &trace.moments {
            let (Moment::Begin(index) | Moment::End(index)) = *moment;
            if without == Some(index) {
                continue;
            }
            checker.disk.follow(trace, *moment);
            let call = &trace.calls[index];
            if call.file().is_some_and(|file| file.starts_with("socket:")) {
                checker.talk(call, matches!(moment, Moment::End(_)));
            }
        }
        checker.report
    }

    /// What came counts when it is here, and what goes when it begins to.
    fn talk(&mut self, call: &Call, is_end: bool) {
        let Some(socket) = call.file() else { return };
        let text = call.texts().concat();
        let connection = self.connections.entry(socket.to_owned()).or_default();
        if call.name == "recvfrom" {
            if is_end && connection.asked.len() < 1_000 {
                connection.asked.push_str(&text);
            }
        } else if !is_end && text.starts_with("HTTP/1.1 ") {
            let asked = std::mem::take(&mut connection.asked);
            self.answered(&asked, &text);
        }
    }

    fn answered(&mut self, asked: &str, answer: &str) {
        let mut line = asked.split(' ');
        let (Some(method), Some(target)) = (line.next(), line.next()) else {
            return;
        };
        let mut headers = answer.split("\\r\\n");
        let status = headers
            .next()
            .and_then(|line| line.split(' ').nth(1))
            .unwrap_or_default();
        let digest = headers.find_map(|line| line.strip_prefix("docker-content-digest: "));
        let acknowledged = Acknowledged {
            method,
            target: target.split('?').next().unwrap_or_default(),
            status,
            digest: digest.and_then(|digest| digest.parse().ok()),
        };
        if let Some(complaints) = self.broken(&acknowledged) {
            self.report.promises += 1;
            let told = complaints
                .into_iter()
                .map(|why| format!("{method} {target} → {status}: {why}"));
            self.report.complaints.extend(told);
        }
    }

    /// What an answer promises and is not so; none if it promises nothing.
    fn broken(&self, answer: &Acknowledged) -> Option<Vec<String>> {
        let name = answer.target.strip_prefix("/v2/")?;
        let digest = answer.digest.as_ref();
        if let Some((image, _)) = name.split_once("/blobs/uploads/") {
            // That an upload has begun or goes on is no promise over a power cut.
            return (answer.status == "201").then(|| self.blob(image, digest.expect("a digest")));
        }
        let (image, reference) = name.split_once("/manifests/")?;
        match (answer.method, answer.status) {
            ("PUT", "201") => Some(self.manifest(image, reference, digest.expect("a digest"))),
            ("DELETE", "202") => {
                let link = match reference.parse::<Digest>() {
                    Ok(digest) => self.linked(image, "_manifests/revisions", &digest),
                    Err(_) => self.image(image, &format!("_manifests/tags/{reference}/current/link")),
                };
                Some(self.disk.complaint_of_presence(&link).into_iter().collect())
            }
            _ => None,
        }
    }

    fn blob(&self, image: &str, digest: &Digest) -> Vec<String> {
        let link = self.linked(image, "_layers", digest);
        let complaints = [self.bytes(digest), self.disk.complaint(&link, Some(digest.as_str()))];
        complaints.into_iter().flatten().collect()
    }

    fn manifest(&self, image: &str, reference: &str, digest: &Digest) -> Vec<String> {
        let blobs = self.world.blobs_of(digest);
        let mut complaints: Vec<String> = blobs.iter().flat_map(|blob| self.blob(image, blob)).collect();
        complaints.extend(self.bytes(digest));
        let mut links = vec![self.linked(image, "_manifests/revisions", digest)];
        if reference != digest.as_str() {
            let tag = format!("_manifests/tags/{reference}");
            links.push(self.image(image, &format!("{tag}/current/link")));
            links.push(self.linked(image, &format!("{tag}/index"), digest));
        }
        let broken = links
            .iter()
            .filter_map(|link| self.disk.complaint(link, Some(digest.as_str())));
        complaints.extend(broken);
        complaints
    }

    fn bytes(&self, digest: &Digest) -> Option<String> {
        let hex = digest.hex();
        let path = format!("{}/blobs/sha256/{}/{hex}/data", self.registry, &hex[..2]);
        self.disk.complaint(&path, None)
    }

    fn image(&self, image: &str, rest: &str) -> String {
        format!("{}/repositories/{image}/{rest}", self.registry)
    }

    fn linked(&self, image: &str, kind: &str, digest: &Digest) -> String {
        self.image(image, &format!("{kind}/sha256/{}/link", digest.hex()))
    }
}

/// Syncs without which something must be missed: of files that are moved to where they belong, and of the directories
/// that they are moved to, where nobody has synced those again.
fn needed(trace: &Trace, registry: &str) -> Vec<usize> {
    let is_sync = |call: &Call| matches!(call.name.as_str(), "fsync" | "fdatasync");
    let mut times: HashMap<&str, usize> = HashMap::new();
    for call in trace.calls.iter().filter(|call| is_sync(call)) {
        *times.entry(call.file().unwrap_or_default()).or_default() += 1;
    }
    let moved: HashMap<String, String> = trace
        .calls
        .iter()
        .filter(|call| call.name == "rename" && call.has_succeeded())
        .filter_map(|call| Some((call.texts().first()?.clone(), call.texts().get(1)?.clone())))
        .collect();
    let is_needed = |call: &Call| {
        let file = call.file().unwrap_or_default();
        let is_moved = moved.get(file).is_some_and(|to| to.starts_with(registry));
        let of_current = file.starts_with(registry) && file.ends_with("/current");
        let of_blob = file
            .strip_prefix(registry)
            .is_some_and(|file| file.split('/').count() == 5);
        times[file] == 1 && (is_moved || of_current || (of_blob && file.contains("/blobs/")))
    };
    let syncs = trace.calls.iter().enumerate().filter(|(_, call)| is_sync(call));
    syncs
        .filter(|(_, call)| is_needed(call))
        .map(|(index, _)| index)
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d03_no_answer_leaves_before_what_it_promises_is_durable() {
    let wanted = if is_full() { 10_000 } else { 1_000 };
    let mut dice = Dice::new(seed("D3"));
    let world = World::new().await;
    let place = Kills::new(&world);
    let registry = started(&place).await;
    let data = place.data(&registry);
    let options = ["-s", "500", "-e", CALLS].map(str::to_owned);
    let strace = Strace::attach(&registry, &data.with_file_name("trace"), &options);
    let crowd = Crowd {
        alone: 8,
        together: 0,
        pulling: 0,
    };
    let mut clients = world.crowd(&Door::of(&registry), &crowd, &mut dice);
    world.end_after(wanted);
    while let Some(client) = clients.join_next().await {
        client.expect("it has its answers");
    }
    registry.kill();
    let trace = strace.end();
    let tree = data.join("docker/registry/v2").display().to_string();
    let report = Checker::check(&trace, None, &tree, &world);
    let shown = report.complaints.iter().take(5).cloned().collect::<Vec<_>>().join("\n");
    assert!(
        report.complaints.is_empty(),
        "{} complaints:\n{shown}",
        report.complaints.len()
    );
    assert!(
        report.promises as u64 >= wanted,
        "only {} promises were seen",
        report.promises
    );

    // What it would say if one sync had not been made.
    let needed = needed(&trace, &tree);
    assert!(needed.len() > 100, "{} syncs", needed.len());
    for _ in 0..10 {
        let one = *dice.pick(&needed).expect("some");
        let report = Checker::check(&trace, Some(one), &tree, &world);
        assert!(!report.complaints.is_empty(), "not missed: {:?}", trace.calls[one]);
    }
    eprintln!(
        "D3: {} promises, each kept; {} calls",
        report.promises,
        trace.calls.len()
    );
}
