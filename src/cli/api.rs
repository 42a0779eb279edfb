//! The commands that talk to a running server.

use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use serde_json::{Value, json};

use super::credentials;
use crate::http::client::{Answer, Client};

/// What to do with a tag.
#[derive(Clone, Copy, Debug)]
pub(super) enum TagCommand<'a> {
    History,
    Pin { to: Option<&'a str> },
    Unpin,
    RollBack { to: Option<&'a str> },
}

/// Why a command came to nothing.
pub(super) enum Failure {
    /// It was not said right.
    Usage(String),
    /// It was, and did not work.
    Trouble(String),
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Trouble(format!("{error:#}"))
    }
}

/// `entrepot tags …`
pub(super) fn tags(server: &str, image: &str, command: TagCommand<'_>, as_json: bool) -> ExitCode {
    run(async move {
        let client = client(server)?;
        let document = match command {
            TagCommand::History => {
                let image: String = url::form_urlencoded::byte_serialize(image.as_bytes()).collect();
                let answer = client.get(&format!("/api/v1/tags/history?image={image}")).await?;
                document(answer).await?
            }
            TagCommand::Pin { to } => change(&client, "pin", image, to).await?,
            TagCommand::Unpin => change(&client, "unpin", image, None).await?,
            TagCommand::RollBack { to } => change(&client, "rollback", image, to).await?,
        };
        if as_json {
            println!("{document}");
            return Ok(());
        }
        match command {
            TagCommand::History => print_history(&document),
            TagCommand::Unpin => println!("{} follows again what it is said to mean", name(&document)),
            TagCommand::Pin { .. } => println!(
                "{} means {} until it is unpinned",
                name(&document),
                text(&document, "digest")
            ),
            TagCommand::RollBack { .. } => {
                let note = if document["pinned"] == true {
                    ", and is pinned there: its upstream would move it on at once; `tags unpin` lets it"
                } else {
                    ""
                };
                println!("{} means {} again{note}", name(&document), text(&document, "digest"));
            }
        }
        Ok(())
    })
}

async fn change(client: &Client, what: &str, image: &str, to: Option<&str>) -> Result<Value, Failure> {
    let mut body = json!({ "image": image });
    if let Some(to) = to {
        body["to"] = to.into();
    }
    document(client.post(&format!("/api/v1/tags/{what}"), &body).await?).await
}

fn print_history(document: &Value) {
    let pinned = if document["pinned"] == true { ", pinned" } else { "" };
    println!("{} means {}{pinned}", name(document), text(document, "digest"));
    if let Some(held) = document.get("held") {
        let (to, seen) = (text(held, "to"), text(held, "seen"));
        println!(
            "moved upstream to {to} at {seen}; followed from {}",
            text(held, "follows")
        );
    }
    for meaning in document["history"].as_array().into_iter().flatten() {
        let verified = meaning["verified"]
            .as_str()
            .map_or_else(String::new, |at| format!(", verified {at}"));
        let (since, origin) = (text(meaning, "since"), text(meaning, "origin"));
        println!("{since}  {}  {origin}{verified}", text(meaning, "digest"));
    }
}

fn name(document: &Value) -> String {
    let part = |key| text(document, key);
    format!("{}/{}:{}", part("repository"), part("image"), part("tag"))
}

pub(super) fn text<'a>(document: &'a Value, key: &str) -> &'a str {
    document[key].as_str().unwrap_or("?")
}

/// `entrepot prefetch …`
pub(super) fn prefetch(
    server: &str,
    mut images: Vec<String>,
    list: Option<&Path>,
    platforms: &[String],
    as_json: bool,
) -> ExitCode {
    run(async move {
        if let Some(list) = list {
            images.extend(read_list(list)?);
        }
        if images.is_empty() {
            return Err(Failure::Usage(
                "name an image, or a list of them with --file".to_owned(),
            ));
        }
        let mut body = json!({ "images": images });
        if !platforms.is_empty() {
            body["platforms"] = platforms.into();
        }
        let answer = client(server)?.post("/api/v1/prefetch", &body).await?;
        let answer = accepted(answer).await?;
        follow(answer, as_json).await
    })
}

