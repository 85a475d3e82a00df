//! `scoreline demo`: ten million simulated Iris rows, from nothing.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use super::score::{Job, finish};
use super::{Failure, Global};
use crate::config::{Flags, Layers};
use crate::telemetry::start_logging;

/// A logistic regression that scikit-learn trained on the real Iris data; `tests/fixtures/make_fixtures.py` made it.
const MODEL: &[u8] = include_bytes!("../../tests/fixtures/models/iris_lr_tensor_float.onnx");
const SEED: u64 = 20_260_101;

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  scoreline demo\n  scoreline demo --rows 100000 --folder /tmp/demo")]
pub(crate) struct Args {
    /// How many rows
    #[arg(long, default_value_t = 10_000_000)]
    rows: u64,

    /// Where the model, the rows and the result go
    #[arg(long, default_value = "demo")]
    folder: PathBuf,

    /// Only write the model and the rows
    #[arg(long)]
    prepare: bool,
}

pub(crate) fn run(args: &Args, global: &Global) -> Result<(), Failure> {
    let settings = Layers::read(None, &Flags::new())?.check()?;
    start_logging(global.logging_level.as_deref().unwrap_or(&settings.logging_level)).map_err(Failure::usage)?;
    let wrong = |path: &Path, e: &std::io::Error| Failure::new(format!("cannot write {}: {e}", path.display()));
    std::fs::create_dir_all(&args.folder).map_err(|e| wrong(&args.folder, &e))?;
    let (model, rows) = (args.folder.join("iris.onnx"), args.folder.join("rows.csv"));
    std::fs::write(&model, MODEL).map_err(|e| wrong(&model, &e))?;
    if !has_rows(&rows, args.rows) {
        if !global.quiet {
            eprintln!("writing {} simulated Iris rows to {}", args.rows, rows.display());
        }
        write_rows(&rows, args.rows).map_err(|e| wrong(&rows, &e))?;
    }
    let output = args.folder.join("scored.csv");
    let job = Job {
        model,
        inputs: vec![rows.to_string_lossy().into_owned()],
        output: output.to_string_lossy().into_owned(),
        overwrite: true,
        restart: false,
    };
    if !global.quiet {
        let (model, rows, output) = (job.model.display(), &job.inputs[0], &job.output);
        eprintln!("scoreline score --model {model} --input {rows} --output {output} --overwrite");
    }
    if args.prepare {
        return Ok(());
    }
    let (summary, is_to_stdout) = job.run(settings, global)?;
    finish(&summary, global, is_to_stdout)
}

/// The columns, each with its range in tenths.
const COLUMNS: [(&str, u64, u64); 4] =
    [("sepal_length", 43, 78), ("sepal_width", 20, 43), ("petal_length", 10, 68), ("petal_width", 1, 24)];

const ROW_BYTES: u64 = 16;

/// Whether the file holds these rows already, so that a run that was interrupted finds its input unchanged.
fn has_rows(path: &Path, rows: u64) -> bool {
    let header: usize = COLUMNS.iter().map(|(name, ..)| name.len() + 1).sum();
    std::fs::metadata(path).is_ok_and(|m| m.len() == header as u64 + rows * ROW_BYTES)
}

/// Rows of random choices, one decimal each, always the same.
fn write_rows(path: &Path, rows: u64) -> std::io::Result<()> {
    let unfinished = path.with_extension("part");
    let mut out = BufWriter::with_capacity(1 << 20, File::create(&unfinished)?);
    out.write_all((COLUMNS.map(|(name, ..)| name).join(",") + "\n").as_bytes())?;
    let mut state = SEED;
    for _ in 0..rows {
        let mut row = *b"0.0,0.0,0.0,0.0\n";
        for (place, (_, low, high)) in COLUMNS.into_iter().enumerate() {
            let tenths = low + next(&mut state) % (high - low + 1);
            row[4 * place] = b'0' + (tenths / 10) as u8;
            row[4 * place + 2] = b'0' + (tenths % 10) as u8;
        }
        out.write_all(&row)?;
    }
    out.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()?;
    std::fs::rename(&unfinished, path)
}

/// `SplitMix64` (Steele, Lea and Flood 2014).
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
