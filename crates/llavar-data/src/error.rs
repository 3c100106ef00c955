//! Errors of the data path. Each names the file, the place in it and the sample.

use std::path::PathBuf;

/// Anything that can go wrong while reading, tokenizing or packing data.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused a read or write.
    #[error("cannot access {path}")]
    Io {
        /// File or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is neither a JSON array nor JSONL, Parquet or tar.
    #[error(
        "{path} is not LLaVA data: it starts with {found}; expected a JSON array ('['), one JSON object a line ('{{'), Parquet, or a tar that is not compressed"
    )]
    NotLlavaData {
        /// The file.
        path: PathBuf,
        /// Its first meaningful bytes, printable.
        found: String,
    },
    /// The file holds no sample.
    #[error("{path} holds no sample")]
    NoSamples {
        /// The file.
        path: PathBuf,
    },
    /// The JSON is broken.
    #[error("{at}: broken json: {reason}")]
    Syntax {
        /// Where the fault is.
        at: Box<Place>,
        /// What is wrong.
        reason: String,
    },
    /// One sample is larger than any real one; most often a quote or bracket is missing.
    #[error("{at}: sample is longer than {limit} bytes; a closing quote or bracket may be missing")]
    SampleTooLarge {
        /// Where the sample starts.
        at: Box<Place>,
        /// The limit in bytes.
        limit: usize,
    },
    /// One sample is valid JSON and not a valid record.
    #[error("{at}: {source}")]
    Sample {
        /// Where the sample starts.
        at: Box<Place>,
        /// What is wrong with it.
        source: SampleError,
    },
    /// A sample number beyond the end.
    #[error("sample number {index} was asked of {path}, which holds {len}")]
    OutOfRange {
        /// The file.
        path: PathBuf,
        /// The number asked for, from 0.
        index: usize,
        /// How many there are.
        len: usize,
    },
    /// An image path is not acceptable.
    #[error(transparent)]
    ImagePath(#[from] ImagePathError),
    /// A tokenizer file cannot be used.
    #[error("tokenizer {path}: {reason}")]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A sample cannot be rendered or tokenized.
    #[error("sample {id}: {source}")]
    Encode {
        /// Id of the sample.
        id: String,
        /// What is wrong.
        source: EncodeError,
    },
    /// An unknown template name.
    #[error("unknown conversation template {name:?}; known: {known}")]
    UnknownTemplate {
        /// The name given.
        name: String,
        /// All names, comma separated.
        known: String,
    },
    /// Numbers that cannot work together (sampler, packing).
    #[error("{what}: {reason}")]
    Invalid {
        /// The component.
        what: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// A Parquet or tar file cannot be read.
    #[error("{path} is no readable {form}: {reason}")]
    Container {
        /// The file.
        path: PathBuf,
        /// Its form.
        form: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// What must be kept of a large container cannot be written.
    #[error(
        "the records of {path} cannot be written to {cache}; set LLAVAR_CACHE to a folder with room"
    )]
    Cache {
        /// The container.
        path: PathBuf,
        /// The file in the cache.
        cache: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A folder does not have the layout that its importer needs.
    #[error("{path} is not a {layout} folder: {reason}")]
    Layout {
        /// The folder.
        path: PathBuf,
        /// Name of the layout.
        layout: &'static str,
        /// What is missing.
        reason: String,
    },
}

/// Why valid JSON is no valid LLaVA record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SampleError {
    /// The text of the sample does not parse (broken since the index was made, lone surrogate, too
    /// deep).
    #[error("broken json: {reason}")]
    Json {
        /// What the parser said.
        reason: String,
    },
    /// A group of files in a tar has no record.
    #[error("the tar holds neither {key}.json nor {key}.txt")]
    NoMember {
        /// Common name of the group.
        key: String,
    },
    /// A key is missing.
    #[error("key {key:?} is missing")]
    MissingKey {
        /// Key path, e.g. `conversations[2].value`.
        key: String,
    },
    /// A value has the wrong type.
    #[error("{key:?} must be {expected}, got {got}")]
    WrongType {
        /// Key path.
        key: String,
        /// What is needed.
        expected: &'static str,
        /// What stands there.
        got: &'static str,
    },
    /// An image path is the empty string.
    #[error("{key:?} is an empty path; leave the key away for a sample without image")]
    EmptyImagePath {
        /// Key path.
        key: String,
    },
    /// No turn at all, or none after a leading non-human turn was dropped.
    #[error("\"conversations\" holds no turn to train on")]
    NoTurns,
    /// A speaker that LLaVA data does not have.
    #[error("turn {turn} is from {role:?}; expected \"human\" or \"gpt\"")]
    UnknownRole {
        /// Number of the turn in the file, from 0.
        turn: usize,
        /// The value of `from`.
        role: String,
    },
    /// Two turns of the same speaker follow each other.
    #[error("conversation does not alternate: turn {turn} is from {got}, expected {expected}")]
    NotAlternating {
        /// Number of the turn in the file, from 0.
        turn: usize,
        /// Who should speak.
        expected: &'static str,
        /// Who speaks.
        got: &'static str,
    },
    /// An answer without text would train the model to say nothing.
    #[error("turn {turn} is an empty answer")]
    EmptyAnswer {
        /// Number of the turn in the file, from 0.
        turn: usize,
    },
    /// The number of `<image>` tags differs from the number of images.
    #[error("{tags} <image> tag(s) in the conversation for {images} image(s); both must be equal")]
    ImageTags {
        /// Tags in all turns.
        tags: usize,
        /// Entries of `image`.
        images: usize,
    },
}

