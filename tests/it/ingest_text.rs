//! Text becomes rows: the same ones whatever the mini-batch size, the reads and the resumes, with every byte
//! of the file accounted for.

use std::io::Read;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use scoreline::ingest::columns::ColumnType;
use scoreline::ingest::dataset::schema_of;
use scoreline::ingest::reader::{TextLayout, Work};
use scoreline::ingest::text::Dialect;
use scoreline::ingest::text::csv::CsvLayout;
use scoreline::ingest::text::split::{MAX_ROW_BYTES, Piece, Splitter, TextPosition, is_blank, trim_line_end};
use scoreline::ingest::window::Window;
use scoreline::record::frame::{self, MAX_FRAME_BYTES, Origin};
use scoreline::record::rejects::{self, MAX_RAW_BYTES};
use scoreline::record::{FrameKind, MiniBatchSize, RejectedRow, RunId, compact};

const START: TextPosition = TextPosition { offset: 0, row: 0, line: 1 };
const SIZES: [&str; 8] = ["1", "2", "7", "1000", "16B", "64B", "1KB", "8MB"];

fn size(text: &str) -> MiniBatchSize {
    text.parse().unwrap()
}

fn csv_layout(types: &[ColumnType], delimiter: u8, quote: u8) -> TextLayout {
    let columns = types.iter().enumerate().map(|(i, t)| (format!("c{i}"), *t)).collect();
    TextLayout::Csv(
        CsvLayout {
            dialect: Dialect { delimiter, quote: Some(quote) },
            schema: schema_of(columns).into(),
            fields: (0..types.len()).collect(),
            null_values: vec!["NA".to_owned()],
        }
        .into(),
    )
}

fn json_layout(types: &[ColumnType]) -> TextLayout {
    TextLayout::Jsonl(schema_of(types.iter().enumerate().map(|(i, t)| (format!("c{i}"), *t)).collect()).into())
}

/// Gives its bytes in small portions, as pipes and decompressors do.
struct Portions<'a> {
    text: &'a [u8],
    most: usize,
}

impl Read for Portions<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = buffer.len().min(self.text.len()).min(self.most);
        buffer[..length].copy_from_slice(&self.text[..length]);
        self.text = &self.text[length..];
        Ok(length)
    }
}

/// The pieces of a text from a position on, each with the position behind it.
fn pieces(
    text: &[u8],
    layout: &TextLayout,
    size: MiniBatchSize,
    from: TextPosition,
    portion: usize,
) -> Vec<(Piece, TextPosition)> {
    let rest = &text[usize::try_from(from.offset).unwrap()..];
    let mut splitter = Splitter::new(Portions { text: rest, most: portion }, layout.dialect(), size, from);
    std::iter::from_fn(|| splitter.next_piece().unwrap().map(|piece| (piece, splitter.position()))).collect()
}

/// What became of a row.
#[derive(Clone, Debug, PartialEq)]
enum Fate {
    Cells { row: u64, line: Option<u64>, cells: Vec<Option<String>> },
    Rejected(RejectedRow),
}

impl Fate {
    fn row(&self) -> u64 {
        match self {
            Self::Cells { row, .. } | Self::Rejected(RejectedRow { row, .. }) => *row,
        }
    }
}

fn cells(batch: &RecordBatch) -> Vec<Vec<Option<String>>> {
    let options = FormatOptions::default();
    let columns: Vec<_> = batch.columns().iter().map(|c| ArrayFormatter::try_new(c, &options).unwrap()).collect();
    let cell =
        |row: usize, column: usize| batch.column(column).is_valid(row).then(|| columns[column].value(row).to_string());
    (0..batch.num_rows()).map(|row| (0..columns.len()).map(|column| cell(row, column)).collect()).collect()
}

fn fates_of(work: &Work) -> Vec<Fate> {
    let (rows, rejected) = work.parse().unwrap();
    let mut fates: Vec<Fate> = rejected.into_iter().map(Fate::Rejected).collect();
    if let Some(rows) = rows {
        assert_eq!(rows.numbers.len(), rows.len());
        for ((place, row), cells) in rows.numbers.iter().enumerate().zip(cells(&rows.batch)) {
            fates.push(Fate::Cells { row, line: rows.lines.line(place, row), cells });
        }
    }
    fates.sort_by_key(Fate::row);
    fates
}

