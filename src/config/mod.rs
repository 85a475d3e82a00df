//! Settings, in layers: the embedded defaults, a file, the environment, flags.
//!
//! Every fault is listed at once, each with where it comes from. A setting that `configs/defaults.toml` does not have
//! is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use config::{Config, Environment, File, FileFormat, Map, Value, ValueKind};

use crate::ingest::columns::ColumnType;
use crate::ingest::{DatasetOptions, Format};
use crate::record::run::{Missing, OutputAction, OutputFormat};
use crate::record::{ByteSize, MiniBatchSize};

/// The defaults, with what each setting means.
pub const DEFAULTS: &str = include_str!("../../configs/defaults.toml");
/// The file that is read where it is there and no other is named.
pub const DEFAULT_FILE: &str = "scoreline.toml";
const ENVIRONMENT: &str = "SCORELINE";
/// Where flags come from, for people.
const COMMAND_LINE: &str = "the command line";

/// Settings that cannot be: all of them at once.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct Faults(pub Vec<String>);

/// What flags say: settings by name.
pub type Flags = BTreeMap<String, Setting>;

/// A setting as a flag says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Setting {
    /// One value.
    One(String),
    /// A list.
    List(Vec<String>),
    /// Names with values.
    Table(BTreeMap<String, String>),
}

/// All settings, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Rows or bytes of a window.
    pub mini_batch_size: MiniBatchSize,
    /// Rows that may fail; -1: any number.
    pub error_threshold: i64,
    /// How often a window or a row is tried.
    pub run_max_try: u32,
    /// How long one window may take.
    pub run_invocation_timeout: Duration,
    /// Scoring threads, at least 1.
    pub process_count_per_node: usize,
    /// Partitions of the input topic.
    pub partitions: u32,
    /// What a missing value means.
    pub missing: Missing,
    /// Whether probabilities are written.
    pub probabilities: bool,
    /// How the input is read.
    pub dataset: DatasetOptions,
    /// Which columns feed which model input.
    pub map: BTreeMap<String, String>,
    /// The output's format; `None`: by its name.
    pub format: Option<OutputFormat>,
    /// What comes out.
    pub output_action: OutputAction,
    /// Rows of a part.
    pub part_rows: u64,
    /// Rows of a Parquet row group.
    pub row_group_rows: u64,
    /// Whether formulas are disarmed.
    pub escape_formulas: bool,
    /// The most disk of the embedded log.
    pub log_quota: ByteSize,
    /// The ONNX Runtime library.
    pub onnx_runtime: Option<PathBuf>,
    /// How much is logged.
    pub logging_level: String,
}

/// The layers before they are checked.
pub struct Layers {
    values: Map<String, Value>,
    /// What is said of names that no setting has.
    unknown: Vec<String>,
}

impl Layers {
    /// Reads all layers. `file` is the one that the user named.
    ///
    /// # Errors
    /// A file that cannot be read or is not TOML.
    pub fn read(file: Option<&Path>, flags: &Flags) -> Result<Self, Faults> {
        let fault = |e: config::ConfigError| Faults(vec![e.to_string()]);
        let defaults =
            Config::builder().add_source(File::from_str(DEFAULTS, FileFormat::Toml)).build().map_err(fault)?;
        let known: BTreeSet<String> = defaults.collect_keys().map_err(fault)?;
        let mut builder = Config::builder().add_source(File::from_str(DEFAULTS, FileFormat::Toml));
        builder = match file {
            Some(path) => builder.add_source(File::from(path).format(FileFormat::Toml)),
            None => builder.add_source(File::new(DEFAULT_FILE, FileFormat::Toml).required(false)),
        };
        builder = builder.add_source(Environment::with_prefix(ENVIRONMENT).prefix_separator("_").ignore_empty(true));
        for (name, setting) in flags {
            let value = Value::new(Some(&COMMAND_LINE.to_owned()), setting.clone());
            builder = builder.set_override(name, value).map_err(fault)?;
        }
        let values = builder.build().and_then(Config::cache_values).map_err(fault)?;
        let unknown = |name: &String| {
            let origin = values[name].origin().map(|o| format!(" (from {o})")).unwrap_or_default();
            format!("there is no setting {name:?}{origin}{}", nearest(name, &known))
        };
        let mut unknown: Vec<String> = values.keys().filter(|name| !known.contains(*name)).map(unknown).collect();
        unknown.sort();
        Ok(Self { values, unknown })
    }

