//! Several parts of a blob in one answer: `multipart/byteranges`, RFC 9110, section 14.6. Clients of zstd:chunked ask for
//! the files of a layer that they do not have yet.

use bytes::Bytes;

use crate::oci::range::Part;

/// The parts of an answer, and what stands around them.
pub(super) struct Parts {
    wanted: Vec<Part>,
    /// The length of the whole blob.
    size: u64,
    /// What divides the parts. Made anew for each answer, so that no content can be made to have it.
    boundary: String,
}

impl Parts {
    pub(super) fn new(wanted: Vec<Part>, size: u64) -> Self {
        Self {
            wanted,
            size,
            boundary: uuid::Uuid::new_v4().simple().to_string(),
        }
    }

    /// The media type of the answer.
    pub(super) fn media_type(&self) -> String {
        format!("multipart/byteranges; boundary={}", self.boundary)
    }

    /// How long the whole answer is.
    pub(super) fn length(&self) -> u64 {
        let parts = self.wanted.iter();
        let parts: u64 = parts.map(|part| self.head(*part).len() as u64 + part.length()).sum();
        parts + self.end().len() as u64
    }

    /// Each part, and what stands before it.
    pub(super) fn each(&self) -> impl Iterator<Item = (Bytes, Part)> {
        self.wanted.iter().map(|part| (self.head(*part).into(), *part))
    }

    fn head(&self, part: Part) -> String {
        let Part { start, end } = part;
        let (boundary, size) = (&self.boundary, self.size);
        format!(
            "\r\n--{boundary}\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes {start}-{end}/{size}\r\n\r\n"
        )
    }

    /// What stands after the last.
    pub(super) fn end(&self) -> Bytes {
        format!("\r\n--{}--\r\n", self.boundary).into()
    }
}