fn work(layout: &TextLayout, piece: &Piece) -> Work {
    match piece {
        Piece::Rows(stretch) => Work::Text { layout: layout.clone(), stretch: stretch.clone() },
        Piece::Reject(row) => Work::Reject(row.clone()),
    }
}

fn fates(text: &[u8], layout: &TextLayout, size: MiniBatchSize, portion: usize) -> Vec<Fate> {
    let pieces = pieces(text, layout, size, START, portion);
    check_tiles(text, &pieces);
    check_sizes(&pieces, size);
    pieces.iter().flat_map(|(piece, _)| fates_of(&work(layout, piece))).collect()
}

/// Stretches, rejected rows and the blank lines between them are the file, byte for byte.
fn check_tiles(text: &[u8], pieces: &[(Piece, TextPosition)]) {
    let at = |position: TextPosition| usize::try_from(position.offset).unwrap();
    let (mut from, mut rows) = (START, 0);
    for (piece, behind) in pieces {
        assert_eq!(from.row, rows);
        match piece {
            Piece::Rows(stretch) => {
                assert!(stretch.rows > 0);
                assert!(text[at(from)..at(stretch.at)].split(|b| *b == b'\n').all(is_blank));
                assert_eq!(&text[at(stretch.at)..at(*behind)], &stretch.text[..]);
                rows += stretch.rows;
            }
            Piece::Reject(row) => {
                let raw = trim_line_end(&text[at(*behind) - row_bytes(text, at(*behind), row)..at(*behind)]);
                assert_eq!(raw.len() as u64, row.raw_len);
                assert_eq!(&raw[..raw.len().min(MAX_RAW_BYTES)], &row.raw[..]);
                rows += 1;
            }
        }
        from = *behind;
    }
    assert!(text[at(from)..].split(|b| *b == b'\n').all(is_blank), "text behind the last row");
}

/// Windows are as large as the mini-batch size says, and no larger.
fn check_sizes(pieces: &[(Piece, TextPosition)], size: MiniBatchSize) {
    for (place, (piece, _)) in pieces.iter().enumerate() {
        let Piece::Rows(stretch) = piece else { continue };
        let next =
            pieces.get(place + 1).and_then(|(next, _)| if let Piece::Rows(next) = next { Some(next) } else { None });
        match size {
            MiniBatchSize::Rows(rows) => assert!(stretch.rows == rows || (stretch.rows < rows && next.is_none())),
            MiniBatchSize::Bytes(most) => {
                let most = usize::try_from(most.0).unwrap();
                assert!(stretch.rows == 1 || stretch.text.len() <= most);
                // The next window's first row had no room in this one.
                if let Some(next) = next.filter(|next| next.rows == 1 && stretch.text.len() < most) {
                    assert!(stretch.text.len() + next.text.len() > most);
                }
            }
        }
    }
}

/// The length of a rejected row that ends at `end`, its line end included.
fn row_bytes(text: &[u8], end: usize, row: &RejectedRow) -> usize {
    let line_end = text[..end].len() - trim_line_end(&text[..end]).len();
    usize::try_from(row.raw_len).unwrap() + line_end
}

/// The fates are the same for all sizes and portions, and each row stands where its line says.
fn check_fates(text: &[u8], layout: &TextLayout, sizes: &[&str], portion: usize) -> Vec<Fate> {
    let whole = fates(text, layout, size("8MB"), usize::MAX);
    for given in sizes {
        assert_eq!(fates(text, layout, size(given), portion), whole, "{given}");
    }
    let starts: Vec<usize> = std::iter::once(0).chain(memchr::memchr_iter(b'\n', text).map(|at| at + 1)).collect();
    for (place, fate) in whole.iter().enumerate() {
        assert_eq!(fate.row(), place as u64);
        if let Fate::Rejected(row) = fate {
            let start = starts[usize::try_from(row.line.unwrap()).unwrap() - 1];
            assert!(text[start..].starts_with(&row.raw));
        }
    }
    whole
}