    /// The settings as TOML, each with where it comes from.
    pub fn dump(&self) -> String {
        let mut lines: Vec<String> = self
            .values
            .iter()
            .map(|(name, value)| {
                let origin = origins(value).into_iter().collect::<Vec<_>>().join(", ");
                let origin = if origin.is_empty() { String::new() } else { format!("  # {origin}") };
                format!("{name} = {}{origin}", toml_text(value))
            })
            .collect();
        lines.sort();
        lines.join("\n") + "\n"
    }

    /// Checks every setting.
    ///
    /// # Errors
    /// All faults at once.
    pub fn check(&self) -> Result<Settings, Faults> {
        let mut read = Reader { values: &self.values, faults: self.unknown.clone() };
        let settings = read.settings();
        match settings {
            Some(settings) if read.faults.is_empty() => Ok(settings),
            _ => Err(Faults(read.faults)),
        }
    }
}

trait CollectKeys {
    fn collect_keys(self) -> Result<BTreeSet<String>, config::ConfigError>;
    fn cache_values(self) -> Result<Map<String, Value>, config::ConfigError>;
}

impl CollectKeys for Config {
    fn collect_keys(self) -> Result<BTreeSet<String>, config::ConfigError> {
        Ok(self.cache_values()?.into_keys().collect())
    }

    fn cache_values(self) -> Result<Map<String, Value>, config::ConfigError> {
        self.cache.into_table()
    }
}

impl From<Setting> for ValueKind {
    fn from(setting: Setting) -> Self {
        match setting {
            Setting::One(text) => text.into(),
            Setting::List(texts) => texts.into(),
            Setting::Table(table) => {
                // Tables of several layers become one, so each value says where it comes from.
                let value = |text: String| Value::new(Some(&COMMAND_LINE.to_owned()), text);
                table.into_iter().map(|(k, v)| (k, value(v))).collect::<Map<_, _>>().into()
            }
        }
    }
}

/// Where a setting comes from, but for the defaults.
fn origins(value: &Value) -> BTreeSet<String> {
    match &value.kind {
        ValueKind::Table(table) => table.values().flat_map(origins).collect(),
        _ => value.origin().filter(|origin| !origin.is_empty()).map(str::to_owned).into_iter().collect(),
    }
}

fn toml_text(value: &Value) -> String {
    match &value.kind {
        ValueKind::Boolean(v) => v.to_string(),
        ValueKind::I64(v) => v.to_string(),
        ValueKind::Array(values) => format!("[{}]", values.iter().map(toml_text).collect::<Vec<_>>().join(", ")),
        ValueKind::Table(table) => {
            let mut pairs: Vec<_> =
                table.iter().map(|(k, v)| format!("{} = {}", toml::Value::from(k.as_str()), toml_text(v))).collect();
            pairs.sort();
            if pairs.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", pairs.join(", ")) }
        }
        _ => toml::Value::from(value.clone().into_string().unwrap_or_default()).to_string(),
    }
}

fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a String>) -> String {
    let likeness = |other: &&String| (strsim::jaro_winkler(name, other) * 1000.0) as u64;
    match known.into_iter().max_by_key(likeness).filter(|other| likeness(other) > 800) {
        Some(other) => format!("; did you mean {other:?}?"),
        None => String::new(),
    }
}

/// Reads typed settings and gathers their faults.
struct Reader<'a> {
    values: &'a Map<String, Value>,
    faults: Vec<String>,
}

