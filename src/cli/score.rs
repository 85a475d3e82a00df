//! `scoreline score`: a dataset in, one file out.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Failure, Global, print, runtime_candidates, summary};
use crate::config::{Flags, Layers, Setting, Settings};
use crate::control::local::{open_dataset, prediction_schema};
use crate::control::{LocalRun, Progress, RunSummary};
use crate::ingest::source::STDIN;
use crate::record::run::{Outcome, OutputAction, OutputFormat, OutputSpec, RunDefinition};
use crate::score::{Limits, Model, Runtime};
use crate::service::Stop;
use crate::telemetry::progress::ProgressView;
use crate::telemetry::start_logging;

const EXAMPLES: &str = "\
Examples:
  scoreline score --model iris.onnx --input rows.csv --output scored.csv
  scoreline score -m iris.onnx -i 'rows/*.parquet' -o scored.parquet --probabilities
  scoreline score -m iris.onnx -i rows.csv -o scored.csv --map float_input=sepal_length,sepal_width,petal_length,petal_width
  scoreline score -m iris.onnx -i rows.csv -o scored.csv --error-threshold 10 --mini-batch-size 10MB
  cat rows.csv | scoreline score -m iris.onnx -i - -o - > scored.csv

If the process is stopped or killed, the same command goes on where it was (not with standard input, which cannot be read \
again). Beside the output come OUTPUT.manifest.json, OUTPUT.ledger.jsonl and, where rows failed, \
OUTPUT.dead-letters.jsonl.";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The model's .onnx file
    #[arg(long, short, value_name = "FILE")]
    model: PathBuf,

    /// A file, a folder, a pattern, or - for standard input; may be given several times
    #[arg(long, short, value_name = "PATH", required = true, num_args = 1..)]
    input: Vec<String>,

    /// The file to write (a folder with --output-action parts), or - for standard output
    #[arg(long, short, value_name = "PATH")]
    output: String,

    /// Replace files that exist
    #[arg(long)]
    overwrite: bool,

    /// Give up an unfinished run to the same output and start anew
    #[arg(long)]
    restart: bool,

    /// A file of settings [default: scoreline.toml, where there is one]
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Print the settings that this command comes to, and where each is from, and do nothing else
    #[arg(long)]
    dump_config: bool,

    #[command(flatten)]
    settings: SettingArgs,
}

/// Flags that are settings: `configs/defaults.toml` says what each means.
#[derive(clap::Args)]
#[allow(clippy::doc_markdown, reason = "these are help texts, which show backticks")]
struct SettingArgs {
    /// Rows (1024) or bytes of input (1024KB, 10MB, 1GB) scored and accounted for together [default: 1MB]
    #[arg(long, value_name = "SIZE", help_heading = "Scoring")]
    mini_batch_size: Option<String>,

    /// Rows that may fail before the run does; -1: any number [default: -1]
    #[arg(long, value_name = "ROWS", allow_hyphen_values = true, help_heading = "Scoring")]
    error_threshold: Option<String>,

    /// How often a window that takes too long, or a row that fails, is tried [default: 3]
    #[arg(long, value_name = "TIMES", help_heading = "Scoring")]
    run_max_try: Option<String>,

    /// How long one window may take: 60, 500ms, 5m [default: 60s]
    #[arg(long, value_name = "TIME", help_heading = "Scoring")]
    run_invocation_timeout: Option<String>,

    /// Scoring threads [default: as many as there are processors]
    #[arg(long, value_name = "THREADS", alias = "threads", help_heading = "Scoring")]
    process_count_per_node: Option<String>,

    /// Partitions of the input topic [default: 4]
    #[arg(long, value_name = "COUNT", help_heading = "Scoring")]
    partitions: Option<String>,

    /// Write a column for each class's probability
    #[arg(long, help_heading = "Scoring")]
    probabilities: bool,

    /// What a missing value means to an input of floating-point numbers: nan or fail [default: nan]
    #[arg(long, value_name = "HOW", help_heading = "Scoring")]
    missing: Option<String>,