/// A splitter that starts where another one was reads the pieces that it would have read.
fn check_resumes(text: &[u8], layout: &TextLayout, size: MiniBatchSize, portion: usize) {
    let whole = pieces(text, layout, size, START, usize::MAX);
    for (place, (_, behind)) in whole.iter().enumerate() {
        assert_eq!(pieces(text, layout, size, *behind, portion), &whole[place + 1..], "behind piece {place}");
    }
}

// Tables.

#[derive(Clone, Debug)]
struct Table {
    width: usize,
    rows: Vec<Vec<Option<String>>>,
    text: Vec<u8>,
    delimiter: u8,
    quote: u8,
}

/// A cell, whether it is quoted without need, and what stands behind it if it is a row's last.
type RawCell = (Option<String>, bool, u8);

fn render(width: usize, raw: Vec<Vec<RawCell>>, delimiter: u8, quote: u8, ends_with_line: bool) -> Table {
    let mut text = Vec::new();
    let mut rows = Vec::new();
    for row in raw {
        let mut end: &[u8] = b"\n";
        for (place, (cell, is_quoted, behind)) in row.iter().take(width).enumerate() {
            if place > 0 {
                text.push(delimiter);
            }
            let bytes = cell.as_deref().unwrap_or_default().as_bytes();
            let must =
                bytes.first() == Some(&quote) || bytes.iter().any(|b| *b == delimiter || matches!(b, b'\n' | b'\r'));
            // Nothing at all in a row's only cell would be a blank line.
            if must || (cell.is_some() && (*is_quoted || bytes.is_empty())) {
                text.push(quote);
                bytes.iter().for_each(|b| text.extend(std::iter::repeat_n(*b, if *b == quote { 2 } else { 1 })));
                text.push(quote);
            } else {
                text.extend_from_slice(bytes);
            }
            end = [b"\n".as_slice(), b"\r\n", b"\n\n", b"\r\n\r\n", b"\n\r\n\n"][usize::from(*behind)];
        }
        text.extend_from_slice(end);
        rows.push(row.into_iter().take(width).map(|(cell, ..)| cell).collect());
    }
    if !ends_with_line {
        text.truncate(trim_line_end(&text).len());
    }
    Table { width, rows, text, delimiter, quote }
}

fn table() -> impl Strategy<Value = Table> {
    (1usize..5, select(b",;\t|".to_vec()), select(b"\"'".to_vec()), any::<bool>()).prop_flat_map(
        |(width, delimiter, quote, ends_with_line)| {
            let text = vec(select(vec!['a', 'é', '"', '\'', ',', ';', '\t', '|', '\n', '\r', ' ', '7', '漢']), 0..6)
                .prop_map(String::from_iter);
            let cell = prop_oneof![4 => text.prop_map(Some), 1 => Just(None)]
                .prop_map(move |cell| if width == 1 { cell.or(Some(String::new())) } else { cell });
            let raw = vec(vec((cell, any::<bool>(), 0u8..5), width), 0..20);
            raw.prop_map(move |raw| render(width, raw, delimiter, quote, ends_with_line))
        },
    )
}

