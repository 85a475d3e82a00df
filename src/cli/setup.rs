//! `scoreline setup`: fetches the ONNX Runtime library, once, checked by hash.
//!
//! The library comes in the Python package `onnxruntime`. Python's own `pip` fetches it, so a package mirror that pip is
//! set up for (`PIP_INDEX_URL`, `pip.conf`) is used here too. Nothing is installed into any Python.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Failure, Global, print, runtime_candidates};
use crate::score::Runtime;
use crate::score::runtime::FETCHED_VERSION;

#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  scoreline setup\n  PIP_INDEX_URL=https://mirror.example/simple scoreline setup\n  scoreline setup --python python3.12"
)]
pub(crate) struct Args {
    /// The Python whose pip fetches the package; any version from 3.8 on
    #[arg(long, default_value = "python3")]
    python: String,
}

/// A package file for one kind of machine: pip's name of the machine, and the file's SHA-256.
struct Package {
    platform: &'static str,
    sha256: &'static str,
}

fn package() -> Result<Package, Failure> {
    match (std::env::consts::OS, std::env::consts::ARCH) {
        ("linux", "x86_64") => Ok(Package {
            platform: "manylinux_2_28_x86_64",
            sha256: "1f3dea47f2f0e5117c2404cea7d21fd253ae7836a3bf167a501cdfbb2600d536",
        }),
        ("linux", "aarch64") => Ok(Package {
            platform: "manylinux_2_28_aarch64",
            sha256: "0b9a492176886992e0e875f06bc0367e333f5fff11711a2d642e18b02f3009cc",
        }),
        ("macos", "aarch64") => Ok(Package {
            platform: "macosx_14_0_arm64",
            sha256: "96dd2564b10ea7153ad9c207e7cd8e5917cb3ba521e0e0a62ac03486fdc8d56c",
        }),
        (os, arch) => Err(Failure::new(format!(
            "there is no package of ONNX Runtime for {os} on {arch}; install the library yourself and say where it is with \
             --onnx-runtime PATH or ORT_DYLIB_PATH"
        ))),
    }
}

pub(crate) fn run(args: &Args, global: &Global) -> Result<(), Failure> {
    let candidates = runtime_candidates(None);
    match candidates.find() {
        Ok(library) => {
            Runtime::load(&library)?;
            return said(global, &library, "is there already");
        }
        // Where the user says it is, it must be: what is fetched would not be used.
        Err(error) if candidates.given.is_some() => return Err(error.into()),
        Err(_) => {}
    }
    let target = candidates.fetched();
    let folder = target.parent().unwrap_or(Path::new(".")).to_owned();
    let failed = |what: &str, e: &dyn std::fmt::Display| Failure::new(format!("cannot {what}: {e}"));
    std::fs::create_dir_all(&folder).map_err(|e| failed(&format!("create {}", folder.display()), &e))?;
    // On the target's own file system, so that the last step is one rename.
    let scratch = tempfile::tempdir_in(&folder).map_err(|e| failed("make a temporary folder", &e))?;
    if !global.quiet && !global.json {
        eprintln!("fetching ONNX Runtime {FETCHED_VERSION} (29 MB, once) with {} -m pip", args.python);
    }
    download(&args.python, &package()?, scratch.path())?;
    let library = unpack(&args.python, scratch.path())?;
    std::fs::rename(&library, &target).map_err(|e| failed(&format!("write {}", target.display()), &e))?;
    Runtime::load(&target)?;
    said(global, &target, "is ready")
}

fn said(global: &Global, library: &Path, what: &str) -> Result<(), Failure> {
    match (global.json, global.quiet) {
        (true, _) => print(&(serde_json::json!({ "onnx_runtime": library }).to_string() + "\n")),
        (false, false) => print(&format!("ONNX Runtime {what}: {}\n", library.display())),
        (false, true) => Ok(()),
    }
}

fn download(python: &str, package: &Package, folder: &Path) -> Result<(), Failure> {
    let requirements = folder.join("requirements.txt");
    let line = format!("onnxruntime=={FETCHED_VERSION} --hash=sha256:{}\n", package.sha256);
    std::fs::write(&requirements, line)
        .map_err(|e| Failure::new(format!("cannot write {}: {e}", requirements.display())))?;
    let mut pip = Command::new(python);
    pip.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"]);
    pip.args(["--require-hashes", "--python-version", "3.12", "--implementation", "cp", "--abi", "cp312"]);
    pip.args(["--platform", package.platform, "--dest"]).arg(folder).arg("--requirement").arg(&requirements);
    called(&mut pip, python, "fetching the package onnxruntime failed; is a package index reachable (PIP_INDEX_URL)?")
}

fn unpack(python: &str, folder: &Path) -> Result<PathBuf, Failure> {
    let find = |folder: &Path, wanted: &dyn Fn(&str) -> bool| -> Option<PathBuf> {
        let names = std::fs::read_dir(folder).ok()?.filter_map(Result::ok);
        names.map(|entry| entry.path()).find(|path| path.file_name().and_then(|n| n.to_str()).is_some_and(wanted))
    };
    let missing = || Failure::new("the package onnxruntime does not hold the library; please report this");
    let wheel = find(folder, &|name| Path::new(name).extension().is_some_and(|e| e == "whl")).ok_or_else(missing)?;
    let unpacked = folder.join("unpacked");
    let mut unzip = Command::new(python);
    unzip.args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&unpacked);
    called(&mut unzip, python, "unpacking the package onnxruntime failed")?;
    let is_library = |name: &str| name.starts_with("libonnxruntime.") && !name.contains("providers");
    find(&unpacked.join("onnxruntime").join("capi"), &is_library).ok_or_else(missing)
}

fn called(command: &mut Command, python: &str, what: &str) -> Result<(), Failure> {
    match command.output() {
        Err(error) => Err(Failure::new(format!(
            "cannot run {python} ({error}); install Python 3 with pip, or name another with --python"
        ))),
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            // pip tells the cause behind "ERROR:", and may go on for some lines.
            let mut lines = said.lines().map(str::trim).filter(|line| !line.is_empty());
            let cause =
                lines.clone().find(|line| line.starts_with("ERROR")).or_else(|| lines.next_back()).unwrap_or_default();
            Err(Failure::new(format!("{what} ({cause})")))
        }
    }
}
