//! What a run leaves behind: formats, actions, the manifest, and nothing else.

use std::fs::File;
use std::path::Path;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::Float64Type;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use scoreline::record::Digest;
use serde_json::Value;

use crate::support::{beside, fail, fixture, folder, model, read_csv, score, scoreline, succeed, summary};

fn iris(output: &Path, more: &[&str]) -> std::process::Command {
    let mut command = score(&model("iris_lr_tensor_float"), &fixture("data/iris.csv"), output);
    command.args(more);
    command
}

fn manifest(output: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(beside(output, ".manifest.json")).unwrap()).unwrap()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn read_parquet(path: &Path) -> (usize, Vec<RecordBatch>) {
    let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
    let groups = builder.metadata().num_row_groups();
    (groups, builder.build().unwrap().map(Result::unwrap).collect())
}

#[test]
fn the_manifest_names_every_file_with_its_digest() {
    let folder = folder();
    let output = folder.path().join("scored.csv");
    let said = summary(&mut iris(&output, &["--mini-batch-size", "20"]));
    let manifest = manifest(&output);
    assert_eq!(manifest["rows"]["scored"], 150);
    assert_eq!(manifest["windows"], 8);
    assert_eq!(manifest["outcome"], "finished");
    assert_eq!(manifest["parameters"]["mini_batch_size"], "20");
    let model_bytes = std::fs::read(model("iris_lr_tensor_float")).unwrap();
    assert_eq!(manifest["model"]["sha256"], Digest::of(&model_bytes).to_string());
    assert_eq!(said["model_sha256"], manifest["model"]["sha256"]);
    for file in [&manifest["files"][0], &manifest["ledger"]] {
        assert!(!file["path"].as_str().unwrap().contains('/'), "named from the manifest");
        let bytes = std::fs::read(folder.path().join(file["path"].as_str().unwrap())).unwrap();
        assert_eq!(file["sha256"], Digest::of(&bytes).to_string());
        assert_eq!(file["bytes"], bytes.len());
    }
    assert_eq!(names(folder.path()), ["scored.csv", "scored.csv.ledger.jsonl", "scored.csv.manifest.json"]);
}

#[test]
fn parquet_holds_the_same_rows_as_csv() {
    let folder = folder();
    let (csv, parquet) = (folder.path().join("scored.csv"), folder.path().join("scored.parquet"));
    succeed(&mut iris(&csv, &["--probabilities"]));
    succeed(&mut iris(&parquet, &["--probabilities", "--mini-batch-size", "20", "--row-group-rows", "50"]));
    let rows = read_csv(&csv);
    let (groups, batches) = read_parquet(&parquet);
    assert_eq!(groups, 3, "20 rows a window, groups of whole windows of at least 50 rows");
    let whole = arrow::compute::concat_batches(&batches[0].schema(), &batches).unwrap();
    let columns: Vec<String> = whole.schema().fields().iter().map(|f| f.name().clone()).collect();
    assert_eq!(columns, rows[0]);
    assert_eq!(whole.num_rows(), 150);
    let predictions = whole.column_by_name("Prediction").unwrap().as_string::<i32>().clone();
    let lengths = whole.column(0).as_primitive::<Float64Type>().clone();
    for (row, cells) in rows[1..].iter().enumerate() {
        assert_eq!(predictions.value(row), cells[5]);
        assert_eq!(lengths.value(row).to_string().parse::<f64>(), cells[0].parse::<f64>());
    }
    assert_eq!(whole.column(4).null_count(), 0);
}

#[test]
fn parts_together_are_the_one_file() {
    let folder = folder();
    let (whole, parts) = (folder.path().join("whole.csv"), folder.path().join("parts"));
    succeed(&mut iris(&whole, &[]));
    let cut = ["--output-action", "parts", "--part-rows", "40", "--mini-batch-size", "20", "--format", "csv"];
    succeed(&mut iris(&parts, &cut));
    let mut joined = vec![read_csv(&whole)[0].clone()];
    let names = names(&parts);
    assert_eq!(names.len(), 4, "{names:?}");
    for name in &names {
        joined.extend(read_csv(&parts.join(name)).into_iter().skip(1));
    }
    assert_eq!(joined, read_csv(&whole));
    assert_eq!(manifest(&parts)["files"].as_array().unwrap().len(), 4);
    succeed(scoreline().args(["ledger", "show", "--summary"]).arg(&parts));
}