fn by_the_csv_crate(table: &Table) -> Vec<Vec<String>> {
    csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .delimiter(table.delimiter)
        .quote(table.quote)
        .from_reader(table.text.as_slice())
        .records()
        .map(|row| row.unwrap().iter().map(str::to_owned).collect())
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn a_table_reads_as_it_was_written_and_as_others_read_it(table in table(), portion in 1usize..40) {
        let layout = csv_layout(&vec![ColumnType::String; table.width], table.delimiter, table.quote);
        let fates = check_fates(&table.text, &layout, &SIZES, portion);
        let read: Vec<Vec<Option<String>>> = fates.into_iter().map(|fate| match fate {
            Fate::Cells { cells, .. } => cells,
            Fate::Rejected(row) => panic!("{row:?}"),
        }).collect();
        prop_assert_eq!(&read, &table.rows);
        let plain: Vec<Vec<String>> =
            read.into_iter().map(|row| row.into_iter().map(Option::unwrap_or_default).collect()).collect();
        prop_assert_eq!(plain, by_the_csv_crate(&table));
    }

    #[test]
    fn numbers_read_alike_with_and_without_quotes(
        rows in vec(vec("(-?[0-9]{0,17}\\.?[0-9]{0,17})|( ?-?[0-9]{1,3}(\\.[0-9])? ?)|NA|[0-9]e-?[0-9]{1,3}|inf|x", 3), 1..20),
        line_end in select(vec!["\n", "\r\n"]),
    ) {
        let types = [ColumnType::Float64; 3];
        let text = |cell: fn(&str) -> String| -> String {
            rows.iter().map(|row| row.iter().map(|c| cell(c)).collect::<Vec<_>>().join(",") + line_end).collect()
        };
        let layout = csv_layout(&types, b',', b'"');
        let plain = check_fates(text(str::to_owned).as_bytes(), &layout, &["1", "16B"], 7);
        let quoted = check_fates(text(|cell| format!("\"{cell}\"")).as_bytes(), &layout, &["1", "16B"], 7);
        prop_assert_eq!(plain.len(), quoted.len());
        for (plain, quoted) in plain.into_iter().zip(quoted) {
            match (plain, quoted) {
                (Fate::Rejected(plain), Fate::Rejected(quoted)) => prop_assert_eq!(plain.reason, quoted.reason),
                (plain, quoted) => prop_assert_eq!(plain, quoted),
            }
        }
    }
}

// Byte soup.

fn soup() -> impl Strategy<Value = Vec<u8>> {
    let morsel = prop_oneof![
        6 => Just(b"\"".to_vec()),
        6 => Just(b",".to_vec()),
        5 => Just(b"\n".to_vec()),
        2 => Just(b"\r\n".to_vec()),
        1 => Just(b"\r".to_vec()),
        3 => Just(b"\n\n\n".to_vec()),
        4 => Just(b"1.5,ab,7\n".to_vec()),
        2 => Just(b"\"2\",\"a\nb\",3\r\n".to_vec()),
        4 => vec(select(b"0123456789.-e".to_vec()), 1..4),
        2 => Just("é".as_bytes().to_vec()),
        1 => Just(vec![0xe9]),
        1 => Just(vec![0xff, 0x00]),
        2 => Just(b"abc".to_vec()),
        1 => Just(b" ".to_vec()),
    ];
    vec(morsel, 0..60).prop_map(|morsels| morsels.concat())
}

