//! A model: its digest, what it wants and what it gives, and sessions to run it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ort::session::Session;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::value::{Outlet, TensorElementType, ValueType};

use super::error::{Result, ScoreError};
use super::graph::{ClassLabels, Graph};
use super::runtime::Runtime;
use crate::record::Digest;

/// What an input takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// 32-bit floating-point numbers.
    Float,
    /// 64-bit floating-point numbers.
    Double,
    /// 32-bit whole numbers.
    Int32,
    /// 64-bit whole numbers.
    Int64,
    /// Truth values.
    Bool,
    /// Text.
    String,
}

impl Element {
    fn of(element: TensorElementType) -> Option<Self> {
        Some(match element {
            TensorElementType::Float32 => Self::Float,
            TensorElementType::Float64 => Self::Double,
            TensorElementType::Int32 => Self::Int32,
            TensorElementType::Int64 => Self::Int64,
            TensorElementType::Bool => Self::Bool,
            TensorElementType::String => Self::String,
            _ => return None,
        })
    }

    /// The name in ONNX.
    pub fn name(self) -> &'static str {
        match self {
            Self::Float => "float",
            Self::Double => "double",
            Self::Int32 => "int32",
            Self::Int64 => "int64",
            Self::Bool => "bool",
            Self::String => "string",
        }
    }
}

/// An input of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// Its name.
    pub name: String,
    /// What it takes.
    pub element: Element,
    /// Its dimensions behind the first (the rows); -1 where any will do.
    pub row_shape: Vec<i64>,
}

impl Input {
    /// How many values it takes a row; `None` where any number will do.
    pub fn width(&self) -> Option<usize> {
        self.row_shape.iter().try_fold(1_usize, |n, dim| n.checked_mul(usize::try_from(*dim).ok()?))
    }
}

/// What an output of a model means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// One value a row: the prediction itself, a class or a number.
    Prediction,
    /// One value a row and class, beside a prediction.
    Probabilities,
    /// One value a row: the probability of the class that the output is named after.
    ClassProbability,
    /// One value a row and class; the prediction is the place of the greatest.
    Scores,
    /// Several numbers a row: one column each.
    Values,
}

/// An output of a model that is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Its name.
    pub name: String,
    /// What it means.
    pub role: Role,
    /// Its type as the model declares it.
    pub declared: String,
    /// What it holds, as the model declares it.
    pub element: TensorElementType,
    /// Its values a row, as the model declares them; 0 where it does not.
    pub columns: usize,
}

/// A model that was loaded once and can be opened as many times as there are threads.
#[derive(Clone)]
pub struct Model {
    /// Its file.
    pub path: PathBuf,
    /// Its name: the file's, without the extension.
    pub name: String,
    /// The file's SHA-256.
    pub digest: Digest,
    /// What it wants.
    pub inputs: Vec<Input>,
    /// What it gives.
    pub outputs: Vec<Output>,
    /// The names of its classes, in the order of its probabilities, where it tells them.
    pub classes: Option<ClassLabels>,
    /// What is known of its graph.
    pub graph: Arc<Graph>,
    /// The size of its file in bytes.
    pub size: u64,
    bytes: Arc<Vec<u8>>,
    runtime: Runtime,
}

/// A model larger than this would not fit the format it is written in.
const MAX_MODEL_BYTES: u64 = 2 << 30;

impl Model {
    /// Loads a model and looks at its inputs and outputs.
    ///
    /// # Errors
    /// A file that cannot be read, is no model, or one that cannot be taken ([`Graph::read`]).
    pub fn load(path: &Path, runtime: &Runtime) -> Result<Self> {
        let refuse = |why: &dyn std::fmt::Display| ScoreError::model(path, why);
        let metadata = std::fs::metadata(path).map_err(|e| refuse(&format!("cannot read it: {e}")))?;
        if metadata.is_dir() {
            return Err(refuse(&"it is a folder; name the .onnx file"));
        }
        if metadata.len() > MAX_MODEL_BYTES {
            return Err(refuse(&"it is over 2 GiB, more than an ONNX file can hold"));
        }
        let bytes = std::fs::read(path).map_err(|e| refuse(&format!("cannot read it: {e}")))?;
        let digest = Digest::of(&bytes);
        let mut graph = Graph::read(path, &bytes)?;
        let bytes = Arc::new(graph.rewritten.take().unwrap_or(bytes));
        let mut model = Self {
            path: path.to_owned(),
            name: path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default(),
            digest,
            inputs: Vec::new(),
            outputs: Vec::new(),
            classes: graph.classes.clone(),
            graph: Arc::new(graph),
            size: metadata.len(),
            bytes,
            runtime: runtime.clone(),
        };
        let session = model.open_session()?;
        model.inputs = session.inputs().iter().map(|input| model.input(input)).collect::<Result<_>>()?;
        if model.inputs.is_empty() {
            return Err(refuse(&"it has no inputs, so no row can be given to it"));
        }
        model.outputs = model.roles(session.outputs())?;
        Ok(model)
    }

