//! Virtual repositories, and what they are to one another.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::super::field::Field;
use super::super::file;
use super::super::findings::Finding;
use super::super::node::At;
use super::super::units::excerpt;
use super::super::{MemberConfig, VirtualConfig};
use super::{Checker, Kind};

impl<'a> Checker<'a> {
    /// One virtual repository by itself; `at` is where its key stands.
    pub(super) fn virtual_repository(&self, at: At, written: &'a file::Virtual) -> VirtualConfig {
        let members = self.members(at, written);
        let push_to = written.push_to.with_place();
        VirtualConfig {
            members,
            push_to: push_to.and_then(|(at, key)| {
                self.push_to(at, key, written);
                key.parse().ok()
            }),
            hosts: self.distinct(&written.hosts, |host| &host.0),
            serves: self.distinct(&written.serves, |host| &host.0),
        }
    }

    fn members(&self, at: At, written: &'a file::Virtual) -> Vec<MemberConfig> {
        let Some((at, members)) = self.required(&written.members, at, "members") else {
            return Vec::new();
        };
        if members.is_empty() {
            self.problem(Finding::new(at, "a virtual repository without members is always empty"));
        }
        let mut seen: HashMap<&str, At> = HashMap::new();
        let mut all = Vec::new();
        for (at, member) in members.iter().filter_map(Field::with_place) {
            let Some((at, key)) = self.required(&member.repository, at, "repository") else {
                continue;
            };
            if let Some(first) = seen.insert(key, at) {
                self.problem(Finding::new(at, format!("`{}` is a member already", excerpt(key))).first(first));
                continue;
            }
            let exists = self.kind(at, key).is_some();
            if let Some(repository) = exists.then(|| key.parse().ok()).flatten() {
                let priority = member.priority.get().is_some_and(|priority| *priority);
                all.push(MemberConfig { repository, priority });
            }
        }
        self.warn_of_confusion(at, written);
        all
    }

    /// Upstream, anybody can publish an image under a name of ours, unless the local member has the last word on it:
    /// it must come first and have priority, or the remote must be told which images are its own.
    fn warn_of_confusion(&self, at: At, written: &'a file::Virtual) {
        let members = written.members.get().into_iter().flatten().filter_map(Field::get);
        let named = members
            .filter_map(|member| Some((member.repository.get()?.as_str(), member.priority.get() == Some(&true))));
        let known: Vec<_> = named
            .filter_map(|(key, priority)| Some((key, priority, *self.kinds.get(key)?)))
            .collect();
        let Some(remote_index) = known
            .iter()
            .position(|(.., kind)| matches!(kind, Kind::Remote { chooses: false }))
        else {
            return;
        };
        let exposed = known
            .iter()
            .enumerate()
            .find(|(index, (_, priority, kind))| matches!(kind, Kind::Local) && !(*priority && *index < remote_index));
        let Some((index, (local, ..))) = exposed else { return };
        let (local, remote) = (excerpt(local), excerpt(known[remote_index].0));
        let order = if index < remote_index {
            "it"
        } else {
            "it before every remote,"
        };
        self.problem(
            Finding::warning(
                at,
                format!("`{remote}` can answer for an image that was meant to come from `{local}`"),
            )
            .hint(format!(
                "list {order} as `{{ repository: {local}, priority: true }}`, or say in `{remote}` what to `include` or \
                 `exclude`"
            )),
        );
    }

    fn push_to(&self, at: At, key: &str, written: &file::Virtual) {
        let Some(kind) = self.kind(at, key) else { return };
        let name = excerpt(key);
        let members = written.members.get().into_iter().flatten().filter_map(Field::get);
        let is_member = members
            .filter_map(|member| member.repository.get())
            .any(|member| member == key);
        let refused = match kind {
            Kind::Remote { .. } => Some((
                format!("`{name}` is a remote repository: nothing can be pushed to it"),
                "name a local member".to_owned(),
            )),
            Kind::Virtual(other) if other.push_to.is_absent() => Some((
                format!("`{name}` is a virtual repository without a `push_to` of its own"),
                "name a local member, or give it one".to_owned(),
            )),
            _ if !is_member && !matches!(written.members, Field::Wrong) => Some((
                format!("`{name}` is not a member: what is pushed could not be pulled"),
                format!("add `{name}` to `members`"),
            )),
            _ => None,
        };
        if let Some((message, hint)) = refused {
            self.problem(Finding::new(at, message).hint(hint));
        }
    }