fn types() -> impl Strategy<Value = Vec<ColumnType>> {
    use ColumnType::{Boolean, Date, Float32, Float64, Int32, Int64, String};
    select(vec![
        vec![Float64, String, Int64],
        vec![Float64],
        vec![String],
        vec![Float64, Float64],
        vec![String, Boolean, Float32],
        vec![Date, String],
        vec![Int32, Float64, String],
    ])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_have_one_fate(soup in soup(), types in types(), portion in 1usize..40) {
        check_fates(&soup, &csv_layout(&types, b',', b'"'), &SIZES, portion);
    }

    #[test]
    fn any_bytes_have_one_fate_as_json(soup in json_soup(), portion in 1usize..40) {
        use ColumnType::{Boolean, Float64, Int64, String};
        check_fates(&soup, &json_layout(&[Float64, String, Int64, Boolean]), &SIZES, portion);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn a_resumed_pass_goes_on_with_the_same_pieces(soup in soup(), given in select(SIZES.to_vec()), portion in 1usize..40) {
        check_resumes(&soup, &csv_layout(&[ColumnType::Float64], b',', b'"'), size(given), portion);
        check_resumes(&soup, &json_layout(&[ColumnType::Float64]), size(given), portion);
    }
}

fn json_soup() -> impl Strategy<Value = Vec<u8>> {
    let morsel = select(vec![
        &b"{\"c0\": 1.5, \"c1\": \"a\", \"c2\": 3, \"c3\": true}\n"[..],
        b"{\"c0\": 1e3}\r\n",
        b"{\"c1\": \"\\u00e9\\n\"}\n",
        b"{\"c1\": {\"a\": [1, 2]}}\n",
        b"{\"c\\u0030\": 2}\n",
        b"{\"c0\": null}\n",
        b"{}\n",
        b"[]\n",
        b"{",
        b"}",
        b"\"c0\":",
        b"1",
        b",",
        b"\"",
        b"\\",
        b"\n",
        b"\r\n",
        b"\r",
        b" ",
        b"\xff",
        b"null",
        b"[[[[",
    ]);
    vec(morsel, 0..40).prop_map(|morsels| morsels.concat())
}

proptest! {
    #[test]
    fn objects_read_as_they_were_written(
        rows in vec((any::<f64>().prop_filter("JSON has no such numbers", |f| f.is_finite()), any::<Option<String>>(), any::<i64>(), any::<Option<bool>>(), 0u8..3), 0..20)
    ) {
        let mut text = Vec::new();
        let mut want = Vec::new();
        for (double, string, whole, truth, behind) in rows {
            let object = serde_json::json!({ "c3": truth, "c0": double, "c2": whole, "c1": string });
            serde_json::to_writer(&mut text, &object).unwrap();
            text.extend_from_slice([&b"\n"[..], b"\r\n", b"\n\n"][usize::from(behind)]);
            want.push((Some(double.to_bits()), string, Some(whole), truth));
        }
        let types = [ColumnType::Float64, ColumnType::String, ColumnType::Int64, ColumnType::Boolean];
        let layout = json_layout(&types);
        let mut read = Vec::new();
        for (piece, _) in pieces(&text, &layout, size("64B"), START, 9) {
            let (rows, rejected) = work(&layout, &piece).parse().unwrap();
            prop_assert_eq!(rejected, []);
            let rows = rows.unwrap();
            let column = |place: usize| rows.batch.column(place);
            for i in 0..rows.len() {
                let double = column(0).as_primitive::<arrow::datatypes::Float64Type>().value(i).to_bits();
                let string = column(1).is_valid(i).then(|| column(1).as_string::<i32>().value(i).to_owned());
                let whole = column(2).as_primitive::<arrow::datatypes::Int64Type>().value(i);
                let truth = column(3).is_valid(i).then(|| column(3).as_boolean().value(i));
                read.push((Some(double), string, Some(whole), truth));
            }
        }
        prop_assert_eq!(read, want);
    }
}

// Rows near the limit.

fn long_text() -> impl Strategy<Value = Vec<u8>> {
    let near = |limit: usize| (0usize..6).prop_map(move |more| limit + more - 3);
    let filler = prop_oneof![near(MAX_ROW_BYTES), near(MAX_ROW_BYTES / 2), near(MAX_RAW_BYTES), 1usize..300]
        .prop_map(|length| vec![b'x'; length]);
    let sharp =
        select(vec![&b"\n"[..], b"\r\n", b"\"", b",\"", b"\",", b"\"\"", b"\r", b"\n\n", b"a,b\n", b"\"a\nb\",c\n"])
            .prop_map(<[u8]>::to_vec);
    vec(prop_oneof![1 => filler, 3 => sharp], 1..14).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn rows_near_the_limit_have_one_fate(text in long_text(), portion in select(vec![777usize, 4096, 131_071, usize::MAX])) {
        let layout = csv_layout(&[ColumnType::String, ColumnType::String], b',', b'"');
        check_fates(&text, &layout, &["1", "3", "64B", "4KB", "128KB", "200KB"], portion);
        for given in ["1", "64B", "128KB", "200KB", "8MB"] {
            check_resumes(&text, &layout, size(given), portion);
        }
        check_fates(&text, &json_layout(&[ColumnType::String]), &["1", "64B", "200KB"], portion);
    }
}

fn reasons(text: &[u8], types: &[ColumnType]) -> Vec<Option<String>> {
    let fates = check_fates(text, &csv_layout(types, b',', b'"'), &SIZES, usize::MAX);
    fates.into_iter().map(|fate| if let Fate::Rejected(row) = fate { Some(row.reason) } else { None }).collect()
}

#[test]
fn a_row_of_100_mb_is_one_reject() {
    let mut text = b"1,a\n".to_vec();
    text.resize(100 << 20, b'x');
    text.extend_from_slice(b"\r\n2,b\n");
    let layout = csv_layout(&[ColumnType::Int64, ColumnType::String], b',', b'"');
    for given in ["1", "1MB", "8MB"] {
        let fates = fates(&text, &layout, size(given), usize::MAX);
        let [Fate::Cells { .. }, Fate::Rejected(long), Fate::Cells { row: 2, line: Some(3), .. }] = fates.as_slice()
        else {
            panic!("{fates:?}");
        };
        assert_eq!((long.raw.len(), long.raw_len), (MAX_RAW_BYTES, (100 << 20) - 4));
        assert_eq!(long.reason, "the row has 104857598 bytes, over the limit of 128KB a row");
    }
}

#[test]
fn a_line_end_is_no_part_of_a_long_row_wherever_a_read_cuts_it() {
    let layout = csv_layout(&[ColumnType::String], b',', b'"');
    for length in [MAX_ROW_BYTES + 4, 256 << 10, 512 << 10, 1 << 20].iter().flat_map(|near| near - 3..near + 3) {
        let text = [&vec![b'x'; length], &b"\r\na\n"[..]].concat();
        let fates = check_fates(&text, &layout, &["1", "64B", "128KB"], usize::MAX);
        let [Fate::Rejected(long), Fate::Cells { row: 1, line: Some(2), .. }] = fates.as_slice() else {
            panic!("{length}");
        };
        assert_eq!(long.raw_len, length as u64);
    }
}

#[test]
fn a_stray_quote_costs_its_line_alone() {
    let unclosed = || Some("a quote is opened in this row and not closed".to_owned());
    let text = [ColumnType::String, ColumnType::String];
    assert_eq!(reasons(b"a,b\n\"c,d\ne,f\n", &text), [None, unclosed(), None]);
    assert_eq!(reasons(b"a,b\nc,\"d", &text), [None, unclosed()]);
    assert_eq!(reasons(b"\"", &[ColumnType::String]), [unclosed()]);
    // A quote within a field is text.
    assert_eq!(reasons(b"5\" disk,6\"\n", &text), [None]);
}

#[test]
fn faults_are_told_in_a_sentence() {
    use ColumnType::{Boolean, Date, Float32, Float64, Int32, Int64, String, Timestamp};
    let reason = |text: &str, types: &[ColumnType]| reasons(text.as_bytes(), types).remove(0).unwrap_or_default();
    assert_eq!(reason("1\n", &[Int64, Int64]), "the row has 1 field, 2 expected");
    assert_eq!(reason("1,2,3\n", &[Int64, Int64]), "the row has 3 fields, 2 expected");
    assert_eq!(reasons(b"a\xe9\n", &[String]), [Some("the row is not UTF-8 text".to_owned())]);
    for (cell, of_type, wanted) in [
        ("1e309", Float64, "a number (float64)"),
        ("3.5e38", Float32, "a number (float32)"),
        ("0x10", Float64, "a number (float64)"),
        ("9223372036854775808", Int64, "a whole number (int64)"),
        ("2147483648", Int32, "a whole number (int32)"),
        ("1.0", Int64, "a whole number (int64)"),
        ("yes", Boolean, "true or false"),
        ("2026-02-30", Date, "a date such as 2026-01-31"),
        ("2026-01-31T10:00:00", Date, "a date such as 2026-01-31"),
        ("2026-01-31T10:00:00+02:00", Timestamp, "a time such as 2026-01-31T02:00:00"),
        ("2026-01-31T10:00:00Z", Timestamp, "a time such as 2026-01-31T02:00:00"),
    ] {
        assert_eq!(reason(&format!("{cell}\n"), &[of_type]), format!("column \"c0\" holds {cell:?}, not {wanted}"));
    }
    for (cell, of_type) in [
        ("NaN", Float64),
        ("-inf", Float64),
        ("1.7976931348623157e308", Float64),
        ("-9223372036854775808", Int64),
        (" 7 ", Int32),
        ("TRUE", Boolean),
        ("NA", Date),
        ("2026-01-31T10:00:00.123456", Timestamp),
        ("2026-01-31 10:00:00", Timestamp),
        ("a\rb", String),
    ] {
        assert_eq!(reasons(format!("{cell}\n").as_bytes(), &[of_type]), [None], "{cell}");
    }
}

#[test]
fn a_reason_is_short_however_long_the_value() {
    let line = format!("\"{}\"\n", "\u{7f}".repeat(100_000));
    let fates = check_fates(line.as_bytes(), &json_layout(&[ColumnType::String]), &["1"], usize::MAX);
    let [Fate::Rejected(row)] = fates.as_slice() else { panic!("{fates:?}") };
    assert!(row.reason.len() <= 1024);
    let nested = format!("{{\"c0\": {}\n", "[".repeat(100_000));
    let fates = check_fates(nested.as_bytes(), &json_layout(&[ColumnType::String]), &["1"], usize::MAX);
    assert!(matches!(fates.as_slice(), [Fate::Rejected(_)]));
}

// Frames.

fn lines(count: usize, mut line: impl FnMut(usize) -> String) -> String {
    (0..count).map(|i| line(i) + "\n").collect()
}

fn origin() -> Origin {
    Origin { run: RunId::new("run"), window: 7, file: 2, model: None }
}

/// All windows of a text, encoded and decoded again, are the rows and rejects that were parsed.
fn check_frames(text: &[u8], layout: &TextLayout, size: MiniBatchSize) -> usize {
    let mut count = 0;
    for (piece, _) in pieces(text, layout, size, START, usize::MAX) {
        let work = work(layout, &piece);
        let window = Window::new(&origin(), &work).unwrap();
        let (mut decoded, mut sum) = (Vec::new(), scoreline::record::Checksum::default());
        for (place, frame) in window.frames.iter().enumerate() {
            let headers = frame.headers().unwrap();
            let bytes = frame.value.len() + headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
            assert!(bytes <= MAX_FRAME_BYTES, "{bytes}");
            let header =
                frame::decode_header(headers.iter().find(|(name, _)| name == frame::FRAME_HEADER).map(|(_, v)| v))
                    .unwrap();
            assert_eq!(header, frame.header);
            assert_eq!(header.last, place + 1 == window.frames.len());
            let frame_sum = header.sum.unwrap();
            sum += frame_sum;
            match header.kind {
                FrameKind::Rows => {
                    let rows = frame::decode_rows(&header, Some(&frame.value)).unwrap();
                    assert_eq!(rows.checksum(), frame_sum);
                    let columns: Vec<ArrayRef> =
                        rows.batch.columns().iter().map(|column| compact::unpack(column).unwrap()).collect();
                    let fields: Vec<_> = rows
                        .batch
                        .schema()
                        .fields()
                        .iter()
                        .zip(&columns)
                        .map(|(field, column)| field.as_ref().clone().with_data_type(column.data_type().clone()))
                        .collect();
                    let batch = RecordBatch::try_new(arrow::datatypes::Schema::new(fields).into(), columns).unwrap();
                    for ((place, row), cells) in rows.numbers.iter().enumerate().zip(cells(&batch)) {
                        decoded.push(Fate::Cells { row, line: rows.lines.line(place, row), cells });
                    }
                }
                FrameKind::Rejects => {
                    let rows = rejects::from_batch(&frame::decode_batch(Some(&frame.value)).unwrap()).unwrap();
                    assert!(rows.iter().map(|row| row.row).eq(header.rows.iter()));
                    decoded.extend(rows.into_iter().map(Fate::Rejected));
                }
            }
        }
        decoded.sort_by_key(Fate::row);
        assert_eq!(decoded, fates_of(&work));
        assert_eq!((window.rows, window.sum), (decoded.len() as u64, sum));
        count += window.frames.len();
    }
    count
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn frames_carry_rows_and_rejects(soup in soup(), types in types(), given in select(vec!["3", "64B", "8MB"])) {
        check_frames(&soup, &csv_layout(&types, b',', b'"'), size(given));
    }
}

/// Text without delimiters that does not compress.
fn noise(length: usize) -> String {
    let mut seed = length as u64;
    let next = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b'0' + u8::try_from(seed >> 58).unwrap())
    };
    std::iter::repeat_with(next).take(length).collect()
}

