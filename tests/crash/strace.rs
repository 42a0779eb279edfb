//! What the kernel was asked for, as strace tells it, and strace itself.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::binary::Registry;

/// strace, at work on a server.
pub(crate) struct Strace {
    child: Child,
    log: PathBuf,
}

impl Strace {
    /// Lets it see the calls of all threads of a server from now on, told as these options want.
    pub(crate) fn attach(registry: &Registry, log: &Path, options: &[String]) -> Self {
        let mut child = Command::new("strace")
            .args(["-f", "-y", "-e", "signal=none", "-o"])
            .arg(log)
            .args(options)
            .args(["-p", &registry.process().to_string()])
            .stderr(Stdio::piped())
            .spawn()
            .expect("this needs strace: install it");
        let mut said = BufReader::new(child.stderr.take().expect("piped"));
        let mut line = String::new();
        said.read_line(&mut line).expect("a line");
        assert!(
            line.contains("attached"),
            "strace does not attach, as it may as root: {line}"
        );
        std::thread::spawn(move || said.read_to_end(&mut Vec::new()));
        Self {
            child,
            log: log.to_owned(),
        }
    }

    /// What it saw of a server that has ended.
    pub(crate) fn end(mut self) -> Trace {
        self.child.wait().expect("strace ends with what it watches");
        Trace::parse(&std::fs::read(&self.log).expect("a log"))
    }
}

/// One call.
#[derive(Clone, Debug, Default)]
pub(crate) struct Call {
    pub(crate) name: String,
    pub(crate) arguments: String,
    /// `-1 EIO (Input/output error) (INJECTED)`, `0`, `14</path>`.
    pub(crate) result: String,
}

impl Call {
    pub(crate) fn has_succeeded(&self) -> bool {
        !self.result.starts_with('-') && !self.result.starts_with('?')
    }

    /// What the descriptor is that comes first in a list of arguments, or that a call has returned.
    pub(crate) fn descriptor(text: &str) -> Option<&str> {
        let (number, rest) = text.split_once('<')?;
        let is_one = number == "AT_FDCWD" || number.bytes().all(|byte| byte.is_ascii_digit());
        is_one.then(|| rest.split('>').next()).flatten()
    }

    /// The file that a call is about, if it is by a descriptor.
    pub(crate) fn file(&self) -> Option<&str> {
        Self::descriptor(&self.arguments)
    }

    /// The texts among the arguments, with their escapes.
    pub(crate) fn texts(&self) -> Vec<String> {
        let mut texts = Vec::new();
        let mut text: Option<String> = None;
        let mut is_escaped = false;
        for character in self.arguments.chars() {
            match &mut text {
                None if character == '"' => text = Some(String::new()),
                None => {}
                Some(_) if character == '"' && !is_escaped => texts.extend(text.take()),
                Some(text) => {
                    is_escaped = character == '\\' && !is_escaped;
                    text.push(character);
                }
            }
        }
        texts
    }
}

/// When a call begins, and when it has ended: others may come between.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Moment {
    Begin(usize),
    End(usize),
}

#[derive(Default)]
pub(crate) struct Trace {
    pub(crate) calls: Vec<Call>,
    pub(crate) moments: Vec<Moment>,
}

impl Trace {
    pub(crate) fn parse(log: &[u8]) -> Self {
        let mut trace = Self::default();
        let mut unfinished: HashMap<String, usize> = HashMap::new();
        for line in String::from_utf8_lossy(log).lines() {
            let Some((thread, rest)) = line.split_once(' ') else {
                continue;
            };
            let rest = rest.trim_start();
            if let Some(resumed) = rest.strip_prefix("<... ") {
                let Some(index) = unfinished.remove(thread) else {
                    continue;
                };
                let (_, rest) = resumed.split_once("resumed>").expect("what was resumed");
                trace.end(index, rest);
            } else if let Some((name, rest)) = rest.split_once('(')
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            {
                let index = trace.calls.len();
                trace.calls.push(Call {
                    name: name.to_owned(),
                    ..Call::default()
                });
                trace.moments.push(Moment::Begin(index));
                if let Some(arguments) = rest.strip_suffix("<unfinished ...>") {
                    arguments.clone_into(&mut trace.calls[index].arguments);
                    unfinished.insert(thread.to_owned(), index);
                } else {
                    trace.end(index, rest);
                }
            }
        }
        trace
    }

    fn end(&mut self, index: usize, rest: &str) {
        let (arguments, result) = rest.rsplit_once(" = ").unwrap_or((rest, "?"));
        let call = &mut self.calls[index];
        call.arguments.push_str(arguments.trim_end().trim_end_matches(')'));
        result.clone_into(&mut call.result);
        self.moments.push(Moment::End(index));
    }
}

#[test]
fn calls_that_overlap_are_told_apart() {
    let log = br#"7 fsync(5</d/a> <unfinished ...>
8  rename("/d/x", "/d/\"y\" = 1") = 0
7 <... fsync resumed>)              = -1 EIO (Input/output error) (INJECTED)
8 openat(AT_FDCWD</>, "/d/z", O_RDONLY|O_CLOEXEC) = 14</d/z>
8 +++ killed by SIGKILL +++
"#;
    let trace = Trace::parse(log);
    let results: Vec<&str> = trace.calls.iter().map(|call| call.result.as_str()).collect();
    assert_eq!(results, ["-1 EIO (Input/output error) (INJECTED)", "0", "14</d/z>"]);
    assert_eq!(trace.calls[0].file(), Some("/d/a"));
    assert!(!trace.calls[0].has_succeeded() && trace.calls[1].has_succeeded());
    assert_eq!(trace.calls[1].texts(), ["/d/x", r#"/d/\"y\" = 1"#]);
    assert_eq!(Call::descriptor(&trace.calls[2].result), Some("/d/z"));
    assert!(matches!(
        trace.moments[..4],
        [Moment::Begin(0), Moment::Begin(1), Moment::End(1), Moment::End(0)]
    ));
}
