//! The command line: what can be typed, and what the help says about it.

use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{Arg, Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum};

use crate::commands::{
    alerts, apply, bundles, collect, collections, completions, consent, demo, devices, indicators, logs, operate, rules, schedules, serve,
};
use crate::present::Form;

/// Address a controller listens on when nobody says otherwise.
pub(crate) const DEFAULT_URL: &str = "http://127.0.0.1:7300";

/// Commands that run on the controller's own machine and speak to no controller.
const LOCAL_COMMANDS: &[&str] = &["demo", "serve", "migrate", "check-config", "doctor", "openapi", "completions"];
/// Flags that only mean something towards a controller: the name inside, and as typed.
const CONNECTION_FLAGS: &[(&str, &str)] = &[("url", "url"), ("token", "token"), ("token_file", "token-file")];

const EXAMPLES: &str = "\
Examples:
  muster demo                        # everything in one process, nothing to install
  muster serve                       # a controller with database, broker and storage built in
  muster collect bundle --device press-0042 --since 2h --case 48213 --wait
  muster apply -f nightly.yaml --wait
  muster logs press-0042 --module edgeAgent --tail 200
  muster collections watch col_01jd8k2m3n4p5q6r7s
  muster bundles list --device press-0042

Exit codes of --wait, and of watch --exit-status:
  0  every device verified          1  some were not, or the command failed
  2  the command line is wrong      3  the collection stopped itself
  4  nothing was allowed            130  interrupted; the collection goes on";

/// Asks a fleet of edge devices for logs and support bundles, and follows every request to a verified bundle.
#[derive(Debug, Parser)]
#[command(name = "muster", version, after_long_help = EXAMPLES, max_term_width = 100)]
#[command(disable_help_subcommand = true, subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    /// How to reach the controller.
    #[command(flatten)]
    pub(crate) connection: Connection,
    /// How output looks.
    #[command(flatten)]
    pub(crate) look: Look,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// How to reach the controller.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct Connection {
    /// Address of the controller
    #[arg(long, global = true, env = "MUSTER_URL", hide_env_values = true, value_name = "URL", default_value = DEFAULT_URL)]
    pub(crate) url: String,
    /// API token; --token-file or the environment keep it out of the process list
    #[arg(long, global = true, env = "MUSTER_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
    /// File that holds the API token; wins over --token
    #[arg(long, global = true, env = "MUSTER_TOKEN_FILE", hide_env_values = true, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
}

/// How output looks.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct Look {
    /// Form of the output: a table on a terminal and NDJSON in a pipe unless given
    #[arg(short, long, global = true, value_enum, value_name = "FORM")]
    pub(crate) output: Option<Form>,
    /// When to use colours; NO_COLOR is honoured
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value_t = ColorWhen::Auto)]
    pub(crate) color: ColorWhen,
}

/// When to use colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ColorWhen {
    /// On a terminal
    Auto,
    /// In pipes too
    Always,
    /// Never
    Never,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Demo(demo::DemoArgs),
    Serve(serve::ServeArgs),
    Migrate(operate::MigrateArgs),
    CheckConfig(operate::CheckConfigArgs),
    Doctor(operate::DoctorArgs),
    Openapi(operate::OpenapiArgs),
    Collect(Box<collect::CollectArgs>),
    Apply(apply::ApplyArgs),
    Logs(logs::LogsArgs),
    Collections(collections::CollectionsArgs),
    Devices(devices::DevicesArgs),
    Bundles(bundles::BundlesArgs),
    Schedules(schedules::SchedulesArgs),
    Alerts(alerts::AlertsArgs),
    Rules(rules::RulesArgs),
    Indicators(indicators::IndicatorsArgs),
    Consent(consent::ConsentArgs),
    Completions(completions::CompletionsArgs),
}

/// The parser. Commands that talk to no controller know the connection flags only to say so: they are out of sight in their help.
pub(crate) fn command() -> clap::Command {
    let refused = |(id, flag): (&'static str, &'static str)| Arg::new(id).long(flag).hide(true);
    LOCAL_COMMANDS.iter().fold(Cli::command(), |command, name| {
        command.mut_subcommand(name, |sub| CONNECTION_FLAGS.iter().fold(sub, |sub, flag| sub.arg(refused(*flag))))
    })
}

