//! A network: operations in order, each with what follows it on every element.

use std::collections::HashMap;

use crate::{
    error::{OnnxError, Result},
    lower::{lower, norm, pointwise},
    model::{File, Node},
    op::Op,
    pointwise::Pointwise,
    value::{Order, Value, elements},
};

/// Longest side of a picture, px: that of a JPEG.
const MOST_SIDE: usize = 65_535;

/// One operation of a network.
#[derive(Debug, Clone)]
struct Step {
    op: Op,
    inputs: Vec<Input>,
    then: Vec<Pointwise>,
    output: usize,
    /// For errors: the node's operation and first output.
    node: (String, String),
    /// Values that nobody reads after this step.
    last: Vec<usize>,
}

#[derive(Debug, Clone)]
enum Input {
    Slot(usize),
    Constant(Value),
}

/// A convolutional network out of an ONNX file, for one picture at a time.
///
/// Constants are computed when it is loaded; biases, normalisations and element functions become part of
/// the operation before them.
#[derive(Debug, Clone)]
pub struct Network {
    steps: Vec<Step>,
    slots: usize,
    output: usize,
    metadata: HashMap<String, String>,
}

/// A result of a network.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// Sides, as ONNX has them.
    pub dims: Vec<usize>,
    /// Elements in the order of the sides.
    pub data: Vec<f32>,
}

impl Network {
    /// Reads a network from the bytes of a file.
    ///
    /// # Errors
    /// When the bytes are no ONNX model, or it has operations that are not known here.
    pub fn load(bytes: &[u8]) -> Result<Self> {
        Builder::new(File::parse(bytes)?)?.build()
    }

    /// An entry of the file's metadata.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).map(String::as_str)
    }

    /// Number of outputs of the last linear layer: the classes of a classifier.
    pub fn classes(&self) -> Option<usize> {
        self.steps.iter().rev().find_map(|step| match &step.op {
            Op::Linear { n, .. } => Some(*n),
            _ => None,
        })
    }

    /// Keeps only these classes of the last linear layer, in this order: what is not asked for is not
    /// computed.
    ///
    /// # Errors
    /// When there is no linear layer, or a class that it has not, or none to keep.
    pub fn keep_classes(&mut self, keep: &[usize]) -> Result<()> {
        let wrong = |reason: &str| OnnxError::Format {
            reason: reason.to_owned(),
        };
        if keep.is_empty() {
            return Err(wrong("no classes to keep"));
        }
        for step in self.steps.iter_mut().rev() {
            if let Op::Linear {
                weights, n, bias, ..
            } = &mut step.op
            {
                if keep.iter().any(|class| *class >= *n) {
                    return Err(wrong("the network has fewer classes than its dictionary"));
                }
                let kept = |row: &[f32]| keep.iter().map(|c| row[*c]).collect::<Vec<_>>();
                *weights = weights.chunks_exact(*n).flat_map(kept).collect();
                if !bias.is_empty() {
                    *bias = kept(bias);
                }
                *n = keep.len();
                return Ok(());
            }
        }
        Err(wrong("the network has no linear layer"))
    }

    /// Runs on one picture.
    ///
    /// With `parallel` large operations use all threads of the current pool; without, the calling thread
    /// alone, for callers that run many pictures at the same time. Results are the same.
    ///
    /// # Shapes
    /// `pixels` is `[height, width, 3]`, the network's input `[1, 3, height, width]`.
    ///
    /// # Errors
    /// When `pixels` does not have that size, a side is longer than 65,535 px, or the network cannot take it:
    /// also where a value inside it would be larger than 1 GiB.
    pub fn run(
        &self,
        pixels: Vec<f32>,
        [height, width]: [usize; 2],
        parallel: bool,
    ) -> Result<Output> {
        let refused = |reason| OnnxError::Picture {
            height,
            width,
            reason,
        };
        if height.max(width) > MOST_SIDE {
            return Err(refused(format!("too large, at most {MOST_SIDE} px a side")));
        }
        if pixels.len() != elements(&[height, width, 3]).map_err(refused)? {
            return Err(refused(format!("{} elements for it", pixels.len())));
        }
        let mut slots: Vec<Option<Value>> = vec![None; self.slots];
        slots[0] = Some(Value::picture([3, height, width], pixels));
        for step in &self.steps {
            let inputs = step.inputs.iter().map(|input| match input {
                Input::Constant(value) => Some(value.clone()),
                // A value that nobody else reads is handed over, so that it can be changed in place.
                Input::Slot(at) if step.last.contains(at) && step.inputs.len() == 1 => {
                    slots[*at].take()
                }
                Input::Slot(at) => slots[*at].clone(),
            });
            let inputs: Option<Vec<Value>> = inputs.collect();
            step.last.iter().for_each(|at| slots[*at] = None);
            slots[step.output] = Some(step.run(inputs.unwrap_or_default(), parallel)?);
        }
        let value = slots[self.output].take().ok_or_else(|| OnnxError::Format {
            reason: "the output is never computed".to_owned(),
        })?;
        let value = value.ordered(Order::Plain);
        let dims = value.dims.clone();
        let data = value.into_floats().ok_or_else(|| OnnxError::Format {
            reason: "the output is of integers".to_owned(),
        })?;
        Ok(Output {
            dims,
            data: data.to_vec(),
        })
    }
}

