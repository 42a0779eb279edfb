//! The command line. Exit codes: 0 done, 1 found problems, 2 bad usage or configuration.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command talks to whoever typed it"
)]

mod api;
mod backup;
mod clients;
mod credentials;
mod export;
mod gc;
mod import;
mod layout;
mod passwd;
mod resolve;
mod stopped;
mod token;
mod verify;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use api::TagCommand;
use clients::ClientKind;

use crate::app::{App, Signals, Source};
use crate::config::{self, Config, Environment, Loaded, Problem, RepositoryConfig};
use crate::http::healthcheck;
use crate::telemetry::logs;

/// What a configuration is called. Only `check` looks for it by itself: a server does what it is told, or what is
/// built in, and not what happens to lie where it was started.
const DEFAULT_FILE: &str = "repositories.yml";

/// How long work that blocks is waited for after everything has been closed.
const LAST: Duration = Duration::from_millis(100);

/// An OCI registry: local, remote and virtual repositories behind one endpoint.
#[derive(Debug, Parser)]
#[command(name = "entrepot", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    file: File,
}

/// Where the configuration is.
#[derive(Debug, Clone, Default, Args)]
struct File {
    /// The configuration; without it, what is built in: a local repository, Docker Hub, and both behind one name.
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the registry (the default command).
    Serve(File),
    /// Validate the configuration: every problem with its line and column; exit 1 if there is one.
    Check(File),
    /// Print the JSON Schema of `repositories.yml`, for editors.
    Schema,
    /// Print what to write into clients' configuration, so that they come to this server.
    Clients(Clients),
    /// Rebuild the index of a stopped store from what is on disk.
    Reindex(File),
    /// Give back the room of what nothing needs: of a running server, or with `-c` of its store while it is stopped.
    Gc {
        /// Change nothing, and say what would be done.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        file: File,
        #[command(flatten)]
        server: Server,
    },
    /// Look for damage: of a running server, or with `-c` of its store while it is stopped. Exit 1 if there is any left.
    Verify {
        /// Put aside what is damaged, and mend what can be told from the rest.
        #[arg(long)]
        repair: bool,
        #[command(flatten)]
        file: File,
        #[command(flatten)]
        server: Server,
    },
    /// Make a backup: by a running server below its `storage.backups`, or with `-c` of a stopped store to anywhere.
    Backup {
        /// Where to. Each backup is a directory of its own in it; what an earlier one has takes no room again. For a server, below
        /// `storage.backups`, which it is without one.
        directory: Option<PathBuf>,
        #[command(flatten)]
        file: File,
        #[command(flatten)]
        server: Server,
    },
    /// Copy a backup, or the latest of several, to where a configuration has its store and nothing is yet.
    Restore {
        /// A backup, or a directory of backups.
        directory: PathBuf,
        /// Print what was done as JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        file: File,
    },
    /// Write images of a running server into a file, an OCI layout, with all their platforms, signatures and whatever else is
    /// about them: for the other side of an air gap. `import` reads it there, and so do skopeo, podman, oras and containerd.
    Export {
        /// The images: `docker/team/app:v1`, or `docker/team/app@sha256:…`.
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
        /// The file, a tar; `-` is the standard output.
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
        /// All tags of the images, which are named without one then.
        #[arg(long)]
        all_tags: bool,
        /// Leave out signatures and whatever else is about the images.
        #[arg(long)]
        without_signatures: bool,
        #[command(flatten)]
        server: Server,
    },
    /// Take over images: from an OCI layout, which is pushed to a running server, or what a `registry:2` has kept, into a store
    /// that no server has open (`-c`). Can be done again at any time, and goes on where it was.
    Import {
        /// A tar or directory that is an OCI layout; or the root of a `registry:2`, the directory that has `docker/registry/v2` in
        /// it.
        #[arg(value_name = "FILE")]
        from: PathBuf,
        /// Of a `registry:2`: the repository, so that its `team/app` becomes `KEY/team/app`. Of a layout, whose images have the
        /// names that they are exported by: what comes before them (`local/hub`), or instead of their beginning (`docker=local`, may
        /// be given several times), or the name of the only one (`local/team/app:v1`).
        #[arg(long, value_name = "WHERE")]
        into: Vec<String>,
        /// Let tags that mean something else here mean what they mean there.
        #[arg(long)]
        replace_tags: bool,
        #[command(flatten)]
        file: File,
        #[command(flatten)]
        server: Server,
    },
    /// Exit 0 if the local server is ready: for container images without a shell.
    Healthcheck(File),
    /// What a tag meant and when; hold it; put it back.
    #[command(subcommand)]
    Tags(Tags),
    /// Say what a name means: which repository answers, which were asked or left out and why, how old it is, who may. Exit 1 if
    /// nothing answers.
    Resolve {
        /// The image, as clients write it: `docker/team/app:v1`, `docker.io/library/alpine`.
        image: String,
        /// Say where a push would land, or why it is refused.
        #[arg(long)]
        push: bool,
        /// For somebody else: a user, `robot:NAME`, or `anonymous`. Only for who may `admin` everything.
        #[arg(long = "as", value_name = "USER")]
        user: Option<String>,
        /// A group that a directory would say that user to be in; may be given several times.
        #[arg(long = "group", value_name = "GROUP", requires = "user")]
        groups: Vec<String>,
        #[command(flatten)]
        server: Server,
    },
    /// Fill the cache ahead of time.
    Prefetch(Prefetch),
    /// Read a password from the terminal or the standard input, and print a line for the password file (`auth.htpasswd`).
    Passwd {
        /// The user.
        user: String,
    },
    /// Tokens for robots: for what they are needed, until they expire, shown once.
    #[command(subcommand)]
    Token(Token),
}