    /// The values of a list, each once; a second one is a problem.
    pub(super) fn distinct<T>(&self, list: &Field<Vec<Field<T>>>, text: impl Fn(&T) -> &String) -> Vec<String> {
        let mut seen: HashMap<&str, At> = HashMap::new();
        let mut all = Vec::new();
        for (at, value) in list.get().into_iter().flatten().filter_map(Field::with_place) {
            let value = text(value);
            if let Some(first) = seen.get(value.as_str()) {
                self.problem(Finding::new(at, format!("`{}` is here a second time", excerpt(value))).first(*first));
                continue;
            }
            seen.insert(value, at);
            all.push(value.clone());
        }
        all
    }

    /// What only shows when all virtual repositories are looked at together.
    pub(super) fn virtuals(&self) {
        self.shared_hosts();
        self.circles();
    }

    fn shared_hosts(&self) {
        let mut owners: BTreeMap<&str, (&str, At)> = BTreeMap::new();
        let mut found: Vec<(At, &str, &str)> = Vec::new();
        for (key, kind) in &self.kinds {
            let Kind::Virtual(written) = kind else { continue };
            for (at, host) in written.hosts.get().into_iter().flatten().filter_map(Field::with_place) {
                found.push((at, &host.0, key));
            }
        }
        found.sort();
        for (at, host, key) in found {
            let (owner, first) = *owners.entry(host).or_insert((key, at));
            if owner != key {
                let message = format!("`{}` is the host of `{}` already", excerpt(host), excerpt(owner));
                self.problem(Finding::new(at, message).first(first));
            }
        }
    }

    /// Every member that closes a circle. A loop and not a recursion: a chain can be as long as the file.
    fn circles(&self) {
        let mut done: HashSet<&str> = HashSet::new();
        for start in self.kinds.keys().copied() {
            let mut path: Vec<(&str, std::vec::IntoIter<(At, &str)>)> = Vec::new();
            let mut on_path: HashSet<&str> = HashSet::new();
            let mut next = Some(start);
            loop {
                if let Some(key) = next.take().filter(|key| !done.contains(key)) {
                    on_path.insert(key);
                    path.push((key, self.virtual_members(key).into_iter()));
                }
                let Some((key, members)) = path.last_mut() else { break };
                match members.next() {
                    Some((at, member)) if on_path.contains(member) => self.circle(at, member, &path),
                    Some((_, member)) => next = Some(member),
                    None => {
                        on_path.remove(key);
                        done.insert(key);
                        path.pop();
                    }
                }
            }
        }
    }

    /// Reports a circle: the end of the path has a member that is on the path.
    fn circle(&self, at: At, member: &str, path: &[(&str, std::vec::IntoIter<(At, &str)>)]) {
        if self.findings.is_full() {
            return self.problem(Finding::new(at, "a circle of virtual repositories"));
        }
        let circle = path.iter().map(|(key, _)| *key).skip_while(|key| *key != member);
        let mut names: Vec<String> = circle.take(8).map(|key| format!("`{}`", excerpt(key))).collect();
        if names.len() == 8 {
            names.push("…".to_owned());
        }
        names.push(format!("`{}`", excerpt(member)));
        let message = match names.len() {
            2 => format!("{} is a member of itself", names[0]),
            _ => format!("a circle of virtual repositories: {}", names.join(" → ")),
        };
        self.problem(Finding::new(at, message));
    }

    /// The members of a repository that are virtual themselves.
    fn virtual_members(&self, key: &str) -> Vec<(At, &'a str)> {
        let Some(Kind::Virtual(written)) = self.kinds.get(key) else {
            return Vec::new();
        };
        let members = written.members.get().into_iter().flatten().filter_map(Field::get);
        let named = members.filter_map(|member| member.repository.with_place());
        named
            .filter(|(_, key)| matches!(self.kinds.get(key.as_str()), Some(Kind::Virtual(_))))
            .map(|(at, key)| (at, key.as_str()))
            .collect()
    }
}
