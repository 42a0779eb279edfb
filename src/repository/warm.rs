//! Keeping images warm: what a remote is configured to have is fetched ahead of time, again and again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::sleep;

use super::RemoteRepository;
use crate::config::{WarmConfig, WarmImage};
use crate::oci::Reference;

/// How many tags of one image are kept warm.
const TAGS: usize = 100;
/// How long after the start the first round begins, at the latest.
const SOON: Duration = Duration::from_secs(30);

impl RemoteRepository {
    /// Whether there is anything to keep warm.
    pub fn is_kept_warm(&self) -> bool {
        !self.config().warm.is_empty()
    }

    /// Keeps warm what is to be, for as long as it is polled.
    pub async fn keep_warm(self: Arc<Self>) {
        let rounds = self.config().warm.iter().map(|warm| self.rounds(warm));
        futures_util::future::join_all(rounds).await;
    }

    async fn rounds(&self, warm: &WarmConfig) {
        let mut complained = BTreeSet::new();
        // Not all remotes of all servers at the same moment.
        sleep(SOON.min(warm.every).mul_f64(chance())).await;
        loop {
            for image in &warm.images {
                self.warm(image, &mut complained).await;
            }
            sleep(warm.every.mul_f64(0.1f64.mul_add(chance(), 0.95))).await;
        }
    }

    /// One image. What goes wrong is told once, until it goes well again.
    async fn warm(&self, warm: &WarmImage, complained: &mut BTreeSet<String>) {
        for reference in self.warm_references(warm, complained).await {
            let what = format!("{}:{reference}", warm.image);
            match self.warm_one(warm, &reference).await {
                Ok(()) => {
                    complained.remove(&what);
                }
                Err(error) => {
                    let repository = self.key();
                    if complained.insert(what) {
                        tracing::warn!(%repository, image = %warm.image, %reference, error, "an image could not be fetched ahead");
                    }
                }
            }
        }
    }

    async fn warm_references(&self, warm: &WarmImage, complained: &mut BTreeSet<String>) -> Vec<Reference> {
        let pattern = warm.tags.as_str();
        if !pattern.contains(['*', '?', '[', '{', '\\']) {
            return pattern.parse().into_iter().collect();
        }
        let (repository, what) = (self.key(), warm.image.to_string());
        let listed = match self.tags(&warm.image).await {
            Ok(listed) => listed.map(|listed| listed.entries).unwrap_or_default(),
            Err(error) => {
                if complained.insert(what) {
                    tracing::warn!(%repository, image = %warm.image, %error, "the tags to fetch ahead could not be listed");
                }
                return Vec::new();
            }
        };
        complained.remove(&what);
        let matching: Vec<Reference> = listed
            .iter()
            .filter(|tag| warm.tags.matches(tag))
            .filter_map(|tag| tag.parse().ok())
            .collect();
        let left_out = matching.len().saturating_sub(TAGS);
        if left_out > 0 && complained.insert(format!("{what} {pattern}")) {
            tracing::warn!(
                %repository, image = %warm.image, pattern, left_out,
                "more tags match than are fetched ahead: make the pattern narrower"
            );
        }
        // The last by name: of versions, more often the newer ones.
        matching.into_iter().skip(left_out).collect()
    }

    async fn warm_one(&self, warm: &WarmImage, reference: &Reference) -> Result<(), String> {
        let (tell, mut told) = mpsc::channel(16);
        let listen = async { while told.recv().await.is_some() {} };
        let fetch = async {
            let fetched = self.prefetch(&warm.image, reference, None, &tell).await;
            drop(tell);
            fetched
        };
        let (fetched, ()) = tokio::join!(fetch, listen);
        match fetched {
            Ok(Some(fetched)) => match fetched.why {
                Some(why) => Err(format!("{} pieces are missing: {why}", fetched.failed)),
                None => Ok(()),
            },
            Ok(None) => Err("there is none".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// Something between 0 and 1.
fn chance() -> f64 {
    let (bits, _) = uuid::Uuid::new_v4().as_u64_pair();
    f64::from(u32::try_from(bits >> 32).unwrap_or_default()) / f64::from(u32::MAX)
}
