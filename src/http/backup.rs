//! `/api/v1/backup`: a copy of everything, as it is at one moment, on the server's machine.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::{Request, StatusCode};
use serde::Deserialize;

use super::api::{Ask, json};
use super::error::Failure;
use super::site::Front;
use crate::oci::ErrorCode;
use crate::oci::operation::Action;
use crate::store;

/// Where to.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BackupRequest {
    /// Below `storage.backups`, or that itself.
    #[serde(default)]
    directory: Option<PathBuf>,
}

/// `POST /api/v1/backup`. Only for who may do everything: it has everything in it.
pub(super) async fn back_up(State(front): State<Arc<Front>>, request: Request<Body>) -> Response {
    let (ask, body) = Ask::of(Arc::clone(&front), request);
    let result = backed_up(&front, &ask, body).await;
    ask.respond(result)
}

async fn backed_up(front: &Front, ask: &Ask, body: Body) -> Result<Response, Failure> {
    ask.allowed_everywhere(Action::Admin).await?;
    let asked: BackupRequest = ask.read(body).await?;
    let Some(root) = &ask.site().backups else {
        let message = "this server makes no backups: `storage.backups` does not say where they may be";
        return Err(Failure::new(ErrorCode::Denied, message));
    };
    let Some(directory) = below(root, asked.directory.as_deref()) else {
        let message = "a backup has to be below `storage.backups`: name a directory there, without `..`";
        return Err(Failure::new(ErrorCode::Denied, message));
    };
    ask.about(&directory.to_string_lossy());
    let done = front.store.back_up(directory).await.map_err(failure)?;
    Ok(json(StatusCode::OK, serde_json::to_vec(&done).unwrap_or_default()))
}

/// Who may do everything may know why it does not work.
fn failure(error: store::Error) -> Failure {
    match error {
        store::Error::Locked { .. } => Failure::new(ErrorCode::Unavailable, "another backup is being made there"),
        error if error.is_full() => {
            Failure::new(ErrorCode::InsufficientStorage, format!("no backup was made: {error}"))
        }
        error @ store::Error::Disk { .. } => Failure::new(ErrorCode::Internal, format!("no backup was made: {error}")),
        error => error.into(),
    }
}

/// A directory below a root, or none that anybody may name.
fn below(root: &Path, asked: Option<&Path>) -> Option<PathBuf> {
    let Some(asked) = asked else {
        return Some(root.to_owned());
    };
    let rest = if asked.is_absolute() {
        asked.strip_prefix(root).ok()?
    } else {
        asked
    };
    let plain = rest.components().all(|part| matches!(part, Component::Normal(_)));
    // NUL and what no terminal shows would end in an error or a log.
    let is_text = rest.to_str().is_some_and(|text| !text.chars().any(char::is_control));
    (plain && is_text).then(|| root.join(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_leads_out_of_the_directory_of_backups() {
        let ask = |text: &str| below(Path::new("/b/backups"), Some(Path::new(text)));
        for (text, means) in [
            ("nightly", "/b/backups/nightly"),
            ("a/b", "/b/backups/a/b"),
            ("/b/backups/nightly", "/b/backups/nightly"),
            ("/b/backups", "/b/backups"),
        ] {
            assert_eq!(ask(text), Some(PathBuf::from(means)), "{text}");
        }
        for text in [
            "..",
            "a/../..",
            "/b",
            "/b/backups/..",
            "/b/backups2",
            "/etc",
            "./../x",
            "a\0b",
            "a\nb",
        ] {
            assert_eq!(ask(text), None, "{text}");
        }
        assert_eq!(below(Path::new("/b"), None), Some(PathBuf::from("/b")));
    }
}
