//! The tree of registry:2, read without a server: whatever is in it must be whole.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::binary::{sha256, tree};

/// Whether every file at the place of a digest has it; every link a digest; every tag a manifest in its image; and every
/// manifest of a local image its blobs. Returns how many manifests there are.
pub(crate) fn is_whole(data: &Path) -> usize {
    let registry = data.join("docker/registry/v2");
    let blobs = blobs(&registry.join("blobs"));
    let repositories = registry.join("repositories");
    let mut manifests = 0;
    for file in tree(&repositories) {
        let path = repositories.join(&file);
        let parts: Vec<&str> = file.split('/').collect();
        let Some(kind) = parts.iter().position(|part| part.starts_with('_')) else {
            continue;
        };
        if parts.last() != Some(&"link") {
            continue;
        }
        let link = fs::read_to_string(&path).expect("a link");
        let hex = link
            .strip_prefix("sha256:")
            .unwrap_or_else(|| panic!("{file}: {link:?}"));
        let image = parts[..kind]
            .iter()
            .fold(repositories.clone(), |path, part| path.join(part));
        match &parts[kind..] {
            ["_manifests", "tags", _, "current", _] => {
                let revision = image.join("_manifests/revisions/sha256").join(hex).join("link");
                assert!(revision.exists(), "{file}: a tag without its manifest {hex}");
            }
            ["_manifests", "revisions", "sha256", named, _] => {
                assert_eq!(*named, hex, "{file}");
                manifests += 1;
                let bytes = fs::read(blobs.get(hex).unwrap_or_else(|| panic!("{file}: no bytes"))).expect("bytes");
                if parts[0] == "local" {
                    has_its_blobs(&file, &bytes, &image, &blobs);
                }
            }
            ["_layers", "sha256", named, _] => {
                assert_eq!(*named, hex, "{file}");
                assert!(blobs.contains_key(hex), "{file}: a link without a blob");
            }
            _ => {}
        }
    }
    manifests
}

/// The blobs that there are, all of which have been read.
fn blobs(directory: &Path) -> HashMap<String, PathBuf> {
    let mut found = HashMap::new();
    for file in tree(directory) {
        let path = directory.join(&file);
        let hex = file.rsplit('/').nth(1).expect("a digest").to_owned();
        let digest = sha256(&fs::read(&path).expect("a blob"));
        assert_eq!(digest.hex(), hex, "{file} has other bytes");
        found.insert(hex, path);
    }
    found
}

fn has_its_blobs(file: &str, manifest: &[u8], image: &Path, blobs: &HashMap<String, PathBuf>) {
    let document: serde_json::Value = serde_json::from_slice(manifest).expect("a manifest");
    let layers = document["layers"].as_array().expect("layers");
    for descriptor in layers.iter().chain([&document["config"]]) {
        let digest = descriptor["digest"].as_str().expect("a digest");
        let hex = digest.strip_prefix("sha256:").expect("SHA-256");
        assert!(blobs.contains_key(hex), "{file}: without its blob {digest}");
        let link = image.join("_layers/sha256").join(hex).join("link");
        assert!(link.exists(), "{file}: its blob {digest} is not in the image");
    }
}
