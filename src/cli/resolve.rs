//! `entrepot resolve`: what a name means, and why.

use std::fmt::Write as _;
use std::process::ExitCode;

use serde_json::Value;

use super::api::{self, Failure, text};

/// What to ask about an image.
pub(super) struct Question<'a> {
    pub(super) image: &'a str,
    pub(super) push: bool,
    pub(super) user: Option<&'a str>,
    pub(super) groups: &'a [String],
}

/// Asks a running server, which goes the way of a pull or push to find out.
pub(super) fn resolve(server: &str, question: &Question<'_>, as_json: bool) -> ExitCode {
    api::run(async move {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.append_pair("image", question.image);
        if question.push {
            query.append_pair("push", "true");
        }
        if let Some(user) = question.user {
            query.append_pair("as", user);
        }
        for group in question.groups {
            query.append_pair("group", group);
        }
        let path = format!("/api/v1/resolve?{}", query.finish());
        let document = api::document(api::client(server)?.get(&path).await?).await?;
        if as_json {
            println!("{document}");
        } else {
            print!("{}", told(&document));
        }
        match document.get("refused") {
            Some(refused) => Err(Failure::Trouble(format!(
                "{}: {} ({})",
                if question.push {
                    "the push is refused"
                } else {
                    "nothing answers"
                },
                text(refused, "message"),
                refused["status"]
            ))),
            None => Ok(()),
        }
    })
}

fn told(document: &Value) -> String {
    let mut out = String::new();
    if document["image"].is_string() {
        let reference = text(document, "reference");
        let separator = if reference.contains(':') { '@' } else { ':' };
        let (repository, image) = (text(document, "repository"), text(document, "image"));
        let _ = writeln!(
            out,
            "{repository}/{image}{separator}{reference}, for {}",
            asked_for(document)
        );
    }
    if let Some(note) = document["note"].as_str() {
        let _ = writeln!(out, "  {note}");
    }
    members(&mut out, document);
    if let Some(answer) = document.get("answer") {
        let _ = writeln!(
            out,
            "answered by {}: {}, {}, {}",
            text(answer, "repository"),
            text(answer, "digest"),
            text(answer, "cache"),
            age(answer["age"].as_u64().unwrap_or_default())
        );
    }
    if let Some(target) = document.get("push_to") {
        let _ = writeln!(
            out,
            "a push lands in {}/{}",
            text(target, "repository"),
            text(target, "image")
        );
    }
    for verdict in document["verdicts"].as_array().into_iter().flatten() {
        let (action, name) = (text(verdict, "action"), text(verdict, "name"));
        let may = match verdict["by"].as_str() {
            Some(by) => format!("may {action} {name}: {by}"),
            None => format!("may not {action} {name}: nothing allows it"),
        };
        let _ = writeln!(out, "{} {may}", asked_for(document));
    }
    for name in document["who_may"].as_array().into_iter().flatten() {
        for by in name["by"].as_array().into_iter().flatten() {
            let (action, name) = (text(name, "action"), text(name, "name"));
            let _ = writeln!(out, "who may {action} {name}: {}", by.as_str().unwrap_or("?"));
        }
    }
    out
}

/// Whom it is told for. Of "nobody", that they may would read as that nobody may.
fn asked_for(document: &Value) -> &str {
    match text(document, "as") {
        "nobody" => "who has not logged in",
        name => name,
    }
}

fn members(out: &mut String, document: &Value) {
    if document.get("members").is_some_and(Value::is_null) {
        let _ = writeln!(
            out,
            "  how it was found is not for you: you may not see all of its members"
        );
    }
    let all: Vec<&Value> = document["members"].as_array().into_iter().flatten().collect();
    let width = all.iter().map(|member| text(member, "repository").len()).max();
    let width = width.unwrap_or_default();
    for member in all {
        let (name, verdict) = (text(member, "repository"), text(member, "verdict"));
        let _ = writeln!(out, "  {name:width$}  {verdict:8}  {}", text(member, "why"));
        for mirror in member["mirrors"].as_array().into_iter().flatten() {
            let _ = writeln!(
                out,
                "  {:width$}  {:8}  first {}",
                "",
                "",
                mirror.as_str().unwrap_or("?")
            );
        }
        if let Some(url) = member["url"].as_str() {
            let _ = writeln!(out, "  {:width$}  {:8}  {url}", "", "");
        }
    }
}

fn age(seconds: u64) -> String {
    let ago = match seconds {
        0 => return "known to be current now".to_owned(),
        1..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    };
    format!("known to be current {ago} ago")
}