impl Step {
    fn run(&self, inputs: Vec<Value>, parallel: bool) -> Result<Value> {
        let shapes: Vec<Vec<usize>> = inputs.iter().map(|v| v.dims.clone()).collect();
        let run = self.op.run(inputs, &self.then, parallel);
        run.map_err(|reason| OnnxError::Shape {
            op: self.node.0.clone(),
            node: self.node.1.clone(),
            shapes,
            reason,
        })
    }
}

/// Builds the steps of a file.
struct Builder {
    file: File,
    /// Which nodes read a value.
    readers: HashMap<String, Vec<usize>>,
    slots: HashMap<String, usize>,
    steps: Vec<Step>,
}

impl Builder {
    fn new(mut file: File) -> Result<Self> {
        // Names that mean the same value.
        let mut same: HashMap<String, String> = HashMap::new();
        let mut nodes = Vec::with_capacity(file.nodes.len());
        for mut node in std::mem::take(&mut file.nodes) {
            for input in &mut node.inputs {
                if let Some(name) = same.get(input) {
                    *input = name.clone();
                }
            }
            match (node.op.as_str(), node.inputs.first(), node.outputs.first()) {
                ("Identity" | "Dropout", Some(input), Some(output)) => {
                    same.insert(output.clone(), input.clone());
                }
                ("Constant", _, Some(output)) => match node.attributes.get("value") {
                    Some(crate::model::Attribute::Tensor(value)) => {
                        file.constants.insert(output.clone(), value.clone());
                    }
                    _ => return Err(node.unsupported("a constant that is no tensor")),
                },
                _ => nodes.push(node),
            }
        }
        if let Some(name) = same.get(&file.output) {
            file.output = name.clone();
        }
        // What can be computed now is.
        for node in nodes {
            let known = |name: &String| name.is_empty() || file.constants.contains_key(name);
            if node.inputs.iter().all(known) {
                let value = evaluate(&node, &file.constants)?;
                file.constants.insert(node.name().to_owned(), value);
            } else {
                file.nodes.push(node);
            }
        }
        let mut readers: HashMap<String, Vec<usize>> = HashMap::new();
        for (at, node) in file.nodes.iter().enumerate() {
            for input in &node.inputs {
                readers.entry(input.clone()).or_default().push(at);
            }
        }
        let slots = HashMap::from([(file.input.clone(), 0)]);
        Ok(Self {
            file,
            readers,
            slots,
            steps: Vec::new(),
        })
    }

