//! The targets by name, and what each asserts.

use std::sync::OnceLock;

use bytes::Bytes;
use entrepot::config::Network;
use entrepot::http::origin::{Proxies, forwarded};
use entrepot::oci::manifest::Manifest;
use entrepot::oci::operation::{Operation, Request, UploadId};
use entrepot::oci::range::{Ranged, content_range, ranged};
use entrepot::oci::{Algorithm, Digest, ImageName, MediaType, Pattern, Platform, Reference, RepositoryKey, Tag};
use entrepot::{access, http as door, store, upstream};
use http::{HeaderMap, HeaderValue};

use crate::documents;

/// Every target.
pub const ALL: &[(&str, fn(&[u8]))] = &[
    ("authorization", door::fuzzing::authorization),
    ("challenge", challenge),
    ("claims", access::fuzzing::claims),
    ("configuration", documents::configuration),
    ("content_range", content_ranges),
    ("digest", digest),
    ("directory", directory_user),
    ("forwarded", forwarding),
    ("htpasswd", documents::htpasswd),
    ("link", link),
    ("manifest", manifest),
    ("media_type", media_type),
    ("name", name),
    ("patience", upstream::fuzzing::patience),
    ("pattern", pattern),
    ("profiles", profiles),
    ("range", range),
    ("records", records),
    ("reference", reference),
    ("robots", documents::robots),
    ("role", upstream::fuzzing::role),
    ("route", route),
    ("tag", tag),
    ("token_answer", upstream::fuzzing::token),
    ("upload", store::fuzzing::upload),
];

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

/// What a name on the disk may consist of.
fn assert_harmless(text: &str) {
    assert!(!text.is_empty() && text.len() <= 512, "{text:?}");
    assert!(
        text.bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-/:+=".contains(&byte)),
        "{text:?}"
    );
    assert!(
        text.split('/')
            .all(|part| !part.is_empty() && part != "." && part != ".."),
        "{text:?}"
    );
}

fn name(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    if let Ok(name) = text.parse::<ImageName>() {
        assert_eq!(name.as_str(), text);
        assert_harmless(text);
        assert!(text.len() <= 255 && !text.contains(':'));
        assert_eq!(name.components().collect::<Vec<_>>().join("/"), text);
        if let Some((first, rest)) = name.split_first() {
            assert_eq!(format!("{first}/{rest}"), text);
            assert_eq!(rest.under(first).as_ref().map(ImageName::as_str), Ok(text));
        }
    }
    if let Ok(key) = text.parse::<RepositoryKey>() {
        assert_eq!(key.as_str(), text);
        assert_harmless(text);
        assert!(!text.contains('/') && text != "v2");
    }
}

fn tag(bytes: &[u8]) {
    if let Some(Ok(tag)) = text(bytes).map(str::parse::<Tag>) {
        assert_eq!(tag.as_str().as_bytes(), bytes);
        assert_harmless(tag.as_str());
        assert!(bytes.len() <= 128 && bytes[0] != b'.' && bytes[0] != b'-' && !bytes.contains(&b'/'));
    }
}

fn profiles(bytes: &[u8]) {
    if let Some(text) = text(bytes) {
        upstream::fuzzing::profiles(text);
    }
}

fn digest(bytes: &[u8]) {
    if let Some(Ok(digest)) = text(bytes).map(str::parse::<Digest>) {
        assert_eq!(digest.as_str().as_bytes(), bytes, "a digest has one spelling");
        assert_harmless(digest.as_str());
        assert!(matches!(digest.hex().len(), 64 | 128));
    }
    let made = Digest::of(Algorithm::Sha256, bytes);
    assert_eq!(made.as_str().parse(), Ok(made.clone()));
}

fn reference(bytes: &[u8]) {
    if let Some(Ok(reference)) = text(bytes).map(str::parse::<Reference>) {
        assert_eq!(reference.to_string().as_bytes(), bytes);
        assert_harmless(&reference.to_string());
        assert_eq!(matches!(reference, Reference::Digest(_)), bytes.contains(&b':'));
    }
}

/// A length, and a `Range` against it.
fn range(bytes: &[u8]) {
    let Some((length, header)) = bytes.split_first_chunk::<8>() else {
        return;
    };
    let length = u64::from_be_bytes(*length);
    let parts = match ranged(text(header), length) {
        Ranged::Part(part) => vec![part],
        Ranged::Parts(parts) => parts,
        Ranged::Whole | Ranged::Outside => return,
    };
    assert!(parts.iter().all(|part| part.start <= part.end && part.end < length));
    assert!(parts.is_sorted_by(|part, next| part.end < next.start));
}

fn content_ranges(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    assert!(content_range(text).is_none_or(|(start, end)| start <= end));
    upstream::fuzzing::sent(text);
}

fn challenge(bytes: &[u8]) {
    upstream::fuzzing::challenge(bytes);
}

fn link(bytes: &[u8]) {
    if let Some(text) = text(bytes) {
        upstream::fuzzing::link(text);
    }
}