    /// Feed a model input with columns, in order; may be given several times
    #[arg(long, value_name = "INPUT=COLUMN[,COLUMN...]", value_parser = pair, help_heading = "Scoring")]
    map: Vec<(String, String)>,

    /// csv, jsonl, parquet or arrow [default: by each file's name]
    #[arg(long, value_name = "FORMAT", help_heading = "Input")]
    input_format: Option<String>,

    /// The character between two fields of CSV; \t for a tab
    #[arg(long, value_name = "CHARACTER", help_heading = "Input")]
    delimiter: Option<String>,

    /// The character around fields of CSV; empty: none
    #[arg(long, value_name = "CHARACTER", help_heading = "Input")]
    quote: Option<String>,

    /// The CSV files have no header; their columns are called column_1 and so on, or as --column-names says
    #[arg(long, help_heading = "Input")]
    no_header: bool,

    /// Names of the columns where there is no header, separated by commas
    #[arg(long, value_name = "NAMES", help_heading = "Input")]
    column_names: Option<String>,

    /// The type of a column: boolean, int32, int64, float32, float64, string, date, timestamp; several times
    #[arg(long, value_name = "COLUMN=TYPE", value_parser = pair, help_heading = "Input")]
    column_type: Vec<(String, String)>,

    /// Cells that mean a missing value, separated by commas
    #[arg(long, value_name = "CELLS", help_heading = "Input")]
    null_values: Option<String>,

    /// csv or parquet [default: by the output's name]
    #[arg(long, value_name = "FORMAT", help_heading = "Output")]
    format: Option<String>,

    /// append_row (one file, in the input's order), parts (a folder of files) or summary_only [default: append_row]
    #[arg(long, value_name = "ACTION", help_heading = "Output")]
    output_action: Option<String>,

    /// Rows of a part [default: 1000000]
    #[arg(long, value_name = "ROWS", help_heading = "Output")]
    part_rows: Option<String>,

    /// Rows of a Parquet row group [default: 262144]
    #[arg(long, value_name = "ROWS", help_heading = "Output")]
    row_group_rows: Option<String>,

    /// Disarm text that a spreadsheet would take for a formula
    #[arg(long, help_heading = "Output")]
    escape_formulas: bool,

    /// The most disk that the log may take at once [default: 1GB]
    #[arg(long, value_name = "SIZE", help_heading = "Program")]
    log_quota: Option<String>,

