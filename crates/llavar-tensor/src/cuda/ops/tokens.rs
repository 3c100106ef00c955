//! The source file that the operations over the tokens of each picture share.

use crate::cuda::Source;

pub(in crate::cuda) static SOURCE: Source = Source {
    name: "tokens",
    code: include_str!("../kernels/tokens.cu"),
};
