//! What the environment adds to a configuration: `${NAME}` in its texts, and `ENTREPOT__…` for its keys.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::findings::{Finding, Findings};
use super::locate;
use super::node::{At, Content, Node};
use super::units::{Complaint, excerpt};

/// What the name of a variable that sets a key begins with.
const PREFIX: &str = "ENTREPOT__";

/// The variables that a configuration may use. A copy, so that nothing depends on what the process's own are.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Environment(Arc<BTreeMap<String, String>>);

/// Some of them are secrets.
impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Environment(…)")
    }
}

impl Environment {
    /// Those of this process that are text.
    pub fn of_process() -> Self {
        let texts =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        texts.collect()
    }

    /// What a variable says.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// What another program may see: all but what is our own configuration.
    pub fn for_programs(&self) -> impl Iterator<Item = (&str, &str)> {
        let all = self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        all.filter(|(name, _)| !name.starts_with(PREFIX))
    }

    /// The variables that set keys: name, path of keys, value.
    fn overrides(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        let overrides = self.0.iter();
        overrides.filter_map(|(name, value)| Some((name.as_str(), name.strip_prefix(PREFIX)?, value.as_str())))
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(variables: I) -> Self {
        let variables = variables.into_iter().map(|(name, value)| (name.into(), value.into()));
        Self(Arc::new(variables.collect()))
    }
}

/// Puts the values of variables in the place of `${NAME}` and `${NAME:-default}`, in every text but keys.
pub(super) fn substitute(node: &mut Node, environment: &Environment, findings: &Findings) {
    match &mut node.content {
        Content::Text(text) if text.contains("${") => match expand(text, environment) {
            Ok((expanded, true)) => {
                node.raw = Some(expanded.clone());
                node.content = Content::Text(expanded);
            }
            Ok((unescaped, false)) => node.content = Content::Text(unescaped),
            Err(troubles) => {
                for (part, complaint) in troubles {
                    findings.add(
                        Finding::new(node.at, complaint.message)
                            .maybe_hint(complaint.hint)
                            .part(part),
                    );
                }
                node.content = Content::Broken;
            }
        },
        Content::List(list) => list.iter_mut().for_each(|node| substitute(node, environment, findings)),
        Content::Map(map) => map
            .iter_mut()
            .for_each(|(_, value)| substitute(value, environment, findings)),
        _ => {}
    }
}

/// A text with its variables filled in, and whether there were any. Else each part that is wrong, and why.
fn expand(text: &str, environment: &Environment) -> Result<(String, bool), Vec<(String, Complaint)>> {
    let (mut expanded, mut any, mut troubles) = (String::new(), false, Vec::new());
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let (before, from) = rest.split_at(start);
        let inner = &from["${".len()..];
        if let Some(unescaped) = before.strip_suffix('$') {
            expanded.push_str(unescaped);
            expanded.push_str("${");
            rest = inner;
            continue;
        }
        expanded.push_str(before);
        any = true;
        let Some(end) = inner.find('}') else {
            troubles.push(("${".to_owned(), Complaint::new("`${` without a `}`").hint(ESCAPE)));
            break;
        };
        match value(&inner[..end], environment) {
            Ok(value) => expanded.push_str(value),
            Err(complaint) => troubles.push((from[.."${".len() + end].to_owned(), complaint)),
        }
        rest = &inner[end + 1..];
    }
    expanded.push_str(rest);
    if troubles.is_empty() {
        Ok((expanded, any))
    } else {
        Err(troubles)
    }
}

const ESCAPE: &str = "write `${NAME}` or `${NAME:-default}` for a variable, and `$${` for these characters themselves";

/// What stands between the braces, looked up.
fn value<'a>(inner: &'a str, environment: &'a Environment) -> Result<&'a str, Complaint> {
    let (name, default) = match inner.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inner, None),
    };
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if !starts_well || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return Err(Complaint::new(format!("`{}` is not the name of a variable", excerpt(name))).hint(ESCAPE));
    }
    // As in a shell: a default stands in for an empty variable, too.
    match (environment.get(name), default) {
        (Some("") | None, Some(default)) if default.contains("${") => {
            Err(Complaint::new("a default cannot hold a variable").hint("set one of the two variables always"))
        }
        (Some("") | None, Some(default)) => Ok(default),
        (Some(value), _) => Ok(value),
        (None, None) => Err(
            Complaint::new(format!("the environment variable `{}` is not set", excerpt(name)))
                .hint(format!("set it, or give a default: `${{{}:-…}}`", excerpt(name))),
        ),
    }
}

