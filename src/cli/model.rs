//! `scoreline model`: what a model wants and gives.

use std::fmt::Write as _;
use std::path::PathBuf;

use indicatif::HumanBytes;
use serde_json::json;

use super::{Failure, Global, print, runtime_candidates};
use crate::config::{Flags, Layers};
use crate::score::model::{Input, Role};
use crate::score::{Model, Runtime};
use crate::telemetry::start_logging;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// Show a model's inputs, outputs, classes and digest
    #[command(after_help = "Example:\n  scoreline model inspect iris.onnx --json")]
    Inspect {
        /// The .onnx file
        model: PathBuf,

        /// The ONNX Runtime library, or the folder that holds it
        #[arg(long, value_name = "PATH")]
        onnx_runtime: Option<PathBuf>,
    },
}

pub(crate) fn run(args: &Args, global: &Global) -> Result<(), Failure> {
    start_logging(global.logging_level.as_deref().unwrap_or_default()).map_err(Failure::usage)?;
    let Verb::Inspect { model, onnx_runtime } = &args.verb;
    let settings = Layers::read(None, &Flags::new())?.check()?;
    let given = onnx_runtime.clone().or(settings.onnx_runtime);
    let runtime = Runtime::load(&runtime_candidates(given).find()?)?;
    let model = Model::load(model, &runtime)?;
    print(&if global.json { as_json(&model) } else { as_text(&model) })
}

fn meaning(role: Role) -> &'static str {
    match role {
        Role::Prediction => "column Prediction",
        Role::Probabilities => "one column a class, with --probabilities",
        Role::ClassProbability => "the probability of one class, with --probabilities",
        Role::Scores => "scores by class; column Prediction is the place of the greatest, from 0",
        Role::Values => "columns Prediction_1, Prediction_2, ...",
    }
}

fn takes(input: &Input) -> String {
    let width = match input.width() {
        Some(1) => "1 column".to_owned(),
        Some(width) => format!("{width} columns"),
        None => "any number of columns".to_owned(),
    };
    format!("{} of {}", width, input.element.name())
}

fn as_text(model: &Model) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:<12}{value}");
    };
    line("model", format!("{} ({})", model.name, HumanBytes(model.size)));
    line("sha256", model.digest.to_string());
    line("written by", model.graph.producer.clone());
    line("operators", format!("{} ({})", model.graph.nodes, model.graph.opsets.join(", ")));
    for (place, input) in model.inputs.iter().enumerate() {
        line(if place == 0 { "inputs" } else { "" }, format!("{}: {}", input.name, takes(input)));
    }
    for (place, output) in model.outputs.iter().enumerate() {
        line(
            if place == 0 { "outputs" } else { "" },
            format!("{}: {} -> {}", output.name, output.declared, meaning(output.role)),
        );
    }
    if let Some(classes) = &model.classes {
        line("classes", classes.0.join(", "));
    }
    if !model.graph.zip_maps_cut.is_empty() {
        line(
            "cut",
            format!("ZipMap of {}: the probabilities are read as a tensor", model.graph.zip_maps_cut.join(", ")),
        );
    }
    text
}

fn as_json(model: &Model) -> String {
    let inputs: Vec<_> = model
        .inputs
        .iter()
        .map(|i| json!({ "name": i.name, "element": i.element.name(), "row_shape": i.row_shape, "columns": i.width() }))
        .collect();
    let outputs: Vec<_> = model
        .outputs
        .iter()
        .map(|o| json!({ "name": o.name, "declared": o.declared, "meaning": meaning(o.role) }))
        .collect();
    let json = json!({
        "model": model.name,
        "path": model.path,
        "bytes": model.size,
        "sha256": model.digest,
        "producer": model.graph.producer,
        "operators": model.graph.nodes,
        "opsets": model.graph.opsets,
        "inputs": inputs,
        "outputs": outputs,
        "classes": model.classes.as_ref().map(|c| &c.0),
        "zip_maps_cut": model.graph.zip_maps_cut,
    });
    json.to_string() + "\n"
}
