use proptest::prelude::*;

use super::super::names::Placing;
use super::super::plan::Plan;
use super::*;

fn sha256(bytes: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, bytes)
}

fn descriptor(bytes: &[u8], media_type: &str, more: &str) -> String {
    let (digest, size) = (sha256(bytes), bytes.len());
    format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{size}{more}}}"#)
}

/// A layout with an index, an image and something about it.
fn good() -> Vec<u8> {
    let config = descriptor(b"{}", "application/vnd.oci.image.config.v1+json", "");
    let image = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{config}]}}"#).into_bytes();
    let listed = descriptor(&image, media_type::OCI_MANIFEST, "");
    let index = format!(r#"{{"schemaVersion":2,"manifests":[{listed}]}}"#).into_bytes();
    let subject = descriptor(&index, media_type::OCI_INDEX, "");
    let about = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[],"subject":{subject}}}"#).into_bytes();
    let name = r#","annotations":{"org.opencontainers.image.ref.name":"docker/app:v1"}"#;
    let entries = [
        descriptor(&index, media_type::OCI_INDEX, name),
        descriptor(&about, media_type::OCI_MANIFEST, ""),
    ];
    let list = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(",")).into_bytes();
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |path: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        tar.append_data(&mut header, path, bytes).expect("appended");
    };
    add(MARK, br#"{"imageLayoutVersion":"1.0.0"}"#);
    add(INDEX, &list);
    for blob in [&index, &image, &about, &b"{}".to_vec()] {
        add(&path_of(&sha256(blob)), blob);
    }
    tar.into_inner().expect("a tar")
}

fn read(bytes: &[u8], into: &[Placing]) -> anyhow::Result<Plan> {
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), bytes)?;
    Plan::of(&Layout::open(file.path())?, into)
}

#[test]
fn a_layout_is_planned_from_the_leaves_up() {
    let plan = read(&good(), &[]).expect("a plan");
    assert_eq!(plan.problems, [""; 0]);
    let (name, image) = plan.images.first_key_value().expect("an image");
    assert_eq!((plan.images.len(), name.as_str()), (1, "docker/app"));
    let lengths: Vec<usize> = image.units.iter().map(|unit| unit.manifests.len()).collect();
    // The index with its image, and what is about it.
    assert_eq!(lengths, [2, 1]);
    assert!(image.units[0].tag.is_some() && image.units[1].tag.is_none());
    assert_eq!(plan.size(), 2);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Whatever has become of a file, it is read or refused, and nothing else.
    #[test]
    fn no_file_is_too_broken_to_be_refused(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(),
        is_cut in any::<bool>(),
        copied in prop::option::of((any::<prop::sample::Index>(), any::<prop::sample::Index>())),
    ) {
        let mut bytes = good();
        let blocks = bytes.len() / 512;
        if let Some((from, to)) = copied {
            let (from, to) = (from.index(blocks) * 512, to.index(blocks) * 512);
            bytes.copy_within(from..from + 512, to);
        }
        for (place, value) in changes {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        if is_cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        for into in [&[][..], &[Placing::Under("local".to_owned())]] {
            if let Err(error) = read(&bytes, into) {
                let said = format!("{error:#}");
                prop_assert!(!said.is_empty() && !said.chars().any(|c| c.is_control() && c != '\n'), "{said:?}");
            }
        }
    }
}
