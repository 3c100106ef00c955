//! `Param`: a named weight with a gradient that accumulates in place.

mod derived;
mod parts;

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError, RwLock,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use derived::{Derived, next_version};
use parts::Parts;
pub(crate) use parts::Waiting;

use crate::{
    DType, Device, Error, Result, Tensor,
    cuda::{Cuda, ops::Fp8Copies},
    error::ensure_shape,
};

/// Stands before weights whose values are not always there: told before one is read or receives a gradient.
/// It answers by [`Param::set_value`]; a value that it does not give is missing, which operations report.
pub trait Gate: Send + Sync + std::fmt::Debug {
    /// The value of a weight of `bucket` is about to be read.
    fn read(&self, bucket: usize);
    /// A weight of `bucket` is about to receive a gradient.
    ///
    /// # Errors
    /// When it cannot take one now.
    fn accumulate(&self, bucket: usize) -> Result<()>;
}

/// A weight of a model. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Param(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    shape: Vec<usize>,
    value: RwLock<Tensor>,
    grad: Mutex<Grad>,
    requires_grad: AtomicBool,
    /// Element type of the gradient on a GPU.
    grad_dtype: Mutex<DType>,
    /// Who stands before it, and its bucket there.
    gate: RwLock<Option<(Arc<dyn Gate>, usize)>>,
    /// Device and element type of a value that is not there now.
    home: Mutex<Option<(Device, DType)>>,
    /// Whether products with it are FP8 where they can be, and the value's copies for them.
    fp8: AtomicBool,
    fp8_copies: Mutex<Derived<Fp8Copies>>,
    /// The value under a layer scale, and the bias beside it.
    scaled: Mutex<Derived<[Tensor; 2]>>,
    /// Which value it is: no two of all weights, at any time, are alike.
    version: AtomicU64,
}

/// The buffer outlives the step, so that accumulation never allocates after the first backward pass.
#[derive(Debug, Default)]
struct Grad {
    buffer: Option<Tensor>,
    filled: bool,
    /// What is still to be added to `buffer`.
    waiting: Option<Parts>,
    /// Room for sums of squares of a gradient on a GPU, and whether they are those of the present one.
    squares: Option<Tensor>,
    measured: bool,
}

impl Grad {
    /// The gradient is about to change, or gone.
    fn changes(&mut self, filled: bool) {
        self.filled = filled;
        self.waiting = None;
        self.measured = false;
    }
}

/// A gradient that is being written. Dropped half way it is gone.
pub(crate) struct Accumulation<'a> {
    slot: MutexGuard<'a, Grad>,
    /// With the weight's shape, where the weight is.
    pub(crate) grad: Tensor,
    /// 0 when the old content is to be overwritten, 1 when it is to be added to.
    pub(crate) beta: f32,
}

impl Accumulation<'_> {
    /// Room for so many sums of squares of the gradient on its GPU, each an f64 in two words.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn squares(&mut self, cuda: &Arc<Cuda>, sums: usize) -> Result<Tensor> {
        let room = self.slot.squares.take();
        match room.filter(|room| room.numel() == 2 * sums) {
            Some(room) => Ok(room),
            None => cuda.empty(&[sums, 2], DType::I32),
        }
    }

    /// The gradient is written, and with it sums of its squares where they are given.
    pub(crate) fn finish(mut self, squares: Option<Tensor>) {
        self.slot.changes(true);
        self.slot.buffer = Some(self.grad);
        if squares.is_some() {
            self.slot.squares = squares;
            self.slot.measured = true;
        }
    }

    /// The gradient is what it was plus the sum of `parts` parts, which waits.
    pub(super) fn finish_later(mut self, part: Tensor, parts: usize) {
        let beta = self.beta;
        self.slot.changes(true);
        self.slot.waiting = Some(Parts { part, parts, beta });
        self.slot.buffer = Some(self.grad);
    }

    /// Nothing was written.
    pub(crate) fn leave(mut self) {
        self.slot.filled = self.beta != 0.0;
        self.slot.buffer = Some(self.grad);
    }
}

