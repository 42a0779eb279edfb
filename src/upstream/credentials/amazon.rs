//! AWS's keys, from where its own tools take them, in their order: the environment, a web identity, the shared files of
//! profiles, the container, the machine.
//!
//! They are looked for each time that they are needed, which is once in hours: files, roles and environments of containers
//! change meanwhile, and nothing of them is kept.

mod metadata;
pub(super) mod profiles;
mod signature;
pub(super) mod sts;

use std::sync::Arc;
use std::time::SystemTime;

use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderName, HeaderValue, Method};
use url::Url;

use super::super::Error;
use super::calls::{Answer, Call, Caller, Way};
use super::files::read;
use super::missing;
use crate::config::{Environment, Secret};
use signature::Scope;

/// What requests to AWS are signed with.
#[derive(Clone)]
pub(super) struct Keys {
    pub(super) id: String,
    pub(super) secret: Secret,
    pub(super) token: Option<Secret>,
}

/// An account at AWS, as this process has it.
pub(super) struct Account {
    environment: Environment,
    caller: Arc<Caller>,
    /// Where the registry is: whom we ask for keys is there too, unless the environment says otherwise.
    region: String,
}

/// A question to one of AWS's services.
pub(super) struct Question<'a> {
    pub(super) whom: &'static str,
    pub(super) endpoint: &'a Url,
    pub(super) region: &'a str,
    pub(super) service: &'static str,
    pub(super) content_type: &'static str,
    /// `X-Amz-Target`, in those services that have it.
    pub(super) target: Option<&'static str>,
    pub(super) body: String,
}

impl Keys {
    /// `None` if a part of them is missing, or is not what keys are made of.
    fn new(id: &str, secret: &str, token: Option<&str>) -> Option<Self> {
        let is_good = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        let token = token.filter(|token| !token.is_empty());
        (is_good(id) && is_good(secret) && token.is_none_or(is_good)).then(|| Self {
            id: id.to_owned(),
            secret: Secret::new(secret),
            token: token.map(Secret::new),
        })
    }
}

impl Account {
    pub(super) fn new(environment: Environment, caller: Arc<Caller>, region: String) -> Self {
        Self {
            environment,
            caller,
            region,
        }
    }

    /// A variable that says something.
    fn variable(&self, name: &str) -> Option<&str> {
        self.environment
            .get(name)
            .map(str::trim)
            .filter(|text| !text.is_empty())
    }

    /// Where a service is, if the environment says it: by the service's own variable, or by the one for all.
    pub(super) fn endpoint(&self, own: &str) -> Result<Option<Url>, Error> {
        if self.variable("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS") == Some("true") {
            return Ok(None);
        }
        let own = format!("AWS_ENDPOINT_URL_{own}");
        let names = [own.as_str(), "AWS_ENDPOINT_URL"];
        let Some((name, text)) = names.into_iter().find_map(|name| Some((name, self.variable(name)?))) else {
            return Ok(None);
        };
        let url: Option<Url> = text.parse().ok();
        let is_root = |url: &Url| {
            matches!(url.scheme(), "http" | "https")
                && url.host_str().is_some()
                && url.path() == "/"
                && url.query().is_none()
                && url.username().is_empty()
                && url.password().is_none()
        };
        url.filter(is_root)
            .map(Some)
            .ok_or_else(|| missing(format!("{name} is not the root of a web address")))
    }

    /// Asks one of AWS's services, signed with our keys.
    pub(super) async fn ask(&self, question: Question<'_>) -> Result<Answer, Error> {
        let keys = self.keys().await?;
        self.ask_as(&keys, question).await
    }

    async fn ask_as(&self, keys: &Keys, question: Question<'_>) -> Result<Answer, Error> {
        let url = question.endpoint;
        let host = match (url.host_str().unwrap_or_default(), url.port()) {
            (host, None) => host.to_owned(),
            (host, Some(port)) => format!("{host}:{port}"),
        };
        let moment = signature::moment(SystemTime::now());
        let mut signed = vec![
            (CONTENT_TYPE.as_str(), question.content_type),
            (HOST.as_str(), host.as_str()),
            ("x-amz-date", moment.as_str()),
        ];
        if let Some(target) = question.target {
            signed.push(("x-amz-target", target));
        }
        if let Some(token) = &keys.token {
            signed.push(("x-amz-security-token", token.reveal()));
        }
        let scope = Scope {
            region: question.region,
            service: question.service,
            moment: &moment,
        };
        let authorization = signature::authorization(keys, &scope, "POST", &signed, question.body.as_bytes());
        let mut headers = Vec::new();
        for (name, value) in signed.iter().filter(|(name, _)| *name != HOST.as_str()) {
            headers.push((header_name(name)?, sensitive(value)?));
        }
        headers.push((AUTHORIZATION, sensitive(&authorization)?));
        self.caller
            .ask(Call {
                whom: question.whom,
                way: Way::Outside,
                method: Method::POST,
                url: url.clone(),
                headers,
                body: question.body,
            })
            .await
    }

