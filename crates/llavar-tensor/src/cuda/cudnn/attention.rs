//! Which attention problems cuDNN takes, plans by shape, execution.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use cudarc::cudnn::sys::{cudnnCreate, cudnnHandle_t, cudnnSetStream};

use super::{
    graph::{Plan, check},
    sdpa::{self, Shape, Slot},
};
use crate::{DType, Error, Result, Tensor, cuda::Cuda, ops::attention::Problem};

/// Host values that graphs take by value.
static ONE: f32 = 1.0;
static MINUS_INFINITY: f32 = f32::NEG_INFINITY;

/// Handle and plans of a device.
struct Library {
    state: Mutex<State>,
}

struct State {
    handle: cudnnHandle_t,
    plans: HashMap<(Shape, Pass), Option<Plan<Slot>>>,
}

// SAFETY: handle and plans are used with the mutex held.
unsafe impl Send for State {}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Pass {
    Forward,
    Backward,
}

/// Most bytes that the backward engine may keep at once; more sequences than fit go one group after the other.
const MOST_KEPT: usize = 1 << 30;

/// Fewer texts of one length than this share plans with those of other lengths.
const FEW_TEXTS: usize = 8;

/// What the backward pass needs of a forward pass.
pub(crate) struct Statistics {
    shape: Shape,
    values: Tensor,
}

/// A problem that cuDNN takes.
pub(crate) struct Fit {
    shape: Shape,
    lengths: Vec<usize>,
}

/// Addresses of the first query, the first key and the first value.
pub(crate) type Heads = [u64; 3];

/// The heads that lie side by side in the row of a token.
pub(crate) fn heads_of_rows(rows: u64, problem: &Problem) -> Heads {
    let k = rows + 2 * (problem.heads * problem.dim) as u64;
    [rows, k, k + 2 * (problem.kv_heads * problem.dim) as u64]
}

/// Whether cuDNN has plans for a problem, of the backward pass too where `keep`: it has for bf16, heads of a
/// multiple of 8 up to 128, and sequences that attend to themselves without a window. `inputs` are queries, keys
/// and values, or the one tensor whose rows hold all three side by side.
pub(crate) fn fit(
    cuda: &Arc<Cuda>,
    problem: &Problem,
    inputs: &[&Tensor],
    keep: bool,
) -> Result<Option<Fit>> {
    let Some((shape, lengths)) = shape(cuda, problem, inputs) else {
        return Ok(None);
    };
    let library = cuda.extension(|| Library::new(cuda))?;
    let mut state = library.lock();
    let has = state.has(shape, Pass::Forward) && (!keep || state.has(group(shape), Pass::Backward));
    Ok(has.then_some(Fit { shape, lengths }))
}

/// Output of attention `[T, Hq, D]`, and statistics for the backward pass.
pub(crate) fn forward(
    cuda: &Arc<Cuda>,
    problem: &Problem,
    Fit { shape, lengths }: Fit,
    [q, k, v]: Heads,
) -> Result<(Tensor, Statistics)> {
    let library = cuda.extension(|| Library::new(cuda))?;
    let mut state = library.lock();
    let out = [problem.queries(), problem.heads, problem.dim];
    let mut out = cuda.empty(&out, DType::BF16)?;
    let mut values = cuda.empty(&[shape.statistics()], DType::F32)?;
    let tables = Tables::new(cuda, &shape, &lengths)?;
    let (o, s) = (out.cuda_address_mut()?, values.cuda_address_mut()?);
    state.execute(cuda, shape, Pass::Forward, |slot| match slot {
        Slot::Q => q,
        Slot::K => k,
        Slot::V => v,
        Slot::O => o,
        Slot::Statistics => s,
        other => tables.address(problem, other),
    })?;
    Ok((out, Statistics { shape, values }))
}

/// Writes the gradients of queries, keys and values, which lie as those do.
pub(crate) fn backward(
    cuda: &Arc<Cuda>,
    problem: &Problem,
    statistics: &Statistics,
    [q, k, v]: Heads,
    [o, dout]: [&Tensor; 2],
    [dq, dk, dv]: Heads,
) -> Result<()> {
    let (shape, lengths) = (statistics.shape, lengths(problem));
    let group = group(shape);
    let library = cuda.extension(|| Library::new(cuda))?;
    let mut state = library.lock();
    let mut delta = cuda.empty(&[group.statistics()], DType::F32)?;
    let delta = delta.cuda_address_mut()?;
    let (o, dout) = (o.cuda_address()?, dout.cuda_address()?);
    let mut s = statistics.values.cuda_address()?;
    // Bytes before the first token of a group, in tensors of queries, of keys and of outputs.
    let (mut of_q, mut of_k, mut of_o) = (0, 0, 0);
    for lengths in lengths.chunks(group.batch as usize) {
        let tables = Tables::new(cuda, &group, lengths)?;
        state.execute(cuda, group, Pass::Backward, |slot| match slot {
            Slot::Q => q + of_q,
            Slot::K => k + of_k,
            Slot::V => v + of_k,
            Slot::O => o + of_o,
            Slot::DO => dout + of_o,
            Slot::Statistics => s,
            Slot::DQ => dq + of_q,
            Slot::DK => dk + of_k,
            Slot::DV => dv + of_k,
            Slot::Delta => delta,
            other => tables.address(problem, other),
        })?;
        let bytes = 2 * lengths.iter().sum::<usize>() as u64;
        of_q += bytes * group.row(group.heads) as u64;
        of_k += bytes * group.row(group.kv_heads) as u64;
        of_o += bytes * group.output_row() as u64;
        s += 4 * group.statistics() as u64;
    }
    Ok(())
}

