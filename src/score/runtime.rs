//! ONNX Runtime: a shared library, found where the user says, where it is installed, or where the set-up put it.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use ort::environment::Environment;

use super::error::{Result, ScoreError};

/// The version that the set-up fetches.
pub const FETCHED_VERSION: &str = "1.31.1";

/// Where the library was looked for, in order of precedence.
#[derive(Clone, Debug)]
pub struct Candidates {
    /// What the user said, by a setting or by `ORT_DYLIB_PATH`; nothing else is tried then.
    pub given: Option<PathBuf>,
    /// The folder into which the set-up puts it.
    pub cache: PathBuf,
}

#[cfg(target_os = "macos")]
const LIBRARY: &str = "libonnxruntime.dylib";
#[cfg(not(target_os = "macos"))]
const LIBRARY: &str = "libonnxruntime.so";

#[cfg(target_os = "macos")]
const INSTALLED: [&str; 2] = ["/opt/homebrew/lib", "/usr/local/lib"];
#[cfg(not(target_os = "macos"))]
const INSTALLED: [&str; 6] = [
    "/usr/local/lib",
    "/usr/lib",
    "/usr/lib64",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/opt/onnxruntime/lib",
];

impl Candidates {
    /// The path that is loaded.
    ///
    /// # Errors
    /// Where there is none: says which command mends it.
    pub fn find(&self) -> Result<PathBuf> {
        if let Some(given) = &self.given {
            let inside = given.join(LIBRARY);
            return match () {
                () if given.is_file() => Ok(given.clone()),
                () if inside.is_file() => Ok(inside),
                () => Err(ScoreError::Runtime(format!(
                    "there is no ONNX Runtime library at {}; mend --onnx-runtime or ORT_DYLIB_PATH, or leave it out and run: scoreline setup",
                    given.display()
                ))),
            };
        }
        let fetched = self.fetched();
        let installed = INSTALLED.iter().map(|folder| Path::new(folder).join(LIBRARY));
        std::iter::once(fetched).chain(installed).find(|path| path.is_file()).ok_or_else(|| {
            ScoreError::Runtime(
                "the ONNX Runtime library was not found. Run: scoreline setup (it fetches the library once, checked by \
                 hash), or say where it is with --onnx-runtime PATH or ORT_DYLIB_PATH"
                    .to_owned(),
            )
        })
    }

    /// Where the set-up puts the library.
    pub fn fetched(&self) -> PathBuf {
        self.cache.join("onnxruntime").join(FETCHED_VERSION).join(LIBRARY)
    }
}

/// The loaded library. There is one a process: the first that was loaded stays.
#[derive(Clone)]
pub struct Runtime {
    /// ONNX Runtime's environment.
    pub(super) environment: Environment,
    /// The library's file.
    pub library: PathBuf,
}

static LOADED: Mutex<Option<Runtime>> = Mutex::new(None);

impl Runtime {
    /// Loads the library, or answers the one that was loaded before.
    ///
    /// # Errors
    /// Where the file is no ONNX Runtime of a version that can be used.
    pub fn load(library: &Path) -> Result<Self> {
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(runtime) = loaded.as_ref() {
            return Ok(runtime.clone());
        }
        let wrong = |why: String| {
            ScoreError::Runtime(format!(
                "{} is not an ONNX Runtime library that can be used (version 1.23 or newer): {why}; run: scoreline setup",
                library.display()
            ))
        };
        let absolute = std::path::absolute(library).map_err(|e| wrong(e.to_string()))?;
        let builder = ort::init_from(&absolute).map_err(|e| wrong(e.to_string()))?;
        let environment =
            builder.with_name("scoreline").with_telemetry(false).build().map_err(|e| wrong(e.to_string()))?;
        environment.set_log_level(ort::logging::LogLevel::Fatal);
        Ok(loaded.insert(Self { environment, library: absolute }).clone())
    }
}
