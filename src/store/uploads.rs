//! Push sessions: blobs that arrive in several requests, and may go on after a restart.
//!
//! A session is a directory with the bytes and a note on whose they are. The hash so far is kept in memory only: when a
//! session is taken up after a restart, its bytes are read again. One request works on a session at a time, and holds it
//! by an [`Upload`]; whichever way that is dropped, what was appended stays and the session is free again. A session
//! belongs to whoever began it: for everybody else there is none.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use super::blobs::Blobs;
use super::disk::{Scrap, is_absence, read_small};
use super::error::Error;
use super::growing::{Growing, Progress};
use super::image::Image;
use super::layout::Place;
use super::space::Space;
use super::spool::VerifiedFile;
use super::{Inner, Options, blocking};
use crate::clock;
use crate::oci::operation::UploadId;
use crate::oci::{Algorithm, Digest};

/// The owner of what was begun without saying who one is.
pub const NOBODY: &str = "";
/// The longest note that is read.
const LONGEST_NOTE: u64 = 4096;

/// All sessions.
#[derive(Debug)]
pub(super) struct Uploads {
    blobs: Arc<Blobs>,
    space: Arc<Space>,
    most: usize,
    longest: u64,
    idle: Duration,
    sessions: Mutex<HashMap<UploadId, Session>>,
}

#[derive(Debug)]
struct Session {
    place: Place,
    owner: Box<str>,
    algorithm: Algorithm,
    /// How long it had been idle when we came to know of it.
    idle_before: Duration,
    touched: Instant,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Nobody works on it. Without progress, its bytes are to be read again.
    Free(Option<Progress>),
    /// A request does.
    Busy,
}

/// What a session's directory says of it, as written.
#[derive(Serialize, Deserialize)]
struct Note {
    repository: String,
    image: String,
    /// Not in the notes of older versions, which let everybody in.
    #[serde(default)]
    owner: String,
    algorithm: String,
    /// Seconds since 1970, for people.
    started: u64,
}

impl Uploads {
    /// Finds the sessions of earlier processes.
    pub(super) fn open(blobs: &Arc<Blobs>, space: &Arc<Space>, options: &Options) -> Result<Self, Error> {
        let root = blobs.layout.uploads();
        let mut sessions = HashMap::new();
        for entry in fs::read_dir(&root).map_err(Error::disk(&root))? {
            let path = entry.map_err(Error::disk(&root))?.path();
            let id = path.file_name().and_then(|name| UploadId::parse(name.to_str()?));
            if let Some(id) = id
                && let Some(session) = remembered(&path)
            {
                sessions.insert(id, session);
            } else if let Err(error) = fs::remove_dir_all(&path) {
                tracing::warn!(path = %path.display(), %error, "what is left of an upload stays");
            }
        }
        let uploads = Self {
            blobs: Arc::clone(blobs),
            space: Arc::clone(space),
            most: options.uploads,
            longest: options.upload_limit,
            idle: options.upload_idle,
            sessions: Mutex::new(sessions),
        };
        uploads.count(&uploads.lock());
        Ok(uploads)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<UploadId, Session>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, sessions: &HashMap<UploadId, Session>) {
        self.blobs.metrics.uploads_open(sessions.len());
    }

    /// Makes room for a new session, which is busy from the start.
    fn admit(self: &Arc<Self>, place: &Place, owner: &str, algorithm: Algorithm) -> Result<Hold, Error> {
        self.blobs.disk.check()?;
        self.space.check()?;
        let mut sessions = self.lock();
        if sessions.len() >= self.most {
            return Err(Error::TooManyUploads);
        }
        let id = UploadId::new();
        let session = Session {
            place: place.clone(),
            owner: owner.into(),
            algorithm,
            idle_before: Duration::ZERO,
            touched: Instant::now(),
            state: State::Busy,
        };
        sessions.insert(id, session);
        self.count(&sessions);
        // Until its files are made there is nothing to go on with: whatever comes in between ends it.
        Ok(Hold {
            uploads: Arc::clone(self),
            id,
            algorithm,
            progress: None,
            ended: true,
        })
    }

    /// Takes a session up; none if it is not there, or another image's or owner's.
    fn hold(self: &Arc<Self>, id: UploadId, place: &Place, owner: &str) -> Result<Option<Hold>, Error> {
        let mut sessions = self.lock();
        let is_meant = |session: &&mut Session| session.place == *place && *session.owner == *owner;
        let Some(session) = sessions.get_mut(&id).filter(is_meant) else {
            return Ok(None);
        };
        self.occupy(id, session).map(Some).ok_or(Error::UploadBusy)
    }