/// Why a conversation cannot become tokens.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// Nothing would be learned from the sample.
    #[error("no supervised token: no answer is left to train on{}", if *.truncated { " after truncation" } else { "" })]
    NoSupervisedToken {
        /// Whether truncation removed the answers.
        truncated: bool,
    },
    /// The `plain` template takes one image caption.
    #[error(
        "template plain needs exactly one human turn with <image> and one gpt turn, got {turns} turn(s) and {images} image(s)"
    )]
    PlainShape {
        /// Turns of the conversation.
        turns: usize,
        /// Images in it.
        images: usize,
    },
    /// The tokenizer refused a text.
    #[error("tokenizer: {reason}")]
    Tokenizer {
        /// What it said.
        reason: String,
    },
}

/// Why an image path is refused.
#[derive(Debug, thiserror::Error)]
pub enum ImagePathError {
    /// The path is empty or holds a NUL byte.
    #[error("image path {image:?} is not a file name")]
    NotAName {
        /// As written in the data.
        image: String,
    },
    /// The path is absolute.
    #[error("image path {image:?} is absolute; paths must be relative to image_folder {folder}")]
    Absolute {
        /// As written in the data.
        image: String,
        /// The folder.
        folder: PathBuf,
    },
    /// The path has a `..` component.
    #[error(
        "image path {image:?} has a \"..\" component; paths must stay below image_folder {folder}"
    )]
    Parent {
        /// As written in the data.
        image: String,
        /// The folder.
        folder: PathBuf,
    },
    /// A link leads out of the folder.
    #[error("image path {image:?} leaves image_folder {folder} through a link to {target}")]
    LeavesFolder {
        /// As written in the data.
        image: String,
        /// The folder.
        folder: PathBuf,
        /// Where the link leads.
        target: PathBuf,
    },
    /// There is no such file.
    #[error("image {image:?} does not exist below image_folder {folder}")]
    Missing {
        /// As written in the data.
        image: String,
        /// The folder.
        folder: PathBuf,
    },
    /// The path names a folder or a device.
    #[error("image {image:?} below image_folder {folder} is not a regular file")]
    NotAFile {
        /// As written in the data.
        image: String,
        /// The folder.
        folder: PathBuf,
    },
    /// The data set was opened without an image folder.
    #[error("image {image:?} is needed and no image_folder was given")]
    NoFolder {
        /// As written in the data.
        image: String,
    },
    /// The file that holds the image cannot be read there.
    #[error("image {image:?} in {path}: {reason}")]
    InContainer {
        /// Its name.
        image: String,
        /// The Parquet or tar file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The operating system refused.
    #[error("cannot access image {image:?} below image_folder {folder}")]
    Io {
        /// As written in the data.
        image: String,
        /// The folder.
        folder: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// A place in a data file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub path: PathBuf,
    /// Line, from 1.
    pub line: u64,
    /// Byte offset, from 0.
    pub byte: u64,
    /// Number of the sample, from 0.
    pub index: usize,
    /// Id of the sample, where it could be read.
    pub id: Option<String>,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Place {
            path,
            line,
            byte,
            index,
            id,
        } = self;
        write!(
            f,
            "{}:{line} (byte {byte}, sample number {index}",
            path.display()
        )?;
        match id {
            Some(id) => write!(f, ", id {id:?})"),
            None => f.write_str(")"),
        }
    }
}
