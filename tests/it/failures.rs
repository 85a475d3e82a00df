//! Failures of rows: which rows become dead letters, with what beside them, and that all others are scored, however
//! the run is cut into windows, threads and partitions.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use prost::Message as _;
use scoreline::score::graph::onnx;
use serde_json::{Value, json};

use crate::support::{beside, fail, folder, model, read_csv, read_jsonl, score, scoreline, succeed, summary};

/// The dead letters beside `output`, without the run that they name; none where there is no file.
#[track_caller]
fn letters(output: &Path) -> Vec<Value> {
    let path = beside(output, ".dead-letters.jsonl");
    if !path.exists() {
        return Vec::new();
    }
    let mut letters = read_jsonl(&path);
    for letter in &mut letters {
        assert!(letter.as_object_mut().unwrap().remove("run").is_some());
    }
    letters
}

/// The receipts beside `output`, checked: they balance, and agree with the files.
#[track_caller]
fn receipts(output: &Path) -> Vec<Value> {
    let show = |more: &[&str]| {
        let said = succeed(scoreline().args(["ledger", "show", "--json"]).args(more).arg(output)).stdout;
        let lines = String::from_utf8(said).unwrap();
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>()
    };
    let (receipts, sums) = (show(&[]), show(&["--summary"]));
    let [sums] = sums.as_slice() else { panic!("{sums:?}") };
    let count = |of: &Value, name: &str| of[name].as_u64().unwrap();
    assert_eq!(sums["balanced"], true);
    assert_eq!(count(sums, "windows"), receipts.len() as u64);
    for name in ["rows", "scored", "dead", "skipped"] {
        assert_eq!(receipts.iter().map(|receipt| count(receipt, name)).sum::<u64>(), count(sums, name), "{name}");
    }
    assert_eq!(count(sums, "rows"), ["scored", "dead", "skipped"].iter().map(|name| count(sums, name)).sum::<u64>());
    assert_eq!(count(sums, "dead"), letters(output).len() as u64);
    if output.exists() {
        assert_eq!(count(sums, "scored"), read_csv(output).len() as u64 - 1);
    }
    receipts
}

// --- Any table, cut in any way ---------------------------------------------------------------------------------------

/// What must become of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Scored,
    /// It fails at this stage.
    Dead(&'static str),
}

/// A row of a table under test.
#[derive(Clone, Debug)]
struct Row {
    /// Its cells as they stand in the file, the first of which (the row's name) is added when the file is written.
    cells: Vec<&'static str>,
    fate: Fate,
    blank_lines_before: usize,
}

/// A model with a table for it.
struct Case {
    /// Answers the model's file; one that is made for the test goes into the folder.
    model: fn(&Path) -> PathBuf,
    header: &'static str,
    more: &'static [&'static str],
}

const CAST: Case = Case {
    model: |_| model("cast_string_to_float"),
    header: "name,text,x,note",
    more: &["--column-type", "text=string", "--column-type", "x=float64", "--column-type", "note=string"],
};

const MIXED: Case = Case {
    model: |_| model("mixed_columns"),
    header: "name,colour,count,sepal_length,petal_width",
    more: &[
        "--column-type",
        "colour=string",
        "--column-type",
        "count=float64",
        "--column-type",
        "sepal_length=float64",
        "--column-type",
        "petal_width=float64",
        "--missing",
        "fail",
        "--probabilities",
    ],
};

/// Text and whole numbers: rows fail when they are read, when they are bound, and in the model.
const SUM: Case = Case {
    model: sum_model,
    header: "name,text,count",
    more: &["--column-type", "text=string", "--column-type", "count=float64"],
};

/// A cell and what it does to its row.
fn cell(
    good: &'static [&'static str],
    bad: &'static [(&'static str, &'static str)],
) -> impl Strategy<Value = (&'static str, Fate)> {
    let good = prop::sample::select(good).prop_map(|cell| (cell, Fate::Scored));
    let bad = prop::sample::select(bad).prop_map(|(cell, stage)| (cell, Fate::Dead(stage)));
    prop_oneof![30 => good, 1 => bad]
}

const NOTES: &[&str] = &["plain", "\"two\nlines\"", "\"a,b\"", "\"say \"\"so\"\"\"", "", "\"\"", "-", "grün"];

