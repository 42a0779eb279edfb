//! Azure's registries: a token of Microsoft Entra ID, which the registry exchanges for a token for tokens.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderName, HeaderValue, Method};
use serde::Deserialize;
use serde_json::Value;
use url::Url;

use super::super::Error;
use super::calls::{Call, Caller, Way};
use super::files::read;
use super::oauth::{self, Access};
use super::renewed::{Given, Renewal};
use super::{Proof, missing};
use crate::config::{Environment, Secret};

const WHOM: &str = "Microsoft Entra ID";
const MACHINE: &str = "the machine's identity endpoint";
const REGISTRY: &str = "the registry's /oauth2/exchange";
/// What a token is for that a registry takes, in every one of Microsoft's clouds.
const AUDIENCE: &str = "https://containerregistry.azure.net";
const USUAL_METADATA: &str = "http://169.254.169.254";
/// What a token for tokens is good for that does not say so, and at the longest.
const USUAL_LIFE: Duration = Duration::from_secs(3600);
const SHORTEST_LIFE: Duration = Duration::from_secs(60);
const LONGEST_LIFE: Duration = Duration::from_secs(3 * 3600);
/// Where tokens are given to whom the registries of another cloud are.
const AUTHORITIES: [(&str, &str); 2] = [
    (".azurecr.cn", "https://login.chinacloudapi.cn"),
    (".azurecr.us", "https://login.microsoftonline.us"),
];
const USUAL_AUTHORITY: &str = "https://login.microsoftonline.com";

/// Who we are at Azure, for one registry.
pub(super) struct Azure {
    registry: Url,
    environment: Environment,
    caller: Arc<Caller>,
}

#[derive(Deserialize)]
struct Exchanged {
    refresh_token: String,
}

impl Azure {
    pub(super) fn new(registry: &Url, environment: Environment, caller: Arc<Caller>) -> Self {
        Self {
            registry: registry.clone(),
            environment,
            caller,
        }
    }

    /// A new token for tokens.
    pub(super) async fn fetch(self: Arc<Self>) -> Result<Given, Error> {
        let access = self.access().await?;
        let service = self.registry.host_str().unwrap_or_default();
        let mut fields = vec![
            ("grant_type", "access_token"),
            ("service", service),
            ("access_token", access.token.reveal()),
        ];
        fields.extend(self.variable("AZURE_TENANT_ID").map(|tenant| ("tenant", tenant)));
        let mut url = self.registry.clone();
        url.set_path("/oauth2/exchange");
        let answer = self.caller.ask(oauth::form(REGISTRY, url, fields)).await?;
        if answer.status != 200 {
            return Err(missing(format!("{REGISTRY} answers {}", oauth::mistake(&answer))));
        }
        let token: Option<Exchanged> = serde_json::from_slice(&answer.body).ok();
        let token = token.filter(|found| oauth::is_token(&found.refresh_token));
        let token = token.ok_or_else(|| missing(format!("{REGISTRY} gives no token")))?;
        Ok(Given {
            life: life(&token.refresh_token, SystemTime::now()),
            proof: Proof::Refresh(Secret::new(token.refresh_token)),
            renewal: Renewal::Half,
        })
    }

    fn variable(&self, name: &str) -> Option<&str> {
        self.environment
            .get(name)
            .map(str::trim)
            .filter(|text| !text.is_empty())
    }

    /// Who we are, proved by Microsoft. What is set up first, in the order of its own libraries, counts.
    async fn access(&self) -> Result<Access, Error> {
        if let Some(secret) = self.variable("AZURE_CLIENT_SECRET") {
            return self.by_application([("client_secret", secret)]).await;
        }
        for name in ["AZURE_CLIENT_CERTIFICATE_PATH", "AZURE_USERNAME"] {
            if self.variable(name).is_some() {
                return Err(missing(format!(
                    "{name} is set, which is not supported: use AZURE_CLIENT_SECRET, AZURE_FEDERATED_TOKEN_FILE or a \
                     managed identity"
                )));
            }
        }
        if let Some(file) = self.variable("AZURE_FEDERATED_TOKEN_FILE").map(Path::new) {
            let token = read(file).await?;
            let token = token.ok_or_else(|| missing(format!("{} is not there", file.display())))?;
            let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
            let fields = [("client_assertion_type", kind), ("client_assertion", token.trim())];
            return self.by_application(fields).await;
        }
        self.by_machine().await
    }

