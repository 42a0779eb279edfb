//! Google's registries: an access token for an hour, by Google's Application Default Credentials: a file that the
//! environment names, the one that `gcloud` leaves, or the metadata server of the machine.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderName, HeaderValue, Method};
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject as _;
use serde::Deserialize;
use serde_json::json;
use url::Url;

use super::super::Error;
use super::calls::{Call, Caller, Way};
use super::files::read;
use super::oauth::{self, Access};
use super::renewed::{Given, Renewal};
use super::{Proof, missing};
use crate::config::Environment;

const WHOM: &str = "Google's token endpoint";
const MACHINE: &str = "the machine's metadata server";
/// Who one is to a registry with an access token for a password.
const USER: &str = "oauth2accesstoken";
const FILE: &str = "GOOGLE_APPLICATION_CREDENTIALS";
const TOKENS: &str = "https://oauth2.googleapis.com/token";
const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
/// How long what we sign is good for; the token that it is exchanged for lives as long.
const LIFE: u64 = 3600;
const USUAL_METADATA: &str = "169.254.169.254";
const TOKEN: &str = "/computeMetadata/v1/instance/service-accounts/default/token";
const FLAVOR: HeaderName = HeaderName::from_static("metadata-flavor");

/// Who we are at Google, for its registries.
pub(super) struct Google {
    environment: Environment,
    caller: Arc<Caller>,
}

/// A file of credentials. What it holds depends on its kind.
#[derive(Deserialize)]
struct File {
    #[serde(rename = "type")]
    kind: String,
    client_email: Option<String>,
    private_key: Option<String>,
    private_key_id: Option<String>,
    token_uri: Option<String>,
    client_id: Option<String>,
    client_secret: Option<String>,
    refresh_token: Option<String>,
}

impl Google {
    pub(super) fn new(environment: Environment, caller: Arc<Caller>) -> Self {
        Self { environment, caller }
    }

    /// A new token.
    pub(super) async fn fetch(self: Arc<Self>) -> Result<Given, Error> {
        let access = match self.file().await? {
            Some((path, text)) => {
                let wrong = |why: &str| missing(format!("{} {why}", path.display()));
                let file: File =
                    serde_json::from_str(&text).map_err(|_| wrong("is no file of Google's credentials"))?;
                match file.kind.as_str() {
                    "service_account" => self.by_key(&file).await,
                    "authorized_user" => self.by_login(&file).await,
                    // The kind is a word, but the file is anybody's.
                    "external_account" | "external_account_authorized_user" | "impersonated_service_account" => {
                        Err(missing(format!(
                            "is of the kind `{}`, which is not supported: give the machine a service account, or a key \
                             of one",
                            file.kind
                        )))
                    }
                    _ => Err(missing("is of a kind that is not known")),
                }
                .map_err(|error| match error {
                    Error::Credentials(why) => wrong(&why),
                    error => error,
                })?
            }
            None => self.by_machine().await?,
        };
        let proof = Proof::basic(USER, access.token.reveal());
        Ok(Given {
            proof: proof.ok_or_else(|| missing("the token cannot be sent"))?,
            life: access.life,
            renewal: Renewal::Half,
        })
    }

    fn variable(&self, name: &str) -> Option<&str> {
        self.environment.get(name).filter(|text| !text.is_empty())
    }

    /// The file that is meant, if there is one.
    async fn file(&self) -> Result<Option<(PathBuf, String)>, Error> {
        if let Some(path) = self.variable(FILE).map(PathBuf::from) {
            let text = read(&path).await?;
            let text = text.ok_or_else(|| missing(format!("{FILE}: {} is not there", path.display())))?;
            return Ok(Some((path, text)));
        }
        let own = self.variable("CLOUDSDK_CONFIG").map(PathBuf::from);
        let usual = || Some(PathBuf::from(self.variable("HOME")?).join(".config/gcloud"));
        let Some(directory) = own.or_else(usual) else {
            return Ok(None);
        };
        let path = directory.join("application_default_credentials.json");
        Ok(read(&path).await?.map(|text| (path, text)))
    }

    /// By a service account's key: what we are is signed, and exchanged for a token.
    async fn by_key(&self, file: &File) -> Result<Access, Error> {
        let (Some(email), Some(key)) = (&file.client_email, &file.private_key) else {
            return Err(missing("has no `client_email` or no `private_key`"));
        };
        let uri = file.token_uri.as_deref().unwrap_or(TOKENS);
        let url: Option<Url> = uri.parse().ok();
        let url = url.filter(|url| url.scheme() == "https" && url.host_str().is_some());
        let url = url.ok_or_else(|| missing("has a `token_uri` that is no https address"))?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.map_err(|_| missing("cannot be used before 1970"))?.as_secs();
        let mut header = json!({ "alg": "RS256", "typ": "JWT" });
        if let Some(id) = &file.private_key_id {
            header["kid"] = json!(id);
        }
        let claims = json!({ "iss": email, "scope": SCOPE, "aud": uri, "iat": now, "exp": now + LIFE });
        let part = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&header), part(&claims));
        let signature = sign(key, signed.as_bytes()).ok_or_else(|| missing("holds a `private_key` that is none"))?;
        let assertion = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature));
        let fields = [
            ("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"),
            ("assertion", assertion.as_str()),
        ];
        oauth::access(WHOM, &self.caller.ask(oauth::form(WHOM, url, fields)).await?)
    }

    /// By a person's login with `gcloud auth application-default login`.
    async fn by_login(&self, file: &File) -> Result<Access, Error> {
        let (Some(id), Some(secret), Some(token)) = (&file.client_id, &file.client_secret, &file.refresh_token) else {
            return Err(missing("has no `client_id`, `client_secret` or `refresh_token`"));
        };
        let fields = [
            ("grant_type", "refresh_token"),
            ("client_id", id.as_str()),
            ("client_secret", secret.as_str()),
            ("refresh_token", token.as_str()),
        ];
        let url = TOKENS.parse().map_err(|_| missing("cannot be used"))?;
        oauth::access(WHOM, &self.caller.ask(oauth::form(WHOM, url, fields)).await?)
    }

    /// By what the machine is.
    async fn by_machine(&self) -> Result<Access, Error> {
        let host = self.variable("GCE_METADATA_HOST").unwrap_or(USUAL_METADATA);
        let url = format!("http://{host}{TOKEN}");
        let url = url.parse().ok().filter(|url: &Url| url.path() == TOKEN);
        let call = Call {
            whom: MACHINE,
            way: Way::Machine,
            method: Method::GET,
            url: url.ok_or_else(|| missing("GCE_METADATA_HOST is no HOST or HOST:PORT"))?,
            headers: vec![(FLAVOR, HeaderValue::from_static("Google"))],
            body: String::new(),
        };
        let answer = self.caller.ask(call).await.map_err(|error| match error {
            Error::Credentials(why) => missing(format!("there is no file of Google's credentials ({FILE}), and {why}")),
            error => error,
        })?;
        match answer.status {
            404 => Err(missing(format!("{MACHINE} knows no service account of this machine"))),
            _ => oauth::access(MACHINE, &answer),
        }
    }
}

fn sign(key: &str, text: &[u8]) -> Option<Vec<u8>> {
    let key = PrivatePkcs8KeyDer::from_pem_slice(key.as_bytes()).ok()?;
    let pair = RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()).ok()?;
    let mut signature = vec![0; pair.public().modulus_len()];
    pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), text, &mut signature)
        .ok()?;
    Some(signature)
}
