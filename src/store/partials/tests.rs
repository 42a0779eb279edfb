use super::*;
use crate::oci::Algorithm;
use crate::store::disk::Disk;
use crate::store::layout::Layout;
use crate::store::spool::SpoolFile;

const MIB: usize = 1 << 20;

struct Spool {
    root: tempfile::TempDir,
    disk: Disk,
    partials: Arc<Partials>,
}

fn spool() -> Spool {
    let root = tempfile::tempdir().unwrap();
    let layout = Layout::new(root.path());
    fs::create_dir(layout.spool()).unwrap();
    Spool {
        disk: Disk::of_tests(&layout),
        partials: Partials::take_over(&layout.spool()).unwrap(),
        root,
    }
}

impl Spool {
    fn path(&self) -> PathBuf {
        self.root.path().join("spool")
    }

    fn begin(&self, digest: &Digest) -> SpoolFile {
        SpoolFile::begin(&self.disk, &self.partials, digest).unwrap()
    }

    fn resume(&self, digest: &Digest) -> Option<SpoolFile> {
        SpoolFile::resume(&self.partials, digest).unwrap()
    }

    /// As a new process finds it.
    fn restart(&mut self) {
        self.partials = Partials::take_over(&self.path()).unwrap();
    }

    fn count(&self) -> usize {
        fs::read_dir(self.path()).unwrap().count()
    }
}

fn blob() -> (Vec<u8>, Digest) {
    let bytes: Vec<u8> = (0..4 * MIB + 7).map(|n| u8::try_from(n % 251).unwrap()).collect();
    let digest = Digest::of(Algorithm::Sha256, &bytes);
    (bytes, digest)
}

#[test]
fn what_broke_off_is_gone_on_with_where_it_was_noted() {
    let mut spool = spool();
    let (bytes, digest) = blob();
    let mut file = spool.begin(&digest);
    for piece in bytes[..3 * MIB + 5].chunks(64 * 1024) {
        file.write(piece).unwrap();
    }
    file.write_ahead(4 * MIB as u64, &bytes[4 * MIB..]).unwrap();
    // As a kill leaves it: nothing runs any more that could tidy up.
    std::mem::forget(file);
    spool.restart();
    let mut file = spool.resume(&digest).expect("the part");
    assert_eq!(file.written(), 3 * MIB as u64, "as far as it was noted");
    assert!(spool.resume(&digest).is_none(), "never twice at once");
    let mut other = spool.begin(&digest);
    other.write(b"its own").unwrap();
    drop(other);
    file.write(&bytes[3 * MIB..]).unwrap();
    let verified = file.finish(&digest, Some(bytes.len() as u64)).unwrap();
    drop(verified);
    assert_eq!(spool.count(), 0);
}

#[test]
fn an_end_that_was_not_planned_parks_it_and_a_lie_removes_it() {
    let spool = spool();
    let (bytes, digest) = blob();
    let mut file = spool.begin(&digest);
    file.write(&bytes[..2 * MIB]).unwrap();
    drop(file);
    let file = spool.resume(&digest).expect("the part");
    assert_eq!(file.written(), 2 * MIB as u64);
    file.discard();
    assert!(spool.resume(&digest).is_none());
    assert_eq!(spool.count(), 0);

    let mut file = spool.begin(&digest);
    file.write(&bytes[..MIB / 2]).unwrap();
    drop(file);
    assert_eq!(spool.count(), 0, "too little to be worth it");

    let mut file = spool.begin(&digest);
    file.write(&bytes[..2 * MIB]).unwrap();
    assert!(file.finish(&digest, None).is_err());
    assert_eq!(spool.count(), 0, "wrong bytes are not gone on with");
}

#[test]
fn bytes_that_are_not_what_was_noted_are_not_gone_on_with() {
    let mut spool = spool();
    let (bytes, digest) = blob();
    let damage: [fn(&Path); 4] = [
        |part| {
            File::options()
                .write(true)
                .open(part)
                .unwrap()
                .write_all_at(b"!", 9)
                .unwrap();
        },
        |part| File::options().write(true).open(part).unwrap().set_len(1000).unwrap(),
        |part| fs::write(part.with_extension("note"), "nonsense").unwrap(),
        |part| fs::remove_file(part).unwrap(),
    ];
    for damage in damage {
        let mut file = spool.begin(&digest);
        file.write(&bytes[..2 * MIB]).unwrap();
        drop(file);
        damage(&file_of(&spool, &digest));
        spool.restart();
        assert!(spool.resume(&digest).is_none());
        let mut file = spool.begin(&digest);
        assert_eq!(file.written(), 0);
        file.write(&bytes).unwrap();
        drop(file.finish(&digest, None).unwrap());
        assert_eq!(spool.count(), 0);
    }
}

fn file_of(spool: &Spool, digest: &Digest) -> PathBuf {
    file(&spool.path(), digest, "part")
}

#[test]
fn parts_are_bounded_in_number_and_in_age_and_nothing_else_outlives_a_restart() {
    let mut spool = spool();
    let park = |spool: &Spool, seed: u8| {
        let digest = Digest::of(Algorithm::Sha512, &[seed]);
        let mut file = spool.begin(&digest);
        file.write(&vec![seed; 2 * MIB]).unwrap();
        drop(file);
        digest
    };
    for seed in 0..20 {
        park(&spool, seed);
    }
    assert_eq!(spool.count(), 2 * MOST);
    fs::write(spool.path().join("7"), "left behind").unwrap();
    fs::write(spool.path().join("sha256-short.note"), "no digest").unwrap();
    let digest = park(&spool, 30);
    spool.restart();
    assert_eq!(spool.count(), 2 * MOST);
    assert!(spool.partials.has(&digest), "the youngest stay");

    let long_ago = SystemTime::now() - KEPT_FOR - Duration::from_secs(60);
    for entry in fs::read_dir(spool.path()).unwrap() {
        File::options()
            .write(true)
            .open(entry.unwrap().path())
            .unwrap()
            .set_modified(long_ago)
            .unwrap();
    }
    let held = spool.resume(&digest).expect("the part");
    park(&spool, 40);
    assert_eq!(spool.count(), 4, "one in use, one new");
    spool.partials.clear();
    assert_eq!(spool.count(), 2);
    drop(held);
}
