//! Amazon ECR, private and public: a token for twelve hours, for a signed request.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use serde::Deserialize;
use serde_json::Value;

use super::super::Error;
use super::Proof;
use super::amazon::{Account, Question, mistake};
use super::calls::{Answer, Caller};
use super::renewed::{Given, Renewal};
use crate::config::{AmazonRegistry, Environment};

const WHOM: &str = "Amazon ECR's API";
/// What a token is good for that does not say so.
const USUAL_LIFE: Duration = Duration::from_secs(3600);
const SHORTEST_LIFE: Duration = Duration::from_secs(60);
const LONGEST_LIFE: Duration = Duration::from_secs(12 * 3600);

/// One registry of Amazon's, or the public one.
pub(super) struct Ecr {
    account: Account,
    registry: AmazonRegistry,
}

impl Ecr {
    pub(super) fn new(registry: AmazonRegistry, environment: Environment, caller: Arc<Caller>) -> Self {
        Self {
            account: Account::new(environment, caller, registry.region.clone()),
            registry,
        }
    }

    /// A new token.
    pub(super) async fn fetch(self: Arc<Self>) -> Result<Given, Error> {
        let (own, service, target) = if self.registry.is_public {
            (
                "ECR_PUBLIC",
                "ecr-public",
                "SpencerFrontendService.GetAuthorizationToken",
            )
        } else {
            (
                "ECR",
                "ecr",
                "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken",
            )
        };
        let endpoint = match self.account.endpoint(own)? {
            Some(url) => url,
            None => self
                .registry
                .endpoint
                .parse()
                .map_err(|_| Error::Credentials("the region is no part of an address".to_owned()))?,
        };
        let question = Question {
            whom: WHOM,
            endpoint: &endpoint,
            region: &self.registry.region,
            service,
            content_type: "application/x-amz-json-1.1",
            target: Some(target),
            body: "{}".to_owned(),
        };
        let answer = self.account.ask(question).await?;
        if answer.status != 200 {
            return Err(Error::Credentials(format!("{WHOM} answers {}", mistake(&answer))));
        }
        read(&answer, self.registry.is_public, SystemTime::now())
            .ok_or_else(|| Error::Credentials(format!("{WHOM} gives no token")))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    authorization_data: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Token {
    authorization_token: String,
    expires_at: Option<f64>,
}

fn read(answer: &Answer, is_public: bool, now: SystemTime) -> Option<Given> {
    let written: Written = serde_json::from_slice(&answer.body).ok()?;
    // A list of one; for the public registry, the one itself.
    let data = match written.authorization_data {
        Value::Array(list) if !is_public => list.into_iter().next()?,
        data => data,
    };
    let token: Token = serde_json::from_value(data).ok()?;
    let plain = base64::engine::general_purpose::STANDARD
        .decode(token.authorization_token)
        .ok()?;
    let plain = String::from_utf8(plain).ok()?;
    let (username, password) = plain.split_once(':').filter(|(_, password)| !password.is_empty())?;
    let since = now.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs_f64();
    let life = token
        .expires_at
        .and_then(|until| Duration::try_from_secs_f64((until - since).max(0.0)).ok())
        .unwrap_or(USUAL_LIFE);
    Some(Given {
        proof: Proof::basic(username, password)?,
        life: life.clamp(SHORTEST_LIFE, LONGEST_LIFE),
        renewal: Renewal::Half,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_from_both_forms_and_from_no_other() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let read = |text: &str, is_public| {
            let answer = Answer {
                status: 200,
                body: text.as_bytes().to_vec(),
            };
            let given = read(&answer, is_public, now)?;
            Some((given.proof.revealed(), given.life.as_secs()))
        };
        let shown = "AWS:secret".to_owned();
        let token = r#""authorizationToken":"QVdTOnNlY3JldA==""#;
        let one = |rest: &str| format!(r#"{{"authorizationData":[{{{token}{rest}}}]}}"#);
        assert_eq!(
            read(&one(r#","expiresAt":1043200.123,"proxyEndpoint":"https://x""#), false),
            Some((shown.clone(), 43_200))
        );
        assert_eq!(read(&one(r#","expiresAt":1e300"#), false), Some((shown.clone(), 3600)));
        assert_eq!(read(&one(r#","expiresAt":5"#), false), Some((shown.clone(), 60)));
        assert_eq!(read(&one(""), false), Some((shown.clone(), 3600)));
        let public = format!(r#"{{"authorizationData":{{{token},"expiresAt":1003600.0}}}}"#);
        assert_eq!(read(&public, true), Some((shown, 3600)));
        for text in [
            "",
            "[]",
            "<html>",
            r#"{"authorizationData":[]}"#,
            r#"{"authorizationData":[{"authorizationToken":"!"}]}"#,
            r#"{"authorizationData":[{"authorizationToken":"QVdT"}]}"#,
            r#"{"authorizationData":[{"authorizationToken":7}]}"#,
        ] {
            assert_eq!(read(text, false), None, "{text}");
        }
    }
}