    /// A session of its own, with one thread.
    ///
    /// # Errors
    /// What ONNX Runtime says of the model.
    pub fn open_session(&self) -> Result<Session> {
        let options = || -> ort::Result<SessionBuilder> {
            Ok(Session::builder(&self.runtime.environment)?
                .with_intra_threads(1)?
                .with_inter_threads(1)?
                .with_log_level(ort::logging::LogLevel::Fatal)?
                .with_optimization_level(GraphOptimizationLevel::All)?)
        };
        let session = options().and_then(|mut builder| builder.commit_from_memory(&self.bytes));
        session.map_err(|e| ScoreError::model(&self.path, format!("ONNX Runtime refuses it: {e}")))
    }

    fn input(&self, input: &Outlet) -> Result<Input> {
        let (name, declared) = (input.name(), input.dtype());
        let found = match declared {
            ValueType::Tensor { ty, shape, .. } => Element::of(*ty).map(|element| (element, shape)),
            _ => None,
        };
        let (element, shape) = found.ok_or_else(|| {
            let why = format!(
                "its input {name:?} is {declared}; there are float, double, int32, int64, bool and string tensors"
            );
            ScoreError::model(&self.path, why)
        })?;
        if let Some(rows) = shape.first().filter(|rows| **rows >= 0) {
            let why = format!(
                "its input {name:?} takes exactly {rows} rows a call; export it with a dynamic first dimension"
            );
            return Err(ScoreError::model(&self.path, why));
        }
        if shape.is_empty() {
            let why = format!("its input {name:?} is a single value, so no rows can be given to it");
            return Err(ScoreError::model(&self.path, why));
        }
        Ok(Input { name: name.to_owned(), element, row_shape: shape.iter().skip(1).copied().collect() })
    }

    /// What each output means, from its declared type and its neighbours. Shapes are declared wrongly
    /// by some converters, so only "several columns" is believed of them.
    fn roles(&self, outputs: &[Outlet]) -> Result<Vec<Output>> {
        let tensor = |output: &Outlet| match output.dtype() {
            ValueType::Tensor { ty, shape, .. } => Some((*ty, shape.get(1).copied())),
            _ => None,
        };
        let is_number = |ty| matches!(ty, TensorElementType::Float32 | TensorElementType::Float64);
        let is_label = |ty| {
            matches!(
                ty,
                TensorElementType::Int64
                    | TensorElementType::Int32
                    | TensorElementType::String
                    | TensorElementType::Bool
            )
        };
        let role = |output: &Outlet, role| {
            let (element, columns) = tensor(output).unwrap_or((TensorElementType::Float32, None));
            Output {
                name: output.name().to_owned(),
                role,
                declared: output.dtype().to_string(),
                element,
                columns: columns.and_then(|n| usize::try_from(n).ok()).unwrap_or(0),
            }
        };
        let label = outputs.iter().find(|o| tensor(o).is_some_and(|(ty, _)| is_label(ty)));
        let numbers: Vec<&Outlet> = outputs.iter().filter(|o| tensor(o).is_some_and(|(ty, _)| is_number(ty))).collect();
        if let Some(label) = label {
            let beside = if numbers.len() > 1 { Role::ClassProbability } else { Role::Probabilities };
            let rest = numbers.iter().map(|o| role(o, beside));
            return Ok(std::iter::once(role(label, Role::Prediction)).chain(rest).collect());
        }
        let Some(first) = numbers.first() else {
            let why = "none of its outputs is a tensor of numbers or labels";
            return Err(ScoreError::model(&self.path, why));
        };
        let operator = self.graph.output_operators.iter().find(|(name, _)| name == first.name());
        let is_softmax = operator.is_some_and(|(_, operator)| operator.ends_with("Softmax"));
        let meaning = match tensor(first) {
            _ if is_softmax => Role::Scores,
            Some((_, Some(columns))) if columns > 1 => Role::Values,
            _ => Role::Prediction,
        };
        Ok(vec![role(first, meaning)])
    }
}