#[test]
fn summary_only_writes_no_rows_and_still_checks_them() {
    let folder = folder();
    let output = folder.path().join("scored.csv");
    let said = summary(&mut iris(&output, &["--output-action", "summary_only"]));
    assert_eq!((&said["scored"], &said["files"]), (&150.into(), &Value::Array(Vec::new())));
    assert_eq!(names(folder.path()), ["scored.csv.ledger.jsonl", "scored.csv.manifest.json"]);
}

#[test]
fn what_exists_is_not_overwritten_unasked() {
    let folder = folder();
    let output = folder.path().join("scored.csv");
    std::fs::write(&output, "precious").unwrap();
    let said = fail(&mut iris(&output, &[]), 1);
    assert!(said.contains("scored.csv exists") && said.contains("--overwrite"), "{said}");
    assert_eq!(std::fs::read_to_string(&output).unwrap(), "precious");
    succeed(&mut iris(&output, &["--overwrite"]));
    assert_eq!(read_csv(&output).len(), 151);
}

#[test]
fn the_same_command_again_has_nothing_to_do() {
    let folder = folder();
    let output = folder.path().join("scored.csv");
    let first = summary(&mut iris(&output, &[]));
    let again = summary(&mut iris(&output, &[]));
    assert_eq!((&first["ended_before"], &again["ended_before"]), (&false.into(), &true.into()));
    assert_eq!((&first["run"], &first["files"]), (&again["run"], &again["files"]));
    let said = fail(&mut iris(&output, &["--probabilities"]), 1);
    assert!(said.contains("exists"), "{said}");
    std::fs::write(&output, "altered").unwrap();
    let said = fail(&mut iris(&output, &[]), 1);
    assert!(said.contains("exists"), "{said}");
}

#[test]
fn a_failed_run_publishes_no_rows_and_stands_in_no_way() {
    let folder = folder();
    let (rows, output) = (folder.path().join("rows.csv"), folder.path().join("scored.csv"));
    let good = "a,b,c,d\n5.1,3.5,1.4,0.2\n6.2,2.9,4.3,1.3\n6.0,2.9,4.5,1.5\n";
    std::fs::write(&rows, format!("{good}x,1,1,1\ny,1,1,1\n")).unwrap();
    let command = |more: &[&str]| {
        let mut command = score(&model("iris_lr_tensor_float"), &rows, &output);
        command.args(more);
        command
    };
    let said = fail(&mut command(&["--error-threshold", "1"]), 3);
    assert!(said.contains("2 rows failed") && said.contains("line 5"), "{said}");
    assert!(!output.exists());
    assert_eq!(manifest(&output)["outcome"], "failed");
    assert_eq!(names(folder.path()).len(), 4, "rows, dead letters, ledger, manifest");
    let ended = summary(&mut command(&["--error-threshold", "2"]));
    assert_eq!((&ended["scored"], &ended["dead"]), (&3.into(), &2.into()));
    assert_eq!(read_csv(&output).len(), 4);
}

#[test]
fn formulas_are_disarmed_only_where_asked() {
    let folder = folder();
    let rows = folder.path().join("rows.csv");
    std::fs::write(&rows, "a,b,c,d,note\n-5.1,3.5,1.4,0.2,=1+1\n6.2,2.9,4.3,1.3,plain\n").unwrap();
    let run = |name: &str, more: &[&str]| {
        let output = folder.path().join(name);
        succeed(score(&model("iris_lr_tensor_float"), &rows, &output).args(more));
        read_csv(&output)[1].clone()
    };
    assert_eq!(run("plain.csv", &[])[4], "=1+1");
    let escaped = run("escaped.csv", &["--escape-formulas"]);
    assert_eq!((escaped[0].as_str(), escaped[4].as_str()), ("-5.1", "'=1+1"));
}

