//! How fast `scoreline score` is, as ratios in one run with its floor and its peers.
//!
//! `cargo bench --bench score` (10 million rows, three rounds; some minutes). Options after `--`: `--rows N`,
//! `--rounds N`, `--big-rows N` (0: leave the memory comparison out), `--python PATH` (a Python that has
//! `benches/peers/requirements.txt`; without it the peers are left out), `--threads N`.
//!
//! The floor is a bare loop in this binary that parses the same CSV with the same parser, calls the same sessions and
//! writes the same CSV on the same threads, with no log between. Each measured command is a process of its own;
//! rounds take the commands in turn, so that a machine that drifts drifts for all.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a benchmark that panics has failed, and says where")]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema};
use scoreline::control::local::open_dataset;
use scoreline::ingest::DatasetOptions;
use scoreline::ingest::reader::{Reader, Work};
use scoreline::record::run::Missing;
use scoreline::record::{ByteSize, MiniBatchSize};
use scoreline::score::features::Features;
use scoreline::score::scorer::{Scorer, Unguarded};
use scoreline::score::{Binding, Candidates, Model, Runtime};
use scoreline::sink::csv::write_rows;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("bare") => bare(Path::new(&args[1]), Path::new(&args[2]), Path::new(&args[3]), args[4].parse().unwrap()),
        Some("sessions") => sessions(Path::new(&args[1]), args[2].parse().unwrap(), args[3].parse().unwrap()),
        Some("measure") => measure_child(&args[1..]),
        _ => Bench::new(&args).run(),
    }
}

/// What one process took.
#[derive(Clone, Copy)]
struct Figures {
    wall: f64,
    cpu: f64,
    peak_mb: f64,
}

/// Runs a command and prints what it took; a process of its own, so that the figures are that child's alone.
fn measure_child(command: &[String]) {
    let begun = Instant::now();
    let status =
        Command::new(&command[0]).args(&command[1..]).stdout(File::create("/dev/null").unwrap()).status().unwrap();
    let wall = begun.elapsed().as_secs_f64();
    assert!(status.success(), "{command:?} failed");
    // SAFETY: the call writes the structure that it is given, and zeros are a valid one.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage);
        usage
    };
    let seconds = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 / 1e6;
    let cpu = seconds(usage.ru_utime) + seconds(usage.ru_stime);
    println!("{wall} {cpu} {}", usage.ru_maxrss as f64 / 1024.0);
}

