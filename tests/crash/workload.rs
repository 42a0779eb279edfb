//! What clients do until it is over: pushes of all kinds, moves, deletions, pulls of what is here and of what is not.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use entrepot::oci::Digest;
use reqwest::StatusCode;
use tokio::task::JoinSet;

use crate::binary::sha256;
use crate::caller::{Answer, Caller, Door, Gone};
use crate::dice::Dice;
use crate::world::{Upstream, World};

/// Tags of an image: few, so that they move often.
const TAGS: u64 = 5;

/// How many clients of each kind.
pub(crate) struct Crowd {
    /// Each with an image of its own.
    pub(crate) alone: usize,
    /// Together in one image.
    pub(crate) together: usize,
    /// Who pull from the upstream.
    pub(crate) pulling: usize,
    /// Who have what nothing needs given back.
    pub(crate) collecting: usize,
    /// How many manifests each who is alone keeps; beyond that one goes for each that comes.
    pub(crate) kept: usize,
    /// How much each of them adds.
    pub(crate) growth: Growth,
}

/// How much a client adds to the store, by its pushes or by pulls of what was not here.
#[derive(Clone, Copy)]
pub(crate) enum Growth {
    /// Whatever the dice say.
    Free,
    /// So many images for each time that somebody has what nothing needs given back. Clients that do nothing else than push
    /// make garbage as fast as the disk takes it, and then a pass finds ever more of it than the one before.
    PerPass(usize),
}

impl Growth {
    /// Whether a client that has added so many may add one more.
    pub(crate) fn allows(self, world: &World, count: usize) -> bool {
        match self {
            Self::Free => true,
            Self::PerPass(most) => count < most * (1 + world.passes()),
        }
    }
}

impl World {
    /// Clients at work until the server is gone or it is over.
    pub(crate) fn crowd(self: &Arc<Self>, door: &Door, crowd: &Crowd, dice: &mut Dice) -> JoinSet<()> {
        let mut clients = JoinSet::new();
        for number in 0..crowd.alone {
            let caller = self.caller(door, &format!("own{number}"), true, dice);
            clients.spawn(caller.push_and_pull(crowd.kept, crowd.growth));
        }
        for _ in 0..crowd.together {
            let caller = self.caller(door, "shared", false, dice);
            clients.spawn(caller.push_and_pull(usize::MAX, crowd.growth));
        }
        for _ in 0..crowd.pulling {
            let caller = self.caller(door, "", false, dice);
            clients.spawn(caller.pull_through(crowd.growth));
        }
        for _ in 0..crowd.collecting {
            let caller = self.caller(door, "", false, dice);
            clients.spawn(caller.collect());
        }
        clients
    }
}

impl Caller {
    async fn push_and_pull(mut self, kept: usize, growth: Growth) {
        let mut known = if self.is_alone {
            self.world.oracle.manifests(&self.image)
        } else {
            Vec::new()
        };
        // Old ones too are moved and deleted, but not all are asked for.
        while known.len() > 20 {
            let one = self.dice.below(known.len() as u64);
            known.swap_remove(usize::try_from(one).expect("few"));
        }
        let mut added = 0;
        while !self.world.is_over() {
            let done = if known.len() > kept {
                self.delete_one_of(&mut known).await
            } else {
                let may_add = growth.allows(&self.world, added);
                self.step(&mut known, may_add.then_some(&mut added)).await
            };
            if done.is_err() {
                return;
            }
        }
    }

    async fn step(&mut self, known: &mut Vec<Digest>, added: Option<&mut usize>) -> Result<(), Gone> {
        let tag = format!("t{}", self.dice.below(TAGS));
        match (self.dice.below(20), added) {
            (0..=7, Some(added)) => {
                *added += 1;
                let layers: Vec<Bytes> = (0..=self.dice.below(3)).map(|_| self.layer()).collect();
                let tag = (!self.dice.once_in(6)).then_some(tag);
                known.extend(self.push_image(&layers, tag.as_deref()).await?);
            }
            (8..=10, _) => {
                if let Some(digest) = self.dice.pick(known).cloned() {
                    self.move_tag(&tag, &digest).await?;
                }
            }
            (11..=12, _) => drop(self.delete_tag(&tag).await?),
            (13..=14, _) => {
                // Where others push, what they are about to tag must not go.
                if self.is_alone && !known.is_empty() {
                    self.delete_one_of(known).await?;
                }
            }
            (15, Some(added)) => {
                *added += 1;
                let bytes = self.layer();
                self.push_in_pieces(&bytes, 2, true).await?;
            }
            _ => self.pull(&tag).await?,
        }
        Ok(())
    }