    /// Removes the sessions that have been idle for too long.
    pub(super) fn expire(self: &Arc<Self>) -> usize {
        let expired: Vec<Hold> = {
            let mut sessions = self.lock();
            let idle = |session: &Session| session.idle_before + session.touched.elapsed() >= self.idle;
            let expired = sessions.iter_mut().filter(|(_, session)| idle(session));
            expired.filter_map(|(id, session)| self.occupy(*id, session)).collect()
        };
        expired.into_iter().map(Hold::end).count()
    }

    /// Makes a free session busy.
    fn occupy(self: &Arc<Self>, id: UploadId, session: &mut Session) -> Option<Hold> {
        match std::mem::replace(&mut session.state, State::Busy) {
            State::Busy => None,
            State::Free(progress) => Some(Hold {
                uploads: Arc::clone(self),
                id,
                algorithm: session.algorithm,
                progress,
                ended: false,
            }),
        }
    }
}

/// The note on a session that begins now.
pub(super) fn note(place: &Place, owner: &str, algorithm: Algorithm) -> Vec<u8> {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let note = Note {
        repository: place.repository.to_string(),
        image: place.image.to_string(),
        owner: owner.to_owned(),
        algorithm: algorithm.to_string(),
        started: now.as_secs(),
    };
    serde_json::to_vec(&note).unwrap_or_default()
}

/// Whose session a note is about.
pub(super) fn read_note(bytes: &[u8]) -> Option<(Place, Box<str>, Algorithm)> {
    let note: Note = serde_json::from_slice(bytes).ok()?;
    let place = Place {
        repository: note.repository.parse().ok()?,
        image: note.image.parse().ok()?,
    };
    Some((place, note.owner.into(), note.algorithm.parse().ok()?))
}

/// A session of an earlier process, if its directory is whole.
fn remembered(path: &Path) -> Option<Session> {
    let (place, owner, algorithm) = read_note(&read_small(&path.join("state.json"), LONGEST_NOTE).ok()??)?;
    let written = fs::metadata(path.join("data")).ok()?.modified().ok()?;
    Some(Session {
        place,
        owner,
        algorithm,
        idle_before: clock::age(written, clock::now()).unwrap_or_default(),
        touched: Instant::now(),
        state: State::Free(None),
    })
}

/// A session that is ours alone. Dropping it frees the session.
#[derive(Debug)]
struct Hold {
    uploads: Arc<Uploads>,
    id: UploadId,
    algorithm: Algorithm,
    progress: Option<Progress>,
    ended: bool,
}

impl Hold {
    /// Makes the files of a new session.
    fn create(&self, place: &Place, owner: &str) -> Result<Growing, Error> {
        let directory = self.uploads.blobs.layout.upload(self.id);
        fs::create_dir(&directory).map_err(Error::disk(&directory))?;
        let path = directory.join("state.json");
        fs::write(&path, note(place, owner, self.algorithm)).map_err(Error::disk(&path))?;
        let path = directory.join("data");
        Growing::create(&path, self.algorithm).map_err(Error::disk(&path))
    }

    /// Opens the file of a session, or finds that it is gone.
    fn reopen(mut self) -> Result<Option<(Self, Growing)>, Error> {
        let path = self.uploads.blobs.layout.upload(self.id).join("data");
        match Growing::reopen(&path, self.algorithm, self.progress.take()) {
            Ok(growing) => Ok(Some((self, growing))),
            Err(error) if is_absence(&error) => {
                self.end();
                Ok(None)
            }
            Err(error) => Err(Error::disk(&path)(error)),
        }
    }

    /// Ends the session: nothing is left of it.
    fn end(mut self) {
        self.ended = true;
        let directory = self.uploads.blobs.layout.upload(self.id);
        // Its data have mostly been moved to where they belong.
        let _ = fs::remove_file(directory.join("state.json"));
        if fs::remove_dir(&directory).is_ok() {
            return;
        }
        if let Err(error) = fs::remove_dir_all(&directory)
            && !is_absence(&error)
        {
            tracing::warn!(path = %directory.display(), %error, "what is left of an upload stays");
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut sessions = self.uploads.lock();
        if self.ended {
            sessions.remove(&self.id);
            self.uploads.count(&sessions);
        } else if let Some(session) = sessions.get_mut(&self.id) {
            session.idle_before = Duration::ZERO;
            session.touched = Instant::now();
            session.state = State::Free(self.progress.take());
        }
    }
}

/// A session that is ours alone and ends with this.
#[derive(Debug)]
struct Ending(Option<Hold>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.take().into_iter().for_each(Hold::end);
    }
}

