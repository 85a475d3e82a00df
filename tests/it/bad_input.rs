//! Bad input, bad models, bad places and bad settings: each is told in words that name it and say what mends it, and
//! nothing is left in the way of the corrected command.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use prost::Message as _;
use scoreline::score::graph::onnx;
use serde_json::{Value, json};

use crate::support::{beside, fail, fixture, folder, model, read_csv, read_jsonl, score, scoreline, succeed, summary};

const IRIS: &str = "iris_lr_tensor_float";
const HEADER: &str = "sepal_length,sepal_width,petal_length,petal_width";

#[track_caller]
fn assert_says(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "{part:?} is not said:\n{said}");
    }
}

/// What lies in a folder, by name.
fn names(folder: &Path) -> BTreeSet<OsString> {
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect()
}

/// Expects a refusal that says all `parts`, that leaves nothing behind, and after which the corrected command, with
/// the same output, works.
#[track_caller]
fn refused(folder: &Path, model_file: &Path, input: &Path, code: i32, parts: &[&str]) {
    let output = folder.join("scored.csv");
    let before = names(folder);
    let said = fail(&mut score(model_file, input, &output), code);
    assert_says(&said, parts);
    assert_eq!(said.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{said}");
    assert_eq!(names(folder), before, "something is left behind:\n{said}");
    succeed(score(&model(IRIS), &fixture("data/iris.csv"), &output).arg("--quiet"));
    assert_eq!(read_csv(&output).len(), 151);
    for name in names(folder).difference(&before) {
        std::fs::remove_file(folder.join(name)).unwrap();
    }
}

/// Expects an input with this content to be refused.
#[track_caller]
fn input_refused(name: &str, content: &[u8], parts: &[&str]) {
    let folder = folder();
    let input = folder.path().join(name);
    std::fs::write(&input, content).unwrap();
    let parts: Vec<&str> = parts.iter().copied().chain([input.to_str().unwrap()]).collect();
    refused(folder.path(), &model(IRIS), &input, 1, &parts);
}

/// Scores an input with this content to the end; answers the summary, the output's rows and the dead letters.
#[track_caller]
fn scored(model_name: &str, content: &[u8], more: &[&str]) -> (Value, Vec<Vec<String>>, Vec<Value>) {
    let folder = folder();
    let (input, output) = (folder.path().join("rows.csv"), folder.path().join("scored.csv"));
    std::fs::write(&input, content).unwrap();
    let told = summary(score(&model(model_name), &input, &output).args(more));
    let dead = beside(&output, ".dead-letters.jsonl");
    let dead = if dead.exists() { read_jsonl(&dead) } else { Vec::new() };
    succeed(scoreline().args(["ledger", "show", "--summary"]).arg(&output));
    (told, read_csv(&output), dead)
}

// --- Inputs -----------------------------------------------------------------------------------------------------------

#[test]
fn an_empty_file_is_refused() {
    input_refused("rows.csv", b"", &["it is empty: not even a header is there"]);
    input_refused("rows.csv", b"\n\n", &["it is empty"]);
    input_refused("rows.jsonl", b"", &["it is empty"]);
}

#[test]
fn a_header_alone_gives_a_header() {
    for end in ["", "\n", "\r\n", "\n\n"] {
        let (told, rows, dead) = scored(IRIS, format!("{HEADER}{end}").as_bytes(), &["--probabilities"]);
        assert_eq!((&told["rows"], &told["windows"], &told["outcome"]), (&json!(0), &json!(0), &json!("finished")));
        assert_eq!(rows.len(), 1);
        assert_eq!(
            rows[0][4..],
            ["Prediction", "Probability_setosa", "Probability_versicolor", "Probability_virginica"]
        );
        assert!(dead.is_empty());
    }
}

#[test]
fn ragged_rows_are_dead_and_the_others_scored() {
    let text = format!("{HEADER}\n1,2,3,4\n1,2,3\n1,2,3,4,5\n\n1\n4,3,2,1");
    let (told, rows, dead) = scored(IRIS, text.as_bytes(), &[]);
    assert_eq!((&told["rows"], &told["scored"], rows.len()), (&json!(5), &json!(2), 3));
    let found: Vec<_> = dead.iter().map(|l| json!([l["line"], l["row"], l["raw"], l["reason"]])).collect();
    let wanted = [
        json!([3, 1, "1,2,3", "the row has 3 fields, 4 expected"]),
        json!([4, 2, "1,2,3,4,5", "the row has 5 fields, 4 expected"]),
        json!([6, 3, "1", "the row has 1 field, 4 expected"]),
    ];
    assert_eq!(found, wanted);
}

#[test]
fn utf_16_is_refused_with_how_to_convert_it() {
    let text = format!("{HEADER}\n1,2,3,4\n");
    for (mark, is_little) in [(true, true), (true, false), (false, true), (false, false)] {
        let units = mark.then_some(0xfeff).into_iter().chain(text.encode_utf16());
        let bytes = |unit: u16| if is_little { unit.to_le_bytes() } else { unit.to_be_bytes() };
        let content: Vec<u8> = units.flat_map(bytes).collect();
        input_refused("rows.csv", &content, &["UTF-16", "iconv -f utf-16"]);
        input_refused("rows.jsonl", &content, &["UTF-16", "iconv -f utf-16"]);
    }
}

#[test]
fn a_row_in_latin_1_is_dead_and_a_header_in_it_refused() {
    let text = format!("{HEADER},note\n1,2,3,4,a\n1,2,3,4,caf\u{e9}\n4,3,2,1,b\n");
    let latin: Vec<u8> = text.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect();
    let (_, rows, dead) = scored(IRIS, &latin, &[]);
    assert_eq!((rows.len(), dead.len()), (3, 1));
    assert_eq!((&dead[0]["line"], &dead[0]["reason"]), (&json!(3), &json!("the row is not UTF-8 text")));
    assert_eq!(dead[0]["raw_hex"], "312c322c332c342c636166e9");
    input_refused("rows.csv", b"a,b,c,gr\xfc\xdfe\n1,2,3,4\n", &["its header is not UTF-8 text", "iconv -t utf-8"]);
}

/// Waits for a child's end; answers the most memory that it had resident, in KB, where the system tells that.
fn peak_kb(child: &mut Child) -> Option<u64> {
    let status = format!("/proc/{}/status", child.id());
    let mut peak = None;
    while child.try_wait().unwrap().is_none() {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        peak = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).or(peak);
        std::thread::sleep(Duration::from_millis(2));
    }
    peak
}

