//! The one error type of this crate.

/// Why a network cannot be loaded or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OnnxError {
    /// The bytes are no ONNX model.
    #[error("not an ONNX model: {reason}")]
    Format {
        /// What is wrong.
        reason: String,
    },
    /// A picture has not as many elements as its sides say, or too many.
    #[error("a picture of {height} x {width} px: {reason}")]
    Picture {
        /// Rows, px.
        height: usize,
        /// Columns, px.
        width: usize,
        /// What does not fit.
        reason: String,
    },
    /// The network needs something that this crate does not have.
    #[error("node {node} ({op}): {reason}")]
    Unsupported {
        /// The name of the node's first output.
        node: String,
        /// Its operation.
        op: String,
        /// What is missing, or does not fit.
        reason: String,
    },
    /// A value has not the shape that a node needs.
    #[error("node {node} ({op}) got shapes {shapes:?}: {reason}")]
    Shape {
        /// The name of the node's first output.
        node: String,
        /// Its operation.
        op: String,
        /// Shapes of its inputs.
        shapes: Vec<Vec<usize>>,
        /// What does not fit.
        reason: String,
    },
}

/// Result of this crate.
pub type Result<T> = std::result::Result<T, OnnxError>;
