//! Datasets on disk: formats, compressions, folders, columns and their types, damaged files, resumes.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, DictionaryArray, Float64Array, Int64Array, LargeStringArray, RecordBatch, StringArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Int32Type, Schema};
use arrow::ipc::writer::{FileWriter, StreamWriter};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use scoreline::ingest::columns::ColumnType;
use scoreline::ingest::infer::Wanted;
use scoreline::ingest::reader::Reader;
use scoreline::ingest::window::Window;
use scoreline::ingest::{Dataset, DatasetOptions, IngestError};
use scoreline::record::frame::{Origin, decode_rows};
use scoreline::record::{MiniBatchSize, RejectedRow, Rows, RunId, compact};
use serde_json::Value;
use tempfile::TempDir;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/data").join(name)
}

fn options() -> DatasetOptions {
    DatasetOptions { header: true, quote: Some(b'"'), ..DatasetOptions::default() }
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

fn open_with(path: &Path, options: DatasetOptions, wanted: &dyn Fn(&str) -> Wanted) -> Result<Dataset, IngestError> {
    Dataset::open(&[text(path)], options, wanted)
}

fn open(path: &Path) -> Result<Dataset, IngestError> {
    open_with(path, options(), &|_| Wanted::Nothing)
}

/// The windows of one file, each with what to resume at behind it.
type Windows = Vec<(Option<Rows>, Vec<RejectedRow>, Value)>;

fn windows(dataset: &Dataset, file: usize, size: &str, resume_at: Value) -> Result<Windows, IngestError> {
    let size: MiniBatchSize = size.parse().unwrap();
    let mut reader = Reader::open(Path::new(&dataset.files[file].path), dataset, size, resume_at)?;
    let mut windows = Vec::new();
    while let Some(work) = reader.next_work()? {
        let (rows, rejected) = work.parse()?;
        windows.push((rows, rejected, reader.resume_at()?));
    }
    Ok(windows)
}

/// All rows of all files as one batch, and the rejected rows.
fn read_all(dataset: &Dataset, size: &str) -> Result<(RecordBatch, Vec<RejectedRow>), IngestError> {
    let (mut batches, mut rejected) = (Vec::new(), Vec::new());
    for file in 0..dataset.files.len() {
        for (rows, more, _) in windows(dataset, file, size, Value::Null)? {
            batches.extend(rows.map(|rows| rows.batch));
            rejected.extend(more);
        }
    }
    Ok((concat_batches(&dataset.schema, &batches).unwrap(), rejected))
}

fn read(path: &Path) -> (RecordBatch, Vec<RejectedRow>) {
    read_all(&open(path).unwrap(), "1MB").unwrap()
}

fn write(folder: &TempDir, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.path().join(name);
    fs::write(&path, content).unwrap();
    path
}

/// The message of an error about `path`, without the path.
fn fault<T>(path: &Path, result: Result<T, IngestError>) -> String {
    let said = result.err().expect("an error").to_string();
    assert!(said.contains(&text(path)), "{said}");
    said.replace(&text(path), "FILE")
}

fn types(dataset: &Dataset) -> Vec<DataType> {
    dataset.schema.fields().iter().map(|field| field.data_type().clone()).collect()
}

fn names(schema: &Schema) -> Vec<&str> {
    schema.fields().iter().map(|field| field.name().as_str()).collect()
}

// Formats.

#[test]
fn all_formats_hold_the_same_rows() {
    let (csv, _) = read(&fixture("iris.csv"));
    assert_eq!((csv.num_rows(), csv.num_columns()), (150, 5));
    for name in ["iris.csv.gz", "iris.csv.zst", "iris.jsonl", "iris.parquet", "iris.arrow", "iris.arrows"] {
        let dataset = open(&fixture(name)).unwrap();
        for size in ["1", "7", "64B", "1KB", "1MB"] {
            let (rows, rejected) = read_all(&dataset, size).unwrap();
            assert_eq!((rows, rejected), (csv.clone(), Vec::new()), "{name} {size}");
        }
    }
}

#[test]
fn a_read_that_resumes_behind_any_window_goes_on_alike() {
    for name in ["iris.csv", "iris.csv.gz", "iris.csv.zst", "iris.jsonl", "iris.parquet", "iris.arrow", "iris.arrows"] {
        let dataset = open(&fixture(name)).unwrap();
        for size in ["7", "256B", "150", "1MB"] {
            let whole = windows(&dataset, 0, size, Value::Null).unwrap();
            for (place, (_, _, resume_at)) in whole.iter().enumerate() {
                let rest = windows(&dataset, 0, size, resume_at.clone()).unwrap();
                assert_eq!(format!("{rest:?}"), format!("{:?}", &whole[place + 1..]), "{name} {size}");
            }
        }
    }
}

fn numbered(rows: std::ops::Range<i64>) -> RecordBatch {
    let text: Vec<String> = rows.clone().map(|i| format!("text {}", i % 7)).collect();
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("n", Arc::new(Int64Array::from_iter_values(rows.clone()))),
        ("x", Arc::new(rows.map(|i| (i % 5 > 0).then_some(i as f64 / 4.0)).collect::<Float64Array>())),
        ("t", Arc::new(text.iter().map(String::as_str).collect::<DictionaryArray<Int32Type>>())),
        ("u", Arc::new(LargeStringArray::from_iter_values(&text))),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true))).unwrap()
}