    async fn delete_one_of(&mut self, known: &mut Vec<Digest>) -> Result<(), Gone> {
        let one = self.dice.below(known.len() as u64);
        let digest = known.swap_remove(usize::try_from(one).expect("few"));
        self.delete_manifest(&digest).await.map(drop)
    }

    /// A pull of what was pushed, whose bodies are all read.
    pub(crate) async fn pull(&self, tag: &str) -> Result<(), Gone> {
        let answer = self
            .ask(self.door.request("GET", &self.path(&format!("manifests/{tag}"))))
            .await?;
        let found = match answer.status {
            StatusCode::OK => Some(answer.digest()),
            StatusCode::NOT_FOUND => None,
            status if status.is_server_error() => return Ok(()),
            status => panic!("{tag}: {status}"),
        };
        if self.is_alone {
            let possible = self.world.oracle.possible(&self.tag_key(tag));
            assert!(possible.contains(&found), "{tag} is {found:?} and may be {possible:?}");
        }
        for digest in blobs_of(&answer) {
            self.pull_blob(&self.path(&format!("blobs/{digest}")), &digest).await?;
        }
        Ok(())
    }

    pub(crate) async fn pull_blob(&self, path: &str, digest: &Digest) -> Result<(), Gone> {
        let answer = self.ask(self.door.request("GET", path)).await?;
        if answer.status.is_server_error() {
            return Ok(());
        }
        assert_eq!(answer.status, StatusCode::OK, "{path}");
        assert_eq!(sha256(&answer.body), *digest, "a wrong body: {path}");
        Ok(())
    }

    async fn collect(mut self) {
        while !self.world.is_over() && self.collect_once().await.is_ok() {
            self.world.count_pass();
            tokio::time::sleep(Duration::from_millis(20 + self.dice.below(100))).await;
        }
    }

    pub(crate) async fn collect_once(&self) -> Result<(), Gone> {
        let request = self
            .door
            .request("POST", "/api/v1/gc")
            .header("content-type", "application/json")
            // Its answer comes when the pass is over, which is as long as what there is to go through.
            .timeout(Duration::from_secs(600));
        let answer = self.ask(request.body("{}")).await?;
        let is_done = answer.status == StatusCode::OK || answer.status.is_server_error();
        assert!(is_done, "{}: {:?}", answer.status, answer.body);
        Ok(())
    }

    async fn pull_through(mut self, growth: Growth) {
        let mut added = 0;
        while !self.world.is_over() {
            let world = Arc::clone(&self.world);
            if self.dice.once_in(8) && growth.allows(&world, added) {
                added += 1;
                world.publish(&mut self.dice, 1);
            }
            let Some(image) = world.published(&mut self.dice) else {
                continue;
            };
            if self.pull_from_upstream(&image).await.is_err() {
                return;
            }
        }
    }

    pub(crate) async fn pull_from_upstream(&self, image: &Upstream) -> Result<(), Gone> {
        let (name, manifest, blobs) = image;
        let answer = self
            .ask(self.door.request("GET", &format!("/v2/hub/{name}/manifests/v1")))
            .await?;
        if !answer.status.is_server_error() {
            assert_eq!(answer.status, StatusCode::OK, "{name}");
            assert_eq!(answer.digest(), *manifest);
        }
        for digest in blobs {
            self.pull_blob(&format!("/v2/hub/{name}/blobs/{digest}"), digest)
                .await?;
        }
        Ok(())
    }
}

/// The blobs that a manifest names; none if the answer has none.
pub(crate) fn blobs_of(answer: &Answer) -> Vec<Digest> {
    if answer.status != StatusCode::OK {
        return Vec::new();
    }
    let document: serde_json::Value = serde_json::from_slice(&answer.body).expect("a manifest");
    let layers = document["layers"].as_array().expect("layers");
    let descriptors = layers.iter().chain([&document["config"]]);
    let digests = descriptors.map(|descriptor| descriptor["digest"].as_str().expect("a digest"));
    digests.map(|digest| digest.parse().expect("a digest")).collect()
}
