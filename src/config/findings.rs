//! What was found on the way through a configuration, until all of it can be said at once.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use super::locate;
use super::node::At;
use super::problem::{Place, Problem, Source};

/// How many problems are told; more than that are only counted. As many warnings, too.
const MOST: usize = 50;

/// Problems and warnings, with places not yet turned into line and column.
#[derive(Default)]
pub(super) struct Findings {
    problems: RefCell<Vec<Finding>>,
    warnings: RefCell<Vec<Finding>>,
    more: Cell<usize>,
}

/// One of them.
pub(super) struct Finding {
    at: At,
    warning: bool,
    message: String,
    hint: Option<String>,
    /// A part of the text at that place that is meant: the column is moved to it when it is in the same line.
    part: Option<String>,
    /// Where the same thing stands first.
    first: Option<At>,
}

impl Finding {
    pub(super) fn new(at: At, message: impl Into<String>) -> Self {
        Self {
            at,
            warning: false,
            message: message.into(),
            hint: None,
            part: None,
            first: None,
        }
    }

    pub(super) fn warning(at: At, message: impl Into<String>) -> Self {
        Self {
            warning: true,
            ..Self::new(at, message)
        }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(super) fn maybe_hint(mut self, hint: Option<String>) -> Self {
        self.hint = hint.or(self.hint);
        self
    }

    /// Without this value of a variable in its words.
    pub(super) fn without(mut self, value: &str) -> Self {
        self.message = self.message.replace(&format!("`{value}`"), "its value");
        // A hint that repeats it says too much; one that merely has a letter in common with it does not.
        self.hint = self.hint.filter(|hint| value.len() < 4 || !hint.contains(value));
        self
    }

    pub(super) fn part(mut self, part: impl Into<String>) -> Self {
        self.part = Some(part.into());
        self
    }

    pub(super) fn first(mut self, first: At) -> Self {
        self.first = Some(first);
        self
    }
}

impl Findings {
    /// Takes one more.
    pub(super) fn add(&self, finding: Finding) {
        let list = if finding.warning {
            &self.warnings
        } else {
            &self.problems
        };
        if list.borrow().len() < MOST {
            list.borrow_mut().push(finding);
        } else if !finding.warning {
            self.more.set(self.more.get() + 1);
        }
    }

    /// Whether anything more will only be counted, so that costly words need not be found for it.
    pub(super) fn is_full(&self) -> bool {
        self.problems.borrow().len() >= MOST
    }

    /// Problems and warnings, in the order of the file.
    pub(super) fn tell(self, source: &Source<'_>, variables: &[String]) -> (Vec<Problem>, Vec<Problem>) {
        let mut places = Places {
            source,
            variables,
            known: HashMap::new(),
        };
        let mut told = |list: RefCell<Vec<Finding>>| -> Vec<Problem> {
            let mut list = list.into_inner();
            list.sort_by_key(|finding| finding.at);
            list.into_iter().map(|finding| places.problem(finding)).collect()
        };
        let (mut problems, warnings) = (told(self.problems), told(self.warnings));
        if self.more.get() > 0 {
            problems.push(Problem::of_file(source.name(), format!("and {} more", self.more.get())));
        }
        (problems, warnings)
    }
}

/// Finds lines and columns, each node's only once.
struct Places<'a> {
    source: &'a Source<'a>,
    variables: &'a [String],
    known: HashMap<u32, Option<(usize, usize)>>,
}

impl Places<'_> {
    fn problem(&mut self, finding: Finding) -> Problem {
        let place = match finding.at {
            At::Variable(number) => self.variable(number),
            At::Node(number) => match self.position(number) {
                Some((line, column)) => {
                    let part = finding.part.unwrap_or_default();
                    self.source.place(line, self.column_of(line, column, &part))
                }
                None => Place::File {
                    name: self.source.name().to_owned(),
                },
            },
        };
        let first = finding.first.and_then(|first| match first {
            At::Variable(_) => None,
            At::Node(number) => self
                .position(number)
                .map(|(line, _)| format!("the first is in line {line}")),
        });
        Problem {
            place,
            warning: finding.warning,
            message: finding.message,
            hint: finding.hint.or(first),
        }
    }

    fn variable(&self, number: u32) -> Place {
        let name = usize::try_from(number)
            .ok()
            .and_then(|number| self.variables.get(number));
        Place::Variable {
            name: name.cloned().unwrap_or_default(),
        }
    }

    fn position(&mut self, number: u32) -> Option<(usize, usize)> {
        let text = self.source.text();
        *self
            .known
            .entry(number)
            .or_insert_with(|| locate::position(text, number))
    }

    fn column_of(&self, line: usize, column: usize, part: &str) -> usize {
        let from = column.saturating_sub(1);
        let rest: String = self.source.line(line).chars().skip(from).collect();
        match rest.split_once(part) {
            Some((before, _)) => column + before.chars().count(),
            None => column,
        }
    }
}