fn write_parquet(path: &Path, batches: &[RecordBatch], group_rows: usize) {
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(group_rows)).build();
    let mut writer =
        ArrowWriter::try_new(fs::File::create(path).unwrap(), batches[0].schema(), Some(properties)).unwrap();
    batches.iter().for_each(|batch| writer.write(batch).unwrap());
    writer.close().unwrap();
}

fn write_arrow(path: &Path, batches: &[RecordBatch], is_stream: bool) {
    let file = fs::File::create(path).unwrap();
    if is_stream {
        let mut writer = StreamWriter::try_new(file, &batches[0].schema()).unwrap();
        batches.iter().for_each(|batch| writer.write(batch).unwrap());
        writer.finish().unwrap();
    } else {
        let mut writer = FileWriter::try_new(file, &batches[0].schema()).unwrap();
        batches.iter().for_each(|batch| writer.write(batch).unwrap());
        writer.finish().unwrap();
    }
}

#[test]
fn windows_of_columnar_files_do_not_depend_on_how_the_file_is_cut() {
    let folder = TempDir::new().unwrap();
    let parts: Vec<RecordBatch> = [0..0, 0..3, 3..10, 10..10, 10..500, 500..501, 501..1000].map(numbered).into();
    let (parquet, arrow, arrows) =
        (folder.path().join("a.parquet"), folder.path().join("a.arrow"), folder.path().join("a.arrows"));
    write_parquet(&parquet, &parts, 64);
    write_arrow(&arrow, &[numbered(0..1000)], false);
    // A dictionary cannot be replaced within a file, but within a stream.
    write_arrow(&arrows, &parts, true);
    for path in [&parquet, &arrow, &arrows] {
        let dataset = open(path).unwrap();
        assert_eq!(types(&dataset), [DataType::Int64, DataType::Float64, DataType::Utf8, DataType::Utf8]);
        for rows in [1, 7, 64, 300, 1000, 5000] {
            let whole = windows(&dataset, 0, &rows.to_string(), Value::Null).unwrap();
            let lengths: Vec<usize> = whole.iter().map(|(window, ..)| window.as_ref().unwrap().len()).collect();
            let mut wanted = vec![rows; 1000 / rows];
            wanted.extend(Some(1000 % rows).filter(|rest| *rest > 0));
            assert_eq!(lengths, wanted, "{path:?}");
            let numbers =
                whole.iter().flat_map(|(window, ..)| window.as_ref().unwrap().numbers.iter().collect::<Vec<_>>());
            assert!(numbers.eq(0..1000));
            for (place, (_, _, resume_at)) in whole.iter().enumerate().step_by(1 + whole.len() / 8) {
                let rest = windows(&dataset, 0, &rows.to_string(), resume_at.clone()).unwrap();
                assert_eq!(format!("{rest:?}"), format!("{:?}", &whole[place + 1..]), "{path:?} {rows}");
            }
        }
        let (all, _) = read_all(&dataset, "1KB").unwrap();
        let wanted = numbered(0..1000);
        assert_eq!(all.column(0), wanted.column(0));
        assert_eq!(all.column(1), wanted.column(1));
        assert_eq!(all.column(2), all.column(3));
        assert_eq!(
            all.column(3).as_ref(),
            &StringArray::from_iter_values((0..1000).map(|i| format!("text {}", i % 7)))
        );
    }
}

