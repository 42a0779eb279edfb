//! The configuration of each client, in every form that leads here.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::facts::{Facts, Mirrored};
use super::{ClientKind, Snippet};

/// All that there is for one client.
pub(super) fn of(client: ClientKind, facts: &Facts) -> Vec<Snippet> {
    let mut writer = Writer {
        client,
        facts,
        written: Vec::new(),
    };
    match client {
        ClientKind::Docker => docker(&mut writer),
        ClientKind::Containerd => containerd(&mut writer),
        ClientKind::Podman => {
            registries_conf(&mut writer, "Nothing has to be restarted.");
            writer.names("podman");
        }
        ClientKind::Buildkit => buildkit(&mut writer),
        ClientKind::K3s => k3s(&mut writer),
        ClientKind::Crio => registries_conf(&mut writer, "Then: `systemctl reload crio`."),
        ClientKind::Kaniko => kaniko(&mut writer),
        ClientKind::Watchtower => watchtower(&mut writer),
        ClientKind::Regclient => regclient(&mut writer),
        ClientKind::Tools => tools(&mut writer),
    }
    writer.written
}

struct Writer<'a> {
    client: ClientKind,
    facts: &'a Facts,
    written: Vec<Snippet>,
}

impl Writer<'_> {
    fn file(
        &mut self,
        file: impl Into<String>,
        language: &'static str,
        about: impl Into<String>,
        text: impl Into<String>,
    ) {
        self.push(Some(file.into()), language, about.into(), text.into());
    }

    fn typed(&mut self, about: impl Into<String>, lines: &[String]) {
        self.push(None, "sh", about.into(), lines.join("\n"));
    }

    fn push(&mut self, file: Option<String>, language: &'static str, about: String, text: String) {
        self.written.push(Snippet {
            client: self.client,
            file,
            about,
            language,
            text,
        });
    }

    /// Pulling and pushing by whole names, with this command.
    fn names(&mut self, command: &str) {
        let name = &self.facts.name;
        let mut lines = vec![format!("{command} login {name}")];
        if let Some(key) = &self.facts.pull {
            lines.push(format!("{command} pull {name}/{key}/library/alpine"));
        }
        if let Some(key) = &self.facts.push {
            lines.push(format!("{command} push {name}/{key}/team/app"));
        }
        self.typed(
            "By whole names, with nothing configured but how to reach the server:",
            &lines,
        );
    }

    fn indented(&self, setting: &str) -> String {
        if self.facts.secure {
            String::new()
        } else {
            format!("\n{setting}")
        }
    }
}

/// What to say of a mirror that not everybody may pull from.
fn needs_login(mirrored: &Mirrored, instead: &str) -> String {
    if mirrored.open {
        return String::new();
    }
    format!("\nNot everybody may pull from `{}`: {instead}", mirrored.key)
}

const OWN_CA: &str = "Where the certificate is not from an authority that everybody knows";

fn docker(writer: &mut Writer<'_>) {
    let facts = writer.facts;
    let mut daemon = serde_json::Map::new();
    let mut about = String::new();
    let hub = facts.mirrored.iter().find(|mirrored| mirrored.host == "docker.io");
    if let (Some(mirror), Some(hub)) = (&facts.hub, hub) {
        daemon.insert("registry-mirrors".to_owned(), json!([mirror]));
        about.push_str(
            "Images without a registry in their name (`docker pull alpine`) come from here first, and from Docker Hub when this server \
             does not answer. Docker has mirrors for Docker Hub alone; other registries' images go by whole names.",
        );
        if *mirror == facts.base && facts.mirrored.len() > 1 {
            about.push_str(
                "\nDocker does not say to a mirror which registry it means. So other members of the default repository are asked, too, for what \
                 Docker Hub does not have or cannot tell: what may come from each, `include` and `exclude` say.",
            );
        }
        if *mirror != facts.base {
            about.push_str("\nA path in a mirror's address needs Docker 24.0.8 or later.");
        }
        about.push_str(&needs_login(
            hub,
            "Docker does not log in to mirrors (it shows them the login of Docker Hub), so those images go by whole names.",
        ));
        about.push('\n');
    }
    if !facts.secure {
        daemon.insert("insecure-registries".to_owned(), json!([facts.name]));
        about.push_str("Without TLS, the server is named among the insecure ones.\n");
    }
    if !daemon.is_empty() {
        about.push_str("Then: `systemctl reload docker`.");
        let text = serde_json::to_string_pretty(&daemon).unwrap_or_default();
        writer.file("/etc/docker/daemon.json", "json", about, text);
    }
    if facts.secure {
        writer.typed(
            format!("{OWN_CA}:"),
            &[format!(
                "install -D -m 644 ca.crt '/etc/docker/certs.d/{}/ca.crt'",
                facts.name
            )],
        );
    }
    writer.names("docker");
}

