//! Users of a directory: whoever can bind as an entry is that user, and the directory says which groups they are in.
//! The only file that speaks LDAP.
//!
//! The directory is believed: it decides who is who, so what it answers is bounded in time, but not defended against.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ldap3::{LdapConnAsync, LdapConnSettings, LdapError, Scope, SearchEntry, SearchOptions, dn_escape, ldap_escape};
use moka::sync::Cache;
use rustls::ClientConfig;
use tokio::sync::{OnceCell, Semaphore};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::Unidentified;
use super::checks::{Checks, Mark};
use super::trust::Trust;
use crate::config::LdapConfig;

/// How long the directory's word is taken without asking it again.
pub(super) const REMEMBERED: Duration = Duration::from_secs(60);
/// How many users' are.
const USERS: u64 = 10_000;
/// How many are asked about at once: each is a connection.
const AT_ONCE: usize = 8;
/// How many more may wait to be.
const WAITING: usize = 64;
/// When somebody whom there was no room for should come again.
const LATER: Duration = Duration::from_secs(2);
/// The longest name of a user.
const LONGEST_NAME: usize = 255;
/// The most groups of one user.
const GROUPS: i32 = 1000;

/// The groups of a user.
pub(super) type Groups = Arc<BTreeSet<String>>;

/// A directory.
pub(super) struct Directory {
    config: LdapConfig,
    trust: Trust,
    tls: OnceCell<Arc<ClientConfig>>,
    /// Who is being asked about, and who waits.
    places: Semaphore,
    slots: Semaphore,
    known: Cache<Mark, Groups>,
}

impl Directory {
    /// Reads where it is; asks nothing yet.
    pub(super) fn new(config: &LdapConfig) -> Result<Self, String> {
        Ok(Self {
            trust: Trust::read(config.ca.as_deref()).map_err(|error| format!("auth.ldap: {error}"))?,
            config: config.clone(),
            tls: OnceCell::new(),
            places: Semaphore::new(AT_ONCE + WAITING),
            slots: Semaphore::new(AT_ONCE),
            known: Cache::builder().max_capacity(USERS).time_to_live(REMEMBERED).build(),
        })
    }

    /// The groups of a user whose password was right lately.
    pub(super) fn remembered(&self, mark: &Mark) -> Option<Groups> {
        self.known.get(mark)
    }

    /// The groups of a user, if this is their password. `None`: it is not, or there is no such user.
    pub(super) async fn check(&self, user: &str, password: &str, mark: Mark) -> Result<Option<Groups>, Unidentified> {
        // Without a password every directory says yes: it takes it for somebody who does not want to be known.
        if password.is_empty() || !is_name(user) {
            return Ok(None);
        }
        let Ok(_place) = self.places.try_acquire() else {
            return Err(Unidentified::Busy { retry_after: LATER });
        };
        let patience = self.config.timeout;
        let Ok(Ok(_slot)) = timeout(patience, self.slots.acquire()).await else {
            return Err(Unidentified::Busy { retry_after: LATER });
        };
        let asked = timeout(patience, self.ask(user, password)).await;
        let found = asked.unwrap_or_else(|_| Err(format!("it did not answer within {patience:?}")));
        let groups = found.map_err(|reason| {
            Unidentified::Unavailable(format!("the directory {} cannot be asked: {reason}", self.config.url))
        })?;
        Ok(groups.map(|groups| {
            let groups = Arc::new(groups);
            self.known.insert(mark, Arc::clone(&groups));
            groups
        }))
    }

    async fn ask(&self, user: &str, password: &str) -> Result<Option<BTreeSet<String>>, String> {
        let mut settings = LdapConnSettings::new().set_starttls(self.config.start_tls);
        if self.config.start_tls || self.config.url.scheme() == "ldaps" {
            settings = settings.set_config(self.tls().await?);
        }
        let connected = LdapConnAsync::from_url_with_settings(settings, &self.config.url).await;
        let (connection, mut ldap) = connected.map_err(|error| reason(&error))?;
        // It ends with this.
        let _driven = AbortOnDropHandle::new(tokio::spawn(connection.drive()));
        let entry = entry(&self.config.user_dn, user);
        let bound = ldap
            .simple_bind(&entry, password)
            .await
            .map_err(|error| reason(&error))?;
        match verdict(bound.rc) {
            Some(true) => {}
            Some(false) => return Ok(None),
            None => return Err(format!("it answers a bind with {bound}")),
        }
        let mut groups = BTreeSet::new();
        if let Some(wanted) = &self.config.group_filter {
            let attribute = self.config.group_attribute.as_str();
            let options = SearchOptions::new()
                .sizelimit(GROUPS)
                .timelimit(seconds(self.config.timeout));
            let (found, _) = ldap
                .with_search_options(options)
                .search(
                    &self.config.group_base,
                    Scope::Subtree,
                    &filter(wanted, user, &entry),
                    [attribute],
                )
                .await
                .and_then(ldap3::SearchResult::success)
                .map_err(|error| format!("it does not tell the groups of a user: {}", reason(&error)))?;
            for one in found {
                let mut one = SearchEntry::construct(one);
                let named = one
                    .attrs
                    .keys()
                    .find(|name| name.eq_ignore_ascii_case(attribute))
                    .cloned();
                groups.extend(named.and_then(|name| one.attrs.remove(&name)).into_iter().flatten());
            }
            groups.retain(|group| is_name(group));
        }
        // Politeness: whoever does not hear it finds the connection closed.
        let _ = ldap.unbind().await;
        Ok(Some(groups))
    }

