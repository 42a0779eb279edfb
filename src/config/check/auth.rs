//! Who may do what.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use url::Url;

use super::super::field::{Entries, Field, OneOrMore};
use super::super::file::{self, Permission};
use super::super::findings::Finding;
use super::super::node::At;
use super::super::scalar::{is_loopback, is_name};
use super::super::spelling::nearest;
use super::super::units::excerpt;
use super::super::{
    Anonymous, AuditConfig, AuditTarget, AuthConfig, IssuerKeys, LdapConfig, OidcConfig, PolicyConfig, Secret, Who,
};
use super::proof::read_short;
use super::{Checker, describe, timeout};
use crate::oci::operation::Action;

/// Longer than the password file of any house.
const LONGEST_PASSWORDS: u64 = 4 << 20;
/// More keys than any issuer has.
const LONGEST_KEYS: u64 = 1 << 20;
/// The costs of bcrypt that are taken. One more doubles the work: beyond these, a login would take seconds.
const COSTS: std::ops::RangeInclusive<u32> = 4..=16;
const DIRECTORY_TIMEOUT: Duration = Duration::from_secs(5);
/// Issuers at which anybody can have an account.
const PUBLIC_ISSUERS: [(&str, &str); 3] = [
    ("https://token.actions.githubusercontent.com", "repository_owner: acme"),
    ("https://gitlab.com", "namespace_path: acme"),
    ("https://accounts.google.com", "hd: example.com"),
];

impl<'a> Checker<'a> {
    pub(super) fn auth(&mut self, written: &'a file::Written) -> AuthConfig {
        let Some((at, auth)) = written.auth.with_place() else {
            return AuthConfig::open(Anonymous::All);
        };
        let anonymous = match auth.anonymous.get() {
            Some(file::Anonymous::Pull) => Anonymous::Pull,
            Some(file::Anonymous::All) => Anonymous::All,
            Some(file::Anonymous::None) | None => Anonymous::None,
        };
        let groups = self.groups(&auth.groups);
        let config = AuthConfig {
            anonymous,
            htpasswd: match auth.htpasswd.with_place() {
                Some((at, path)) => self.passwords(at, path),
                None => BTreeMap::new(),
            },
            tokens: *auth.tokens.get().unwrap_or(&false),
            oidc: self.issuers(&auth.oidc),
            ldap: auth.ldap.with_place().and_then(|(at, ldap)| self.directory(at, ldap)),
            policies: self.policies(auth, &groups),
            groups,
        };
        self.somebody_may_something(at, auth, written, &config);
        config
    }

    /// A configuration in which logging in gives nothing, or nobody may anything, is hardly meant.
    fn somebody_may_something(&self, at: At, auth: &file::Auth, written: &file::Written, config: &AuthConfig) {
        let tls = written.server.get().and_then(|server| server.tls.get());
        let certificates = tls.is_some_and(|tls| !tls.client_ca.is_absent());
        let can_log_in = !auth.htpasswd.is_absent()
            || config.tokens
            || !auth.oidc.is_absent()
            || !auth.ldap.is_absent()
            || certificates;
        if can_log_in && auth.policies.is_absent() && config.anonymous != Anonymous::All {
            self.problem(
                Finding::new(at, "`policies` is missing: who logs in would be allowed nothing more")
                    .hint("`policies: [{ who: [\"*\"], may: [pull, push, delete, admin], on: \"**\" }]` lets everybody who logs in do everything"),
            );
        }
        if !can_log_in && config.anonymous == Anonymous::None {
            let at = auth.anonymous.with_place().map_or(at, |(at, _)| at);
            self.problem(Finding::warning(at, "nobody can do anything here").hint(
                "nobody can log in, and `anonymous` may do nothing: `pull` or `all`? or a `htpasswd` and `policies`?",
            ));
        }
        let server = written.server.get();
        let protected = server.is_some_and(|server| {
            !server.tls.is_absent() || !server.trusted_proxies.is_absent() || !server.external_url.is_absent()
        });
        let outside = server.and_then(|server| server.listen.get()).is_some_and(|all| {
            let mut addresses = all.0.iter().filter_map(|entry| entry.get()?.address.get());
            addresses.any(|address| !address.0.ip().to_canonical().is_loopback())
        });
        if can_log_in && outside && !protected {
            self.problem(
                Finding::warning(at, "passwords and tokens will travel in the clear").hint(
                    "add `server.tls`, or, behind a proxy that does TLS, `server.external_url` or `server.trusted_proxies`",
                ),
            );
        }
    }

