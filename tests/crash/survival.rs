//! D1 and D2: one life after the other, each ended at any moment of anything, and what the next one has of it.

use std::sync::Arc;
use std::time::Duration;

use entrepot::oci::Digest;

use crate::binary::{Registry, sha256};
use crate::caller::Door;
use crate::check::{Check, staging_is_clean};
use crate::dice::{Dice, seed};
use crate::places::{Kills, Place, PowerCuts, started};
use crate::support::size::Size;
use crate::support::upstream::noise;
use crate::tree;
use crate::workload::{Crowd, Growth};
use crate::world::World;

const CROWD: Crowd = Crowd {
    alone: 5,
    together: 2,
    pulling: 2,
    collecting: 1,
    kept: usize::MAX,
    growth: Growth::Free,
};
/// A store that has more than this many manifests gives way to a new one: readiness within 5 s is promised up to here.
const MANIFESTS: usize = 10_000;

/// How many lives, and for how many milliseconds at most: as in the gate, at the full size, or as many as are asked for.
fn size(gate: (u32, u64)) -> (u32, u64) {
    const LONGEST: u64 = 2_000;
    match Size::asked() {
        Size::Gate => gate,
        Size::Full => (1_000, LONGEST),
        Size::Count(lives) => (lives, LONGEST),
    }
}

/// So many lives, of which none lasts longer than so many milliseconds.
async fn survive<P: Place>(test: &str, lives: u32, longest: u64) {
    let mut dice = Dice::new(seed(test));
    let (mut ended, mut acknowledged, mut requests, mut longest_start) = (0, 0, 0, Duration::ZERO);
    while ended < lives {
        let world = World::new().await;
        let place = P::new(&world);
        let manifests = loop {
            let registry = begin(&place, &world, &mut dice, false).await;
            let clients = world.crowd(&Door::of(&registry), &CROWD, &mut dice);
            tokio::time::sleep(Duration::from_millis(dice.below(longest))).await;
            place.end(registry, &world, &mut dice);
            clients.join_all().await;
            ended += 1;
            if ended % 100 == 0 {
                eprintln!("{test}: {ended} of {lives}");
            }
            if ended == lives || world.manifests() > MANIFESTS {
                let registry = begin(&place, &world, &mut dice, true).await;
                break tree::is_whole(&place.data(&registry));
            }
        };
        eprintln!("{test}: {manifests} manifests, all whole");
        acknowledged += world.oracle.acknowledged();
        requests += world.requests();
        longest_start = longest_start.max(world.longest_start());
    }
    eprintln!(
        "{test}: {ended} ends, {requests} requests, {acknowledged} acknowledged changes, none lost; ready within {longest_start:?}"
    );
    assert!(acknowledged > 5 * u64::from(lives), "next to nothing was done");
}

/// A new life, that has all that it must have.
async fn begin<P: Place>(place: &P, world: &Arc<World>, dice: &mut Dice, is_last: bool) -> Registry {
    world.begin();
    let registry = started(place, world).await;
    staging_is_clean(&place.data(&registry)).await;
    let checker = world.caller(&Door::of(&registry), "", false, dice);
    let check = Check::new(&checker, P::LOSS);
    if is_last {
        check.everything().await;
    } else {
        check.touched(dice).await;
    }
    registry
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn d01_what_was_acknowledged_outlives_kill_9() {
    let (lives, longest) = size((50, 400));
    survive::<Kills>("D1", lives, longest).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn d02_what_was_acknowledged_outlives_a_power_cut() {
    let (lives, longest) = size((20, 1_000));
    survive::<PowerCuts>("D2", lives, longest).await;
}

/// Everything that this finds missing was taken away on purpose.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d01_a_loss_would_be_noticed() {
    let world = World::new().await;
    let place = Kills::new(&world);
    let mut dice = Dice::new(1);
    let registry = started(&place, &world).await;
    let mut caller = world.caller(&Door::of(&registry), "own0", true, &mut dice);
    let layer = noise(1_000, 1);
    let pushed = caller.push_image(std::slice::from_ref(&layer), Some("t0")).await;
    let manifest = pushed.expect("an answer").expect("pushed");
    let left = caller.push_in_pieces(&noise(3_000, 2), 2, true).await;
    left.expect("answers");
    let data = registry.data();
    registry.kill();
    tree::is_whole(&data);

    let image = data.join("docker/registry/v2/repositories/local/own0");
    let current = image.join("_manifests/tags/t0/current/link");
    let file = |digest: &Digest| {
        let hex = digest.hex();
        let blobs = data.join("docker/registry/v2/blobs/sha256");
        blobs.join(&hex[..2]).join(hex).join("data")
    };
    let (manifest, layer) = (file(&manifest), file(&sha256(&layer)));
    for lost in [data.join("uploads"), current, manifest, layer] {
        let aside = data.with_file_name("aside");
        std::fs::rename(&lost, &aside).expect("it is there");
        let registry = started(&place, &world).await;
        let checker = world.caller(&Door::of(&registry), "", false, &mut dice);
        let outcome = tokio::spawn(async move { Check::new(&checker, Kills::LOSS).everything().await }).await;
        assert!(
            outcome.is_err_and(|error| error.is_panic()),
            "{} is not missed",
            lost.display()
        );
        registry.kill();
        if lost.is_dir() {
            std::fs::remove_dir_all(&lost).expect("an empty one");
        }
        std::fs::rename(&aside, &lost).expect("it goes back");
    }
}
