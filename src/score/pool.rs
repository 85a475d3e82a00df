//! Scoring threads, each with a session of its own, and the watch over them.
//!
//! ONNX Runtime can be interrupted only between two operators. A call that is over its time is asked to end; a
//! thread that does not end within [`GRACE`] is given up and replaced, and the process gives up after
//! [`MOST_HUNG`] of them.
//!
//! A window over its time is tried anew, `run_max_try` times in all. Then it is tried *carefully*: each call has
//! the time to itself, and one that does not end is split in halves, until the rows that hang stand alone.

use std::cell::Cell;
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use ort::session::RunOptions;

use super::error::{Result, ScoreError};
use super::model::Model;
use super::scorer::{CallGuard, Interruption, Scorer};
use super::window::{WindowFault, WindowInput, WindowOutput};
use crate::record::FormatError;

/// How long a thread has to end a call that it was asked to end.
const GRACE: Duration = Duration::from_secs(5);
/// So many threads may be given up before the process is.
pub const MOST_HUNG: usize = 16;

/// What bounds a scorer.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Scoring threads.
    pub threads: usize,
    /// How often a window or a row is tried.
    pub max_try: u32,
    /// How long a window, and then a call, may take.
    pub timeout: Duration,
}

/// A call over some rows of a window: the frame's place, and the rows' from and to.
type Call = (usize, usize, usize);

/// A window with what its earlier tries showed.
#[derive(Clone)]
struct Job {
    input: Arc<WindowInput>,
    key: u64,
    given_up: u32,
    is_careful: bool,
    /// Calls that hung: they are not tried again.
    hung: Arc<Mutex<Vec<Call>>>,
}

enum Done {
    Scored { key: u64, output: Box<WindowOutput> },
    GivenUp { job: Job },
    Broken { error: FormatError },
}

/// What a thread is at.
#[derive(Default)]
struct Watch {
    deadline: Option<Instant>,
    options: Option<Arc<RunOptions>>,
    call: Call,
    is_interrupted: bool,
    job: Option<Job>,
}

struct Slot {
    watch: Arc<Mutex<Watch>>,
    /// Set when the thread is given up: whatever it still says is not heard.
    is_given_up: Arc<AtomicBool>,
}

/// Scoring threads behind a queue.
pub struct Pool {
    model: Arc<Model>,
    probabilities: bool,
    limits: Limits,
    jobs: Sender<Job>,
    queue: Receiver<Job>,
    done: Receiver<Done>,
    report: Sender<Done>,
    slots: Vec<Slot>,
    hung: usize,
    /// Windows submitted and not finished. One whose thread was given up may finish twice: the second is not heard.
    running: HashSet<u64>,
}

/// A window's way through the pool is over.
pub struct Finished {
    /// What the window was submitted under.
    pub key: u64,
    /// What became of it.
    pub output: Box<WindowOutput>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    /// Starts the threads.
    ///
    /// # Errors
    /// What ONNX Runtime says of the model.
    pub fn new(model: Arc<Model>, probabilities: bool, limits: Limits) -> Result<Self> {
        let (jobs, queue) = crossbeam_channel::unbounded();
        let (report, done) = crossbeam_channel::unbounded();
        let mut pool = Self {
            model,
            probabilities,
            limits,
            jobs,
            queue,
            done,
            report,
            slots: Vec::new(),
            hung: 0,
            running: HashSet::new(),
        };
        for _ in 0..limits.threads.max(1) {
            pool.start_thread()?;
        }
        Ok(pool)
    }

    /// Windows submitted and not yet finished.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Submits a window. The caller bounds how many are running.
    pub fn submit(&mut self, key: u64, input: Arc<WindowInput>) {
        self.running.insert(key);
        self.enqueue(Job { input, key, given_up: 0, is_careful: false, hung: Arc::default() });
    }

    fn enqueue(&self, job: Job) {
        // The pool itself holds a receiver, so sending cannot fail.
        let _ = self.jobs.send(job);
    }

    /// A finished window, waiting up to `timeout` for one.
    ///
    /// # Errors
    /// A window whose frames are damaged, or a model that hangs.
    pub fn finished(&mut self, timeout: Duration) -> Result<Option<Finished>> {
        self.watch_threads()?;
        match self.done.recv_timeout(timeout) {
            Err(_) => Ok(None),
            Ok(Done::Scored { key, output }) => Ok(self.running.remove(&key).then_some(Finished { key, output })),
            Ok(Done::Broken { error }) => Err(error.into()),
            Ok(Done::GivenUp { job }) => {
                if self.running.contains(&job.key) {
                    self.retry(job);
                }
                Ok(None)
            }
        }
    }