#[test]
fn a_line_of_100_mb_is_dead_and_takes_little_memory() {
    const LONG: usize = 100_000_000;
    let folder = folder();
    for (number, (before, behind)) in [("1,2,3,", ""), ("1,2,\"", ",4\""), ("\"", "")].into_iter().enumerate() {
        let (input, output) = (folder.path().join("rows.csv"), folder.path().join(format!("{number}.csv")));
        let mut file = std::fs::File::create(&input).unwrap();
        write!(file, "{HEADER}\n1,2,3,4\n{before}").unwrap();
        file.write_all(&vec![b'7'; LONG]).unwrap();
        writeln!(file, "{behind}\n4,3,2,1").unwrap();
        let mut child = score(&model(IRIS), &input, &output).arg("--quiet").spawn().unwrap();
        let peak = peak_kb(&mut child);
        assert!(child.wait().unwrap().success());
        assert!(peak.is_none_or(|kb| kb < 400_000), "{peak:?} KB");
        assert_eq!(read_csv(&output).len(), 3);
        let [letter] = read_jsonl(&beside(&output, ".dead-letters.jsonl")).try_into().unwrap();
        let reason = letter["reason"].as_str().unwrap();
        assert!(
            reason.starts_with("the row has 1000000") && reason.ends_with("over the limit of 128KB a row"),
            "{reason}"
        );
        assert_eq!(letter["line"], 3);
        assert_eq!(letter["raw"].as_str().unwrap().len(), 64 * 1024);
        assert!(letter["cut_from"].as_u64().unwrap() > LONG as u64);
    }
}

#[test]
fn a_header_without_an_end_is_refused() {
    input_refused("rows.csv", &vec![b'a'; 3 << 20], &["the header, has no end within 1 MiB"]);
}

#[test]
fn a_header_that_names_a_column_twice_is_refused() {
    input_refused("rows.csv", b"a,b,a,c\n1,2,3,4\n", &["names the column \"a\" twice"]);
}

#[test]
fn inputs_that_are_not_there_are_refused() {
    let folder = folder();
    let empty = folder.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let no_file = folder.path().join("rows.csv");
    refused(folder.path(), &model(IRIS), &no_file, 1, &["cannot read", "rows.csv", "No such file"]);
    refused(folder.path(), &model(IRIS), &folder.path().join("*.csv"), 1, &["no file matches", "*.csv"]);
    refused(folder.path(), &model(IRIS), &empty, 1, &["empty: the folder holds no .csv"]);
    std::fs::write(empty.join("notes.md"), "no rows").unwrap();
    refused(folder.path(), &model(IRIS), &empty, 1, &["empty: the folder holds no .csv"]);
    refused(folder.path(), &model(IRIS), &empty.join("notes.md"), 1, &["notes.md", "--input-format"]);
}

