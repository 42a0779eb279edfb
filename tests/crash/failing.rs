//! D4: the N-th call of a kind fails, in every thread that comes to make so many.
//!
//! A call that is made to fail has no effect on the disk here, so that nothing is really lost: whether the program knew
//! what it could promise is seen in the order of the calls, as for D3.

use std::collections::HashSet;
use std::path::Path;

use bytes::Bytes;
use entrepot::oci::Digest;

use crate::caller::{Caller, Door, Gone};
use crate::check::{Check, staging_is_clean};
use crate::dice::{Dice, seed};
use crate::places::{Kills, Place as _, started};
use crate::promises::{CALLS, check};
use crate::strace::{Strace, Trace};
use crate::support::size::is_full;
use crate::support::upstream::noise;
use crate::world::World;

/// What a call can fail with.
const USUAL: &[&str] = &["EIO", "ENOSPC", "EINTR"];
/// How far is gone: for all kinds but `openat`, no thread makes so many calls.
const MOST: u64 = 300;
/// As far as is tried for calls that fail from one on.
const LASTING: u64 = 12;
/// Files in the spool are named by numbers; so many are not reached.
const SPOOLED: u32 = 400;

struct Point {
    call: &'static str,
    error: &'static str,
    number: u64,
    /// Whether all later ones fail too.
    is_lasting: bool,
}

impl Point {
    /// What strace is to do. A thread of the runtime writes to more than files, so that calls of `write` are told apart
    /// by the file.
    fn options(&self, data: &Path) -> Vec<String> {
        let lasting = if self.is_lasting { "+" } else { "" };
        let inject = format!(
            "inject={}:error={}:when={}{lasting}",
            self.call, self.error, self.number
        );
        let mut options = ["-s", "500", "-e", CALLS, "-e", &inject].map(str::to_owned).to_vec();
        if self.call == "write" {
            let spooled = (0..SPOOLED).map(|number| data.join("spool").join(number.to_string()));
            options.extend(spooled.flat_map(|path| ["-P".to_owned(), path.display().to_string()]));
        }
        options
    }

    /// All that this holds a server to, from the life in which it happens to the beginning of the next. Whether it
    /// happened.
    async fn hit(&self, place: &Kills, world: &std::sync::Arc<World>, dice: &mut Dice) -> bool {
        let lasting = if self.is_lasting { " and all after it" } else { "" };
        let what = format!(
            "{} number {}{lasting} fails with {}",
            self.call, self.number, self.error
        );
        world.begin();
        let registry = started(place, world).await;
        let data = place.data(&registry);
        staging_is_clean(&data).await;
        let door = Door::of(&registry);
        let checker = world.caller(&door, "", false, dice);
        Check::new(&checker, Kills::LOSS).touched(dice).await;
        world.publish(dice, 1);
        let strace = Strace::attach(&registry, &data.with_file_name("trace"), &self.options(&data));
        world.let_fail();
        let mut caller = world.caller(&door, "own0", true, dice);
        caller.everything_once().await;
        let alive = door.request("GET", "/livez").send().await.expect("it lives");
        assert_eq!(alive.status(), 200, "{what}");
        let log = registry.log();
        registry.kill();
        world.has_ended();
        assert!(!log.contains("panicked"), "{what}: {log}");
        let trace = strace.end();
        if self.call != "write" {
            let tree = data.join("docker/registry/v2").display().to_string();
            let report = check(&trace, None, &tree, world);
            assert!(report.complaints.is_empty(), "{what}: {:#?}", report.complaints);
        }
        let again = synced_again(&trace);
        assert!(again.is_empty(), "{what}: synced again after it had failed: {again:?}");
        trace.calls.iter().any(|call| call.result.contains("INJECTED"))
    }
}

/// The descriptors that were synced once more after that had failed. An interrupted call has done nothing, and is to be
/// made again. The index's engine does as it likes with its own file: nothing is promised on its word, and it is believed
/// after a restart only if every byte of it is what it was when it was closed.
fn synced_again(trace: &Trace) -> Vec<String> {
    let mut failed: HashSet<String> = HashSet::new();
    let mut again = Vec::new();
    for call in &trace.calls {
        let number = call.arguments.split('<').next().unwrap_or_default();
        let is_of_index = call.file().is_some_and(|file| file.contains("/index/sled/"));
        match call.name.as_str() {
            "close" => drop(failed.remove(number)),
            "openat" => drop(failed.remove(call.result.split('<').next().unwrap_or_default())),
            "fsync" | "fdatasync" if is_of_index => {}
            "fsync" | "fdatasync" if failed.contains(number) => again.push(call.arguments.clone()),
            "fsync" | "fdatasync" if !call.has_succeeded() && !call.result.contains("EINTR") => {
                failed.insert(number.to_owned());
            }
            _ => {}
        }
    }
    again
}

impl Caller {
    /// One that was not here before anybody looked.
    fn new_layer(&mut self) -> Bytes {
        noise(20_000, self.dice.next())
    }

    /// One of everything that changes something, and pulls of it. What fails is left at that.
    async fn everything_once(&mut self) {
        let mut pushed: Vec<Digest> = Vec::new();
        for tag in ["t0", "t1"] {
            let layers = [self.new_layer(), self.new_layer()];
            pushed.extend(self.push_image(&layers, Some(tag)).await.expect("an answer"));
        }
        let bytes = self.new_layer();
        for pieces in 0..2 {
            let done = self.push_in_pieces(&bytes, pieces, pieces == 1).await;
            done.expect("an answer");
        }
        if let Some(digest) = pushed.last() {
            let _: Result<bool, Gone> = self.move_tag("t0", digest).await;
        }
        self.delete_tag("t1").await.expect("an answer");
        for tag in ["t0", "t1"] {
            // A pull may be cut off.
            let _: Result<(), Gone> = self.pull(tag).await;
        }
        if let Some(digest) = pushed.first() {
            self.delete_manifest(digest).await.expect("an answer");
        }
        let _: Result<(), Gone> = self.collect_once().await;
        if let Some(image) = self.world.newest() {
            let _: Result<(), Gone> = self.pull_from_upstream(&image).await;
        }
    }
}

