//! One pass of the language model over the texts of many samples.

use std::{collections::HashMap, ops::Range};

use llavar_model::{LlavaModel, SharedPrefixes};
use llavar_tensor::{Tape, Tensor, Var};

use crate::{Losses, SelectError, texts::Text};

/// Texts of one sample with the numbers of its pictures in the pass.
pub(crate) struct Job<'a> {
    pub(crate) texts: &'a [Text],
    pub(crate) pairs: usize,
    pub(crate) pictures: Vec<usize>,
}

/// The losses of every pair of every job. `features [K * N, D]` holds the pictures of the pass.
pub(crate) fn run(
    model: &LlavaModel,
    jobs: &[Job<'_>],
    features: Option<&Tensor>,
) -> Result<Vec<Vec<Losses>>, SelectError> {
    let (mut texts, mut spans, mut wanted) = (Vec::new(), Vec::new(), Vec::new());
    for (j, job) in jobs.iter().enumerate() {
        for text in job.texts {
            let number = |id: i32| match usize::try_from(-1 - id) {
                Ok(picture) => -1 - job.pictures[picture] as i32,
                Err(_) => id,
            };
            for own in &text.wanted {
                spans.push((texts.len(), own.span.clone()));
                wanted.push((j, own));
            }
            texts.push(text.ids.iter().map(|id| number(*id)).collect());
        }
    }
    let means = span_losses(model, &texts, &spans, features)?;
    let mut results: Vec<Vec<Losses>> = jobs
        .iter()
        .map(|job| vec![Losses::default(); job.pairs])
        .collect();
    for ((j, wanted), mean) in wanted.into_iter().zip(means) {
        results[j][wanted.pair].set(wanted.loss, mean, wanted.span.len() as u32);
    }
    Ok(results)
}

/// Mean losses (nats a token) of stretches of texts, all texts in one pass: what they begin with alike
/// (system text, picture, the first pair of a duo) is computed once; only the rows that a loss needs get
/// logits, in chunks, and no row twice.
///
/// # Shapes
/// A text has a token a place, `-1 - k` at every position of picture `k`; a span is the number of its text
/// and tokens behind the first. `features [K * N, D]` holds the pictures.
///
/// # Errors
/// When the shapes do not fit or the device has no room.
pub fn span_losses(
    model: &LlavaModel,
    texts: &[Vec<i32>],
    spans: &[(usize, Range<usize>)],
    features: Option<&Tensor>,
) -> Result<Vec<f64>, SelectError> {
    if spans.is_empty() {
        return Ok(Vec::new());
    }
    let language_model = &model.language_model;
    let mut shared = SharedPrefixes::new();
    for ids in texts {
        shared.push(ids, language_model.is_long(ids.len()));
    }
    let tape = Tape::inference();
    let stream = shared.ids();
    let features = picture_rows(&stream, model.tokens_per_image().unwrap_or(0), features)?;
    let x = language_model.embed(&tape, &stream, features.as_ref())?;
    let all_rows = shared.all_rows();
    let mut known = HashMap::new();
    let (mut rows, mut labels) = (Vec::new(), Vec::new());
    let mut places: Vec<Vec<usize>> = Vec::with_capacity(spans.len());
    for (text, span) in spans {
        let of_token = |at: usize| {
            let (row, label) = (all_rows[*text][at - 1], texts[*text][at]);
            *known.entry((row, label)).or_insert_with(|| {
                rows.push(row);
                labels.push(label);
                rows.len() - 1
            })
        };
        places.push(span.clone().map(of_token).collect());
    }
    let hidden = language_model.forward_shared(&x, &shared, rows.into())?;
    let loss = tape.linear_cross_entropy(&hidden, language_model.lm_head(), &labels)?;
    let per_token = loss.per_token.to_f32_vec()?;
    let mean = |tokens: Vec<usize>| {
        let sum: f64 = tokens.iter().map(|at| f64::from(per_token[*at])).sum();
        sum / tokens.len() as f64
    };
    Ok(places.into_iter().map(mean).collect())
}

/// The features of the picture positions of a stream, in its order.
fn picture_rows(
    stream: &[i32],
    positions: usize,
    features: Option<&Tensor>,
) -> Result<Option<Var>, SelectError> {
    let Some(features) = features else {
        return Ok(None);
    };
    let mut rows = Vec::new();
    let mut run = (0, 0);
    for id in stream {
        run = if *id < 0 && *id == run.0 {
            (*id, run.1 + 1)
        } else {
            (*id, 0)
        };
        if *id < 0 {
            let picture = (-1 - *id) as usize;
            rows.push(picture * positions + run.1 % positions.max(1));
        }
    }
    match rows.is_empty() {
        true => Ok(None),
        false => Ok(Some(features.gather_rows(&rows)?.into())),
    }
}