/// The command as a user has it who may not read just anything; `None`, said loudly, where root cannot become one.
fn unprivileged(command: Command, closed: &Path) -> Option<Command> {
    if std::fs::File::open(closed).is_err() {
        return Some(command);
    }
    let as_user = |program: &std::ffi::OsStr| {
        let mut wrapped = Command::new("setpriv");
        wrapped.arg("--bounding-set=-dac_override,-dac_read_search").arg(program);
        wrapped
    };
    if !as_user("cat".as_ref()).arg(closed).output().is_ok_and(|ended| ended.status.code() == Some(1)) {
        eprintln!("SKIPPED a_file_that_may_not_be_read_is_refused: root may read anything, and there is no setpriv");
        return None;
    }
    let mut wrapped = as_user(command.get_program());
    wrapped.args(command.get_args());
    Some(wrapped)
}

#[test]
fn a_file_that_may_not_be_read_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = folder();
    let closed = |path: &Path| std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o000)).unwrap();
    let output = folder.path().join("scored.csv");
    let iris = fixture("data/iris.csv");
    for name in ["iris.csv", "iris.parquet", "iris.arrow", "model.onnx"] {
        let input = folder.path().join(name);
        std::fs::copy(&iris, &input).unwrap();
        closed(&input);
        let command =
            if name == "model.onnx" { score(&input, &iris, &output) } else { score(&model(IRIS), &input, &output) };
        let Some(mut command) = unprivileged(command, &input) else { return };
        assert_says(&fail(&mut command, 1), &["cannot read", name, "Permission denied"]);
        std::fs::remove_file(&input).unwrap();
    }
    let place = folder.path().join("closed");
    std::fs::create_dir(&place).unwrap();
    let probe = folder.path().join("probe");
    std::fs::write(&probe, "").unwrap();
    closed(&probe);
    std::fs::set_permissions(&place, std::fs::Permissions::from_mode(0o500)).unwrap();
    let command = score(&model(IRIS), &iris, &place.join("scored.csv"));
    let Some(mut command) = unprivileged(command, &probe) else { return };
    assert_says(&fail(&mut command, 1), &["closed", "Permission denied"]);
    assert!(names(&place).is_empty());
}

#[test]
fn files_that_are_cut_off_are_refused() {
    for name in ["iris.parquet", "iris.csv.gz", "iris.csv.zst", "iris.arrow", "iris.arrows"] {
        let whole = std::fs::read(fixture(&format!("data/{name}"))).unwrap();
        // The stream's first half holds whole rows already: it is found out later, below.
        let lengths = if name == "iris.arrows" { vec![100] } else { vec![whole.len() / 2, whole.len() - 1] };
        for length in lengths {
            input_refused(name, &whole[..length], &["it is damaged or cut off", "copy it or write it anew"]);
        }
        if name == "iris.parquet" {
            input_refused(name, b"", &["it is not a Parquet file"]);
            input_refused(name, &std::fs::read(fixture("data/iris.csv")).unwrap(), &["it is not a Parquet file"]);
        }
    }
}

#[test]
fn a_file_that_is_found_cut_off_in_its_middle_does_not_hold_up_the_whole_one() {
    let folder = folder();
    let (input, output) = (folder.path().join("iris.arrows"), folder.path().join("scored.csv"));
    let whole = std::fs::read(fixture("data/iris.arrows")).unwrap();
    std::fs::write(&input, &whole[..whole.len() / 2]).unwrap();
    let said = fail(&mut score(&model(IRIS), &input, &output), 1);
    assert_says(&said, &["iris.arrows: it is damaged or cut off", "copy it or write it anew"]);
    assert!(!output.exists());
    std::fs::write(&input, &whole).unwrap();
    let again = score(&model(IRIS), &input, &output).output().unwrap();
    if !again.status.success() {
        // The run had begun with the damaged file; the message says how to give it up.
        let said = String::from_utf8_lossy(&again.stderr).into_owned();
        assert_says(&said, &["iris.arrows changed", "--restart"]);
        succeed(score(&model(IRIS), &input, &output).args(["--quiet", "--restart"]));
    }
    assert_eq!(read_csv(&output).len(), 151);
}

#[test]
fn numbers_that_are_none_and_infinities_are_scored_and_written() {
    let text = format!("{HEADER}\nNaN,1,2,3\ninf,1,2,3\n-inf,1,2,3\n,,,\n");
    let (told, rows, _) = scored("rank3_input", text.as_bytes(), &[]);
    assert_eq!((&told["scored"], &told["dead"]), (&json!(4), &json!(0)));
    let cells = |column: usize| rows[1..].iter().map(|row| row[column].clone()).collect::<Vec<_>>();
    assert_eq!(cells(0), ["NaN", "inf", "-inf", ""]);
    assert_eq!(cells(4), ["NaN", "-inf", "inf", "NaN"]);
}

