//! From the logits of one position to the next id.

use rand::Rng;

use super::GenerationOptions;

/// Log-probabilities after masking: ids from `vocab_limit` on, and those that cannot be, are -inf.
pub(crate) fn log_softmax(logits: &mut [f32], vocab_limit: Option<usize>) {
    mask(logits, vocab_limit);
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|z| f64::from(z - max).exp()).sum();
    let log_sum = max + sum.ln() as f32;
    logits.iter_mut().for_each(|z| *z -= log_sum);
}

/// Makes ids from `limit` on impossible.
pub(crate) fn mask(logits: &mut [f32], limit: Option<usize>) {
    if let Some(beyond) = limit.and_then(|limit| logits.get_mut(limit..)) {
        beyond.fill(f32::NEG_INFINITY);
    }
}

/// Makes ids that occurred less likely.
pub(crate) fn penalise(logits: &mut [f32], penalty: f32, ids: &[u32]) {
    if penalty == 1.0 {
        return;
    }
    let mut seen: Vec<u32> = ids.to_vec();
    seen.sort_unstable();
    seen.dedup();
    for id in seen {
        if let Some(z) = logits.get_mut(id as usize) {
            *z = if *z < 0.0 { *z * penalty } else { *z / penalty };
        }
    }
}

/// The most likely id, the first of several.
pub(crate) fn argmax(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (i, z) in logits.iter().enumerate() {
        if *z > logits[best] || logits[best].is_nan() {
            best = i;
        }
    }
    best as u32
}

/// Draws an id: temperature (which divides what is below the largest, so that a tiny one is no overflow), then the `top_k` most likely, then the nucleus of mass `top_p`.
///
/// An id stays in the nucleus while the mass of all more likely ones is below `top_p`.
pub(crate) fn sample(logits: &[f32], options: &GenerationOptions, rng: &mut impl Rng) -> u32 {
    let mut candidates: Vec<(u32, f32)> = logits
        .iter()
        .enumerate()
        .filter(|(_, z)| z.is_finite())
        .map(|(i, z)| (i as u32, *z))
        .collect();
    // Ties in the order of the ids, so that a seed means one answer.
    let more_likely = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    let k = options.top_k.unwrap_or(usize::MAX).min(candidates.len());
    if k == 0 {
        return argmax(logits);
    }
    if k < candidates.len() {
        candidates.select_nth_unstable_by(k - 1, more_likely);
        candidates.truncate(k);
    }
    candidates.sort_unstable_by(more_likely);
    let max = candidates[0].1;
    let mut weights: Vec<f64> = candidates
        .iter()
        .map(|(_, z)| (f64::from(z - max) / f64::from(options.temperature)).exp())
        .collect();
    let total: f64 = weights.iter().sum();
    let mut before = 0.0;
    let nucleus = f64::from(options.top_p.unwrap_or(1.0)) * total;
    let kept = weights
        .iter()
        .take_while(|w| {
            let inside = before < nucleus;
            before += **w;
            inside
        })
        .count()
        .max(1);
    weights.truncate(kept);
    let mut at = rng.random::<f64>() * weights.iter().sum::<f64>();
    for ((id, _), weight) in candidates.iter().zip(&weights) {
        at -= weight;
        if at < 0.0 {
            return *id;
        }
    }
    candidates[kept - 1].0
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn drawn(logits: &[f32], options: &GenerationOptions) -> Vec<usize> {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let mut counts = vec![0; logits.len()];
        (0..4000).for_each(|_| counts[sample(logits, options, &mut rng) as usize] += 1);
        counts
    }

    #[test]
    fn frequencies_follow_the_probabilities() {
        // Probabilities 0.5, 0.25, 0.125, 0.125.
        let logits = [2.0f32.ln(), 0.0, 0.5f32.ln(), 0.5f32.ln()];
        let warm = GenerationOptions {
            temperature: 1.0,
            ..Default::default()
        };
        let counts = drawn(&logits, &warm);
        for (count, p) in counts.iter().zip([0.5, 0.25, 0.125, 0.125]) {
            assert!((*count as f64 / 4000.0 - p).abs() < 0.03, "{counts:?}");
        }
        let k2 = drawn(
            &logits,
            &GenerationOptions {
                top_k: Some(2),
                ..warm.clone()
            },
        );
        assert!(
            k2[2] == 0 && k2[3] == 0 && (k2[0] as f64 / 4000.0 - 2.0 / 3.0).abs() < 0.03,
            "{k2:?}"
        );
        // 0.5 + 0.25 reaches 0.7; with 0.5 the first alone does.
        let p = |top_p| {
            drawn(
                &logits,
                &GenerationOptions {
                    top_p: Some(top_p),
                    ..warm.clone()
                },
            )
        };
        assert!(p(0.7)[1] > 0 && p(0.7)[2] == 0);
        assert_eq!(p(0.5)[0], 4000);
        let cold = drawn(
            &logits,
            &GenerationOptions {
                temperature: 0.05,
                ..warm
            },
        );
        assert!(cold[0] > 3990, "{cold:?}");
    }

    #[test]
    fn masked_and_repeated_ids() {
        let mut logits = [1.0, -1.0, 5.0, 9.0];
        penalise(&mut logits, 2.0, &[0, 1, 1]);
        assert_eq!(logits, [0.5, -2.0, 5.0, 9.0]);
        mask(&mut logits, Some(3));
        assert_eq!(argmax(&logits), 2);
        log_softmax(&mut logits, Some(2));
        assert!(
            (logits[0].exp() + logits[1].exp() - 1.0).abs() < 1e-6
                && logits[2] == f32::NEG_INFINITY
        );
    }
}