/// A type on the first line, a document after it.
fn manifest(bytes: &[u8]) {
    let (header, document) = match bytes.iter().position(|byte| *byte == b'\n') {
        Some(end) => (text(&bytes[..end]), &bytes[end + 1..]),
        None => (None, bytes),
    };
    let document = Bytes::copy_from_slice(document);
    let pushed = Manifest::from_push(document.clone(), header, Algorithm::Sha256);
    if let Ok((manifest, contents)) = &pushed {
        assert_eq!(manifest.bytes, document);
        assert_eq!(manifest.digest, Digest::of(Algorithm::Sha256, &document));
        assert!(contents.manifests.is_empty() || contents.config.is_none() && contents.layers.is_empty());
        assert_eq!(
            manifest.contents().as_ref(),
            Ok(contents),
            "read again, it says the same"
        );
        let referrer = manifest.as_referrer(contents);
        let written = serde_json::to_vec(&referrer).expect("a descriptor can be written");
        assert!(serde_json::from_slice::<entrepot::oci::Descriptor>(&written).is_ok());
        let again = Manifest::from_push(document.clone(), Some(manifest.media_type.as_str()), Algorithm::Sha256);
        assert_eq!(
            again.as_ref().map(|(manifest, _)| manifest),
            Ok(manifest),
            "its type is its type"
        );
    }
    if let Ok((manifest, _)) = Manifest::from_elsewhere(document.clone(), header, Algorithm::Sha512) {
        assert_eq!(manifest.digest, Digest::of(Algorithm::Sha512, &document));
    }
}

fn media_type(bytes: &[u8]) {
    if let Some(found) = text(bytes).and_then(MediaType::parse) {
        assert!(HeaderValue::from_str(found.as_str()).is_ok(), "it can be sent");
        assert_eq!(MediaType::parse(found.as_str()).as_ref(), Some(&found));
    }
}

fn pattern(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    let (written, name) = text.split_once('\n').unwrap_or((text, "library/alpine"));
    if let Ok(pattern) = written.parse::<Pattern>() {
        let _ = pattern.matches(name);
        assert_eq!(pattern.as_str(), written);
    }
    if let Ok(platform) = written.parse::<Platform>() {
        assert_eq!(platform.to_string(), written);
    }
}

/// A method, a path and a query, line by line.
fn route(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    let mut lines = text.splitn(3, '\n');
    let (method, path, query) = (lines.next().unwrap_or(""), lines.next().unwrap_or(""), lines.next());
    let Ok(request) = Request::parse(method, path, query) else {
        return;
    };
    if let Some(prefix) = &request.prefix {
        assert_harmless(prefix.as_str());
    }
    match &request.operation {
        Operation::PullManifest { name, reference }
        | Operation::PushManifest { name, reference, .. }
        | Operation::DeleteManifest { name, reference } => {
            assert_harmless(name.as_str());
            assert_harmless(&reference.to_string());
        }
        Operation::UploadStatus { name, id } | Operation::CancelUpload { name, id } => {
            assert_harmless(name.as_str());
            assert_eq!(UploadId::parse(&id.to_string()), Some(*id));
        }
        _ => {}
    }
    let _ = (request.operation.action(), request.operation.handler());
}

/// What the disk says, which may be anything after a crash or a hand that slipped.
fn records(bytes: &[u8]) {
    store::fuzzing::link(bytes);
    store::fuzzing::history(bytes);
    store::fuzzing::rows(bytes);
}

/// `Forwarded`, or `X-Forwarded-…`, from a proxy that is trusted and from one that is not.
fn forwarding(bytes: &[u8]) {
    static PROXIES: OnceLock<Proxies> = OnceLock::new();
    let proxies = PROXIES.get_or_init(|| {
        let trusted: Vec<Network> = ["10.0.0.0/8", "::1/128"]
            .iter()
            .map(|net| net.parse().expect("a network"))
            .collect();
        Proxies::new(None, &trusted)
    });
    if let Some(text) = text(bytes) {
        let _ = forwarded(text);
    }
    let mut headers = HeaderMap::new();
    let names = [
        "forwarded",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-forwarded-for",
    ];
    for (name, line) in names.into_iter().zip(bytes.split(|byte| *byte == b'\n')) {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(name, value);
        }
    }
    let stranger = "192.0.2.1".parse().expect("an address");
    let seen = proxies.origin(stranger, false, Some("r.example:5000"), &headers);
    assert_eq!(
        (seen.client, seen.base.authority.as_str(), seen.base.secure),
        (stranger, "r.example:5000", false)
    );
    let proxy = "10.0.0.1".parse().expect("an address");
    let seen = proxies.origin(proxy, true, Some("r.example"), &headers);
    let realm = seen.base.url("/token");
    assert!(
        HeaderValue::from_str(&realm).is_ok() && !realm.contains(['"', '\\', ' ', ',']),
        "{realm:?}"
    );
    let url: url::Url = realm.parse().expect("a realm is an address");
    assert!(url.path().ends_with("/token") && url.username().is_empty(), "{realm:?}");
}

/// A name that somebody gives whom a directory knows.
fn directory_user(bytes: &[u8]) {
    if let Some(user) = text(bytes) {
        access::fuzzing::directory(user);
    }
}
