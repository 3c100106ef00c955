//! The tape: records one node per fused operation and plays the gradients back.
//!
//! Operations are methods of [`Tape`], one file each under `ops/`. On a tape made by
//! [`Tape::inference`] they compute and record nothing, so that the same model code serves training
//! and inference. Saved activations are owned by the node's closure and freed as the backward pass
//! consumes it.

mod checkpoint;

use std::{cell::RefCell, sync::Arc};

use checkpoint::Run;

use crate::{
    Error, Param, Result, Tensor, cpu,
    cuda::{
        self,
        ops::{Before, Fp8Copies, Wanted},
    },
    param::Waiting,
};

/// Identity of a recorded value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VarId(usize);

/// A value flowing through the model: a tensor, and its place on the tape if a gradient is wanted.
#[derive(Debug, Clone)]
pub struct Var {
    value: Tensor,
    id: Option<VarId>,
    /// What it is the activation of, for an operation that takes its gradient on to there in one kernel.
    before: Option<Arc<Before>>,
}

impl Var {
    /// A value that no gradient flows to.
    pub fn constant(value: Tensor) -> Self {
        Self {
            value,
            id: None,
            before: None,
        }
    }

    /// The same value, known to be the activation of something.
    pub(crate) fn behind(self, before: Before) -> Self {
        Self {
            before: Some(Arc::new(before)),
            ..self
        }
    }

    /// The same value without that knowledge, for an operation that gives it gradients in several parts.
    pub(crate) fn without_before(&self) -> Self {
        Self {
            before: None,
            ..self.clone()
        }
    }

    /// What it is the activation of, where that is known.
    pub(crate) fn before(&self) -> Option<&Before> {
        self.before.as_deref()
    }

    /// The tensor.
    pub fn value(&self) -> &Tensor {
        &self.value
    }

    /// Shape of the tensor.
    pub fn shape(&self) -> &[usize] {
        self.value.shape()
    }

    /// Whether a gradient flows to it.
    pub fn requires_grad(&self) -> bool {
        self.id.is_some()
    }

    /// Where a gradient for it goes, and its shape, without the value: what a backward pass holds that does
    /// not need the value, so that its memory is not kept for nothing.
    pub(crate) fn without_value(&self) -> Self {
        Self {
            value: Tensor::hollow(self.value.shape()),
            ..self.clone()
        }
    }

    /// The tensor, for an operation that puts something else in its place; see [`Var::without_value`].
    pub(crate) fn into_value(self) -> Tensor {
        self.value
    }

    /// The value without its history.
    pub fn detach(&self) -> Self {
        Self::constant(self.value.clone())
    }
}

impl From<Tensor> for Var {
    fn from(value: Tensor) -> Self {
        Self::constant(value)
    }
}

type BackwardFn = Box<dyn FnOnce(Vec<Option<Tensor>>, &mut Grads) -> Result<()>>;

struct Node {
    outputs: Vec<VarId>,
    backward: BackwardFn,
}

/// Gradients of recorded values while the backward pass runs.
#[derive(Debug, Default)]
pub struct Grads {
    slots: Vec<Option<Tensor>>,
    /// Weights whose gradients are to be summed together, before the pass ends.
    waiting: Waiting,
}

impl Grads {
    /// Adds `grad` to what has arrived for `var`; nothing happens for a value that needs none.
    ///
    /// # Errors
    /// When the shape is not that of an earlier contribution.
    pub fn add(&mut self, var: &Var, grad: Tensor) -> Result<()> {
        let Some(VarId(index)) = var.id else {
            return Ok(());
        };
        if self.slots.len() <= index {
            self.slots.resize_with(index + 1, || None);
        }
        let slot = &mut self.slots[index];
        *slot = Some(match slot.take() {
            None => grad,
            Some(old) => {
                // Add into whichever side is not shared, so that no third buffer is needed.
                let (mut into, from) = if old.is_unique() {
                    (old, grad)
                } else {
                    (grad, old)
                };
                add_assign(&mut into, &from)?;
                into
            }
        });
        Ok(())
    }