#[derive(Debug, Args)]
struct Clients {
    /// Only for this client; several with commas: docker, containerd, podman (skopeo, buildah), buildkit, k3s, crio, kaniko,
    /// watchtower, regclient, tools (helm, oras, cosign, crane).
    #[arg(long = "for", value_name = "CLIENT", value_delimiter = ',', value_parser = str::parse::<ClientKind>)]
    wanted: Vec<ClientKind>,
    /// What clients call the server, if not `server.external_url`.
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Print a list of what goes where, as JSON.
    #[arg(long, conflicts_with = "markdown")]
    json: bool,
    /// Print a page.
    #[arg(long)]
    markdown: bool,
    #[command(flatten)]
    file: File,
}

#[derive(Debug, Subcommand)]
enum Token {
    /// Make one, and print it: nobody can see it again.
    Create(NewToken),
    /// What there is: for what, until when, by whom, last used when.
    List {
        #[command(flatten)]
        server: Server,
    },
    /// Let one be refused from now on.
    Revoke {
        /// Its name or id.
        token: String,
        #[command(flatten)]
        server: Server,
    },
}

#[derive(Debug, Args)]
struct NewToken {
    /// What it is called in the audit and in the list: letters, digits, `-`, `_`, `.`.
    name: String,
    /// What it may do: `pull`, `push`, `delete`, `admin`; several with commas.
    #[arg(long, value_name = "WORD", value_delimiter = ',', required = true)]
    may: Vec<String>,
    /// Where: a pattern over `repository/image`, as `docker/team/**`; may be given several times.
    #[arg(long, value_name = "PATTERN", required = true)]
    on: Vec<String>,
    /// For how long: `12h`, `30d`; 90 days without it.
    #[arg(long, value_name = "TIME", value_parser = lifetime, conflicts_with = "never_expires")]
    expires_in: Option<Duration>,
    /// Until it is revoked.
    #[arg(long)]
    never_expires: bool,
    #[command(flatten)]
    server: Server,
}

/// Where the server is, and how to tell what it says.
#[derive(Debug, Args)]
struct Server {
    /// The running server; without it `ENTREPOT_SERVER`, or <http://127.0.0.1:5000>.
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// Print what the server says as JSON.
    #[arg(long)]
    json: bool,
}

impl Server {
    fn url(&self) -> String {
        let said = self.server.clone();
        let said = said.or_else(|| std::env::var("ENTREPOT_SERVER").ok().filter(|text| !text.is_empty()));
        said.unwrap_or_else(|| "http://127.0.0.1:5000".to_owned())
    }
}

