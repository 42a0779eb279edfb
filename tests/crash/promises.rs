//! What an answer promises, and whether it held when the answer began to leave.

use std::collections::HashMap;

use entrepot::oci::Digest;

use crate::durability::Disk;
use crate::strace::{Call, Moment, Trace};
use crate::world::World;

/// The calls that are needed for that.
pub(crate) const CALLS: &str = "trace=openat,close,write,pwrite64,writev,ftruncate,fsync,fdatasync,rename,link,unlink,\
                                unlinkat,rmdir,mkdir,mkdirat,sendto,sendmsg,recvfrom";

/// What goes over one connection.
#[derive(Default)]
struct Connection {
    asked: String,
}

/// What was seen of answers.
#[derive(Default)]
pub(crate) struct Report {
    /// Those that promise that something is durable.
    pub(crate) promises: usize,
    pub(crate) complaints: Vec<String>,
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

/// What becomes of the promises in a trace. `registry` is where the tree of registry:2 lies; the call `without`, if there
/// is one, is taken not to have been made.
pub(crate) fn check(trace: &Trace, without: Option<usize>, registry: &str, world: &World) -> Report {
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

impl Checker<'_> {
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
                let Ok(digest) = reference.parse::<Digest>() else {
                    let link = self.image(image, &format!("_manifests/tags/{reference}/current/link"));
                    return Some(self.disk.complaint_of_presence(&link).into_iter().collect());
                };
                let link = self.linked(image, "_manifests/revisions", &digest);
                let tags = self.image(image, "_manifests/tags/");
                let tagged = self.disk.complaint_of_text(&tags, "current", digest.as_str());
                Some(
                    self.disk
                        .complaint_of_presence(&link)
                        .into_iter()
                        .chain(tagged)
                        .collect(),
                )
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