/// Which calls of one kind fail: every one at the full size, else some. What is interrupted is tried again for as long
/// as that lasts, so that never lasts.
fn points(call: &'static str, error: &'static str, dice: &mut Dice) -> Vec<Point> {
    let (single, lasting) = if is_full() {
        ((1..=MOST).collect(), (1..=LASTING).collect())
    } else {
        (
            vec![1 + dice.below(3), 4 + dice.below(6)],
            vec![1 + dice.below(LASTING)],
        )
    };
    let point = |is_lasting: bool| {
        move |number: u64| Point {
            call,
            error,
            number,
            is_lasting,
        }
    };
    let lasting = if error == "EINTR" { Vec::new() } else { lasting };
    let single = single.into_iter().map(point(false));
    single.chain(lasting.into_iter().map(point(true))).collect()
}

/// A call of one kind fails, at every point in turn, with each of these.
async fn fails(call: &'static str, errors: &[&'static str]) {
    let mut dice = Dice::new(seed(&format!("D4, {call}")));
    for error in errors {
        fails_with(call, error, &mut dice).await;
    }
}

/// With a store of its own: a server has more to do in one that has grown with every point before.
async fn fails_with(call: &'static str, error: &'static str, dice: &mut Dice) {
    let world = World::new().await;
    let place = Kills::new(&world);
    let mut never = [false; 2];
    let (mut tried, mut happened) = (0, 0);
    for point in points(call, error, dice) {
        let over = &mut never[usize::from(point.is_lasting)];
        // No thread makes so many calls: none makes more.
        if *over {
            continue;
        }
        tried += 1;
        *over = !point.hit(&place, &world, dice).await;
        happened += usize::from(!*over);
    }
    eprintln!("D4: {call}, {error}: {happened} of {tried} points were reached");
    assert!(happened > 0, "nothing has failed: {tried} were tried");
    world.begin();
    let registry = started(&place, &world).await;
    let checker = world.caller(&Door::of(&registry), "", false, dice);
    Check::new(&checker, Kills::LOSS).everything().await;
    registry.kill();
    crate::tree::is_whole(&place.directory().join("data"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d04_a_write_fails() {
    fails("write", USUAL).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d04_a_write_at_a_place_fails() {
    fails("pwrite64", USUAL).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d04_a_sync_fails() {
    fails("fsync,fdatasync", USUAL).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d04_a_rename_fails() {
    fails("rename", USUAL).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d04_an_open_fails() {
    fails("openat", &["EIO", "ENOSPC", "EMFILE"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d04_an_open_is_interrupted() {
    fails("openat", &["EINTR"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d04_a_removal_fails() {
    fails("unlink,unlinkat", USUAL).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d04_a_new_directory_fails() {
    fails("mkdir", USUAL).await;
}

/// A tag has moved, and the sync of that has failed: after a power cut it may mean what it meant before. So that goes only
/// when the sync has been made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d04_a_tag_that_may_move_back_keeps_its_manifest() {
    let world = World::new().await;
    let place = Kills::new(&world);
    let registry = started(&place, &world).await;
    let mut caller = world.caller(&Door::of(&registry), "own0", true, &mut Dice::new(1));
    let mut pushed = Vec::new();
    for tag in ["t0", "t1"] {
        let layers = [caller.new_layer()];
        pushed.extend(caller.push_image(&layers, Some(tag)).await.expect("an answer"));
    }
    let image = registry.data().join("docker/registry/v2/repositories/local/own0");
    let current = image.join("_manifests/tags/t0/current").display().to_string();
    let options = [
        "-P",
        &current,
        "-e",
        "trace=fsync",
        "-e",
        "inject=fsync:error=ENOSPC:when=1",
    ]
    .map(str::to_owned);
    let strace = Strace::attach(&registry, &registry.data().with_file_name("trace"), &options);
    world.let_fail();
    assert!(
        !caller.move_tag("t0", &pushed[1]).await.expect("an answer"),
        "it is made to fail"
    );
    // Each thread fails once.
    let mut tries = 0;
    while !caller.delete_manifest(&pushed[0]).await.expect("an answer") {
        tries += 1;
        assert!(tries < 600, "it never goes");
    }
    registry.kill();
    let trace = strace.end();
    let last = trace.calls.iter().rfind(|call| call.name == "fsync").expect("a sync");
    assert!(last.has_succeeded(), "the tag may mean what is gone: {last:?}");
}

#[test]
fn d04_a_second_sync_would_be_noticed() {
    let log = b"1 openat(AT_FDCWD</>, \"/d/a\", O_RDWR|O_CREAT) = 9</d/a>\n\
        1 fsync(9</d/a>) = -1 EINTR (Interrupted system call) (INJECTED)\n\
        1 fsync(9</d/a>) = -1 EIO (Input/output error) (INJECTED)\n\
        1 close(9</d/a>) = 0\n\
        1 fsync(9</d/b>) = -1 EIO (Input/output error) (INJECTED)\n";
    assert!(synced_again(&Trace::parse(log)).is_empty());
    let log = [log.as_slice(), b"2 fdatasync(9</d/b>) = 0\n"].concat();
    assert_eq!(synced_again(&Trace::parse(&log)), ["9</d/b>"]);
}
