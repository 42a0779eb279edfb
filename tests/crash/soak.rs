//! D7: clients at work while what nothing needs is given back all the time, with hardly any grace. Nobody may notice.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use entrepot::oci::Digest;
use reqwest::StatusCode;
use tokio::task::JoinSet;

use crate::binary::{Registry, image_manifest, sha256, temporary};
use crate::caller::{Caller, Door, Gone};
use crate::check::{Check, Loss};
use crate::dice::{Dice, seed};
use crate::raw::metric;
use crate::support::size::Size;
use crate::tree;
use crate::workload::{Crowd, Growth};
use crate::world::World;

const CROWD: Crowd = Crowd {
    alone: 4,
    together: 2,
    pulling: 1,
    collecting: 1,
    // With a store that grew with every request, each pass would take longer than the one before.
    kept: KEPT,
    growth: Growth::PerPass(ADDED),
};
/// Images that each client adds at most between two passes: so many requests belong to them that all together are more than
/// the full size has for a pass.
const ADDED: usize = 8;
/// Images that each client has at a time.
const KEPT: usize = 40;
/// Who sign what they have pushed.
const SIGNING: usize = 2;
/// Requests, and passes over the store among them. The full size is what Quay's rewrite was shown to fail at, 40 times.
const FULL: (u64, u32) = (104_135, 481);
const GATE: (u64, u32) = (4_000, 25);

/// How many requests and passes there are to be. Of a number of passes, with as many requests to each as at the full size.
fn size() -> (u64, u32) {
    match Size::asked() {
        Size::Gate => GATE,
        Size::Full => FULL,
        Size::Count(passes) => (FULL.0 * u64::from(passes) / u64::from(FULL.1), passes),
    }
}

impl Caller {
    async fn sign_and_look(mut self) {
        let mut signed = Vec::new();
        let mut added = 0;
        while !self.world.is_over() {
            let done = if CROWD.growth.allows(&self.world, added) {
                added += 1;
                self.sign(&mut signed).await
            } else {
                self.pull("signed").await
            };
            if done.is_err() {
                return;
            }
            // Uploads that are left go on some day. Were they only ever begun, there would soon be as many as there may be.
            if self.dice.once_in(10) {
                Check::new(&self, Loss::Process).uploads().await;
            }
        }
    }

    /// An image, and a manifest about it, which is listed from then on.
    async fn sign(&mut self, signed: &mut Vec<(Digest, Digest)>) -> Result<(), Gone> {
        let layer = self.layer();
        let Some(subject) = self.push_image(std::slice::from_ref(&layer), Some("signed")).await? else {
            return Ok(());
        };
        let signature = self.attach(&subject, &layer).await?;
        let request = self.door.request("GET", &self.path(&format!("referrers/{subject}")));
        let answer = self.ask(request).await?;
        assert_eq!(answer.status, StatusCode::OK);
        let listed = String::from_utf8_lossy(&answer.body).contains(signature.as_str());
        assert!(listed, "{signature} is about {subject} and is not listed");
        self.pull("signed").await?;
        signed.push((subject, signature));
        if signed.len() > KEPT || self.dice.once_in(2) {
            let one = self.dice.below(signed.len() as u64);
            let (subject, signature) = signed.swap_remove(usize::try_from(one).expect("few"));
            self.delete_manifest(&signature).await?;
            self.delete_manifest(&subject).await?;
        }
        Ok(())
    }

    async fn attach(&self, subject: &Digest, layer: &Bytes) -> Result<Digest, Gone> {
        let digest = sha256(layer);
        let about = format!(
            r#","subject":{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{subject}","size":1}}"#
        );
        let manifest = Bytes::from(image_manifest((&digest, layer.len()), &[], &about));
        let signature = sha256(&manifest);
        self.world.note_manifest(&signature, &[digest]);
        assert!(
            self.push_manifest(&manifest, None, &[]).await?,
            "a blob that an image needs is gone"
        );
        Ok(signature)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d07_nobody_notices_that_room_is_given_back() {
    let (requests, enough) = size();
    let mut dice = Dice::new(seed("D7"));
    let world = World::new().await;
    world.publish(&mut dice, 20);
    let registry = Registry::start_in(&temporary(), &world.configuration());
    let door = Door::of(&registry);
    // Any answer of 5xx, any that breaks off, and any 404 for what was promised ends the test.
    let mut clients = world.crowd(&door, &CROWD, &mut dice);
    sign(&world, &door, &mut dice, &mut clients);
    let done = async {
        loop {
            let passes = metric(&registry, "entrepot_gc_runs_total{result=\"success\"}").await;
            if world.requests() >= requests && passes >= f64::from(enough) {
                return world.end_after(0);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::select! {
        () = done => {}
        Some(ended) = clients.join_next() => ended.expect("a client ends by failing"),
    }
    clients.join_all().await;
    // What was promised until now and no manifest needs may be gone, but for what was promised at last.
    world.has_ended();
    let checker = world.caller(&door, "", false, &mut dice);
    Check::new(&checker, Loss::Process).everything().await;
    let passes = metric(&registry, "entrepot_gc_runs_total{result=\"success\"}").await;
    let (taken, freed) = (
        metric(&registry, "entrepot_gc_blobs_total").await,
        metric(&registry, "entrepot_gc_freed_bytes_total").await,
    );
    assert!(taken > 0.0 && freed > 0.0, "nothing was ever given back");
    // What a pass cannot read it tells, and leaves what it may belong to alone: not because of a deletion beside it.
    assert!(!registry.log().contains("cannot be read"), "{}", registry.log());
    let data = registry.data();
    let directory = Arc::clone(&registry.directory);
    registry.stop();
    let manifests = tree::is_whole(&data);
    drop(directory);
    eprintln!(
        "D7: {} requests, {passes} passes that took {taken} contents away and freed {freed} bytes; {manifests} manifests, all whole",
        world.requests()
    );
}

fn sign(world: &Arc<World>, door: &Door, dice: &mut Dice, clients: &mut JoinSet<()>) {
    for number in 0..SIGNING {
        let caller = world.caller(door, &format!("signed{number}"), true, dice);
        clients.spawn(caller.sign_and_look());
    }
}