/// A push session, held by one request. Dropping it keeps the session for the next one, with all that was appended.
#[derive(Debug)]
pub struct Upload {
    image: Image,
    /// Before the hold: the file is closed when the session is freed.
    growing: Option<Growing>,
    hold: Option<Hold>,
    id: UploadId,
    longest: u64,
}

impl Upload {
    /// Its name.
    pub const fn id(&self) -> UploadId {
        self.id
    }

    /// How many bytes have come.
    pub fn offset(&self) -> u64 {
        self.growing.as_ref().map_or(0, Growing::written)
    }

    /// Appends and hashes, on the caller's task. After an error nothing of `bytes` counts as come.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let limit = self.longest;
        if self.offset().saturating_add(bytes.len() as u64) > limit {
            return Err(Error::UploadTooLarge { limit });
        }
        let Some(growing) = &mut self.growing else {
            return Err(Error::Closed);
        };
        let Inner { space, disk, .. } = &*self.image.inner;
        disk.check()?;
        space.check()?;
        let data = || self.image.inner.blobs.layout.upload(self.id).join("data");
        let appended = growing.append(bytes).map_err(|error| Error::disk(&data())(error));
        // The disk knows better than what it said a moment ago.
        appended.inspect_err(|_| space.forget())
    }

    /// Ends a request that does not end the upload.
    pub fn save(self) {
        drop(self);
    }

    /// Ends the upload: if its bytes have this digest they are a blob of the image now, durably. The session is gone
    /// either way.
    pub async fn finish(mut self, digest: &Digest) -> Result<(), Error> {
        let (Some(growing), Some(hold)) = (self.growing.take(), self.hold.take()) else {
            return Err(Error::Closed);
        };
        let (image, expected, id) = (self.image.clone(), digest.clone(), self.id);
        let uploads = Arc::clone(&hold.uploads);
        let ending = Ending(Some(hold));
        let (landing, ending) = blocking(move || {
            image
                .inner
                .check_quota(&image.place.repository, Some((&expected, growing.written())))?;
            uploads.space.check()?;
            let scrap = Scrap::new(uploads.blobs.layout.upload(id).join("data"));
            let verified = VerifiedFile::verify(growing, scrap, &expected)?;
            Ok((image.prepare(expected, Some(verified))?, ending))
        })
        .await?;
        self.image.land(landing, ending).await
    }

    /// Ends the upload without a blob.
    pub async fn cancel(mut self) -> Result<(), Error> {
        drop(self.growing.take());
        let Some(hold) = self.hold.take() else { return Ok(()) };
        blocking(move || {
            hold.end();
            Ok(())
        })
        .await
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some(hold) = &mut self.hold {
            hold.progress = self.growing.take().map(Growing::park);
        }
    }
}

impl Image {
    /// Begins an upload into this image. Naming the algorithm of the final digest saves reading the bytes again.
    pub async fn begin_upload(&self, algorithm: Option<Algorithm>, owner: &str) -> Result<Upload, Error> {
        let mut hold = self
            .inner
            .uploads
            .admit(&self.place, owner, algorithm.unwrap_or(Algorithm::Sha256))?;
        let (image, owner) = (self.clone(), owner.to_owned());
        blocking(move || {
            let begun = image.inner.check_quota(&image.place.repository, None);
            match begun.and_then(|()| hold.create(&image.place, &owner)) {
                Ok(growing) => {
                    hold.ended = false;
                    Ok(Upload::new(image, hold, growing))
                }
                Err(error) => {
                    hold.end();
                    Err(error)
                }
            }
        })
        .await
    }

    /// Takes up an upload into this image; none if there is no such one, or it is somebody else's.
    pub async fn upload(&self, id: UploadId, owner: &str) -> Result<Option<Upload>, Error> {
        let Some(hold) = self.inner.uploads.hold(id, &self.place, owner)? else {
            return Ok(None);
        };
        let image = self.clone();
        blocking(move || {
            let reopened = hold.reopen()?;
            Ok(reopened.map(|(hold, growing)| Upload::new(image, hold, growing)))
        })
        .await
    }
}

impl Upload {
    fn new(image: Image, hold: Hold, growing: Growing) -> Self {
        Self {
            id: hold.id,
            longest: hold.uploads.longest,
            image,
            growing: Some(growing),
            hold: Some(hold),
        }
    }
}