fn containerd(writer: &mut Writer<'_>) {
    let facts = writer.facts;
    writer.file(
        "/etc/containerd/config.toml",
        "toml",
        "Where containerd finds the files below; `ctr` and `nerdctl` have `--hosts-dir` for it. The first table is containerd 2's, the second \
         containerd 1's. Then: `systemctl restart containerd`; the files below are read at each pull.",
        "[plugins.\"io.containerd.cri.v1.images\".registry]\n  config_path = \"/etc/containerd/certs.d\"\n\
         [plugins.\"io.containerd.grpc.v1.cri\".registry]\n  config_path = \"/etc/containerd/certs.d\"",
    );
    let ca = if facts.secure {
        "\n  # ca = \"/etc/containerd/certs.d/ca.crt\""
    } else {
        ""
    };
    let capabilities = "\n  capabilities = [\"pull\", \"resolve\"]";
    if !facts.mirrored.is_empty() {
        let hosts: Vec<String> = facts.mirrored.iter().map(|one| format!("`{}`", one.host)).collect();
        writer.file(
            "/etc/containerd/certs.d/_default/hosts.toml",
            "toml",
            format!(
                "One mirror for all registries: containerd says in each request which one it is about (`?ns=`). Here are {}; the others are \
                 asked themselves.",
                hosts.join(", ")
            ),
            format!("[host.\"{}\"]{capabilities}{ca}", facts.base),
        );
    }
    let hub = facts.mirrored.iter().position(|one| one.host == "docker.io");
    for (index, one) in facts.mirrored.iter().enumerate() {
        let file = format!("/etc/containerd/certs.d/{}/hosts.toml", one.host);
        let login = needs_login(
            one,
            "give the pod an `imagePullSecret` for this server, or write `[host.\"…\".header]` with `authorization`.",
        );
        let server = &one.server;
        writer.file(
            file.clone(),
            "toml",
            format!("Instead, only for {}, by the name of the repository.{login}", one.host),
            format!(
                "server = \"{server}\"\n[host.\"{}/{}\"]{capabilities}{ca}",
                facts.base, one.key
            ),
        );
        if index == hub.unwrap_or(0) {
            writer.file(
                file,
                "toml",
                "The same in the other form, where the address is taken as it is (`override_path`) and so has its `/v2`.",
                format!(
                    "server = \"{server}\"\n[host.\"{}/v2/{}\"]{capabilities}\n  override_path = true{ca}",
                    facts.base, one.key
                ),
            );
        }
    }
    writer.file(
        format!("/etc/containerd/certs.d/{}/hosts.toml", facts.name),
        "toml",
        if facts.secure {
            format!("By whole names, pushes too, nothing is needed. {OWN_CA}:")
        } else {
            "By whole names, pushes too. Without TLS it has to be said that there is none:".to_owned()
        },
        format!(
            "server = \"{base}\"\n[host.\"{base}\"]\n  capabilities = [\"pull\", \"resolve\", \"push\"]{ca}",
            base = facts.base
        ),
    );
}

fn registries_conf(writer: &mut Writer<'_>, then: &str) {
    let facts = writer.facts;
    let insecure = writer.indented("insecure = true");
    let mut parts: Vec<String> = facts
        .mirrored
        .iter()
        .map(|one| {
            format!(
                "[[registry]]\nprefix = \"{host}\"\nlocation = \"{host}\"\n[[registry.mirror]]\nlocation = \"{}/{}\"{insecure}",
                facts.name,
                one.key,
                host = one.host
            )
        })
        .collect();
    if !facts.secure {
        parts.push(format!("[[registry]]\nlocation = \"{}\"{insecure}", facts.name));
    }
    if !parts.is_empty() {
        let mut about = format!(
            "Images of these registries come from here first. Once this server has given a manifest, its blobs are asked for nowhere \
             else. {then}"
        );
        if let Some(closed) = facts.mirrored.iter().find(|one| !one.open) {
            about.push_str(&needs_login(
                closed,
                &format!("log in to `{}` (`podman login`).", facts.name),
            ));
        }
        writer.file(
            "/etc/containers/registries.conf.d/entrepot.conf",
            "toml",
            about,
            parts.join("\n\n"),
        );
    }
    if facts.secure {
        writer.typed(
            format!("{OWN_CA}:"),
            &[format!(
                "install -D -m 644 ca.crt /etc/containers/certs.d/{}/ca.crt",
                facts.name
            )],
        );
    }
}

fn buildkit(writer: &mut Writer<'_>) {
    let facts = writer.facts;
    let mut parts: Vec<String> = facts
        .mirrored
        .iter()
        .map(|one| {
            format!(
                "[registry.\"{}\"]\n  mirrors = [\"{}/{}\"]",
                one.host, facts.name, one.key
            )
        })
        .collect();
    parts.push(if facts.secure {
        format!(
            "# {OWN_CA}:\n# [registry.\"{}\"]\n#   ca = [\"/etc/buildkit/ca.crt\"]",
            facts.name
        )
    } else {
        format!("[registry.\"{}\"]\n  http = true", facts.name)
    });
    writer.file(
        "/etc/buildkit/buildkitd.toml",
        "toml",
        "For buildx: `docker buildx create --use --buildkitd-config buildkitd.toml`. Logins are those of `docker login`; tokens are fetched by the \
         client, so that the server has to be reachable from there too.",
        parts.join("\n"),
    );
}

