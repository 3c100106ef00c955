//! One pass of the language model over the texts of many samples.

use std::collections::HashMap;

use llavar_assistant::Assistant;
use llavar_model::SharedPrefixes;
use llavar_tensor::{Tape, Tensor, Var};

use crate::{Losses, SelectError, texts::Text};

/// Texts of one sample with the numbers of its pictures in the pass.
pub(crate) struct Job<'a> {
    pub(crate) texts: &'a [Text],
    pub(crate) pairs: usize,
    pub(crate) pictures: Vec<usize>,
}

/// The losses of every pair of every job. `features [K * N, D]` holds the pictures of the pass.
///
/// What texts begin with alike (system text, picture, the first pair of a duo) is computed once; only
/// the rows that a loss needs get logits, in chunks, and no row twice.
pub(crate) fn run(
    assistant: &Assistant,
    jobs: &[Job<'_>],
    features: Option<&Tensor>,
) -> Result<Vec<Vec<Losses>>, SelectError> {
    let model = assistant.model();
    let language_model = &model.language_model;
    let mut texts = SharedPrefixes::new();
    let mut ids = Vec::new();
    for job in jobs {
        for text in job.texts {
            let number = |id: i32| match usize::try_from(-1 - id) {
                Ok(picture) => -1 - job.pictures[picture] as i32,
                Err(_) => id,
            };
            ids.push(text.ids.iter().map(|id| number(*id)).collect::<Vec<i32>>());
            if let Some(ids) = ids.last() {
                texts.push(ids, language_model.is_long(ids.len()));
            }
        }
    }
    let mut results: Vec<Vec<Losses>> = jobs
        .iter()
        .map(|job| vec![Losses::default(); job.pairs])
        .collect();
    if texts.is_empty() {
        return Ok(results);
    }
    let tape = Tape::inference();
    let stream = texts.ids();
    let features = picture_rows(&stream, model.tokens_per_image().unwrap_or(0), features)?;
    let x = language_model.embed(&tape, &stream, features.as_ref())?;
    let hidden = language_model.forward_shared(&x, &texts)?;

    let all_rows = texts.all_rows();
    let mut known = HashMap::new();
    let (mut rows, mut labels) = (Vec::new(), Vec::new());
    let mut places = Vec::new();
    let wanted = jobs.iter().enumerate().flat_map(|(j, job)| {
        job.texts
            .iter()
            .flat_map(move |text| text.wanted.iter().map(move |w| (j, w)))
    });
    let of_text = jobs.iter().flat_map(|job| job.texts);
    let of_wanted = of_text
        .enumerate()
        .flat_map(|(t, text)| std::iter::repeat_n(t, text.wanted.len()));
    for ((j, wanted), t) in wanted.zip(of_wanted) {
        let tokens: Vec<usize> = wanted
            .span
            .clone()
            .map(|at| {
                let (row, label) = (all_rows[t][at - 1], ids[t][at]);
                *known.entry((row, label)).or_insert_with(|| {
                    rows.push(row);
                    labels.push(label);
                    rows.len() - 1
                })
            })
            .collect();
        places.push((j, wanted, tokens));
    }
    let hidden = Var::constant(hidden.value().gather_rows(&rows)?);
    let loss = tape.linear_cross_entropy(&hidden, language_model.lm_head(), &labels)?;
    let per_token = loss.per_token.to_f32_vec()?;
    for (j, wanted, tokens) in places {
        let sum: f64 = tokens.iter().map(|at| f64::from(per_token[*at])).sum();
        let count = tokens.len();
        results[j][wanted.pair].set(wanted.loss, sum / count as f64, count as u32);
    }
    Ok(results)
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
