//! The command line: one file a verb. What goes wrong is told once, here, and becomes an exit code here.

mod demo;
mod ledger;
mod model;
mod score;
mod setup;
mod summary;

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use serde_json::json;

use crate::config::Faults;
use crate::control::ControlError;
use crate::score::{Candidates, ScoreError};

/// Exit codes; `scoreline --help` documents them.
const FAILED: u8 = 1;
const USAGE: u8 = 2;
const OVER_THRESHOLD: u8 = 3;
const INTERRUPTED: u8 = 130;

const AFTER_HELP: &str = "\
Exit codes: 0 done; 1 an error; 2 wrong usage or settings; 3 the run failed, more rows did than --error-threshold allows; \
130 interrupted (the same command goes on).

Examples:
  scoreline demo
  scoreline score --model iris.onnx --input rows.csv --output scored.csv
  scoreline model inspect iris.onnx
  scoreline ledger show scored.csv";

/// Scores rows in batches with ONNX models, exactly once, from topic to file.
#[derive(Parser)]
#[command(name = "scoreline", version, after_help = AFTER_HELP, arg_required_else_help = true, max_term_width = 120)]
pub struct Cli {
    #[command(subcommand)]
    verb: Verb,

    #[command(flatten)]
    global: Global,
}

/// Options of every verb.
#[derive(clap::Args)]
pub(crate) struct Global {
    /// Results as JSON on standard output, errors as JSON on standard error
    #[arg(long, global = true)]
    json: bool,

    /// No progress and no summary
    #[arg(long, short, global = true)]
    quiet: bool,

    /// WARNING, INFO or DEBUG, or directives as `RUST_LOG` has them [default: WARNING]
    #[arg(long, global = true, value_name = "LEVEL")]
    logging_level: Option<String>,
}

#[derive(Subcommand)]
enum Verb {
    /// Score a dataset: files in, one file out
    Score(Box<score::Args>),
    /// Look at models
    Model(model::Args),
    /// Look at a run's ledger: what became of each window of rows
    Ledger(ledger::Args),
    /// Score simulated Iris rows, ten million by default, from nothing
    Demo(demo::Args),
    /// Fetch what scoreline needs and is missing: the ONNX Runtime library
    Setup(setup::Args),
    /// Print shell completions
    #[command(
        after_help = "Example:\n  scoreline completions bash > ~/.local/share/bash-completion/completions/scoreline"
    )]
    Completions {
        /// bash, zsh, fish, elvish or powershell
        shell: Shell,
    },
}

/// What a verb says when it cannot do its work.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    kind: &'static str,
    message: String,
}

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { code: FAILED, kind: "error", message: message.into() }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { code: USAGE, kind: "usage", message: message.into() }
    }

    pub(crate) fn over_threshold(message: impl Into<String>) -> Self {
        Self { code: OVER_THRESHOLD, kind: "run_failed", message: message.into() }
    }
}

impl From<Faults> for Failure {
    fn from(faults: Faults) -> Self {
        Self::usage(faults.to_string())
    }
}

impl From<ControlError> for Failure {
    fn from(error: ControlError) -> Self {
        match error {
            ControlError::Interrupted => Self { code: INTERRUPTED, kind: "interrupted", message: error.to_string() },
            error => Self::new(error.to_string()),
        }
    }
}

impl From<ScoreError> for Failure {
    fn from(error: ScoreError) -> Self {
        Self::new(error.to_string())
    }
}

/// Runs the program with the process's arguments.
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refuse(&error),
    };
    let result = match &cli.verb {
        Verb::Score(args) => score::run(args, &cli.global),
        Verb::Model(args) => model::run(args, &cli.global),
        Verb::Ledger(args) => ledger::run(args, &cli.global),
        Verb::Demo(args) => demo::run(args, &cli.global),
        Verb::Setup(args) => setup::run(args, &cli.global),
        Verb::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "scoreline", &mut script);
            print(&String::from_utf8_lossy(&script))
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            tell(&failure, cli.global.json);
            ExitCode::from(failure.code)
        }
    }
}

/// Tells of arguments that cannot be, or prints the help or the version that was asked for.
fn refuse(error: &clap::Error) -> ExitCode {
    // The arguments were not understood, so what they say of JSON is looked for by hand.
    let wants_json = std::env::args_os().any(|arg| arg == "--json");
    if !error.use_stderr() || !wants_json {
        // There is nobody left to tell where the output is closed.
        let _ = error.print();
        return if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
    }
    let text = error.render().to_string();
    let failure = Failure::usage(text.trim().trim_start_matches("error: "));
    tell(&failure, true);
    ExitCode::from(failure.code)
}

fn tell(failure: &Failure, is_json: bool) {
    let mut stderr = std::io::stderr();
    // There is nobody left to tell where standard error is closed.
    let _ = if is_json {
        writeln!(stderr, "{}", json!({ "error": failure.kind, "message": failure.message, "exit_code": failure.code }))
    } else {
        let is_coloured = stderr.is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let (red, plain) = if is_coloured { ("\x1b[1;31m", "\x1b[0m") } else { ("", "") };
        writeln!(stderr, "{red}error{plain}: {}", failure.message)
    };
}

/// Prints to standard output; a reader that has gone away is no error.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    match std::io::stdout().write_all(text.as_bytes()).and_then(|()| std::io::stdout().flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::new(format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Where the ONNX Runtime library may be.
pub(crate) fn runtime_candidates(setting: Option<PathBuf>) -> Candidates {
    let by_environment = || std::env::var_os("ORT_DYLIB_PATH").filter(|path| !path.is_empty()).map(PathBuf::from);
    Candidates { given: setting.or_else(by_environment), cache: cache_folder() }
}

/// The user's cache folder for scoreline.
pub(crate) fn cache_folder() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache");
    let base = std::env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()).map_or_else(home, PathBuf::from);
    base.join("scoreline")
}
