//! Why a server cannot run.

/// Why a server cannot run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The address cannot be listened to.
    #[error("cannot listen at {host}, port {port}")]
    Listen {
        /// As it was asked for.
        host: String,
        /// As it was asked for; 0 is any.
        port: u16,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The system gives no thread.
    #[error("cannot start a thread")]
    Thread(#[source] std::io::Error),
    /// The model cannot be set up.
    #[error(transparent)]
    Model(#[from] llavar_model::ModelError),
    /// A fault inside the program while the model was set up.
    #[error("fault while the model was set up: {message}")]
    EnginePanic {
        /// What was said.
        message: String,
    },
    /// A second model for one server.
    #[error("the server has a model already")]
    AlreadyLoaded,
}