impl Cli {
    /// Parses a command line.
    ///
    /// # Errors
    /// clap's own error, which knows how to print itself and which exit code it means.
    pub(crate) fn parse_from_words<I, T>(words: I) -> Result<Self, clap::Error>
    where
        I: IntoIterator<Item = T>,
        T: Into<std::ffi::OsString> + Clone,
    {
        let mut command = command();
        let matches = command.try_get_matches_from_mut(words)?;
        if let Some((name, sub)) = matches.subcommand().filter(|(name, _)| LOCAL_COMMANDS.contains(name)) {
            // In the environment they are for other commands; on this command line they are a misunderstanding.
            let given = CONNECTION_FLAGS.iter().find(|(id, _)| sub.value_source(id) == Some(ValueSource::CommandLine));
            if let Some((_, flag)) = given {
                let words = format!("`muster {name}` talks to no controller: it takes no --{flag}");
                return Err(command.error(clap::error::ErrorKind::ArgumentConflict, words));
            }
        }
        Self::from_arg_matches(&matches)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Splits as a shell would, as far as the examples need it: single and double quotes, comments, pipes and redirections.
    fn shell_words(line: &str) -> Vec<String> {
        let mut words = Vec::new();
        let mut word: Option<String> = None;
        let mut quote = None;
        for c in line.chars() {
            match (quote, c) {
                (Some(open), _) if c == open => quote = None,
                (Some(_), _) => word.get_or_insert_default().push(c),
                (None, '\'' | '"') => {
                    quote = Some(c);
                    word.get_or_insert_default();
                }
                (None, '#' | '|' | '>' | '<') if word.is_none() => break,
                (None, _) if c.is_whitespace() => words.extend(word.take()),
                (None, _) => word.get_or_insert_default().push(c),
            }
        }
        words.extend(word);
        words
    }

    fn all_commands() -> Vec<(String, clap::Command)> {
        fn walk(path: &str, command: &clap::Command, into: &mut Vec<(String, clap::Command)>) {
            into.push((path.to_owned(), command.clone()));
            for sub in command.get_subcommands() {
                walk(&format!("{path} {}", sub.get_name()), sub, into);
            }
        }
        let mut all = Vec::new();
        let mut command = command();
        // Only a built command knows the flags it inherits.
        command.build();
        walk("muster", &command, &mut all);
        all
    }

    #[test]
    fn the_parser_is_well_formed() {
        command().debug_assert();
    }

    #[test]
    fn every_command_has_examples_that_parse() {
        let mut tried = 0;
        for (path, mut command) in all_commands() {
            let help = command.render_long_help().to_string();
            let (_, examples) = help.split_once("Examples:").unwrap_or_else(|| panic!("`{path} --help` has no examples"));
            let mut of_this_command = 0;
            for line in examples.lines().map(str::trim).filter(|line| line.contains("muster ")) {
                let start = line.find("muster ").expect("filtered");
                let words = shell_words(&line[start..]);
                if let Err(error) = Cli::parse_from_words(&words) {
                    panic!("`{path} --help`: the example {words:?} does not parse: {error}");
                }
                tried += 1;
                of_this_command += usize::from(path == "muster" || words.join(" ").starts_with(&path));
            }
            assert!(of_this_command > 0, "`{path} --help` has no example of itself");
        }
        assert!(tried > 60, "only {tried} examples");
    }

    #[test]
    fn help_is_reviewed() {
        for (path, command) in all_commands() {
            let name = path.replace(' ', "_");
            let help = command.term_width(100).render_long_help().to_string();
            let help: String = help.lines().map(|line| format!("{}\n", line.trim_end())).collect();
            insta::with_settings!({ snapshot_suffix => name, omit_expression => true }, {
                insta::assert_snapshot!("help", help);
            });
        }
    }

    #[test]
    fn connection_flags_stand_before_or_after_the_command() {
        for words in [["muster", "--url", "http://c:1", "devices", "list"], ["muster", "devices", "list", "--url", "http://c:1"]] {
            let cli = Cli::parse_from_words(words).expect("both places");
            assert_eq!(cli.connection.url, "http://c:1");
        }
    }

    #[test]
    fn a_local_command_refuses_connection_flags() {
        let error = Cli::parse_from_words(["muster", "serve", "--url", "http://c:1"]).expect_err("it would be ignored");
        assert!(error.to_string().contains("talks to no controller"), "{error}");
        assert_eq!(error.exit_code(), 2);
    }

    #[test]
    fn usage_errors_exit_with_2_and_help_with_0() {
        for words in [
            &["muster", "collect", "bundle"][..],
            &["muster", "collect", "bundle", "--device", "a/b"],
            &["muster", "collect", "bundle", "--all", "--device", "a"],
            &["muster", "collect", "logs", "--all", "--text", "--json"],
            &["muster", "collect", "logs", "--all", "--since", "soon"],
            &["muster", "collect", "bundle", "--all", "--attempts", "0"],
            &["muster", "collections", "show", "col_nonsense"],
            &["muster", "collections", "rerun", "col_01jd8k2m3n4p5q6r7s"],
            &["muster", "bundles", "verify"],
            &["muster", "nonsense"],
        ] {
            let error = Cli::parse_from_words(words).expect_err(&words.join(" "));
            assert_eq!(error.exit_code(), 2, "{words:?}: {error}");
        }
        assert_eq!(Cli::parse_from_words(["muster", "--help"]).expect_err("help").exit_code(), 0);
        assert_eq!(Cli::parse_from_words(["muster", "--version"]).expect_err("version").exit_code(), 0);
    }
}
