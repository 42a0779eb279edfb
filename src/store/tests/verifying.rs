//! Row D8: every kind of damage is found by its name, mended where it can be, and nothing else is touched.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::*;
use crate::oci::manifest::Contents;
use crate::oci::{Manifest, Tag};
use Defect as D;

const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

pub(super) fn key(text: &str) -> RepositoryKey {
    text.parse().unwrap()
}

pub(super) fn what(repair: Repair) -> Verifying {
    Verifying {
        repositories: HashMap::from([(key("local"), Keeps::Local), (key("hub"), Keeps::Remote)]),
        repair,
        rate: None,
    }
}

pub(super) fn manifest_of(config: &Digest, layers: &[(&Digest, u64)], media_type: bool) -> (Manifest, Contents) {
    let blob = |digest: &Digest, size: u64| {
        format!(r#"{{"mediaType":"application/octet-stream","digest":"{digest}","size":{size}}}"#)
    };
    let layers: Vec<String> = layers.iter().map(|(digest, size)| blob(digest, *size)).collect();
    let typed = if media_type {
        format!(r#""mediaType":"{IMAGE}","#)
    } else {
        String::new()
    };
    let text = format!(
        r#"{{"schemaVersion":2,{typed}"config":{},"layers":[{}]}}"#,
        blob(config, 6),
        layers.join(",")
    );
    Manifest::from_push(text.into_bytes().into(), Some(IMAGE), Algorithm::Sha256).unwrap()
}

fn index_of(children: &[&Manifest]) -> (Manifest, Contents) {
    let children: Vec<String> = children
        .iter()
        .map(|child| {
            let (digest, size) = (&child.digest, child.size());
            format!(r#"{{"mediaType":"{IMAGE}","digest":"{digest}","size":{size}}}"#)
        })
        .collect();
    let text = format!(
        r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{}]}}"#,
        children.join(",")
    );
    Manifest::from_push(text.into_bytes().into(), Some(INDEX), Algorithm::Sha256).unwrap()
}

/// A sound store, and what is in it.
struct Tree {
    root: tempfile::TempDir,
    layout: Layout,
    app: Place,
    hub: Place,
    layer: Digest,
    one: Digest,
    two: Digest,
    cached_layer: Digest,
    cached: Digest,
}

pub(super) async fn blob_in(store: &Store, image: &Image, bytes: &[u8]) -> Digest {
    let digest = publish(store, bytes).await;
    image.link_blob(&digest).await.unwrap();
    digest
}

pub(super) async fn put(image: &Image, (manifest, contents): &(Manifest, Contents), tag: &str) -> Digest {
    let tags: Vec<Tag> = vec![tag.parse().unwrap()];
    let put = image.put_manifest(manifest, contents, &tags, Present::default());
    put.await.unwrap();
    manifest.digest.clone()
}