/// The part of a problem that the backward pass takes at once: as many sequences, dividing their number, as
/// [`MOST_KEPT`] allows, and at least one.
fn group(shape: Shape) -> Shape {
    let most = MOST_KEPT / (shape.kept_scores() / shape.batch as usize).max(1);
    let fits = |n: &i64| shape.batch % n == 0 && *n <= most as i64;
    Shape {
        batch: (1..=shape.batch).rev().find(fits).unwrap_or(1),
        ..shape
    }
}

/// Lengths of the sequences, empty ones left out.
fn lengths(problem: &Problem) -> Vec<usize> {
    let lengths = problem.segments.iter().map(|s| s.q.len());
    lengths.filter(|n| *n > 0).collect()
}

/// The shape of the plan for a problem, if it is one for cuDNN.
fn shape(cuda: &Cuda, problem: &Problem, tensors: &[&Tensor]) -> Option<(Shape, Vec<usize>)> {
    let itself = |s: &crate::ops::attention::Segment| s.q == s.k && !s.has_window();
    let fits = cuda.info().cudnn.is_some_and(|version| version >= 90_000)
        && cuda.info().capability.0 >= 8
        && problem.dim.is_multiple_of(8)
        && problem.dim <= 128
        && tensors.iter().all(|t| {
            t.dtype() == DType::BF16 && t.cuda_address().is_ok_and(|a| a.is_multiple_of(16))
        })
        && problem.segments.iter().all(itself);
    let lengths = lengths(problem);
    let longest = lengths.iter().copied().max()?;
    if !fits || longest < 2 {
        return None;
    }
    let causal = problem.is_causal();
    let (batch, longest, ragged) = plan_size(&lengths, causal);
    let shape = Shape {
        batch: batch as i64,
        heads: problem.heads as i64,
        kv_heads: problem.kv_heads as i64,
        longest: longest as i64,
        dim: problem.dim as i64,
        causal,
        ragged,
        in_row: tensors.len() == 1,
    };
    // Offsets are 32-bit numbers.
    let last = problem
        .queries()
        .checked_mul(shape.row(shape.heads) as usize)?;
    (last <= i32::MAX as usize).then_some((shape, lengths))
}

/// Sequences and the longest of them as a plan is made for, and whether it takes any lengths up to that.
///
/// A plan takes up to a second to build, so ragged batches share plans: the number of sequences is rounded up to a
/// power of two (the rest have no tokens) and the longest to one of few lengths, whose blocks beyond the last token end
/// at once. A few texts of one length are prompts, whose next length is another one.
fn plan_size(lengths: &[usize], causal: bool) -> (usize, usize, bool) {
    let longest = lengths.iter().copied().max().unwrap_or(0);
    let few = causal && lengths.len() < FEW_TEXTS;
    if few || lengths.iter().any(|n| *n != longest) {
        let batch = lengths.len().next_power_of_two().max(2);
        (batch, bucket(longest), true)
    } else {
        (lengths.len(), longest, false)
    }
}

/// A length rounded up: 128, 256, 512, then in halves of powers of two (768, 1024, 1536, ..).
fn bucket(length: usize) -> usize {
    let power = length.next_power_of_two().max(128);
    let three_quarters = power / 4 * 3;
    if power >= 1024 && length <= three_quarters {
        three_quarters
    } else {
        power
    }
}

/// Lengths and offsets on the device.
struct Tables {
    tensors: Option<[Tensor; 4]>,
}

