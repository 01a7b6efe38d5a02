//! Why a command did not do what was asked: what, why, the next step, and the exit code.

use std::fmt::Write as _;

use muster_wire::http::Problem;

use crate::present::plain;

/// Exit codes. 3 belongs to collections that stop themselves at a threshold of failures.
pub(crate) mod exit {
    /// All verified, or the command did what it was asked to.
    pub(crate) const DONE: u8 = 0;
    /// Some were not verified, or the command failed.
    pub(crate) const SOME_NOT: u8 = 1;
    /// The command line, or a value in it, was not understood.
    pub(crate) const USAGE: u8 = 2;
    /// The collection stopped itself: an abort rule, a gate or its budget.
    pub(crate) const ABORTED: u8 = 3;
    /// Nothing was allowed: every device was skipped.
    pub(crate) const NOTHING_ALLOWED: u8 = 4;
    /// Interrupted by Ctrl-C (128 + SIGINT).
    pub(crate) const INTERRUPTED: u8 = 130;
    /// The reader of our output went away (128 + SIGPIPE).
    pub(crate) const BROKEN_PIPE: u8 = 141;
}

/// A command that failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// A value the user gave cannot be used.
    #[error("{what}: {why}")]
    Usage {
        /// The flag or argument.
        what: String,
        /// Why it cannot be used.
        why: String,
        /// What to type instead.
        next: Option<String>,
    },
    /// Nobody answers at the controller's address.
    #[error("no controller answers at {url}")]
    Unreachable {
        /// Address tried.
        url: String,
        /// The cause, in words.
        why: String,
    },
    /// The controller answered with a problem document.
    #[error("cannot {intent}")]
    Refused {
        /// What was attempted.
        intent: String,
        /// The answer.
        problem: Box<Problem>,
    },
    /// The controller answered something this program does not understand.
    #[error("cannot {intent}")]
    Strange {
        /// What was attempted.
        intent: String,
        /// What came instead.
        why: String,
    },
    /// Anything local: a file, a directory, a check that did not hold.
    #[error("cannot {intent}")]
    Local {
        /// What was attempted.
        intent: String,
        /// The cause, in words.
        why: String,
        /// What to do next.
        next: Option<String>,
    },
    /// The user pressed Ctrl-C; what there was to say has been said.
    #[error("interrupted")]
    Interrupted,
    /// The reader of our output went away. Not worth a word.
    #[error("the output was closed")]
    BrokenPipe,
}

impl Failure {
    /// A value that cannot be used.
    pub(crate) fn usage(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Usage { what: what.into(), why: why.into(), next: None }
    }

    /// Something local that failed.
    pub(crate) fn local(intent: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Local { intent: intent.into(), why: why.into(), next: None }
    }

    /// Something local that failed for this error and its causes. The controller's own errors say what to do after [`NEXT`].
    pub(crate) fn local_error(intent: impl Into<String>, error: &dyn std::error::Error) -> Self {
        let (why, next) = why_and_next(error);
        Self::Local { intent: intent.into(), why, next }
    }

    /// Sets the next step where there is none yet.
    pub(crate) fn or_next(self, step: &str) -> Self {
        match self {
            Self::Usage { next: None, .. } | Self::Local { next: None, .. } => self.with_next(step),
            other => other,
        }
    }

    /// Adds or replaces the next step, where this kind of failure has one.
    pub(crate) fn with_next(mut self, step: impl Into<String>) -> Self {
        match &mut self {
            Self::Usage { next, .. } | Self::Local { next, .. } => *next = Some(step.into()),
            Self::Refused { problem, .. } => problem.next_step = Some(step.into()),
            _ => {}
        }
        self
    }

    /// The exit code of the program.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage { .. } => exit::USAGE,
            // The controller refused a value of the request: the same as a command line not understood.
            Self::Refused { problem, .. } if matches!(problem.status, 400 | 422) => exit::USAGE,
            Self::Unreachable { .. } | Self::Refused { .. } | Self::Strange { .. } | Self::Local { .. } => exit::SOME_NOT,
            Self::Interrupted => exit::INTERRUPTED,
            Self::BrokenPipe => exit::BROKEN_PIPE,
        }
    }

    /// What to print on standard error; `None` when there is nothing to say.
    pub(crate) fn render(&self) -> Option<String> {
        let mut text = format!("muster: {}\n", plain(&self.to_string()));
        let mut field = |name: &str, value: &str| {
            let value = plain(value.trim()).replace('\n', "\n         ");
            let _ = writeln!(text, "  {:<6} {value}", format!("{name}:"));
        };
        match self {
            Self::Interrupted | Self::BrokenPipe => return None,
            Self::Usage { next, .. } => {
                if let Some(next) = next {
                    field("next", next);
                }
            }
            Self::Unreachable { why, .. } => {
                field("why", why);
                field("next", "start one with `muster serve`, try everything with `muster demo`, or name another with --url or MUSTER_URL");
            }
            Self::Refused { problem, .. } => {
                field("why", &why_of(problem));
                for error in &problem.errors {
                    field("at", &format!("{}: {}", error.field, error.message));
                }
                if let Some(next) = problem.next_step.as_deref().or_else(|| default_next(problem)) {
                    field("next", next);
                }
                field("code", &format!("{} (HTTP {})", problem.code, problem.status));
            }
            Self::Strange { why, .. } => {
                field("why", why);
                field("next", "check that --url or MUSTER_URL names a Muster controller of the same version");
            }
            Self::Local { why, next, .. } => {
                field("why", why);
                if let Some(next) = next {
                    field("next", next);
                }
            }
        }
        Some(text)
    }
}

