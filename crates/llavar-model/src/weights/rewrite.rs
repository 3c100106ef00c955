//! Weights on their way from one folder into another, one tensor at a time.

use super::{FolderWriter, Located, SaveError, TensorSpec};
use crate::{ModelError, Result};

/// What a written tensor is made of.
pub(crate) enum Piece<'a> {
    /// The stored bytes as they are.
    Stored(&'a Located<'a>),
    /// Bytes of the written type.
    Bytes(Vec<u8>),
    /// Values, rounded to the written type.
    Values(Vec<f32>),
}

/// Writes the weights that `specs` lists; `piece` gives each, so that memory for one is enough.
///
/// # Errors
/// Those of `piece`, of reading, and of [`FolderWriter::write_weights`].
pub(crate) fn write_pieces<'a>(
    writer: &mut FolderWriter,
    specs: &[TensorSpec],
    mut piece: impl FnMut(&TensorSpec) -> Result<Option<Piece<'a>>>,
) -> Result<()> {
    // The writer knows errors of writing alone; what made a tensor impossible is the cause and goes first.
    let mut cause = None;
    let written = writer.write_weights(specs, |spec, sink| {
        let unknown = || SaveError::FileName {
            name: spec.name.clone(),
        };
        let mut stopped = |error: ModelError| {
            cause = Some(error);
            unknown()
        };
        match piece(spec).map_err(&mut stopped)? {
            Some(Piece::Stored(located)) => {
                let bytes = located.bytes().map_err(|e| stopped(e.into()))?;
                sink.write(&bytes)
            }
            Some(Piece::Bytes(bytes)) => sink.write(&bytes),
            Some(Piece::Values(values)) => sink.write_f32(&values),
            None => Err(unknown()),
        }
    });
    match cause {
        Some(error) => Err(error),
        None => Ok(written?),
    }
}
