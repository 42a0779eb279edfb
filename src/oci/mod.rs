//! The words of the OCI distribution specification, and nothing else.
//!
//! Pure: no input or output, no run time, no HTTP framework. Every other room uses these types; this one uses none.
//! A value of one of these types is valid by construction: parse at the edge, trust afterwards.
//!
//! Start reading at [`operation`]: the whole distribution API as one enum.

pub mod descriptor;
pub mod digest;
pub mod error_code;
pub mod manifest;
pub mod media_type;
pub mod name;
pub mod operation;
pub mod page;
pub mod pattern;
pub mod platform;
pub mod range;
pub mod reference;

pub use descriptor::Descriptor;
pub use digest::{Algorithm, Digest, Hasher};
pub use error_code::{ErrorCode, Refusal};
pub use manifest::Manifest;
pub use media_type::MediaType;
pub use name::{ImageName, RepositoryKey};
pub use operation::Operation;
pub use page::Page;
pub use pattern::Pattern;
pub use platform::Platform;
pub use reference::{Reference, Tag};

/// What every reader in the house answers.
///
/// `Ok(Some(x))`: it is here. `Ok(None)`: it is certainly not here. `Err(e)`: we could not tell. The third is never
/// turned into the second: an outage is not an absence.
pub type Answer<T, E> = Result<Option<T>, E>;