impl Tree {
    async fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let store = open(&root).await;
        let app = store.image(&key("local"), &"team/app".parse().unwrap());
        let hub = store.image(&key("hub"), &"library/alpine".parse().unwrap());
        let config = blob_in(&store, &app, b"config").await;
        let layer = blob_in(&store, &app, b"the layer").await;
        let other = blob_in(&store, &app, b"another").await;
        let one = manifest_of(&config, &[(&layer, 9)], true);
        let two = manifest_of(&config, &[(&other, 7)], false);
        put(&app, &one, "v1").await;
        put(&app, &two, "v2").await;
        put(&app, &index_of(&[&one.0, &two.0]), "both").await;
        let cached_config = blob_in(&store, &hub, b"CONFIG").await;
        let cached_layer = blob_in(&store, &hub, b"fetched").await;
        let cached = manifest_of(&cached_config, &[(&cached_layer, 7)], true);
        put(&hub, &cached, "latest").await;
        store.close().await;
        Self {
            layout: Layout::new(root.path()),
            app: (*app.place).clone(),
            hub: (*hub.place).clone(),
            layer,
            one: one.0.digest,
            two: two.0.digest,
            cached_layer,
            cached: cached.0.digest,
            root,
        }
    }

    /// Everything but what says which process it was.
    fn content(&self) -> BTreeMap<String, (u32, Vec<u8>)> {
        let mut content = BTreeMap::new();
        let mut open = vec![self.root.path().to_owned()];
        while let Some(path) = open.pop() {
            let name = path.strip_prefix(self.root.path()).unwrap();
            let name = name.to_str().unwrap().to_owned();
            let passing = ["index", "lock", "reclaim.json", "docker/registry/v2/entrepot-session"];
            if passing.iter().any(|passing| name.starts_with(passing)) {
                continue;
            }
            let metadata = path.symlink_metadata().unwrap();
            if metadata.is_dir() {
                open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            } else {
                let bytes = fs::read(&path).unwrap_or_default();
                content.insert(name, (metadata.permissions().mode(), bytes));
            }
        }
        content
    }

    async fn examine(&self) -> Verified {
        let metrics = Arc::new(Metrics::new().unwrap());
        Store::examine(&options(&self.root), what(Repair::Nothing), metrics)
            .await
            .unwrap()
    }

    async fn repair(&self) -> Verified {
        let store = open(&self.root).await;
        let done = store.verify(what(Repair::All)).await.unwrap();
        store.close().await;
        done
    }

    fn tag(&self, tag: &str) -> PathBuf {
        self.layout.tag(&self.app, &tag.parse().unwrap())
    }

    fn link(&self) -> PathBuf {
        self.layout.layer(&self.app, &self.layer)
    }

    fn relative(&self, path: &Path) -> String {
        path.strip_prefix(self.root.path())
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned()
    }
}

fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    bytes[3] ^= 1;
    fs::write(path, bytes).unwrap();
}

/// Stores bytes without looking at them, with a link in the image, as an older version or a copy could have.
fn smuggle(tree: &Tree, bytes: &[u8]) -> Digest {
    let digest = Digest::of(Algorithm::Sha256, bytes);
    for (path, contents) in [
        (tree.layout.blob(&digest), bytes),
        (tree.layout.revision(&tree.app, &digest), digest.as_str().as_bytes()),
    ] {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, contents).unwrap();
    }
    digest
}

fn replace(path: &Path, by: &str) {
    fs::write(path, by).unwrap();
}

fn remove(path: PathBuf) {
    fs::remove_file(path).unwrap();
}

fn in_place_of(path: &Path) {
    fs::remove_file(path).unwrap();
    fs::create_dir(path).unwrap();
    fs::write(path.join("file"), "inside").unwrap();
}

