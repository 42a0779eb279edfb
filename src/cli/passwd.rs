//! `entrepot passwd`: a line for the password file.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::access::hash_password;

/// Prints the line.
pub(super) fn passwd(user: &str) -> ExitCode {
    match line(user) {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("entrepot: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn line(user: &str) -> anyhow::Result<String> {
    let password = if io::stdin().is_terminal() {
        let password = ask("password: ")?;
        if ask("again: ")? != password {
            bail!("these are two passwords");
        }
        password
    } else {
        read_line()?
    };
    Ok(hash_password(user, &password)?)
}

/// Asks without showing what is typed.
fn ask(prompt: &str) -> anyhow::Result<String> {
    eprint!("{prompt}");
    io::stderr().flush()?;
    let hidden = Hidden::begin().context("the terminal cannot be kept from showing what is typed")?;
    let answer = read_line();
    drop(hidden);
    eprintln!();
    answer
}

/// The first line, without its end.
fn read_line() -> anyhow::Result<String> {
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).context("no password came")?;
    let length = line.trim_end_matches(['\r', '\n']).len();
    line.truncate(length);
    Ok(line)
}

/// A terminal that does not show what is typed, until this is dropped.
struct Hidden(Termios);

impl Hidden {
    fn begin() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut hidden = before.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        tcsetattr(io::stdin(), OptionalActions::Flush, &hidden)?;
        Ok(Self(before))
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &self.0);
    }
}
