//! The model's file as a graph: checked before the runtime sees it, and cut where that makes it faster.
//!
//! Refused are models with external data (a path in a file is not to be followed), with operators that ONNX
//! Runtime does not have, and files that claim tensors larger than themselves. A `ZipMap` at an output is cut: its
//! sequence of maps holds what the tensor before it holds, and reading it takes 80 times as long.
//!
//! Format: <https://github.com/onnx/onnx/blob/main/docs/IR.md>.

use std::path::Path;

use prost::Message;

use super::error::{Result, ScoreError};

/// The ONNX format's own types, generated from its schema.
#[allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    unused_qualifications,
    reason = "generated from the ONNX project's schema"
)]
pub mod onnx {
    include!(concat!(env!("OUT_DIR"), "/onnx.rs"));
}

use onnx::attribute_proto::AttributeType;
use onnx::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto, ValueInfoProto,
    tensor_proto, type_proto,
};

/// Operator domains that ONNX Runtime implements by itself.
const DOMAINS: [&str; 5] = ["", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc"];

/// The names of a classifier's classes, in the order of its probabilities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassLabels(pub Vec<String>);

/// A checked model.
#[derive(Debug)]
pub struct Graph {
    /// The model as the runtime gets it; `None`: as it is in the file.
    pub rewritten: Option<Vec<u8>>,
    /// The classes, where an operator of the graph names them.
    pub classes: Option<ClassLabels>,
    /// What wrote the model.
    pub producer: String,
    /// The operator sets, as `ai.onnx 17`.
    pub opsets: Vec<String>,
    /// The number of operators.
    pub nodes: usize,
    /// The names of the outputs whose `ZipMap` was cut.
    pub zip_maps_cut: Vec<String>,
    /// The operator that makes each output, by the output's name.
    pub output_operators: Vec<(String, String)>,
}

impl Graph {
    /// Checks a model's bytes.
    ///
    /// # Errors
    /// Says what the model has that cannot be taken.
    pub fn read(path: &Path, bytes: &[u8]) -> Result<Self> {
        let refuse = |why: String| ScoreError::model(path, why);
        if bytes.is_empty() {
            return Err(refuse("the file is empty".to_owned()));
        }
        let mut model =
            ModelProto::decode(bytes).map_err(|e| refuse(format!("the file is damaged, or is not ONNX ({e})")))?;
        let graph = model
            .graph
            .as_mut()
            .filter(|graph| !graph.output.is_empty())
            .ok_or_else(|| refuse("it is not an ONNX model, or has no outputs".to_owned()))?;
        check_tensors(graph, &model.functions).map_err(refuse)?;
        check_domains(graph, &model.functions).map_err(refuse)?;
        let classes = find_classes(graph);
        let zip_maps_cut = cut_zip_maps(graph);
        let output_operators =
            graph.output.iter().map(|o| (o.name.clone().unwrap_or_default(), maker(graph, o))).collect();
        let (nodes, is_cut) = (graph.node.len(), !zip_maps_cut.is_empty());
        Ok(Self {
            classes,
            producer: [model.producer_name(), model.producer_version()].join(" ").trim().to_owned(),
            opsets: opsets(&model),
            nodes,
            zip_maps_cut,
            output_operators,
            rewritten: is_cut.then(|| model.encode_to_vec()),
        })
    }
}

/// The operator sets, each once: some converters name one twice.
fn opsets(model: &ModelProto) -> Vec<String> {
    let all = model.opset_import.iter().map(|o| format!("{} {}", domain_name(o.domain()), o.version()));
    all.collect::<std::collections::BTreeSet<_>>().into_iter().collect()
}

fn domain_name(domain: &str) -> &str {
    if domain.is_empty() { "ai.onnx" } else { domain }
}

fn maker(graph: &GraphProto, output: &ValueInfoProto) -> String {
    let node = graph.node.iter().find(|node| node.output.iter().any(|name| name == output.name()));
    node.map(|node| node.op_type().to_owned()).unwrap_or_default()
}

/// All nodes: these, and those of the graphs in their attributes.
fn visit_nodes(nodes: &[NodeProto], visit: &mut impl FnMut(&NodeProto) -> Result<(), String>) -> Result<(), String> {
    for node in nodes {
        visit(node)?;
        for attribute in &node.attribute {
            attribute.g.iter().chain(&attribute.graphs).try_for_each(|inner| visit_nodes(&inner.node, visit))?;
        }
    }
    Ok(())
}

/// Checks all tensors that the model holds, wherever they are.
fn check_tensors(graph: &GraphProto, functions: &[FunctionProto]) -> Result<(), String> {
    check_constants(graph)?;
    let mut check_node = |node: &NodeProto| {
        for attribute in &node.attribute {
            attribute.t.iter().chain(&attribute.tensors).try_for_each(check_tensor)?;
            attribute.sparse_tensor.iter().chain(&attribute.sparse_tensors).try_for_each(check_sparse_tensor)?;
            attribute.g.iter().chain(&attribute.graphs).try_for_each(check_constants)?;
        }
        Ok(())
    };
    visit_nodes(&graph.node, &mut check_node)?;
    functions.iter().try_for_each(|function| visit_nodes(&function.node, &mut check_node))
}

fn check_constants(graph: &GraphProto) -> Result<(), String> {
    graph.initializer.iter().try_for_each(check_tensor)?;
    graph.sparse_initializer.iter().try_for_each(check_sparse_tensor)
}

fn check_sparse_tensor(tensor: &SparseTensorProto) -> Result<(), String> {
    tensor.values.iter().chain(&tensor.indices).try_for_each(check_tensor)
}

fn check_tensor(tensor: &TensorProto) -> Result<(), String> {
    let name = tensor.name();
    if tensor.data_location() == tensor_proto::DataLocation::External || !tensor.external_data.is_empty() {
        return Err(format!(
            "tensor {name:?} lies in a file of its own (external data), which is not followed; save the model as one file"
        ));
    }
    let elements = tensor.dims.iter().try_fold(1_u64, |n, dim| n.checked_mul(u64::try_from(*dim).ok()?));
    // Every element takes at least four bits, in whichever field it lies.
    let most = 2 * tensor.encoded_len() as u64;
    match elements {
        Some(elements) if elements <= most => Ok(()),
        _ => Err(format!("tensor {name:?} claims {:?} elements and does not hold them", tensor.dims)),
    }
}

fn check_domains(graph: &GraphProto, functions: &[FunctionProto]) -> Result<(), String> {
    let mut check_node = |node: &NodeProto| {
        let is_function = functions.iter().any(|f| f.domain() == node.domain() && f.name() == node.op_type());
        if DOMAINS.contains(&node.domain()) || is_function {
            return Ok(());
        }
        Err(format!(
            "it uses the operator {:?} of domain {:?}, which ONNX Runtime does not have; export the model with standard operators",
            node.op_type(),
            node.domain()
        ))
    };
    visit_nodes(&graph.node, &mut check_node)?;
    functions.iter().try_for_each(|function| visit_nodes(&function.node, &mut check_node))
}

/// The classes as an operator names them, or else the list from which the label is picked by its place.
fn find_classes(graph: &GraphProto) -> Option<ClassLabels> {
    let named = graph.node.iter().rev().find_map(|node| node.attribute.iter().find_map(class_labels));
    named.or_else(|| graph.node.iter().rev().find_map(|node| picked_labels(graph, node)))
}

fn picked_labels(graph: &GraphProto, node: &NodeProto) -> Option<ClassLabels> {
    // The same operator picks features; then the list comes from the rows and is no constant.
    if node.op_type() != "ArrayFeatureExtractor" {
        return None;
    }
    let list = graph.initializer.iter().find(|tensor| node.input.first().is_some_and(|name| name == tensor.name()))?;
    let raw = list.raw_data();
    let labels: Vec<String> = match tensor_proto::DataType::try_from(list.data_type()).ok()? {
        tensor_proto::DataType::String => {
            list.string_data.iter().map(|text| String::from_utf8_lossy(text).into_owned()).collect()
        }
        tensor_proto::DataType::Int32 => {
            let packed = raw.as_chunks::<4>().0.iter().map(|bytes| i32::from_le_bytes(*bytes));
            list.int32_data.iter().copied().chain(packed).map(|label| label.to_string()).collect()
        }
        tensor_proto::DataType::Int64 => {
            let packed = raw.as_chunks::<8>().0.iter().map(|bytes| i64::from_le_bytes(*bytes));
            list.int64_data.iter().copied().chain(packed).map(|label| label.to_string()).collect()
        }
        _ => return None,
    };
    (!labels.is_empty()).then_some(ClassLabels(labels))
}

fn class_labels(attribute: &AttributeProto) -> Option<ClassLabels> {
    let name = attribute.name();
    if !name.starts_with("classlabels_") {
        return None;
    }
    let labels: Vec<String> = match attribute.r#type() {
        AttributeType::Strings => attribute.strings.iter().map(|s| String::from_utf8_lossy(s).into_owned()).collect(),
        AttributeType::Ints => attribute.ints.iter().map(ToString::to_string).collect(),
        _ => return None,
    };
    (!labels.is_empty()).then_some(ClassLabels(labels))
}

/// Cuts each `ZipMap` that makes an output: the output becomes the tensor before it.
fn cut_zip_maps(graph: &mut GraphProto) -> Vec<String> {
    let mut cut = Vec::new();
    while let Some((place, output)) = graph.node.iter().enumerate().find_map(|(place, node)| {
        let is_cut = node.op_type() == "ZipMap" && node.input.len() == 1 && node.output.len() == 1;
        let output = graph.output.iter().position(|o| is_cut && node.output.first().is_some_and(|n| n == o.name()))?;
        Some((place, output))
    }) {
        let node = graph.node.remove(place);
        cut.push(graph.output[output].name().to_owned());
        graph.output[output] = tensor_info(&node.input[0]);
    }
    cut
}

fn tensor_info(name: &str) -> ValueInfoProto {
    let tensor = type_proto::Tensor { elem_type: Some(tensor_proto::DataType::Float as i32), shape: None };
    ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(onnx::TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() }),
        ..Default::default()
    }
}
