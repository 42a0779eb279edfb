//! `entrepot token`: tokens for robots.

use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};

use super::api::{Failure, client, document, run, text};

/// `entrepot token create`
pub(super) struct NewToken<'a> {
    pub(super) name: &'a str,
    pub(super) may: &'a [String],
    pub(super) on: &'a [String],
    pub(super) expires_in: Option<Duration>,
    pub(super) never_expires: bool,
}

pub(super) fn create(server: &str, wanted: &NewToken<'_>, as_json: bool) -> ExitCode {
    run(async move {
        let scope: Vec<Value> = wanted
            .on
            .iter()
            .map(|on| json!({ "may": wanted.may, "on": on }))
            .collect();
        let mut body = json!({ "name": wanted.name, "scope": scope });
        if let Some(expires_in) = wanted.expires_in {
            body["expires_in"] = expires_in.as_secs().into();
        }
        if wanted.never_expires {
            body["never_expires"] = true.into();
        }
        let made = document(client(server)?.post("/api/v1/tokens", &body).await?).await?;
        if as_json {
            println!("{made}");
            return Ok(());
        }
        // The token alone goes to the standard output: `$(entrepot token create …)` is it.
        println!("{}", text(&made, "token"));
        eprintln!(
            "{} {}; it is shown this once. Use it as the password of any user: docker login -u {} --password-stdin",
            text(&made, "name"),
            ending(&made),
            text(&made, "name")
        );
        Ok(())
    })
}

/// `entrepot token list`
pub(super) fn list(server: &str, as_json: bool) -> ExitCode {
    run(async move {
        let known = document(client(server)?.get("/api/v1/tokens").await?).await?;
        if as_json {
            println!("{known}");
            return Ok(());
        }
        let tokens = known["tokens"].as_array().map(Vec::as_slice).unwrap_or_default();
        if tokens.is_empty() {
            println!("no tokens");
        }
        for token in tokens {
            println!("{}  {}  {}", text(token, "id"), text(token, "name"), ending(token));
            for grant in token["scope"].as_array().into_iter().flatten() {
                println!("    may {} on {}", words(&grant["may"]), text(grant, "on"));
            }
            let last = token["last_used"]
                .as_str()
                .map_or_else(|| "never used".to_owned(), |last| format!("last used {last}"));
            println!(
                "    made {} by {}; {last}",
                text(token, "created"),
                text(token, "created_by")
            );
        }
        Ok(())
    })
}

/// `entrepot token revoke`
pub(super) fn revoke(server: &str, which: &str, as_json: bool) -> ExitCode {
    run(async move {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if which.is_empty() || !which.chars().all(is_plain) {
            return Err(Failure::Usage(format!("`{which}` is no token's id or name")));
        }
        let revoked = document(client(server)?.delete(&format!("/api/v1/tokens/{which}")).await?).await?;
        if as_json {
            println!("{revoked}");
        } else {
            println!("{} ({}) is revoked", text(&revoked, "name"), text(&revoked, "id"));
        }
        Ok(())
    })
}

fn ending(token: &Value) -> String {
    match (token["expires"].as_str(), token["expired"] == true) {
        (None, _) => "never expires".to_owned(),
        (Some(at), false) => format!("expires {at}"),
        (Some(at), true) => format!("expired {at}"),
    }
}

fn words(list: &Value) -> String {
    let words: Vec<&str> = list
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    words.join(", ")
}
