//! Local repositories, and what goes of them by rule.

use super::Checker;
use crate::config::field::Field;
use crate::config::file::{Local, Retention};
use crate::config::findings::Finding;
use crate::config::node::At;
use crate::config::{LocalConfig, RetentionRule};

impl Checker<'_> {
    pub(super) fn local(&mut self, written: &Local) -> LocalConfig {
        LocalConfig {
            allow_delete: *written.allow_delete.get().unwrap_or(&true),
            allow_sparse: *written.allow_sparse.get().unwrap_or(&false),
            immutable_tags: written.immutable_tags.get().map_or_else(Vec::new, |all| {
                all.iter().filter_map(|glob| Some(glob.get()?.0.clone())).collect()
            }),
            quota: written.quota.get().map(|size| size.0),
            retention: self.retention(&written.retention),
        }
    }

    fn retention(&mut self, written: &Field<Vec<Field<Retention>>>) -> Vec<RetentionRule> {
        let rules = written.get().into_iter().flatten().filter_map(Field::with_place);
        rules.filter_map(|(at, rule)| self.rule(at, rule)).collect()
    }

    fn rule(&mut self, at: At, written: &Retention) -> Option<RetentionRule> {
        let times = [&written.older_than, &written.untagged_after];
        if written.matching.is_wrong() || written.keep_last.is_wrong() || times.iter().any(|time| time.is_wrong()) {
            // What was meant cannot be judged before that is mended.
            return None;
        }
        let matching = written.matching.get().map(|glob| glob.0.clone());
        let keep_last = written.keep_last.get().map(|count| count.0);
        let older_than = written.older_than.get().map(|time| time.0);
        let after = written.untagged_after.get().map(|time| time.0);
        let complaint = match (matching, after) {
            (Some(matching), None) if keep_last.is_some() || older_than.is_some() => {
                return Some(RetentionRule::Tags {
                    matching,
                    keep_last: keep_last.map(|count| usize::try_from(count).unwrap_or(usize::MAX)),
                    older_than,
                });
            }
            (Some(_), None) => "a rule about tags needs `keep_last`, `older_than`, or both: without them all would go",
            (None, Some(after)) if keep_last.is_none() && older_than.is_none() => {
                return Some(RetentionRule::Untagged { after });
            }
            (None, None) => "a rule is about tags (`match`), or about manifests without one (`untagged_after`)",
            (_, Some(_)) => "`untagged_after` is a rule of its own: what has no tag cannot be told by one",
        };
        self.findings.add(Finding::new(at, complaint));
        None
    }
}
