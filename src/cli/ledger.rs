//! `scoreline ledger`: what became of each window of rows.

use std::fmt::Write as _;
use std::io::BufRead;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use indicatif::HumanCount;
use serde_json::json;

use super::{Failure, Global, print};
use crate::record::Receipt;
use crate::record::run::IngestProgress;
use crate::sink::staging::digest_of;
use crate::sink::{Manifest, Names, Tiles};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// Print a run's receipts and check that they account for each row once
    #[command(
        after_help = "Examples:\n  scoreline ledger show scored.csv\n  scoreline ledger show scored.csv --json | jq .rows"
    )]
    Show {
        /// The run's output, or its manifest
        output: PathBuf,

        /// Only the sums and the checks, no receipts
        #[arg(long)]
        summary: bool,
    },
}

pub(crate) fn run(args: &Args, global: &Global) -> Result<(), Failure> {
    let Verb::Show { output, summary } = &args.verb;
    let manifest_path = manifest_of(output);
    let manifest = Manifest::read(&manifest_path).ok_or_else(|| {
        let work = PathBuf::from(format!("{}.scoreline", output.display()));
        let why = if work.is_dir() {
            "its run has not ended; run its command again to finish it"
        } else {
            "is there a run that wrote it?"
        };
        Failure::new(format!("there is no manifest at {}; {why}", manifest_path.display()))
    })?;
    let ledger = PathBuf::from(&manifest.ledger.path);
    for file in manifest.files.iter().chain([&manifest.ledger]).chain(&manifest.dead_letters) {
        let found = digest_of(Path::new(&file.path)).map_err(|e| Failure::new(e.to_string()))?;
        if found != file.sha256 {
            let why =
                format!("{} is not what its run published: its SHA-256 is {found}, was {}", file.path, file.sha256);
            return Err(Failure::new(why));
        }
    }
    if !global.json && !summary {
        print(
            "window      partition  offsets                 rows      scored        dead     skipped  tries  model\n",
        )?;
    }
    let tiles = read(&ledger, &manifest, global.json, *summary)?;
    let verdict = check(&tiles, &manifest);
    if !global.json || *summary {
        print(&sums(&manifest, &tiles, verdict.is_ok(), global.json))?;
    }
    verdict.map_err(Failure::new)
}

fn manifest_of(output: &Path) -> PathBuf {
    if output.to_string_lossy().ends_with(".manifest.json") {
        output.to_owned()
    } else {
        Names::beside(output).manifest
    }
}

/// Prints the receipts and sums them up.
fn read(ledger: &Path, manifest: &Manifest, is_json: bool, is_summary: bool) -> Result<Tiles, Failure> {
    let wrong = |e: std::io::Error| Failure::new(format!("cannot read {}: {e}", ledger.display()));
    let file = std::io::BufReader::new(std::fs::File::open(ledger).map_err(wrong)?);
    let mut tiles: Option<Tiles> = None;
    let mut starts = vec![None; manifest.parameters.partitions as usize];
    let mut receipts = Vec::new();
    for line in file.lines() {
        let receipt =
            Receipt::decode(Some(&Bytes::from(line.map_err(wrong)?))).map_err(|e| Failure::new(e.to_string()))?;
        if let Some(start) = starts.get_mut(receipt.partition as usize) {
            start.get_or_insert(receipt.first);
        }
        if !is_summary {
            print(&if is_json { receipt_json(&receipt)? } else { receipt_line(&receipt) })?;
        }
        receipts.push(receipt);
    }
    let starts: Vec<u64> = starts.into_iter().map(Option::unwrap_or_default).collect();
    let tiles = tiles.get_or_insert_with(|| Tiles::new(&starts));
    for receipt in &receipts {
        tiles.add(&manifest.run, receipt).map_err(|e| Failure::new(e.to_string()))?;
    }
    Ok(tiles.clone())
}

fn receipt_json(receipt: &Receipt) -> Result<String, Failure> {
    serde_json::to_string(receipt).map(|json| json + "\n").map_err(|e| Failure::new(e.to_string()))
}

fn receipt_line(receipt: &Receipt) -> String {
    let counts = receipt.counts;
    format!(
        "{:<11} {:<10} {:<16} {:>11} {:>11} {:>11} {:>11} {:>6}  {}\n",
        receipt.window,
        receipt.partition,
        format!("{}..{}", receipt.first, receipt.next),
        counts.rows,
        counts.scored,
        counts.dead,
        counts.skipped,
        receipt.tries,
        receipt.model.short()
    )
}

/// Checks the receipts against what the manifest says was ingested.
fn check(tiles: &Tiles, manifest: &Manifest) -> Result<(), String> {
    let ingested = IngestProgress {
        windows: manifest.windows,
        rows: manifest.rows.rows,
        sum: manifest.checksum,
        ends: Some(tiles.next_offsets.clone()),
        ..IngestProgress::default()
    };
    match tiles.is_complete(&ingested) {
        Ok(true) if tiles.counts == manifest.rows => Ok(()),
        Ok(_) => Err("the receipts do not account for the rows that the manifest names".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn sums(manifest: &Manifest, tiles: &Tiles, is_balanced: bool, is_json: bool) -> String {
    let counts = tiles.counts;
    if is_json {
        let json = json!({
            "run": manifest.run, "outcome": manifest.outcome, "windows": tiles.next_window, "rows": counts.rows,
            "scored": counts.scored, "dead": counts.dead, "skipped": counts.skipped,
            "checksum": tiles.sum_in, "balanced": is_balanced,
        });
        return json.to_string() + "\n";
    }
    let mut text = String::new();
    let count = |n| HumanCount(n).to_string();
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "run {}: {} windows, {} rows = {} scored + {} dead + {} skipped; {}",
        manifest.run,
        count(tiles.next_window),
        count(counts.rows),
        count(counts.scored),
        count(counts.dead),
        count(counts.skipped),
        if is_balanced { "the ledger balances" } else { "THE LEDGER DOES NOT BALANCE" }
    );
    text
}
