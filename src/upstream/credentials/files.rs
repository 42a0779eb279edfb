//! Files that say who we are: written by somebody else, and read each time.

use std::path::Path;

use tokio::io::AsyncReadExt as _;

use super::super::Error;
use super::missing;

/// Longer than a file of profiles or of logins, or a token.
const LONGEST: u64 = 1 << 20;

/// A text file that is not endless. `Ok(None)` if there is none.
pub(super) async fn read(path: &Path) -> Result<Option<String>, Error> {
    let wrong = |why: String| missing(format!("cannot read {}: {why}", path.display()));
    let file = match tokio::fs::File::open(path).await {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(wrong(error.to_string())),
    };
    let mut text = String::new();
    let read = file.take(LONGEST + 1).read_to_string(&mut text).await;
    read.map_err(|error| wrong(error.to_string()))?;
    if text.len() as u64 > LONGEST {
        return Err(wrong("it is too long for what it should be".to_owned()));
    }
    Ok(Some(text))
}
