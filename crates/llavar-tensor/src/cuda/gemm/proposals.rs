//! Which of cuBLASLt's proposals computes a product.
//!
//! The library orders its proposals by an estimate. On a Hopper card under load its first choice for large
//! products in bf16 is mostly a kernel whose blocks work in pairs on large tiles; one of 128 x 160 or
//! 176 x 128, whose two groups of warps take turns, is faster where its tiles fill the last round of
//! multiprocessors too (BENCHMARKS.md, "Which algorithm"). The choice follows from the proposals alone, so
//! that every run takes the same; all proposals without parts of sums gave the same bits wherever they were
//! compared.

use cudarc::cublaslt::sys::{self as ls, cublasLtMatmulAlgoConfigAttributes_t as Config};

/// How many are asked for: as many as the library ever gives.
const MOST: usize = 8;

/// What is known of a proposal.
#[derive(Debug, Clone, Copy)]
struct Proposal {
    /// Tile and variant as the library numbers them.
    kernel: (u32, u32),
    /// Parts that a sum is made of.
    splits: u32,
    /// Rounds of all multiprocessors that its tiles take.
    waves: f32,
}

/// Kernels that are taken before the library's first choice, the better one first.
const PREFERRED: [(u32, u32); 2] = [(29, 1), (201, 2)];
/// Fewer rounds than this are too few for the choice to pay.
const MIN_WAVES: f32 = 4.0;
/// Least share of its rounds that a kernel fills.
const MIN_FILLED: f32 = 0.95;

impl Proposal {
    fn fills_its_rounds(self) -> bool {
        // A whole number may come as a little more.
        self.waves >= MIN_WAVES && self.waves >= MIN_FILLED * (self.waves - 1e-3).ceil()
    }
}

/// Index of the proposal to take, 0 for the library's first.
fn choose(proposals: &[Proposal]) -> usize {
    let preferred = |kernel: &(u32, u32)| {
        let takes = |p: &Proposal| p.kernel == *kernel && p.splits == 1 && p.fills_its_rounds();
        proposals.iter().position(takes)
    };
    PREFERRED.iter().find_map(preferred).unwrap_or(0)
}

/// The algorithm for a product: the library's first proposal, or with `measured` the one that measurements
/// on Hopper speak for.
///
/// # Errors
/// The library's status where it has none.
///
/// # Safety
/// All descriptors are alive and belong to `handle`.
pub(super) unsafe fn algorithm(
    handle: ls::cublasLtHandle_t,
    desc: ls::cublasLtMatmulDesc_t,
    [a, b, c]: [ls::cublasLtMatrixLayout_t; 3],
    preference: ls::cublasLtMatmulPreference_t,
    measured: bool,
) -> Result<ls::cublasLtMatmulAlgo_t, ls::cublasStatus_t> {
    let wanted = if measured { MOST } else { 1 };
    let mut found =
        [const { std::mem::MaybeUninit::<ls::cublasLtMatmulHeuristicResult_t>::zeroed() }; MOST];
    let mut count = 0;
    // SAFETY: the caller's promise; there is room for `wanted` results.
    let status = unsafe {
        ls::cublasLtMatmulAlgoGetHeuristic(
            handle,
            desc,
            a,
            b,
            c,
            c,
            preference,
            wanted as i32,
            found.as_mut_ptr().cast(),
            &mut count,
        )
    };
    if status != ls::cublasStatus_t::CUBLAS_STATUS_SUCCESS {
        return Err(status);
    }
    let count = usize::try_from(count).unwrap_or(0).min(wanted);
    let found: Vec<_> = found[..count]
        .iter()
        // SAFETY: the library has written the first `count`.
        .map(|result| unsafe { result.assume_init() })
        .filter(|result| result.state == ls::cublasStatus_t::CUBLAS_STATUS_SUCCESS)
        .collect();
    let proposals: Vec<Proposal> = found
        .iter()
        .map(|result| Proposal {
            kernel: (
                number(&result.algo, Config::CUBLASLT_ALGO_CONFIG_TILE_ID),
                number(&result.algo, Config::CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION),
            ),
            splits: number(&result.algo, Config::CUBLASLT_ALGO_CONFIG_SPLITK_NUM),
            waves: result.wavesCount,
        })
        .collect();
    let chosen = found.get(choose(&proposals)).map(|result| result.algo);
    chosen.ok_or(ls::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED)
}

/// A number of an algorithm's configuration; one that the library does not tell is none that is looked for.
fn number(algo: &ls::cublasLtMatmulAlgo_t, what: Config) -> u32 {
    let (mut value, mut written) = (0u32, 0);
    // SAFETY: the algorithm is the library's own; the value has room for the four bytes that it is asked for.
    let status = unsafe {
        ls::cublasLtMatmulAlgoConfigGetAttribute(
            algo,
            what,
            (&raw mut value).cast(),
            4,
            &mut written,
        )
    };
    if status == ls::cublasStatus_t::CUBLAS_STATUS_SUCCESS {
        value
    } else {
        u32::MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proposal(tile: u32, variant: u32, waves: f32) -> Proposal {
        Proposal {
            kernel: (tile, variant),
            splits: 1,
            waves,
        }
    }

    #[test]
    fn a_preferred_kernel_is_taken_where_it_fills_its_rounds() {
        let first = proposal(248, 7, 10.98);
        // 6,400 x 9,216 x 3,072: 2,880 tiles on 132 multiprocessors.
        assert_eq!(
            choose(&[first, proposal(197, 2, 20.8), proposal(29, 1, 21.82)]),
            2
        );
        // The better of both, wherever it stands.
        assert_eq!(
            choose(&[first, proposal(201, 2, 21.9), proposal(29, 1, 21.9)]),
            2
        );
        assert_eq!(
            choose(&[first, proposal(201, 2, 6.82), proposal(29, 3, 7.27)]),
            1
        );
        // Exactly whole rounds, and a hair more.
        assert_eq!(choose(&[first, proposal(29, 1, 12.0)]), 1);
        assert_eq!(choose(&[first, proposal(29, 1, 12.000_01)]), 1);
    }

    #[test]
    fn everything_else_is_left_to_the_library() {
        let first = proposal(209, 4, 2.91);
        assert_eq!(choose(&[first]), 0);
        assert_eq!(choose(&[]), 0);
        // An unfilled last round, too few rounds, sums in parts, other variants of the tile.
        assert_eq!(choose(&[first, proposal(29, 1, 9.1)]), 0);
        assert_eq!(choose(&[first, proposal(29, 1, 2.99)]), 0);
        let in_parts = Proposal {
            splits: 2,
            ..proposal(29, 1, 12.0)
        };
        assert_eq!(choose(&[first, in_parts]), 0);
        assert_eq!(
            choose(&[first, proposal(29, 7, 12.0), proposal(201, 6, 12.0)]),
            0
        );
    }
}
