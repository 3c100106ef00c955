//! Embedding look-up with merged image features. Ids are host data: the host sorts them, so that the
//! backward pass adds up the rows of each id in one block, in order, without atomic operations.

use std::sync::Arc;

use super::rows::{ByRun, expect_dtype, run_width};
use crate::{
    DType, Error, Param, Result, Tape, Tensor, Var,
    cuda::{Cuda, Grid, Source, args},
};

pub(in crate::cuda) static SOURCE: Source = Source {
    name: "embed_merge",
    code: include_str!("../kernels/embed_merge.cu"),
};
static GATHER: ByRun = ByRun::new(&SOURCE, "gather_1", "gather_8");
static ADD_ROWS_F32: ByRun = ByRun::new(&SOURCE, "add_rows_f32_1", "add_rows_f32_8");
static ADD_ROWS_BF16: ByRun = ByRun::new(&SOURCE, "add_rows_bf16_1", "add_rows_bf16_8");

/// As [`Tape::embed_merge`], with checked ids and shapes; `slots` are the places of the negative ids.
pub(crate) fn embed_merge(
    tape: &Tape,
    cuda: &Arc<Cuda>,
    embedding: &Param,
    ids: &[i32],
    slots: &[usize],
    features: Option<&Var>,
) -> Result<Var> {
    let table = embedding.value();
    let (dtype, d) = (table.dtype(), table.last_dim());
    if let Some(features) = features {
        expect_dtype("embed_merge features", dtype, features.value())?;
    }
    let source: Vec<i32> = ids
        .iter()
        .scan(0, |next, id| {
            if *id >= 0 {
                return Some(*id);
            }
            *next -= 1;
            Some(*next)
        })
        .collect();
    let mut out = cuda.empty(&[ids.len(), d], dtype)?;
    gather(cuda, &table, features.map(Var::value), &source, &mut out)?;
    let inputs: Vec<&Var> = features.into_iter().collect();
    if !tape.needs_grad(&inputs, &[embedding]) {
        return Ok(Var::constant(out));
    }
    let slots: Vec<i32> = slots.iter().map(|t| *t as i32).collect();
    let (cuda, embedding, features) = (cuda.clone(), embedding.clone(), features.cloned());
    let ids = ids.to_vec();
    Ok(tape.record(out, move |dy, grads| {
        if embedding.requires_grad() {
            embedding.accumulate_tensor(|grad, beta| add_rows(&cuda, &dy, &ids, grad, beta))?;
        }
        let Some(features) = features.filter(Var::requires_grad) else {
            return Ok(());
        };
        let mut df = cuda.empty(features.shape(), dtype)?;
        gather(&cuda, &dy, None, &slots, &mut df)?;
        grads.add(&features, df)
    }))
}

/// `out[t] = table[source[t]]`, for a negative source row `-1 - source[t]` of `features`.
fn gather(
    cuda: &Arc<Cuda>,
    table: &Tensor,
    features: Option<&Tensor>,
    source: &[i32],
    out: &mut Tensor,
) -> Result<()> {
    let d = table.last_dim();
    let mut tensors = vec![table];
    tensors.extend(features);
    let width = run_width(d, &tensors)?;
    let threads = (d / width).next_multiple_of(32).clamp(32, 256);
    cuda.launch(
        GATHER.of(width),
        table.dtype(),
        Grid::new(source.len(), threads),
        args![
            table,
            features,
            &cuda.constant(source)?,
            out,
            source.len() as i64,
            d as i32
        ],
    )
}