#[derive(Debug, Subcommand)]
enum Tags {
    /// Every meaning of a tag, since when, and who said so.
    History {
        /// The image: `docker-hub/library/alpine:3.20`.
        image: String,
        #[command(flatten)]
        server: Server,
    },
    /// Let a tag mean what it means until it is unpinned.
    Pin {
        /// The image: `docker-hub/library/alpine:3.20`.
        image: String,
        /// Let it mean this digest.
        #[arg(long, value_name = "DIGEST")]
        to: Option<String>,
        #[command(flatten)]
        server: Server,
    },
    /// Let a tag follow again what is pushed, or what its upstream says.
    Unpin {
        /// The image: `docker-hub/library/alpine:3.20`.
        image: String,
        #[command(flatten)]
        server: Server,
    },
    /// Let a tag mean again what it meant before.
    Rollback {
        /// The image: `docker-hub/library/alpine:3.20`.
        image: String,
        /// Let it mean this digest of its history.
        #[arg(long, value_name = "DIGEST")]
        to: Option<String>,
        #[command(flatten)]
        server: Server,
    },
}

#[derive(Debug, Args)]
struct Prefetch {
    /// The images: `docker-hub/library/alpine:3.20`.
    #[arg(required_unless_present = "file")]
    images: Vec<String>,
    /// A list of images, one a line; `-` is the standard input.
    #[arg(long, value_name = "LIST")]
    file: Option<PathBuf>,
    /// Only for this platform, `linux/amd64`; may be given several times. Without it, those of the configuration.
    #[arg(long = "platform", value_name = "PLATFORM")]
    platforms: Vec<String>,
    #[command(flatten)]
    server: Server,
}

/// Runs the command that the arguments ask for.
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // `--help` and `--version` come this way too, and are no mistake.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    match cli.command {
        None => serve(&cli.file),
        Some(Command::Serve(file)) => serve(&file.or(cli.file)),
        Some(Command::Check(file)) => check(&file.or(cli.file).or_here()),
        Some(Command::Schema) => {
            println!("{}", config::schema());
            ExitCode::SUCCESS
        }
        Some(Command::Clients(asked)) => {
            let form = match (asked.json, asked.markdown) {
                (true, _) => clients::Form::Json,
                (false, true) => clients::Form::Markdown,
                (false, false) => clients::Form::Plain,
            };
            let file = asked.file.or(cli.file).or_here();
            clients::clients(&file, &asked.wanted, asked.url.as_deref(), form)
        }
        Some(Command::Reindex(file)) => reindex(&file.or(cli.file)),
        Some(Command::Gc { dry_run, file, server }) => match file.or(cli.file) {
            file if file.config.is_some() && server.server.is_none() => gc::of_stopped(&file, dry_run, server.json),
            _ => gc::running(&server.url(), dry_run, server.json),
        },
        Some(Command::Verify { repair, file, server }) => match file.or(cli.file) {
            file if file.config.is_some() && server.server.is_none() => verify::of_stopped(&file, repair, server.json),
            _ => verify::running(&server.url(), repair, server.json),
        },
        Some(Command::Backup {
            directory,
            file,
            server,
        }) => match file.or(cli.file) {
            file if file.config.is_some() && server.server.is_none() => {
                backup::of_stopped(&file, directory.as_deref(), server.json)
            }
            _ => backup::running(&server.url(), directory.as_deref(), server.json),
        },
        Some(Command::Restore { directory, json, file }) => backup::restore(&file.or(cli.file), &directory, json),
        Some(Command::Export {
            images,
            output,
            all_tags,
            without_signatures,
            server,
        }) => {
            let what = export::Exporting {
                images: &images,
                to: &output,
                all_tags,
                bare: without_signatures,
                as_json: server.json,
            };
            export::export(&server.url(), &what)
        }
        Some(Command::Import {
            from,
            into,
            replace_tags,
            file,
            server,
        }) => {
            let file = file.or(cli.file);
            match (layout::read::Layout::is_one(&from), &server.server) {
                (true, None) if file.config.is_some() => usage(
                    "an OCI layout is pushed to a running server: leave `-c` away, or name the server, `--server URL`",
                ),
                (true, _) => import::layout(&server.url(), &from, &into, replace_tags, server.json),
                (false, None) => import::directory(&file, &from, &into, replace_tags, server.json),
                (false, Some(_)) => usage(
                    "what a registry:2 has kept is taken over while no server has the store: name its configuration, `-c FILE`",
                ),
            }
        }
        Some(Command::Healthcheck(file)) => health(&file.or(cli.file)),
        Some(Command::Tags(command)) => tags(&command),
        Some(Command::Resolve {
            image,
            push,
            user,
            groups,
            server,
        }) => {
            let question = resolve::Question {
                image: &image,
                push,
                user: user.as_deref(),
                groups: &groups,
            };
            resolve::resolve(&server.url(), &question, server.json)
        }
        Some(Command::Passwd { user }) => passwd::passwd(&user),
        Some(Command::Token(command)) => tokens(&command),
        Some(Command::Prefetch(wanted)) => {
            let Prefetch {
                images,
                file,
                platforms,
                server,
            } = wanted;
            api::prefetch(&server.url(), images, file.as_deref(), &platforms, server.json)
        }
    }
}

