//! Benchmarks in their official file layouts.
//!
//! [`Task::open`] finds a benchmark below a folder and gives its questions; one file here builds one
//! benchmark. A builder only reads annotations. Pictures are looked for afterwards, the same way for
//! all, by their header and without decoding a pixel.
//!
//! An incomplete folder is no error: what is there can be asked, and [`Missing`] says in one line
//! what is not.

mod captions;
mod chart_qa;
mod doc_vqa;
mod error;
mod from_answers;
mod funsd;
mod hybrid_instruct;
mod images;
mod info_vqa;
mod item;
mod missing;
mod ocrbench;
mod record;
mod registry;
mod split;
mod sroie;
mod st_vqa;
mod task;
mod text_vqa;
mod tree;
mod words;

pub use error::{BadRow, RowFault, TaskError};
pub use images::{ImageCheck, chain};
pub use item::Item;
pub use missing::{Missing, Official};
pub use registry::{TaskInfo, task_info, task_infos, task_names};
pub use task::{Options, Task, title};

pub(crate) use item::stem;
pub(crate) use record::scalar;