    /// The ONNX Runtime library, or the folder that holds it
    #[arg(long, value_name = "PATH", help_heading = "Program")]
    onnx_runtime: Option<String>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is not NAME=VALUE"))?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

impl SettingArgs {
    /// The flags that were given, as settings.
    fn flags(&self, global: &Global) -> Flags {
        let one = [
            ("mini_batch_size", &self.mini_batch_size),
            ("error_threshold", &self.error_threshold),
            ("run_max_try", &self.run_max_try),
            ("run_invocation_timeout", &self.run_invocation_timeout),
            ("process_count_per_node", &self.process_count_per_node),
            ("partitions", &self.partitions),
            ("missing", &self.missing),
            ("input_format", &self.input_format),
            ("delimiter", &self.delimiter),
            ("quote", &self.quote),
            ("format", &self.format),
            ("output_action", &self.output_action),
            ("part_rows", &self.part_rows),
            ("row_group_rows", &self.row_group_rows),
            ("log_quota", &self.log_quota),
            ("onnx_runtime", &self.onnx_runtime),
            ("column_names", &self.column_names),
            ("null_values", &self.null_values),
            ("logging_level", &global.logging_level),
        ];
        let mut flags: Flags =
            one.into_iter().filter_map(|(name, value)| Some((name.to_owned(), Setting::One(value.clone()?)))).collect();
        let truths = [
            ("probabilities", self.probabilities, "true"),
            ("escape_formulas", self.escape_formulas, "true"),
            ("header", self.no_header, "false"),
        ];
        let given = truths.into_iter().filter(|(_, is_given, _)| *is_given);
        flags.extend(given.map(|(name, _, value)| (name.to_owned(), Setting::One(value.to_owned()))));
        for (name, pairs) in [("map", &self.map), ("column_types", &self.column_type)] {
            if !pairs.is_empty() {
                let table: BTreeMap<_, _> = pairs.iter().cloned().collect();
                flags.insert(name.to_owned(), Setting::Table(table));
            }
        }
        flags
    }
}

pub(crate) fn run(args: &Args, global: &Global) -> Result<(), Failure> {
    let layers = Layers::read(args.config.as_deref(), &args.settings.flags(global))?;
    if args.dump_config {
        layers.check()?;
        return print(&layers.dump());
    }
    let settings = layers.check()?;
    start_logging(&settings.logging_level).map_err(Failure::usage)?;
    let job = Job {
        model: args.model.clone(),
        inputs: args.input.clone(),
        output: args.output.clone(),
        overwrite: args.overwrite,
        restart: args.restart,
    };
    let (summary, is_to_stdout) = job.run(settings, global)?;
    finish(&summary, global, is_to_stdout)
}

/// Tells how the run ended.
pub(crate) fn finish(summary: &RunSummary, global: &Global, is_to_stdout: bool) -> Result<(), Failure> {
    match (global.json, global.quiet) {
        (true, _) => {
            let json = serde_json::to_string(summary).map_err(|e| Failure::new(e.to_string()))?;
            if is_to_stdout { eprintln!("{json}") } else { print(&(json + "\n"))? }
        }
        (false, false) => eprint!("{}", summary::text(summary, is_to_stdout)),
        (false, true) => {}
    }
    match (&summary.outcome, &summary.reason) {
        (Outcome::Failed, reason) => Err(Failure::over_threshold(reason.clone().unwrap_or_default())),
        (Outcome::Finished, _) => Ok(()),
    }
}

/// What is to be scored, with what, and where to.
pub(crate) struct Job {
    pub(crate) model: PathBuf,
    pub(crate) inputs: Vec<String>,
    pub(crate) output: String,
    pub(crate) overwrite: bool,
    pub(crate) restart: bool,
}

impl Job {
    /// Runs to the end. Answers the summary, and whether the rows went to standard output.
    pub(crate) fn run(&self, settings: Settings, global: &Global) -> Result<(RunSummary, bool), Failure> {
        let is_to_stdout = self.output == "-";
        if is_to_stdout && settings.output_action != OutputAction::AppendRow {
            return Err(Failure::usage("--output - takes one file: leave --output-action out"));
        }
        let scratch = if is_to_stdout {
            Some(tempfile::tempdir().map_err(|e| Failure::new(format!("no temporary folder: {e}")))?)
        } else {
            None
        };
        let output = match &scratch {
            Some(folder) => folder.path().join("output"),
            None => self.output_path(settings.output_action)?,
        };
        let library = runtime_candidates(settings.onnx_runtime.clone()).find()?;
        let runtime = Runtime::load(&library)?;
        let model = Arc::new(Model::load(&self.model, &runtime)?);
        let local = self.local_run(settings, model, &output)?;
        self.make_way(&local)?;
        let summary = watched(&local, global)?;
        if is_to_stdout && let Some(file) = summary.files.first() {
            copy_to_stdout(Path::new(&file.path))?;
        }
        Ok((summary, is_to_stdout))
    }

    /// The output's absolute path. A name that ends in a slash means a folder.
    fn output_path(&self, action: OutputAction) -> Result<PathBuf, Failure> {
        if self.output.ends_with(std::path::is_separator) && action != OutputAction::Parts {
            return Err(Failure::usage(format!("--output {:?} names a folder; name a file", self.output)));
        }
        let path = absolute(&self.output);
        let path = path.map_err(|e| Failure::usage(format!("--output {:?}: {e}", self.output)))?;
        // The names of the files beside it are its own with something behind: no slash may stand between.
        Ok(path.components().collect())
    }

