//! A closer look, as `llavar ask --closer` takes it: where the answer is unsure, halves of the picture are asked
//! too, and the surest answer counts.

use llavar_assistant::{Picture, is_unsure};
use llavar_http::Exchange;

use super::{
    Stop,
    answer::{Answer, Asked, Said},
};
use crate::engine::Place;

/// Answers of one request, at most: about the picture and both halves of it.
pub(super) const LOOKS: usize = 3;

/// The surest answer about a picture and, where the `first`, about the whole of it, is unsure, about its `halves`,
/// which are answered side by side.
pub(super) fn look(
    asked: &Asked<'_>,
    first: Answer<'_>,
    halves: Vec<(Place, Picture)>,
    exchange: &mut Exchange<'_>,
) -> Result<Said, Stop> {
    let mut best = first.collect(exchange)?;
    let closer = is_unsure(best.score);
    if closer {
        let put = |(place, half)| asked.put(place, vec![half]);
        // All of them are in the line before the first is waited for.
        let halves: Vec<Answer<'_>> = halves.into_iter().map(put).collect();
        for half in halves {
            let other = half.collect(exchange)?;
            if other.score > best.score {
                best = other;
            }
        }
    }
    best.closer_look = Some(closer);
    Ok(best)
}