#[test]
fn frames_stay_small_whatever_the_rows() {
    const TEXT: ColumnType = ColumnType::String;
    const DOUBLE: ColumnType = ColumnType::Float64;
    const WHOLE: ColumnType = ColumnType::Int64;
    let check = |types: &[ColumnType], text: String| {
        assert!(check_frames(text.as_bytes(), &csv_layout(types, b',', b'"'), size("8MB")) > 1);
    };
    // Few distinct values, many rows: dictionaries.
    check(&[DOUBLE, TEXT, WHOLE], lines(60_000, |i| format!("{}.5,label {},{i}", i % 50, i % 3)));
    // Every other row is rejected, with and without long raw bytes.
    check(&[WHOLE], lines(20_000, |i| format!("{}{i}", if i % 2 == 0 { "" } else { "x" })));
    check(&[WHOLE, WHOLE], lines(40, |i| format!("{},{i}", "y".repeat(3000 * i))));
    // Long text, on rows of more than one line.
    check(&[TEXT, WHOLE], lines(60, |i| format!("\"{}\n{}\",{i}", noise(i * 1000), noise(i * 1100))));
    // Many columns.
    let wide: Vec<ColumnType> = (0..784).map(|i| if i % 3 == 0 { TEXT } else { DOUBLE }).collect();
    let cell = |i: usize, c: usize| if c.is_multiple_of(3) { format!("t{}", i * c) } else { format!("{}.25", i + c) };
    check(&wide, lines(200, |i| (0..784).map(|c| cell(i, c)).collect::<Vec<_>>().join(",")));
}