/// `grad[ids[t]] += dy[t]` for every `ids[t] >= 0`; `grad` is overwritten where `beta` is 0.
fn add_rows(
    cuda: &Arc<Cuda>,
    dy: &Tensor,
    ids: &[i32],
    grad: &mut Tensor,
    beta: f32,
) -> Result<()> {
    if beta == 0.0 {
        cuda.clear(grad)?;
    }
    let index = by_id(ids);
    let d = dy.last_dim();
    let kernels = match grad.dtype() {
        DType::F32 => &ADD_ROWS_F32,
        DType::BF16 => &ADD_ROWS_BF16,
        got => {
            return Err(Error::DTypeMismatch {
                op: "embedding gradient",
                expected: DType::F32,
                got,
            });
        }
    };
    let width = run_width(d, &[dy, grad])?;
    cuda.launch(
        kernels.of(width),
        dy.dtype(),
        Grid::cube([index.distinct, (d / width).div_ceil(32), 1], 128),
        args![
            dy,
            &cuda.constant(&index.packed)?,
            grad,
            index.distinct as i32,
            d as i32,
            beta
        ],
    )
}

/// Places of the ids, by id.
struct ById {
    distinct: usize,
    /// Distinct ids; first of each one's places, and the end; places in order of id, then place.
    packed: Vec<i32>,
}

fn by_id(ids: &[i32]) -> ById {
    let mut order: Vec<i32> = (0..ids.len() as i32)
        .filter(|t| ids[*t as usize] >= 0)
        .collect();
    order.sort_by_key(|t| ids[*t as usize]);
    let mut packed = Vec::with_capacity(order.len() + 1);
    let mut first = Vec::new();
    for (i, t) in order.iter().enumerate() {
        let id = ids[*t as usize];
        if packed.last() != Some(&id) {
            packed.push(id);
            first.push(i as i32);
        }
    }
    let distinct = packed.len();
    first.push(order.len() as i32);
    packed.extend(first);
    packed.extend(order);
    ById { distinct, packed }
}

#[cfg(test)]
mod tests {
    use super::by_id;
    use crate::{Param, Tape, cuda::testing::compare, ops::testing::Rng};

    #[test]
    fn places_are_grouped_by_id() {
        let index = by_id(&[5, -200, 2, 5, 5, -200, 0]);
        assert_eq!(index.distinct, 3);
        assert_eq!(index.packed, [0, 2, 5, 0, 1, 2, 5, 6, 2, 0, 3, 4]);
        assert_eq!(by_id(&[-1]).packed, [0]);
    }

    #[test]
    #[ignore = "needs a GPU"]
    fn embed_merge_agrees_with_the_cpu() {
        let mut rng = Rng::new(530);
        let embed = |tape: &Tape, p: &Param, ids: &[i32], x: &[crate::Var]| {
            tape.embed_merge(p, ids, x.first())
        };
        // Vocabulary, row, tokens, image tokens among them, ids in use.
        let mut sizes = vec![
            (1000, 3072, 600, 200, 900),
            (50, 64, 2000, 0, 1),
            (50, 72, 500, 500, 50),
            (9, 5, 40, 7, 3),
            (7, 8, 0, 0, 7),
        ];
        sizes.extend((0..8).map(|_| {
            let tokens = rng.size(1, 300);
            (
                rng.size(1, 200),
                rng.size(1, 300),
                tokens,
                rng.size(0, tokens),
                200,
            )
        }));
        for (vocabulary, d, tokens, images, used) in sizes {
            let mut ids: Vec<i32> = (0..tokens)
                .map(|_| rng.size(0, used.min(vocabulary) - 1) as i32)
                .collect();
            // Image tokens at distinct places, in no order.
            let mut places: Vec<usize> = (0..tokens).collect();
            for i in 0..images {
                let j = rng.size(i, tokens - 1);
                places.swap(i, j);
                ids[places[i]] = -200;
            }
            let table = rng.tensor(&[vocabulary, d]);
            let features: Vec<_> = (images > 0)
                .then(|| rng.tensor(&[images, d]))
                .into_iter()
                .collect();
            let what = format!("embed {vocabulary} x {d}, {tokens} tokens, {images} of images");
            // Twice, so that gradients also add to what is there.
            compare(&what, &features, &[table], |tape, x, p| {
                Ok(vec![
                    embed(tape, &p[0], &ids, x)?,
                    embed(tape, &p[0], &ids, x)?,
                ])
            });
        }
    }
}