// --- Models -----------------------------------------------------------------------------------------------------------

#[test]
fn broken_models_are_refused() {
    let folder = folder();
    for (name, parts) in [
        ("custom_op", ["operator \"Mystery\" of domain \"com.example.custom\"", "standard operators"]),
        ("unknown_domain", ["operator \"Mystery\" of domain \"org.example.unknown\"", "standard operators"]),
        ("external_data", ["tensor \"weights\" lies in a file of its own", "save the model as one file"]),
        ("huge_dims", ["tensor \"weights\" claims [1099511627776, 1048576] elements", "does not hold them"]),
        ("empty", ["the file is empty", ""]),
        ("truncated", ["the file is damaged, or is not ONNX", ""]),
        ("garbage", ["the file is damaged, or is not ONNX", ""]),
        ("no_outputs", ["has no outputs", ""]),
    ] {
        let parts: Vec<_> = parts.into_iter().chain([name]).collect();
        refused(folder.path(), &model(name), &fixture("data/iris.csv"), 1, &parts);
        let said = fail(scoreline().args(["model", "inspect"]).arg(model(name)), 1);
        assert_says(&said, &parts);
    }
}

/// The Iris model with something changed, written into `folder`.
fn changed_model(folder: &Path, change: impl FnOnce(&mut onnx::GraphProto)) -> PathBuf {
    let bytes = std::fs::read(model(IRIS)).unwrap();
    let mut changed = onnx::ModelProto::decode(bytes.as_slice()).unwrap();
    change(changed.graph.as_mut().unwrap());
    let path = folder.join("changed.onnx");
    std::fs::write(&path, changed.encode_to_vec()).unwrap();
    path
}

#[test]
fn a_model_with_a_fixed_number_of_rows_is_refused() {
    use onnx::tensor_shape_proto::dimension::Value;
    let folder = folder();
    let changed = changed_model(folder.path(), |graph| {
        let input = graph.input[0].r#type.as_mut().unwrap().value.as_mut().unwrap();
        let onnx::type_proto::Value::TensorType(tensor) = input else { panic!("no tensor") };
        tensor.shape.as_mut().unwrap().dim[0].value = Some(Value::DimValue(1));
    });
    let parts = ["changed.onnx: its input \"X\" takes exactly 1 rows a call", "dynamic first dimension"];
    refused(folder.path(), &changed, &fixture("data/iris.csv"), 1, &parts);
}

type Change<'a> = Box<dyn FnOnce(&mut onnx::GraphProto) + 'a>;

#[test]
fn external_data_is_refused_wherever_it_hides() {
    let folder = folder();
    let location = |key: &str, value: &str| onnx::StringStringEntryProto {
        key: Some(key.to_owned()),
        value: Some(value.to_owned()),
    };
    let outside = onnx::TensorProto {
        name: Some("outside".to_owned()),
        data_type: Some(onnx::tensor_proto::DataType::Float as i32),
        dims: vec![2],
        data_location: Some(onnx::tensor_proto::DataLocation::External as i32),
        external_data: vec![location("location", "../secret.bin")],
        ..onnx::TensorProto::default()
    };
    let sparse = || onnx::SparseTensorProto { values: Some(outside.clone()), indices: None, dims: vec![4] };
    let attribute = |attribute: onnx::AttributeProto| onnx::NodeProto {
        op_type: Some("Constant".to_owned()),
        output: vec!["constant".to_owned()],
        attribute: vec![attribute],
        ..onnx::NodeProto::default()
    };
    let plain = onnx::AttributeProto::default;
    let changes: [Change<'_>; 4] = [
        Box::new(|graph| graph.sparse_initializer.push(sparse())),
        Box::new(|graph| graph.node.push(attribute(onnx::AttributeProto { t: Some(outside.clone()), ..plain() }))),
        Box::new(|graph| {
            graph.node.push(attribute(onnx::AttributeProto { sparse_tensor: Some(sparse()), ..plain() }));
        }),
        Box::new(|graph| {
            let inner = onnx::GraphProto { initializer: vec![outside.clone()], ..onnx::GraphProto::default() };
            graph.node.push(attribute(onnx::AttributeProto { g: Some(inner), ..plain() }));
        }),
    ];
    for change in changes {
        let changed = changed_model(folder.path(), change);
        let parts = ["tensor \"outside\" lies in a file of its own", "save the model as one file"];
        refused(folder.path(), &changed, &fixture("data/iris.csv"), 1, &parts);
    }
}

