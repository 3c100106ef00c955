//! The server as clients see it, with a tiny model.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod closer;
mod common;
mod contract;
mod hostile;
mod load;
mod protocol;
