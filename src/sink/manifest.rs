//! The manifest: the last thing that a run publishes, and what to believe about it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::record::run::{Outcome, OutputRecord, PublishedFile, RunDefinition, RunRecord};
use crate::record::{Checksum, Digest, RowCounts, RunId};

/// What a run did: its files with rows and SHA-256, its ledger, its model, its parameters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this format: 1.
    pub v: u8,
    /// The run.
    pub run: RunId,
    /// How it ended.
    pub outcome: Outcome,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The model.
    pub model: ManifestModel,
    /// Rows by what became of them.
    pub rows: RowCounts,
    /// Windows, each with a receipt in the ledger.
    pub windows: u64,
    /// The checksum of all rows: ingested, and accounted for by the ledger.
    pub checksum: Checksum,
    /// The output's files.
    pub files: Vec<PublishedFile>,
    /// The receipts, one a line.
    pub ledger: PublishedFile,
    /// The rows that could not be scored, one a line.
    pub dead_letters: Option<PublishedFile>,
    /// The first reasons for dead letters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub first_errors: Vec<String>,
    /// All that decided what the output is.
    pub parameters: RunDefinition,
}

/// Which model scored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestModel {
    /// Its name.
    pub name: String,
    /// Its file's SHA-256.
    pub sha256: Digest,
}

impl Manifest {
    /// The manifest of a run whose files are published.
    pub fn new(run: &RunRecord, output: &OutputRecord, checksum: Checksum) -> Self {
        Self {
            v: 1,
            run: run.run.clone(),
            outcome: output.outcome,
            reason: output.reason.clone(),
            model: ManifestModel { name: run.model_name.clone(), sha256: run.definition.model },
            rows: output.counts,
            windows: output.windows,
            checksum,
            files: output.files.clone(),
            ledger: output.ledger.clone(),
            dead_letters: output.dead_letters.clone(),
            first_errors: output.first_errors.clone(),
            parameters: run.definition.clone(),
        }
    }

    /// The manifest at `path`, its files' paths resolved; `None` where there is none that can be read.
    pub fn read(path: &Path) -> Option<Self> {
        let mut manifest: Self = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        manifest.each_path(|path| folder.join(path));
        Some(manifest)
    }

    /// The manifest as it is written to `path`: its files, which lie below that folder, are named from there, so that
    /// all may be moved together.
    ///
    /// # Errors
    /// None that depends on the run.
    pub fn encode(mut self, path: &Path) -> Result<Vec<u8>, serde_json::Error> {
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        self.each_path(|path| path.strip_prefix(&folder).unwrap_or(path).to_owned());
        serde_json::to_vec_pretty(&self)
    }

    fn each_path(&mut self, change: impl Fn(&Path) -> PathBuf) {
        let beside = std::iter::once(&mut self.ledger).chain(&mut self.dead_letters);
        for file in self.files.iter_mut().chain(beside) {
            file.path = change(Path::new(&file.path)).to_string_lossy().into_owned();
        }
    }
}

/// Where a run's files lie, beside its output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// The output: a file, or a folder of parts.
    pub output: PathBuf,
    /// The manifest.
    pub manifest: PathBuf,
    /// The receipts.
    pub ledger: PathBuf,
    /// The rows that could not be scored.
    pub dead_letters: PathBuf,
}

impl Names {
    /// The names of the files beside `output`.
    pub fn beside(output: &Path) -> Self {
        // Without a slash at its end.
        let output: &Path = &output.components().collect::<PathBuf>();
        let with = |suffix: &str| {
            let mut name = output.as_os_str().to_owned();
            name.push(suffix);
            PathBuf::from(name)
        };
        Self {
            output: output.to_owned(),
            manifest: with(".manifest.json"),
            ledger: with(".ledger.jsonl"),
            dead_letters: with(".dead-letters.jsonl"),
        }
    }
}