#[test]
fn the_log_gives_its_disk_back_and_stays_within_its_quota() {
    let folder = folder();
    let demo = folder.path().join("demo");
    let rows = demo.join("rows.csv");
    succeed(scoreline().args(["demo", "--prepare", "--rows", "3000000", "--folder"]).arg(&demo));
    let output = folder.path().join("scored.csv");
    let mut command = score(&model("iris_lr_tensor_float"), &rows, &output);
    let said = summary(command.args(["--log-quota", "64MB"]));
    let (peak, written) = (said["log_peak_bytes"].as_u64().unwrap(), said["log_written_bytes"].as_u64().unwrap());
    assert!(peak <= 64 << 20, "{peak} bytes at most");
    assert!(peak > 0 && written >= peak, "{written} bytes written");
    assert_eq!(names(folder.path()), ["demo", "scored.csv", "scored.csv.ledger.jsonl", "scored.csv.manifest.json"]);
    let said = fail(score(&model("iris_lr_tensor_float"), &rows, &output).args(["--log-quota", "1MB"]), 2);
    assert!(said.contains("at least 64MB"), "{said}");
}

/// Rows of text that does not compress, so that the log fills before a part of many rows is full.
fn write_long_rows(path: &Path, rows: u64) {
    let mut text = String::from("a,b,c,d,note\n");
    let mut state = 1_u64;
    for _ in 0..rows {
        text.push_str("5.1,3.5,1.4,0.2,");
        for _ in 0..20 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            text.extend((0..10).map(|byte| char::from(b'a' + ((state >> (8 + byte * 5)) % 26) as u8)));
        }
        text.push('\n');
    }
    std::fs::write(path, text).unwrap();
}

#[test]
fn parts_and_row_groups_end_before_the_log_is_full() {
    let folder = folder();
    let rows = folder.path().join("rows.csv");
    write_long_rows(&rows, 400_000);
    let quota = ["--log-quota", "64MB"];
    let parquet = folder.path().join("scored.parquet");
    let said = summary(score(&model("iris_lr_tensor_float"), &rows, &parquet).args(quota));
    assert_eq!(said["scored"], 400_000);
    assert!(read_parquet(&parquet).0 > 1);
    let parts = folder.path().join("parts");
    let mut command = score(&model("iris_lr_tensor_float"), &rows, &parts);
    let said = summary(command.args(quota).args(["--output-action", "parts"]));
    assert_eq!(said["scored"], 400_000);
    assert!(said["files"].as_array().unwrap().len() > 1);
}

#[test]
fn parts_that_are_replaced_leave_no_old_ones() {
    let folder = folder();
    let parts = folder.path().join("parts");
    let cut = |rows| ["--output-action", "parts", "--mini-batch-size", "10", "--part-rows", rows, "--overwrite"];
    succeed(&mut iris(&parts, &cut("20")));
    std::fs::write(parts.join("mine.txt"), "mine").unwrap();
    succeed(&mut iris(&parts, &cut("50")));
    let names = names(&parts);
    assert_eq!(names.len(), 4, "{names:?}");
    assert!(names.contains(&"mine.txt".to_owned()));
}

#[test]
fn what_a_run_published_can_be_moved_and_is_checked() {
    let folder = folder();
    let (there, moved) = (folder.path().join("there"), folder.path().join("moved"));
    std::fs::create_dir(&there).unwrap();
    succeed(&mut iris(&there.join("scored.csv"), &[]));
    std::fs::rename(&there, &moved).unwrap();
    let output = moved.join("scored.csv");
    succeed(scoreline().args(["ledger", "show", "--summary"]).arg(&output));
    let mut bytes = std::fs::read(&output).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&output, bytes).unwrap();
    let said = fail(scoreline().args(["ledger", "show", "--summary"]).arg(&output), 1);
    assert!(said.contains("scored.csv is not what its run published"), "{said}");
}
