//! `Checkpointing`: which blocks compute their activations again in the backward pass.

/// How many blocks keep their activations from the forward to the backward pass; all others keep the inputs of
/// their parts alone (two for a layer of CLIP or of the language model, attention and MLP) with the output and the
/// statistics of attention, and run again but for attention's forward pass.
///
/// Blocks are counted from the end of the forward pass: the layers of the language model, then those of
/// CLIP with the adapters between them, then those of the ConvNeXt. The backward pass begins there, so what
/// the last blocks have kept is gone before the first block has to run again; and their work costs the most
/// for the bytes that it leaves.
///
/// `true` recomputes every block, `false` none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpointing {
    keep: usize,
}

impl Checkpointing {
    /// Every block is computed again.
    pub const ALL: Self = Self { keep: 0 };
    /// No block is.
    pub const NONE: Self = Self { keep: usize::MAX };

    /// All blocks but the last `keep` ([`crate::LlavaModel::blocks`] says how many there are).
    pub fn keeping(keep: usize) -> Self {
        Self { keep }
    }

    /// As seen by what runs before another part of `blocks` blocks.
    pub(crate) fn before(self, blocks: usize) -> Self {
        match self {
            Self::NONE => self,
            Self { keep } => Self::keeping(keep.saturating_sub(blocks)),
        }
    }

    /// Whether the block at this place from the end, from 1, is computed again.
    pub(crate) fn recomputes(self, place: usize) -> bool {
        place > self.keep
    }
}

impl From<bool> for Checkpointing {
    fn from(on: bool) -> Self {
        if on { Self::ALL } else { Self::NONE }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_blocks_keep_theirs() {
        let three = Checkpointing::keeping(3);
        let kept = |c: Checkpointing| (1..=6).filter(|place| !c.recomputes(*place)).count();
        assert_eq!(
            (kept(three), kept(three.before(2)), kept(three.before(9))),
            (3, 1, 0)
        );
        assert_eq!((kept(true.into()), kept(false.into())), (0, 6));
        assert_eq!(kept(Checkpointing::NONE.before(100)), 6);
    }
}
