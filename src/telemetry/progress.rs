//! The progress bar: rows, rows a second, time left.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Where there is no terminal, a line now and then does.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// Shows how far a run is: a bar on a terminal, a line every ten seconds elsewhere, nothing when quiet.
pub struct ProgressView {
    bar: Option<ProgressBar>,
    lines: Option<(Instant, Instant)>,
}

impl ProgressView {
    /// A view on standard error.
    pub fn new(is_quiet: bool) -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        let bar = (is_terminal && !is_quiet).then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
            let template = "{spinner} {wide_bar} {percent:>3}%  {human_pos} rows  {per_sec}  {eta} left{msg}";
            bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        let now = Instant::now();
        Self { bar, lines: (!is_terminal && !is_quiet).then_some((now, now)) }
    }

    /// Shows `done` rows of about `total`.
    pub fn show(&mut self, done: u64, total: Option<u64>, dead: u64) {
        if let Some(bar) = &self.bar {
            if let Some(total) = total {
                bar.set_length(total.max(done));
            }
            bar.set_position(done);
            bar.set_message(if dead > 0 { format!("  {} failed", HumanCount(dead)) } else { String::new() });
        }
        if let Some((begun, told)) = &mut self.lines
            && told.elapsed() >= LINE_INTERVAL
        {
            *told = Instant::now();
            let seconds = begun.elapsed().as_secs_f64();
            let of = total.map(|total| format!(" of about {}", HumanCount(total))).unwrap_or_default();
            let rate = HumanCount((done as f64 / seconds) as u64);
            eprintln!("{} rows{of}, {rate} rows/s, {} failed", HumanCount(done), HumanCount(dead));
        }
    }

    /// Takes the bar away.
    pub fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