impl Tables {
    fn new(cuda: &Arc<Cuda>, shape: &Shape, lengths: &[usize]) -> Result<Self> {
        if !shape.ragged {
            return Ok(Self { tensors: None });
        }
        let batch = shape.batch as usize;
        let mut padded: Vec<i32> = lengths.iter().map(|n| *n as i32).collect();
        padded.resize(batch, 0);
        let offsets = |row: i64| -> Vec<i32> {
            let mut at = 0;
            let mut all = vec![0];
            for n in &padded {
                at += n * row as i32;
                all.push(at);
            }
            all
        };
        let tensors = [
            cuda.constant(&padded)?,
            cuda.constant(&offsets(shape.row(shape.heads)))?,
            cuda.constant(&offsets(shape.row(shape.kv_heads)))?,
            cuda.constant(&offsets(shape.output_row()))?,
        ];
        Ok(Self {
            tensors: Some(tensors),
        })
    }

    /// Address of what is neither an input nor an output.
    fn address(&self, problem: &Problem, slot: Slot) -> u64 {
        let of = |i: usize| {
            let tensor = self.tensors.as_ref().map(|t| &t[i]);
            tensor.and_then(|t| t.cuda_address().ok()).unwrap_or(0)
        };
        match slot {
            Slot::Lengths => of(0),
            Slot::QueryOffsets => of(1),
            Slot::KeyOffsets => of(2),
            Slot::OutputOffsets => of(3),
            Slot::Scale => (&raw const problem.scale) as u64,
            Slot::One => (&raw const ONE) as u64,
            Slot::MinusInfinity => (&raw const MINUS_INFINITY) as u64,
            _ => 0,
        }
    }
}

impl Library {
    fn new(cuda: &Cuda) -> Result<Self> {
        let mut handle = std::ptr::null_mut();
        cuda.bind()?;
        // SAFETY: valid out-pointer; the stream lives as long as the device.
        unsafe {
            check(cudnnCreate(&mut handle), "start")?;
            check(cudnnSetStream(handle, cuda.stream().cast()), "stream")?;
        }
        Ok(Self {
            state: Mutex::new(State {
                handle,
                plans: HashMap::new(),
            }),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether there is a plan; made on first use, a failure is remembered.
    fn has(&mut self, shape: Shape, pass: Pass) -> bool {
        let handle = self.handle;
        let slot = self.plans.entry((shape, pass)).or_insert_with(|| {
            let made = match pass {
                Pass::Forward => sdpa::forward(handle, &shape),
                Pass::Backward => sdpa::backward(handle, &shape),
            };
            if let (Err(error), true) = (&made, std::env::var_os("LLAVAR_CUDA_LOG").is_some()) {
                eprintln!("attention without cuDNN, {pass:?} {shape:?}: {error}");
            }
            made.ok()
        });
        slot.is_some()
    }

    fn execute(
        &mut self,
        cuda: &Arc<Cuda>,
        shape: Shape,
        pass: Pass,
        address: impl Fn(Slot) -> u64,
    ) -> Result<()> {
        if !self.has(shape, pass) {
            return Err(Error::Cuda {
                op: "attention",
                reason: format!("no cuDNN plan for {shape:?}"),
            });
        }
        let Some(Some(plan)) = self.plans.get(&(shape, pass)) else {
            return Ok(());
        };
        cuda.bind()?;
        let workspace = match plan.workspace {
            0 => None,
            bytes => Some(cuda.empty(&[bytes.div_ceil(4)], DType::F32)?),
        };
        let at = match &workspace {
            Some(tensor) => tensor.cuda_address()?,
            None => 0,
        };
        plan.execute(self.handle, address, at)?;
        cuda.mark(|| format!("attention {pass:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_of_many_lengths_share_few_plans() {
        let of_one = |length: usize| plan_size(&[length], true);
        let plans: std::collections::HashSet<_> = (2..=4096).map(of_one).collect();
        assert_eq!(plans.len(), 9, "{plans:?}");
        assert_eq!(plan_size(&[660, 700, 90], true), (4, 768, true));
        // What is trained and measured in batches of one length, and pictures, have plans of their own.
        assert_eq!(plan_size(&[800; 8], true), (8, 800, false));
        assert_eq!(plan_size(&[577], false), (1, 577, false));
    }

    #[test]
    fn groups_divide_the_sequences_and_keep_little() {
        for (batch, heads, longest) in [(8, 32, 800), (64, 32, 2048), (7, 32, 4096), (1, 32, 8192)]
        {
            let shape = Shape {
                batch,
                heads,
                kv_heads: 8,
                longest,
                dim: 128,
                causal: true,
                ragged: false,
                in_row: false,
            };
            let group = group(shape);
            assert_eq!(batch % group.batch, 0);
            assert!(
                group.batch == 1 || group.kept_scores() <= MOST_KEPT,
                "{group:?}"
            );
        }
    }

    #[test]
    fn few_buckets_waste_little() {
        let all: std::collections::BTreeSet<usize> = (1..=8192).map(bucket).collect();
        assert!(all.len() <= 12, "{all:?}");
        for n in 1..=8192 {
            assert!(bucket(n) >= n && (n < 128 || bucket(n) < 2 * n));
        }
    }
}