#[test]
fn columns_of_any_type_travel() {
    use arrow::array as a;
    use arrow::datatypes::{Field, Fields};
    let item = Arc::new(Field::new("item", DataType::Int64, false));
    let lists = a::ListArray::new(
        item,
        arrow::buffer::OffsetBuffer::from_lengths([2, 0, 1]),
        Arc::new(Int64Array::from(vec![1, 2, 3])),
        None,
    );
    let fields = Fields::from(vec![Field::new("a", DataType::Int32, false)]);
    let structs = a::StructArray::new(fields, vec![Arc::new(a::Int32Array::from(vec![1, 2, 3])) as ArrayRef], None);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(lists),
        Arc::new(structs),
        Arc::new(a::BooleanArray::from(vec![Some(true), None, Some(false)])),
        Arc::new(a::UInt8Array::from(vec![1, 2, 255])),
        Arc::new(a::Float16Array::from_iter_values([1.0, 2.0, 3.0].map(half))),
        Arc::new(a::Decimal128Array::from(vec![Some(12345), None, Some(-1)]).with_precision_and_scale(20, 2).unwrap()),
        Arc::new(a::TimestampMillisecondArray::from(vec![1, 2, 3]).with_timezone("+02:00")),
        Arc::new(a::Date32Array::from(vec![1, 2, 3])),
        Arc::new(a::Time64MicrosecondArray::from(vec![1, 2, 3])),
        Arc::new(a::BinaryArray::from(vec![Some(&b"\xff"[..]), None, Some(b"")])),
        Arc::new(a::FixedSizeBinaryArray::try_from(vec![&b"ab"[..], b"cd", b"ef"]).unwrap()),
        Arc::new(a::StringViewArray::from(vec![Some("x"), None, Some("a text that is longer than a view holds")])),
        Arc::new(a::NullArray::new(3)),
    ];
    let named = columns.into_iter().enumerate().map(|(i, column)| (format!("c{i}"), column, true));
    let batch = RecordBatch::try_from_iter_with_nullable(named).unwrap();
    let folder = TempDir::new().unwrap();
    let (parquet, arrow) = (folder.path().join("a.parquet"), folder.path().join("a.arrow"));
    // Half-precision numbers and a column of nothing are left to Arrow.
    write_parquet(&parquet, &[batch.project(&[0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11]).unwrap()], 10);
    write_arrow(&arrow, &[batch], false);
    for path in [parquet, arrow] {
        let dataset = open(&path).unwrap();
        let (read, _) = read_all(&dataset, "2").unwrap();
        let mut reader = Reader::open(&path, &dataset, "3".parse().unwrap(), Value::Null).unwrap();
        let window = Window::new(&origin(), &reader.next_work().unwrap().unwrap()).unwrap();
        let [frame] = window.frames.as_slice() else { panic!("{path:?}") };
        let rows = decode_rows(&frame.header, Some(&frame.value)).unwrap();
        let unpacked: Vec<ArrayRef> = rows.batch.columns().iter().map(|c| compact::unpack(c).unwrap()).collect();
        assert_eq!(unpacked, read.columns());
    }
}

fn half(value: f32) -> <arrow::datatypes::Float16Type as arrow::datatypes::ArrowPrimitiveType>::Native {
    <arrow::datatypes::Float16Type as arrow::datatypes::ArrowPrimitiveType>::Native::from_f32(value)
}

fn origin() -> Origin {
    Origin { run: RunId::new("run"), window: 0, file: 0, model: None }
}

#[test]
fn a_columnar_file_without_rows_has_no_windows() {
    let folder = TempDir::new().unwrap();
    let (parquet, arrow, arrows) =
        (folder.path().join("a.parquet"), folder.path().join("a.arrow"), folder.path().join("a.arrows"));
    write_parquet(&parquet, &[numbered(0..0)], 10);
    write_arrow(&arrow, &[numbered(0..0)], false);
    write_arrow(&arrows, &[numbered(0..0)], true);
    for path in [parquet, arrow, arrows] {
        assert_eq!(windows(&open(&path).unwrap(), 0, "10", Value::Null).unwrap().len(), 0);
    }
}

// Files, folders, globs.