    /// Takes out what has arrived for `var`, for an operation that adds its own part in its kernel and
    /// hands in the sum.
    pub(crate) fn arrived(&mut self, var: &Var) -> Option<Tensor> {
        self.take(var.id?)
    }

    /// As [`Grads::arrived`], for an operation that can add to it only where `fits` says so; else it stays.
    pub(crate) fn arrived_if(
        &mut self,
        var: &Var,
        fits: impl FnOnce(&Tensor) -> bool,
    ) -> Option<Tensor> {
        let slot = self.slots.get_mut(var.id?.0)?;
        slot.take_if(|tensor| fits(tensor))
    }

    /// Adds the sum of `parts` parts, `part [parts, ..]` in f32 where the weight is, to the weight's gradient,
    /// together with those of other weights.
    ///
    /// # Errors
    /// When the device has no room for the gradient, or the sums cannot be queued.
    pub(crate) fn add_parts(&mut self, param: &Param, part: Tensor, parts: usize) -> Result<()> {
        self.waiting.add(param, part, parts)
    }

    fn take(&mut self, id: VarId) -> Option<Tensor> {
        self.slots.get_mut(id.0)?.take()
    }
}

/// Adds `from` to `into` where they live.
pub(crate) fn add_assign(into: &mut Tensor, from: &Tensor) -> Result<()> {
    match from.cuda() {
        Some(cuda) => cuda::ops::add_assign(cuda, into, from)?,
        None => cpu::add_assign(into.data_mut::<f32>()?, from.data::<f32>()?),
    }
    Ok(())
}

/// Records operations for one forward pass.
#[derive(Default)]
pub struct Tape {
    nodes: Option<RefCell<Vec<Node>>>,
    next: std::cell::Cell<usize>,
    /// Whether it runs a checkpointed segment, and which time.
    run: Run,
    /// Whether nobody will read the output of the operation at hand.
    unread: std::cell::Cell<bool>,
    /// Seed of dropout; without one nothing is dropped.
    dropout: Option<u64>,
    /// The input of the last FP8 product with its copies.
    fp8_input: RefCell<Option<(Tensor, Fp8Copies)>>,
}

impl std::fmt::Debug for Tape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tape")
            .field("recording", &self.is_recording())
            .field("values", &self.next.get())
            .finish()
    }
}

impl Tape {
    /// A tape that records, for training.
    pub fn training() -> Self {
        Self {
            nodes: Some(RefCell::default()),
            ..Self::default()
        }
    }

    /// The same tape with dropout, where the model has any. What is dropped depends on `seed`, the layer and
    /// the place alone.
    pub fn with_dropout(self, seed: u64) -> Self {
        Self {
            dropout: Some(seed),
            ..self
        }
    }

    /// Seed of dropout.
    pub(crate) fn dropout_seed(&self) -> Option<u64> {
        self.dropout
    }

    /// A tape that records nothing.
    pub fn inference() -> Self {
        Self::default()
    }

    /// Whether operations are recorded.
    pub fn is_recording(&self) -> bool {
        self.nodes.is_some()
    }

    /// A value that a gradient shall flow to although no operation made it.
    pub fn leaf(&self, value: Tensor) -> Var {
        Var {
            id: self.is_recording().then(|| self.new_id()),
            ..Var::constant(value)
        }
    }

    fn new_id(&self) -> VarId {
        let id = self.next.get();
        self.next.set(id + 1);
        VarId(id)
    }

    /// Whether an operation on these values and weights has to save anything for a backward pass.
    pub fn needs_grad(&self, vars: &[&Var], params: &[&Param]) -> bool {
        self.is_recording()
            && (vars.iter().any(|v| v.requires_grad()) || params.iter().any(|p| p.requires_grad()))
    }

    /// Records an operation with one output. `backward` receives the output's gradient.
    ///
    /// Call it only where [`Tape::needs_grad`] said so; otherwise return `Var::constant(output)`.
    pub fn record(
        &self,
        output: Tensor,
        backward: impl FnOnce(Tensor, &mut Grads) -> Result<()> + 'static,
    ) -> Var {
        let mut outputs = self.record_many(vec![output], move |grads, sink| {
            match grads.into_iter().next().flatten() {
                Some(grad) => backward(grad, sink),
                None => Ok(()),
            }
        });
        outputs.swap_remove(0)
    }

