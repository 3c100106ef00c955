//! From data files to micro-batches, in an order that depends on the seed alone.

mod batch;
pub(crate) mod blocks;
mod cache;
pub(crate) mod cells;
pub(crate) mod cuts;
mod feed;
mod files;
pub(crate) mod lengths;
mod loader;
mod order;
mod quarantine;
mod source;

pub(crate) use batch::{Batch, Pictures, split_by_tokens};
pub(crate) use cuts::CutLog;
pub(crate) use feed::{Cut, Feed, Item};
pub(crate) use loader::Loader;
pub(crate) use order::Orders;
pub(crate) use quarantine::Quarantine;
pub(crate) use source::{Picture, Prepared, Record, SampleSource};
