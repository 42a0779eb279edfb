//! Images in a file: OCI layouts, in a tar or a directory, with signatures and whatever else is about them.
//!
//! `export` asks a running server what there is (`gather`) and writes it down (`write`); `import` reads what somebody has
//! written (`read`, which believes none of it), decides what goes where (`plan`), and pushes it (`push`). Both speak the
//! distribution API, as any client does (`registry`): whoever may pull can export, whoever may push can import.

pub(super) mod gather;
pub(super) mod names;
pub(super) mod plan;
pub(super) mod progress;
pub(super) mod push;
pub(super) mod read;
pub(super) mod registry;
pub(super) mod write;

/// What says that a directory or a tar is a layout.
const MARK: &str = "oci-layout";
/// The list of what is in it.
const INDEX: &str = "index.json";
/// What an entry is called: of the specification, and by this name also containerd's, podman's and skopeo's.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// What an image is called with its registry in front: for containerd and docker.
const IMAGE_NAME: &str = "io.containerd.image.name";
/// The most bytes of a manifest or of the list.
const LONGEST: u64 = 16 << 20;

/// Where a blob lies in a layout.
fn path_of(digest: &crate::oci::Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}