    fn retry(&self, mut job: Job) {
        job.given_up += 1;
        job.is_careful |= job.given_up >= self.limits.max_try;
        tracing::warn!(
            window = job.input.window,
            tries = job.given_up,
            careful = job.is_careful,
            "the window took too long, trying it again"
        );
        self.enqueue(job);
    }

    fn start_thread(&mut self) -> Result<()> {
        let mut scorer = Scorer::new(Arc::clone(&self.model), self.probabilities, self.limits.max_try)?;
        let (watch, is_given_up) = (Arc::new(Mutex::new(Watch::default())), Arc::new(AtomicBool::new(false)));
        self.slots.push(Slot { watch: Arc::clone(&watch), is_given_up: Arc::clone(&is_given_up) });
        let (queue, report, timeout) = (self.queue.clone(), self.report.clone(), self.limits.timeout);
        let run = move || {
            while !is_given_up.load(Ordering::Acquire)
                && let Ok(job) = queue.recv()
            {
                let done = score(&mut scorer, job, &watch, timeout);
                if is_given_up.load(Ordering::Acquire) || report.send(done).is_err() {
                    break;
                }
            }
        };
        let started = std::thread::Builder::new().name("score".to_owned()).spawn(run);
        started.map(drop).map_err(|e| ScoreError::Runtime(format!("cannot start a scoring thread: {e}")))
    }

    /// Interrupts calls that are over their time, and replaces threads that do not heed it.
    fn watch_threads(&mut self) -> Result<()> {
        let now = Instant::now();
        let mut lost = Vec::new();
        for (place, slot) in self.slots.iter().enumerate() {
            let mut watch = lock(&slot.watch);
            let Some(deadline) = watch.deadline.filter(|deadline| *deadline <= now) else { continue };
            if !watch.is_interrupted {
                watch.is_interrupted = true;
                if let Some(options) = &watch.options {
                    // A failure to interrupt shows in the thread not ending.
                    let _ = options.terminate();
                }
            } else if deadline + GRACE <= now {
                slot.is_given_up.store(true, Ordering::Release);
                watch.deadline = None;
                lost.push((place, watch.job.take(), watch.call));
            }
        }
        for (place, job, call) in lost.into_iter().rev() {
            self.slots.remove(place);
            self.hung += 1;
            if self.hung > MOST_HUNG {
                return Err(ScoreError::Hung { hung: self.hung, timeout_s: self.limits.timeout.as_secs() });
            }
            self.start_thread()?;
            if let Some(job) = job {
                if job.is_careful {
                    lock(&job.hung).push(call);
                }
                self.retry(job);
            }
        }
        Ok(())
    }
}

fn score(scorer: &mut Scorer, job: Job, watch: &Mutex<Watch>, timeout: Duration) -> Done {
    {
        let mut watch = lock(watch);
        *watch = Watch { deadline: Some(Instant::now() + timeout), job: Some(job.clone()), ..Watch::default() };
    }
    let guard = ThreadGuard { watch, timeout, is_careful: job.is_careful, hung: &job.hung, frame: Cell::new(0) };
    let scored = job.input.score(scorer, &guard, job.given_up);
    *lock(watch) = Watch::default();
    match scored {
        Ok(output) => Done::Scored { key: job.key, output: Box::new(output) },
        Err(WindowFault::Format(error)) => Done::Broken { error },
        Err(WindowFault::GivenUp) => Done::GivenUp { job },
    }
}

struct ThreadGuard<'a> {
    watch: &'a Mutex<Watch>,
    timeout: Duration,
    is_careful: bool,
    hung: &'a Mutex<Vec<Call>>,
    frame: Cell<usize>,
}

impl CallGuard for ThreadGuard<'_> {
    fn next_frame(&self) {
        self.frame.set(self.frame.get() + 1);
    }

    fn begin(&self, from: usize, to: usize) -> Option<Arc<RunOptions>> {
        let call = (self.frame.get(), from, to);
        if self.is_careful && lock(self.hung).contains(&call) {
            return None;
        }
        let mut watch = lock(self.watch);
        if self.is_careful {
            // Each call has the time to itself, and an interruption of the last must not end this one.
            watch.deadline = Some(Instant::now() + self.timeout);
            watch.is_interrupted = false;
            watch.options = None;
        }
        watch.call = call;
        if watch.options.is_none() {
            let options = RunOptions::new().ok()?;
            if watch.is_interrupted {
                // The time was over before the first call, when there was nothing yet to interrupt.
                options.terminate().ok()?;
            }
            watch.options = Some(Arc::new(options));
        }
        watch.options.clone()
    }

    fn interruption(&self) -> Interruption {
        match (lock(self.watch).is_interrupted, self.is_careful) {
            (false, _) => Interruption::None,
            (true, true) => Interruption::Call,
            (true, false) => Interruption::Window,
        }
    }
}
