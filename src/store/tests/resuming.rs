//! Row D11: uploads that are cut off at any byte by any end of the process, and gone on with.

use std::fs::{self, File};

use proptest::prelude::*;

use super::size::is_full;
use super::*;
use crate::oci::operation::UploadId;

/// Uploads into one store at a time, each with a fate of its own.
const AT_ONCE: usize = 4;
const LONGEST: usize = 40_000;

#[derive(Clone, Debug)]
enum Step {
    /// A request brings so many bytes, in pieces of such a length; whoever sends it may vanish after any of them.
    Send(usize, usize, usize),
    /// A request brings all that is missing, at once.
    Rest(usize),
    /// Closed and opened again.
    Restart,
    /// Opened again without having been closed.
    Crash,
    /// The same, and of what had come only so many hundredths are left: nobody has waited for them to be durable.
    PowerCut(usize, usize),
}

fn step() -> impl Strategy<Value = Step> {
    let upload = 0..AT_ONCE;
    prop_oneof![
        8 => (upload.clone(), 1..LONGEST / 4, 1..9_000_usize)
            .prop_map(|(upload, bytes, piece)| Step::Send(upload, bytes, piece)),
        2 => upload.clone().prop_map(Step::Rest),
        1 => Just(Step::Restart),
        2 => Just(Step::Crash),
        1 => (upload, 0..=100_usize).prop_map(|(upload, left)| Step::PowerCut(upload, left)),
    ]
}

/// How an upload is begun: how long it is to be, by which algorithm it is called, and whether that is said at the beginning.
fn begun() -> impl Strategy<Value = (usize, Algorithm, bool)> {
    let algorithm = prop_oneof![Just(Algorithm::Sha256), Just(Algorithm::Sha512)];
    (0..LONGEST, algorithm, any::<bool>())
}

/// An upload, as its client knows it.
struct Pushed {
    id: UploadId,
    algorithm: Algorithm,
    bytes: Vec<u8>,
    /// As many as it was told that have come.
    taken: usize,
}

fn image_of(store: &Store) -> Image {
    store.image(&"docker-local".parse().unwrap(), &"app".parse().unwrap())
}

impl Pushed {
    async fn begin(store: &Store, number: usize, (length, algorithm, is_named): (usize, Algorithm, bool)) -> Self {
        let begun = image_of(store)
            .begin_upload(is_named.then_some(algorithm), NOBODY)
            .await;
        let upload = begun.unwrap();
        let id = upload.id();
        upload.save();
        let bytes = (0..length).map(|at| u8::try_from((at * 31 + at / 256 + number) % 251).unwrap());
        Self {
            id,
            algorithm,
            bytes: bytes.collect(),
            taken: 0,
        }
    }

    /// Takes it up where it is, which must be where its client believes it to be, and on the disk.
    async fn held(&self, store: &Store) -> Upload {
        let file = store.inner.records.layout.upload(self.id).join("data");
        let on_disk = fs::metadata(file).unwrap().len();
        let upload = image_of(store).upload(self.id, NOBODY).await.unwrap();
        let upload = upload.expect("it is there");
        assert_eq!(upload.offset(), self.taken as u64);
        assert!(upload.offset() <= on_disk, "more than there is");
        upload
    }

    async fn send(&mut self, store: &Store, bytes: usize, piece: usize) {
        let mut upload = self.held(store).await;
        let end = self.bytes.len().min(self.taken.saturating_add(bytes));
        for piece in self.bytes[self.taken..end].chunks(piece) {
            upload.append(piece).unwrap();
        }
        assert_eq!(upload.offset(), end as u64);
        upload.save();
        self.taken = end;
    }

    /// What is left of the file is less than its client believes.
    fn cut(&mut self, store: &Store, hundredths: usize) {
        let left = self.taken * hundredths / 100;
        let file = store.inner.records.layout.upload(self.id).join("data");
        let file = File::options().write(true).open(file).unwrap();
        file.set_len(left as u64).unwrap();
        self.taken = left;
    }

    async fn finish(mut self, store: &Store) {
        self.send(store, usize::MAX, LONGEST).await;
        let digest = Digest::of(self.algorithm, &self.bytes);
        self.held(store).await.finish(&digest).await.unwrap();
        let blob = image_of(store).blob(&digest).await.unwrap().unwrap();
        assert!(read(&blob) == self.bytes, "other bytes than were sent");
    }
}

async fn run(root: &tempfile::TempDir, begun: &[(usize, Algorithm, bool)], steps: &[Step]) {
    let mut store = open(root).await;
    let mut all = Vec::new();
    for (number, begun) in begun.iter().enumerate() {
        all.push(Pushed::begin(&store, number, *begun).await);
    }
    for step in steps {
        match step {
            Step::Send(upload, bytes, piece) => {
                all[*upload].send(&store, *bytes, *piece).await;
                continue;
            }
            Step::Rest(upload) => {
                all[*upload].send(&store, usize::MAX, LONGEST).await;
                continue;
            }
            Step::Restart => store.close().await,
            Step::Crash => {}
            Step::PowerCut(upload, left) => all[*upload].cut(&store, *left),
        }
        drop(store);
        store = open(root).await;
        for pushed in &all {
            pushed.held(&store).await.save();
        }
    }
    for pushed in all {
        pushed.finish(&store).await;
    }
    assert_eq!(fs::read_dir(store.inner.records.layout.uploads()).unwrap().count(), 0);
    assert_eq!(spooled(&store), 0);
}

/// 1,000 uploads, or at the full size 20,000.
fn cases() -> u32 {
    if is_full() { 5_000 } else { 250 }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]
    #[test]
    fn d11_an_upload_goes_on_wherever_it_was_cut_off(
        begun in prop::collection::vec(begun(), AT_ONCE),
        steps in prop::collection::vec(step(), 1..24),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(&in_memory(), &begun, &steps));
    }
}
