//! What would be on the disk if the power went now, from the calls that were made: the least that POSIX promises. The
//! bytes of a file are there once it was synced after they were written, and a name once its directory was.

use std::collections::{BTreeMap, HashMap};

use crate::strace::{Call, Moment, Trace};

#[derive(Default)]
struct File {
    is_directory: bool,
    /// How many writes there were, and how many of them are durable.
    written: u64,
    synced: u64,
    /// What was written last: all of it, for what is small.
    text: String,
}

/// What a name has meant: the first entry is durable, the rest may be or not, in this order.
#[derive(Default)]
struct Name(Vec<(u64, Option<usize>)>);

enum Sync {
    File(usize, u64),
    Directory(String, u64),
}

#[derive(Default)]
pub(crate) struct Disk {
    clock: u64,
    files: Vec<File>,
    /// By directory and name.
    names: HashMap<String, BTreeMap<String, Name>>,
    syncs: HashMap<usize, Sync>,
}

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

/// A path among arguments: from the root, or below the directory that comes first.
fn path(call: &Call) -> Option<String> {
    let name = call.texts().into_iter().next()?;
    if name.starts_with('/') {
        return Some(name);
    }
    Some(format!("{}/{name}", call.file()?))
}

impl Disk {
    /// What begins or ends now.
    pub(crate) fn follow(&mut self, trace: &Trace, moment: Moment) {
        self.clock += 1;
        match moment {
            Moment::Begin(index) => self.begin(index, &trace.calls[index]),
            Moment::End(index) if trace.calls[index].has_succeeded() => self.end(index, &trace.calls[index]),
            Moment::End(_) => {}
        }
    }

    fn begin(&mut self, index: usize, call: &Call) {
        if !matches!(call.name.as_str(), "fsync" | "fdatasync") {
            return;
        }
        let Some(path) = call.file() else { return };
        let sync = match self.current(path) {
            Some(file) if !self.files[file].is_directory => Sync::File(file, self.files[file].written),
            _ => Sync::Directory(path.to_owned(), self.clock),
        };
        self.syncs.insert(index, sync);
    }

    fn end(&mut self, index: usize, call: &Call) {
        match call.name.as_str() {
            "openat" if call.arguments.contains("O_CREAT") => {
                if let Some(path) = Call::descriptor(&call.result)
                    && self.current(path).is_none()
                {
                    self.make(path, false);
                }
            }
            "mkdir" | "mkdirat" => drop(path(call).map(|path| self.make(&path, true))),
            "write" | "pwrite64" | "writev" | "ftruncate" => {
                if let Some(file) = call.file().and_then(|path| self.current(path)) {
                    self.files[file].written += 1;
                    self.files[file].text = call.texts().into_iter().next().unwrap_or_default();
                }
            }
            "rename" | "link" => {
                if let [from, to] = &call.texts()[..] {
                    let file = self.current(from);
                    self.set(to, file);
                    if call.name == "rename" {
                        self.set(from, None);
                    }
                }
            }
            "unlink" | "unlinkat" | "rmdir" => drop(path(call).map(|path| self.set(&path, None))),
            "fsync" | "fdatasync" => self.synced(index),
            _ => {}
        }
    }

    fn synced(&mut self, index: usize) {
        match self.syncs.remove(&index) {
            Some(Sync::File(file, written)) => {
                let file = &mut self.files[file];
                file.synced = file.synced.max(written);
            }
            Some(Sync::Directory(path, until)) => {
                for name in self.names.entry(path).or_default().values_mut() {
                    let durable = name.0.iter().rposition(|(since, _)| *since <= until).unwrap_or(0);
                    name.0.drain(..durable);
                }
            }
            None => {}
        }
    }

    fn make(&mut self, path: &str, is_directory: bool) {
        self.files.push(File {
            is_directory,
            ..File::default()
        });
        self.set(path, Some(self.files.len() - 1));
    }

    fn set(&mut self, path: &str, file: Option<usize>) {
        let (directory, name) = split(path);
        let names = self.names.entry(directory.to_owned()).or_default();
        let Name(meanings) = names.entry(name.to_owned()).or_default();
        if meanings.is_empty() {
            meanings.push((0, None));
        }
        meanings.push((self.clock, file));
    }

    fn meanings(&self, path: &str) -> Option<&[(u64, Option<usize>)]> {
        let (directory, name) = split(path);
        Some(&self.names.get(directory)?.get(name)?.0)
    }

    fn current(&self, path: &str) -> Option<usize> {
        self.meanings(path)?.last()?.1
    }

    /// Why a file would not be there, whole and with this text, if the power went now.
    pub(crate) fn complaint(&self, path: &str, text: Option<&str>) -> Option<String> {
        let Some(meanings) = self.meanings(path) else {
            return Some(format!("{path} was never made"));
        };
        for (_, file) in meanings {
            let Some(file) = file.map(|file| &self.files[file]) else {
                return Some(format!("the name {path} is not durable"));
            };
            if file.synced < file.written {
                return Some(format!("the bytes of {path} are not durable"));
            }
            if text.is_some_and(|text| file.text != text) {
                return Some(format!("{path} may hold {:?}, not {text:?}", file.text));
            }
        }
        // What was there before anybody looked is taken to have been so for long.
        let mut above = split(path).0;
        while let Some(meanings) = self.meanings(above) {
            if meanings.iter().any(|(_, file)| file.is_none()) {
                return Some(format!("{above}, in which {path} lies, is not durable"));
            }
            above = split(above).0;
        }
        None
    }

    /// Why a file might be there, if the power went now.
    pub(crate) fn complaint_of_presence(&self, path: &str) -> Option<String> {
        let may_be = self.meanings(path)?.iter().any(|(_, file)| file.is_some());
        may_be.then(|| format!("{path} may be there again"))
    }

    /// Why a link with this text might be there below a directory, if the power went now, in a directory of this name.
    pub(crate) fn complaint_of_text(&self, below: &str, directory: &str, text: &str) -> Option<String> {
        let directories = self
            .names
            .iter()
            .filter(|(path, _)| path.starts_with(below) && split(path).1 == directory);
        let links = directories.filter_map(|(path, names)| Some((path, names.get("link")?)));
        let mut files =
            links.flat_map(|(path, name)| name.0.iter().filter_map(move |(_, file)| Some((path, (*file)?))));
        let (path, _) = files.find(|(_, file)| self.files[*file].text == text)?;
        Some(format!("{path} may still mean {text}"))
    }
}
