//! Images of every kind, pushed as old clients do, and compared from one registry to another, byte for byte.

use std::collections::BTreeMap;

use entrepot::oci::Digest;
use reqwest::{Client, StatusCode};
use serde_json::Value;

use crate::binary::{OCI_INDEX, OCI_MANIFEST, client, expect, header, image_manifest, sha256};

pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const EVERY: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
                     application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json";

/// The manifest of an image of one layer.
fn image_text(content: &[u8]) -> String {
    image_manifest((&sha256(b"{}"), 2), &[(&sha256(content), content.len())], "")
}

/// A manifest about another one.
fn about(subject: &Digest) -> String {
    let subject = format!(r#","subject":{{"mediaType":"{OCI_MANIFEST}","digest":"{subject}","size":400}}"#);
    image_manifest((&sha256(b"{}"), 2), &[], &subject)
}

/// What [`Spoken::push_everything`] pushes and gives no tag.
pub(crate) fn referrer() -> (&'static str, Digest) {
    let subject = sha256(image_text(b"shared by two images").as_bytes());
    ("team/app", sha256(about(&subject).as_bytes()))
}

/// A registry that is spoken to.
pub(crate) struct Spoken {
    /// `http://127.0.0.1:5000`.
    url: String,
    /// What comes before the names of images: `docker/`, or nothing.
    prefix: String,
    client: Client,
}

/// What is in a registry: the answers to all that can be asked of it, by name and reference.
pub(crate) type Answers = BTreeMap<(String, String), (String, Vec<u8>)>;

impl Spoken {
    pub(crate) fn new(url: &str, prefix: &str) -> Self {
        Self {
            url: url.to_owned(),
            prefix: prefix.to_owned(),
            client: client(),
        }
    }

    fn path(&self, name: &str) -> String {
        format!("{}/v2/{}{name}", self.url, self.prefix)
    }

    pub(crate) async fn push_blob(&self, name: &str, bytes: &[u8]) -> Digest {
        let begun = self.client.post(format!("{}/blobs/uploads/", self.path(name)));
        let begun = expect(begun.send().await.expect("an answer"), StatusCode::ACCEPTED).await;
        let location = header(&begun, "location").to_owned();
        let location = if location.starts_with('/') {
            format!("{}{location}", self.url)
        } else {
            location
        };
        let digest = sha256(bytes);
        let and = if location.contains('?') { '&' } else { '?' };
        let put = self
            .client
            .put(format!("{location}{and}digest={digest}"))
            .body(bytes.to_vec());
        expect(put.send().await.expect("an answer"), StatusCode::CREATED).await;
        digest
    }

    pub(crate) async fn push_manifest(&self, name: &str, reference: &str, media_type: &str, text: &str) -> Digest {
        let put = self.client.put(format!("{}/manifests/{reference}", self.path(name)));
        let put = put.header("content-type", media_type).body(text.to_owned());
        expect(put.send().await.expect("an answer"), StatusCode::CREATED).await;
        sha256(text.as_bytes())
    }

    pub(crate) async fn push_image(&self, name: &str, tag: &str, content: &[u8]) -> Digest {
        self.push_blob(name, content).await;
        self.push_blob(name, b"{}").await;
        self.push_manifest(name, tag, OCI_MANIFEST, &image_text(content)).await
    }

    /// The same, again and again if what it needs is taken for garbage meanwhile, as a client would.
    pub(crate) async fn push_until_taken(&self, name: &str, tag: &str, content: &[u8]) -> Digest {
        let text = image_text(content);
        for _ in 0..100 {
            self.push_blob(name, content).await;
            self.push_blob(name, b"{}").await;
            let put = self.client.put(format!("{}/manifests/{tag}", self.path(name)));
            let put = put.header("content-type", OCI_MANIFEST).body(text.clone());
            let answer = put.send().await.expect("an answer");
            if answer.status() == StatusCode::CREATED {
                return sha256(text.as_bytes());
            }
            let refused = expect(answer, StatusCode::BAD_REQUEST)
                .await
                .text()
                .await
                .expect("text");
            assert!(refused.contains("MANIFEST_BLOB_UNKNOWN"), "{refused}");
        }
        panic!("{name}:{tag} is never taken");
    }

    /// Names that nest, an index, a signature, a referrer, a manifest of Docker's type, one that only has a digest, and one
    /// content in several images.
    pub(crate) async fn push_everything(&self) {
        self.push_image("alpine", "3.20", b"alpine").await;
        let app = self.push_image("team/app", "v1", b"shared by two images").await;
        self.push_image("team/app", "v2", b"another version").await;
        self.push_image("team/app/sub/deep_er--er", "v1", b"shared by two images")
            .await;
        let (one, two) = (
            self.push_image("team/multi", "amd64", b"for one").await,
            self.push_image("team/multi", "arm64", &vec![7; 3 << 20]).await,
        );
        let index = format!(
            r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{{"mediaType":"{OCI_MANIFEST}","digest":"{one}","size":{},"platform":{{"architecture":"amd64","os":"linux"}}}},{{"mediaType":"{OCI_MANIFEST}","digest":"{two}","size":{},"platform":{{"architecture":"arm64","os":"linux"}}}}]}}"#,
            image_text(b"for one").len(),
            image_text(&vec![7; 3 << 20]).len()
        );
        self.push_manifest("team/multi", "latest", OCI_INDEX, &index).await;
        self.push_image("team/app", &format!("sha256-{}.sig", app.hex()), b"a signature")
            .await;
        let config = self.push_blob("team/app", b"{}").await;
        let about = about(&app);
        self.push_manifest("team/app", sha256(about.as_bytes()).as_str(), OCI_MANIFEST, &about)
            .await;
        let docker = image_manifest((&config, 2), &[], "").replace(OCI_MANIFEST, DOCKER_MANIFEST);
        self.push_manifest("team/app", "docker", DOCKER_MANIFEST, &docker).await;
    }

    async fn document(&self, path: &str) -> Option<Value> {
        let response = self.client.get(path).send().await.expect("an answer");
        if response.status() == StatusCode::NOT_FOUND {
            return None;
        }
        Some(expect(response, StatusCode::OK).await.json().await.expect("JSON"))
    }

    /// The images below the prefix.
    pub(crate) async fn names(&self) -> Vec<String> {
        let catalog = self
            .document(&format!("{}/v2/_catalog?n=1000", self.url))
            .await
            .expect("a catalog");
        let names = catalog["repositories"].as_array().expect("names").iter();
        let names = names.filter_map(|name| name.as_str()?.strip_prefix(&self.prefix).map(str::to_owned));
        names.collect()
    }

    /// Everything that a tag leads to, in these images; and what is known to have nothing but a digest.
    pub(crate) async fn answers(&self, names: &[&str], untagged: &[(&str, Digest)]) -> Answers {
        let mut answers = Answers::new();
        for name in names {
            let tags = self
                .document(&format!("{}/tags/list", self.path(name)))
                .await
                .unwrap_or_default();
            let mut open: Vec<String> = tags["tags"].as_array().into_iter().flatten().map(text).collect();
            open.extend(
                untagged
                    .iter()
                    .filter(|(of, _)| of == name)
                    .map(|(_, digest)| digest.to_string()),
            );
            while let Some(reference) = open.pop() {
                let key = ((*name).to_owned(), reference.clone());
                if answers.contains_key(&key) {
                    continue;
                }
                let (media_type, bytes) = self.manifest(name, &reference).await;
                let document: Value = serde_json::from_slice(&bytes).expect("JSON");
                open.push(sha256(&bytes).to_string());
                open.extend(listed(&document["manifests"]));
                for blob in listed(&document["layers"]).chain(document["config"].get("digest").map(text)) {
                    let bytes = self.blob(name, &blob).await;
                    assert_eq!(sha256(&bytes).to_string(), blob, "{name}");
                    answers.insert(((*name).to_owned(), blob), (String::new(), bytes));
                }
                answers.insert(key, (media_type, bytes));
            }
        }
        answers
    }

    pub(crate) async fn delete(&self, name: &str, reference: &str) {
        let delete = self.client.delete(format!("{}/manifests/{reference}", self.path(name)));
        let status = delete.send().await.expect("an answer").status();
        // Somebody else may have been first.
        assert!(
            matches!(status, StatusCode::ACCEPTED | StatusCode::NOT_FOUND),
            "{status}"
        );
    }

    /// The manifest of a tag and all that it names, whole.
    pub(crate) async fn image(&self, name: &str, tag: &str) -> Vec<Vec<u8>> {
        let (_, manifest) = self.manifest(name, tag).await;
        let document: Value = serde_json::from_slice(&manifest).expect("JSON");
        let mut all = vec![manifest];
        for blob in listed(&document["layers"]).chain(document["config"].get("digest").map(text)) {
            let bytes = self.blob(name, &blob).await;
            assert_eq!(sha256(&bytes).to_string(), blob, "{name}:{tag}");
            all.push(bytes);
        }
        all
    }

    async fn manifest(&self, name: &str, reference: &str) -> (String, Vec<u8>) {
        let get = self.client.get(format!("{}/manifests/{reference}", self.path(name)));
        let response = get.header("accept", EVERY).send().await.expect("an answer");
        let response = expect(response, StatusCode::OK).await;
        let media_type = header(&response, "content-type").to_owned();
        let digest = header(&response, "docker-content-digest").to_owned();
        let bytes = response.bytes().await.expect("a whole body").to_vec();
        assert_eq!(digest, sha256(&bytes).to_string(), "{name}:{reference}");
        (media_type, bytes)
    }

    async fn blob(&self, name: &str, digest: &str) -> Vec<u8> {
        let get = self.client.get(format!("{}/blobs/{digest}", self.path(name)));
        let response = expect(get.send().await.expect("an answer"), StatusCode::OK).await;
        response.bytes().await.expect("a whole body").to_vec()
    }
}

fn text(value: &Value) -> String {
    value.as_str().expect("text").to_owned()
}

fn listed(descriptors: &Value) -> impl Iterator<Item = String> {
    descriptors
        .as_array()
        .into_iter()
        .flatten()
        .map(|descriptor| text(&descriptor["digest"]))
}