#[test]
fn a_model_that_is_no_file_is_refused() {
    let folder = folder();
    let iris = fixture("data/iris.csv");
    refused(folder.path(), folder.path(), &iris, 1, &["it is a folder; name the .onnx file"]);
    refused(folder.path(), &folder.path().join("no.onnx"), &iris, 1, &["no.onnx: cannot read it", "No such file"]);
    refused(folder.path(), &iris, &iris, 1, &["iris.csv: the file is damaged, or is not ONNX"]);
}

// --- Outputs ----------------------------------------------------------------------------------------------------------

#[test]
fn outputs_that_cannot_be_are_refused() {
    let folder = folder();
    let iris = fixture("data/iris.csv");
    let nowhere = folder.path().join("nowhere");
    let to = |output: &Path, code| fail(&mut score(&model(IRIS), &iris, output), code);
    assert_says(&to(&nowhere.join("scored.csv"), 1), &["nowhere of --output does not exist; create it first"]);
    assert_says(&to(folder.path(), 1), &["is a folder; name a file"]);
    assert_says(&to(&nowhere.join(""), 2), &["nowhere/\" names a folder; name a file"]);
    assert!(names(folder.path()).is_empty(), "something is left behind");
    std::fs::create_dir(&nowhere).unwrap();
    succeed(score(&model(IRIS), &iris, &nowhere.join("scored.csv")).arg("--quiet"));
}

#[test]
fn an_output_that_exists_is_not_overwritten_unasked() {
    let folder = folder();
    let (output, iris) = (folder.path().join("scored.csv"), fixture("data/iris.csv"));
    for suffix in ["", ".manifest.json", ".ledger.jsonl", ".dead-letters.jsonl"] {
        let old = beside(&output, suffix);
        std::fs::write(&old, "old").unwrap();
        let said = fail(&mut score(&model(IRIS), &iris, &output), 1);
        assert_says(&said, &[&format!("scored.csv{suffix} exists"), "--overwrite"]);
        assert_eq!(std::fs::read(&old).unwrap(), b"old");
        assert_eq!(names(folder.path()).len(), 1, "something is left behind");
        succeed(score(&model(IRIS), &iris, &output).args(["--quiet", "--overwrite"]));
        assert_eq!(read_csv(&output).len(), 151);
        for name in names(folder.path()) {
            assert_ne!(std::fs::read(folder.path().join(&name)).unwrap(), b"old", "{name:?}");
            std::fs::remove_file(folder.path().join(&name)).unwrap();
        }
    }
}

#[test]
fn the_same_command_again_has_nothing_to_do() {
    let folder = folder();
    let (output, iris) = (folder.path().join("scored.csv"), fixture("data/iris.csv"));
    let first = summary(&mut score(&model(IRIS), &iris, &output));
    let again = summary(&mut score(&model(IRIS), &iris, &output));
    assert_eq!((&first["ended_before"], &again["ended_before"]), (&json!(false), &json!(true)));
    assert_eq!(first["run"], again["run"]);
    // Another command to the same place is refused.
    let said = fail(score(&model(IRIS), &iris, &output).arg("--probabilities"), 1);
    assert_says(&said, &["scored.csv exists", "--overwrite"]);
}

/// Rows enough for an output of some megabytes.
fn write_many(path: &Path) {
    let mut text = format!("{HEADER},note\n");
    for row in 0..100_000_u32 {
        let cell = |n: u32| f64::from(n) / 10.0;
        let _ =
            writeln!(text, "{},{},{},{},note {row}", cell(row % 80), cell(row % 30), cell(row % 70), cell(row % 20));
    }
    std::fs::write(path, text).unwrap();
}

/// The shell, in a mount namespace of its own; `None`, said loudly, where this user cannot have one.
fn with_mounts() -> Option<Vec<&'static str>> {
    for shell in [vec!["unshare", "-m", "sh", "-c"], vec!["unshare", "-rm", "sh", "-c"]] {
        let folder = folder();
        let mut mount = Command::new(shell[0]);
        mount.args(&shell[1..]).arg("mount -t tmpfs -o size=1m none \"$0\"").arg(folder.path());
        if mount.output().is_ok_and(|output| output.status.success()) {
            return Some(shell);
        }
    }
    let is_ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
    assert!(!is_ci, "the disk cannot be filled here: neither unshare -m nor unshare -rm can mount");
    eprintln!("SKIPPED a_full_disk...: neither unshare -m nor unshare -rm can mount here");
    None
}

