//! Push sessions.

use super::*;
use crate::oci::operation::UploadId;

fn image_of(store: &Store, name: &str) -> Image {
    store.image(&"docker-local".parse().unwrap(), &name.parse().unwrap())
}

fn left(store: &Store) -> usize {
    std::fs::read_dir(store.inner.records.layout.uploads()).unwrap().count()
}

async fn offset(image: &Image, id: UploadId) -> Option<u64> {
    image.upload(id, NOBODY).await.unwrap().map(|upload| upload.offset())
}

#[tokio::test]
async fn an_upload_in_several_requests_becomes_a_blob_of_its_image() {
    let root = tempfile::tempdir().unwrap();
    let store = open(&root).await;
    let image = image_of(&store, "a");
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        let mut upload = image.begin_upload(None, NOBODY).await.unwrap();
        let id = upload.id();
        upload.append(b"hello ").unwrap();
        upload.save();
        let mut upload = image.upload(id, NOBODY).await.unwrap().unwrap();
        assert_eq!(upload.offset(), 6);
        upload.append(b"world").unwrap();
        let digest = Digest::of(algorithm, b"hello world");
        upload.finish(&digest).await.unwrap();
        assert_eq!(read(&image.blob(&digest).await.unwrap().unwrap()), b"hello world");
        assert!(image.upload(id, NOBODY).await.unwrap().is_none());
        assert_eq!((left(&store), spooled(&store)), (0, 0));
    }
    let empty = image.begin_upload(None, NOBODY).await.unwrap();
    let nothing = Digest::of(Algorithm::Sha256, b"");
    empty.finish(&nothing).await.unwrap();
    assert_eq!(image.has_blob(&nothing).await.unwrap(), Some(0));
}

#[tokio::test]
async fn a_wrong_digest_ends_the_session_and_publishes_nothing() {
    let root = tempfile::tempdir().unwrap();
    let store = open(&root).await;
    let image = image_of(&store, "a");
    let mut upload = image.begin_upload(None, NOBODY).await.unwrap();
    let id = upload.id();
    upload.append(b"hello").unwrap();
    let digest = Digest::of(Algorithm::Sha256, b"jello");
    let refused = upload.finish(&digest).await;
    assert!(matches!(refused, Err(Error::Mismatch(FinishError::Digest { .. }))));
    assert!(image.upload(id, NOBODY).await.unwrap().is_none());
    assert_eq!(left(&store), 0);
    for digest in [digest, Digest::of(Algorithm::Sha256, b"hello")] {
        assert!(store.open_blob(&digest).await.unwrap().is_none());
    }
}

#[tokio::test]
async fn one_request_at_a_time_and_only_of_the_same_image() {
    let root = tempfile::tempdir().unwrap();
    let store = open(&root).await;
    let image = image_of(&store, "a");
    let mut upload = image.begin_upload(None, NOBODY).await.unwrap();
    let id = upload.id();
    assert!(matches!(image.upload(id, NOBODY).await, Err(Error::UploadBusy)));
    assert!(image_of(&store, "b").upload(id, NOBODY).await.unwrap().is_none());
    assert!(image.upload(UploadId::new(), NOBODY).await.unwrap().is_none());
    // Somebody else is not even told that it is busy.
    assert!(image.upload(id, "user:eve").await.unwrap().is_none());
    upload.append(b"hel").unwrap();
    // A client that vanishes drops the request, and with it the upload.
    drop(upload);
    assert_eq!(offset(&image, id).await, Some(3));
    assert_eq!(offset(&image, id).await, Some(3));
    image.upload(id, NOBODY).await.unwrap().unwrap().cancel().await.unwrap();
    assert_eq!(offset(&image, id).await, None);
    assert_eq!(left(&store), 0);
}

