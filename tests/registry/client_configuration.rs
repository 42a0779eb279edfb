//! `entrepot clients`: what it prints is what `docs/clients.md` shows, and what a server of that configuration answers to.

use std::path::Path;

use reqwest::StatusCode;
use serde_json::Value;

use crate::support::{Registry, entrepot, temporary};

const FIXTURE: &str = "tests/fixtures/clients.yml";

const INTRODUCTION: &str = "# Clients

What each client needs, so that it comes to Entrepôt. `entrepot clients -c repositories.yml` prints the same with your names; `--for docker`, or another of
them, only what is for that one, and `--json` what goes where, for scripts. This page is printed by it, for [this
configuration](../tests/fixtures/clients.yml): a virtual repository `docker` over a local one, Docker Hub and `ghcr.io`, at
`https://registry.example.com`. What is different [without TLS](#without-tls), and [what each client was seen to do](#what-was-shown), is at the end.

";

const PLAIN: &str = "## Without TLS

Only where the network is trusted. Of the clients above, these have to be told:

";

const SHOWN: &str = "
## What was shown

With these programs, by `tests/clients/run`, which fails if a cell does not hold any more. They are given what is printed above.

CRI-O reads the file of podman by the library of skopeo, which is given it. k3s is containerd with a file that it makes of its own one: containerd is given that.
kaniko reaches registries by crane's library: crane is given its arguments. Watchtower's successor, `nicholas-fedor/watchtower`, is replayed: with its list of
types it is told that nothing has changed, as Watchtower is.

";

/// Around the table, which `tests/clients/run --write-docs` writes.
const TABLE: (&str, &str) = (
    "<!-- The table: written by tests/clients/run --write-docs -->\n",
    "<!-- The table ends here -->\n",
);

/// What is in the page already between its first and its second line.
fn table_of(page: &str) -> &str {
    let after = page.split_once(TABLE.0).map(|(_, after)| after);
    after
        .and_then(|after| after.split_once(TABLE.1))
        .map_or("\n", |(table, _)| table)
}

fn printed(arguments: &[&str]) -> String {
    let mut command = entrepot(&["clients", "-c", FIXTURE]);
    command.args(arguments).current_dir(env!("CARGO_MANIFEST_DIR"));
    let output = command.output().expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

fn list(text: &str) -> Vec<Value> {
    serde_json::from_str(text).expect("JSON")
}

#[test]
fn the_page_about_clients_is_what_is_printed() {
    let plain = ["--markdown", "--url", "http://registry.example.com:5000", "--for"];
    let of_plain = printed(&[&plain[..], &["docker,containerd,podman,buildkit,k3s,regclient"]].concat());
    let of_plain = format!("\n{of_plain}").replace("\n## ", "\n### ");
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/clients.md");
    let there = std::fs::read_to_string(&file).unwrap_or_default();
    let page = format!(
        "{INTRODUCTION}{}\n{PLAIN}{}{SHOWN}{}{}{}",
        printed(&["--markdown"]),
        of_plain.trim_start(),
        TABLE.0,
        table_of(&there),
        TABLE.1
    );
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&file, &page).expect("the page");
    }
    let there = std::fs::read_to_string(&file).expect("the page");
    assert!(
        there == page,
        "docs/clients.md is not what is printed: UPDATE_DOCS=1 cargo test --test registry clients"
    );
}

#[test]
fn every_snippet_has_its_form() {
    for (url, name) in [
        (&[][..], "registry.example.com"),
        (&["--url", "http://images.example.com:5000"], "images.example.com:5000"),
    ] {
        let all = list(&printed(&[&["--json"], url].concat()));
        for snippet in &all {
            let text = snippet["text"].as_str().expect("text");
            let file = snippet["file"].as_str().unwrap_or_default();
            assert!(
                !text.is_empty() && !snippet["about"].as_str().expect("words").is_empty(),
                "{snippet}"
            );
            assert!(
                text.contains(name) || file.ends_with("config.toml") || text.contains("ca.crt"),
                "{snippet}"
            );
            if snippet["language"] == "json" {
                serde_json::from_str::<Value>(text).expect(text);
            }
        }
        let mirror = all
            .iter()
            .find(|snippet| snippet["client"] == "docker")
            .expect("docker");
        let daemon: Value = serde_json::from_str(mirror["text"].as_str().expect("text")).expect("JSON");
        let is_plain = !url.is_empty();
        assert_eq!(
            daemon["registry-mirrors"][0],
            format!("http{}://{name}", if is_plain { "" } else { "s" })
        );
        assert_eq!(daemon.get("insecure-registries").is_some(), is_plain);
    }
    let only = list(&printed(&["--json", "--for", "podman,crio"]));
    assert!(
        only.iter()
            .all(|snippet| snippet["client"] == "podman" || snippet["client"] == "crio")
    );
    for wrong in [
        &["--for", "rkt"][..],
        &["--url", "registry.example.com"],
        &["--url", "ftp://x"],
        &["--json", "--markdown"],
    ] {
        let output = entrepot(&["clients", "-c", FIXTURE])
            .args(wrong)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output();
        assert_eq!(output.expect("it runs").status.code(), Some(2), "{wrong:?}");
    }
}