impl Reader<'_> {
    fn fault<T>(&mut self, name: &str, why: &str) -> Option<T> {
        let origin = self.values.get(name).and_then(Value::origin).filter(|o| !o.is_empty());
        let origin = origin.map(|o| format!(" (from {o})")).unwrap_or_default();
        self.faults.push(format!("{name}{origin}: {why}"));
        None
    }

    fn text(&mut self, name: &str) -> Option<String> {
        match self.values.get(name).cloned().map(Value::into_string) {
            Some(Ok(text)) => Some(text.trim().to_owned()),
            _ => self.fault(name, "one value is wanted here"),
        }
    }

    fn parsed<T>(&mut self, name: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let text = self.text(name)?;
        match parse(&text) {
            Ok(value) => Some(value),
            Err(why) => self.fault(name, &why),
        }
    }

    /// A setting that may be empty. The outer option is whether it could be read.
    #[allow(clippy::option_option, reason = "a fault and an empty setting are different things")]
    fn optional<T>(&mut self, name: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<Option<T>> {
        self.parsed(name, |text| if text.is_empty() { Ok(None) } else { parse(text).map(Some) })
    }

    fn number(&mut self, name: &str, least: i64, most: i64) -> Option<i64> {
        self.parsed(name, |text| {
            let number = text.parse().ok().filter(|n| (least..=most).contains(n));
            number.ok_or_else(|| format!("{text:?} is not a whole number from {least} to {most}"))
        })
    }

    fn choice<T: Copy>(&mut self, name: &str, choices: &[(&str, T)]) -> Option<T> {
        self.parsed(name, |text| choose(text, choices))
    }

    fn truth(&mut self, name: &str) -> Option<bool> {
        self.choice(name, &[("true", true), ("false", false), ("1", true), ("0", false)])
    }

    fn list(&mut self, name: &str) -> Option<Vec<String>> {
        let value = self.values.get(name)?.clone();
        if let ValueKind::String(text) = &value.kind {
            return Some(text.split(',').map(|item| item.trim().to_owned()).filter(|item| !item.is_empty()).collect());
        }
        match value.into_array().and_then(|items| items.into_iter().map(Value::into_string).collect()) {
            Ok(items) => Some(items),
            Err(_) => self.fault(name, "a list is wanted here"),
        }
    }

    fn table(&mut self, name: &str) -> Option<BTreeMap<String, String>> {
        let value = self.values.get(name)?.clone();
        let texts = |table: Map<String, Value>| table.into_iter().map(|(k, v)| Ok((k, v.into_string()?))).collect();
        match value.into_table().and_then(texts) {
            Ok(table) => Some(table),
            Err(_) => self.fault(name, "names with values are wanted here, such as { name = \"value\" }"),
        }
    }

    fn column_types(&mut self) -> Option<Vec<(String, ColumnType)>> {
        let table = self.table("column_types")?;
        let mut types = Vec::new();
        for (column, text) in table {
            match text.parse() {
                Ok(column_type) => types.push((column, column_type)),
                Err(why) => return self.fault("column_types", &format!("{column}: {why}")),
            }
        }
        Some(types)
    }

    fn dataset(&mut self) -> Option<DatasetOptions> {
        let format = self.optional("input_format", str::parse::<Format>);
        let delimiter = self.optional("delimiter", one_byte);
        let quote = self.optional("quote", one_byte);
        let header = self.truth("header");
        let column_names = self.list("column_names");
        let column_types = self.column_types();
        let null_values = self.list("null_values");
        Some(DatasetOptions {
            format: format?,
            delimiter: delimiter?,
            quote: quote?,
            header: header?,
            column_names: column_names?,
            column_types: column_types?,
            null_values: null_values?,
        })
    }

    /// Reads everything before it gives up on anything, so that all faults are found.
    fn settings(&mut self) -> Option<Settings> {
        let mini_batch_size = self.parsed("mini_batch_size", str::parse::<MiniBatchSize>);
        let error_threshold = self.number("error_threshold", -1, i64::MAX);
        let run_max_try = self.number("run_max_try", 1, 100);
        let run_invocation_timeout = self.parsed("run_invocation_timeout", duration);
        let threads = self.number("process_count_per_node", 0, 1024);
        let partitions = self.number("partitions", 1, 1000);
        let missing = self.choice("missing", &[("nan", Missing::Nan), ("fail", Missing::Fail)]);
        let probabilities = self.truth("probabilities");
        let dataset = self.dataset();
        let map = self.table("map");
        let formats = [("csv", OutputFormat::Csv), ("parquet", OutputFormat::Parquet)];
        let format = self.optional("format", |text| choose(text, &formats));
        let actions = [
            ("append_row", OutputAction::AppendRow),
            ("parts", OutputAction::Parts),
            ("summary_only", OutputAction::SummaryOnly),
        ];
        let output_action = self.choice("output_action", &actions);
        let part_rows = self.number("part_rows", 1, i64::MAX);
        let row_group_rows = self.number("row_group_rows", 1, 1 << 24);
        let escape_formulas = self.truth("escape_formulas");
        let log_quota = self.parsed("log_quota", quota);
        let onnx_runtime = self.optional("onnx_runtime", |text| Ok(PathBuf::from(text)));
        let logging_level = self.text("logging_level");
        Some(Settings {
            mini_batch_size: mini_batch_size?,
            error_threshold: error_threshold?,
            run_max_try: u32::try_from(run_max_try?).ok()?,
            run_invocation_timeout: run_invocation_timeout?,
            process_count_per_node: match usize::try_from(threads?).ok()? {
                0 => std::thread::available_parallelism().map_or(1, usize::from),
                threads => threads,
            },
            partitions: u32::try_from(partitions?).ok()?,
            missing: missing?,
            probabilities: probabilities?,
            dataset: dataset?,
            map: map?,
            format: format?,
            output_action: output_action?,
            part_rows: u64::try_from(part_rows?).ok()?,
            row_group_rows: u64::try_from(row_group_rows?).ok()?,
            escape_formulas: escape_formulas?,
            log_quota: log_quota?,
            onnx_runtime: onnx_runtime?,
            logging_level: logging_level?,
        })
    }
}

