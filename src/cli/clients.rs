//! `entrepot clients`: what to write into each client's configuration, so that it comes here.

mod facts;
mod snippets;

use std::fmt::Write as _;
use std::process::ExitCode;
use std::str::FromStr;

use serde::Serialize;

use super::{File, load, usage};
use facts::Facts;

/// A client, and all that are configured the same way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum ClientKind {
    /// The Docker daemon.
    Docker,
    /// containerd, and what is made of it: nerdctl, Kubernetes, docker with the containerd image store.
    Containerd,
    /// podman, skopeo, buildah.
    Podman,
    /// BuildKit and buildx.
    Buildkit,
    /// k3s and RKE2.
    K3s,
    /// CRI-O.
    Crio,
    /// kaniko.
    Kaniko,
    /// Watchtower.
    Watchtower,
    /// regctl, regsync, regbot.
    Regclient,
    /// helm, oras, cosign, crane: what takes a whole name.
    Tools,
}

/// Something to be written into a file of a client, or given to it.
#[derive(Clone, Debug, Serialize)]
struct Snippet {
    client: ClientKind,
    /// Where it goes; none for what is typed.
    file: Option<String>,
    /// What it is for, and what to do beside it.
    about: String,
    /// As code blocks call it.
    language: &'static str,
    text: String,
}

/// How it is to be printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Plain,
    Json,
    Markdown,
}

/// Prints it for these clients, or for all.
pub(super) fn clients(file: &File, wanted: &[ClientKind], url: Option<&str>, form: Form) -> ExitCode {
    let loaded = match load(&file.source()) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    let facts = match Facts::of(&loaded.config, url) {
        Ok(facts) => facts,
        Err(why) => return usage(&why),
    };
    for warning in &facts.warnings {
        eprintln!("entrepot: {warning}");
    }
    let all = ClientKind::ALL.iter().map(|(_, kind)| *kind);
    let kinds: Vec<ClientKind> = all.filter(|kind| wanted.is_empty() || wanted.contains(kind)).collect();
    let snippets: Vec<Snippet> = kinds.iter().flat_map(|kind| snippets::of(*kind, &facts)).collect();
    match form {
        Form::Plain => print!("{}", plain(&snippets)),
        Form::Json => println!("{}", serde_json::to_string(&snippets).unwrap_or_default()),
        Form::Markdown => print!("{}", markdown(&snippets)),
    }
    ExitCode::SUCCESS
}

fn plain(snippets: &[Snippet]) -> String {
    let mut out = String::new();
    let mut last = None;
    for snippet in snippets {
        if last != Some(snippet.client) {
            let _ = writeln!(out, "## {}\n", snippet.client.title());
            last = Some(snippet.client);
        }
        for line in snippet.about.lines() {
            let _ = writeln!(out, "# {line}");
        }
        if let Some(file) = &snippet.file {
            let _ = writeln!(out, "# {file}:");
        }
        let _ = writeln!(out, "{}\n", snippet.text);
    }
    out
}

fn markdown(snippets: &[Snippet]) -> String {
    let mut out = String::new();
    let mut last = None;
    for snippet in snippets {
        if last != Some(snippet.client) {
            let _ = writeln!(out, "## {}\n", snippet.client.title());
            last = Some(snippet.client);
        }
        let _ = writeln!(out, "{}\n", snippet.about);
        if let Some(file) = &snippet.file {
            let _ = writeln!(out, "`{file}`:\n");
        }
        let _ = writeln!(out, "```{}\n{}\n```\n", snippet.language, snippet.text);
    }
    out.trim_end().to_owned() + "\n"
}

impl FromStr for ClientKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|(word, _)| *word == text);
        found.map(|(_, kind)| *kind).ok_or_else(|| {
            let words: Vec<&str> = Self::ALL.iter().map(|(word, _)| *word).collect();
            format!("it is one of: {}", words.join(", "))
        })
    }
}

impl ClientKind {
    /// All of them, and what they are called.
    const ALL: &[(&str, Self)] = &[
        ("docker", Self::Docker),
        ("containerd", Self::Containerd),
        ("podman", Self::Podman),
        ("buildkit", Self::Buildkit),
        ("k3s", Self::K3s),
        ("crio", Self::Crio),
        ("kaniko", Self::Kaniko),
        ("watchtower", Self::Watchtower),
        ("regclient", Self::Regclient),
        ("tools", Self::Tools),
    ];

    const fn title(self) -> &'static str {
        match self {
            Self::Docker => "Docker",
            Self::Containerd => "containerd, nerdctl, Kubernetes",
            Self::Podman => "podman, skopeo, buildah",
            Self::Buildkit => "BuildKit, buildx",
            Self::K3s => "k3s, RKE2",
            Self::Crio => "CRI-O",
            Self::Kaniko => "kaniko",
            Self::Watchtower => "Watchtower",
            Self::Regclient => "regctl, regsync, regbot",
            Self::Tools => "helm, oras, cosign, crane, compose",
        }
    }
}