#[test]
fn what_is_not_known_is_said() {
    let directory = temporary();
    let file = directory.path().join("repositories.yml");
    let text = "server: { listen: '0.0.0.0:5000' }\nauth: { anonymous: none }\nrepositories:\n  hub: { type: remote, url: 'https://registry-1.docker.io' }\n  team: { type: virtual, members: [hub], serves: [docker.io] }\n";
    std::fs::write(&file, text).expect("a configuration");
    let output = entrepot(&["clients", "--for", "docker", "-c"])
        .arg(&file)
        .output()
        .expect("it runs");
    let (out, errors) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(errors.contains("--url"), "{errors}");
    // No default: the mirror has the repository in its path, and not everybody may pull.
    assert!(
        out.contains("http://127.0.0.1:5000/team\"") && out.contains("24.0.8"),
        "{out}"
    );
    assert!(out.contains("Not everybody may pull from `team`"), "{out}");
    // By the repository that has Docker Hub's images, not by the first of the alphabet.
    assert!(out.contains("docker pull 127.0.0.1:5000/team/library/alpine"), "{out}");
    let output = entrepot(&["clients", "--url", "https://example.com/registry", "-c"])
        .arg(&file)
        .output()
        .expect("it runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("no place for the path"), "{errors}");
}

/// The addresses that clients make of what is printed, asked for as they do (wire facts: tests/clients runs the clients).
#[tokio::test]
async fn the_server_answers_at_every_address_that_is_printed() {
    let upstream = Registry::start("repositories: { hub: { type: local } }");
    upstream.push_image("/v2/hub/library/app", "v1", b"app").await;
    let host = upstream.address().to_owned();
    let registry = Registry::start(&format!(
        "repositories:
  local: {{ type: local }}
  hub: {{ type: remote, url: 'http://{host}/hub', insecure: true }}
  docker: {{ type: virtual, members: [local, hub], push_to: local, serves: [docker.io, '{host}'] }}
default: docker
"
    ));
    let file = registry.directory.path().join("repositories.yml");
    let output = entrepot(&["clients", "--json", "--url"])
        .arg(registry.url(""))
        .arg("-c")
        .arg(&file)
        .output();
    let all = list(&String::from_utf8(output.expect("it runs").stdout).expect("text"));
    let base = registry.url("");
    let rest = "library/app/manifests/v1";
    let mut asked = 0;
    for snippet in &all {
        let (text, file) = (
            snippet["text"].as_str().expect("text"),
            snippet["file"].as_str().unwrap_or_default(),
        );
        let mut paths = Vec::new();
        for line in text.lines() {
            if file.ends_with("hosts.toml") && line.starts_with("[host.") {
                let address = line.trim_start_matches("[host.\"").trim_end_matches("\"]");
                let path = address.strip_prefix(&base).expect(line);
                let v2 = if text.contains("override_path") { "" } else { "/v2" };
                let ns = if file.contains("_default") { "?ns=docker.io" } else { "" };
                paths.push(format!("{path}{v2}/{rest}{ns}"));
            }
            if let Some(location) = line
                .strip_prefix("location = ")
                .filter(|_| text.contains("registry.mirror"))
            {
                let location = location.trim_matches('"');
                if let Some(path) = location.strip_prefix(registry.address()) {
                    paths.push(format!("/v2{path}/{rest}"));
                }
            }
            if let Some((_, endpoint)) = line.split_once("endpoint: [\"") {
                let path = endpoint.trim_end_matches("\"]").strip_prefix(&base).expect(line);
                let v2 = if path.is_empty() { "/v2" } else { "" };
                paths.push(format!("{path}{v2}/{rest}"));
            }
            if let Some((_, mirror)) = line.split_once("mirrors = [\"") {
                let path = mirror
                    .trim_end_matches("\"]")
                    .strip_prefix(registry.address())
                    .expect(line);
                paths.push(format!("/v2{path}/{rest}"));
            }
            if let Some(mirror) = line.strip_prefix("--registry-mirror=") {
                let path = mirror.strip_prefix(registry.address()).expect(line);
                paths.push(format!("/v2{path}/{rest}"));
            }
        }
        if file.ends_with("daemon.json") {
            paths.push(format!("/v2/{rest}"));
        }
        for path in paths {
            let status = registry.get(&path).send().await.expect("an answer").status();
            assert_eq!(status, StatusCode::OK, "{path} of {snippet}");
            asked += 1;
        }
    }
    assert!(asked >= 12, "{asked}");
}