fn measure(command: &[OsString]) -> Figures {
    let output = Command::new(std::env::current_exe().unwrap()).arg("measure").args(command).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let mut numbers = text.split_whitespace().map(|n| n.parse().unwrap());
    let mut next = || numbers.next().unwrap();
    Figures { wall: next(), cpu: next(), peak_mb: next() }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

struct Bench {
    rows: u64,
    big_rows: u64,
    rounds: usize,
    threads: usize,
    python: Option<PathBuf>,
    folder: tempfile::TempDir,
}

impl Bench {
    fn new(args: &[String]) -> Self {
        let value = |name: &str| args.iter().position(|a| a == name).map(|at| args[at + 1].clone());
        let number = |name: &str, default: u64| value(name).map_or(default, |text| text.parse().unwrap());
        let cores = std::thread::available_parallelism().map_or(1, usize::from) as u64;
        Self {
            rows: number("--rows", 10_000_000),
            big_rows: number("--big-rows", 40_000_000),
            rounds: usize::try_from(number("--rounds", 3)).unwrap(),
            threads: usize::try_from(number("--threads", cores)).unwrap(),
            python: value("--python").map(PathBuf::from),
            folder: tempfile::tempdir_in(std::env::var("BENCH_FOLDER").unwrap_or_else(|_| ".".to_owned())).unwrap(),
        }
    }

    fn rows_file(&self, rows: u64) -> PathBuf {
        let folder = self.folder.path().join(format!("rows-{rows}"));
        let mut demo = Command::new(env!("CARGO_BIN_EXE_scoreline"));
        demo.args(["demo", "--prepare", "--quiet", "--rows"]).arg(rows.to_string()).arg("--folder").arg(&folder);
        assert!(demo.status().unwrap().success());
        folder.join("rows.csv")
    }

    fn scoreline(&self, model: &Path, rows: &Path) -> Vec<OsString> {
        let output = self.folder.path().join("scoreline.csv");
        let mut command = vec![OsString::from(env!("CARGO_BIN_EXE_scoreline"))];
        command.extend(["score", "--quiet", "--overwrite", "--threads"].map(OsString::from));
        command.extend([self.threads.to_string().into(), "--model".into(), model.into(), "--input".into()]);
        command.extend([rows.into(), "--output".into(), output.into()]);
        command
    }

    fn bare(&self, model: &Path, rows: &Path) -> Vec<OsString> {
        let output = self.folder.path().join("bare.csv");
        let this = std::env::current_exe().unwrap();
        vec![this.into(), "bare".into(), model.into(), rows.into(), output.into(), self.threads.to_string().into()]
    }

    fn peer(&self, name: &str, model: &Path, rows: &Path) -> Option<(String, Vec<OsString>)> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("benches/peers/{name}_score.py"));
        let output = self.folder.path().join(format!("{name}.csv"));
        let mut command = vec![self.python.clone()?.into(), script.into(), "--model".into(), model.into()];
        command.extend(["--input".into(), rows.into(), "--output".into(), output.into()]);
        command.extend(["--threads".into(), self.threads.to_string().into()]);
        Some((name.to_owned(), command))
    }

    fn run(&self) {
        println!("machine: {}, {} threads used", machine(), self.threads);
        println!("{} rows, {} rounds, medians; CPU is seconds of user and system time\n", self.rows, self.rounds);
        let rows = self.rows_file(self.rows);
        for (title, model) in
            [("logistic regression", "iris_lr_tensor_float"), ("random forest of 100 trees", "iris_rf100_tensor_float")]
        {
            let model = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/models/{model}.onnx"));
            self.compare(title, &model, &rows);
        }
        if self.big_rows > 0 {
            self.memory();
        }
    }

    fn compare(&self, title: &str, model: &Path, rows: &Path) {
        let this: OsString = std::env::current_exe().unwrap().into();
        let (count, threads) = (self.rows.to_string(), self.threads.to_string());
        let mut commands = vec![
            ("scoreline".to_owned(), self.scoreline(model, rows)),
            ("bare loop".to_owned(), self.bare(model, rows)),
            ("bare sessions".to_owned(), vec![this, "sessions".into(), model.into(), count.into(), threads.into()]),
        ];
        commands.extend(["polars", "pandas"].into_iter().filter_map(|name| self.peer(name, model, rows)));
        if self.python.is_none() {
            println!("LOUD: no --python was given: polars and pandas are left out");
        }
        let mut figures: BTreeMap<String, Vec<Figures>> = BTreeMap::new();
        for _ in 0..self.rounds {
            for (name, command) in &commands {
                figures.entry(name.clone()).or_default().push(measure(command));
            }
        }
        let outputs = ["scoreline.csv", "bare.csv"].map(|name| std::fs::read(self.folder.path().join(name)).unwrap());
        assert!(outputs[0] == outputs[1], "scoreline and the bare loop differ");
        println!("{title}");
        println!(
            "  {:<14} {:>8} {:>8} {:>10} {:>9} {:>22}",
            "", "wall s", "CPU s", "peak MB", "M rows/s", "wall / scoreline's"
        );
        let ours: Vec<f64> = figures["scoreline"].iter().map(|f| f.wall).collect();
        for (name, _) in &commands {
            let of = |pick: fn(&Figures) -> f64| figures[name].iter().map(pick).collect::<Vec<_>>();
            let wall = median(of(|f| f.wall));
            let ratio = median(of(|f| f.wall).iter().zip(&ours).map(|(a, b)| a / b).collect());
            println!(
                "  {name:<14} {wall:>8.2} {:>8.2} {:>10.0} {:>9.2} {ratio:>22.2}",
                median(of(|f| f.cpu)),
                median(of(|f| f.peak_mb)),
                self.rows as f64 / wall / 1e6
            );
        }
        println!();
    }

    fn memory(&self) {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/iris_lr_tensor_float.onnx");
        println!("peak memory of scoreline, logistic regression");
        for rows in [self.rows / 10, self.rows, self.big_rows] {
            let file = self.rows_file(rows);
            let figures = measure(&self.scoreline(&model, &file));
            println!("  {rows:>12} rows {:>6.0} MB {:>8.2} s", figures.peak_mb, figures.wall);
            std::fs::remove_file(file).unwrap();
        }
    }
}

fn machine() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name =
        info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, n)| n.to_owned()));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{}, {cores} processors", name.unwrap_or_else(|| std::env::consts::ARCH.to_owned()))
}

fn load(model: &Path) -> Arc<Model> {
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or(home).unwrap().join("scoreline");
    let given = std::env::var_os("ORT_DYLIB_PATH").map(PathBuf::from);
    let runtime = Runtime::load(&Candidates { given, cache }.find().unwrap()).unwrap();
    Arc::new(Model::load(model, &runtime).unwrap())
}

