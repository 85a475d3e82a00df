//! What the tests share: fixtures, folders, and the program as a user runs it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use scoreline::score::{Candidates, Runtime};

/// A file of the fixtures, such as `data/iris.csv`.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// A model of the fixtures, by its name without the extension.
pub fn model(name: &str) -> PathBuf {
    fixture(&format!("models/{name}.onnx"))
}

/// The ONNX Runtime library, which the test command fetches before the tests.
pub fn runtime() -> Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME
        .get_or_init(|| {
            let given = std::env::var_os("ORT_DYLIB_PATH").map(PathBuf::from);
            let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
            let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or(home).unwrap_or_default();
            let library = Candidates { given, cache: cache.join("scoreline") }.find().expect("run scripts/test");
            Runtime::load(&library).expect("the library loads")
        })
        .clone()
}

/// A folder that is removed at the test's end.
pub fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// The program.
pub fn scoreline() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_scoreline"));
    // Settings of the machine that runs the tests must not reach them.
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("SCORELINE_") || name == "RUST_LOG") {
        command.env_remove(name);
    }
    command
}

/// The program's `score` with the three paths that it always needs.
pub fn score(model: &Path, input: &Path, output: &Path) -> Command {
    let mut command = scoreline();
    command.arg("score").arg("--model").arg(model).arg("--input").arg(input).arg("--output").arg(output);
    command
}

/// Runs a command and expects it to succeed.
#[track_caller]
pub fn succeed(command: &mut Command) -> Output {
    let output = command.output().expect("the program starts");
    assert!(output.status.success(), "{command:?} failed:\n{}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Runs a command, expects the exit code, and answers what it said on standard error.
#[track_caller]
pub fn fail(command: &mut Command, code: i32) -> String {
    let output = command.output().expect("the program starts");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{command:?} said:\n{said}");
    said
}

/// The JSON summary of a successful run.
#[track_caller]
pub fn summary(command: &mut Command) -> serde_json::Value {
    let output = succeed(command.arg("--json"));
    serde_json::from_slice(&output.stdout).expect("a JSON summary")
}

/// The rows of a CSV file, header first.
#[track_caller]
pub fn read_csv(path: &Path) -> Vec<Vec<String>> {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_path(path).expect("a CSV file");
    reader.records().map(|row| row.expect("a row").iter().map(str::to_owned).collect()).collect()
}

/// The lines of a file of JSON lines.
#[track_caller]
pub fn read_jsonl(path: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(path).expect("a file");
    text.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect()
}

/// The path with something behind it: `scored.csv` and `.manifest.json`.
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    PathBuf::from(format!("{}{suffix}", path.display()))
}
