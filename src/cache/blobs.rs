//! Blobs through a remote: what is stored and known to be an image's is served; what is not here is fetched, by one
//! task for all who want it ([`super::fetch`]).

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::download::{Arrival, Follower};
use super::fetch::Task;
use super::negative::What;
use super::passage::Rest;
use super::source::Source;
use super::{Answer, Blob, Cached, Error, Inner};
use crate::oci::{self, Digest, ImageName};
use crate::store::BlobFile;

/// How often somebody begins anew who waited for a fetch on behalf of another image that came to nothing.
const TRIES: u32 = 6;

/// A fetch as those see it who join it.
#[derive(Clone)]
pub(super) struct Fetch {
    /// The image that it was begun for.
    image: ImageName,
    /// The images that may have it too, as upstream has said meanwhile.
    also: Arc<Mutex<HashSet<ImageName>>>,
    /// Nobody had asked for it when it was begun.
    is_ahead: bool,
    state: watch::Receiver<State>,
}

/// How far a fetch is before anybody can read of it.
#[derive(Clone)]
pub(super) enum State {
    /// Upstream has not answered yet.
    Asking,
    /// Upstream does not have it.
    Absent,
    /// Upstream did not say, or we could not begin.
    Failed(Error),
    /// It is on its way, or has come, or has failed on its way: the arrival tells.
    Arriving(Arrival),
    /// It is on its way, but there is no room for it here: this is where everybody can have it.
    Unkept(Rest),
}

impl Inner {
    pub(super) async fn blob(&self, image: &ImageName, digest: &Digest) -> Answer<Blob> {
        let mut is_allowed = false;
        for _ in 0..TRIES {
            if let Some(file) = self.here(image).blob(digest).await? {
                return Ok(Some(Cached::hit(Blob::Stored(file))));
            }
            let (fetch, joined) = match self.fetches.under_way(digest) {
                Some(fetch) => (fetch, true),
                None => match self.store.open_blob(digest).await? {
                    Some(file) => return self.adopt(image, digest, file, is_allowed).await,
                    None => self.fetch(image, digest, false)?,
                },
            };
            if fetch.image != *image {
                if !is_allowed {
                    if self.ask_for_size(image, digest).await?.is_none() {
                        return Ok(None);
                    }
                    is_allowed = true;
                    continue;
                }
                fetch.also_for(image);
            }
            if joined {
                self.metrics.joined(self.key.as_str());
            }
            if let Some(answer) = fetch.answer(image).await {
                return answer;
            }
        }
        Err(Error::Lost)
    }

    pub(super) async fn blob_size(&self, image: &ImageName, digest: &Digest) -> Answer<u64> {
        if let Some(size) = self.here(image).has_blob(digest).await? {
            return Ok(Some(Cached::hit(size)));
        }
        Ok(self.ask_for_size(image, digest).await?.map(Cached::miss))
    }

    async fn ask_for_size(&self, image: &ImageName, digest: &Digest) -> oci::Answer<u64, Error> {
        let what = What::Blob(digest.clone());
        if self.negative.knows(image, &what) {
            return Ok(None);
        }
        self.check_online()?;
        let _held = self.begin_miss()?;
        let asked = self.negative.asked();
        let answer = self.upstream.head_blob(image, digest).await;
        let size = self.judge(answer)?;
        if size.is_none() {
            self.negative.note(asked, image, &what);
        }
        Ok(size)
    }

    /// What another image has brought here: only upstream knows whether this one may have it, so without its word there
    /// is no answer.
    async fn adopt(&self, image: &ImageName, digest: &Digest, file: BlobFile, is_allowed: bool) -> Answer<Blob> {
        let here = self.here(image);
        // A fetch for this image may just have ended.
        if here.has_blob(digest).await?.is_none() {
            if !is_allowed {
                match self.ask_for_size(image, digest).await? {
                    None => return Ok(None),
                    Some(size) if size != file.size => {
                        return Err(self.lie("it gives another length for a blob that is stored"));
                    }
                    Some(_) => {}
                }
            }
            here.link_blob(digest).await?;
        }
        Ok(Some(Cached::hit(Blob::Stored(file))))
    }

    /// Joins the fetch that is under way, or begins it for this image.
    pub(super) fn fetch(&self, image: &ImageName, digest: &Digest, is_ahead: bool) -> Result<(Fetch, bool), Error> {
        self.check_online()?;
        let inner = self.myself.upgrade().ok_or(Error::Lost)?;
        // Who joins what is under way costs hardly more than a hit.
        let held = match self.fetches.under_way(digest) {
            Some(_) => None,
            None => Some(self.begin_miss()?),
        };
        Ok(self.fetches.join_or_start(digest, |room| {
            let (tell, told) = watch::channel(State::Asking);
            let fetch = Fetch {
                image: image.clone(),
                also: Arc::default(),
                is_ahead,
                state: told,
            };
            let task = Task {
                source: Source {
                    inner,
                    image: image.clone(),
                    digest: digest.clone(),
                },
                also: Arc::clone(&fetch.also),
                is_ahead,
            };
            tokio::spawn(async move {
                let _held = held;
                task.run(room, tell).await;
            });
            fetch
        }))
    }
}

impl Fetch {
    /// Lets an image have the blob too, when it is here.
    fn also_for(&self, image: &ImageName) {
        let mut also = self.also.lock().unwrap_or_else(PoisonError::into_inner);
        also.insert(image.clone());
    }

    /// Waits until there is something to read, or nothing to wait for. `None` if it came to nothing for another image,
    /// or with what nobody else had a use for: that says nothing about this one.
    async fn answer(&self, image: &ImageName) -> Option<Answer<Blob>> {
        let mut follower = match self.begun().await {
            State::Arriving(mut arrival) => match arrival.settle_if_small().await {
                Ok(()) => arrival.follow(),
                Err(error) => return Some(Err(error)),
            },
            State::Unkept(rest) => Follower::of(&rest),
            _ if self.image != *image => return None,
            State::Failed(_) if self.is_ahead => return None,
            State::Failed(error) => return Some(Err(error)),
            State::Absent | State::Asking => return Some(Ok(None)),
        };
        let settled = follower.settle_if_small().await;
        Some(settled.map(|()| Some(Cached::miss(Blob::Arriving(follower)))))
    }

    /// Waits until upstream has answered.
    pub(super) async fn begun(&self) -> State {
        let mut state = self.state.clone();
        state
            .wait_for(|state| !matches!(state, State::Asking))
            .await
            .map_or(State::Failed(Error::Lost), |state| state.clone())
    }

    /// Waits until its task is over.
    pub(super) async fn over(&self) {
        let mut state = self.state.clone();
        while state.changed().await.is_ok() {}
    }
}
