//! Models: each fixture answers what the library that trained it answers; columns reach its inputs however the data
//! names and orders them; `model inspect` says what is there.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{fail, fixture, folder, model, read_csv, score, scoreline, succeed};

/// What a model must answer for each row of its data file, as its library does.
struct Expected {
    data: PathBuf,
    /// Each input with the columns that feed it.
    inputs: Vec<(String, Vec<String>)>,
    classes: Vec<String>,
    labels: Option<Vec<String>>,
    values: Option<Vec<f64>>,
    probabilities: Option<Vec<Vec<f64>>>,
}

fn texts(list: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    list.as_array().unwrap().iter().map(text).collect()
}

fn numbers(list: &Value) -> Vec<f64> {
    list.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

impl Expected {
    fn read(name: &str) -> Self {
        let text = std::fs::read_to_string(fixture(&format!("expected/{name}.json"))).unwrap();
        let json: Value = serde_json::from_str(&text).unwrap();
        let input = |input: &Value| (input["name"].as_str().unwrap().to_owned(), texts(&input["columns"]));
        Self {
            data: fixture(&format!("data/{}", json["data"].as_str().unwrap())),
            inputs: json["inputs"].as_array().unwrap().iter().map(input).collect(),
            classes: json.get("classes").map(texts).unwrap_or_default(),
            labels: json.get("labels").map(texts),
            values: json.get("values").map(numbers),
            probabilities: json.get("probabilities").map(|rows| rows.as_array().unwrap().iter().map(numbers).collect()),
        }
    }

    /// `--map` for the inputs that are not called as their column.
    fn maps(&self) -> Vec<String> {
        let is_mapped = |(name, columns): &&(String, Vec<String>)| *columns != [name.clone()];
        self.inputs.iter().filter(is_mapped).map(|(name, columns)| format!("{name}={}", columns.join(","))).collect()
    }

    /// The labels; where a model has none, the place of each row's greatest probability.
    fn predictions(&self) -> Option<Vec<String>> {
        let greatest = |row: &Vec<f64>| {
            let best = (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap();
            best.to_string()
        };
        let by_place = || self.probabilities.as_ref().map(|rows| rows.iter().map(greatest).collect());
        self.labels.clone().or_else(by_place)
    }
}

/// By the measure that the fixtures were made with.
fn is_near(found: &str, wanted: f64) -> bool {
    found.parse::<f64>().is_ok_and(|found| (found - wanted).abs() <= 1e-6 + 1e-6 * wanted.abs())
}

/// A file's lines without their ends.
fn lines(path: &Path) -> Vec<String> {
    std::fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
}

/// Scores a model's data and compares each cell.
#[track_caller]
fn assert_scores_as_its_library(name: &str) {
    let expected = Expected::read(name);
    let folder = folder();
    let output = folder.path().join("scored.csv");
    let mut command = score(&model(name), &expected.data, &output);
    command.args(["--probabilities", "--quiet", "--mini-batch-size", "64"]);
    for map in expected.maps() {
        command.arg("--map").arg(map);
    }
    succeed(&mut command);

    let (data, rows) = (read_csv(&expected.data), read_csv(&output));
    let width = data[0].len();
    let mut header = data[0].clone();
    header.push("Prediction".to_owned());
    if expected.labels.is_some() {
        header.extend(expected.classes.iter().map(|class| format!("Probability_{class}")));
    }
    assert_eq!(rows[0], header);
    assert_eq!(rows.len(), data.len());
    let is_same = |a: &str, b: &str| a == b || a.parse::<f64>().is_ok_and(|a| b.parse() == Ok(a));
    for (row, source) in rows.iter().zip(&data) {
        let is_kept = if expected.data.ends_with("numbers.csv") {
            // Numbers may be written another way (1e3, -0), and must stay the same numbers.
            row.iter().zip(source).all(|(a, b)| is_same(a, b))
        } else {
            row[..width] == *source
        };
        assert!(is_kept, "{source:?} became {row:?}");
    }
    let rows = &rows[1..];
    if let Some(predictions) = expected.predictions() {
        for (place, (row, wanted)) in rows.iter().zip(&predictions).enumerate() {
            assert_eq!(row[width], *wanted, "row {place}");
        }
    }
    for (place, (row, wanted)) in rows.iter().zip(expected.values.iter().flatten()).enumerate() {
        assert!(is_near(&row[width], *wanted), "row {place} has {}, {wanted} wanted", row[width]);
    }
    if expected.labels.is_some() {
        for (place, (row, wanted)) in rows.iter().zip(expected.probabilities.iter().flatten()).enumerate() {
            for (found, wanted) in row[width + 1..].iter().zip(wanted) {
                assert!(is_near(found, *wanted), "row {place} has {found}, {wanted} wanted");
            }
        }
    }
}

macro_rules! score_as_their_libraries {
    ($($name:ident),* $(,)?) => {
        mod scores_as_its_library {
            $(#[test] fn $name() { super::assert_scores_as_its_library(stringify!($name)); })*
        }

        const SCORED: &[&str] = &[$(stringify!($name)),*];
    };
}

score_as_their_libraries! {
    cast_string_to_float, diabetes_columns, diabetes_gbr, diabetes_lgbm, diabetes_linear, diabetes_linear_double,
    digits_cnn, digits_mlp, iris_lgbm, iris_lgbm_zipmap, iris_lr_columns_float, iris_lr_int_labels,
    iris_lr_int_labels_zipmap, iris_lr_tensor_double, iris_lr_tensor_float, iris_lr_tensor_float_zipmap,
    iris_lr_zipmap_columns, iris_nn_softmax, iris_rf100_tensor_float, mixed_columns, mixed_regression_columns,
    rank3_input, slow_loop, two_tensor_inputs,
}

#[test]
fn every_model_with_known_answers_is_scored() {
    let names = std::fs::read_dir(fixture("expected")).unwrap();
    let mut names: Vec<_> =
        names.map(|e| e.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    names.sort();
    assert_eq!(names, SCORED);
}

/// The Iris rows with their columns in another order and two more, as a file in `folder`.
fn shuffled_iris(folder: &Path) -> PathBuf {
    let path = folder.join("shuffled.csv");
    let mut text = String::new();
    for (place, row) in read_csv(&fixture("data/iris.csv")).iter().enumerate() {
        let number = if place == 0 { "number".to_owned() } else { format!("{place:05}") };
        let _ = writeln!(text, "{},{},{number},{},{},{}", row[3], row[1], row[4], row[0], row[2]);
    }
    std::fs::write(&path, text).unwrap();
    path
}

/// The last `count` cells of each row.
fn last(path: &Path, count: usize) -> Vec<Vec<String>> {
    read_csv(path).into_iter().map(|row| row[row.len() - count..].to_vec()).collect()
}

#[test]
fn columns_are_found_by_name_in_any_order() {
    let folder = folder();
    let rows = shuffled_iris(folder.path());
    let (plain, shuffled) = (folder.path().join("plain.csv"), folder.path().join("out.csv"));
    let name = model("iris_lr_columns_float");
    succeed(score(&name, &fixture("data/iris.csv"), &plain).args(["--probabilities", "--quiet"]));
    succeed(score(&name, &rows, &shuffled).args(["--probabilities", "--quiet"]));
    assert_eq!(last(&plain, 4), last(&shuffled, 4));
    for (line, source) in lines(&shuffled).iter().zip(lines(&rows)) {
        assert!(line.starts_with(&format!("{source},")), "{source:?} became {line:?}");
    }
}

#[test]
fn a_map_names_the_columns_of_a_tensor_in_order() {
    let folder = folder();
    let rows = shuffled_iris(folder.path());
    let (plain, mapped) = (folder.path().join("plain.csv"), folder.path().join("out.csv"));
    let name = model("iris_lr_tensor_float");
    succeed(score(&name, &fixture("data/iris.csv"), &plain).args(["--probabilities", "--quiet"]));
    let map = "X=sepal_length, sepal_width,petal_length,petal_width";
    succeed(score(&name, &rows, &mapped).args(["--probabilities", "--quiet", "--map", map]));
    assert_eq!(last(&plain, 4), last(&mapped, 4));
    // Another order is another question.
    let other = folder.path().join("other.csv");
    let map = "X=petal_width,sepal_width,petal_length,sepal_length";
    succeed(score(&name, &rows, &other).args(["--probabilities", "--quiet", "--map", map]));
    assert_ne!(last(&plain, 4), last(&other, 4));
}

#[test]
fn a_single_tensor_takes_the_columns_of_numbers_in_the_order_of_the_data() {
    let folder = folder();
    let (by_order, mapped) = (folder.path().join("by-order.csv"), folder.path().join("mapped.csv"));
    let (name, rows) = (model("iris_lr_tensor_float"), fixture("data/iris.csv"));
    succeed(score(&name, &rows, &by_order).arg("--quiet"));
    let map = "X=sepal_length,sepal_width,petal_length,petal_width";
    succeed(score(&name, &rows, &mapped).args(["--quiet", "--map", map]));
    assert_eq!(std::fs::read(&by_order).unwrap(), std::fs::read(&mapped).unwrap());
}

/// What the program says where the data does not fit the model.
#[track_caller]
fn refused(name: &str, text: &str, more: &[&str]) -> String {
    let folder = folder();
    let (rows, output) = (folder.path().join("rows.csv"), folder.path().join("scored.csv"));
    std::fs::write(&rows, text).unwrap();
    let said = fail(score(&model(name), &rows, &output).args(more), 1);
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["rows.csv"], "something is left behind");
    said
}

#[track_caller]
fn assert_says(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "{part:?} is not said:\n{said}");
    }
}

#[test]
fn a_missing_column_is_told_with_all_that_is_wanted_and_there() {
    let said = refused("iris_lr_columns_float", "Sepal.Length,sepal_width,petal_lenght,colour\n1,2,3,red\n", &[]);
    assert_says(
        &said,
        &[
            "no column is called \"sepal_length\" (nearest: \"Sepal.Length\"; --map sepal_length=Sepal.Length takes it)",
            "no column is called \"petal_length\" (nearest: \"petal_lenght\"",
            "no column is called \"petal_width\"",
            "the model wants: sepal_length (float), sepal_width (float), petal_length (float), petal_width (float)",
            "the data has: Sepal.Length (int64), sepal_width",
            "colour (text)",
        ],
    );
    assert!(!said.contains("no column is called \"sepal_width\""), "{said}");
}

#[test]
fn what_the_message_proposes_works() {
    let folder = folder();
    let (rows, output) = (folder.path().join("rows.csv"), folder.path().join("scored.csv"));
    let text = std::fs::read_to_string(fixture("data/iris.csv")).unwrap();
    std::fs::write(&rows, text.replacen("sepal_length", "Sepal.Length", 1)).unwrap();
    let said = fail(&mut score(&model("iris_lr_columns_float"), &rows, &output), 1);
    assert_says(&said, &["--map sepal_length=Sepal.Length"]);
    succeed(score(&model("iris_lr_columns_float"), &rows, &output).args(["--map", "sepal_length=Sepal.Length"]));
    assert_eq!(read_csv(&output).len(), 151);
}

#[test]
fn a_column_of_another_type_is_told() {
    let text = "sepal_length,sepal_width,petal_length,petal_width\n1,2,3,narrow\n4,5,6,wide\n";
    let said = refused("iris_lr_columns_float", text, &[]);
    assert_says(
        &said,
        &[
            "column \"petal_width\" holds text, input \"petal_width\" takes float",
            "the model wants: sepal_length (float)",
            "the data has: sepal_length",
            "petal_width (text)",
        ],
    );
}

#[test]
fn columns_in_order_must_be_as_many_as_the_tensor_takes() {
    let said = refused("iris_lr_tensor_float", "a,b,c\n1,2,3\n", &[]);
    assert_says(&said, &["input \"X\" takes 4 columns in order, the data has 3 that fit", "--map X=COLUMN,COLUMN"]);
    let said = refused("iris_lr_tensor_float", "a,b,c,d,e\n1,2,3,4,5\n", &[]);
    assert_says(&said, &["input \"X\" takes 4 columns in order, the data has 5 that fit", "--map X=COLUMN,COLUMN"]);
}

#[test]
fn a_map_that_cannot_be_is_told_whole() {
    let maps = ["--map", "X=a,b,c", "--map", "Y=a"];
    let said = refused("iris_lr_tensor_float", "a,b,c,d\n1,2,3,4\n", &maps);
    assert_says(&said, &["--map names the input \"Y\"", "input \"X\" takes 4 columns, it would get 3"]);
    let said = refused("iris_lr_tensor_float", "a,b,c,total\n1,2,3,4\n", &["--map", "X=a,b,c,totl"]);
    assert_says(&said, &["column \"totl\", which the data does not have", "\"total\""]);
}

#[test]
fn an_output_column_that_the_data_has_already_is_told() {
    let text = "sepal_length,sepal_width,petal_length,petal_width,Prediction\n1,2,3,4,old\n";
    let said = refused("iris_lr_columns_float", text, &[]);
    assert_says(&said, &["the data has a column \"Prediction\" already", "rename it"]);
}

#[test]
fn each_format_of_the_same_rows_gives_the_same_csv() {
    let folder = folder();
    let scored = |data: &str| {
        let output = folder.path().join(format!("{data}.scored.csv"));
        let command = &mut score(&model("iris_lr_tensor_double"), &fixture(&format!("data/{data}")), &output);
        succeed(command.args(["--probabilities", "--quiet"]));
        std::fs::read_to_string(output).unwrap()
    };
    let csv = scored("iris.csv");
    assert_eq!(csv.lines().count(), 151);
    for data in ["iris.csv.gz", "iris.csv.zst", "iris.jsonl", "iris.parquet", "iris.arrow", "iris.arrows"] {
        assert!(scored(data) == csv, "{data} gives another CSV");
    }
}

#[test]
fn a_folder_and_a_pattern_are_scored_in_the_order_of_names() {
    let folder = folder();
    let parts = folder.path().join("parts");
    std::fs::create_dir(&parts).unwrap();
    let text = std::fs::read_to_string(fixture("data/iris.csv")).unwrap();
    let (header, rows) = text.split_once('\n').unwrap();
    let rows: Vec<&str> = rows.lines().collect();
    for (place, part) in rows.chunks(40).enumerate() {
        std::fs::write(parts.join(format!("part-{place}.csv")), format!("{header}\n{}\n", part.join("\n"))).unwrap();
    }
    let name = model("iris_lr_tensor_float");
    let outputs = ["whole.csv", "folder.csv", "pattern.csv"].map(|output| folder.path().join(output));
    succeed(score(&name, &fixture("data/iris.csv"), &outputs[0]).arg("--quiet"));
    succeed(score(&name, &parts, &outputs[1]).arg("--quiet"));
    succeed(score(&name, &parts.join("part-*.csv"), &outputs[2]).arg("--quiet"));
    let whole = std::fs::read(&outputs[0]).unwrap();
    assert!(std::fs::read(&outputs[1]).unwrap() == whole && std::fs::read(&outputs[2]).unwrap() == whole);
}

fn inspect(name: &str) -> Value {
    let output = succeed(scoreline().args(["model", "inspect", "--json"]).arg(model(name)));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn zip_maps_are_cut() {
    for (name, cut) in [
        ("iris_lr_tensor_float_zipmap", "output_probability"),
        ("iris_lr_int_labels_zipmap", "output_probability"),
        ("iris_lgbm_zipmap", "probabilities"),
    ] {
        let json = inspect(name);
        assert_eq!(json["zip_maps_cut"], serde_json::json!([cut]), "{name}");
        let declared = json["outputs"][1]["declared"].as_str().unwrap();
        assert!(declared.starts_with("Tensor<f32>"), "{name}: {declared}");
    }
    for name in ["iris_lr_tensor_float", "iris_lr_zipmap_columns", "iris_lgbm", "diabetes_linear"] {
        assert_eq!(inspect(name)["zip_maps_cut"], serde_json::json!([]), "{name}");
    }
}

#[test]
fn inspect_tells_each_input_and_class_as_json() {
    for name in SCORED {
        let (json, expected) = (inspect(name), Expected::read(name));
        let inputs = json["inputs"].as_array().unwrap();
        assert_eq!(inputs.len(), expected.inputs.len(), "{name}");
        for (input, (wanted, columns)) in inputs.iter().zip(&expected.inputs) {
            assert_eq!((&input["name"], &input["columns"]), (&wanted.as_str().into(), &columns.len().into()), "{name}");
        }
        // A network's operators do not name its classes.
        if *name != "digits_cnn" && expected.labels.is_some() {
            let classes = &json["classes"];
            assert!(classes.is_array() && texts(classes) == expected.classes, "{name}: {classes}");
        }
        let bytes = std::fs::read(model(name)).unwrap();
        assert_eq!(json["bytes"], bytes.len(), "{name}");
        assert_eq!(json["sha256"], scoreline::record::Digest::of(&bytes).to_string(), "{name}");
        assert!(json["outputs"].as_array().unwrap().iter().all(|output| output["meaning"].is_string()), "{name}");
    }
    let json = inspect("mixed_columns");
    let element = |place: usize| json["inputs"][place]["element"].as_str().unwrap().to_owned();
    assert_eq!((0..4).map(element).collect::<Vec<_>>(), ["string", "int64", "float", "float"]);
    assert_eq!(inspect("rank3_input")["inputs"][0]["row_shape"], serde_json::json!([2, 2]));
    assert_eq!(inspect("iris_nn_softmax")["classes"], Value::Null);
}

#[test]
fn inspect_tells_a_model_as_text() {
    let output = succeed(scoreline().args(["model", "inspect"]).arg(model("iris_lr_tensor_float_zipmap")));
    let wanted = "\
model       iris_lr_tensor_float_zipmap (724 B)
sha256      b7c4848a9a1c0f45a1d91f5b684e6baa637a79a4cdbb462eb28875c2a724d751
written by  skl2onnx 1.20.0
operators   3 (ai.onnx 16, ai.onnx.ml 1)
inputs      X: 4 columns of float
outputs     output_label: Tensor<String>(dyn) -> column Prediction
            probabilities: Tensor<f32>() -> one column a class, with --probabilities
classes     setosa, versicolor, virginica
cut         ZipMap of output_probability: the probabilities are read as a tensor
";
    assert_eq!(String::from_utf8(output.stdout).unwrap(), wanted);
    let output = succeed(scoreline().args(["model", "inspect"]).arg(model("mixed_regression_columns")));
    let text = String::from_utf8(output.stdout).unwrap();
    assert_says(&text, &["inputs      colour: 1 column of string", "count: 1 column of int64", "-> column Prediction"]);
    assert!(!text.contains("classes") && !text.contains("cut"), "{text}");
}

#[test]
fn probabilities_are_written_only_where_they_are_wanted() {
    let folder = folder();
    let output = folder.path().join("scored.csv");
    succeed(score(&model("iris_rf100_tensor_float"), &fixture("data/iris.csv"), &output).arg("--quiet"));
    let wanted = ["sepal_length", "sepal_width", "petal_length", "petal_width", "species", "Prediction"];
    assert_eq!(read_csv(&output)[0], wanted);
}