#[test]
fn a_full_disk_is_told_and_the_same_command_goes_on_when_there_is_space() {
    const SCRIPT: &str = r#"
        set -u
        mount -t tmpfs -o size="$1" none "$2" || exit 10
        folder=$2 said=$3 expected=$4
        shift 4
        "$@" >"$said.out" 2>"$said" && exit 11
        test -e "$folder/scored.csv" && exit 12
        mount -o remount,size=300m "$folder" || exit 13
        "$@" >"$said.out" 2>"$said.again" || exit 14
        cmp "$folder/scored.csv" "$expected" || exit 15
        test "$(ls "$folder" | wc -l)" -eq 3 || exit 16
    "#;
    let Some(shell) = with_mounts() else { return };
    let folder = folder();
    let (rows, disk) = (folder.path().join("rows.csv"), folder.path().join("disk"));
    let (expected, said) = (folder.path().join("expected.csv"), folder.path().join("said"));
    std::fs::create_dir(&disk).unwrap();
    write_many(&rows);
    let more = ["--mini-batch-size", "64KB", "--json"];
    succeed(score(&model(IRIS), &rows, &expected).args(more));
    let (mut log, mut staging, mut resumed) = (0, 0, 0);
    // From a disk that does not hold the first record to one that lacks the last rows.
    for size in ["8k", "64k", "1m", "2m", "4m", "5m"] {
        let command = score(&model(IRIS), &rows, &disk.join("scored.csv"));
        let mut script = Command::new(shell[0]);
        script.args(&shell[1..]).arg(SCRIPT).arg("sh").arg(size).arg(&disk).arg(&said).arg(&expected);
        let ended = script.arg(command.get_program()).args(command.get_args()).args(more).output().unwrap();
        let first = std::fs::read_to_string(&said).unwrap_or_default();
        let again = std::fs::read_to_string(folder.path().join("said.again")).unwrap_or_default();
        assert!(ended.status.success(), "{size}: {:?}\n{first}\n{again}", ended.status);
        assert_says(&first, &["no space left for", "free some", "scored.csv.scoreline"]);
        log += u32::from(first.contains("no space left for the log in"));
        staging += u32::from(first.contains("staging"));
        let told: Value = serde_json::from_slice(&std::fs::read(folder.path().join("said.out")).unwrap()).unwrap();
        resumed += u32::from(told["resumed"] == true);
    }
    assert!(log > 0 && staging > 0 && resumed > 0, "{log} times the log, {staging} times the rows, {resumed} resumed");
}

/// A child that is ended with the test, however the test ends.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_second_process_on_one_output_is_refused_with_the_first_ones_id() {
    let folder = folder();
    let (input, output) = (folder.path().join("rows.csv"), folder.path().join("scored.csv"));
    // The model takes hours with this row.
    std::fs::write(&input, "x\n1e12\n").unwrap();
    let command = || score(&model("slow_loop"), &input, &output);
    let first = Ended(command().arg("--quiet").spawn().unwrap());
    let lock = beside(&output, ".scoreline").join("log/LOCK");
    let begun = Instant::now();
    while std::fs::read_to_string(&lock).unwrap_or_default().trim().is_empty() {
        assert!(begun.elapsed() < Duration::from_mins(1), "the first process does not begin");
        std::thread::sleep(Duration::from_millis(5));
    }
    for more in [&[][..], &["--overwrite"], &["--restart"]] {
        let said = fail(command().args(more), 1);
        assert_says(&said, &["in use by process", &first.0.id().to_string(), "wait until it has ended"]);
    }
    drop(first);
    std::fs::write(&input, "x\n1\n").unwrap();
    succeed(command().args(["--quiet", "--restart"]));
    assert_eq!(read_csv(&output)[1..], [["1", "2.0"]]);
}

// --- Settings ---------------------------------------------------------------------------------------------------------

/// `score` on the Iris rows, to be run in `folder`.
fn in_folder(folder: &Path, more: &[&str]) -> Command {
    let mut command = score(&model(IRIS), &fixture("data/iris.csv"), &folder.join("scored.csv"));
    command.current_dir(folder).args(more);
    command
}

#[test]
fn all_faults_of_settings_are_told_at_once_with_where_they_come_from() {
    let folder = folder();
    std::fs::write(folder.path().join("bad.toml"), "mini_bach_size = 3\npartitions = \"many\"\n").unwrap();
    let mut command = in_folder(folder.path(), &["--config", "bad.toml", "--missing", "maybe"]);
    let said = fail(command.env("SCORELINE_RUN_MAX_TRI", "3").env("SCORELINE_ERROR_THRESHOLD", "few"), 2);
    let wanted = [
        "there is no setting \"mini_bach_size\" (from bad.toml); did you mean \"mini_batch_size\"?",
        "there is no setting \"run_max_tri\" (from the environment); did you mean \"run_max_try\"?",
        "partitions (from bad.toml): \"many\" is not a whole number from 1 to 1000",
        "error_threshold (from the environment): \"few\" is not a whole number",
        "missing (from the command line): \"maybe\" is none of nan, fail",
    ];
    assert_says(&said, &wanted);
    assert_eq!(names(folder.path()).len(), 1, "something is left behind");
    succeed(in_folder(folder.path(), &["--quiet"]).env("SCORELINE_RUN_MAX_TRY", "3"));
}