    /// Our keys. Where they are is decided by who has something to say, and what is wrong there is told: keys that
    /// somebody else meant would be worse than none.
    async fn keys(&self) -> Result<Keys, Error> {
        if let Some(keys) = self.keys_of_environment()? {
            return Ok(keys);
        }
        if let Some(keys) = self.keys_of_web_identity().await? {
            return Ok(keys);
        }
        if let Some(keys) = self.keys_of_profile().await? {
            return Ok(keys);
        }
        if let Some(keys) = self.keys_of_container().await? {
            return Ok(keys);
        }
        if let Some(keys) = self.keys_of_machine().await? {
            return Ok(keys);
        }
        Err(missing(
            "there are no AWS keys: neither in the environment nor in a profile nor from a container, and the machine's \
             metadata service is switched off (AWS_EC2_METADATA_DISABLED)",
        ))
    }

    fn keys_of_environment(&self) -> Result<Option<Keys>, Error> {
        let id = self.variable("AWS_ACCESS_KEY_ID");
        let secret = self.variable("AWS_SECRET_ACCESS_KEY");
        match (id, secret) {
            (None, None) => Ok(None),
            (Some(id), Some(secret)) => Keys::new(id, secret, self.variable("AWS_SESSION_TOKEN"))
                .map(Some)
                .ok_or_else(|| missing("AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY or AWS_SESSION_TOKEN is no key")),
            (Some(_), None) => Err(missing("AWS_ACCESS_KEY_ID is set, but AWS_SECRET_ACCESS_KEY is not")),
            (None, Some(_)) => Err(missing("AWS_SECRET_ACCESS_KEY is set, but AWS_ACCESS_KEY_ID is not")),
        }
    }

    async fn keys_of_web_identity(&self) -> Result<Option<Keys>, Error> {
        let Some(file) = self.variable("AWS_WEB_IDENTITY_TOKEN_FILE") else {
            return Ok(None);
        };
        let role = self
            .variable("AWS_ROLE_ARN")
            .ok_or_else(|| missing("AWS_WEB_IDENTITY_TOKEN_FILE is set, but AWS_ROLE_ARN is not"))?;
        let session = self.variable("AWS_ROLE_SESSION_NAME");
        self.assume_with_web_identity(role, session, file).await.map(Some)
    }
}

fn header_name(name: &str) -> Result<HeaderName, Error> {
    name.parse().map_err(|_| missing("a header's name cannot be sent"))
}

/// A header's value that is in no log.
fn sensitive(text: &str) -> Result<HeaderValue, Error> {
    let mut value = HeaderValue::from_str(text).map_err(|_| missing("what AWS is shown cannot be sent"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// The usual header of who wants JSON.
fn json() -> (HeaderName, HeaderValue) {
    (ACCEPT, HeaderValue::from_static("application/json"))
}

/// What a service calls the mistake that it answers with; its words may hold more than belongs in a log.
pub(super) fn mistake(answer: &Answer) -> String {
    let text = String::from_utf8_lossy(&answer.body);
    let from_json = serde_json::from_slice::<serde_json::Value>(&answer.body)
        .ok()
        .and_then(|value| {
            let kind = value
                .get("__type")
                .or_else(|| value.get("code"))
                .or_else(|| value.get("Code"))?;
            Some(kind.as_str()?.rsplit('#').next()?.to_owned())
        });
    let kind = from_json.or_else(|| sts::element(&text, "Code").map(str::to_owned));
    let is_name = |kind: &String| {
        (1..=100).contains(&kind.len()) && kind.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'.')
    };
    match kind.filter(is_name) {
        Some(kind) => format!("{} ({kind})", answer.status),
        None => answer.status.to_string(),
    }
}
