//! Keys from what answers on the machine: a container's agent, or the metadata service of an instance (IMDSv2).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use http::header::AUTHORIZATION;
use http::{HeaderName, HeaderValue, Method};
use serde::Deserialize;
use url::{Host, Url};

use super::super::super::Error;
use super::super::calls::{Answer, Call, Way};
use super::{Account, Keys, json, missing, mistake, read, sensitive};

const CONTAINER: &str = "the container's credentials endpoint";
const MACHINE: &str = "the instance's metadata service";
/// Where agents of containers are: of ECS, and of EKS.
const AGENTS: [IpAddr; 3] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 2)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 23)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23)),
];
const ROLES: &str = "/latest/meta-data/iam/security-credentials/";
const SESSION: HeaderName = HeaderName::from_static("x-aws-ec2-metadata-token");
const SESSION_LIFE: HeaderName = HeaderName::from_static("x-aws-ec2-metadata-token-ttl-seconds");

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Written {
    access_key_id: String,
    secret_access_key: String,
    token: Option<String>,
}

impl Account {
    pub(super) async fn keys_of_container(&self) -> Result<Option<Keys>, Error> {
        let Some(url) = self.agent()? else { return Ok(None) };
        let token = match self.variable("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE") {
            Some(file) => {
                let path = Path::new(file);
                let token = read(path).await?;
                Some(token.ok_or_else(|| missing(format!("{} is not there", path.display())))?)
            }
            None => self.variable("AWS_CONTAINER_AUTHORIZATION_TOKEN").map(str::to_owned),
        };
        let mut headers = vec![json()];
        if let Some(token) = token {
            headers.push((AUTHORIZATION, sensitive(token.trim())?));
        }
        let answer = self.ask_nearby(CONTAINER, Method::GET, url, headers).await?;
        keys(CONTAINER, &answer).map(Some)
    }

    /// Where the container's agent is, if there is one. Over http, only on the machine itself: it is shown a token.
    fn agent(&self) -> Result<Option<Url>, Error> {
        if let Some(path) = self.variable("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") {
            let url = path
                .starts_with('/')
                .then(|| format!("http://{}{path}", AGENTS[0]).parse().ok());
            return match url.flatten() {
                Some(url) => Ok(Some(url)),
                None => Err(missing("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI is no path")),
            };
        }
        let Some(text) = self.variable("AWS_CONTAINER_CREDENTIALS_FULL_URI") else {
            return Ok(None);
        };
        let url: Option<Url> = text.parse().ok();
        let is_agent = |address: IpAddr| address.is_loopback() || AGENTS.contains(&address);
        let may_be_asked = |url: &Url| match (url.scheme(), url.host()) {
            ("https", Some(_)) => true,
            ("http", Some(Host::Ipv4(address))) => is_agent(address.into()),
            ("http", Some(Host::Ipv6(address))) => is_agent(address.into()),
            ("http", Some(Host::Domain(name))) => name == "localhost",
            _ => false,
        };
        url.filter(may_be_asked).map(Some).ok_or_else(|| {
            missing(
                "AWS_CONTAINER_CREDENTIALS_FULL_URI is neither an https address nor one of this machine or its \
                 container agent",
            )
        })
    }

    /// `None` if it is not to be asked.
    pub(super) async fn keys_of_machine(&self) -> Result<Option<Keys>, Error> {
        let is_off = self.variable("AWS_EC2_METADATA_DISABLED");
        if is_off.is_some_and(|text| text.eq_ignore_ascii_case("true")) {
            return Ok(None);
        }
        let base = self.service()?;
        let at = |path: &str| {
            let mut url = base.clone();
            let before = url.path().trim_end_matches('/').to_owned();
            url.set_path(&format!("{before}{path}"));
            url
        };
        let life = vec![(SESSION_LIFE, HeaderValue::from_static("21600"))];
        let session = self
            .ask_nearby(MACHINE, Method::PUT, at("/latest/api/token"), life)
            .await
            .map_err(|error| match error {
                Error::Credentials(why) => missing(format!(
                    "there are no AWS keys in the environment, in a profile or from a container, and {why}"
                )),
                error => error,
            })?;
        let session = text(MACHINE, &session)?;
        let headers = || Ok::<_, Error>(vec![(SESSION, sensitive(&session)?)]);
        let roles = self.ask_nearby(MACHINE, Method::GET, at(ROLES), headers()?).await?;
        if roles.status == 404 {
            return Err(missing("there are no AWS keys: the instance has no role"));
        }
        let roles = text(MACHINE, &roles)?;
        let role = roles.lines().next().unwrap_or_default().trim();
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"+=,.@_-".contains(&byte);
        if role.is_empty() || !role.bytes().all(is_name) {
            return Err(missing(format!("{MACHINE} names no role")));
        }
        let answer = self
            .ask_nearby(MACHINE, Method::GET, at(&format!("{ROLES}{role}")), headers()?)
            .await?;
        keys(MACHINE, &answer).map(Some)
    }

    fn service(&self) -> Result<Url, Error> {
        let is_v6 = self
            .variable("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE")
            .is_some_and(|mode| mode.eq_ignore_ascii_case("ipv6"));
        let usual = if is_v6 {
            "http://[fd00:ec2::254]"
        } else {
            "http://169.254.169.254"
        };
        let text = self.variable("AWS_EC2_METADATA_SERVICE_ENDPOINT").unwrap_or(usual);
        let url: Option<Url> = text.parse().ok();
        url.filter(|url| matches!(url.scheme(), "http" | "https") && url.host_str().is_some())
            .ok_or_else(|| missing("AWS_EC2_METADATA_SERVICE_ENDPOINT is no web address"))
    }

    async fn ask_nearby(
        &self,
        whom: &'static str,
        method: Method,
        url: Url,
        headers: Vec<(HeaderName, HeaderValue)>,
    ) -> Result<Answer, Error> {
        let call = Call {
            whom,
            way: Way::Machine,
            method,
            url,
            headers,
            body: String::new(),
        };
        self.caller.ask(call).await
    }
}

fn text(whom: &str, answer: &Answer) -> Result<String, Error> {
    match std::str::from_utf8(&answer.body) {
        Ok(text) if answer.status == 200 => Ok(text.trim().to_owned()),
        Ok(_) => Err(missing(format!("{whom} answers {}", mistake(answer)))),
        Err(_) => Err(missing(format!("{whom} answers what is no text"))),
    }
}

fn keys(whom: &str, answer: &Answer) -> Result<Keys, Error> {
    let text = text(whom, answer)?;
    let written: Option<Written> = serde_json::from_str(&text).ok();
    let keys =
        written.and_then(|found| Keys::new(&found.access_key_id, &found.secret_access_key, found.token.as_deref()));
    // It says what is wrong in an answer of 200, too.
    keys.ok_or_else(|| missing(format!("{whom} gives no keys: {}", mistake(answer))))
}