    fn groups(&self, written: &Field<Entries<OneOrMore<String>>>) -> BTreeMap<String, Vec<String>> {
        let mut groups = BTreeMap::new();
        for (name, users) in written.get().map_or(&[][..], |entries| &entries.0) {
            let Some((at, name)) = name.with_place() else { continue };
            if !is_name(name) || name.starts_with('@') {
                self.problem(Finding::new(
                    at,
                    format!("`{}` is not the name of a group", excerpt(name)),
                ));
            }
            let users = users.get().map(|users| self.names(users)).unwrap_or_default();
            groups.insert(name.clone(), users);
        }
        groups
    }

    /// Users or groups, each by a name.
    fn names(&self, written: &OneOrMore<String>) -> Vec<String> {
        let mut names = Vec::new();
        for (at, name) in written.0.iter().filter_map(Field::with_place) {
            if is_name(name) && !name.starts_with('@') {
                names.push(name.clone());
            } else {
                self.problem(Finding::new(at, format!("`{}` is not a name", excerpt(name))));
            }
        }
        names
    }

    /// `user:hash`, line by line, as Apache's `htpasswd -B` writes it.
    fn passwords(&mut self, at: At, path: &str) -> BTreeMap<String, Secret> {
        let mut users = BTreeMap::new();
        let Some((shown, text)) = self.text(at, path, LONGEST_PASSWORDS) else {
            return users;
        };
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = match line.split_once(':') {
                Some((user, hash)) if is_name(user) && is_bcrypt(hash) => {
                    let before = users.insert(user.to_owned(), Secret::new(hash));
                    before.map(|_| format!("`{}` is in it a second time", excerpt(user)))
                }
                Some((user, _)) if is_name(user) => Some(format!(
                    "the password of `{}` is not a bcrypt hash of a cost from {} to {}",
                    excerpt(user),
                    COSTS.start(),
                    COSTS.end()
                )),
                _ => Some("this is not `user:hash`".to_owned()),
            };
            if let Some(wrong) = wrong {
                self.problem(
                    Finding::new(at, format!("{}, line {}: {wrong}", shown.display(), number + 1))
                        .hint("`entrepot passwd USER` and `htpasswd -B` write lines that are taken"),
                );
            }
        }
        users
    }

    fn issuers(&mut self, written: &Field<OneOrMore<file::Oidc>>) -> Vec<OidcConfig> {
        let mut all = Vec::new();
        for (at, oidc) in written
            .get()
            .map_or(&[][..], |all| &all.0)
            .iter()
            .filter_map(Field::with_place)
        {
            all.extend(self.issuer(at, oidc));
        }
        all
    }

    fn issuer(&mut self, at: At, written: &file::Oidc) -> Option<OidcConfig> {
        let issuer = self.required(&written.issuer, at, "issuer");
        let audience = self.required(&written.audience, at, "audience");
        let mut claims = BTreeMap::new();
        for (name, values) in written.claims.get().map_or(&[][..], |entries| &entries.0) {
            let Some(((_, name), (at, values))) = name.with_place().zip(values.with_place()) else {
                continue;
            };
            let texts = texts(values);
            if texts.is_empty() {
                self.problem(Finding::new(at, "an empty list: no token could say this"));
            }
            claims.insert(name.clone(), texts);
        }
        let keys = written.keys.with_place().and_then(|(at, keys)| self.keys(at, keys));
        let ca = written
            .ca
            .with_place()
            .and_then(|(at, path)| self.authorities(at, path));
        let ((issuer_at, issuer), (audience_at, audience)) = issuer.zip(audience)?;
        let audience = texts(audience);
        if audience.is_empty() || audience.iter().any(String::is_empty) {
            self.problem(Finding::new(audience_at, "tokens have to be meant for somebody"));
        }
        let public = PUBLIC_ISSUERS
            .iter()
            .find(|(url, _)| issuer.0.trim_end_matches('/') == *url);
        if let (Some((_, example)), true) = (public, claims.is_empty()) {
            self.problem(
                Finding::new(
                    issuer_at,
                    "anybody can have a token of this issuer: `claims` is missing",
                )
                .hint(format!("say whose tokens are taken, as in `claims: {{ {example} }}`")),
            );
        }
        Some(OidcConfig {
            issuer: issuer.0.clone(),
            audience,
            claims,
            groups: written
                .groups
                .get()
                .map(|groups| self.names(groups))
                .unwrap_or_default(),
            keys,
            ca,
        })
    }

    fn keys(&mut self, at: At, written: &str) -> Option<IssuerKeys> {
        if written.contains("://") {
            let url = Url::parse(written).ok().filter(Url::has_host);
            let url = url.filter(|url| url.scheme() == "https" || url.scheme() == "http" && is_loopback(url));
            if url.is_none() {
                self.problem(Finding::new(at, "the URL of an issuer's keys begins with `https://`"));
            }
            return url.map(IssuerKeys::Url);
        }
        let (path, text) = self.text(at, written, LONGEST_KEYS)?;
        let document: Option<serde_json::Value> = serde_json::from_str(&text).ok();
        let is_set = document.is_some_and(|document| document["keys"].is_array());
        if !is_set {
            self.problem(Finding::new(
                at,
                format!("{} holds no JSON Web Key Set", path.display()),
            ));
        }
        is_set.then(|| IssuerKeys::Document(Arc::from(text.into_bytes())))
    }

    fn directory(&mut self, at: At, written: &file::Ldap) -> Option<LdapConfig> {
        let url = self.required(&written.url, at, "url");
        let user_dn = self.required(&written.user_dn, at, "user_dn");
        let ca = written
            .ca
            .with_place()
            .and_then(|(at, path)| self.authorities(at, path));
        let start_tls = *written.start_tls.get().unwrap_or(&false);
        let insecure = *written.insecure.get().unwrap_or(&false);
        let ((url_at, url), (dn_at, user_dn)) = url.zip(user_dn)?;
        let is_plain = url.0.scheme() == "ldap" && !start_tls;
        if is_plain && !insecure && !is_loopback(&url.0) {
            self.problem(
                Finding::new(url_at, "passwords would travel to the directory in the clear")
                    .hint("write `ldaps://`, or add `start_tls: true`; `insecure: true` takes the risk"),
            );
        }
        if url.0.scheme() == "ldaps" && start_tls {
            self.problem(Finding::new(
                url_at,
                "`ldaps://` is TLS already: `start_tls` is for `ldap://`",
            ));
        }
        if insecure {
            let at = written.insecure.with_place().map_or(at, |(at, _)| at);
            self.problem(Finding::warning(
                at,
                "passwords may travel to the directory in the clear",
            ));
        }
        if !user_dn.contains("{user}") {
            self.problem(
                Finding::new(dn_at, "`{user}` is missing: everybody would be the same entry")
                    .hint("as in `uid={user},ou=people,dc=example,dc=com`"),
            );
        }
        let group_base = self.group_base(at, written, user_dn);
        if let Some((at, filter)) = written.group_filter.with_place()
            && !(filter.starts_with('(')
                && filter.ends_with(')')
                && (filter.contains("{user}") || filter.contains("{dn}")))
        {
            self.problem(
                Finding::new(at, "this is not a filter for the groups of one user")
                    .hint("as in `(&(objectClass=groupOfNames)(member={dn}))` or `(memberUid={user})`"),
            );
        }
        Some(LdapConfig {
            url: url.0.clone(),
            start_tls,
            insecure,
            ca,
            user_dn: user_dn.clone(),
            group_base,
            group_filter: written.group_filter.get().cloned(),
            group_attribute: written.group_attribute.get().map_or("cn", String::as_str).to_owned(),
            timeout: timeout(&written.timeout, DIRECTORY_TIMEOUT),
        })
    }

    /// The `dc=` parts at the end of a user's name are the directory itself.
    fn group_base(&self, at: At, written: &file::Ldap, user_dn: &str) -> String {
        if let Some(base) = written.group_base.get() {
            return base.clone();
        }
        let parts: Vec<&str> = user_dn.split(',').map(str::trim).collect();
        let domain = parts
            .iter()
            .rev()
            .take_while(|part| part.to_lowercase().starts_with("dc="))
            .count();
        if domain == 0 && !written.group_filter.is_absent() {
            self.problem(
                Finding::new(at, "`group_base` is missing: below what are groups looked for?")
                    .hint("as in `ou=groups,o=acme`"),
            );
        }
        parts[parts.len() - domain..].join(",")
    }

    fn policies(&self, auth: &'a file::Auth, groups: &BTreeMap<String, Vec<String>>) -> Option<Vec<PolicyConfig>> {
        let (_, written) = auth.policies.with_place()?;
        let issued = auth
            .oidc
            .get()
            .map_or(&[][..], |all| &all.0)
            .iter()
            .filter_map(Field::get);
        let issued = issued.filter_map(|oidc| oidc.groups.get()).flat_map(texts);
        let known: BTreeSet<String> = groups.keys().cloned().chain(issued).collect();
        let directory = auth.ldap.get().is_some_and(|ldap| !ldap.group_filter.is_absent());
        let mut policies = Vec::new();
        for (at, policy) in written.iter().filter_map(Field::with_place) {
            let who = self.required(&policy.who, at, "who");
            let may = self.required(&policy.may, at, "may");
            let on = self.required(&policy.on, at, "on");
            let Some((((_, who), (_, may)), (_, on))) = who.zip(may).zip(on) else {
                continue;
            };
            for (at, subject) in who.0.iter().filter_map(Field::with_place) {
                if let Who::Group(group) = &subject.0
                    && !known.contains(group)
                    && !directory
                {
                    let meant = nearest(group, known.iter().map(String::as_str));
                    self.problem(
                        Finding::new(at, format!("nobody is in the group `{}`", excerpt(group))).hint(meant.map_or_else(
                            || "groups are listed under `auth.groups`, given by an issuer's `groups`, or found by `ldap.group_filter`".to_owned(),
                            |meant| format!("did you mean `@{}`?", excerpt(meant)),
                        )),
                    );
                }
            }
            for (at, pattern) in on.0.iter().filter_map(Field::with_place) {
                self.place(at, pattern.0.as_str());
            }
            policies.push(PolicyConfig {
                who: who.0.iter().filter_map(|who| Some(who.get()?.0.clone())).collect(),
                may: may
                    .0
                    .iter()
                    .filter_map(|may| may.get().copied().map(Action::from))
                    .collect(),
                on: on.0.iter().filter_map(|on| Some(on.get()?.0.clone())).collect(),
            });
        }
        Some(policies)
    }

    /// A pattern that can mean no image of any repository here is a slip.
    fn place(&self, at: At, pattern: &str) {
        let (key, rest) = pattern
            .split_once('/')
            .map_or((pattern, None), |(key, rest)| (key, Some(rest)));
        let is_plain = !key.contains(['*', '?', '[', '{', '\\']);
        if is_plain && self.kind(at, key).is_some() && rest.is_none() {
            self.problem(
                Finding::new(at, format!("`{}` is a repository and no image in it", excerpt(key)))
                    .hint(format!("write `{key}/**` for all of it")),
            );
        }
        if pattern == "*" {
            self.problem(Finding::new(at, "`*` is no image of any repository").hint("write `**` for everything"));
        }
    }

    pub(super) fn audit(&mut self, written: &Field<file::Audit>) -> AuditConfig {
        let audit = written.get();
        let to = audit.and_then(|audit| audit.to.with_place());
        let to = match to {
            None => AuditTarget::Stdout,
            Some((_, to)) if to == "stdout" => AuditTarget::Stdout,
            Some((_, to)) if to == "none" => AuditTarget::Nowhere,
            Some((at, path)) => {
                let path = self.path(path);
                if !path.parent().is_some_and(std::path::Path::is_dir) || path.is_dir() {
                    self.problem(
                        Finding::new(at, format!("{} cannot be a file", path.display()))
                            .hint("`stdout`, `none`, or a file in a directory that is there"),
                    );
                }
                AuditTarget::File(path)
            }
        };
        AuditConfig {
            to,
            pulls: audit.and_then(|audit| audit.pulls.get()).copied().unwrap_or(false),
        }
    }

    /// A text file that belongs to the configuration.
    fn text(&mut self, at: At, path: &str, longest: u64) -> Option<(PathBuf, String)> {
        let path = self.path(path);
        self.files.push(path.clone());
        let read = read_short(&path, longest)
            .and_then(|bytes| String::from_utf8(bytes).map_err(|_| std::io::Error::other("it is not text")));
        match read {
            Ok(text) => Some((path, text)),
            Err(error) => {
                self.problem(Finding::new(
                    at,
                    format!("cannot read {}: {}", path.display(), describe(&error)),
                ));
                None
            }
        }
    }
}

fn texts(written: &OneOrMore<String>) -> Vec<String> {
    written.0.iter().filter_map(|text| text.get().cloned()).collect()
}

/// `$2b$12$` and 53 characters more.
fn is_bcrypt(hash: &str) -> bool {
    let rest = ["$2a$", "$2b$", "$2x$", "$2y$"]
        .iter()
        .find_map(|kind| hash.strip_prefix(kind));
    let parts = rest.and_then(|rest| rest.split_once('$'));
    parts.is_some_and(|(cost, rest)| {
        cost.len() == 2
            && cost.parse().is_ok_and(|cost: u32| COSTS.contains(&cost))
            && rest.len() == 53
            && rest
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'/')
    })
}

impl From<Permission> for Action {
    fn from(written: Permission) -> Self {
        match written {
            Permission::Pull => Self::Pull,
            Permission::Push => Self::Push,
            Permission::Delete => Self::Delete,
            Permission::Admin => Self::Admin,
        }
    }
}