/// What is parsed, scored and formatted on one thread.
struct Bare {
    binding: Binding,
    model: Arc<Model>,
}

/// Parses, scores and writes, with no log between: one thread cuts, the others parse, score and format, in order.
fn bare(model: &Path, rows: &Path, output: &Path, threads: usize) {
    let model = load(model);
    let options = DatasetOptions { header: true, quote: Some(b'"'), ..DatasetOptions::default() };
    let inputs = [rows.to_str().unwrap().to_owned()];
    let (dataset, binding) = open_dataset(&inputs, options, &model, &BTreeMap::new()).unwrap();
    let bare = Bare { binding, model };
    let size = MiniBatchSize::Bytes(ByteSize(1 << 20));
    let mut reader = Reader::open(rows, &dataset, size, serde_json::Value::Null).unwrap();
    let (send, queue) = crossbeam_channel::bounded::<(usize, Work)>(2 * threads);
    let (done, results) = crossbeam_channel::bounded::<(usize, Vec<u8>)>(4 * threads);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let (queue, done, bare) = (queue.clone(), done.clone(), &bare);
            scope.spawn(move || {
                let mut scorer = Scorer::new(Arc::clone(&bare.model), false, 1).unwrap();
                for (place, work) in queue {
                    done.send((place, bare.window(&mut scorer, &work))).unwrap();
                }
            });
        }
        drop((queue, done));
        scope.spawn(move || {
            let mut place = 0;
            while let Some(work) = reader.next_work().unwrap() {
                send.send((place, work)).unwrap();
                place += 1;
            }
        });
        let mut file = File::create(output).unwrap();
        file.write_all(b"sepal_length,sepal_width,petal_length,petal_width,Prediction\n").unwrap();
        let (mut next, mut early) = (0, BTreeMap::new());
        for (place, text) in results {
            early.insert(place, text);
            while let Some(text) = early.remove(&next) {
                file.write_all(&text).unwrap();
                next += 1;
            }
        }
    });
}

impl Bare {
    fn window(&self, scorer: &mut Scorer, work: &Work) -> Vec<u8> {
        let (rows, rejected) = work.parse().unwrap();
        let rows = rows.unwrap();
        assert!(rejected.is_empty());
        let (features, failed) = Features::new(&rows.batch, &self.binding, Missing::Nan).unwrap();
        assert!(failed.is_empty());
        let scored = scorer.score(&features, &Unguarded::new().unwrap()).unwrap();
        let mut fields: Vec<Field> = rows.batch.schema().fields().iter().map(|f| f.as_ref().clone()).collect();
        let mut columns = rows.batch.columns().to_vec();
        for (field, column) in scored.columns {
            fields.push(field);
            columns.push(column);
        }
        let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap();
        let mut text = Vec::new();
        write_rows(&mut text, &batch, false).unwrap();
        text
    }
}

/// Calls the sessions on rows in memory, and does nothing else.
fn sessions(model: &Path, rows: u64, threads: usize) {
    let model = load(model);
    let columns = ["a", "b", "c", "d"].map(|name| Field::new(name, arrow::datatypes::DataType::Float64, true));
    let schema = Arc::new(Schema::new(columns.to_vec()));
    let binding = Binding::new(&model, &schema, &BTreeMap::new()).unwrap();
    // The demo's ranges: how deep a row goes into a tree depends on its values.
    let values = |(salt, low, high): (u64, u64, u64)| {
        let cell = move |row: u64| low + ((row * salt).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) % (high - low + 1);
        let cells = (0..65_536_u64).map(|row| cell(row) as f64 / 10.0);
        Arc::new(arrow::array::Float64Array::from_iter_values(cells)) as arrow::array::ArrayRef
    };
    let ranges = [(7, 43, 78), (11, 20, 43), (13, 10, 68), (17, 1, 24)];
    let batch = RecordBatch::try_new(schema, ranges.map(values).to_vec()).unwrap();
    let (features, _) = Features::new(&batch, &binding, Missing::Nan).unwrap();
    let windows = rows.div_ceil(65_536 * threads as u64);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut scorer = Scorer::new(Arc::clone(&model), false, 1).unwrap();
                let guard = Unguarded::new().unwrap();
                for _ in 0..windows {
                    scorer.score(&features, &guard).unwrap();
                }
            });
        }
    });
    assert!(begun.elapsed() > Duration::ZERO);
}
