//! Where the server lives, dies and comes back.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::binary::{PATIENCE, Registry, entrepot, temporary, until};
use crate::caller::Door;
use crate::check::{Loss, READY};
use crate::dice::Dice;
use crate::world::World;

/// A place in which one process after the other serves.
pub(crate) trait Place {
    /// What its ends may lose.
    const LOSS: Loss;

    fn new(world: &World) -> Self;

    /// Starts a process there.
    fn start(&self) -> Registry;

    /// Where its data can be looked at while it runs.
    fn data(&self, registry: &Registry) -> PathBuf;

    /// Ends it in the middle of what it does.
    fn end(&self, registry: Registry, world: &World, dice: &mut Dice);
}

/// One that is ready, in time. After a power cut nothing that was on the disk is in memory, and reading it has no time of
/// its own to be held to.
pub(crate) async fn started<P: Place>(place: &P, world: &World) -> Registry {
    let began = Instant::now();
    let registry = place.start();
    let door = Door::of(&registry);
    until("it is ready", async || {
        let answer = door.request("GET", "/readyz").send().await;
        answer.is_ok_and(|answer| answer.status() == 200)
    })
    .await;
    let (took, withheld) = (began.elapsed(), withheld(&registry));
    assert!(
        P::LOSS == Loss::Power || took <= READY + withheld,
        "ready after {took:?}, of which it waited {withheld:?} for a processor\n{}",
        registry.log()
    );
    world.note_start(took);
    registry
}

fn write_configuration(directory: &TempDir, world: &World) {
    let file = directory.path().join("repositories.yml");
    std::fs::write(&file, world.configuration()).expect("a configuration file");
}

/// A directory, and kill -9.
pub(crate) struct Kills {
    directory: Arc<TempDir>,
}

impl Kills {
    pub(crate) fn directory(&self) -> &std::path::Path {
        self.directory.path()
    }

    fn command(&self) -> Command {
        let mut command = entrepot(&["serve", "-c"]);
        command.arg(self.directory.path().join("repositories.yml"));
        command
    }
}

impl Place for Kills {
    const LOSS: Loss = Loss::Process;

    fn new(world: &World) -> Self {
        let directory = temporary();
        write_configuration(&directory, world);
        Self { directory }
    }

    fn start(&self) -> Registry {
        Registry::started_by(&self.directory, &mut self.command())
    }

    fn data(&self, registry: &Registry) -> PathBuf {
        registry.data()
    }

    fn end(&self, registry: Registry, world: &World, dice: &mut Dice) {
        world.let_vanish();
        registry.kill();
        world.has_ended();
        // A start that is cut short too, now and then.
        if dice.once_in(10) {
            let silent = [Stdio::null(), Stdio::null()];
            let [output, errors] = silent;
            let mut starting = self.command().stdout(output).stderr(errors).spawn().expect("it starts");
            std::thread::sleep(Duration::from_millis(dice.below(200)));
            starting.kill().expect("killed");
            starting.wait().expect("ended");
        }
    }
}

/// A disk of its own, and power cuts: ext4 in a file, which the kernel shuts down without writing anything more, as it
/// is asked to by `EXT4_IOC_SHUTDOWN`. Each process mounts it for itself alone, so nothing stays mounted after it.
pub(crate) struct PowerCuts {
    directory: Arc<TempDir>,
}

/// Of which only what is written takes room.
const DISK: u64 = 8 << 30;

/// A file of the test's own that is written just before each cut and never synced: it must not outlive it.
const UNSYNCED: &str = "unsynced";

impl PowerCuts {
    fn image(&self) -> PathBuf {
        self.directory.path().join("disk")
    }

    /// Whether the kernel still has the disk: two lives must never have it at once.
    fn is_attached(&self) -> bool {
        let wanted = self.image();
        let devices = std::fs::read_dir("/sys/block").expect("block devices");
        let mut files = devices.filter_map(|device| {
            let path = device.ok()?.path().join("loop/backing_file");
            std::fs::read_to_string(path).ok()
        });
        files.any(|file| std::path::Path::new(file.trim_end()) == wanted)
    }
}

impl Place for PowerCuts {
    const LOSS: Loss = Loss::Power;

    fn new(world: &World) -> Self {
        let directory = temporary();
        write_configuration(&directory, world);
        std::fs::create_dir(directory.path().join("data")).expect("a directory");
        let place = Self { directory };
        let disk = std::fs::File::create(place.image()).expect("a file");
        disk.set_len(DISK).expect("a sparse file");
        let made = Command::new("mkfs.ext4").args(["-q", "-F"]).arg(place.image()).status();
        let made = made.expect("D2 needs mkfs.ext4: install e2fsprogs");
        assert!(made.success(), "D2 needs ext4, and mkfs.ext4 failed");
        place
    }

    fn start(&self) -> Registry {
        let end = Instant::now() + PATIENCE;
        while self.is_attached() {
            assert!(Instant::now() < end, "the disk of the last life is still mounted");
            std::thread::sleep(Duration::from_millis(2));
        }
        let mount = "mount -o loop \"$0\" \"$1\" || { echo 'D2 needs root and a loop device' >&2; exit 1; }; shift; exec \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", mount]).arg(self.image());
        command.arg(self.directory.path().join("data"));
        command.args([env!("CARGO_BIN_EXE_entrepot"), "serve", "-c"]);
        command.arg(self.directory.path().join("repositories.yml"));
        command
            .env_remove("ENTREPOT_LOG")
            .env("ENTREPOT__STORAGE__MIN_FREE", "0%");
        // Fails, and shows why, where no disk can be mounted.
        let registry = Registry::started_by(&self.directory, &mut command);
        let unsynced = self.data(&registry).join(UNSYNCED);
        let left = std::fs::read(&unsynced).unwrap_or_default();
        assert!(
            left.is_empty(),
            "what nobody had synced is there: the power was not cut"
        );
        let _ = std::fs::remove_file(&unsynced);
        registry
    }

    fn data(&self, registry: &Registry) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", registry.process()));
        root.join(registry.data().strip_prefix("/").expect("from the root"))
    }

    fn end(&self, registry: Registry, world: &World, dice: &mut Dice) {
        let disk = self.data(&registry);
        std::fs::write(disk.join(UNSYNCED), "the control").expect("a disk");
        // From here on it may fail, and owes nobody an answer, but must not say that it has done what it cannot do.
        world.let_fail();
        world.let_vanish();
        let cut = r#"open(my $disk, "<", $ARGV[0]) or die $!; my $how = pack("L", 2); ioctl($disk, 0x8004587d, $how) or die $!"#;
        let status = Command::new("perl").args(["-e", cut]).arg(disk.join("lock")).status();
        assert!(status.expect("D2 needs perl").success(), "the power stays on");
        std::thread::sleep(Duration::from_millis(dice.below(30)));
        registry.kill();
        world.has_ended();
    }
}

/// How long the machine has let a thread of it wait for a processor, the one that waited longest: what it would have
/// been faster by with nothing else to do here.
fn withheld(registry: &Registry) -> Duration {
    let threads = std::fs::read_dir(format!("/proc/{}/task", registry.process())).expect("its threads");
    let waited = threads.filter_map(|thread| {
        let told = std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        told.split(' ').nth(1)?.parse().ok()
    });
    Duration::from_nanos(waited.max().unwrap_or(0))
}