/// Title and detail, said once.
fn why_of(problem: &Problem) -> String {
    let title = problem.title.trim().trim_end_matches('.');
    let detail = problem.detail.trim();
    if detail.is_empty() {
        title.to_owned()
    } else if title.is_empty() || detail.to_lowercase().starts_with(&title.to_lowercase()) {
        detail.to_owned()
    } else {
        format!("{title}: {detail}")
    }
}

/// A next step where the controller gave none.
fn default_next(problem: &Problem) -> Option<&'static str> {
    match problem.status {
        401 => Some("give the API token with --token-file or MUSTER_TOKEN"),
        403 => Some("ask for a token that may do this"),
        404 => Some("check the id; the `list` commands show what there is"),
        429 | 503 => Some("wait a moment and try again; `muster doctor` on the controller's machine shows what is wrong"),
        _ => None,
    }
}

/// Before the next step in the text of an error of the controller.
const NEXT: &str = "\nNext: ";

/// Why, in one text with every cause once, and the next step where one of them names it.
pub(crate) fn why_and_next(error: &dyn std::error::Error) -> (String, Option<String>) {
    let (mut why, mut next) = (String::new(), None);
    let mut cause = Some(error);
    while let Some(error) = cause {
        let words = error.to_string();
        let words = match words.split_once(NEXT) {
            Some((before, step)) => {
                next.get_or_insert_with(|| step.to_owned());
                before
            }
            None => &words,
        };
        if !why.contains(words) {
            why.push_str(if why.is_empty() { "" } else { ": " });
            why.push_str(words);
        }
        cause = error.source();
    }
    (why, next)
}

/// An error and its causes, each said once.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    why_and_next(error).0
}

impl From<std::io::Error> for Failure {
    /// Only for writes to standard output; file errors name their file with [`Failure::local`].
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe { Self::BrokenPipe } else { Self::local("write the output", error.to_string()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_says_what_why_where_and_what_next() {
        let problem = Problem::new(422, "unknown_devices", "Unknown devices", "2 of 3 devices are not in the registry")
            .next_step("`muster devices list` shows the registry")
            .field("target.devices[1]", "\"ghost-1\" is not in the registry")
            .field("target.devices[2]", "\"ghost-2\" is not in the registry");
        let failure = Failure::Refused { intent: "create the collection".into(), problem: Box::new(problem) };
        insta::assert_snapshot!(failure.render().expect("there is something to say"));
        assert_eq!(failure.exit_code(), exit::USAGE);
    }

    #[test]
    fn a_problem_without_next_step_gets_one_by_its_status() {
        let problem = Problem::new(401, "token_missing", "Unauthorized", "");
        let failure = Failure::Refused { intent: "list the devices".into(), problem: Box::new(problem) };
        insta::assert_snapshot!(failure.render().expect("there is something to say"));
        assert_eq!(failure.exit_code(), exit::SOME_NOT);
    }

    #[test]
    fn an_unreachable_controller_names_the_url_and_the_way_out() {
        let failure = Failure::Unreachable { url: "http://127.0.0.1:7300".into(), why: "connection refused".into() };
        insta::assert_snapshot!(failure.render().expect("there is something to say"));
        assert_eq!(failure.exit_code(), exit::SOME_NOT);
    }

    #[test]
    fn text_from_outside_cannot_drive_the_terminal() {
        let problem = Problem::new(409, "conflict", "Conflict", "device said \u{1b}[2J\u{9b}31mgone");
        let text = Failure::Refused { intent: "x".into(), problem: Box::new(problem) }.render().expect("something");
        assert!(!text.contains('\u{1b}') && !text.contains('\u{9b}'), "{text:?}");
    }

    #[test]
    fn causes_are_said_once_and_the_next_step_apart() {
        #[derive(Debug, thiserror::Error)]
        #[error("the database cannot be used\nNext: check database.url")]
        struct Outer(#[source] Inner);
        #[derive(Debug, thiserror::Error)]
        #[error("cannot connect: refused")]
        struct Inner(#[source] std::io::Error);
        let error = Outer(Inner(std::io::Error::other("refused")));
        let found = why_and_next(&error);
        assert_eq!(found, ("the database cannot be used: cannot connect: refused".into(), Some("check database.url".into())));
        let failure = Failure::local_error("start", &error).or_next("something else");
        assert!(failure.render().expect("text").contains("next:  check database.url"));
    }

    #[test]
    fn quiet_ends_stay_quiet() {
        assert!(Failure::BrokenPipe.render().is_none());
        assert!(Failure::Interrupted.render().is_none());
        assert_eq!(Failure::BrokenPipe.exit_code(), exit::BROKEN_PIPE);
        assert_eq!(Failure::Interrupted.exit_code(), exit::INTERRUPTED);
        assert_eq!(Failure::usage("--since", "no").exit_code(), exit::USAGE);
        assert_eq!(Failure::from(std::io::Error::from(std::io::ErrorKind::BrokenPipe)).exit_code(), exit::BROKEN_PIPE);
    }
}