#[test]
fn files_of_settings_that_cannot_be_read_are_refused() {
    let folder = folder();
    let said = fail(&mut in_folder(folder.path(), &["--config", "no.toml"]), 2);
    assert_says(&said, &["no.toml", "not found"]);
    std::fs::write(folder.path().join("scoreline.toml"), "partitions = = 3\n").unwrap();
    let said = fail(&mut in_folder(folder.path(), &[]), 2);
    assert_says(&said, &["scoreline.toml", "line 1"]);
}

#[test]
fn the_layers_are_dumped_with_where_each_setting_comes_from() {
    let folder = folder();
    let file = "partitions = 3\nmissing = \"fail\"\nmap = { X = \"a,b\" }\n";
    std::fs::write(folder.path().join("scoreline.toml"), file).unwrap();
    let mut command = in_folder(folder.path(), &["--dump-config", "--missing", "nan", "--map", "Y=c"]);
    let dump = succeed(command.env("SCORELINE_RUN_MAX_TRY", "7").env("SCORELINE_PARTITIONS", "5"));
    let dump = String::from_utf8(dump.stdout).unwrap();
    let wanted = [
        "missing = \"nan\"  # the command line\n",
        "partitions = \"5\"  # the environment\n",
        "run_max_try = \"7\"  # the environment\n",
        "map = { \"X\" = \"a,b\", \"Y\" = \"c\" }  # scoreline.toml, the command line\n",
        "mini_batch_size = \"1MB\"\n",
    ];
    assert_says(&dump, &wanted);
    assert_eq!(names(folder.path()).len(), 1, "something was scored");
    // The dump is a file of settings itself.
    std::fs::write(folder.path().join("dump.toml"), &dump).unwrap();
    let again = succeed(&mut in_folder(folder.path(), &["--dump-config", "--config", "dump.toml"])).stdout;
    let plain = |dump: &str| dump.lines().map(|l| l.split("  #").next().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(plain(&String::from_utf8(again).unwrap()), plain(&dump));
}

// --- Standard input and output, JSON, quiet, completions -----------------------------------------------------------

/// Runs a command with this on its standard input.
fn fed(command: &mut Command, input: &[u8]) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        // A program that refuses its arguments does not read.
        scope.spawn(move || drop(stdin.write_all(input)));
        child.wait_with_output().unwrap()
    })
}

#[test]
fn standard_input_and_output_do_as_files_do() {
    let folder = folder();
    let output = folder.path().join("scored.csv");
    succeed(score(&model(IRIS), &fixture("data/iris.csv"), &output).arg("--quiet"));
    let wanted = std::fs::read(&output).unwrap();
    let dash = Path::new("-");
    for (data, more) in [
        ("iris.csv", &[][..]),
        ("iris.csv.gz", &[]),
        ("iris.csv.zst", &[]),
        ("iris.jsonl", &["--input-format", "jsonl"]),
    ] {
        let input = std::fs::read(fixture(&format!("data/{data}"))).unwrap();
        let ended = fed(score(&model(IRIS), dash, dash).arg("--quiet").args(more), &input);
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        assert!(ended.stdout == wanted, "{data} gives other rows");
        assert!(ended.stderr.is_empty(), "{}", String::from_utf8_lossy(&ended.stderr));
    }
    let input = std::fs::read(fixture("data/iris.csv")).unwrap();
    let ended = fed(score(&model(IRIS), dash, &output).args(["--quiet", "--overwrite"]), &input);
    assert!(ended.status.success() && std::fs::read(&output).unwrap() == wanted);
    let ended = fed(score(&model(IRIS), dash, dash).arg("--json"), &input);
    assert!(ended.stdout == wanted, "the summary must not stand among the rows");
    let told: Value = serde_json::from_slice(&ended.stderr).unwrap();
    assert_eq!((&told["rows"], &told["dead"]), (&json!(150), &json!(0)));
}