#[test]
fn a_row_that_fits_no_frame_is_rejected_alone() {
    // So many columns that there is no room left for a long text.
    let wide = vec![ColumnType::String; 700];
    let noise = noise(120_000);
    let text = lines(50, |i| format!("{i},{}{}", if i == 17 { &noise } else { "short" }, ",z".repeat(698)));
    let layout = csv_layout(&wide, b',', b'"');
    for given in ["1", "7", "8MB"] {
        let (mut rejected, mut rows) = (Vec::new(), 0);
        for (piece, _) in pieces(text.as_bytes(), &layout, size(given), START, usize::MAX) {
            let window = Window::new(&origin(), &work(&layout, &piece)).unwrap();
            rows += window.rows;
            for frame in window.frames.iter().filter(|frame| frame.header.kind == FrameKind::Rejects) {
                rejected.extend(rejects::from_batch(&frame::decode_batch(Some(&frame.value)).unwrap()).unwrap());
            }
        }
        let [row] = rejected.as_slice() else { panic!("{}", rejected.len()) };
        assert_eq!((rows, row.row, row.line), (50, 17, Some(18)));
        assert_eq!(row.reason, "the row does not fit a message of 256 KB");
        assert!(text.contains(std::str::from_utf8(&row.raw).unwrap()) && row.raw.starts_with(b"17,"));
    }
}

#[test]
fn an_empty_text_has_no_rows() {
    let layout = csv_layout(&[ColumnType::Float64], b',', b'"');
    for text in [&b""[..], b"\n", b"\r\n\r\n\n", b"\r"] {
        assert_eq!(check_fates(text, &layout, &SIZES, 1), []);
    }
    assert_eq!(Bytes::new(), Bytes::from_static(b""));
}
