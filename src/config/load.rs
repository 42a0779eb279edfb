//! From a file, or a text, to a checked configuration.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::environment::{self, Environment};
use super::field::Field;
use super::file::Written;
use super::findings::Findings;
use super::problem::{Problem, Source, end_of};
use super::{Config, check, locate, read};

/// What `entrepot serve` runs with when there is no file: the smallest configuration that is useful.
pub const EMBEDDED: &str = "\
repositories:
  docker-local: { type: local }
  docker-hub:   { type: remote, url: https://registry-1.docker.io }
  docker:       { type: virtual, members: [docker-local, docker-hub], push_to: docker-local }
default: docker
";

/// The longest file read: some thousand repositories.
const LONGEST: u64 = 1 << 20;

/// A configuration, and what there is to say about it.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What was meant.
    pub config: Config,
    /// What deserves a second look.
    pub warnings: Vec<Problem>,
    /// The files, besides the configuration itself, whose contents belong to it: certificates, keys, passwords.
    pub files: Vec<PathBuf>,
}

/// Reads and checks a file. On failure, everything that is wrong with it, in the order of the file.
pub fn load(path: &Path, environment: &Environment) -> Result<Loaded, Vec<Problem>> {
    let name = path.display().to_string();
    let text = read_text(path, &name).map_err(|problem| vec![problem])?;
    let directory = path.parent().unwrap_or_else(|| Path::new(""));
    load_text(&name, &text, directory, environment)
}

/// Checks a text. It goes by `name` in problems; relative paths in it are relative to `directory`.
pub fn load_text(name: &str, text: &str, directory: &Path, environment: &Environment) -> Result<Loaded, Vec<Problem>> {
    let source = Source::new(name, text);
    let mut root = locate::read(text, None).map_err(|error| vec![unreadable(&source, error)])?;
    let findings = Findings::default();
    environment::substitute(&mut root, environment, &findings);
    let variables = environment::set_keys(&mut root, environment, &findings);
    let written: Field<Written> = read::read(&root, &findings);
    let checked = written
        .get()
        .map(|written| check::check(written, directory, environment, &findings));
    let (problems, warnings) = findings.tell(&source, &variables);
    match checked {
        Some((config, files)) if problems.is_empty() => Ok(Loaded {
            config,
            warnings,
            files,
        }),
        _ => Err(problems),
    }
}

fn read_text(path: &Path, name: &str) -> Result<String, Problem> {
    let unreadable =
        |error: std::io::Error| Problem::of_file(name, format!("cannot read it: {}", check::describe(&error)));
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    file.take(LONGEST + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > LONGEST {
        return Err(Problem::of_file(name, "longer than 1 MiB: that is no configuration"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let before = String::from_utf8_lossy(&error.as_bytes()[..valid]).into_owned();
        let (line, column) = end_of(&before);
        let mut problem = Problem::of_file(name, "not UTF-8 text");
        problem.place = Source::new(name, &before).place(line, column);
        problem.with_hint("save the file as UTF-8")
    })
}

fn unreadable(source: &Source<'_>, error: locate::Unreadable) -> Problem {
    let mut problem = Problem::of_file(source.name(), error.message);
    if let Some((line, column)) = error.position {
        problem.place = source.place(line, column);
    }
    problem.hint = error.hint;
    problem
}