    async fn tls(&self) -> Result<Arc<ClientConfig>, String> {
        let made = self.tls.get_or_try_init(async || {
            let trust = self.trust.clone();
            let made = tokio::task::spawn_blocking(move || trust.client()).await;
            let made = made.map_err(|error| error.to_string())?;
            made.map(Arc::new)
                .map_err(|error| format!("TLS cannot be set up: {error}"))
        });
        made.await.cloned()
    }
}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Directory({})", self.config.url)
    }
}

/// What stands for a user and their password.
pub(super) fn mark(checks: &Checks, user: &str, password: &str) -> Mark {
    checks.mark(&["directory", user, password])
}

/// The name of a user's entry (RFC 4514): whatever the user is called, it names no other place.
pub fn entry(template: &str, user: &str) -> String {
    template.replace("{user}", &dn_escape(user))
}

/// The filter for the groups of a user (RFC 4515): whatever the user is called, it asks for nothing else.
pub fn filter(template: &str, user: &str, entry: &str) -> String {
    let (user, entry) = (ldap_escape(user), ldap_escape(entry));
    // In one go: what was filled in may look like a place to fill in.
    let mut filled = String::with_capacity(template.len() + user.len() + entry.len());
    let mut rest = template;
    while let Some(at) = rest.find('{') {
        filled.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix("{user}") {
            filled.push_str(&user);
            rest = after;
        } else if let Some(after) = rest.strip_prefix("{dn}") {
            filled.push_str(&entry);
            rest = after;
        } else {
            filled.push('{');
            rest = &rest[1..];
        }
    }
    filled.push_str(rest);
    filled
}

/// Whether a text may be the name of a user or a group. Directories ignore spaces around a name, so that `ada` and
/// `ada ` would be one user there and two here.
fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= LONGEST_NAME && name.trim() == name && !name.chars().any(char::is_control)
}

/// What the result of a bind means (RFC 4511, A.1): right, wrong, or that it was not found out.
fn verdict(code: u32) -> Option<bool> {
    match code {
        0 => Some(true),
        // A constraint (a locked account), no such entry, no name, no password to compare with, wrong, not allowed to,
        // not willing to.
        19 | 32 | 34 | 48 | 49 | 50 | 53 => Some(false),
        _ => None,
    }
}

fn seconds(time: Duration) -> i32 {
    i32::try_from(time.as_secs()).unwrap_or(i32::MAX).max(1)
}

/// The innermost reason. What a library's error quotes is the directory's, never the password.
fn reason(error: &LdapError) -> String {
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_user_is_called_they_are_one_entry() {
        let template = "uid={user},ou=people,dc=acme";
        for (user, uid) in [
            ("ada", "ada"),
            ("ada,ou=admins", r"ada\2cou\3dadmins"),
            ("a+cn=b", r"a\2bcn\3db"),
            (r#"a"\<>;"#, r"a\22\5c\3c\3e\3b"),
            ("#a", r"\23a"),
            ("{user}", "{user}"),
            ("zoë", "zoë"),
        ] {
            assert_eq!(entry(template, user), format!("uid={uid},ou=people,dc=acme"));
        }
    }

    #[test]
    fn whatever_a_user_is_called_the_filter_asks_for_their_groups() {
        let template = "(&(objectClass=group)(|(member={dn})(memberUid={user})))";
        for (user, dn, filled) in [
            (
                "ada",
                "uid=ada",
                "(&(objectClass=group)(|(member=uid=ada)(memberUid=ada)))",
            ),
            (
                "*",
                "uid=*",
                r"(&(objectClass=group)(|(member=uid=\2a)(memberUid=\2a)))",
            ),
            (
                "a)(cn=*",
                r"uid=a)\28",
                r"(&(objectClass=group)(|(member=uid=a\29\5c28)(memberUid=a\29\28cn=\2a)))",
            ),
            (
                "{dn}",
                "{user}",
                "(&(objectClass=group)(|(member={user})(memberUid={dn})))",
            ),
        ] {
            assert_eq!(filter(template, user, dn), filled);
            assert!(ldap3::parse_filter(filter(template, user, dn)).is_ok(), "{user}");
        }
        assert_eq!(filter("(a={b}{", "u", "d"), "(a={b}{");
    }

    #[test]
    fn only_an_answer_is_an_answer() {
        let of = |verdict: Option<bool>| {
            (0..130)
                .filter(|code| super::verdict(*code) == verdict)
                .collect::<Vec<_>>()
        };
        assert_eq!(of(Some(true)), [0]);
        assert_eq!(of(Some(false)), [19, 32, 34, 48, 49, 50, 53]);
    }

    #[test]
    fn a_name_is_one_word_for_one_user() {
        for (name, good) in [
            ("ada", true),
            ("ada lovelace", true),
            ("", false),
            (" ada", false),
            ("ada\u{a0}", false),
            ("a\0", false),
            ("a\nb", false),
        ] {
            assert_eq!(is_name(name), good, "{name:?}");
        }
    }
}
