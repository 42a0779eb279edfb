//! Keys for a role, from AWS's Security Token Service.

use std::path::Path;

use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method};
use url::Url;
use url::form_urlencoded::Serializer;

use super::super::super::Error;
use super::super::calls::{Answer, Call, Way};
use super::{Account, Keys, Question, missing, mistake, read};
use crate::config::amazon_suffix_of;

const WHOM: &str = "AWS's Security Token Service";
const FORM: &str = "application/x-www-form-urlencoded; charset=utf-8";
/// What we are called in the other side's audit, unless somebody says otherwise.
const SESSION: &str = "entrepot";

/// Which role, and under what name.
pub(super) struct Role<'a> {
    pub(super) arn: &'a str,
    pub(super) session: Option<&'a str>,
    pub(super) external_id: Option<&'a str>,
}

impl Account {
    pub(super) async fn assume_with_web_identity(
        &self,
        role: &str,
        session: Option<&str>,
        file: &str,
    ) -> Result<Keys, Error> {
        let path = Path::new(file);
        let token = read(path).await?;
        let token = token.ok_or_else(|| missing(format!("{} is not there", path.display())))?;
        let own = ("WebIdentityToken", token.trim());
        let body = form("AssumeRoleWithWebIdentity", role, session, Some(own));
        let answer = self
            .caller
            .ask(Call {
                whom: WHOM,
                way: Way::Outside,
                method: Method::POST,
                url: self.sts()?.0,
                headers: vec![(CONTENT_TYPE, HeaderValue::from_static(FORM))],
                body,
            })
            .await?;
        keys(&answer)
    }

    pub(super) async fn assume(&self, source: &Keys, role: &Role<'_>) -> Result<Keys, Error> {
        let own = role.external_id.map(|id| ("ExternalId", id));
        let (endpoint, region) = self.sts()?;
        let question = Question {
            whom: WHOM,
            endpoint: &endpoint,
            region: &region,
            service: "sts",
            content_type: FORM,
            target: None,
            body: form("AssumeRole", role.arn, role.session, own),
        };
        keys(&self.ask_as(source, question).await?)
    }

    /// Where it is, and for which region.
    fn sts(&self) -> Result<(Url, String), Error> {
        let region = ["AWS_REGION", "AWS_DEFAULT_REGION"]
            .into_iter()
            .find_map(|name| self.variable(name))
            .unwrap_or(&self.region);
        let url = match self.endpoint("STS")? {
            Some(url) => url,
            None => format!("https://sts.{region}.{}/", amazon_suffix_of(region))
                .parse()
                .map_err(|_| missing("AWS_REGION is no region"))?,
        };
        Ok((url, region.to_owned()))
    }
}

fn form(action: &str, role: &str, session: Option<&str>, own: Option<(&str, &str)>) -> String {
    let mut form = Serializer::new(String::new());
    form.append_pair("Action", action)
        .append_pair("Version", "2011-06-15")
        .append_pair("RoleArn", role)
        .append_pair("RoleSessionName", session.unwrap_or(SESSION))
        .extend_pairs(own);
    form.finish()
}

fn keys(answer: &Answer) -> Result<Keys, Error> {
    if answer.status != 200 {
        return Err(missing(format!("{WHOM} answers {}", mistake(answer))));
    }
    read_keys(&answer.body).ok_or_else(|| missing(format!("{WHOM} gives no keys")))
}

pub(in super::super) fn read_keys(body: &[u8]) -> Option<Keys> {
    let text = String::from_utf8_lossy(body);
    let found = element(&text, "Credentials")?;
    let (id, secret) = (element(found, "AccessKeyId")?, element(found, "SecretAccessKey")?);
    Keys::new(id, secret, Some(element(found, "SessionToken")?))
}

/// What is in the first XML element of this name. Nothing that is looked for here has attributes or entities.
pub(super) fn element<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    let (inside, _) = rest.split_once(&format!("</{name}>"))?;
    Some(inside.trim())
}