#[test]
fn a_folder_is_its_files_in_order_without_hidden_ones() {
    let folder = TempDir::new().unwrap();
    for (name, content) in
        [("b.csv", "x\n2\n"), ("a.csv", "x\n1\n"), (".c.csv", "x\n3\n"), ("_d.csv", "x\n4\n"), ("README.md", "hello")]
    {
        write(&folder, name, content);
    }
    fs::create_dir(folder.path().join("e.csv")).unwrap();
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(b"x\n5\n").unwrap();
    write(&folder, "f.csv.gz", gz.finish().unwrap());
    let want: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 5]));
    assert_eq!(read(folder.path()).0.column(0), &want);
    // As in a shell, a pattern has to ask for names that begin with a dot.
    assert_eq!(read(&folder.path().join("*.csv*")).0.column(0).as_ref(), &Int64Array::from(vec![4, 1, 2, 5]));
    assert_eq!(read(&folder.path().join("[ab].csv")).0.num_rows(), 2);
}

#[test]
fn names_that_lead_nowhere_are_named() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.csv");
    assert_eq!(fault(&path, open(&path)), "cannot read FILE: No such file or directory (os error 2)");
    let glob = folder.path().join("*.csv");
    assert_eq!(fault(&glob, open(&glob)), "no input: no file matches \"FILE\"");
    assert!(fault(folder.path(), open(folder.path())).starts_with("FILE: the folder holds no .csv"));
    std::os::unix::fs::symlink("gone.csv", &path).unwrap();
    assert_eq!(fault(&path, open(folder.path())), "cannot read FILE: No such file or directory (os error 2)");
    let device = Path::new("/dev/null");
    let options = DatasetOptions { format: Some("csv".parse().unwrap()), ..options() };
    assert!(fault(device, open_with(device, options, &|_| Wanted::Nothing)).starts_with("FILE: it is not a file"));
    assert!(open_with(&path, DatasetOptions::default(), &|_| Wanted::Nothing).is_err());
    assert!(Dataset::open(&[], DatasetOptions::default(), &|_| Wanted::Nothing).is_err());
}

#[test]
fn a_file_named_twice_is_an_error() {
    let folder = TempDir::new().unwrap();
    let path = write(&folder, "a.csv", "x\n1\n");
    let twice = Dataset::open(&[text(folder.path()), text(&path)], options(), &|_| Wanted::Nothing);
    assert_eq!(fault(&path, twice), "FILE: it is named twice; its rows would be scored twice");
}

#[test]
fn files_of_several_formats_or_columns_are_an_error() {
    let folder = TempDir::new().unwrap();
    let first = write(&folder, "a.csv", "x,y\n1,2\n");
    let other = write(&folder, "b.jsonl", "{\"x\":1}\n");
    let said = fault(&other, open(folder.path()));
    assert_eq!(
        said.replace(&text(&first), "FIRST"),
        "FILE: it is not of the same format as FIRST; score files of one format at a time"
    );
    fs::remove_file(other).unwrap();
    let other = write(&folder, "c.csv", "y,z\n1,2\n");
    assert_eq!(
        fault(&other, open(folder.path())),
        "FILE: its columns are not those of the first file; missing: x; not in the first file: z"
    );
    fs::remove_file(other).unwrap();
    // The same columns in another order are the same columns.
    write(&folder, "d.csv", "y,x\n4,3\n");
    let (rows, _) = read(folder.path());
    assert_eq!(rows.column(0).as_ref(), &Int64Array::from(vec![1, 3]));
    assert_eq!(rows.column(1).as_ref(), &Int64Array::from(vec![2, 4]));
}

#[test]
fn columnar_files_with_other_columns_are_an_error() {
    let folder = TempDir::new().unwrap();
    let (first, other) = (folder.path().join("a.parquet"), folder.path().join("b.parquet"));
    write_parquet(&first, &[numbered(0..10)], 10);
    write_parquet(&other, &[numbered(0..10).project(&[0, 1]).unwrap()], 10);
    assert_eq!(
        fault(&other, open(folder.path())),
        "FILE: its columns are not those of the first file; missing: t (Utf8), u (Utf8)"
    );
}

#[test]
fn what_may_not_be_read_is_named() {
    use std::os::unix::fs::PermissionsExt;
    let folder = TempDir::new().unwrap();
    let path = write(&folder, "a.csv", "x\n1\n");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::File::open(&path).is_ok() {
        return; // Nothing is forbidden to this user.
    }
    assert_eq!(fault(&path, open(&path)), "cannot read FILE: Permission denied (os error 13)");
}

#[test]
fn a_file_that_changed_is_seen() {
    let folder = TempDir::new().unwrap();
    let path = write(&folder, "a.csv", "x\n1\n");
    let dataset = open(&path).unwrap();
    fs::write(&path, "x\n1\n2\n").unwrap();
    let changed = scoreline::ingest::dataset::check_unchanged(&dataset.files[0]);
    assert!(matches!(changed, Err(IngestError::Changed { .. })));
    // A position behind the file's end is no end of the file.
    let behind = serde_json::json!({ "offset": 100, "row": 7, "line": 9 });
    assert!(windows(&dataset, 0, "1", behind).is_err());
}