/// Damage: what it is called, how it is done, what is found, what is left of it after it was mended.
type Case = (&'static str, fn(&Tree) -> Vec<PathBuf>, &'static [D], &'static [D]);

/// What happens to bytes that were pushed: the damage returns the paths that may be touched.
const CONTENT: &[Case] = &[
    (
        "a bit of a cached layer",
        |t| {
            flip(&t.layout.blob(&t.cached_layer));
            vec![t.layout.blob(&t.cached_layer), t.layout.layers(&t.hub)]
        },
        &[D::BlobWrongBytes],
        &[],
    ),
    (
        "a bit of a pushed layer",
        |t| {
            flip(&t.layout.blob(&t.layer));
            vec![t.layout.blob(&t.layer)]
        },
        &[D::BlobWrongBytes],
        &[D::LayerDangling, D::ManifestLayerMissing],
    ),
    (
        "a bit of a cached manifest",
        |t| {
            flip(&t.layout.blob(&t.cached));
            vec![t.layout.blob(&t.cached), t.layout.image(&t.hub)]
        },
        &[D::BlobWrongBytes],
        &[],
    ),
    (
        "a short layer",
        |t| {
            replace(&t.layout.blob(&t.cached_layer), "fet");
            vec![t.layout.blob(&t.cached_layer), t.layout.layers(&t.hub)]
        },
        &[D::BlobTruncated],
        &[],
    ),
    (
        "a long layer",
        |t| {
            replace(&t.layout.blob(&t.cached_layer), "fetched too much");
            vec![t.layout.blob(&t.cached_layer), t.layout.layers(&t.hub)]
        },
        &[D::BlobLonger],
        &[],
    ),
    (
        "an empty layer",
        |t| {
            replace(&t.layout.blob(&t.cached_layer), "");
            vec![t.layout.blob(&t.cached_layer), t.layout.layers(&t.hub)]
        },
        &[D::BlobEmpty, D::LayerDangling],
        &[],
    ),
    (
        "a directory for a layer",
        |t| {
            in_place_of(&t.layout.blob(&t.cached_layer));
            vec![t.layout.blob(&t.cached_layer), t.layout.layers(&t.hub)]
        },
        &[D::BlobNotAFile, D::LayerDangling],
        &[],
    ),
    (
        "a layer in a wrong place",
        |t| {
            let right = t.layout.blob(&t.layer);
            let wrong = t.layout.blobs().join("sha256/zz").join(t.layer.hex());
            fs::create_dir_all(wrong.parent().unwrap()).unwrap();
            fs::rename(right.parent().unwrap(), &wrong).unwrap();
            vec![right, wrong]
        },
        &[D::BlobMisplaced, D::LayerDangling, D::ManifestLayerMissing],
        &[],
    ),
    (
        "a file among blobs",
        |t| {
            let path = t.layout.blobs().join("sha256/notes.txt");
            replace(&path, "mine");
            vec![path]
        },
        &[D::ForeignFile],
        &[],
    ),
    (
        "a name that is no digest",
        |t| {
            let path = t.layout.blobs().join("sha256/ab/abcd");
            fs::create_dir_all(&path).unwrap();
            replace(&path.join("data"), "mine");
            vec![path]
        },
        &[D::ForeignFile],
        &[],
    ),
    (
        "another file beside the bytes",
        |t| {
            let path = t.layout.blob(&t.layer).with_file_name("data.bak");
            replace(&path, "mine");
            vec![path]
        },
        &[D::ForeignFile],
        &[],
    ),
    (
        "a pushed layer is gone",
        |t| {
            remove(t.layout.blob(&t.layer));
            vec![]
        },
        &[D::LayerDangling, D::ManifestLayerMissing],
        &[D::LayerDangling, D::ManifestLayerMissing],
    ),
    (
        "a pushed layer that nobody needs is gone",
        |t| {
            let digest = Digest::of(Algorithm::Sha256, b"nobody's");
            let link = t.layout.layer(&t.app, &digest);
            fs::create_dir_all(link.parent().unwrap()).unwrap();
            replace(&link, digest.as_str());
            vec![link]
        },
        &[D::LayerDangling],
        &[],
    ),
    (
        "a cached layer is gone",
        |t| {
            remove(t.layout.blob(&t.cached_layer));
            vec![t.layout.layers(&t.hub)]
        },
        &[D::LayerDangling],
        &[],
    ),
    (
        "a pushed manifest is gone",
        |t| {
            remove(t.layout.blob(&t.one));
            vec![]
        },
        &[D::RevisionDangling],
        &[D::RevisionDangling],
    ),
    (
        "a cached manifest is gone",
        |t| {
            remove(t.layout.blob(&t.cached));
            vec![t.layout.image(&t.hub)]
        },
        &[D::RevisionDangling],
        &[],
    ),
    (
        "a layer is only in the trash",
        |t| {
            let name = t.layer.as_str().replacen(':', "-", 1);
            fs::rename(t.layout.blob(&t.layer), t.layout.trash().join(&name)).unwrap();
            vec![t.layout.blob(&t.layer), t.layout.trash()]
        },
        &[D::LayerDangling, D::ManifestLayerMissing],
        &[],
    ),
    (
        "other bytes in the trash",
        |t| {
            let path = t.layout.trash().join(format!("sha256-{}", t.layer.hex()));
            replace(&path, "no");
            vec![path]
        },
        &[D::TrashWrongBytes],
        &[],
    ),
    (
        "a note of no images",
        |t| {
            let path = t.layout.trash().join(format!("sha256-{}.images", t.layer.hex()));
            replace(&path, "\u{1}\n");
            vec![path]
        },
        &[D::TrashNoteGarbage],
        &[],
    ),
    (
        "a file in the trash",
        |t| {
            let path = t.layout.trash().join("paper");
            replace(&path, "no");
            vec![path]
        },
        &[D::ForeignFile],
        &[],
    ),
];

const RECORDS: &[Case] = &[
    (
        "an empty link",
        |t| {
            replace(&t.link(), "");
            vec![t.link()]
        },
        &[D::LinkEmpty],
        &[],
    ),
    (
        "a link of garbage",
        |t| {
            replace(&t.layout.revision(&t.app, &t.one), "sha256:zz");
            vec![t.layout.revision(&t.app, &t.one)]
        },
        &[D::LinkGarbage],
        &[],
    ),
    (
        "a link to something else",
        |t| {
            replace(&t.link(), t.one.as_str());
            vec![t.link()]
        },
        &[D::LinkOtherDigest],
        &[],
    ),
    (
        "a directory for a link",
        |t| {
            in_place_of(&t.link());
            vec![t.link()]
        },
        &[D::LinkNotAFile],
        &[],
    ),
    (
        "a symbolic link for a link",
        |t| {
            let elsewhere = t.root.path().join("elsewhere");
            fs::rename(t.link(), &elsewhere).unwrap();
            std::os::unix::fs::symlink(elsewhere, t.link()).unwrap();
            vec![]
        },
        &[D::SymbolicLink],
        &[D::SymbolicLink],
    ),
    (
        "a link that may not be read",
        |t| {
            fs::set_permissions(t.link(), fs::Permissions::from_mode(0o000)).unwrap();
            vec![t.link()]
        },
        &[D::Permissions],
        &[],
    ),
    (
        "a file beside a link",
        |t| {
            let path = t.link().with_file_name("x");
            replace(&path, "mine");
            vec![path]
        },
        &[D::ForeignFile],
        &[],
    ),
    (
        "a link below no digest",
        |t| {
            let path = t.layout.layers(&t.app).join("sha256/ABC");
            fs::create_dir(&path).unwrap();
            replace(&path.join("link"), "x");
            vec![path]
        },
        &[D::ForeignFile],
        &[],
    ),
    (
        "an empty tag",
        |t| {
            replace(&t.tag("v1").join("current/link"), "");
            vec![t.tag("v1")]
        },
        &[D::TagEmpty],
        &[],
    ),
    (
        "a tag of garbage, and no history",
        |t| {
            replace(&t.tag("v1").join("current/link"), "v1");
            remove(t.tag("v1").join("history"));
            vec![t.tag("v1")]
        },
        &[D::TagGarbage],
        &[],
    ),
    (
        "a tag that means nothing here",
        |t| {
            let nothing = Digest::of(Algorithm::Sha256, b"nothing");
            let note = t.layout.meaning(&t.app, &"v1".parse().unwrap(), &nothing);
            fs::create_dir_all(note.parent().unwrap()).unwrap();
            replace(&note, nothing.as_str());
            replace(&t.tag("v1").join("current/link"), nothing.as_str());
            vec![]
        },
        &[D::TagDangling],
        &[D::TagDangling],
    ),
    (
        "a tag whose manifest lost its link",
        |t| {
            remove(t.layout.revision(&t.app, &t.one));
            vec![t.layout.revision(&t.app, &t.one)]
        },
        &[D::TagDangling, D::ManifestChildMissing],
        &[],
    ),
    (
        "a tag that says nothing",
        |t| {
            remove(t.tag("v1").join("current/link"));
            vec![t.tag("v1")]
        },
        &[D::TagLeftOver],
        &[],
    ),
    (
        "a tag of no name",
        |t| {
            let path = t.tag("v1").with_file_name("-bad-");
            fs::create_dir(&path).unwrap();
            replace(&path.join("x"), "x");
            vec![path]
        },
        &[D::TagNoName],
        &[],
    ),
    (
        "a meaning that is not noted",
        |t| {
            let note = t.layout.meaning(&t.app, &"v1".parse().unwrap(), &t.one);
            remove(note);
            vec![t.tag("v1").join("index")]
        },
        &[D::TagMeaningMissing],
        &[],
    ),
    (
        "a history of garbage",
        |t| {
            replace(&t.tag("v1").join("history"), "{");
            vec![t.tag("v1").join("history")]
        },
        &[D::TagHistoryGarbage],
        &[],
    ),
    (
        "a type that does not fit",
        |t| {
            let note = t.layout.media_type(&t.app, &t.one);
            replace(&note, INDEX);
            vec![note]
        },
        &[D::ManifestTypeWrong],
        &[],
    ),
    (
        "a manifest that is none",
        |t| {
            smuggle(t, b"no manifest");
            vec![]
        },
        &[D::ManifestUnreadable],
        &[D::ManifestUnreadable],
    ),
    (
        "an ambiguous manifest",
        |t| {
            smuggle(t, br#"{"schemaVersion":2,"manifests":[],"layers":[]}"#);
            vec![]
        },
        &[D::ManifestAmbiguous],
        &[D::ManifestAmbiguous],
    ),
    (
        "a layer without its link",
        |t| {
            remove(t.link());
            vec![t.link()]
        },
        &[D::ManifestLayerUnlinked],
        &[],
    ),
    (
        "a layer of another size",
        |t| {
            let size = manifest_of(&Digest::of(Algorithm::Sha256, b"config"), &[(&t.layer, 10)], true);
            smuggle(t, &size.0.bytes);
            vec![]
        },
        &[D::ManifestLayerSize],
        &[D::ManifestLayerSize],
    ),
    (
        "an index without a child",
        |t| {
            fs::remove_dir_all(t.tag("v2")).unwrap();
            fs::remove_dir_all(t.layout.revision(&t.app, &t.two).parent().unwrap()).unwrap();
            vec![]
        },
        &[D::ManifestChildMissing],
        &[D::ManifestChildMissing],
    ),
    (
        "something in the spool",
        |t| {
            let path = t.layout.spool().join("77");
            replace(&path, "x");
            vec![path]
        },
        &[D::SpoolLeftOver],
        &[],
    ),
    (
        "an upload without its note",
        |t| {
            let path = t.layout.uploads().join("0b6c7be2-7f4e-4b0e-9c43-2f9f8f4f9b11");
            fs::create_dir(&path).unwrap();
            replace(&path.join("data"), "x");
            vec![path]
        },
        &[D::UploadLeftOver],
        &[],
    ),
    (
        "an image whose name is none",
        |t| {
            let path = t.layout.repositories().join("local/UPPER/_layers/sha256");
            fs::create_dir_all(&path).unwrap();
            vec![path]
        },
        &[D::NameUnreachable],
        &[],
    ),
];

fn defects(done: &Verified, outcomes: &[Outcome]) -> BTreeSet<D> {
    let findings = done.findings.iter();
    let findings = findings.filter(|finding| outcomes.contains(&finding.outcome));
    findings.map(|finding| finding.defect).collect()
}

async fn check((name, damage, found, left): &Case) {
    let tree = Tree::new().await;
    let touched: Vec<String> = damage(&tree).iter().map(|path| tree.relative(path)).collect();
    let before = tree.content();
    let examined = tree.examine().await;
    assert_eq!(tree.content(), before, "{name}: looking changes nothing");
    let expected: BTreeSet<D> = found.iter().copied().collect();
    assert_eq!(
        defects(&examined, &[Outcome::Found]),
        expected,
        "{name}: {:#?}",
        examined.findings
    );

    let first = tree.repair().await;
    let expected: BTreeSet<D> = left.iter().copied().collect();
    let remaining = defects(&first, &[Outcome::Left]);
    let remaining: BTreeSet<D> = remaining.into_iter().filter(|defect| !defect.is_notice()).collect();
    assert_eq!(remaining, expected, "{name}: {:#?}", first.findings);
    assert_eq!(first.problems == 0, left.is_empty(), "{name}");
    let after = tree.content();
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    for path in names.into_iter().filter(|path| before.get(*path) != after.get(*path)) {
        let may_change = path.starts_with("quarantine/") || touched.iter().any(|touched| path.starts_with(touched));
        assert!(may_change, "{name}: {path} was touched");
    }
    // Whatever was in a file is in that file, or put aside: but for what a link or a note said.
    for (path, (_, bytes)) in before
        .iter()
        .filter(|(path, _)| path.ends_with("/data") && path.contains("/blobs/"))
    {
        assert!(
            after.values().any(|(_, kept)| kept == bytes),
            "{name}: the bytes of {path} are lost"
        );
    }

    let second = tree.repair().await;
    assert_eq!(tree.content(), after, "{name}: the second time changes nothing");
    assert_eq!((second.mended, second.problems), (0, first.problems), "{name}");
}

#[tokio::test]
async fn d08_every_kind_of_damaged_content_is_found_and_mended() {
    for case in CONTENT {
        check(case).await;
    }
}

#[tokio::test]
async fn d08_every_kind_of_damaged_record_is_found_and_mended() {
    for case in RECORDS {
        check(case).await;
    }
    let found: BTreeSet<D> = CONTENT.iter().chain(RECORDS).flat_map(|case| case.2).copied().collect();
    assert!(
        found.len() >= 25 && CONTENT.len() + RECORDS.len() >= 40,
        "{}",
        found.len()
    );
}

#[tokio::test]
async fn d08_in_a_sound_store_nothing_is_found() {
    let tree = Tree::new().await;
    let examined = tree.examine().await;
    assert_eq!(examined.findings, []);
    // Six blobs and four manifests; eight links and four tags with what they have meant.
    assert_eq!((examined.blobs, examined.images), (9, 2));
    let before = tree.content();
    let repaired = tree.repair().await;
    assert_eq!((repaired.findings.len(), repaired.bytes), (0, examined.bytes));
    assert_eq!(tree.content(), before);
}

/// What an upstream has may be longer than what may be pushed.
#[tokio::test]
async fn a_long_list_without_a_type_of_its_own_is_read_as_what_it_came_as() {
    const LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    let tree = Tree::new().await;
    let child = format!(r#"{{"mediaType":"{IMAGE}","digest":"{}","size":1}}"#, tree.cached);
    let text = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, vec![child; 1001].join(","));
    let long = Manifest::from_elsewhere(text.into_bytes().into(), Some(LIST), Algorithm::Sha256).unwrap();
    let name = "library/alpine".parse().unwrap();
    let store = open(&tree.root).await;
    let digest = put(&store.image(&key("hub"), &name), &long, "long").await;
    store.close().await;
    drop(store);
    let store = open(&tree.root).await;
    let read = store.image(&key("hub"), &name).manifest(&digest).await;
    assert_eq!(read.unwrap(), Some(long.0));
    store.close().await;
    drop(store);
    let examined = tree.examine().await;
    let wrong = |found: &&_| {
        matches!(
            found,
            Finding {
                defect: D::ManifestTypeWrong,
                ..
            }
        )
    };
    assert_eq!(examined.findings.iter().find(wrong), None);
}
