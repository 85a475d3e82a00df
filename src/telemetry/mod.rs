//! Telemetry: logs and the progress bar, both on standard error.

pub mod progress;

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Starts logging. `level` is WARNING, INFO, DEBUG, or directives as `RUST_LOG` has them, which wins where it is set.
///
/// # Errors
/// A level that is neither.
pub fn start_logging(level: &str) -> Result<(), String> {
    let directives = match level.to_ascii_uppercase().as_str() {
        "ERROR" => "scoreline=error".to_owned(),
        "" | "WARNING" | "WARN" => "scoreline=warn".to_owned(),
        "INFO" => "scoreline=info".to_owned(),
        "DEBUG" => "scoreline=debug".to_owned(),
        _ => level.to_owned(),
    };
    let directives = std::env::var("RUST_LOG").unwrap_or(directives);
    let filter = EnvFilter::try_new(&directives)
        .map_err(|e| format!("logging_level {level:?} is neither WARNING, INFO, DEBUG nor a filter: {e}"))?;
    let format = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // Fails only where logging was started before, as tests in one process do.
    let _ = format.with_ansi(std::io::stderr().is_terminal()).try_init();
    Ok(())
}
