//! Workloads: whoever shows a token that an issuer of OpenID Connect has signed, and that says what one of our rules
//! wants to hear.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::Unidentified;
use super::claims::{self, Refused};
use super::identity::{Kind, Principal};
use super::issuer_keys::Source;
use super::jws::Token;
use crate::config::OidcConfig;

/// The issuers whose tokens we take.
#[derive(Debug, Default)]
pub(super) struct Issuers(Vec<Rule>);

#[derive(Debug)]
struct Rule {
    config: OidcConfig,
    source: Arc<Source>,
}

impl Issuers {
    /// Reads the rules. Keys that were fetched `before` are not fetched again.
    pub(super) fn new(rules: &[OidcConfig], before: Option<&Self>) -> Result<Self, String> {
        let mut all: Vec<Rule> = Vec::new();
        for config in rules {
            let is_same = |rule: &&Rule| {
                let other = &rule.config;
                (&other.issuer, &other.keys, &other.ca) == (&config.issuer, &config.keys, &config.ca)
            };
            let known = before
                .into_iter()
                .flat_map(|before| &before.0)
                .chain(&all)
                .find(is_same);
            let source = match known {
                Some(rule) => Arc::clone(&rule.source),
                None => {
                    Arc::new(Source::new(config).map_err(|error| format!("auth.oidc, {}: {error}", config.issuer))?)
                }
            };
            all.push(Rule {
                config: config.clone(),
                source,
            });
        }
        Ok(Self(all))
    }

    /// Who shows a token. `None`: it is no token of an issuer that is known here.
    pub(super) async fn identify(&self, token: &str, now: SystemTime) -> Option<Result<Principal, Unidentified>> {
        let token = Token::read(token)?;
        let issuer = token.issuer()?;
        if !self.0.iter().any(|rule| rule.config.issuer == issuer) {
            return None;
        }
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        Some(self.judge(issuer, &token, now).await)
    }

    async fn judge(&self, issuer: &str, token: &Token<'_>, now: u64) -> Result<Principal, Unidentified> {
        let mut sources: Vec<(&Arc<Source>, bool)> = Vec::new();
        let mut groups = BTreeSet::new();
        let (mut is_taken, mut refused) = (false, None);
        for rule in self.0.iter().filter(|rule| rule.config.issuer == issuer) {
            let asked = sources.iter().find(|(source, _)| Arc::ptr_eq(source, &rule.source));
            let has_signed = match asked {
                Some((_, has_signed)) => *has_signed,
                None => rule.source.has_signed(token).await.map_err(|reason| {
                    Unidentified::Unavailable(format!("the keys of the issuer {issuer} are not known: {reason}"))
                })?,
            };
            sources.push((&rule.source, has_signed));
            if !has_signed {
                continue;
            }
            match claims::check(&token.claims, &rule.config) {
                Ok(()) => {
                    is_taken = true;
                    groups.extend(rule.config.groups.iter().cloned());
                }
                Err(why) => refused = Some(why),
            }
        }
        if is_taken {
            match claims::subject(&token.claims, now) {
                Ok(subject) => {
                    return Ok(Principal {
                        groups,
                        until: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(subject.until)),
                        ..Principal::new(Kind::Workload, subject.name)
                    });
                }
                Err(why) => refused = Some(why),
            }
        }
        match refused {
            Some(Refused::Expired) => Err(Unidentified::Expired),
            Some(Refused::Wrong(why)) => {
                // Only the issuer can make us write this: it is asked after the signature.
                tracing::info!(issuer, why, "a token was refused");
                Err(Unidentified::Unknown)
            }
            None => Err(Unidentified::Unknown),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(issuer: &str, groups: &[&str]) -> OidcConfig {
        OidcConfig {
            issuer: issuer.to_owned(),
            audience: vec!["entrepot".to_owned()],
            claims: std::collections::BTreeMap::new(),
            groups: groups.iter().map(ToString::to_string).collect(),
            keys: None,
            ca: None,
        }
    }

    #[test]
    fn one_issuer_has_one_set_of_keys_and_keeps_it_over_a_reload() {
        let before = Issuers::new(
            &[config("https://a.test", &[]), config("https://a.test", &["ci"])],
            None,
        );
        let before = before.expect("two rules");
        assert!(Arc::ptr_eq(&before.0[0].source, &before.0[1].source));
        let mut trusting = config("https://a.test", &[]);
        trusting.keys = Some(crate::config::IssuerKeys::Url(
            "https://b.test/keys".parse().expect("a URL"),
        ));
        let after = Issuers::new(&[trusting, config("https://a.test", &["new"])], Some(&before)).expect("two rules");
        assert!(!Arc::ptr_eq(&after.0[0].source, &before.0[0].source));
        assert!(Arc::ptr_eq(&after.0[1].source, &before.0[0].source));
    }

    #[test]
    fn what_cannot_be_used_is_told_with_its_issuer() {
        let mut no_keys = config("https://a.test", &[]);
        no_keys.keys = Some(crate::config::IssuerKeys::Document(b"{}".as_slice().into()));
        for (rule, words) in [(config("http://a.test", &[]), "not https"), (no_keys, "`keys`")] {
            let said = Issuers::new(&[rule], None).expect_err(words);
            assert!(said.contains(words) && said.contains("a.test"), "{said}");
        }
    }
}