    async fn by_application<const N: usize>(&self, proof: [(&str, &str); N]) -> Result<Access, Error> {
        let needed = |name: &str| {
            let value = self.variable(name);
            value.ok_or_else(|| missing(format!("{} is a proof of whom, but {name} is not set", proof[0].0)))
        };
        let (tenant, client) = (needed("AZURE_TENANT_ID")?, needed("AZURE_CLIENT_ID")?);
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-.".contains(&byte);
        if !tenant.bytes().all(is_name) {
            return Err(missing("AZURE_TENANT_ID is neither an id nor a domain"));
        }
        let mut url = self.authority()?;
        url.set_path(&format!("/{tenant}/oauth2/v2.0/token"));
        let scope = format!("{AUDIENCE}/.default");
        let fields = [
            ("grant_type", "client_credentials"),
            ("client_id", client),
            ("scope", &scope),
        ];
        let question = oauth::form(WHOM, url, fields.into_iter().chain(proof));
        oauth::access(WHOM, &self.caller.ask(question).await?)
    }

    /// Where proofs are taken: it is shown a secret, so over https alone.
    fn authority(&self) -> Result<Url, Error> {
        let host = self.registry.host_str().unwrap_or_default();
        let other = AUTHORITIES.iter().find(|(end, _)| host.ends_with(end));
        let usual = other.map_or(USUAL_AUTHORITY, |(_, authority)| authority);
        let url: Option<Url> = self.variable("AZURE_AUTHORITY_HOST").unwrap_or(usual).parse().ok();
        url.filter(|url| url.scheme() == "https" && url.host_str().is_some())
            .ok_or_else(|| missing("AZURE_AUTHORITY_HOST is no https address"))
    }

    /// By what the machine is: of an app service or container app where the environment says so, of a virtual machine
    /// otherwise.
    async fn by_machine(&self) -> Result<Access, Error> {
        let own = self.variable("IDENTITY_ENDPOINT").zip(self.variable("IDENTITY_HEADER"));
        let web = |name: &str, text: &str| {
            let url: Option<Url> = text.parse().ok();
            let url = url.filter(|url| matches!(url.scheme(), "http" | "https") && url.host_str().is_some());
            url.ok_or_else(|| missing(format!("{name} is no web address")))
        };
        let (mut url, header);
        if let Some((endpoint, secret)) = own {
            url = web("IDENTITY_ENDPOINT", endpoint)?;
            url.query_pairs_mut().append_pair("api-version", "2019-08-01");
            let mut value = HeaderValue::from_str(secret).map_err(|_| missing("IDENTITY_HEADER cannot be sent"))?;
            value.set_sensitive(true);
            header = (HeaderName::from_static("x-identity-header"), value);
        } else {
            const NAME: &str = "AZURE_POD_IDENTITY_AUTHORITY_HOST";
            url = web(NAME, self.variable(NAME).unwrap_or(USUAL_METADATA))?;
            url.set_path("/metadata/identity/oauth2/token");
            url.set_query(Some("api-version=2018-02-01"));
            header = (HeaderName::from_static("metadata"), HeaderValue::from_static("true"));
        }
        url.query_pairs_mut().append_pair("resource", AUDIENCE);
        if let Some(client) = self.variable("AZURE_CLIENT_ID") {
            url.query_pairs_mut().append_pair("client_id", client);
        }
        let call = Call {
            whom: MACHINE,
            way: Way::Machine,
            method: Method::GET,
            url,
            headers: vec![header],
            body: String::new(),
        };
        let answer = self.caller.ask(call).await.map_err(|error| match error {
            Error::Credentials(why) => missing(format!(
                "there is neither AZURE_CLIENT_SECRET nor AZURE_FEDERATED_TOKEN_FILE, and {why}"
            )),
            error => error,
        })?;
        oauth::access(MACHINE, &answer)
    }
}

/// How long a token for tokens is good: what it says itself, if it can be read.
fn life(token: &str, now: SystemTime) -> Duration {
    let end = || {
        let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
        let claims: Value = serde_json::from_slice(&claims).ok()?;
        let end = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(claims["exp"].as_u64()?))?;
        Some(end.duration_since(now).unwrap_or_default())
    };
    end().unwrap_or(USUAL_LIFE).clamp(SHORTEST_LIFE, LONGEST_LIFE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_life_is_what_the_token_says_within_reason() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let token = |claims: &str| format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims));
        for (token, expected) in [
            (token(r#"{"exp":1005000}"#), 5000),
            (token(r#"{"exp":1}"#), 60),
            (token(r#"{"exp":18446744073709551615}"#), 3600),
            (token(r#"{"exp":9000000000}"#), 10_800),
            (token(r#"{"exp":"soon"}"#), 3600),
            (token("{}"), 3600),
            ("opaque".to_owned(), 3600),
        ] {
            assert_eq!(life(&token, now).as_secs(), expected, "{token}");
        }
    }
}