/// The images of a list: one a line; empty lines and what follows a `#` are left out.
fn read_list(path: &Path) -> Result<Vec<String>, Failure> {
    let read = if path == Path::new("-") {
        std::io::read_to_string(std::io::stdin())
    } else {
        std::fs::read_to_string(path)
    };
    let text = read.map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))?;
    let lines = text
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default().trim());
    Ok(lines.filter(|line| !line.is_empty()).map(str::to_owned).collect())
}

/// Shows the lines of an answer as they come.
async fn follow(mut answer: Answer, as_json: bool) -> Result<(), Failure> {
    let shows = !as_json && std::io::stderr().is_terminal();
    let mut blobs = 0;
    while let Some(line) = answer.line().await? {
        let said: Value = serde_json::from_str(&line).context("the server says what this version does not know")?;
        if as_json {
            println!("{line}");
        }
        if said.get("blob").is_some() {
            blobs += 1;
            if shows {
                eprint!("\r\x1b[K{}: {blobs} blobs", text(&said, "image"));
                let _ = std::io::stderr().flush();
            }
            continue;
        }
        if let Some(summary) = said.get("summary") {
            return match summary["images_failed"].as_u64() {
                Some(0) => Ok(()),
                Some(failed) => Err(Failure::Trouble(format!(
                    "{failed} of {} images are not whole",
                    summary["images"]
                ))),
                None => Err(Failure::Trouble("the server does not say how it went".to_owned())),
            };
        }
        if as_json {
            continue;
        }
        if let Some(done) = said.get("done") {
            clear(shows);
            blobs = 0;
            println!(
                "{}: {} manifests, {} blobs, {} of them fetched ({} bytes), {} missing",
                text(&said, "image"),
                done["manifests"],
                done["blobs"],
                done["fetched"],
                done["bytes"],
                done["missing"]
            );
        } else if let Some(error) = said.get("error") {
            clear(shows);
            eprintln!("{}: {}", text(&said, "image"), text(error, "message"));
        } else if said.get("missing").is_some() {
            clear(shows);
            eprintln!(
                "{}: {} {}",
                text(&said, "image"),
                text(&said, "missing"),
                text(&said, "why")
            );
        }
    }
    Err(Failure::Trouble("the server stopped before it was done".to_owned()))
}

fn clear(shows: bool) {
    if shows {
        eprint!("\r\x1b[K");
    }
}

/// A client of this server, as whoever we are to it.
pub(super) fn client(server: &str) -> Result<Client, Failure> {
    let client = Client::new(server).map_err(|error| Failure::Usage(format!("{error:#}")))?;
    let login = credentials::find(&client.authority());
    Ok(client.with_login(login))
}

/// An answer, unless it is a refusal.
async fn accepted(answer: Answer) -> Result<Answer, Failure> {
    let status = answer.status;
    if status.is_success() {
        return Ok(answer);
    }
    let text = answer.text().await?;
    let document: Value = serde_json::from_str(&text).unwrap_or_default();
    let message = document["error"]["message"].as_str().map_or_else(
        || format!("the server answered {status}, and not as this version expects"),
        str::to_owned,
    );
    let message = match status.as_u16() {
        401 => format!("{message} (`docker login` to the server, or set ENTREPOT_TOKEN)"),
        _ => message,
    };
    Err(match status.as_u16() {
        400 | 413 | 415 => Failure::Usage(message),
        _ => Failure::Trouble(message),
    })
}

pub(super) async fn document(answer: Answer) -> Result<Value, Failure> {
    let text = accepted(answer).await?.text().await?;
    Ok(serde_json::from_str(&text).context("the server says what this version does not know")?)
}

pub(super) fn run(work: impl Future<Output = Result<(), Failure>>) -> ExitCode {
    let mut usage = false;
    let code = super::block_on(async {
        work.await.map_err(|failure| match failure {
            Failure::Usage(message) => {
                usage = true;
                anyhow::anyhow!(message)
            }
            Failure::Trouble(message) => anyhow::anyhow!(message),
        })
    });
    if usage { ExitCode::from(2) } else { code }
}