// CSV.

#[test]
fn headers_names_and_delimiters() {
    let folder = TempDir::new().unwrap();
    let bom = write(&folder, "bom.csv", "\u{feff}\"a\",b\r\n1,2\r\n");
    assert_eq!(names(&open(&bom).unwrap().schema), ["a", "b"]);
    assert_eq!(read(&bom).0.num_rows(), 1);
    let tabs = write(&folder, "a.tsv", "a\tb\n1\tx,y\n");
    assert_eq!(read(&tabs).0.column(1).as_ref(), &StringArray::from(vec!["x,y"]));
    let blank = write(&folder, "blank.csv", "\n\r\na,,\"b\nc\"\n\n1,2,3\n\n");
    assert_eq!(names(&open(&blank).unwrap().schema), ["a", "column_2", "b\nc"]);
    let (rows, _, _) = windows(&open(&blank).unwrap(), 0, "1", Value::Null).unwrap().remove(0);
    assert_eq!(rows.unwrap().lines.line(0, 0), Some(6));
    let twice = write(&folder, "twice.csv", "a,b,a\n1,2,3\n");
    assert_eq!(fault(&twice, open(&twice)), "FILE: its header names the column \"a\" twice");
}

#[test]
fn files_without_a_header() {
    let folder = TempDir::new().unwrap();
    let path = write(&folder, "a.csv", "\u{feff}1,x\n2\n3,y\n");
    let headless = DatasetOptions { header: false, ..options() };
    let dataset = open_with(&path, headless.clone(), &|_| Wanted::Nothing).unwrap();
    assert_eq!(names(&dataset.schema), ["column_1", "column_2"]);
    let (rows, rejected) = read_all(&dataset, "1").unwrap();
    assert_eq!((rows.num_rows(), rejected.len()), (2, 1));
    assert_eq!((rejected[0].row, rejected[0].line), (1, Some(2)));
    let named = |names: &[&str]| DatasetOptions {
        column_names: names.iter().map(|n| (*n).to_owned()).collect(),
        ..headless.clone()
    };
    assert_eq!(names(&open_with(&path, named(&["n", "t"]), &|_| Wanted::Nothing).unwrap().schema), ["n", "t"]);
    let three = open_with(&path, named(&["n", "t", "u"]), &|_| Wanted::Nothing);
    assert_eq!(fault(&path, three), "FILE: 3 columns are named, its first row has 2 fields");
    let twice = open_with(&path, named(&["n", "n"]), &|_| Wanted::Nothing).err().unwrap();
    assert_eq!(twice.to_string(), "the column \"n\" is named twice");
}

#[test]
fn missing_values() {
    let folder = TempDir::new().unwrap();
    let path = write(&folder, "a.csv", "n,t\n1,NA\n NA ,\n-999,\"\"\n,x\n2,y\n");
    let options = DatasetOptions { null_values: vec!["NA".to_owned(), "-999".to_owned()], ..options() };
    let dataset = open_with(&path, options, &|_| Wanted::Nothing).unwrap();
    let (rows, rejected) = read_all(&dataset, "1MB").unwrap();
    assert!(rejected.is_empty());
    assert_eq!(rows.column(0).as_ref(), &Int64Array::from(vec![Some(1), None, None, None, Some(2)]));
    // Text that was given is text; text that was not is missing.
    assert_eq!(rows.column(1).as_ref(), &StringArray::from(vec![Some("NA"), None, Some(""), Some("x"), Some("y")]));
}

#[test]
fn given_types_come_before_inferred_ones() {
    let folder = TempDir::new().unwrap();
    let path = write(&folder, "a.csv", "n,d\n1,2026-01-31\nx,2026-02-30\n");
    let given = |name: &str, t| DatasetOptions { column_types: vec![(name.to_owned(), t)], ..options() };
    let dataset = open_with(&path, given("d", ColumnType::Date), &|_| Wanted::Nothing).unwrap();
    assert_eq!(types(&dataset), [DataType::Utf8, DataType::Date32]);
    let (rows, rejected) = read_all(&dataset, "1MB").unwrap();
    assert_eq!((rows.num_rows(), rejected.len()), (1, 1));
    assert_eq!(rejected[0].reason, "column \"d\" holds \"2026-02-30\", not a date such as 2026-01-31");
    assert_eq!(&rejected[0].raw[..], b"x,2026-02-30");
    let nobody = open_with(&path, given("e", ColumnType::Date), &|_| Wanted::Nothing).err().unwrap();
    assert_eq!(
        nobody.to_string(),
        "a type is given for column \"e\", which the data does not have; its columns are n, d"
    );
}

