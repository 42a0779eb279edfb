//! The store on a real disk.

mod history;
mod images;
mod indexing;
mod keeping;
mod living;
mod model;
mod reclaiming;
mod resuming;
mod rotting;
mod rules;
#[path = "../../tests/support/size.rs"]
mod size;
mod uploading;
mod vanishing;
mod verifying;

use super::*;
use crate::oci::Algorithm;

/// A directory in memory, where that is possible: for what is not about the disk, and syncs a lot.
fn in_memory() -> tempfile::TempDir {
    let memory = std::path::Path::new("/dev/shm");
    let made = if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    };
    made.unwrap()
}

fn options(root: &tempfile::TempDir) -> Options {
    Options {
        path: root.path().to_owned(),
        uploads: 4,
        upload_idle: Duration::from_secs(3600),
        upload_limit: 1 << 20,
        min_free: Share::Bytes(0),
    }
}

async fn open(root: &tempfile::TempDir) -> Store {
    let store = Store::open(options(root), Arc::new(Metrics::new().unwrap()))
        .await
        .unwrap();
    store.inner.indexed().await;
    store
}

async fn publish(store: &Store, bytes: &[u8]) -> Digest {
    let digest = Digest::of(Algorithm::Sha256, bytes);
    let mut spool = store.spool_for(&digest).await.unwrap();
    spool.write(bytes).unwrap();
    let verified = spool.finish(&digest, Some(bytes.len() as u64)).unwrap();
    store.publish(verified).await.unwrap();
    digest
}

fn read(blob: &BlobFile) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(blob.size).unwrap() + 1];
    let read = blob.read_at(0, &mut bytes).unwrap();
    bytes.truncate(read);
    bytes
}

fn spooled(store: &Store) -> usize {
    std::fs::read_dir(store.inner.records.layout.spool()).unwrap().count()
}

#[tokio::test]
async fn a_published_blob_is_read_back_even_while_it_is_removed() {
    let root = tempfile::tempdir().unwrap();
    let store = open(&root).await;
    let digest = publish(&store, b"hello").await;
    assert_eq!(publish(&store, b"hello").await, digest, "twice is as good as once");
    assert_eq!(spooled(&store), 0);
    let blob = store.open_blob(&digest).await.unwrap().unwrap();
    std::fs::remove_file(store.inner.records.layout.blob(&digest)).unwrap();
    assert_eq!(read(&blob), b"hello");
    assert!(store.open_blob(&digest).await.unwrap().is_none());
    assert_eq!(
        store
            .inner
            .records
            .layout
            .blob(&digest)
            .strip_prefix(root.path())
            .unwrap(),
        std::path::Path::new(
            "docker/registry/v2/blobs/sha256/2c/2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824/data"
        )
    );
}

#[tokio::test]
async fn a_file_that_is_followed_is_read_while_it_grows_and_after_it_has_moved() {
    let root = tempfile::tempdir().unwrap();
    let store = open(&root).await;
    let digest = Digest::of(Algorithm::Sha512, b"hello");
    let mut spool = store.spool_for(&digest).await.unwrap();
    let reader = spool.reader();
    let mut buffer = [0; 8];
    assert_eq!(reader.read_at(0, &mut buffer).unwrap(), 0);
    spool.write(b"he").unwrap();
    assert_eq!(reader.read_at(0, &mut buffer).unwrap(), 2);
    spool.write(b"llo").unwrap();
    assert_eq!(spool.written(), 5);
    store.publish(spool.finish(&digest, None).unwrap()).await.unwrap();
    assert_eq!(reader.read_at(2, &mut buffer).unwrap(), 3);
    assert_eq!(&buffer[..3], b"llo");
}

#[tokio::test]
async fn bytes_that_are_not_what_was_expected_are_never_published() {
    let root = tempfile::tempdir().unwrap();
    let store = open(&root).await;
    let digest = Digest::of(Algorithm::Sha256, b"hello");
    let spool = async |bytes: &[u8]| {
        let mut spool = store.spool_for(&digest).await.unwrap();
        spool.write(bytes).unwrap();
        spool
    };
    assert!(matches!(
        spool(b"hell").await.finish(&digest, Some(5)),
        Err(Error::Mismatch(FinishError::Size { expected: 5, actual: 4 }))
    ));
    assert!(matches!(
        spool(b"hellO").await.finish(&digest, Some(5)),
        Err(Error::Mismatch(FinishError::Digest { .. }))
    ));
    drop(spool(b"hello").await);
    drop(spool(b"hello").await.finish(&digest, None).unwrap());
    assert_eq!(spooled(&store), 0);
    assert!(store.open_blob(&digest).await.unwrap().is_none());
}

#[tokio::test]
async fn an_empty_file_is_a_blob_only_under_the_digest_of_nothing() {
    let root = tempfile::tempdir().unwrap();
    let store = open(&root).await;
    let digest = publish(&store, b"hello").await;
    std::fs::write(store.inner.records.layout.blob(&digest), "").unwrap();
    assert!(store.open_blob(&digest).await.unwrap().is_none());
    publish(&store, b"hello").await;
    assert_eq!(store.open_blob(&digest).await.unwrap().unwrap().size, 5, "repaired");
    let nothing = publish(&store, b"").await;
    assert_eq!(store.open_blob(&nothing).await.unwrap().unwrap().size, 0);
}

#[tokio::test]
async fn a_store_that_is_open_cannot_be_opened_again() {
    let root = tempfile::tempdir().unwrap();
    let store = open(&root).await;
    store.check_writable().await.unwrap();
    let again = Store::open(options(&root), Arc::new(Metrics::new().unwrap())).await;
    assert!(matches!(again, Err(Error::Locked { .. })));
}

#[tokio::test]
async fn a10_a_panic_in_disk_work_is_an_error_of_that_work() {
    let died = blocking(|| -> Result<(), Error> { panic!("on purpose") }).await;
    assert!(matches!(died, Err(Error::Died)), "{died:?}");
    assert_eq!(blocking(|| Ok(7)).await.ok(), Some(7));
}
