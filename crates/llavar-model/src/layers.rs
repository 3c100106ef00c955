//! Small building blocks that every part shares: the set of parameters by name, linear layers, layer
//! norms, and gradient checkpointing of a block.

use std::{collections::HashMap, sync::Arc};

use llavar_tensor::{LoraAdapter, Param, Tape, Var, ops::Activation};

use crate::{ModelError, Result};

type TensorResult<T> = llavar_tensor::Result<T>;

/// The model's parameters by published name.
#[derive(Debug, Default)]
pub(crate) struct ParamSet {
    params: HashMap<String, Param>,
    /// By the layer that they stand on.
    adapters: HashMap<String, LoraAdapter>,
}

impl ParamSet {
    pub(crate) fn new(list: &[Param]) -> Self {
        let params = list.iter().map(|p| (p.name().to_owned(), p.clone()));
        Self {
            params: params.collect(),
            adapters: HashMap::new(),
        }
    }

    /// The same with adapters for the linear layers of these names.
    pub(crate) fn with_adapters(self, adapters: HashMap<String, LoraAdapter>) -> Self {
        Self { adapters, ..self }
    }

    /// The parameters whose names begin with `prefix` and a dot.
    pub(crate) fn scope(&self, prefix: impl Into<String>) -> Scope<'_> {
        Scope {
            set: self,
            prefix: prefix.into(),
        }
    }

    pub(crate) fn get(&self, name: &str) -> Result<Param> {
        self.params
            .get(name)
            .cloned()
            .ok_or_else(|| ModelError::MissingParameter {
                name: name.to_owned(),
            })
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.params.contains_key(name)
    }
}

/// Parameters below one prefix.
#[derive(Debug, Clone)]
pub(crate) struct Scope<'a> {
    set: &'a ParamSet,
    prefix: String,
}

impl Scope<'_> {
    pub(crate) fn at(&self, name: impl std::fmt::Display) -> Self {
        Self {
            set: self.set,
            prefix: format!("{}.{name}", self.prefix),
        }
    }

    pub(crate) fn param(&self, name: &str) -> Result<Param> {
        self.set.get(&format!("{}.{name}", self.prefix))
    }

    /// `weight` and `bias` below `name`.
    pub(crate) fn linear(&self, name: &str) -> Result<Linear> {
        let scope = self.at(name);
        Ok(Linear {
            weight: scope.param("weight")?,
            bias: Some(scope.param("bias")?),
            lora: scope.adapter(),
        })
    }

    /// The adapter of the layer at this prefix.
    fn adapter(&self) -> Option<LoraAdapter> {
        self.set.adapters.get(&self.prefix).cloned()
    }

    /// `weight` below `name`.
    pub(crate) fn linear_no_bias(&self, name: &str) -> Result<Linear> {
        let scope = self.at(name);
        Ok(Linear {
            weight: scope.param("weight")?,
            bias: None,
            lora: scope.adapter(),
        })
    }

    pub(crate) fn layer_norm(&self, name: &str, eps: f64) -> Result<LayerNorm> {
        let scope = self.at(name);
        Ok(LayerNorm {
            weight: scope.param("weight")?,
            bias: scope.param("bias")?,
            eps: eps as f32,
        })
    }
}

/// `y = x W^T + b`; a 1x1 or patch convolution where its weight has more than two axes. With an adapter where
/// the model has one on this layer.
#[derive(Debug, Clone)]
pub(crate) struct Linear {
    pub(crate) weight: Param,
    pub(crate) bias: Option<Param>,
    pub(crate) lora: Option<LoraAdapter>,
}

impl Linear {
    /// `[.., K] -> [.., N]`.
    pub(crate) fn forward(&self, tape: &Tape, x: &Var) -> TensorResult<Var> {
        self.product(tape, x, self.bias.as_ref(), None)
    }

    /// Three layers of one input, each with the bias named beside it in place of its own.
    pub(crate) fn three(
        tape: &Tape,
        x: &Var,
        layers: [(&Self, Option<&Param>); 3],
    ) -> TensorResult<[Var; 3]> {
        if layers.iter().all(|(layer, _)| layer.lora.is_none()) {
            return tape.linear_three(x, layers.map(|(layer, bias)| (&layer.weight, bias)));
        }
        let [a, b, c] = layers.map(|(layer, bias)| layer.product(tape, x, bias, None));
        Ok([a?, b?, c?])
    }

    /// As [`Linear::forward`], plus `residual [.., N]`.
    pub(crate) fn forward_residual(
        &self,
        tape: &Tape,
        x: &Var,
        residual: &Var,
    ) -> TensorResult<Var> {
        self.product(tape, x, self.bias.as_ref(), Some(residual))
    }

    /// As [`Linear::forward`], with an activation behind it.
    pub(crate) fn forward_activation(
        &self,
        tape: &Tape,
        x: &Var,
        kind: Activation,
    ) -> TensorResult<Var> {
        match &self.lora {
            None => tape.linear_activation(x, &self.weight, self.bias.as_ref(), kind),
            Some(_) => tape.activation(&self.forward(tape, x)?, kind),
        }
    }

