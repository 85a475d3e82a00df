//! ONNX Runtime: where it is looked for, what is said when it is not there, and how it is fetched.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::support::{fail, fixture, folder, model, runtime, score, scoreline, succeed};

/// A command that knows of no library but what it is told: an empty home and cache.
fn bare(command: &mut Command, home: &Path) {
    command.env("HOME", home).env("XDG_CACHE_HOME", home.join("cache")).env_remove("ORT_DYLIB_PATH");
}

fn is_installed_system_wide() -> bool {
    let found = ["/usr/lib", "/usr/local/lib", "/usr/lib64", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu"];
    let is_there = found.iter().any(|folder| Path::new(folder).join("libonnxruntime.so").exists());
    if is_there {
        eprintln!("LOUD: ONNX Runtime is installed system-wide here; that its absence is told was not tested");
    }
    is_there
}

#[test]
fn without_the_library_the_error_says_which_command_mends_it() {
    if is_installed_system_wide() {
        return;
    }
    let folder = folder();
    let mut command =
        score(&model("iris_lr_tensor_float"), &fixture("data/iris.csv"), &folder.path().join("scored.csv"));
    bare(&mut command, folder.path());
    let said = fail(&mut command, 1);
    assert!(said.contains("scoreline setup") && said.contains("--onnx-runtime"), "{said}");
}

#[test]
fn the_library_is_taken_from_where_the_user_says() {
    let folder = folder();
    let library = runtime().library;
    for (name, value) in [("file", library.as_path()), ("folder", library.parent().unwrap())] {
        let output = folder.path().join(name);
        let mut flag = score(&model("iris_lr_tensor_float"), &fixture("data/iris.csv"), &output);
        bare(&mut flag, folder.path());
        succeed(flag.arg("--onnx-runtime").arg(value));
        let mut environment =
            score(&model("iris_lr_tensor_float"), &fixture("data/iris.csv"), &output.with_extension("env"));
        bare(&mut environment, folder.path());
        succeed(environment.env("ORT_DYLIB_PATH", value));
    }
}

#[test]
fn a_path_that_is_no_library_is_named() {
    let folder = folder();
    let wrong = folder.path().join("libonnxruntime.so");
    let inspect = |path: &Path| {
        let mut command = scoreline();
        command.args(["model", "inspect"]).arg(model("iris_lr_tensor_float")).arg("--onnx-runtime").arg(path);
        fail(&mut command, 1)
    };
    let said = inspect(&wrong);
    assert!(said.contains("there is no ONNX Runtime library") && said.contains("scoreline setup"), "{said}");
    std::fs::write(&wrong, "not a library").unwrap();
    let said = inspect(&wrong);
    assert!(said.contains("libonnxruntime.so") && said.contains("scoreline setup"), "{said}");
}

/// A package mirror on the loopback interface.
struct Mirror {
    server: Child,
    port: String,
}

impl Mirror {
    /// Serves `folder` by Python's own server, on a port that is free.
    fn serve(folder: &Path) -> Self {
        let mut python = Command::new("python3");
        python.args(["-u", "-m", "http.server", "--bind", "127.0.0.1", "0"]).current_dir(folder);
        let mut server = python.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("Python 3 starts");
        let mut line = String::new();
        BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port = line.split("port ").nth(1).and_then(|rest| rest.split(' ').next()).expect("a port").to_owned();
        Self { server, port }
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

#[test]
fn a_package_from_a_mirror_that_is_not_the_one_we_know_is_refused() {
    if is_installed_system_wide() {
        return;
    }
    let folder = folder();
    let index = folder.path().join("simple/onnxruntime");
    std::fs::create_dir_all(&index).unwrap();
    let mut links = String::new();
    for machine in ["manylinux_2_28_x86_64", "manylinux_2_28_aarch64", "macosx_14_0_arm64"] {
        let name = format!("onnxruntime-1.31.1-cp312-cp312-{machine}.whl");
        std::fs::write(index.join(&name), "something else").unwrap();
        links += "<a href=\"";
        links += &name;
        links += "\">";
        links += &name;
        links += "</a>\n";
    }
    std::fs::write(index.join("index.html"), links).unwrap();
    let mirror = Mirror::serve(folder.path());
    let mut setup = scoreline();
    bare(&mut setup, folder.path());
    // What pip is told elsewhere must not lead around the mirror.
    setup.env("PIP_CONFIG_FILE", "/dev/null").env_remove("PIP_FIND_LINKS").env_remove("PIP_EXTRA_INDEX_URL");
    setup.env("PIP_INDEX_URL", format!("http://127.0.0.1:{}/simple", mirror.port)).arg("setup");
    let said = fail(&mut setup, 1);
    assert!(said.contains("fetching the package onnxruntime failed"), "{said}");
    assert!(said.to_lowercase().contains("hash") || said.contains("sha256"), "{said}");
    let left = folder.path().join("cache/scoreline/onnxruntime/1.31.1");
    assert_eq!(std::fs::read_dir(left).unwrap().count(), 0, "nothing is left of it");
}