#[tokio::test]
async fn uploads_are_limited_in_number_and_in_length() {
    let root = tempfile::tempdir().unwrap();
    let metrics = Arc::new(Metrics::new().unwrap());
    let store = Store::open(options(&root), Arc::clone(&metrics)).await.unwrap();
    let image = image_of(&store, "a");
    let mut open = Vec::new();
    for _ in 0..4 {
        open.push(image.begin_upload(None, NOBODY).await.unwrap());
    }
    assert!(matches!(
        image.begin_upload(None, NOBODY).await,
        Err(Error::TooManyUploads)
    ));
    let shown = || String::from_utf8(metrics.render().unwrap()).unwrap();
    assert!(shown().contains("entrepot_uploads 4"));
    let mut upload = open.pop().unwrap();
    upload.append(&vec![0; 1 << 20]).unwrap();
    let too_long = upload.append(b"!");
    assert!(matches!(too_long, Err(Error::UploadTooLarge { limit: 1_048_576 })));
    assert_eq!(upload.offset(), 1 << 20);
    upload.cancel().await.unwrap();
    assert!(shown().contains("entrepot_uploads 3"));
    image.begin_upload(None, NOBODY).await.unwrap();
}

#[tokio::test]
async fn an_upload_goes_on_after_a_restart() {
    let root = tempfile::tempdir().unwrap();
    let store = open(&root).await;
    let image = image_of(&store, "a");
    let mut upload = image.begin_upload(Some(Algorithm::Sha512), "user:ada").await.unwrap();
    let id = upload.id();
    upload.append(b"hello ").unwrap();
    let layout = store.inner.records.layout.clone();
    for junk in ["junk", &UploadId::new().to_string()] {
        std::fs::create_dir(layout.uploads().join(junk)).unwrap();
    }
    drop((upload, image, store));
    let store = open(&root).await;
    assert_eq!(left(&store), 1);
    let image = image_of(&store, "a");
    assert!(image_of(&store, "b").upload(id, "user:ada").await.unwrap().is_none());
    for other in [NOBODY, "user:eve", "robot:ada"] {
        assert!(image.upload(id, other).await.unwrap().is_none());
    }
    let mut upload = image.upload(id, "user:ada").await.unwrap().unwrap();
    assert_eq!(upload.offset(), 6);
    upload.append(b"world").unwrap();
    let digest = Digest::of(Algorithm::Sha512, b"hello world");
    upload.finish(&digest).await.unwrap();
    assert_eq!(image.has_blob(&digest).await.unwrap(), Some(11));
}

#[tokio::test]
async fn idle_uploads_expire_and_busy_ones_do_not() {
    let root = tempfile::tempdir().unwrap();
    let store = open(&root).await;
    let image = image_of(&store, "a");
    let old = image.begin_upload(None, NOBODY).await.unwrap().id();
    assert_eq!(store.expire_uploads().await.unwrap(), 0);
    drop((image, store));
    let file = File::options();
    let data = root.path().join("uploads").join(old.to_string()).join("data");
    let hours_ago = std::time::SystemTime::now() - Duration::from_secs(2 * 3600);
    file.clone()
        .write(true)
        .open(data)
        .unwrap()
        .set_modified(hours_ago)
        .unwrap();
    let store = open(&root).await;
    let image = image_of(&store, "a");
    let held = image.upload(old, NOBODY).await.unwrap().unwrap();
    assert_eq!(store.expire_uploads().await.unwrap(), 0, "it is busy");
    drop(held);
    assert_eq!(store.expire_uploads().await.unwrap(), 0, "it has just been touched");
    let strict = Options {
        upload_idle: Duration::ZERO,
        ..options(&root)
    };
    drop((image, store));
    let store = Store::open(strict, Arc::new(Metrics::new().unwrap())).await.unwrap();
    assert_eq!(store.expire_uploads().await.unwrap(), 1);
    assert_eq!(left(&store), 0);
}

#[tokio::test]
async fn a_session_whose_files_are_gone_is_gone() {
    let root = tempfile::tempdir().unwrap();
    let store = open(&root).await;
    let image = image_of(&store, "a");
    let id = image.begin_upload(None, NOBODY).await.unwrap().id();
    std::fs::remove_dir_all(store.inner.records.layout.upload(id)).unwrap();
    assert_eq!(offset(&image, id).await, None);
    assert!(store.inner.uploads.expire() == 0, "and forgotten");
}