impl Param {
    /// A weight that does not ask for gradients yet. `name` is the one of the published state dict.
    pub fn new(name: impl Into<String>, value: Tensor) -> Self {
        Self(Arc::new(Inner {
            name: name.into(),
            shape: value.shape().to_vec(),
            value: RwLock::new(value),
            grad: Mutex::default(),
            requires_grad: AtomicBool::new(false),
            grad_dtype: Mutex::new(DType::F32),
            gate: RwLock::default(),
            home: Mutex::default(),
            fp8: AtomicBool::new(false),
            fp8_copies: Mutex::default(),
            scaled: Mutex::default(),
            version: AtomicU64::new(next_version()),
        }))
    }

    /// Whether both are one weight.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Name in the published state dict.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Shape of the weight.
    pub fn shape(&self) -> &[usize] {
        &self.0.shape
    }

    /// Number of elements.
    pub fn numel(&self) -> usize {
        self.0.shape.iter().product()
    }

    /// The present value (shared, not copied).
    pub fn value(&self) -> Tensor {
        if let Some((gate, bucket)) = self.gate() {
            gate.read(bucket);
        }
        self.present()
    }

    /// The value as it is, whoever stands before it.
    fn present(&self) -> Tensor {
        self.0
            .value
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Replaces the value.
    ///
    /// # Errors
    /// When the shape differs.
    pub fn set_value(&self, value: Tensor) -> Result<()> {
        if value.shape() != self.shape() {
            return Err(Error::ShapeMismatch {
                op: "set_value",
                expected: format!("{:?} of `{}`", self.shape(), self.name()),
                got: value.shape().to_vec(),
            });
        }
        let mut present = self.0.value.write().unwrap_or_else(PoisonError::into_inner);
        self.changed();
        if (present.device(), present.dtype()) != (value.device(), value.dtype()) {
            self.release_derived();
        }
        *present = value;
        *lock(&self.0.home) = None;
        Ok(())
    }

    /// Whether linear layers with this weight multiply in FP8, forward and backward, where they can: in bf16 on a
    /// GPU from Ada on, without a bias, both axes multiples of 16. Elsewhere nothing changes. Off at first.
    pub fn set_fp8(&self, on: bool) {
        self.0.fp8.store(on, Relaxed);
        *lock(&self.0.fp8_copies) = Derived::default();
    }

    /// Whether [`Param::set_fp8`] asked for FP8 products.
    pub fn is_fp8(&self) -> bool {
        self.0.fp8.load(Relaxed)
    }

    /// What was made from the value is no longer that of the value.
    pub(crate) fn changed(&self) {
        self.0.version.store(next_version(), Relaxed);
    }

    /// Lets go of what was made from the value.
    fn release_derived(&self) {
        *lock(&self.0.fp8_copies) = Derived::default();
        *lock(&self.0.scaled) = Derived::default();
    }

    /// Which value it is.
    fn version(&self) -> u64 {
        self.0.version.load(Relaxed)
    }

    /// The value's FP8 copies, made by `make` from it once after each change; it is given those before, if there are
    /// any, to write in their memory.
    ///
    /// # Errors
    /// Those of `make`.
    pub(crate) fn fp8_copies(
        &self,
        make: impl FnOnce(&Tensor, Option<Fp8Copies>) -> Result<Fp8Copies>,
    ) -> Result<Fp8Copies> {
        // The version first: what another thread changes meanwhile is then made anew and not taken for the new value.
        // The value before the lock, for whose gate may set it.
        let (of, value) = ([self.version(), 0, 0], self.value());
        lock(&self.0.fp8_copies).get(of, |old| make(&value, old))
    }

    /// This weight and a bias under a layer scale, made by `make` from the three as [`Param::fp8_copies`] are.
    ///
    /// # Errors
    /// Those of `make`.
    pub(crate) fn scaled(
        &self,
        [bias, gamma]: [&Self; 2],
        make: impl FnOnce([&Tensor; 3], Option<[Tensor; 2]>) -> Result<[Tensor; 2]>,
    ) -> Result<[Tensor; 2]> {
        let all = [self, bias, gamma];
        let (of, values) = (all.map(Self::version), all.map(Self::value));
        lock(&self.0.scaled).get(of, |old| make(values.each_ref(), old))
    }

    /// Lets go of the value, whose memory is free once nobody else shares it. Until the next
    /// [`Param::set_value`] whoever reads it meets an error.
    pub fn release(&self) {
        let mut value = self.0.value.write().unwrap_or_else(PoisonError::into_inner);
        let mut home = lock(&self.0.home);
        if home.is_none() {
            *home = Some((value.device(), value.dtype()));
            *value = Tensor::hollow(&self.0.shape);
            self.changed();
            self.release_derived();
        }
    }

    /// As [`Param::release`] for a weight whose values will come on another device in another type; `grad` is
    /// the element type that gradients accumulate in there, as in [`Param::to_device`].
    pub fn release_to(&self, device: &Device, dtype: DType, grad: DType) {
        self.release();
        *self.grad_slot() = Grad::default();
        *lock(&self.0.grad_dtype) = if device.is_cuda() { grad } else { DType::F32 };
        *lock(&self.0.home) = Some((device.clone(), dtype));
    }

    /// Puts a gate before the weight, or takes it away.
    pub fn set_gate(&self, gate: Option<(Arc<dyn Gate>, usize)>) {
        *self.0.gate.write().unwrap_or_else(PoisonError::into_inner) = gate;
    }

    fn gate(&self) -> Option<(Arc<dyn Gate>, usize)> {
        let gate = self.0.gate.read();
        gate.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Where its value lives, or will when it is there.
    pub fn device(&self) -> Device {
        let home = lock(&self.0.home)
            .as_ref()
            .map(|(device, _)| device.clone());
        home.unwrap_or_else(|| self.present().device())
    }

    /// Element type of its value.
    pub fn dtype(&self) -> DType {
        let home = lock(&self.0.home).as_ref().map(|(_, dtype)| *dtype);
        home.unwrap_or_else(|| self.present().dtype())
    }

    /// Whether backward passes accumulate a gradient for it.
    pub fn requires_grad(&self) -> bool {
        self.0.requires_grad.load(Relaxed)
    }

    /// Element type of a gradient that accumulates on a GPU.
    pub(crate) fn grad_dtype(&self) -> DType {
        *lock(&self.0.grad_dtype)
    }

    /// Switches gradient accumulation on or off; off also frees the buffer.
    pub fn set_requires_grad(&self, on: bool) {
        self.0.requires_grad.store(on, Relaxed);
        if !on {
            *self.grad_slot() = Grad::default();
        }
    }

    /// The gradient accumulated since the last [`Param::zero_grad`], if there was any.
    pub fn grad(&self) -> Option<Tensor> {
        self.grad_slot().read()
    }

    /// The gradient as [`Param::grad`] gives it, and sums of its squares where whoever wrote it left them.
    pub(crate) fn measured_grad(&self) -> Option<(Tensor, Option<Tensor>)> {
        let mut slot = self.grad_slot();
        let grad = slot.read()?;
        let squares = slot.squares.as_ref().filter(|_| slot.measured);
        Some((grad, squares.cloned()))
    }

    /// Forgets the gradient, keeps its memory.
    pub fn zero_grad(&self) {
        self.grad_slot().changes(false);
    }

    /// Gives the gradient away, with its memory.
    pub fn take_grad(&self) -> Option<Tensor> {
        let mut slot = self.grad_slot();
        let grad = slot.read();
        slot.changes(false);
        slot.buffer = None;
        grad
    }

    /// Adds a gradient that came from elsewhere; the first one is taken as it is.
    ///
    /// # Errors
    /// When shape, type or device are not those of an earlier one.
    pub fn add_grad(&self, grad: Tensor) -> Result<()> {
        ensure_shape(
            "add_grad",
            grad.shape() == self.shape(),
            || format!("{:?} of `{}`", self.shape(), self.name()),
            grad.shape(),
        )?;
        let mut slot = self.grad_slot();
        slot.sum()?;
        let filled = slot.filled;
        slot.measured = false;
        match slot.buffer.as_mut().filter(|_| filled) {
            Some(sum) => sum.add_assign(&grad)?,
            None => slot.buffer = Some(grad),
        }
        slot.filled = true;
        Ok(())
    }

    /// Moves the value to a device in an element type (4 bits stay 4 bits) and forgets the gradient. `grad` is the element type
    /// that gradients accumulate in; on the CPU it is f32.
    ///
    /// # Errors
    /// When the device has no room.
    pub fn to_device(&self, device: &Device, dtype: DType, grad: DType) -> Result<()> {
        // Conversion happens on the CPU, where a tensor of another type has its room.
        let value = self.value();
        let value = match value.dtype() {
            DType::Nf4 => value,
            _ => value.to_device(&Device::Cpu)?.cast(dtype)?,
        };
        let value = value.to_device(device)?;
        *self.grad_slot() = Grad::default();
        *lock(&self.0.grad_dtype) = if device.is_cuda() { grad } else { DType::F32 };
        self.set_value(value)
    }

    /// Lets `f` add to the gradient buffer of a weight on the CPU. Its second argument is `beta`: 0 when
    /// the old content is to be overwritten, 1 when it is to be added to, as a matrix product takes it.
    ///
    /// # Errors
    /// What `f` returns; the gradient is gone then.
    pub fn accumulate(&self, f: impl FnOnce(&mut [f32], f32) -> Result<()>) -> Result<()> {
        self.accumulate_tensor(|grad, beta| f(grad.data_mut::<f32>()?, beta))
    }

    /// Adds a gradient of zero on any device, for a weight that the values cannot depend on but that is to
    /// count as trained.
    ///
    /// # Errors
    /// When the device has no room for the gradient.
    pub fn accumulate_zero(&self) -> Result<()> {
        self.accumulate_tensor(|grad, beta| match grad.cuda().cloned() {
            _ if beta != 0.0 => Ok(()),
            Some(cuda) => cuda.clear(grad),
            None => {
                grad.data_mut::<f32>()?.fill(0.0);
                Ok(())
            }
        })
    }

    /// As [`Param::accumulate`] on any device: the gradient has the weight's shape and lives where the
    /// weight does.
    ///
    /// # Errors
    /// What `f` returns, or when the device has no room.
    pub(crate) fn accumulate_tensor(
        &self,
        f: impl FnOnce(&mut Tensor, f32) -> Result<()>,
    ) -> Result<()> {
        let mut open = self.accumulation()?;
        f(&mut open.grad, open.beta)?;
        open.finish(None);
        Ok(())
    }

    /// Opens the gradient for writing. Nobody else sees it before [`Accumulation::finish`].
    ///
    /// # Errors
    /// When the device has no room.
    pub(crate) fn accumulation(&self) -> Result<Accumulation<'_>> {
        if let Some((gate, bucket)) = self.gate() {
            gate.accumulate(bucket)?;
        }
        let mut slot = self.grad_slot();
        slot.sum()?;
        let beta = if slot.filled { 1.0 } else { 0.0 };
        let grad = match slot.buffer.take() {
            Some(buffer) => buffer,
            None => match self.device().as_cuda() {
                None => Tensor::zeros(&self.0.shape),
                Some(cuda) => cuda.zeros(&self.0.shape, self.grad_dtype())?,
            },
        };
        slot.changes(false);
        Ok(Accumulation { slot, grad, beta })
    }

    /// Lets `f` change the value in place, given the gradient if there is one.
    ///
    /// # Errors
    /// When the value is not f32, or what `f` returns.
    pub fn update(
        &self,
        f: impl FnOnce(&mut [f32], Option<&mut [f32]>) -> Result<()>,
    ) -> Result<()> {
        self.update_tensor(|value, grad| {
            let grad = grad.map(|g| g.data_mut::<f32>()).transpose()?;
            f(value.data_mut::<f32>()?, grad)
        })
    }

    /// As [`Param::update`] on any device: value and gradient as tensors.
    ///
    /// # Errors
    /// What `f` returns.
    pub(crate) fn update_tensor(
        &self,
        f: impl FnOnce(&mut Tensor, Option<&mut Tensor>) -> Result<()>,
    ) -> Result<()> {
        let mut slot = self.grad_slot();
        slot.sum()?;
        let filled = slot.filled;
        slot.measured = false;
        let grad = slot.buffer.as_mut().filter(|_| filled);
        let mut value = self.0.value.write().unwrap_or_else(PoisonError::into_inner);
        self.changed();
        f(&mut value, grad)
    }

    fn grad_slot(&self) -> MutexGuard<'_, Grad> {
        lock(&self.0.grad)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
