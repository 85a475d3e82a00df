//! The summary at a run's end.

use std::fmt::Write as _;
use std::io::IsTerminal;

use indicatif::{HumanBytes, HumanCount, HumanDuration};

use crate::control::RunSummary;
use crate::record::run::Outcome;

/// The summary as text, for standard error.
pub(crate) fn text(summary: &RunSummary, is_to_stdout: bool) -> String {
    let is_coloured = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let paint =
        |code: &str, text: &str| if is_coloured { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() };
    let headline = match (summary.outcome, summary.counts.dead) {
        (Outcome::Failed, _) => paint("1;31", "Failed"),
        (Outcome::Finished, 0) => paint("1;32", "Finished"),
        (Outcome::Finished, _) => paint("1;33", "Finished, with dead letters"),
    };
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {name:<14}{value}");
    };
    let resumed = if summary.resumed { ", resumed" } else { "" };
    let counts = summary.counts;
    line("rows in", HumanCount(counts.rows).to_string());
    line("scored", HumanCount(counts.scored).to_string());
    line("dead-lettered", HumanCount(counts.dead).to_string());
    if counts.skipped > 0 {
        line("skipped", HumanCount(counts.skipped).to_string());
    }
    line("windows", HumanCount(summary.windows).to_string());
    if !summary.ended_before {
        line("elapsed", format!("{:.2} s", summary.elapsed_s));
        line("rows/s", HumanCount(summary.rows_per_s as u64).to_string());
        let (most, written) = (HumanBytes(summary.log_peak_bytes), HumanBytes(summary.log_written_bytes));
        line("log on disk", format!("{most} at most, {written} written, all given back"));
    }
    line("model", format!("{} (SHA-256 {})", summary.model, summary.model_sha256.short()));
    if !is_to_stdout {
        match summary.files.as_slice() {
            [] => {}
            [file] => line("output", format!("{} ({})", file.path, HumanBytes(file.bytes))),
            [first, ..] => {
                let folder =
                    std::path::Path::new(&first.path).parent().map(|f| f.display().to_string()).unwrap_or_default();
                let bytes = summary.files.iter().map(|f| f.bytes).sum();
                line("output", format!("{} files in {folder} ({})", summary.files.len(), HumanBytes(bytes)));
            }
        }
        line("manifest", summary.manifest.display().to_string());
        line("ledger", summary.ledger.path.clone());
        if let Some(dead) = &summary.dead_letters {
            line("dead letters", dead.path.clone());
        }
    }
    for (place, error) in summary.first_errors.iter().enumerate() {
        line(if place == 0 { "first errors" } else { "" }, error.clone());
    }
    if summary.ended_before {
        let again = "the same command has run before, and its files are whole; --overwrite runs it again";
        return format!("{headline} already: run {}\n  ({again})\n{text}", summary.run);
    }
    let took = HumanDuration(std::time::Duration::from_secs_f64(summary.elapsed_s));
    format!("{headline}: run {}{resumed}, {took}\n{text}", summary.run)
}
