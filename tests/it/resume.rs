//! Resume: a run that is killed at any moment goes on with the same command, and its output is the same bytes as from
//! an undisturbed run.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::{beside, fail, folder, model, read_jsonl, scoreline, succeed, summary};

/// Numbers from a seed (`SplitMix64`), so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        (z ^ (z >> 27)) % below
    }
}

fn seed() -> u64 {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()) * 7919);
    println!("SEED={seed}");
    seed
}

/// Rows of which one in a hundred cannot be read.
fn write_rows(path: &Path, rows: u64) {
    let mut text = String::from("sepal_length,sepal_width,petal_length,petal_width,note\n");
    for row in 0..rows {
        let cell = |n: u64| format!("{}.{}", n / 10 % 8, n % 10);
        let first = if row % 100 == 7 { "bad".to_owned() } else { cell(row) };
        let note = if row % 1000 == 3 { "\"two\nlines\"" } else { "plain" };
        writeln!(text, "{first},{},{},{},{note}", cell(row * 3), cell(row * 7), cell(row * 11)).unwrap();
    }
    std::fs::write(path, text).unwrap();
}

fn command(rows: &Path, output: &Path, more: &[&str]) -> Command {
    let mut command = scoreline();
    command.arg("score").arg("--model").arg(model("iris_lr_columns_float")).arg("--input").arg(rows);
    command.arg("--output").arg(output).args(["--mini-batch-size", "2KB", "--quiet"]).args(more);
    command
}

/// Starts the command again and again, killing each but the last after a random time; answers how many kills hit a
/// run in its middle.
fn kill_until_done(make: impl Fn() -> Command, kills: usize, random: &mut Random, most_ms: u64, said: &Path) -> usize {
    let mut hits = 0;
    for _ in 0..kills {
        let stderr = std::fs::File::create(said).unwrap();
        let mut child = make().stdout(Stdio::null()).stderr(stderr).spawn().unwrap();
        let limit = std::time::Instant::now() + Duration::from_micros(random.next(most_ms * 1000));
        // Waits for the child's end or the moment of the kill, whichever comes first.
        let ended = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break Some(status);
            }
            if std::time::Instant::now() >= limit {
                break None;
            }
            std::thread::yield_now();
        };
        match ended {
            Some(status) => {
                assert!(status.success(), "{}", std::fs::read_to_string(said).unwrap());
                return hits;
            }
            None => {
                child.kill().unwrap();
                child.wait().unwrap();
                hits += 1;
            }
        }
    }
    succeed(&mut make());
    hits
}

fn assert_same_as_undisturbed(format: &str, kills: usize, more: &[&str]) {
    let mut random = Random(seed());
    let folder = folder();
    let rows = folder.path().join("rows.csv");
    write_rows(&rows, 40_000);
    let undisturbed = folder.path().join(format!("undisturbed.{format}"));
    let begun = std::time::Instant::now();
    succeed(&mut command(&rows, &undisturbed, more));
    let took = begun.elapsed().as_millis() as u64 + 20;
    let expected = std::fs::read(&undisturbed).unwrap();
    let letters = |output: &Path| {
        let mut letters = read_jsonl(&beside(output, ".dead-letters.jsonl"));
        letters.iter_mut().for_each(|letter| letter["run"] = "".into());
        letters
    };
    let mut hits = 0;
    let mut round = 0;
    while hits < kills {
        let output = folder.path().join(format!("killed-{round}.{format}"));
        hits += kill_until_done(
            || command(&rows, &output, more),
            kills - hits,
            &mut random,
            took,
            &folder.path().join("said"),
        );
        round += 1;
        assert!(std::fs::read(&output).unwrap() == expected, "the output differs after a kill");
        assert_eq!(letters(&output), letters(&undisturbed));
        assert!(!beside(&output, ".scoreline").exists(), "the work folder is left");
        succeed(scoreline().args(["ledger", "show", "--summary"]).arg(&output));
    }
    println!("{hits} kills in {round} runs");
}

#[test]
fn killed_at_50_random_moments_the_csv_is_the_same_bytes() {
    assert_same_as_undisturbed("csv", 50, &[]);
}

#[test]
fn killed_at_random_moments_the_parquet_is_the_same_bytes() {
    assert_same_as_undisturbed("parquet", 15, &["--row-group-rows", "5000"]);
}

#[test]
fn an_interrupt_stops_cleanly_and_the_same_command_goes_on() {
    let folder = folder();
    let (rows, output) = (folder.path().join("rows.csv"), folder.path().join("scored.csv"));
    write_rows(&rows, 200_000);
    let child = command(&rows, &output, &[]).stderr(Stdio::piped()).spawn().unwrap();
    let log = beside(&output, ".scoreline").join("log");
    while !log.is_dir() {
        std::thread::yield_now();
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let ended = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(130), "{said}");
    assert!(!output.exists());
    let resumed = summary(&mut command(&rows, &output, &[]));
    assert_eq!(resumed["rows"], 200_000);
    let whole = folder.path().join("whole.csv");
    succeed(&mut command(&rows, &whole, &[]));
    assert!(std::fs::read(&output).unwrap() == std::fs::read(&whole).unwrap());
}

#[test]
fn an_unfinished_run_is_not_mixed_with_another() {
    let folder = folder();
    let (rows, output) = (folder.path().join("rows.csv"), folder.path().join("scored.csv"));
    write_rows(&rows, 100_000);
    let mut child = command(&rows, &output, &[]).spawn().unwrap();
    // The run's record is the first thing on its log that takes this much.
    let segment = beside(&output, ".scoreline").join("log/00000000000000000001.log");
    while std::fs::metadata(&segment).map_or(0, |m| m.len()) < 20_000 {
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let said = fail(&mut command(&rows, &output, &["--probabilities"]), 1);
    assert!(said.contains("probabilities") && said.contains("--restart"), "{said}");
    write_rows(&rows, 50_000);
    let said = fail(&mut command(&rows, &output, &[]), 1);
    assert!(said.contains("rows.csv changed") && said.contains("--restart"), "{said}");
    let anew = summary(&mut command(&rows, &output, &["--restart"]));
    assert_eq!((&anew["rows"], &anew["resumed"]), (&50_000.into(), &false.into()));
}