    fn product(
        &self,
        tape: &Tape,
        x: &Var,
        bias: Option<&Param>,
        residual: Option<&Var>,
    ) -> TensorResult<Var> {
        match &self.lora {
            None => tape.linear_residual(x, &self.weight, bias, residual),
            Some(lora) => tape.lora_linear(x, &self.weight, bias, residual, lora),
        }
    }

    pub(crate) fn params(&self) -> impl Iterator<Item = &Param> {
        let adapter = self.lora.iter().flat_map(LoraAdapter::params);
        std::iter::once(&self.weight)
            .chain(&self.bias)
            .chain(adapter)
    }
}

/// Layer norm over the last axis.
#[derive(Debug, Clone)]
pub(crate) struct LayerNorm {
    weight: Param,
    bias: Param,
    eps: f32,
}

impl LayerNorm {
    pub(crate) fn forward(&self, tape: &Tape, x: &Var) -> TensorResult<Var> {
        tape.layer_norm(x, &self.weight, &self.bias, self.eps)
    }

    /// Weight and bias, and what is added to the variance.
    pub(crate) fn weights(&self) -> ([&Param; 2], f32) {
        ([&self.weight, &self.bias], self.eps)
    }

    pub(crate) fn params(&self) -> impl Iterator<Item = &Param> {
        [&self.weight, &self.bias].into_iter()
    }
}

/// `x` unchanged, while `param` receives a gradient of zero: for a weight that the values cannot depend
/// on, but that the reference's optimizer treats as trained.
pub(crate) fn with_zero_gradient(tape: &Tape, x: Var, param: &Param) -> Var {
    if !tape.needs_grad(&[], &[param]) {
        return x;
    }
    let param = param.clone();
    tape.record(x.value().clone(), move |dy, grads| {
        param.accumulate_zero()?;
        grads.add(&x, dy)
    })
}

/// A part of the model that can be recomputed in the backward pass.
pub(crate) trait Block: 'static {
    /// Its weights.
    fn params(&self) -> Vec<&Param>;
}

/// Runs `forward` of a block, with its activations recomputed in the backward pass when `checkpoint` is
/// on and a gradient passes through the block at all: a frozen tower is not run twice.
pub(crate) fn run_block<B: Block>(
    tape: &Tape,
    block: &Arc<B>,
    inputs: &[&Var],
    checkpoint: bool,
    forward: impl Fn(&B, &Tape, &[Var]) -> TensorResult<Vec<Var>> + 'static,
) -> TensorResult<Vec<Var>> {
    run_part(tape, block, &block.params(), inputs, checkpoint, forward)
}

/// As [`run_block`] for a part of a block that has these weights.
fn run_part<B: Block>(
    tape: &Tape,
    block: &Arc<B>,
    params: &[&Param],
    inputs: &[&Var],
    checkpoint: bool,
    forward: impl Fn(&B, &Tape, &[Var]) -> TensorResult<Vec<Var>> + 'static,
) -> TensorResult<Vec<Var>> {
    if checkpoint && tape.needs_grad(inputs, params) {
        let block = block.clone();
        return tape.checkpoint(inputs, move |tape, x| forward(&block, tape, x));
    }
    let inputs: Vec<Var> = inputs.iter().map(|v| (*v).clone()).collect();
    forward(block, tape, &inputs)
}

/// A layer of attention and MLP, each of which can be recomputed by itself.
pub(crate) trait Halves: Block {
    /// Weights of the attention with its norm.
    fn attention_params(&self) -> Vec<&Param>;
    /// Weights of the MLP with its norm.
    fn mlp_params(&self) -> Vec<&Param>;
}

/// Runs both halves of a layer as [`run_simple`] runs a block.
pub(crate) fn run_halves<B: Halves>(
    tape: &Tape,
    layer: &Arc<B>,
    x: &Var,
    checkpoint: bool,
    attention: impl Fn(&B, &Tape, &Var) -> TensorResult<Var> + 'static,
    mlp: impl Fn(&B, &Tape, &Var) -> TensorResult<Var> + 'static,
) -> TensorResult<Var> {
    let half = |params: &[&Param], x: &Var, forward: Half<B>| {
        let run = move |layer: &B, tape: &Tape, x: &[Var]| Ok(vec![forward(layer, tape, &x[0])?]);
        let mut out = run_part(tape, layer, params, &[x], checkpoint, run)?;
        TensorResult::Ok(out.swap_remove(0))
    };
    let x = half(&layer.attention_params(), x, Box::new(attention))?;
    half(&layer.mlp_params(), &x, Box::new(mlp))
}

type Half<B> = Box<dyn Fn(&B, &Tape, &Var) -> TensorResult<Var>>;

/// As [`run_block`] for one input and one output.
pub(crate) fn run_simple<B: Block>(
    tape: &Tape,
    block: &Arc<B>,
    x: &Var,
    checkpoint: bool,
    forward: impl Fn(&B, &Tape, &Var) -> TensorResult<Var> + 'static,
) -> TensorResult<Var> {
    let mut out = run_block(tape, block, &[x], checkpoint, move |block, tape, x| {
        Ok(vec![forward(block, tape, &x[0])?])
    })?;
    Ok(out.swap_remove(0))
}
