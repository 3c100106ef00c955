//! Splitting the questions over processes.

use super::error::SampleError;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// One of `num_chunks` contiguous parts.
///
/// # Source
/// `split_list` and `get_chunk` of LLaVA's `model_vqa.py`: chunks of `ceil(n / num_chunks)`. The last ones
/// may then be empty (five questions in four chunks: 2, 2, 1, 0), where the reference fails with an
/// index error; here an empty chunk is a finished one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    num_chunks: usize,
    chunk_idx: usize,
}

impl Default for Shard {
    fn default() -> Self {
        Self {
            num_chunks: 1,
            chunk_idx: 0,
        }
    }
}

impl Shard {
    /// Chunk `chunk_idx` (from 0) of `num_chunks`.
    ///
    /// # Errors
    /// [`SampleError::Chunk`] for no chunks or a number out of range.
    pub fn new(num_chunks: usize, chunk_idx: usize) -> Result<Self, SampleError> {
        if chunk_idx >= num_chunks {
            return Err(SampleError::Chunk {
                chunk_idx,
                num_chunks,
            });
        }
        Ok(Self {
            num_chunks,
            chunk_idx,
        })
    }

    /// The chunk of this rank, if a launcher (`torchrun`, `mpirun` wrappers, Slurm with `RANK` set)
    /// started several: chunk `RANK` of `WORLD_SIZE`. All questions without these variables.
    ///
    /// # Errors
    /// [`SampleError::Environment`], [`SampleError::Chunk`].
    pub fn from_environment() -> Result<Self, SampleError> {
        Self::of_rank(|name| std::env::var(name).ok())
    }

    fn of_rank(variable: impl Fn(&str) -> Option<String>) -> Result<Self, SampleError> {
        let number = |name: &'static str| match variable(name) {
            None => Ok(None),
            Some(value) => match value.trim().parse::<usize>() {
                Ok(number) => Ok(Some(number)),
                Err(_) => Err(SampleError::Environment { name, value }),
            },
        };
        match (number("RANK")?, number("WORLD_SIZE")?) {
            (Some(rank), Some(world)) => Self::new(world, rank),
            _ => Ok(Self::default()),
        }
    }

    /// Number of chunks.
    pub fn num_chunks(&self) -> usize {
        self.num_chunks
    }

    /// Number of this chunk, from 0.
    pub fn chunk_idx(&self) -> usize {
        self.chunk_idx
    }

    /// Which of `n` questions are this chunk's.
    pub fn range(&self, n: usize) -> Range<usize> {
        let size = n.div_ceil(self.num_chunks);
        let start = size.saturating_mul(self.chunk_idx).min(n);
        start..start.saturating_add(size).min(n)
    }

    /// The part of a list that is this chunk's.
    pub fn of<'a, T>(&self, all: &'a [T]) -> &'a [T] {
        &all[self.range(all.len())]
    }

    /// The chunk's own file beside `samples`: `samples-00001-of-00004.jsonl`. For a single chunk it
    /// is `samples` itself.
    pub fn file(&self, samples: &Path) -> PathBuf {
        if self.num_chunks == 1 {
            return samples.to_path_buf();
        }
        let stem = samples.file_stem().unwrap_or_default().to_string_lossy();
        let end = samples
            .extension()
            .map(|e| format!(".{}", e.to_string_lossy()));
        let (chunk, of) = (self.chunk_idx, self.num_chunks);
        samples.with_file_name(format!(
            "{stem}-{chunk:05}-of-{of:05}{}",
            end.unwrap_or_default()
        ))
    }

    /// The files of all chunks, in order.
    pub fn files(&self, samples: &Path) -> Vec<PathBuf> {
        let chunks = (0..self.num_chunks).map(|chunk_idx| Self { chunk_idx, ..*self });
        chunks.map(|chunk| chunk.file(samples)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The reference's arithmetic, read literally: `[lst[i:i + size] for i in range(0, n, size)][k]`.
    fn reference(n: usize, num_chunks: usize) -> Vec<Vec<usize>> {
        let all: Vec<usize> = (0..n).collect();
        let size = (n as f64 / num_chunks as f64).ceil() as usize;
        all.chunks(size.max(1)).map(<[usize]>::to_vec).collect()
    }

    proptest! {
        #[test]
        fn chunks_are_the_reference_s_and_cover_everything_once(n in 0usize..400, num_chunks in 1usize..40) {
            let expected = reference(n, num_chunks);
            let all: Vec<usize> = (0..n).collect();
            let mut joined = Vec::new();
            for chunk_idx in 0..num_chunks {
                let part = Shard::new(num_chunks, chunk_idx).unwrap().of(&all);
                prop_assert_eq!(part, expected.get(chunk_idx).map_or(&[][..], Vec::as_slice));
                joined.extend_from_slice(part);
            }
            prop_assert_eq!(joined, all);
        }
    }

    #[test]
    fn ranks_and_names() {
        let environment = |rank: &'static str, world: &'static str| {
            Shard::of_rank(move |name| match name {
                "RANK" if !rank.is_empty() => Some(rank.into()),
                "WORLD_SIZE" if !world.is_empty() => Some(world.into()),
                _ => None,
            })
        };
        assert_eq!(environment("1", "4").unwrap(), Shard::new(4, 1).unwrap());
        assert_eq!(environment("", "").unwrap(), Shard::default());
        assert!(environment("4", "4").is_err() && environment("x", "4").is_err());
        assert!(Shard::new(0, 0).is_err());
        let shard = Shard::new(4, 1).unwrap();
        assert_eq!(
            shard.file("out/samples.jsonl".as_ref()),
            Path::new("out/samples-00001-of-00004.jsonl")
        );
        assert_eq!(shard.files("samples.jsonl".as_ref()).len(), 4);
        assert_eq!(
            Shard::default().file("samples.jsonl".as_ref()),
            Path::new("samples.jsonl")
        );
    }
}