#[test]
fn dead_rows_of_standard_input_have_their_lines() {
    let folder = folder();
    let output = folder.path().join("scored.csv");
    // Behind a byte order mark and the header, over several windows.
    let input = format!("\u{feff}{HEADER}\n1,2,3,4\nbad,2,3,4\n\n1,2,3,4\n1,2,3,worse\n");
    let ended = fed(score(&model(IRIS), Path::new("-"), &output).args(["--mini-batch-size", "2"]), input.as_bytes());
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    let letters = read_jsonl(&beside(&output, ".dead-letters.jsonl"));
    let found: Vec<_> = letters.iter().map(|l| json!([l["file"], l["line"], l["row"]])).collect();
    assert_eq!(found, [json!(["-", 3, 1]), json!(["-", 6, 3])]);
}

#[test]
fn standard_input_that_cannot_be_is_refused() {
    let dash = Path::new("-");
    let said = |command: &mut Command, input: &[u8]| {
        let ended = fed(command, input);
        assert_eq!(ended.status.code(), Some(1));
        assert!(ended.stdout.is_empty());
        String::from_utf8(ended.stderr).unwrap()
    };
    assert_says(&said(&mut score(&model(IRIS), dash, dash), b""), &["-: it is empty"]);
    let parquet = std::fs::read(fixture("data/iris.parquet")).unwrap();
    let told = said(score(&model(IRIS), dash, dash).args(["--input-format", "parquet"]), &parquet);
    assert_says(&told, &["standard input", "CSV or JSON lines", "save it as a file"]);
    let told = said(score(&model(IRIS), dash, dash).arg("--input").arg(fixture("data/iris.csv")), b"");
    assert_says(&told, &["standard input (-) must be the only input"]);
}

#[test]
fn a_reader_of_standard_output_that_goes_away_is_no_error() {
    let folder = folder();
    let rows = folder.path().join("rows.csv");
    write_many(&rows);
    let mut command = score(&model(IRIS), &rows, Path::new("-"));
    let mut child = command.arg("--quiet").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let ended = child.wait_with_output().unwrap();
    assert!(ended.status.success() && ended.stderr.is_empty(), "{}", String::from_utf8_lossy(&ended.stderr));
}

#[test]
fn errors_are_one_json_object_where_that_is_said() {
    let folder = folder();
    let output = folder.path().join("scored.csv");
    let said = |command: &mut Command, code| {
        let error: Value = serde_json::from_str(&fail(command, code)).unwrap();
        assert_eq!(error["exit_code"], code);
        (error["error"].as_str().unwrap().to_owned(), error["message"].as_str().unwrap().to_owned())
    };
    let no_model = PathBuf::from("no.onnx");
    let (kind, message) = said(score(&no_model, &fixture("data/iris.csv"), &output).arg("--json"), 1);
    assert_eq!(kind, "error");
    assert_says(&message, &["model no.onnx: cannot read it"]);
    let (kind, message) = said(in_folder(folder.path(), &["--partitions", "0"]).arg("--json"), 2);
    assert_eq!(kind, "usage");
    assert_says(&message, &["partitions (from the command line): \"0\" is not a whole number"]);
    let (kind, message) = said(scoreline().args(["score", "--json", "--input", "rows.csv"]), 2);
    assert_eq!(kind, "usage");
    assert_says(&message, &["--model <FILE>", "--output <PATH>"]);
}

#[test]
fn quiet_prints_nothing() {
    let folder = folder();
    let (input, output) = (folder.path().join("rows.csv"), folder.path().join("scored.csv"));
    std::fs::write(&input, format!("{HEADER}\n1,2,3,4\nbad,2,3,4\n1,2,3,4\n")).unwrap();
    let ended = succeed(score(&model(IRIS), &input, &output).arg("--quiet"));
    assert!(ended.stdout.is_empty() && ended.stderr.is_empty(), "{}", String::from_utf8_lossy(&ended.stderr));
    let ended = succeed(&mut in_folder(folder.path(), &["--overwrite"]));
    assert!(ended.stdout.is_empty(), "the summary must not stand on standard output");
    assert_says(&String::from_utf8(ended.stderr).unwrap(), &["Finished: run", "rows in       150", "scored.csv"]);
    let said = fail(in_folder(folder.path(), &["--probabilities"]).arg("--quiet"), 1);
    assert_says(&said, &["error: ", "exists"]);
}

#[test]
fn completions_are_printed_for_each_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = String::from_utf8(succeed(scoreline().args(["completions", shell])).stdout).unwrap();
        assert_says(&script, &["scoreline", "mini-batch-size", "inspect"]);
    }
    let said = fail(scoreline().args(["completions", "command.com"]), 2);
    assert_says(&said, &["command.com", "bash", "powershell"]);
    let mut child = scoreline().args(["completions", "zsh"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success(), "a reader that goes away is an error");
}