/// Sets the keys that variables name. Returns the variables, in the order that [`At::Variable`] counts them in.
pub(super) fn set_keys(root: &mut Node, environment: &Environment, findings: &Findings) -> Vec<String> {
    let mut names = Vec::new();
    for (name, path, value) in environment.overrides() {
        let number = u32::try_from(names.len()).unwrap_or(u32::MAX);
        names.push(name.to_owned());
        let at = At::Variable(number);
        match find_or_make(root, &path.to_ascii_lowercase(), at) {
            Ok(node) => *node = from_variable(value, number),
            Err(complaint) => findings.add(Finding::new(at, complaint.message).maybe_hint(complaint.hint)),
        }
    }
    names
}

/// A variable's value: what it is as YAML where a list or a mapping is wanted, and else as it stands.
fn from_variable(value: &str, number: u32) -> Node {
    let at = At::Variable(number);
    let content = match locate::read(value, Some(number)) {
        Ok(Node {
            content: content @ (Content::List(_) | Content::Map(_)),
            ..
        }) => content,
        // A password need not be YAML.
        _ => Content::Text(value.to_owned()),
    };
    Node {
        at,
        content,
        raw: Some(value.to_owned()),
    }
}

/// The node that a path such as `repositories__docker_hub__url` names.
fn find_or_make<'a>(root: &'a mut Node, path: &str, at: At) -> Result<&'a mut Node, Complaint> {
    let mut node = root;
    let mut rest = path;
    let mut parents: Vec<String> = Vec::new();
    loop {
        if matches!(node.content, Content::Nothing) {
            node.content = Content::Map(Vec::new());
        }
        let Content::Map(entries) = &mut node.content else {
            return Err(
                Complaint::new(format!("`{}` has no keys to set", excerpt(&parents.join("."))))
                    .hint("set it as a whole: the value of the variable can be a list, `[a, b]`"),
            );
        };
        // Keys of ours have `_`; keys of repositories mostly have `-`, which the name of a variable cannot have.
        let are_repositories = parents == ["repositories"];
        let (index, after) = match matching(entries, rest)? {
            Some(found) => found,
            None => make(entries, rest, at, are_repositories)?,
        };
        let (key, value) = &mut entries[index];
        parents.push(key.text().to_owned());
        node = value;
        match after {
            Some(after) => rest = after,
            None => return Ok(node),
        }
    }
}

/// An entry of what the path begins with, and the rest of the path.
fn make<'p>(
    entries: &mut Vec<(Node, Node)>,
    path: &'p str,
    at: At,
    with_hyphens: bool,
) -> Result<(usize, Option<&'p str>), Complaint> {
    let (segment, after) = match path.split_once("__") {
        Some((segment, after)) => (segment, Some(after)),
        None => (path, None),
    };
    if segment.is_empty() {
        return Err(Complaint::new("this variable names no key")
            .hint("the keys are joined by two underscores: `ENTREPOT__SERVER__LISTEN`"));
    }
    let key = if with_hyphens {
        segment.replace('_', "-")
    } else {
        segment.to_owned()
    };
    entries.push((Node::new(at, Content::Text(key)), Node::new(at, Content::Nothing)));
    Ok((entries.len() - 1, after))
}

/// The entry whose key the path begins with, and the rest of the path. The longest wins: a key may hold `__` itself.
fn matching<'p>(entries: &[(Node, Node)], path: &'p str) -> Result<Option<(usize, Option<&'p str>)>, Complaint> {
    let mut best: Option<(usize, usize, Option<&str>)> = None;
    for (index, (key, _)) in entries.iter().enumerate() {
        let name = key.text().to_ascii_lowercase().replace(['-', '.'], "_");
        let after = match path.strip_prefix(name.as_str()) {
            Some("") => None,
            Some(rest) if rest.starts_with("__") => Some(&rest[2..]),
            _ => continue,
        };
        match best {
            Some((length, other, _)) if length == name.len() && entries[other].0.text() != key.text() => {
                return Err(Complaint::new(format!(
                    "this variable could mean `{}` and `{}`",
                    excerpt(entries[other].0.text()),
                    excerpt(key.text())
                )));
            }
            Some((length, ..)) if length >= name.len() => {}
            _ => best = Some((name.len(), index, after)),
        }
    }
    Ok(best.map(|(_, index, after)| (index, after)))
}