    fn local_run(&self, settings: Settings, model: Arc<Model>, output: &Path) -> Result<LocalRun, Failure> {
        let (dataset, binding) = open_dataset(&self.inputs, settings.dataset, &model, &settings.map)?;
        let prediction_schema = prediction_schema(&model, &binding, settings.probabilities)?;
        let clash = prediction_schema.fields().iter().find(|f| dataset.schema.index_of(f.name()).is_ok());
        if let Some(field) = clash {
            let why = format!("the data has a column {:?} already, which the output needs; rename it", field.name());
            return Err(Failure::new(why));
        }
        let is_parquet = output.extension().is_some_and(|e| e.eq_ignore_ascii_case("parquet"));
        let by_name = if is_parquet { OutputFormat::Parquet } else { OutputFormat::Csv };
        let text = output.to_str().ok_or_else(|| Failure::usage("--output is not UTF-8 text"))?;
        let definition = RunDefinition {
            model: model.digest,
            inputs: dataset.files.clone(),
            dataset: serde_json::to_value(&dataset.options).map_err(|e| Failure::new(e.to_string()))?,
            schema: dataset.schema.as_ref().clone(),
            mini_batch_size: settings.mini_batch_size,
            partitions: settings.partitions,
            map: settings.map,
            missing: settings.missing,
            probabilities: settings.probabilities,
            error_threshold: settings.error_threshold,
            output: OutputSpec {
                path: text.to_owned(),
                format: settings.format.unwrap_or(by_name),
                action: settings.output_action,
                row_group_rows: settings.row_group_rows,
                part_rows: settings.part_rows,
                escape_formulas: settings.escape_formulas,
            },
        };
        let mut work = output.as_os_str().to_owned();
        work.push(".scoreline");
        Ok(LocalRun {
            model,
            dataset,
            definition,
            prediction_schema,
            work: PathBuf::from(work),
            log_quota: settings.log_quota,
            limits: Limits {
                threads: settings.process_count_per_node,
                max_try: settings.run_max_try,
                timeout: settings.run_invocation_timeout,
            },
            overwrite: self.overwrite,
        })
    }

    /// Removes an unfinished run where it is not to go on.
    fn make_way(&self, local: &LocalRun) -> Result<(), Failure> {
        if !local.work.exists() {
            return Ok(());
        }
        let is_stdin = self.inputs.iter().any(|input| input == STDIN);
        if is_stdin && !self.restart {
            tracing::warn!("an unfinished run from standard input is given up: standard input cannot be read again");
        }
        if is_stdin || self.restart {
            local.give_up_earlier()?;
        }
        Ok(())
    }
}

/// The path with its folder resolved, so that the same file has one name however it is spelled.
fn absolute(path: &str) -> io::Result<PathBuf> {
    let path: PathBuf = std::path::absolute(path)?.components().collect();
    match (path.parent().map(Path::canonicalize), path.file_name()) {
        (Some(Ok(folder)), Some(name)) => Ok(folder.join(name)),
        _ => Ok(path),
    }
}

/// Runs with a progress bar; an interrupt stops it cleanly, a second one at once.
fn watched(local: &LocalRun, global: &Global) -> Result<RunSummary, Failure> {
    let interrupt = Stop::default();
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        let wrong = |e: io::Error| Failure::new(format!("cannot listen to signals: {e}"));
        signal_hook::flag::register_conditional_shutdown(signal, 130, interrupt.flag()).map_err(wrong)?;
        signal_hook::flag::register(signal, interrupt.flag()).map_err(wrong)?;
    }
    let mut view = ProgressView::new(global.quiet || global.json);
    let mut tell = |p: Progress| {
        let share = p.bytes_read as f64 / p.bytes_total.max(1) as f64;
        let total = (p.bytes_total > 0 && p.bytes_read > 0).then(|| (p.rows_in as f64 / share.min(1.0)) as u64);
        view.show(p.rows_done, total, p.rows_dead);
    };
    let ended = local.run(&interrupt, &mut tell);
    view.end();
    Ok(ended?)
}

fn copy_to_stdout(path: &Path) -> Result<(), Failure> {
    let copied = std::fs::File::open(path).and_then(|mut file| io::copy(&mut file, &mut io::stdout().lock()));
    match copied {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}