fn k3s(writer: &mut Writer<'_>) {
    let facts = writer.facts;
    let mut text = "mirrors:".to_owned();
    for one in &facts.mirrored {
        let _ = write!(
            text,
            "\n  \"{}\":\n    endpoint: [\"{}/v2/{}\"]",
            one.host, facts.base, one.key
        );
    }
    let _ = write!(text, "\n  \"{}\":\n    endpoint: [\"{}\"]", facts.name, facts.base);
    let _ = write!(
        text,
        "\n# configs:\n#   \"{}\":\n#     auth: {{ username: robot, password: … }}",
        facts.name
    );
    if facts.secure {
        text.push_str("\n#     tls: { ca_file: /etc/rancher/k3s/ca.crt }");
    }
    writer.file(
        "/etc/rancher/k3s/registries.yaml",
        "yaml",
        "On every node (`/etc/rancher/rke2/registries.yaml` for RKE2). k3s takes an address with a path as it is, so it has its `/v2`. Then: \
         `systemctl restart k3s`, or `k3s-agent`.",
        text,
    );
}

fn kaniko(writer: &mut Writer<'_>) {
    let facts = writer.facts;
    let mut lines: Vec<String> = facts
        .mirrored
        .iter()
        .map(|one| match one.host.as_str() {
            "docker.io" => format!("--registry-mirror={}/{}", facts.name, one.key),
            host => format!("--registry-map={host}={}/{}", facts.name, one.key),
        })
        .collect();
    if let Some(key) = &facts.push {
        lines.push(format!("--destination={}/{key}/team/app:v1", facts.name));
    }
    if facts.secure {
        lines.push(format!(
            "--registry-certificate={}=/kaniko/ca.crt   # {}",
            facts.name,
            OWN_CA.to_ascii_lowercase()
        ));
    } else {
        lines.push(format!("--insecure-registry={}", facts.name));
    }
    writer.typed(
        "Arguments of the executor. Logins are in `/kaniko/.docker/config.json`.",
        &lines,
    );
}

fn watchtower(writer: &mut Writer<'_>) {
    let facts = writer.facts;
    let (Some(key), Some(_)) = (&facts.pull, &facts.hub) else {
        return;
    };
    let trouble = if facts.secure {
        ""
    } else {
        " It asks by https only, so that without TLS it pulls each time; its fork has `WATCHTOWER_REGISTRY_TLS_SKIP`."
    };
    writer.file(
        "compose.yaml",
        "yaml",
        format!(
            "Watchtower asks the registry that stands in a container's image name: name this server there, and it asks here, as often as it \
             likes. Images without a registry in their name are looked for at Docker Hub, whatever mirrors the daemon has.{trouble}"
        ),
        format!(
            "services:\n  app:\n    image: \"{name}/{key}/library/nginx:1\"\n  watchtower:\n    image: \"{name}/{key}/containrrr/watchtower\"\n    \
             volumes:\n      - /var/run/docker.sock:/var/run/docker.sock\n      - /root/.docker/config.json:/config.json:ro   # docker login {name}",
            name = facts.name
        ),
    );
}

fn regclient(writer: &mut Writer<'_>) {
    let facts = writer.facts;
    let mirror = |one: &Mirrored| (one.host.clone(), json!({ "mirrors": [facts.name], "priority": 1 }));
    let mut hosts: serde_json::Map<String, Value> = facts.mirrored.iter().map(mirror).collect();
    if !facts.secure {
        hosts.insert(facts.name.clone(), json!({ "tls": "disabled" }));
    }
    if hosts.is_empty() {
        return;
    }
    writer.file(
        "~/.regctl/config.json",
        "json",
        "Images of these registries are copied from here first; it says in each request which one it is about (`?ns=`). What it asks by `HEAD`, as \
         `regctl image digest` does, it asks the registry itself. Logins are those of `docker login`.",
        serde_json::to_string_pretty(&json!({ "hosts": hosts })).unwrap_or_default(),
    );
}

fn tools(writer: &mut Writer<'_>) {
    let facts = writer.facts;
    let plain = |flag: &str| {
        if facts.secure {
            String::new()
        } else {
            format!(" {flag}")
        }
    };
    let name = &facts.name;
    let mut lines = Vec::new();
    if let Some(key) = &facts.push {
        lines.push(format!(
            "helm push chart-1.0.0.tgz oci://{name}/{key}/charts{}",
            plain("--plain-http")
        ));
        lines.push(format!(
            "oras push {name}/{key}/team/thing:v1 file.txt{}",
            plain("--plain-http")
        ));
        lines.push(format!(
            "cosign sign {name}/{key}/team/app@sha256:…{}",
            plain("--allow-http-registry")
        ));
    }
    if let Some(key) = &facts.pull {
        lines.push(format!(
            "crane digest {name}/{key}/library/alpine{}",
            plain("--insecure")
        ));
    }
    writer.typed(
        "These have no mirrors: images go by whole names, in compose files and Dockerfiles too. Logins are those of `docker login`.",
        &lines,
    );
}
