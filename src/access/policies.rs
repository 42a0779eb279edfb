//! What is allowed: pure rules over who, what and where. Nothing is, that none of them allows.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::identity::{Grant, Identity, Kind, Principal};
use crate::config::{Anonymous, AuthConfig, PolicyConfig, Who};
use crate::oci::operation::Action;
use crate::oci::{ImageName, Pattern, RepositoryKey};

/// The rules of a configuration.
#[derive(Clone, Debug)]
pub struct Policies {
    anonymous: Anonymous,
    /// Without any, everybody may what `anonymous` says, and nobody more.
    rules: Option<Vec<PolicyConfig>>,
    /// The configured groups of each user.
    groups: BTreeMap<String, BTreeSet<String>>,
}

/// What allows something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ground {
    /// Anybody may, without any rule.
    Open,
    /// A rule, by its place in `auth.policies`, for anybody.
    OpenRule(usize),
    /// A rule, by its place in `auth.policies`.
    Rule(usize),
    /// A grant of the robot's token, by its place.
    Scope(usize),
}

/// A place that something is done in.
#[derive(Clone, Copy)]
enum Place<'a> {
    /// One image, written `repository/image`.
    Image(&'a str),
    /// All of a repository.
    Whole(&'a RepositoryKey),
    /// Some image of a repository; which, is not said.
    Somewhere(&'a RepositoryKey),
    /// Everything.
    Everywhere,
}

impl Policies {
    /// The rules of a configuration.
    pub fn new(config: &AuthConfig) -> Self {
        let mut groups: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (group, users) in &config.groups {
            for user in users {
                groups.entry(user.clone()).or_default().insert(group.clone());
            }
        }
        Self {
            anonymous: config.anonymous,
            rules: config.policies.clone(),
            groups,
        }
    }

    /// Whether they may do this with an image of a repository.
    pub fn allow(&self, who: &Identity, action: Action, repository: &RepositoryKey, image: &ImageName) -> bool {
        let name = format!("{repository}/{image}");
        self.decide(who, action, Place::Image(&name)).is_some()
    }

    /// What allows them this with an image of a repository, if anything does.
    pub fn ground(
        &self,
        who: &Identity,
        action: Action,
        repository: &RepositoryKey,
        image: &ImageName,
    ) -> Option<Ground> {
        self.decide(who, action, Place::Image(&format!("{repository}/{image}")))
    }

    /// A ground, for a person who may read the configuration.
    pub fn describe(&self, ground: Ground) -> String {
        let rule = |index: usize| {
            let rule = self.rules.iter().flatten().nth(index);
            rule.map_or_else(String::new, |rule| {
                format!("rule {} of `auth.policies`, {}", index + 1, written(rule))
            })
        };
        match ground {
            Ground::Open => "`auth.anonymous`, and there is no `auth.policies`".to_owned(),
            Ground::OpenRule(index) => format!("{}, with `auth.anonymous`", rule(index)),
            Ground::Rule(index) => rule(index),
            Ground::Scope(index) => format!("grant {} of its token", index + 1),
        }
    }

    /// Everything in the configuration that allows somebody this with an image of a repository.
    pub fn grounds(&self, action: Action, repository: &RepositoryKey, image: &ImageName) -> Vec<Ground> {
        let name = format!("{repository}/{image}");
        let place = Place::Image(&name);
        let rules = self.rules.iter().flatten().enumerate();
        let rules = rules.filter(|(_, rule)| allows(rule, action, place));
        let mut all: Vec<Ground> = rules.map(|(index, _)| Ground::Rule(index)).collect();
        if let Some(open) = self.anonymous_may(action, place) {
            all.retain(
                |ground| !matches!((ground, open), (Ground::Rule(one), Ground::OpenRule(other)) if *one == other),
            );
            all.insert(0, open);
        }
        all
    }

    /// Whether they may do this with every image of a repository, those that are not there too.
    pub fn allow_all_of(&self, who: &Identity, action: Action, repository: &RepositoryKey) -> bool {
        self.decide(who, action, Place::Whole(repository)).is_some()
    }

    /// Whether there may be an image of the repository that they may do this with. Takes rather too many for such: it
    /// decides what somebody is told of, never what they get.
    pub fn allow_some_of(&self, who: &Identity, action: Action, repository: &RepositoryKey) -> bool {
        self.decide(who, action, Place::Somewhere(repository)).is_some()
    }

    /// Whether they may do this with everything.
    pub fn allow_everywhere(&self, who: &Identity, action: Action) -> bool {
        self.decide(who, action, Place::Everywhere).is_some()
    }

    /// Whether nobody needs to say who they are, for anything.
    pub fn is_open(&self) -> bool {
        Action::ALL
            .into_iter()
            .all(|action| self.allow_everywhere(&Identity::Anonymous, action))
    }

    fn decide(&self, who: &Identity, action: Action, place: Place<'_>) -> Option<Ground> {
        // Logging in never takes away: whoever it would could just as well not do it.
        self.anonymous_may(action, place).or_else(|| match who {
            Identity::Anonymous => None,
            Identity::Known(known) if known.kind == Kind::Robot => {
                let place = known.scope.iter().position(|grant| grant.allows(action, place));
                place.map(Ground::Scope)
            }
            Identity::Known(known) => self.principal_may(known, action, place).map(Ground::Rule),
        })
    }

    fn anonymous_may(&self, action: Action, place: Place<'_>) -> Option<Ground> {
        let most = match self.anonymous {
            Anonymous::None => false,
            Anonymous::Pull => action == Action::Pull,
            Anonymous::All => true,
        };
        if !most {
            return None;
        }
        let Some(rules) = &self.rules else {
            return Some(Ground::Open);
        };
        rules
            .iter()
            .position(|rule| rule.who.contains(&Who::Everyone) && allows(rule, action, place))
            .map(Ground::OpenRule)
    }

    fn principal_may(&self, known: &Principal, action: Action, place: Place<'_>) -> Option<usize> {
        self.rules.iter().flatten().position(|rule| {
            let is_meant = rule.who.iter().any(|who| match who {
                Who::Everyone => true,
                Who::User(user) => known.kind == Kind::User && *user == known.name,
                Who::Group(group) => self.is_in(known, group),
            });
            is_meant && allows(rule, action, place)
        })
    }

    fn is_in(&self, known: &Principal, group: &str) -> bool {
        let configured = || self.groups.get(&known.name).is_some_and(|all| all.contains(group));
        known.groups.contains(group) || known.kind == Kind::User && configured()
    }
}

/// A rule, as it is written.
fn written(rule: &PolicyConfig) -> String {
    let who: Vec<String> = rule
        .who
        .iter()
        .map(|who| match who {
            Who::Everyone => "\"*\"".to_owned(),
            Who::User(user) => user.clone(),
            Who::Group(group) => format!("\"@{group}\""),
        })
        .collect();
    let may: Vec<&str> = rule.may.iter().map(|action| action.as_str()).collect();
    let mut text = format!("{{ who: [{}], may: [{}]", who.join(", "), may.join(", "));
    let on: Vec<String> = rule.on.iter().map(|on| format!("\"{on}\"")).collect();
    let _ = match on.as_slice() {
        [one] => write!(text, ", on: {one} }}"),
        several => write!(text, ", on: [{}] }}", several.join(", ")),
    };
    text
}

fn allows(rule: &PolicyConfig, action: Action, place: Place<'_>) -> bool {
    rule.may.contains(&action) && rule.on.iter().any(|on| place.is_in(on))
}

impl Grant {
    fn allows(&self, action: Action, place: Place<'_>) -> bool {
        self.may.contains(&action) && place.is_in(&self.on)
    }
}

impl Place<'_> {
    fn is_in(self, pattern: &Pattern) -> bool {
        let written = pattern.as_str();
        match self {
            Place::Image(name) => pattern.matches(name),
            Place::Everywhere => written == "**",
            Place::Whole(key) => written == "**" || written.strip_suffix("/**") == Some(key.as_str()),
            Place::Somewhere(key) => {
                let plain = written.split(['*', '?', '[', '{', '\\']).next().unwrap_or_default();
                let within = format!("{key}/");
                within.starts_with(plain) || plain.starts_with(&within)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const ALL: [Action; 4] = Action::ALL;

    fn known(kind: Kind, name: &str, groups: &[&str]) -> Identity {
        Identity::Known(Arc::new(Principal {
            groups: groups.iter().map(ToString::to_string).collect(),
            ..Principal::new(kind, name)
        }))
    }

    fn robot(name: &str, may: &[Action], on: &str) -> Identity {
        Identity::Known(Arc::new(Principal {
            scope: vec![Grant {
                may: may.to_vec(),
                on: on.parse().expect(on),
            }],
            ..Principal::new(Kind::Robot, name)
        }))
    }

    fn rule(who: Who, may: &[Action], on: &str) -> PolicyConfig {
        PolicyConfig {
            who: vec![who],
            may: may.to_vec(),
            on: vec![on.parse().expect(on)],
        }
    }

    fn policies(anonymous: Anonymous, rules: Vec<PolicyConfig>) -> Policies {
        Policies::new(&AuthConfig {
            groups: [("admins".to_owned(), vec!["ada".to_owned()])].into(),
            policies: Some(rules),
            ..AuthConfig::open(anonymous)
        })
    }

    fn may(policies: &Policies, who: &Identity, on: &str) -> Vec<Action> {
        let (repository, image) = on.split_once('/').expect(on);
        let (repository, image) = (repository.parse().expect(on), image.parse().expect(on));
        ALL.into_iter()
            .filter(|action| policies.allow(who, *action, &repository, &image))
            .collect()
    }

    #[test]
    fn without_rules_everybody_may_what_anonymous_may() {
        let table = [
            (Anonymous::All, &ALL[..]),
            (Anonymous::Pull, &[Action::Pull]),
            (Anonymous::None, &[]),
        ];
        for (anonymous, allowed) in table {
            let policies = Policies::new(&AuthConfig::open(anonymous));
            for who in [Identity::Anonymous, known(Kind::User, "ada", &["admins"])] {
                assert_eq!(may(&policies, &who, "a/b"), allowed, "{anonymous:?} {who}");
            }
            assert_eq!(policies.is_open(), anonymous == Anonymous::All);
        }
    }

    #[test]
    fn nothing_is_allowed_that_no_rule_allows() {
        let rules = vec![
            rule(Who::Everyone, &[Action::Pull, Action::Push], "docker/public/**"),
            rule(Who::User("bob".to_owned()), &[Action::Pull], "docker/team/*"),
            rule(Who::Group("admins".to_owned()), &ALL, "**"),
            rule(Who::Group("ci".to_owned()), &[Action::Push], "docker-local/team/**"),
        ];
        let policies = policies(Anonymous::Pull, rules);
        let bob = known(Kind::User, "bob", &[]);
        let ada = known(Kind::User, "ada", &[]);
        for (who, on, allowed) in [
            (&Identity::Anonymous, "docker/public/app", &[Action::Pull][..]),
            (&Identity::Anonymous, "docker/team/app", &[]),
            (&bob, "docker/public/app", &[Action::Pull, Action::Push]),
            (&bob, "docker/team/app", &[Action::Pull]),
            (&bob, "docker/team/app/part", &[]),
            (&bob, "docker-local/team/app", &[]),
            (&ada, "anything/at/all", &ALL),
            (
                &known(Kind::Workload, "x", &["ci"]),
                "docker-local/team/app",
                &[Action::Push],
            ),
            // Only who vouches for a workload says its groups, and a name is no user's by itself.
            (&known(Kind::Workload, "ada", &[]), "anything/at/all", &[]),
            (&known(Kind::Workload, "bob", &[]), "docker/team/app", &[]),
        ] {
            assert_eq!(may(&policies, who, on), allowed, "{who} {on}");
        }
    }

    #[test]
    fn a_robot_may_what_its_scope_says_and_what_everybody_may() {
        let rules = vec![
            rule(Who::Everyone, &[Action::Pull, Action::Push], "docker/**"),
            rule(Who::User("ci".to_owned()), &ALL, "**"),
        ];
        let policies = policies(Anonymous::Pull, rules);
        let robot = robot("ci", &[Action::Push], "local/team/**");
        assert_eq!(may(&policies, &robot, "docker/library/alpine"), [Action::Pull]);
        assert_eq!(may(&policies, &robot, "local/team/app"), [Action::Push]);
        assert_eq!(may(&policies, &robot, "local/other/app"), []);
    }

    #[test]
    fn whole_repositories_are_judged_by_what_patterns_say() {
        let rules = vec![
            rule(Who::Everyone, &[Action::Pull], "hub/**"),
            rule(Who::Everyone, &[Action::Pull], "local/team/*"),
        ];
        let policies = policies(Anonymous::Pull, rules);
        let nobody = Identity::Anonymous;
        let key = |key: &str| key.parse::<RepositoryKey>().expect("a key");
        assert!(policies.allow_all_of(&nobody, Action::Pull, &key("hub")));
        assert!(!policies.allow_all_of(&nobody, Action::Pull, &key("hub2")));
        assert!(!policies.allow_all_of(&nobody, Action::Pull, &key("local")));
        assert!(policies.allow_some_of(&nobody, Action::Pull, &key("local")));
        assert!(!policies.allow_some_of(&nobody, Action::Push, &key("local")));
        assert!(!policies.allow_some_of(&nobody, Action::Pull, &key("locale")));
        assert!(!policies.allow_everywhere(&nobody, Action::Pull));
    }
}