#[test]
fn types_are_inferred_only_where_values_read_back() {
    let folder = TempDir::new().unwrap();
    let inferred = |values: &str, wanted: Wanted| {
        let path = write(&folder, "a.csv", format!("k,v\n1,{}\n", values.replace(' ', "\n1,")));
        types(&open_with(&path, options(), &|_| wanted).unwrap()).remove(1)
    };
    for (values, want) in [
        ("1 -2 9223372036854775807", DataType::Int64),
        ("1 2.5 1e-3 NaN -inf .5", DataType::Float64),
        ("007 8", DataType::Utf8),
        ("+7 8", DataType::Utf8),
        ("1 x", DataType::Utf8),
        ("true false", DataType::Boolean),
        ("True False", DataType::Utf8),
        // Doubles would change the digits of the second.
        ("1.5 9007199254740993", DataType::Utf8),
        ("1.5 9007199254740992", DataType::Float64),
        ("9223372036854775808", DataType::Utf8),
        ("1e999", DataType::Utf8),
        ("0x10", DataType::Utf8),
        ("2026-01-31", DataType::Utf8),
        ("", DataType::Utf8),
    ] {
        assert_eq!(inferred(values, Wanted::Nothing), want, "{values}");
        assert_eq!(inferred(values, Wanted::Text), DataType::Utf8, "{values}");
    }
    for (values, want) in [
        ("1.5 2.5 n/a 3", DataType::Float64),
        ("1 2 n/a 3", DataType::Int64),
        ("007 8", DataType::Float64),
        ("n/a n/a 3", DataType::Utf8),
        ("", DataType::Float64),
    ] {
        assert_eq!(inferred(values, Wanted::Number), want, "{values}");
    }
}

#[test]
fn a_stray_quote_does_not_blind_the_inference() {
    let folder = TempDir::new().unwrap();
    let path = write(&folder, "a.csv", "n,t\n1,\"a\n2,b\n3,c\n");
    let dataset = open(&path).unwrap();
    assert_eq!(types(&dataset), [DataType::Int64, DataType::Utf8]);
    let (rows, rejected) = read_all(&dataset, "1MB").unwrap();
    assert_eq!((rows.num_rows(), rejected.len()), (2, 1));
}

#[test]
fn a_row_that_is_too_long_does_not_mislead_the_inference() {
    let folder = TempDir::new().unwrap();
    let content = [&b"n,x\n1,"[..], &vec![b'7'; 6 << 20], b"\n2,2.5\n"].concat();
    for content in [content.as_slice(), &content[..content.len() / 2]] {
        let path = write(&folder, "a.csv", content);
        let given = |path: &Path| open_with(path, options(), &|_| Wanted::Number).unwrap();
        assert_eq!(types(&given(&path)), [DataType::Float64, DataType::Float64]);
        let (_, rejected) = read_all(&given(&path), "1MB").unwrap();
        assert_eq!(rejected.len(), 1);
    }
}

#[test]
fn a_value_that_fits_no_more_rejects_its_row() {
    let folder = TempDir::new().unwrap();
    // The sample of the first 4 MiB sees whole numbers only.
    let mut content = b"n\n".to_vec();
    for _ in 0..600_000 {
        content.extend_from_slice(b"1234567\n");
    }
    content.extend_from_slice(b"1.5\n8\n");
    let dataset = open(&write(&folder, "a.csv", content)).unwrap();
    let (rows, rejected) = read_all(&dataset, "1MB").unwrap();
    assert_eq!((rows.num_rows(), rejected.len()), (600_001, 1));
    assert_eq!((rejected[0].row, rejected[0].line, rejected[0].raw_len), (600_000, Some(600_002), 3));
    assert_eq!(rejected[0].reason, "column \"n\" holds \"1.5\", not a whole number (int64)");
}

#[test]
fn odd_options_are_errors() {
    let path = fixture("iris.csv");
    for (delimiter, quote) in [(Some(b'\n'), None), (Some(0xe9), None), (Some(b'"'), Some(b'"')), (None, Some(b'\r'))] {
        assert!(open_with(&path, DatasetOptions { delimiter, quote, ..options() }, &|_| Wanted::Nothing).is_err());
    }
    let quote = Some(b',');
    assert!(open_with(&path, DatasetOptions { quote, ..options() }, &|_| Wanted::Nothing).is_err());
}