    fn build(mut self) -> Result<Network> {
        let nodes = std::mem::take(&mut self.file.nodes);
        let mut done = vec![false; nodes.len()];
        for at in 0..nodes.len() {
            if done[at] {
                continue;
            }
            let node = &nodes[at];
            let (mut op, read) = lower(node, &self.constants(node))?;
            let mut then = match (&op, pointwise(node, &self.constants(node))) {
                (Op::Pass | Op::Binary(_), Some((input, then))) => {
                    op = Op::Pass;
                    self.push(
                        node,
                        op,
                        vec![node.inputs[input].clone()],
                        then,
                        &nodes,
                        &mut done,
                    )?;
                    continue;
                }
                _ => Vec::new(),
            };
            let inputs = read.iter().filter_map(|at| node.inputs.get(*at).cloned());
            let inputs = inputs.filter(|name| !name.is_empty()).collect();
            self.push(
                node,
                op,
                inputs,
                std::mem::take(&mut then),
                &nodes,
                &mut done,
            )?;
        }
        let output = self.slots.get(&self.file.output).copied();
        let output = output.ok_or_else(|| OnnxError::Format {
            reason: format!("nothing computes `{}`", self.file.output),
        })?;
        let slots = self.slots.values().max().map_or(1, |most| most + 1);
        note_last_readers(&mut self.steps, output);
        Ok(Network {
            steps: self.steps,
            slots,
            output,
            metadata: self.file.metadata,
        })
    }

    fn constants(&self, node: &Node) -> Vec<Option<&Value>> {
        let inputs = node.inputs.iter();
        inputs.map(|name| self.file.constants.get(name)).collect()
    }

    /// Adds a step, with all that can become a part of it.
    fn push(
        &mut self,
        node: &Node,
        mut op: Op,
        inputs: Vec<String>,
        mut then: Vec<Pointwise>,
        nodes: &[Node],
        done: &mut [bool],
    ) -> Result<()> {
        let mut output = node.name().to_owned();
        while output != self.file.output {
            let readers = self.readers.get(&output).map_or(&[][..], Vec::as_slice);
            if let Some((function, merged)) = self.pattern(&output, readers, nodes) {
                then.push(function);
                output = nodes[merged[merged.len() - 1]].name().to_owned();
                merged.iter().for_each(|at| done[*at] = true);
                continue;
            }
            let &[next] = readers else { break };
            let constants = self.constants(&nodes[next]);
            if then.is_empty() && absorb(&mut op, &nodes[next], &constants)? {
                // It is a part of the operation now.
            } else if let Some((_, functions)) = pointwise(&nodes[next], &constants) {
                then.extend(functions);
            } else {
                break;
            }
            done[next] = true;
            output = nodes[next].name().to_owned();
        }
        let inputs = inputs
            .into_iter()
            .map(|name| match self.file.constants.get(&name) {
                Some(value) => Ok(Input::Constant(value.clone())),
                None => match self.slots.get(&name) {
                    Some(slot) => Ok(Input::Slot(*slot)),
                    None => Err(node.unsupported(format!("nothing computes its input `{name}`"))),
                },
            })
            .collect::<Result<_>>()?;
        let slot = self.slots.len();
        self.slots.insert(output, slot);
        self.steps.push(Step {
            op,
            inputs,
            then,
            output: slot,
            node: (node.op.clone(), node.name().to_owned()),
            last: Vec::new(),
        });
        Ok(())
    }

