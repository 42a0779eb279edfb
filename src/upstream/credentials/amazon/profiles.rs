//! The shared files of profiles, `~/.aws/config` and `~/.aws/credentials`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use super::super::super::Error;
use super::sts::Role;
use super::{Account, Keys, missing, read};

/// Ways to keys that end at a person, or at a program: not for a server. They are named, so that nobody wonders.
const NOT_FOR_US: [&str; 5] = [
    "sso_session",
    "sso_start_url",
    "login_session",
    "credential_process",
    "mfa_serial",
];

pub(in super::super) type Profile = HashMap<String, String>;
pub(in super::super) type Profiles = HashMap<String, Profile>;

impl Account {
    /// The keys of the profile that the environment names, or of `default`.
    pub(super) async fn keys_of_profile(&self) -> Result<Option<Keys>, Error> {
        let named = self.variable("AWS_PROFILE");
        let profiles = self.profiles().await?;
        let name = named.unwrap_or("default");
        if !profiles.contains_key(name) {
            return match named {
                Some(name) => Err(missing(format!("AWS_PROFILE: there is no profile `{name}`"))),
                None => Ok(None),
            };
        }
        self.keys_of(&profiles, name, Vec::new()).await
    }

    async fn profiles(&self) -> Result<Profiles, Error> {
        let mut all = Profiles::new();
        // What is in both files, the second one says.
        for (variable, usual, has_prefix) in [
            ("AWS_CONFIG_FILE", "config", true),
            ("AWS_SHARED_CREDENTIALS_FILE", "credentials", false),
        ] {
            let Some(path) = self.file(variable, usual) else {
                continue;
            };
            if let Some(text) = read(&path).await? {
                parse(&text, has_prefix, &mut all);
            }
        }
        Ok(all)
    }

    fn file(&self, variable: &str, usual: &str) -> Option<PathBuf> {
        let home = self.variable("HOME").map(Path::new);
        match self.variable(variable) {
            Some(path) => match path.strip_prefix("~/") {
                Some(rest) => Some(home?.join(rest)),
                None => Some(path.into()),
            },
            None => Some(home?.join(".aws").join(usual)),
        }
    }

    /// `seen` are the profiles that led here.
    fn keys_of<'a>(
        &'a self,
        profiles: &'a Profiles,
        name: &'a str,
        mut seen: Vec<&'a str>,
    ) -> BoxFuture<'a, Result<Option<Keys>, Error>> {
        async move {
            let wrong = |why: String| missing(format!("the AWS profile `{name}` {why}"));
            let profile = profiles.get(name).ok_or_else(|| wrong("is not there".to_owned()))?;
            let value = |key: &str| profile.get(key).map(String::as_str);
            let is_own_source = seen.last() == Some(&name);
            if let Some(key) = NOT_FOR_US.iter().find(|key| profile.contains_key(**key)) {
                return Err(wrong(format!(
                    "has `{key}`, which is not for a server: give it a role, or keys of its own"
                )));
            }
            if let Some(arn) = value("role_arn").filter(|_| !is_own_source) {
                let session = value("role_session_name");
                if let Some(file) = value("web_identity_token_file") {
                    return self.assume_with_web_identity(arn, session, file).await.map(Some);
                }
                let source = match (value("source_profile"), value("credential_source")) {
                    (Some(source), None) if source == name || !seen.contains(&source) => {
                        seen.push(name);
                        self.keys_of(profiles, source, seen).await?
                    }
                    (Some(_), None) => return Err(wrong("has itself for a source".to_owned())),
                    (None, Some("Environment")) => self.keys_of_environment()?,
                    (None, Some("Ec2InstanceMetadata")) => self.keys_of_machine().await?,
                    (None, Some("EcsContainer")) => self.keys_of_container().await?,
                    _ => {
                        return Err(wrong(
                            "has a `role_arn`, but no `source_profile`, `credential_source` or \
                             `web_identity_token_file` that says who takes it"
                                .to_owned(),
                        ));
                    }
                };
                let source = source.ok_or_else(|| wrong("has a source without keys".to_owned()))?;
                let role = Role {
                    arn,
                    session,
                    external_id: value("external_id"),
                };
                return self.assume(&source, &role).await.map(Some);
            }
            let (id, secret) = match (value("aws_access_key_id"), value("aws_secret_access_key")) {
                (Some(id), Some(secret)) => (id, secret),
                (None, None) => return Ok(None),
                _ => {
                    return Err(wrong(
                        "has one of `aws_access_key_id` and `aws_secret_access_key`, and not the other".to_owned(),
                    ));
                }
            };
            Keys::new(id, secret, value("aws_session_token"))
                .map(Some)
                .ok_or_else(|| wrong("has what is no key".to_owned()))
        }
        .boxed()
    }
}

/// Adds what a file says. In `config`, the names of all but `default` begin with `profile`.
pub(in super::super) fn parse(text: &str, has_prefix: bool, all: &mut Profiles) {
    let mut current = None;
    // How far the last key of the section is set in.
    let mut margin = None;
    for line in text.lines() {
        let inset = line.len() - line.trim_start().len();
        let line = line.trim();
        // A line that is set in further than a key belongs to that, and to none that is looked for here.
        if line.is_empty() || line.starts_with(['#', ';']) || margin.is_some_and(|margin| inset > margin) {
            continue;
        }
        if let Some(section) = line.strip_prefix('[') {
            margin = None;
            let name = section.split(']').next().unwrap_or_default().trim();
            let plain = match name.strip_prefix("profile") {
                Some(rest) if rest.starts_with([' ', '\t']) => Some(rest.trim()),
                _ if name == "default" || !has_prefix => Some(name),
                _ => None,
            };
            current = plain.map(|name| name.trim_matches(['"', '\'']).to_owned());
            if let Some(name) = &current {
                all.entry(name.clone()).or_default();
            }
            continue;
        }
        let (Some(name), Some((key, value))) = (&current, line.split_once('=')) else {
            continue;
        };
        margin = Some(inset);
        let value = value.split(" #").next().unwrap_or_default();
        let value = value.split(" ;").next().unwrap_or_default();
        let profile = all.entry(name.clone()).or_default();
        profile.insert(key.trim().to_ascii_lowercase(), value.trim().to_owned());
    }
}