// What is no text, or not whole.

#[test]
fn empty_files_and_files_of_a_header_alone() {
    let folder = TempDir::new().unwrap();
    for (name, content, why) in [
        ("a.csv", "", "it is empty: not even a header is there"),
        ("b.csv", "\n\n", "it is empty: not even a header is there"),
        ("a.jsonl", "", "it is empty"),
        ("a.parquet", "", "it is not a Parquet file"),
        ("a.arrow", "", "it is neither an Arrow file nor an Arrow stream"),
    ] {
        let path = write(&folder, name, content);
        assert_eq!(fault(&path, open(&path)), format!("FILE: {why}"));
    }
    for content in ["a,b\n", "a,b", "a,b\r\n\r\n"] {
        let path = write(&folder, "a.csv", content);
        let dataset = open(&path).unwrap();
        assert_eq!(types(&dataset), [DataType::Utf8, DataType::Utf8]);
        assert_eq!(windows(&dataset, 0, "1", Value::Null).unwrap().len(), 0);
    }
}

#[test]
fn what_is_no_text_is_named() {
    let folder = TempDir::new().unwrap();
    let said = |name: &str, content: &[u8]| {
        let path = write(&folder, name, content);
        fault(&path, open(&path))
    };
    let utf16 = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    let mend = "FILE: it is UTF-16 text; convert it first, for example with iconv -f utf-16 -t utf-8";
    assert_eq!(said("a.csv", &[&[0xff, 0xfe], &utf16("a,b\n1,2\n")[..]].concat()), mend);
    assert!(said("a.csv", &utf16("a,b\n1,2\n")).starts_with("FILE: it begins with zero bytes, as UTF-16 text does"));
    assert_eq!(said("a.jsonl", &[0xfe, 0xff, 0, b'{']), mend);
    let latin1 = said("a.csv", b"caf\xe9,b\n1,2\n");
    assert_eq!(latin1, "FILE: its header is not UTF-8 text; convert the file, for example with iconv -t utf-8");
    assert!(said("a.csv", b"a,b\r1,2\r3,4\r").starts_with("FILE: its lines end with carriage returns alone"));
    assert!(said("a.csv", &fs::read(fixture("iris.parquet")).unwrap()).contains("a Parquet file"));
    assert!(said("a.csv", &fs::read(fixture("iris.arrow")).unwrap()).contains("an Arrow file"));
    assert!(said("a.csv", b"PK\x03\x04rest").contains("a zip archive"));
    assert_eq!(said("a.parquet", b"a,b\n1,2\n"), "FILE: it is not a Parquet file");
    assert_eq!(said("a.arrow", b"a,b\n1,2\n"), "FILE: it is neither an Arrow file nor an Arrow stream");
    assert!(said("a.jsonl", b"[1,2]\n").starts_with("FILE: it holds no JSON object a line, but \"[1,2]\\n\""));
    assert_eq!(said("a.csv", b"\"a,b\n1,2\n"), "FILE: a quote in its first row is not closed");
}

#[test]
fn latin_1_rejects_its_row() {
    let folder = TempDir::new().unwrap();
    let path = write(&folder, "a.csv", b"a,b\n1,caf\xe9\n2,x\n");
    let (rows, rejected) = read(&path);
    assert_eq!((rows.num_rows(), rejected.len()), (1, 1));
    assert_eq!((rejected[0].reason.as_str(), &rejected[0].raw[..]), ("the row is not UTF-8 text", &b"1,caf\xe9"[..]));
}

