//! What the store keeps of who may: what signs our tokens, and the robots.

use anyhow::{Context as _, bail};

use crate::access::SigningKey;
use crate::access::robots::{self, Robots};
use crate::store::{Document, Store};

/// What signs our tokens: the same after a restart, so that what was handed out goes on.
pub(super) async fn signing_key(store: &Store) -> anyhow::Result<SigningKey> {
    let path = store.document_path(Document::SigningKey);
    let limit = SigningKey::LENGTH as u64;
    if let Some(bytes) = store.document(Document::SigningKey, limit).await? {
        return SigningKey::from_bytes(&bytes).with_context(|| {
            let path = path.display();
            format!("{path} is no key: remove it, and a new one is made; everybody logs in again then")
        });
    }
    let key = SigningKey::generate().context("the machine has no randomness to give")?;
    let bytes = key.as_bytes().to_vec();
    if let Err(error) = store.write_document(Document::SigningKey, bytes).await {
        // A full disk does not stop pulls, and so it does not stop a start.
        tracing::warn!(%error, "what signs tokens could not be kept: after a restart everybody logs in again");
    }
    Ok(key)
}

/// The robots. A list that cannot be read is not an empty one: it would be written over with the next robot.
pub(super) async fn robots(store: &Store) -> anyhow::Result<Robots> {
    let path = store.document_path(Document::Robots);
    let Some(document) = store.document(Document::Robots, robots::DOCUMENT).await? else {
        return Ok(Robots::default());
    };
    match Robots::from_document(&document) {
        Ok(robots) => Ok(robots),
        Err(error) => bail!(
            "{} cannot be read ({error}): bring it back, or move it away to go on without any tokens of robots",
            path.display()
        ),
    }
}

/// Writes down when each robot was last here, if one was.
pub(super) async fn keep_uses(store: &Store, robots: &Robots) {
    if !robots.take_outdated() {
        return;
    }
    let _turn = robots.turn().await;
    if let Err(error) = store
        .write_document(Document::Robots, robots.table().to_document())
        .await
    {
        tracing::warn!(%error, "when tokens were last used could not be kept");
    }
}