    /// A function of `x` that is written as several nodes, of which two read `x`: their places, the last
    /// one last.
    fn pattern(
        &self,
        x: &str,
        readers: &[usize],
        nodes: &[Node],
    ) -> Option<(Pointwise, Vec<usize>)> {
        let &[first, second] = readers else {
            return None;
        };
        // One is the product of x and a function of x, the other begins that function.
        let (begin, product) = if nodes[second].op == "Mul" {
            (first, second)
        } else {
            (second, first)
        };
        if nodes[product].op != "Mul" || begin == product {
            return None;
        }
        let (mut chain, mut merged, mut at) = (Vec::new(), Vec::new(), begin);
        while at != product {
            let (_, functions) = pointwise(&nodes[at], &self.constants(&nodes[at]))?;
            chain.extend(functions);
            merged.push(at);
            let &[next] = self.readers.get(nodes[at].name())?.as_slice() else {
                return None;
            };
            at = next;
        }
        merged.push(product);
        if !nodes[product].inputs.iter().any(|name| name == x) {
            return None;
        }
        use Pointwise as P;
        let function = match chain[..] {
            [P::Sigmoid] => P::Silu,
            [P::Add(3.0), P::Clip(0.0, 6.0)] => P::SixHardSwish,
            [P::Mul(a), P::Erf, P::Add(1.0)]
                if (a - std::f32::consts::FRAC_1_SQRT_2).abs() < 1e-6 =>
            {
                P::TwoGelu
            }
            _ => return None,
        };
        Some((function, merged))
    }
}

/// Makes a following addition or normalisation by channel a part of the operation; whether it could.
fn absorb(op: &mut Op, next: &Node, constants: &[Option<&Value>]) -> Result<bool> {
    let outputs = match op {
        Op::Conv(conv) => conv.outputs,
        Op::Spread(spread) => spread.outputs,
        Op::Linear { n, .. } => *n,
        _ => return Ok(false),
    };
    let is_linear = matches!(op, Op::Linear { .. });
    let (scale, shift) = match next.op.as_str() {
        "Add" => {
            let by_channel = |value: &&Value| match &value.dims[..] {
                [n] => is_linear && *n == outputs,
                [1, n, 1, 1] => !is_linear && *n == outputs,
                _ => false,
            };
            let bias = constants.iter().copied().flatten().find(by_channel);
            match bias.and_then(Value::as_floats) {
                Some(bias) => (vec![1.0; outputs], bias.to_vec()),
                None => return Ok(false),
            }
        }
        "BatchNormalization" if !is_linear => norm(next, constants)?,
        _ => return Ok(false),
    };
    if scale.len() != outputs {
        return Err(next.unsupported(format!("{} statistics for {outputs} channels", scale.len())));
    }
    match op {
        Op::Conv(conv) => conv.scaled(&scale, &shift),
        Op::Spread(spread) => spread.scaled(&scale, &shift),
        Op::Linear { bias, .. } if bias.is_empty() => *bias = shift,
        _ => return Ok(false),
    }
    Ok(true)
}

/// The value of a node whose inputs are all constant.
fn evaluate(node: &Node, constants: &HashMap<String, Value>) -> Result<Value> {
    let known: Vec<Option<&Value>> = node.inputs.iter().map(|n| constants.get(n)).collect();
    let (op, read) = lower(node, &known)?;
    let (op, read, then) = match pointwise(node, &known) {
        Some((at, then)) if matches!(op, Op::Pass) => (op, vec![at], then),
        _ => (op, read, Vec::new()),
    };
    let values = read
        .iter()
        .filter_map(|at| known.get(*at).copied().flatten());
    let values: Vec<Value> = values.cloned().collect();
    let shapes = values.iter().map(|v| v.dims.clone()).collect();
    op.run(values, &then, false)
        .map_err(|reason| OnnxError::Shape {
            node: node.name().to_owned(),
            op: node.op.clone(),
            shapes,
            reason,
        })
}

/// Finds which step reads a value last.
fn note_last_readers(steps: &mut [Step], output: usize) {
    let mut seen = vec![output];
    for step in steps.iter_mut().rev() {
        for input in &step.inputs {
            if let Input::Slot(at) = input
                && !seen.contains(at)
            {
                seen.push(*at);
                step.last.push(*at);
            }
        }
    }
}