#[test]
fn truncated_files_are_errors_that_name_them() {
    let folder = TempDir::new().unwrap();
    // Compressed badly, so that a cut in the middle lies behind the sample.
    let mut text = b"a,b\n".to_vec();
    let mut seed = 1_u64;
    while text.len() < 6 << 20 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        text.extend_from_slice(format!("{},{}\n", seed >> 40, (seed >> 20) % 1_000_000).as_bytes());
    }
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(&text).unwrap();
    let gz = gz.finish().unwrap();
    let zst = zstd::encode_all(text.as_slice(), 1).unwrap();
    for (name, whole) in [("a.csv.gz", gz), ("a.csv.zst", zst)] {
        for length in [whole.len() - 1, whole.len() - 9, whole.len() / 2, 20] {
            let path = write(&folder, name, &whole[..length]);
            let result = open(&path).and_then(|dataset| read_all(&dataset, "1MB"));
            assert!(fault(&path, result).starts_with("FILE: it is damaged or cut off ("), "{name} {length}");
        }
    }
    for name in ["iris.parquet", "iris.arrow", "iris.arrows"] {
        let whole = fs::read(fixture(name)).unwrap();
        for length in [whole.len() - 9, whole.len() / 2, 40, 9] {
            let path = write(&folder, name, &whole[..length]);
            let result = open(&path).and_then(|dataset| read_all(&dataset, "1MB"));
            fault(&path, result);
        }
    }
}

#[test]
fn damaged_columnar_files_are_errors_and_no_crashes() {
    let folder = TempDir::new().unwrap();
    for name in ["iris.parquet", "iris.arrow", "iris.arrows"] {
        let whole = fs::read(fixture(name)).unwrap();
        for at in (0..whole.len() - 8).step_by(41) {
            for value in [[0x00; 8], [0x7f; 8], [0xff; 8]] {
                let mut damaged = whole.clone();
                damaged[at..=at + at % 8].copy_from_slice(&value[..=at % 8]);
                let path = write(&folder, name, &damaged);
                if let Err(error) = open(&path).and_then(|dataset| read_all(&dataset, "1MB")) {
                    assert!(error.to_string().contains(&text(&path)), "{error}");
                }
            }
        }
    }
}

#[test]
fn more_columns_than_a_message_holds_are_an_error() {
    let folder = TempDir::new().unwrap();
    let header: Vec<String> = (0..5000).map(|i| format!("column {i}")).collect();
    let path = write(&folder, "a.csv", header.join(",") + "\n");
    assert_eq!(
        fault(&path, open(&path)),
        "FILE: no row can be put on the log: row 0..1: with 5000 columns it does not fit a frame of 256 KB"
    );
}

// JSON lines.

#[test]
fn columns_of_json_lines() {
    let folder = TempDir::new().unwrap();
    let lines = r#"{"i": 1, "f": 1.0, "b": true, "s": "x", "o": {"a": [1]}, "big": 18446744073709551616}
{"f": 2, "i": null, "late": 1}

{"i": "x"}
{"nobody": 1"#;
    let path = write(&folder, "a.jsonl", format!("\u{feff}{lines}"));
    let dataset = open(&path).unwrap();
    assert_eq!(names(&dataset.schema), ["i", "f", "b", "s", "o", "big", "late"]);
    let want = [
        DataType::Utf8,
        DataType::Float64,
        DataType::Boolean,
        DataType::Utf8,
        DataType::Utf8,
        DataType::Utf8,
        DataType::Int64,
    ];
    assert_eq!(types(&dataset), want);
    let (rows, rejected) = read_all(&dataset, "1").unwrap();
    assert_eq!(rows.column(0).as_ref(), &StringArray::from(vec![Some("1"), None, Some("x")]));
    assert_eq!(rows.column(4).as_ref(), &StringArray::from(vec![Some("{\"a\": [1]}"), None, None]));
    assert_eq!(rows.column(5).as_ref(), &StringArray::from(vec![Some("18446744073709551616"), None, None]));
    let [row] = rejected.as_slice() else { panic!("{rejected:?}") };
    assert_eq!((row.row, row.line), (3, Some(5)));
    assert_eq!(row.reason, "the row is not a JSON object: EOF while parsing an object (column 12)");
    let dataset = open_with(&path, options(), &|_| Wanted::Number).unwrap();
    assert_eq!(types(&dataset)[0], DataType::Utf8);
}

#[test]
fn a_field_that_is_no_column_rejects_its_row() {
    let folder = TempDir::new().unwrap();
    let mut content = b"{\"a\": 1}\n".repeat(600_000);
    content.extend_from_slice(b"{\"a\": 1, \"b\": 2}\n{\"a\": 1, \"a\": 2}\n");
    let dataset = open(&write(&folder, "a.jsonl", content)).unwrap();
    let (rows, rejected) = read_all(&dataset, "1MB").unwrap();
    assert_eq!(rows.num_rows(), 600_000);
    let reasons: Vec<&str> = rejected.iter().map(|row| row.reason.as_str()).collect();
    assert_eq!(
        reasons,
        ["the row has a field \"b\", which is no column of the dataset", "the row has the field \"a\" twice"]
    );
}
