//! The weights in the order in which a forward pass reads them, block by block.
//!
//! Whoever shards the weights fetches them in this order and reduces their gradients in the reverse one.

use llavar_tensor::Param;

use crate::LlavaModel;

/// Place of a block in the forward pass: part of the model, block in it, and what comes behind that block.
type Place = (usize, usize, usize);

impl LlavaModel {
    /// All weights, grouped by the block that they belong to, in the order of the forward pass: slow path,
    /// fast path with its adapters, fusion, projector, embedding, decoder layers, final norm with the output
    /// matrix. A tied embedding comes once more at the end, alone.
    pub fn forward_order(&self) -> Vec<Vec<Param>> {
        let params = self.params();
        let layers = params
            .iter()
            .filter_map(|p| number(p.name(), ".encoder.layers."));
        let clip_depth = layers.max().map_or(0, |last| last + 1);
        let mut placed: Vec<(Place, Param)> = params
            .into_iter()
            .map(|p| (place(p.name(), clip_depth), p))
            .collect();
        // Stable: within a block the order is that of the modules.
        placed.sort_by_key(|(place, _)| *place);
        let mut groups: Vec<Vec<Param>> = placed
            .chunk_by(|a, b| a.0 == b.0)
            .map(|block| block.iter().map(|(_, p)| p.clone()).collect())
            .collect();
        if self.config.llm.tie_word_embeddings {
            groups.push(vec![self.language_model.embed_tokens().clone()]);
        }
        groups
    }
}

fn place(name: &str, clip_depth: usize) -> Place {
    // The ConvNeXt, beside a CLIP or alone.
    if name.contains("vision_tower.stem.") || name.contains("vision_tower.stages.") {
        return match number(name, ".stages.") {
            None => (0, 0, 0),
            Some(stage) => {
                let block = number(name, ".blocks.").map_or(0, |block| block + 1);
                (0, stage + 1, block)
            }
        };
    }
    if let Some(adapter) = number(name, ".align_stages_latent.") {
        // Behind the last layer of its quarter.
        return (1, (adapter + 1) * (clip_depth / 4), 1);
    }
    if name.contains(".align_stages.") {
        return (2, 0, 0);
    }
    if name.contains("vision_tower") {
        return (1, number(name, ".encoder.layers.").map_or(0, |n| n + 1), 0);
    }
    if name.contains("mm_projector") {
        return (3, 0, 0);
    }
    if name.contains("embed_tokens") {
        return (4, 0, 0);
    }
    match number(name, "model.layers.") {
        Some(layer) => (5, layer, 0),
        None => (6, 0, 0),
    }
}

/// The number that stands behind `before` in a name.
fn number(name: &str, before: &str) -> Option<usize> {
    let (_, rest) = name.split_once(before)?;
    rest.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use llavar_tensor::{Gate, Segments, Tape, Tensor};

    use super::*;
    use crate::config::{ModelConfig, Pathways, Preset};

    /// Notes which blocks are read and which receive gradients.
    #[derive(Debug, Default)]
    struct Notes(Mutex<(Vec<usize>, Vec<usize>)>);

    fn note(list: &mut Vec<usize>, bucket: usize) {
        if list.last() != Some(&bucket) {
            list.push(bucket);
        }
    }

    impl Gate for Notes {
        fn read(&self, bucket: usize) {
            note(&mut self.0.lock().unwrap().0, bucket);
        }
        fn accumulate(&self, bucket: usize) -> llavar_tensor::Result<()> {
            note(&mut self.0.lock().unwrap().1, bucket);
            Ok(())
        }
    }

    #[test]
    fn a_pass_reads_the_blocks_in_this_order_and_back() {
        let config = Preset::Nano.config(Some(40)).unwrap();
        for pathways in Pathways::ALL {
            reads_in_order(config.with_pathways(pathways).unwrap());
        }
    }

    fn reads_in_order(config: ModelConfig) {
        let tied = config.llm.tie_word_embeddings;
        let model = LlavaModel::init(config, 3)
            .unwrap()
            .with_adapters(3)
            .unwrap();
        let order = model.forward_order();
        let blocks = order.len() - usize::from(tied);
        let notes = Arc::new(Notes::default());
        for (bucket, params) in order.iter().take(blocks).enumerate() {
            for param in params {
                param.set_requires_grad(true);
                param.set_gate(Some((notes.clone() as Arc<dyn Gate>, bucket)));
            }
        }
        let count: usize = order.iter().take(blocks).map(Vec::len).sum();
        assert_eq!(
            count,
            model.params().len(),
            "every weight stands in one block"
        );
        let side = model.image_size().unwrap();
        let pixels = Tensor::zeros(&[1, side, side, 3]);
        let mut ids = vec![-1; model.tokens_per_image().unwrap()];
        ids.extend([5, 6, 7]);
        let segments = Segments::from_lengths([ids.len()]);
        let labels: Vec<i32> = ids
            .iter()
            .map(|id| if *id < 0 { -100 } else { *id })
            .collect();
        let tape = Tape::training();
        let loss = model
            .loss(&tape, &ids, &labels, &segments, Some(&pixels), false)
            .unwrap();
        let forward = notes.0.lock().unwrap().0.clone();
        let mut want: Vec<usize> = (0..blocks).collect();
        let embedding = order
            .iter()
            .position(|b| b[0].name().contains("embed_tokens"));
        if tied {
            want.push(embedding.unwrap());
        }
        assert_eq!(forward, want);
        tape.backward(&loss.sum, 1.0).unwrap();
        want.reverse();
        assert_eq!(notes.0.lock().unwrap().1, want);
    }
}