fn cast_cells() -> impl Strategy<Value = Vec<(&'static str, Fate)>> {
    let text = cell(
        &["1", "-2.5", "1e3", "nan", "inf", "\"7\"", "0.1"],
        &[("bad", "score"), ("", "score"), ("\"\"", "score"), ("\"one,\ntwo\"", "score")],
    );
    let x = cell(
        &["1", "2.25", "", "NA", "NaN", "-inf", "1e-7"],
        &[("wide", "read"), ("\"1,5\"", "read"), ("0x10", "read")],
    );
    let note = prop::sample::select(NOTES).prop_map(|cell| (cell, Fate::Scored));
    (text, x, note).prop_map(|(text, x, note)| vec![text, x, note])
}

fn mixed_cells() -> impl Strategy<Value = Vec<(&'static str, Fate)>> {
    let colour = cell(&["white", "\"pale, pink\"", "grün", "never seen", ""], &[("\"dark\" red", "read")]);
    let colour = colour.prop_map(|(cell, _)| (cell, Fate::Scored));
    let count = cell(&["0", "7", "12.0", "-3"], &[("2.5", "bind"), ("", "bind"), ("many", "read"), ("1e300", "bind")]);
    let length = cell(&["5.1", "4", "1e2", "NaN", "inf"], &[("", "bind"), ("N/A", "bind"), ("long", "read")]);
    let width = cell(&["0.2", "1.75", "3"], &[(" ", "bind"), ("five", "read")]);
    (colour, count, length, width).prop_map(|(a, b, c, d)| vec![a, b, c, d])
}

fn sum_cells() -> impl Strategy<Value = Vec<(&'static str, Fate)>> {
    let text = cell(&["1", "-2.5", "1e3", "nan"], &[("bad", "score"), ("", "score")]);
    let count = cell(&["0", "7", "12.0", "-3"], &[("2.5", "bind"), ("", "bind"), ("many", "read")]);
    (text, count).prop_map(|(text, count)| vec![text, count])
}

/// A row of these cells; now and then one with a cell too few or too many.
fn row(cells: impl Strategy<Value = Vec<(&'static str, Fate)>>) -> impl Strategy<Value = Row> {
    let blank_lines = prop_oneof![9 => Just(0_usize), 1 => 1..4_usize];
    (cells, 0..60_u8, blank_lines).prop_map(|(cells, ragged, blank_lines_before)| {
        // What fails first, fails the row.
        let order =
            |fate: &Fate| ["read", "bind", "score"].iter().position(|stage| *fate == Fate::Dead(stage)).unwrap_or(3);
        let worst = cells.iter().map(|(_, fate)| *fate).min_by_key(order).unwrap();
        let mut cells: Vec<_> = cells.into_iter().map(|(cell, _)| cell).collect();
        match ragged {
            0 => drop(cells.pop()),
            1 => cells.push("more"),
            _ => {}
        }
        let fate = if ragged < 2 { Fate::Dead("read") } else { worst };
        Row { cells, fate, blank_lines_before }
    })
}

/// Where a row stands.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    name: String,
    file: String,
    line: u64,
    row: u64,
    raw: String,
}

/// Writes the rows as two files; answers their paths and where each row stands.
fn write_table(folder: &Path, case: &Case, rows: &[Row]) -> (Vec<PathBuf>, Vec<Place>) {
    let (mut paths, mut places) = (Vec::new(), Vec::new());
    let (first, second) = rows.split_at(rows.len() / 3);
    for (number, rows) in [first, second].into_iter().enumerate() {
        let path = folder.join(format!("rows-{number}.csv"));
        // Either kind of line end.
        let end = if rows.len().is_multiple_of(2) { "\n" } else { "\r\n" };
        let mut text = format!("{}{end}", case.header);
        for (place, row) in rows.iter().enumerate() {
            text.push_str(&end.repeat(row.blank_lines_before));
            let name = format!("f{number}r{place}");
            let raw = format!("{name},{}", row.cells.join(","));
            let line = text.matches('\n').count() as u64 + 1;
            let _ = write!(text, "{raw}{end}");
            places.push(Place { name, file: path.to_str().unwrap().to_owned(), line, row: place as u64, raw });
        }
        std::fs::write(&path, text).unwrap();
        paths.push(path);
    }
    (paths, places)
}

