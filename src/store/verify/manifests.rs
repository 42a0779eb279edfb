//! What manifests say, against what is there of it.

use std::fs;

use bytes::Bytes;

use super::Keeps;
use super::defect::{Defect, Mend, Problem};
use super::images::Look;
use super::look::Said;
use crate::oci::manifest::{Contents, ManifestError};
use crate::oci::{Descriptor, Digest, Manifest};
use crate::store::disk::read_small;
use crate::store::records::Records;

/// A media type has 255 characters at most.
const LONGEST_TYPE: u64 = 1024;

/// Whether these bytes are stored, right, and a manifest that says its type itself.
pub(super) fn is_one(records: &Records, digest: &Digest) -> bool {
    let bytes = records.blobs.read_manifest(digest).ok().flatten();
    bytes.is_some_and(|bytes| Manifest::from_elsewhere(bytes, None, digest.algorithm()).is_ok())
}

/// Reads every manifest of an image; what is damaged about its bytes is told where they lie.
pub(super) fn check(look: &mut Look<'_>) {
    let mut digests: Vec<Digest> = look.revisions.keys().cloned().collect();
    digests.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
    for digest in &digests {
        if look.revisions[digest] == Said::Absent || !look.is_stored(digest) {
            continue;
        }
        if let Ok(Some(bytes)) = look.records.blobs.read_manifest(digest)
            && let Some(contents) = read(look, digest, &bytes)
        {
            look.manifests.insert(digest.clone(), contents);
        }
    }
    if look.keeps != Keeps::Local {
        return;
    }
    for digest in &digests {
        if let Some(contents) = look.manifests.get(digest).cloned() {
            needs(look, digest, &contents);
        }
    }
}

fn read(look: &mut Look<'_>, digest: &Digest, bytes: &Bytes) -> Option<Contents> {
    let note = look.records.layout.media_type(look.place, digest);
    let plain = || Manifest::from_elsewhere(bytes.clone(), None, digest.algorithm());
    let text = read_small(&note, LONGEST_TYPE).map_err(|error| error.to_string());
    let noted = match text {
        Ok(None) => None,
        Ok(Some(text)) => Some(String::from_utf8(text).map_err(|error| error.to_string())),
        Err(error) => Some(Err(error)),
    };
    let read = match noted {
        None => plain(),
        Some(noted) => {
            let read = noted.and_then(|media_type| {
                Manifest::from_store(bytes.clone(), &media_type, digest.algorithm()).map_err(|e| e.to_string())
            });
            match read {
                Ok(read) => Ok(read),
                Err(why) => {
                    let says_it = plain().is_ok();
                    let mend = if says_it {
                        Mend::Untype(digest.clone())
                    } else {
                        Mend::Leave
                    };
                    let problem = Problem::new(Defect::ManifestTypeWrong, &note, mend).because(&why);
                    look.problems.push(problem);
                    return plain().ok().map(|(_, contents)| contents);
                }
            }
        }
    };
    match read {
        Ok((_, contents)) => Some(contents),
        Err(error) => {
            let link = look.records.layout.revision(look.place, digest);
            let problem = Problem::new(kind(&error), link, Mend::Leave);
            look.problems.push(problem.because(&error));
            None
        }
    }
}

const fn kind(error: &ManifestError) -> Defect {
    match error {
        ManifestError::Ambiguous
        | ManifestError::Misspelt(..)
        | ManifestError::TypeMismatch { .. }
        | ManifestError::ShapeMismatch(_) => Defect::ManifestAmbiguous,
        ManifestError::NoType => Defect::ManifestTypeWrong,
        _ => Defect::ManifestUnreadable,
    }
}

/// What a manifest of what was pushed needs is here: without it, it would not have been taken.
fn needs(look: &mut Look<'_>, digest: &Digest, contents: &Contents) {
    let link = look.records.layout.revision(look.place, digest);
    let blobs = contents.config.iter().chain(&contents.layers);
    for blob in blobs.filter(|blob| !blob.may_be_absent()) {
        let problem = if !look.is_stored(&blob.digest) {
            let mend = if look.is_in_trash(&blob.digest) {
                Mend::PutBack(blob.digest.clone())
            } else {
                Mend::Leave
            };
            Some((Defect::ManifestLayerMissing, mend))
        } else if look.layers.get(&blob.digest).is_none_or(|said| *said == Said::Absent) {
            Some((Defect::ManifestLayerUnlinked, Mend::LinkLayer(blob.digest.clone())))
        } else {
            has_another_size(look, blob).then_some((Defect::ManifestLayerSize, Mend::Leave))
        };
        if let Some((defect, mend)) = problem {
            let problem = Problem::new(defect, &link, mend).because(&blob.digest);
            look.problems.push(problem);
        }
    }
    for child in &contents.manifests {
        if look
            .revisions
            .get(&child.digest)
            .is_none_or(|said| *said == Said::Absent)
        {
            let problem = Problem::new(Defect::ManifestChildMissing, &link, Mend::Leave).because(&child.digest);
            look.problems.push(problem);
        }
    }
}

fn has_another_size(look: &Look<'_>, blob: &Descriptor) -> bool {
    fs::metadata(look.records.layout.blob(&blob.digest)).is_ok_and(|found| found.len() != blob.size)
}