    /// Records an operation with several outputs. `backward` runs when at least one of them received a
    /// gradient; the others are `None`.
    pub fn record_many(
        &self,
        outputs: Vec<Tensor>,
        backward: impl FnOnce(Vec<Option<Tensor>>, &mut Grads) -> Result<()> + 'static,
    ) -> Vec<Var> {
        let Some(nodes) = &self.nodes else {
            return outputs.into_iter().map(Var::constant).collect();
        };
        let vars: Vec<Var> = outputs.into_iter().map(|value| self.leaf(value)).collect();
        let ids = vars.iter().filter_map(|v| v.id).collect();
        nodes.borrow_mut().push(Node {
            outputs: ids,
            backward: Box::new(backward),
        });
        vars
    }

    /// FP8 copies of the input of a product, made by `make` where they are not those of the product before:
    /// projections of one input share them.
    ///
    /// # Errors
    /// Those of `make`.
    pub(crate) fn fp8_input(
        &self,
        x: &Tensor,
        wanted: Wanted,
        make: impl FnOnce() -> Result<Fp8Copies>,
    ) -> Result<Fp8Copies> {
        if let Some((last, copies)) = &*self.fp8_input.borrow()
            && last.is_same_memory(x)
            && copies.has(wanted)
        {
            return Ok(copies.clone());
        }
        // Those of another input go before new ones come.
        self.fp8_input.take();
        let copies = make()?;
        self.fp8_input.replace(Some((x.clone(), copies.clone())));
        Ok(copies)
    }

    /// Backward pass from a scalar, scaled by `scale` (for example one over the supervised tokens of
    /// the global batch). Gradients land in the weights.
    ///
    /// # Errors
    /// When the loss was not recorded here, or an operation fails.
    pub fn backward(self, loss: &Var, scale: f32) -> Result<()> {
        if loss.id.is_none() {
            return Err(Error::NotRecorded { op: "backward" });
        }
        let mut seed = Tensor::zeros(loss.shape());
        seed.data_mut::<f32>()?.fill(scale);
        let seed = seed.to_device(&loss.value.device())?;
        self.backward_from(vec![(loss.clone(), seed)], &[])
            .map(|_| ())
    }

    /// Backward pass from any values with their gradients; returns the gradients of `wanted` leaves.
    ///
    /// # Errors
    /// When an operation fails.
    pub fn backward_from(
        self,
        seeds: Vec<(Var, Tensor)>,
        wanted: &[&Var],
    ) -> Result<Vec<Option<Tensor>>> {
        let mut waiting = Waiting::default();
        let wanted = self.play_back(seeds, wanted, &mut waiting)?;
        waiting.sum()?;
        Ok(wanted)
    }

    /// As [`Tape::backward_from`] as a part of another pass, which sums what waits.
    fn play_back(
        self,
        seeds: Vec<(Var, Tensor)>,
        wanted: &[&Var],
        waiting: &mut Waiting,
    ) -> Result<Vec<Option<Tensor>>> {
        let mut grads = Grads {
            waiting: std::mem::take(waiting),
            ..Grads::default()
        };
        for (var, seed) in seeds {
            grads.add(&var, seed)?;
        }
        let mut nodes = self.nodes.map(RefCell::into_inner).unwrap_or_default();
        while let Some(node) = nodes.pop() {
            let incoming: Vec<Option<Tensor>> =
                node.outputs.iter().map(|id| grads.take(*id)).collect();
            if incoming.iter().any(Option::is_some) {
                (node.backward)(incoming, &mut grads)?;
            }
        }
        let wanted = wanted.iter();
        let wanted = wanted.map(|v| v.id.and_then(|id| grads.take(id)));
        let wanted = wanted.collect();
        *waiting = grads.waiting;
        Ok(wanted)
    }
}