/// How a run is cut.
type Cut = (&'static str, u8, u8);

fn scored(case: &Case, inputs: &[PathBuf], output: &Path, (size, threads, partitions): Cut) {
    let mut command = scoreline();
    command
        .arg("score")
        .arg("--quiet")
        .arg("--model")
        .arg((case.model)(output.parent().unwrap()))
        .arg("--output")
        .arg(output);
    command.arg("--input").args(inputs).args(case.more).args(["--run-max-try", "1", "--mini-batch-size", size]);
    command.arg("--process-count-per-node").arg(threads.to_string()).arg("--partitions").arg(partitions.to_string());
    succeed(&mut command);
}

fn equal<T: PartialEq + std::fmt::Debug>(left: T, right: T, what: &str) -> Result<(), TestCaseError> {
    if left == right { Ok(()) } else { Err(TestCaseError::fail(format!("{what}: {left:?} is not {right:?}"))) }
}

/// Scores the table cut in each way: exactly the rows that must fail do, with where they stand, and all is the same.
fn check(case: &Case, rows: &[Row], cuts: &[Cut]) -> Result<(), TestCaseError> {
    let folder = folder();
    let (inputs, places) = write_table(folder.path(), case, rows);
    let whole = folder.path().join("whole.csv");
    scored(case, &inputs, &whole, ("1MB", 1, 1));
    let names: Vec<String> = read_csv(&whole).into_iter().skip(1).map(|row| row[0].clone()).collect();
    let alive = places.iter().zip(rows).filter(|(_, row)| row.fate == Fate::Scored);
    equal(names, alive.map(|(place, _)| place.name.clone()).collect(), "the rows scored")?;
    let dead: Vec<_> = places.iter().zip(rows).filter(|(_, row)| row.fate != Fate::Scored).collect();
    let found = letters(&whole);
    equal(found.len(), dead.len(), "the number of dead letters")?;
    for (letter, (place, row)) in found.iter().zip(dead) {
        let Fate::Dead(stage) = row.fate else { unreachable!() };
        let wanted = json!([place.file, place.line, place.row, stage]);
        equal(&json!([letter["file"], letter["line"], letter["row"], letter["stage"]]), &wanted, &letter.to_string())?;
        let raw = letter["raw"].as_str().unwrap();
        if stage == "read" {
            equal(raw, &place.raw, "the raw row")?;
        } else {
            let cells: Value = serde_json::from_str(raw).unwrap();
            equal(&cells["name"], &json!(place.name), "the row's cells")?;
        }
    }
    receipts(&whole);
    let bytes = std::fs::read(&whole).unwrap();
    for (place, cut) in cuts.iter().enumerate() {
        let output = folder.path().join(format!("cut-{place}.csv"));
        scored(case, &inputs, &output, *cut);
        prop_assert!(std::fs::read(&output).unwrap() == bytes, "{cut:?}: other rows");
        equal(letters(&output), letters(&whole), &format!("{cut:?}: dead letters"))?;
        receipts(&output);
    }
    Ok(())
}

/// Runs a few random cases; `SEED=...` repeats a failure.
fn property<S: Strategy>(cases: u32, strategy: &S, test: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| u64::from(std::process::id()) * 104_729);
    println!("SEED={seed}");
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config { cases, max_shrink_iters: 40, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    if let Err(error) = runner.run(strategy, test) {
        panic!("SEED={seed}: {error}");
    }
}

fn cuts() -> impl Strategy<Value = Vec<Cut>> {
    let cut = (
        prop::sample::select(&["1", "7", "64", "1KB", "1MB"][..]),
        prop::sample::select(&[1_u8, 2, 3][..]),
        prop::sample::select(&[1_u8, 3, 4][..]),
    );
    prop::collection::vec(cut, 4)
}

#[test]
fn rows_that_the_model_fails_on_do_not_depend_on_the_cut() {
    let table = prop::collection::vec(row(cast_cells()), 0..250);
    property(6, &(table, cuts()), |(rows, cuts)| check(&CAST, &rows, &cuts));
}

#[test]
fn rows_that_do_not_fit_the_model_do_not_depend_on_the_cut() {
    let table = prop::collection::vec(row(mixed_cells()), 0..250);
    property(6, &(table, cuts()), |(rows, cuts)| check(&MIXED, &rows, &cuts));
}

#[test]
fn rows_that_fail_before_and_in_the_model_do_not_depend_on_the_cut() {
    let table = prop::collection::vec(row(sum_cells()), 0..250);
    property(4, &(table, cuts()), |(rows, cuts)| check(&SUM, &rows, &cuts));
}

#[test]
fn a_window_of_many_calls_and_frames_is_cut_like_any_other() {
    let table = prop::collection::vec(row(cast_cells()), 9000..9500);
    let cuts = [("8MB", 3, 4), ("1023", 2, 3), ("5000", 1, 1)];
    property(1, &table, |rows| check(&CAST, &rows, &cuts));
}

// --- Models made for a test -------------------------------------------------------------------------------------------

fn tensor(name: &str, element: onnx::tensor_proto::DataType) -> onnx::ValueInfoProto {
    use onnx::tensor_shape_proto::{Dimension, dimension::Value};
    let dimension = |value| Dimension { value: Some(value), ..Dimension::default() };
    let dim = vec![dimension(Value::DimParam("N".to_owned())), dimension(Value::DimValue(1))];
    let shape = Some(onnx::TensorShapeProto { dim });
    let tensor = onnx::type_proto::Tensor { elem_type: Some(element as i32), shape };
    let value = Some(onnx::type_proto::Value::TensorType(tensor));
    let r#type = Some(onnx::TypeProto { value, ..onnx::TypeProto::default() });
    onnx::ValueInfoProto { name: Some(name.to_owned()), r#type, ..onnx::ValueInfoProto::default() }
}

fn node(operator: &str, inputs: &[&str], output: &str, attributes: &[(&str, i64)]) -> onnx::NodeProto {
    let attribute = |(name, i): &(&str, i64)| onnx::AttributeProto {
        name: Some((*name).to_owned()),
        r#type: Some(onnx::attribute_proto::AttributeType::Int as i32),
        i: Some(*i),
        ..onnx::AttributeProto::default()
    };
    onnx::NodeProto {
        op_type: Some(operator.to_owned()),
        input: inputs.iter().map(|&name| name.to_owned()).collect(),
        output: vec![output.to_owned()],
        attribute: attributes.iter().map(attribute).collect(),
        ..onnx::NodeProto::default()
    }
}

fn write_model(path: &Path, graph: onnx::GraphProto) {
    let model = onnx::ModelProto {
        ir_version: Some(8),
        opset_import: vec![onnx::OperatorSetIdProto { domain: None, version: Some(17) }],
        graph: Some(graph),
        ..onnx::ModelProto::default()
    };
    std::fs::write(path, model.encode_to_vec()).unwrap();
}

/// `text` as a number, and `count`, added up.
fn sum_model(folder: &Path) -> PathBuf {
    use onnx::tensor_proto::DataType::{Float, Int64, String};
    let path = folder.join("sum.onnx");
    let graph = onnx::GraphProto {
        name: Some("sum".to_owned()),
        node: vec![
            node("Cast", &["text"], "a", &[("to", Float as i64)]),
            node("Cast", &["count"], "b", &[("to", Float as i64)]),
            node("Add", &["a", "b"], "variable", &[]),
        ],
        input: vec![tensor("text", String), tensor("count", Int64)],
        output: vec![tensor("variable", Float)],
        ..onnx::GraphProto::default()
    };
    write_model(&path, graph);
    path
}

/// A label for each row, and beside it only the rows of which `keep` is not 0.
fn forgetful_model(folder: &Path) -> PathBuf {
    use onnx::tensor_proto::DataType::{Bool, Float, Int64};
    let path = folder.join("forgetful.onnx");
    let flat = onnx::TensorProto {
        name: Some("flat".to_owned()),
        data_type: Some(Int64 as i32),
        dims: vec![1],
        int64_data: vec![-1],
        ..onnx::TensorProto::default()
    };
    let graph = onnx::GraphProto {
        name: Some("forgetful".to_owned()),
        node: vec![
            node("Cast", &["keep"], "label", &[("to", Int64 as i64)]),
            node("Cast", &["keep"], "is_kept", &[("to", Bool as i64)]),
            node("Reshape", &["is_kept", "flat"], "which", &[]),
            node("Compress", &["keep", "which"], "probabilities", &[("axis", 0)]),
        ],
        input: vec![tensor("keep", Float)],
        output: vec![tensor("label", Int64), tensor("probabilities", Float)],
        initializer: vec![flat],
        ..onnx::GraphProto::default()
    };
    write_model(&path, graph);
    path
}

#[test]
fn rows_for_which_an_output_is_missing_are_dead_and_the_others_keep_their_own() {
    let folder = folder();
    let (input, output) = (folder.path().join("rows.csv"), folder.path().join("scored.csv"));
    let mut text = String::from("keep\n");
    for row in 0..200 {
        let _ = writeln!(text, "{}", if row % 37 == 5 { 0 } else { row + 1 });
    }
    std::fs::write(&input, text).unwrap();
    let told = summary(score(&forgetful_model(folder.path()), &input, &output).arg("--probabilities"));
    assert_eq!((&told["scored"], &told["dead"]), (&json!(194), &json!(6)));
    for letter in letters(&output) {
        assert_eq!(letter["row"].as_u64().unwrap() % 37, 5);
        let reason = letter["reason"].as_str().unwrap();
        assert!(reason.contains("output \"probabilities\" has shape") && reason.contains("for 2 rows"), "{reason}");
    }
    for row in &read_csv(&output)[1..] {
        assert_eq!((&row[1], &row[2].parse::<f64>().unwrap()), (&row[0], &row[0].parse::<f64>().unwrap()));
    }
    receipts(&output);
}

// --- The model fails on rows ----------------------------------------------------------------------------------------

/// Rows for `cast_string_to_float`, of which those at `bad` are no numbers.
fn write_texts(path: &Path, rows: usize, bad: &[usize]) {
    let mut text = String::from("text\n");
    for row in 0..rows {
        let _ = if bad.contains(&row) { writeln!(text, "bad{row}") } else { writeln!(text, "{row}.5") };
    }
    std::fs::write(path, text).unwrap();
}

fn texts(folder: &Path, rows: usize, bad: &[usize]) -> (PathBuf, PathBuf) {
    let input = folder.join("rows.csv");
    write_texts(&input, rows, bad);
    (input, folder.join("scored.csv"))
}

fn cast(input: &Path, output: &Path, more: &[&str]) -> Command {
    let mut command = score(&model("cast_string_to_float"), input, output);
    command.args(["--column-type", "text=string"]).args(more);
    command
}

#[test]
fn only_the_rows_that_fail_the_model_are_dead() {
    let folder = folder();
    // At both ends, side by side, at the edges of calls, and one alone.
    let bad = [0, 1, 2, 500, 1023, 1024, 2047, 2500, 2999];
    let (input, output) = texts(folder.path(), 3000, &bad);
    let told = summary(&mut cast(&input, &output, &[]));
    assert_eq!((&told["rows"], &told["scored"], &told["dead"]), (&json!(3000), &json!(2991), &json!(9)));
    let found = letters(&output);
    let rows: Vec<_> = found.iter().map(|letter| usize::try_from(letter["row"].as_u64().unwrap()).unwrap()).collect();
    assert_eq!(rows, bad);
    for (letter, row) in found.iter().zip(bad) {
        assert_eq!(letter["file"], input.to_str().unwrap());
        assert_eq!(letter["line"], row + 2);
        assert_eq!(letter["stage"], "score");
        assert_eq!(letter["raw"], json!({ "text": format!("bad{row}") }).to_string());
        let reason = letter["reason"].as_str().unwrap();
        assert!(reason.starts_with("the model failed on the row: ") && !reason.contains('\n'), "{reason}");
    }
    let scored = read_csv(&output);
    assert!(scored[1..].iter().all(|row| row[0] == row[1]), "a row has another's prediction");
    receipts(&output);
}

#[test]
fn a_row_is_tried_as_often_as_is_said() {
    let folder = folder();
    let (input, output) = texts(folder.path(), 40, &[25]);
    for (tries, wanted) in [("1", 1), ("3", 3), ("5", 5)] {
        succeed(&mut cast(&input, &output, &["--mini-batch-size", "10", "--run-max-try", tries, "--overwrite"]));
        let tries: Vec<_> = receipts(&output).iter().map(|receipt| receipt["tries"].as_u64().unwrap()).collect();
        assert_eq!(tries, [1, 1, wanted, 1]);
    }
}

#[test]
fn where_all_rows_fail_there_is_a_header() {
    let folder = folder();
    let (input, output) = texts(folder.path(), 50, &(0..50).collect::<Vec<_>>());
    let told = summary(&mut cast(&input, &output, &["--mini-batch-size", "8"]));
    assert_eq!((&told["scored"], &told["dead"]), (&json!(0), &json!(50)));
    assert_eq!(read_csv(&output), [["text", "Prediction"]]);
    receipts(&output);
}

// --- The error threshold ---------------------------------------------------------------------------------------------

#[test]
fn the_error_threshold_is_the_most_rows_that_may_fail() {
    let folder = folder();
    let (input, output) = texts(folder.path(), 100, &[3, 40, 41, 99]);
    // Small and large windows: the verdict must not come too late for a run that ends at once.
    for size in ["1MB", "5"] {
        for round in 0..5 {
            let said = fail(&mut cast(&input, &output, &["--error-threshold", "3", "--mini-batch-size", size]), 3);
            assert!(said.contains("4 rows failed, more than the error threshold of 3 allows"), "{round}: {said}");
            assert!(!output.exists(), "a failed run has an output");
        }
        succeed(&mut cast(&input, &output, &["--error-threshold", "4", "--mini-batch-size", size]));
        assert_eq!(letters(&output).len(), 4);
        receipts(&output);
        std::fs::remove_file(beside(&output, ".manifest.json")).unwrap();
        std::fs::remove_file(beside(&output, ".ledger.jsonl")).unwrap();
        std::fs::remove_file(beside(&output, ".dead-letters.jsonl")).unwrap();
        std::fs::remove_file(&output).unwrap();
    }
}

#[test]
fn a_failed_run_tells_counts_and_first_errors() {
    let folder = folder();
    let bad: Vec<usize> = (10..30).collect();
    let (input, output) = texts(folder.path(), 100, &bad);
    let ended = cast(&input, &output, &["--error-threshold", "0", "--json"]).output().unwrap();
    assert_eq!(ended.status.code(), Some(3));
    let told: Value = serde_json::from_slice(&ended.stdout).unwrap();
    let error: Value = serde_json::from_slice(&ended.stderr).unwrap();
    assert_eq!((&told["outcome"], &told["dead"], &told["files"]), (&json!("failed"), &json!(20), &json!([])));
    assert_eq!((&error["error"], &error["exit_code"]), (&json!("run_failed"), &json!(3)));
    assert_eq!(told["reason"], error["message"]);
    let first = told["first_errors"].as_array().unwrap();
    assert_eq!(first.len(), 10);
    for (error, row) in first.iter().zip(bad) {
        let error = error.as_str().unwrap();
        assert!(error.contains(&format!("rows.csv line {}: the model failed", row + 2)), "{error}");
    }
    assert_eq!(letters(&output).len(), 20);
    receipts(&output);
    let said = fail(&mut cast(&input, &output, &["--error-threshold", "0"]), 3);
    assert!(
        said.contains("Failed") && said.contains("dead-lettered 20") && said.contains("rows.csv line 12:"),
        "{said}"
    );
}

#[test]
fn a_run_that_has_failed_reads_no_further() {
    let folder = folder();
    let (input, output) = texts(folder.path(), 400_000, &[0, 1, 2]);
    let more = ["--error-threshold", "2", "--mini-batch-size", "1KB", "--json"];
    let ended = cast(&input, &output, &more).output().unwrap();
    assert_eq!(ended.status.code(), Some(3));
    let told: Value = serde_json::from_slice(&ended.stdout).unwrap();
    assert!(told["rows"].as_u64().unwrap() < 400_000, "{told}");
    receipts(&output);
}

#[test]
fn any_number_may_fail_where_the_threshold_is_minus_one() {
    let folder = folder();
    let bad: Vec<usize> = (0..200).step_by(2).collect();
    let (input, output) = texts(folder.path(), 200, &bad);
    assert_eq!(summary(&mut cast(&input, &output, &["--error-threshold", "-1"]))["dead"], 100);
    receipts(&output);
}

#[test]
fn unreadable_rows_count_too() {
    let folder = folder();
    let (input, output) = (folder.path().join("rows.csv"), folder.path().join("scored.csv"));
    std::fs::write(&input, "text,more\n1,2\n1,2,3\nbad,2\n").unwrap();
    fail(&mut cast(&input, &output, &["--error-threshold", "1"]), 3);
    succeed(&mut cast(&input, &output, &["--error-threshold", "2"]));
    receipts(&output);
}

// --- Rows that take too long -----------------------------------------------------------------------------------------

#[test]
fn rows_that_take_too_long_are_dead_and_the_others_scored() {
    let folder = folder();
    let (input, output) = (folder.path().join("rows.csv"), folder.path().join("scored.csv"));
    let mut text = String::from("x\n");
    for row in 0..48 {
        // So many turns take hours; the others' none.
        let _ = writeln!(text, "{}", if [5, 40].contains(&row) { 1e12 } else { f64::from(row) });
    }
    std::fs::write(&input, text).unwrap();
    let mut command = score(&model("slow_loop"), &input, &output);
    command.args(["--run-invocation-timeout", "500ms", "--run-max-try", "2", "--mini-batch-size", "16"]);
    let told = summary(command.args(["--process-count-per-node", "2", "--partitions", "3"]));
    assert_eq!((&told["scored"], &told["dead"]), (&json!(46), &json!(2)));
    let found = letters(&output);
    let where_and_why = |letter: &Value| (letter["line"].clone(), letter["reason"].clone());
    let why = json!("the model did not answer in time");
    let wanted = vec![(json!(7), why.clone()), (json!(42), why)];
    assert_eq!(found.iter().map(where_and_why).collect::<Vec<_>>(), wanted);
    for row in &read_csv(&output)[1..] {
        assert_eq!(row[1].parse::<f64>().unwrap(), row[0].parse::<f64>().unwrap() + 1.0);
    }
    // Two tries as a whole, then one that looks for the rows.
    let tries: Vec<_> = receipts(&output).iter().map(|receipt| receipt["tries"].as_u64().unwrap()).collect();
    assert_eq!(tries, [3, 1, 3]);
}

// --- Where a row stands, and what does not fit -----------------------------------------------------------------------

#[test]
fn lines_are_right_behind_line_ends_in_cells_and_blank_lines() {
    let folder = folder();
    let (input, output) = (folder.path().join("rows.csv"), folder.path().join("scored.csv"));
    // Lines:     1              2            4   5    6    7          9     10      11      12
    let text = "text,note\r\n1,\"a\r\nb\"\r\n\r\n\r\nbad,c\r\n2,\"\n\"\r\nworse,d\n3\n\n4,e\n";
    std::fs::write(&input, text).unwrap();
    for size in ["1", "2", "1MB"] {
        succeed(&mut cast(&input, &output, &["--overwrite", "--mini-batch-size", size]));
        let found: Vec<_> = letters(&output).iter().map(|l| json!([l["line"], l["row"], l["stage"]])).collect();
        assert_eq!(found, [json!([6, 1, "score"]), json!([9, 3, "score"]), json!([10, 4, "read"])]);
        let kept: Vec<_> = read_csv(&output).into_iter().skip(1).map(|row| row[0].clone()).collect();
        assert_eq!(kept, ["1", "2", "4"]);
    }
}

#[test]
fn lines_are_right_behind_blank_lines_of_earlier_windows() {
    for end in ["\n", "\r\n"] {
        let folder = folder();
        let (input, output) = (folder.path().join("rows.csv"), folder.path().join("scored.csv"));
        // Blank lines at the beginning, one by one, two by two, and at the end.
        let mut text = format!("text{end}{end}{end}");
        for row in 0..1000 {
            text += &(if row % 300 == 299 { format!("bad{row}") } else { row.to_string() } + &end.repeat(1 + row % 3));
        }
        std::fs::write(&input, text).unwrap();
        succeed(&mut cast(&input, &output, &["--quiet", "--mini-batch-size", "1KB"]));
        let found: Vec<_> = letters(&output).iter().map(|l| json!([l["row"], l["line"]])).collect();
        let line = |row: usize| 4 + (0..row).map(|row| 1 + row % 3).sum::<usize>();
        assert_eq!(found, [299, 599, 899].map(|row| json!([row, line(row)])), "{end:?}");
        assert!(receipts(&output).len() > 3);
    }
}

/// The reasons for the dead rows of a small table, with their lines.
fn reasons(name: &str, text: &str, more: &[&str]) -> Vec<(u64, String)> {
    let folder = folder();
    let (input, output) = (folder.path().join("rows.csv"), folder.path().join("scored.csv"));
    std::fs::write(&input, text).unwrap();
    succeed(score(&model(name), &input, &output).args(more));
    receipts(&output);
    let told = |letter: &Value| (letter["line"].as_u64().unwrap(), letter["reason"].as_str().unwrap().to_owned());
    letters(&output).iter().map(told).collect()
}

#[test]
fn a_missing_value_fails_its_row_where_that_is_said() {
    let text = "sepal_length,sepal_width,petal_length,petal_width\n1,2,3,4\n1,,3,4\n1,2,NA,4\n1,2,3,NaN\n";
    assert_eq!(reasons("iris_lr_columns_float", text, &[]), []);
    let reason = |column| format!("column {column:?} holds a missing value, input {column:?} does not take that");
    let wanted = [(3, reason("sepal_width")), (4, reason("petal_length"))];
    assert_eq!(reasons("iris_lr_columns_float", text, &["--missing", "fail"]), wanted);
}

#[test]
fn a_fraction_fails_its_row_where_a_whole_number_is_wanted() {
    let text = "colour,count,sepal_length,petal_width\nblue,3,5,1\nblue,2.5,5,1\nblue,,5,1\nblue,4,5,1\nblue,1e3,5,1\n";
    let found = reasons("mixed_columns", text, &[]);
    let lines: Vec<_> = found.iter().map(|(line, _)| *line).collect();
    assert_eq!(lines, [3, 4], "{found:?}");
    assert_eq!(found[0].1, "column \"count\" holds 2.5, input \"count\" does not take that");
    assert_eq!(found[1].1, "column \"count\" holds a missing value, input \"count\" does not take that");
}

#[test]
fn a_fraction_far_down_a_column_of_whole_numbers_is_scored() {
    let folder = folder();
    let (input, output) = (folder.path().join("rows.csv"), folder.path().join("scored.csv"));
    // Far behind the rows from which the columns' types are told.
    let mut text = String::from("sepal_length,sepal_width,petal_length,petal_width,note\n");
    for _ in 0..5000 {
        let _ = writeln!(text, "1,2,3,4,{}", "n".repeat(1000));
    }
    std::fs::write(&input, text + "1,2.5,3,4,end\n").unwrap();
    let told = summary(&mut score(&model("iris_lr_columns_float"), &input, &output));
    assert_eq!((&told["scored"], &told["dead"]), (&json!(5001), &json!(0)));
    let rows = read_csv(&output);
    assert_eq!(
        (&rows[5000][..4], &rows[5001][..4]),
        (&["1", "2", "3", "4"].map(String::from)[..], &["1", "2.5", "3", "4"].map(String::from)[..])
    );
}

#[test]
fn whole_numbers_of_64_bits_reach_the_model_and_the_output_whole() {
    let folder = folder();
    let (input, output) = (folder.path().join("rows.csv"), folder.path().join("scored.csv"));
    let text = "colour,count,sepal_length,petal_width\nblue,9007199254740993,5,1\nblue,-12,5,1\n";
    std::fs::write(&input, text).unwrap();
    succeed(score(&model("mixed_columns"), &input, &output).arg("--quiet"));
    let counts: Vec<_> = read_csv(&output).into_iter().skip(1).map(|row| row[1].clone()).collect();
    assert_eq!(counts, ["9007199254740993", "-12"]);
}

#[test]
fn a_row_that_is_no_text_is_kept_in_hexadecimal() {
    let folder = folder();
    let (input, output) = (folder.path().join("rows.csv"), folder.path().join("scored.csv"));
    std::fs::write(&input, b"text,note\n1,a\n2,gr\xfcn\n3,b\n").unwrap();
    succeed(&mut cast(&input, &output, &["--quiet"]));
    let [letter] = letters(&output).try_into().unwrap();
    assert_eq!((&letter["line"], &letter["reason"]), (&json!(3), &json!("the row is not UTF-8 text")));
    assert_eq!((&letter["raw"], &letter["raw_hex"]), (&json!("2,gr\u{fffd}n"), &json!("322c6772fc6e")));
    assert_eq!(read_csv(&output).len(), 3);
}

#[test]
fn a_row_too_long_for_a_dead_letter_is_cut_and_fails_alone() {
    use arrow::array::{RecordBatch, StringArray};
    use arrow::datatypes::{DataType, Field, Schema};
    use std::sync::Arc;

    let folder = folder();
    let (input, output) = (folder.path().join("rows.parquet"), folder.path().join("scored.csv"));
    // It compresses well enough for a frame, and is over what a record of the log may hold.
    let long = "\u{1}x".repeat(600_000);
    let schema = Arc::new(Schema::new(vec![Field::new("text", DataType::Utf8, true)]));
    let column = StringArray::from(vec!["1.5", long.as_str(), "2.5"]);
    let batch = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(column)]).unwrap();
    let file = std::fs::File::create(&input).unwrap();
    let mut writer = parquet::arrow::ArrowWriter::try_new(file, schema, None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    let said = summary(&mut score(&model("cast_string_to_float"), &input, &output));
    assert_eq!((&said["scored"], &said["dead"]), (&2.into(), &1.into()));
    let letters = read_jsonl(&beside(&output, ".dead-letters.jsonl"));
    assert_eq!(letters[0]["row"], 1);
    let raw = letters[0]["raw"].as_str().unwrap();
    assert!(raw.starts_with("{\"text\":\"") && raw.len() <= 64 * 1024, "{} bytes", raw.len());
    assert!(letters[0]["cut_from"].as_u64().unwrap() > 1_200_000);
}