fn usage(why: &str) -> ExitCode {
    eprintln!("entrepot: {why}");
    ExitCode::from(2)
}

fn tokens(command: &Token) -> ExitCode {
    match command {
        Token::Create(new) => {
            let wanted = token::NewToken {
                name: &new.name,
                may: &new.may,
                on: &new.on,
                expires_in: new.expires_in,
                never_expires: new.never_expires,
            };
            token::create(&new.server.url(), &wanted, new.server.json)
        }
        Token::List { server } => token::list(&server.url(), server.json),
        Token::Revoke { token, server } => token::revoke(&server.url(), token, server.json),
    }
}

/// `90s`, `30m`, `12h`, `30d`.
fn lifetime(text: &str) -> Result<Duration, String> {
    let wrong = || "a number and a unit: `30m`, `12h`, `90d`".to_owned();
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 24 * 3600,
        _ => return Err(wrong()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    let seconds = number.checked_mul(seconds).filter(|seconds| *seconds > 0);
    seconds.map(Duration::from_secs).ok_or_else(wrong)
}

fn tags(command: &Tags) -> ExitCode {
    let (image, server, what) = match command {
        Tags::History { image, server } => (image, server, TagCommand::History),
        Tags::Pin { image, to, server } => (image, server, TagCommand::Pin { to: to.as_deref() }),
        Tags::Unpin { image, server } => (image, server, TagCommand::Unpin),
        Tags::Rollback { image, to, server } => (image, server, TagCommand::RollBack { to: to.as_deref() }),
    };
    api::tags(&server.url(), image, what, server.json)
}

impl File {
    fn or(self, other: Self) -> Self {
        Self {
            config: self.config.or(other.config),
        }
    }

    fn source(&self) -> Source {
        Source {
            path: self.config.clone(),
            environment: Environment::of_process(),
        }
    }

    /// The same, with the file that lies here when none is named.
    fn or_here(self) -> Self {
        Self {
            config: self
                .config
                .or_else(|| is_here().then(|| Path::new(DEFAULT_FILE).to_owned())),
        }
    }
}

fn is_here() -> bool {
    Path::new(DEFAULT_FILE).exists()
}

fn serve(file: &File) -> ExitCode {
    let source = file.source();
    if source.path.is_none() && is_here() {
        eprintln!("the built-in configuration is used; `entrepot serve -c {DEFAULT_FILE}` reads the file here");
    }
    let loaded = match load(&source) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    logs::start();
    block_on(async move {
        let app = App::start(source, loaded).await?;
        // Before anybody is told the address, and with it that this is a server that can be asked to reload.
        let signals = Signals::new()?;
        print!("{}", welcome(app.config(), app.addresses()));
        app.run(signals).await
    })
}

fn check(file: &File) -> ExitCode {
    let source = file.source();
    match source.load() {
        Ok(loaded) => {
            print_problems(&loaded.warnings);
            println!(
                "{}, no problems",
                count(loaded.config.repositories.len(), "repository", "repositories")
            );
            ExitCode::SUCCESS
        }
        Err(problems) => {
            print_problems(&problems);
            eprintln!("{}", count(problems.len(), "problem", "problems"));
            ExitCode::FAILURE
        }
    }
}

fn reindex(file: &File) -> ExitCode {
    let loaded = match load(&file.source()) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    logs::start();
    block_on(async move {
        let store = stopped::open(&loaded.config, stopped::OR_STOP).await?;
        let counts = store.reindex().await?;
        store.close().await;
        println!(
            "images {}, tags {}, manifests {}, blobs {}",
            counts.images, counts.tags, counts.manifests, counts.blobs
        );
        Ok(())
    })
}

fn health(file: &File) -> ExitCode {
    let loaded = match load(&file.source()) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    block_on(async move {
        healthcheck::ready(&loaded.config.server).await?;
        println!("ready");
        Ok(())
    })
}

/// Reads the configuration, or says what is wrong with it.
fn load(source: &Source) -> Result<Loaded, ExitCode> {
    match source.load() {
        Ok(loaded) => {
            // Of what is built in there is nothing that the reader could mend.
            if source.path.is_some() {
                print_problems(&loaded.warnings);
            }
            Ok(loaded)
        }
        Err(problems) => {
            print_problems(&problems);
            eprintln!("{}", count(problems.len(), "problem", "problems"));
            Err(ExitCode::from(2))
        }
    }
}

fn print_problems(problems: &[Problem]) {
    for problem in problems {
        eprintln!("{problem}");
    }
}

fn count(number: usize, one: &str, several: &str) -> String {
    let what = if number == 1 { one } else { several };
    format!("{number} {what}")
}

fn block_on(work: impl Future<Output = anyhow::Result<()>>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("entrepot: the run time does not start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(work);
    // What still blocks a thread, a name that nobody resolves or a disk that hangs, has nothing to save any more.
    runtime.shutdown_timeout(LAST);
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("entrepot: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What a first start shows: where we listen, and three lines to try.
fn welcome(config: &Config, addresses: &[SocketAddr]) -> String {
    let mut text = String::new();
    let scheme = if config.server.tls.is_some() { "https" } else { "http" };
    for address in addresses {
        let _ = writeln!(text, "entrepot listens on {scheme}://{address}");
    }
    let Some(address) = addresses.first() else {
        return text;
    };
    let remote = config
        .repositories
        .iter()
        .find(|(_, repository)| matches!(repository, RepositoryConfig::Remote(_)));
    let pushable = config
        .repositories
        .iter()
        .find(|(_, repository)| match repository {
            RepositoryConfig::Virtual(several) => several.push_to.is_some(),
            _ => false,
        })
        .or_else(|| {
            config
                .repositories
                .iter()
                .find(|(_, repository)| matches!(repository, RepositoryConfig::Local(_)))
        });
    let pullable = config.default.as_ref().or_else(|| remote.map(|(key, _)| key));
    if let (Some(key), Some(_)) = (pullable, remote) {
        let _ = writeln!(text, "  pull    docker pull {address}/{key}/library/alpine");
    }
    if let Some((key, _)) = pushable {
        let _ = writeln!(
            text,
            "  push    docker tag alpine {address}/{key}/team/app && docker push {address}/{key}/team/app"
        );
    }
    if config.default.is_some() {
        let _ = writeln!(
            text,
            "  mirror  /etc/docker/daemon.json: {{ \"registry-mirrors\": [\"{scheme}://{address}\"] }}"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn whoever_blocks_does_not_keep_the_process() {
        let (release, released) = std::sync::mpsc::channel::<()>();
        let (told, ended) = std::sync::mpsc::channel();
        let running = std::thread::spawn(move || {
            let code = block_on(async move {
                // Nobody waits for it, as for a question whose asker has been cut.
                let (begin, has_begun) = tokio::sync::oneshot::channel();
                drop(tokio::task::spawn_blocking(move || {
                    let _ = begin.send(());
                    released.recv()
                }));
                has_begun.await.context("it begins")
            });
            let _ = told.send(code == ExitCode::SUCCESS);
        });
        let within = ended.recv_timeout(Duration::from_secs(10));
        drop(release);
        assert_eq!(within, Ok(true));
        assert!(running.join().is_ok());
    }
}