fn choose<T: Copy>(text: &str, choices: &[(&str, T)]) -> Result<T, String> {
    let found = choices.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)).map(|(_, value)| *value);
    found.ok_or_else(|| {
        let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
        format!("{text:?} is none of {}", names.join(", "))
    })
}

fn one_byte(text: &str) -> Result<u8, String> {
    match text {
        "\\t" | "tab" => Ok(b'\t'),
        _ => match text.as_bytes() {
            [byte] if byte.is_ascii() && !byte.is_ascii_alphanumeric() => Ok(*byte),
            _ => Err(format!("{text:?} is not one character that can stand between or around fields")),
        },
    }
}

/// The embedded log needs room for two segments and what is between ingest and sink.
fn quota(text: &str) -> Result<ByteSize, String> {
    let least = ByteSize(64 << 20);
    let size: ByteSize = text.parse()?;
    if size < least { Err(format!("{text:?} is too small, the log needs at least {least}")) } else { Ok(size) }
}

/// `500ms`, `60s`, `5m`, `1h`; a bare number is seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor = match unit.trim() {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => f64::NAN,
    };
    let seconds = number.parse().map_or(f64::NAN, |n: f64| n * factor);
    Duration::try_from_secs_f64(seconds)
        .ok()
        .filter(|d| !d.is_zero())
        .ok_or_else(|| format!("{text:?} is not a time such as 60, 500ms, 60s or 5m"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The settings of an empty file and these flags.
    fn checked(flags: &Flags) -> Result<Settings, Faults> {
        let file = tempfile::NamedTempFile::new().unwrap();
        Layers::read(Some(file.path()), flags)?.check()
    }

    #[test]
    fn the_defaults_are_settings() {
        let settings = checked(&Flags::new()).unwrap();
        assert_eq!(settings.run_max_try, 3);
        assert_eq!(settings.run_invocation_timeout, Duration::from_mins(1));
    }

    #[test]
    fn all_faults_are_listed_with_where_they_come_from() {
        let flags = [("run_max_try", "0"), ("missing", "maybe"), ("delimiter", "ab"), ("log_quota", "1KB")];
        let flags = flags.map(|(name, text)| (name.to_owned(), Setting::One(text.to_owned()))).into();
        let faults = checked(&flags).unwrap_err().0;
        assert_eq!(faults.len(), 4, "{faults:?}");
    }

    #[test]
    fn unknown_settings_are_refused_with_the_nearest() {
        let flags = [("mini_bach_size".to_owned(), Setting::One("1".to_owned()))].into();
        let faults = checked(&flags).unwrap_err();
        assert!(faults.0[0].contains("did you mean \"mini_batch_size\""), "{faults}");
    }

    #[test]
    fn durations_are_read_as_people_write_them() {
        assert_eq!(duration("60"), Ok(Duration::from_mins(1)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert!(duration("0").is_err() && duration("soon").is_err() && duration("-1s").is_err());
    }
}
