//! The users of the password file.
//!
//! Whoever is not in it costs as much as whoever is: their password is compared with a hash that nothing has. Of several
//! costs each name has one that is always the same, in the same shares as the users' own, so that the time says nothing
//! about which names exist.

use std::collections::BTreeMap;
use std::fmt;

use ring::hmac;

use super::signer::random;
use crate::config::Secret;

/// The users and their hashes.
pub(super) struct Passwords {
    hashes: BTreeMap<String, Secret>,
    /// What strangers' passwords are compared with: as many as there are users, each at the cost of one.
    strangers: Vec<Secret>,
    key: hmac::Key,
}

/// A hash to compare a password with.
pub(super) struct Entry<'a> {
    pub(super) hash: &'a Secret,
    /// Whether it is somebody's.
    pub(super) exists: bool,
}

impl Passwords {
    pub(super) fn new(hashes: &BTreeMap<String, Secret>) -> Self {
        Self {
            hashes: hashes.clone(),
            strangers: hashes.values().map(|hash| nobodys(hash.reveal())).collect(),
            key: hmac::Key::new(hmac::HMAC_SHA256, &random::<32>().unwrap_or_default()),
        }
    }

    /// Somebody's hash, if they are a user.
    pub(super) fn get(&self, user: &str) -> Option<&Secret> {
        self.hashes.get(user)
    }

    /// What to compare a password of this user with; nothing when there are no users at all.
    pub(super) fn entry(&self, user: &str) -> Option<Entry<'_>> {
        // Computed for those who exist too: it takes its time.
        let stranger = self.stranger(user);
        match self.get(user) {
            Some(hash) => Some(Entry { hash, exists: true }),
            None => stranger.map(|hash| Entry { hash, exists: false }),
        }
    }

    fn stranger(&self, user: &str) -> Option<&Secret> {
        let tag = hmac::sign(&self.key, user.as_bytes());
        let number = tag
            .as_ref()
            .iter()
            .take(8)
            .fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
        let many = u64::try_from(self.strangers.len()).ok()?;
        let at = usize::try_from(number.checked_rem(many)?).ok()?;
        self.strangers.get(at)
    }
}

/// Whether a password has this hash. Slow on purpose: not for a thread that serves.
pub(super) fn is_right(password: &str, hash: &Secret) -> bool {
    // What is no hash at all was refused with the configuration.
    bcrypt::verify(password, hash.reveal()).unwrap_or_default()
}

/// What a password is hashed with that somebody chooses now: some tenths of a second.
const COST: u32 = 12;
/// bcrypt looks at no more bytes.
const LONGEST: usize = 72;

/// Why there is no line for the password file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    /// Nobody can be called that.
    #[error("a user's name is not empty and has no `:`, no space and no control character in it")]
    User,
    /// Everybody would guess it.
    #[error("the password is empty")]
    Empty,
    /// The rest would not count.
    #[error("the password has more than {LONGEST} bytes: bcrypt would leave out the rest")]
    TooLong,
    /// It would be cut there.
    #[error("the password has a NUL in it")]
    Nul,
    /// It could not be computed.
    #[error("the password could not be hashed: {0}")]
    Failed(String),
}

/// A line for the password file.
pub fn hash_password(user: &str, password: &str) -> Result<String, PasswordError> {
    if user.is_empty() || user.contains(|c: char| c == ':' || c.is_whitespace() || c.is_control()) {
        return Err(PasswordError::User);
    }
    match password {
        "" => return Err(PasswordError::Empty),
        long if long.len() > LONGEST => return Err(PasswordError::TooLong),
        cut if cut.contains('\0') => return Err(PasswordError::Nul),
        _ => {}
    }
    let hash = bcrypt::hash(password, COST).map_err(|error| PasswordError::Failed(error.to_string()))?;
    Ok(format!("{user}:{hash}"))
}

/// A hash of the same cost that no password is known to have.
fn nobodys(like: &str) -> Secret {
    const ALPHABET: &[u8; 64] = b"./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let cost = like.split('$').nth(2).unwrap_or("12");
    let letters = random::<51>().unwrap_or([7; 51]);
    let letters: String = letters
        .iter()
        .map(|byte| char::from(ALPHABET[usize::from(byte & 63)]))
        .collect();
    // The last letter of a salt has two bits, that of a hash four.
    Secret::new(format!("$2b${cost}${}.{}.", &letters[..21], &letters[21..51]))
}

impl fmt::Debug for Passwords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Passwords of {} users", self.hashes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobodys_hash_is_one_of_the_same_cost() {
        let like = bcrypt::hash("secret", 5).unwrap();
        for _ in 0..20 {
            let hash = nobodys(&like);
            assert_eq!(hash.reveal().len(), like.len());
            assert!(hash.reveal().starts_with("$2b$05$"));
            // An error would be a comparison that takes no time.
            assert!(!bcrypt::verify("secret", hash.reveal()).unwrap());
        }
    }

    #[test]
    fn strangers_cost_what_the_users_cost() {
        let hashes = [("ada", 4), ("bob", 5), ("eve", 5)]
            .map(|(user, cost)| (user.to_owned(), Secret::new(bcrypt::hash("x", cost).unwrap())));
        let passwords = Passwords::new(&hashes.into());
        let mut costs = BTreeMap::new();
        for number in 0..300 {
            let stranger = format!("nobody-{number}");
            let entry = passwords.entry(&stranger).unwrap();
            assert!(!entry.exists);
            let cost = entry.hash.reveal()[4..6].to_owned();
            assert_eq!(
                passwords.entry(&stranger).unwrap().hash.reveal()[4..6],
                cost,
                "always the same"
            );
            *costs.entry(cost).or_insert(0) += 1;
        }
        assert!(costs["04"] > 50 && costs["05"] > 120, "{costs:?}");
        assert!(Passwords::new(&BTreeMap::new()).entry("ada").is_none());
    }
}
