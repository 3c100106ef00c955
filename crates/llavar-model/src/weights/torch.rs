//! PyTorch files: the zip form (since 1.6) and the legacy form (a row of pickles, then raw storages).

use std::{
    collections::{HashMap, HashSet},
    ops::Range,
};

use thiserror::Error;

use super::{
    pickle::{self, Id, Node, Pickle, PickleError, StorageRef, StorageType, TensorRef},
    storage::Stored,
    zip::{self, ZipError},
};

/// What is wrong with the parts of a PyTorch file.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TorchError {
    /// The archive has no `data.pkl`.
    #[error("the archive has no data.pkl")]
    NoPickle,
    /// A TorchScript archive.
    #[error("it is a TorchScript program and not a state dict, save `model.state_dict()` instead")]
    TorchScript,
    /// Written on a big-endian machine.
    #[error("it was written on a big-endian machine, which is not supported")]
    BigEndian,
    /// The legacy form has another version than the only one there is.
    #[error("its legacy header is not that of PyTorch")]
    LegacyHeader,
    /// The pickle's value holds no tensor.
    #[error("it holds no tensor in any dict")]
    NoTensors,
    /// A storage is not in the file.
    #[error("the storage `{key}` of tensor `{tensor}` is not in the file")]
    NoStorage {
        /// The tensor.
        tensor: String,
        /// The storage.
        key: String,
    },
    /// A storage is shorter than the pickle says.
    #[error(
        "the storage `{key}` has {got} bytes, the pickle says {expected}; the file is truncated or damaged"
    )]
    StorageLength {
        /// The storage.
        key: String,
        /// Bytes by the pickle.
        expected: usize,
        /// Bytes in the file.
        got: usize,
    },
    /// A tensor reaches beyond its storage.
    #[error(
        "tensor `{tensor}` of shape {shape:?} and strides {strides:?} does not fit its storage `{key}`"
    )]
    View {
        /// The tensor.
        tensor: String,
        /// Its shape.
        shape: Vec<usize>,
        /// Its strides in elements.
        strides: Vec<usize>,
        /// The storage.
        key: String,
    },
    /// A tensor of an untyped storage has no type of its own.
    #[error("tensor `{tensor}` has no element type")]
    NoDtype {
        /// The tensor.
        tensor: String,
    },
    /// Two tensors have the same name.
    #[error("tensor `{tensor}` occurs twice")]
    Twice {
        /// The tensor.
        tensor: String,
    },
    /// A tensor's name is absurdly long.
    #[error("a tensor's name has more than {MAX_NAME} bytes: {start}...")]
    Name {
        /// Its beginning.
        start: String,
    },
    /// Dicts are nested too deeply.
    #[error("dicts are nested more than {limit} deep")]
    Depth {
        /// The limit.
        limit: usize,
    },
}

/// Any failure within one file; the caller adds the path.
#[derive(Debug)]
pub(crate) enum FileError {
    Zip(ZipError),
    Pickle(PickleError),
    Torch(TorchError),
}

impl From<ZipError> for FileError {
    fn from(error: ZipError) -> Self {
        Self::Zip(error)
    }
}

impl From<PickleError> for FileError {
    fn from(error: PickleError) -> Self {
        Self::Pickle(error)
    }
}

impl From<TorchError> for FileError {
    fn from(error: TorchError) -> Self {
        Self::Torch(error)
    }
}

/// The zip form: `NAME/data.pkl`, `NAME/data/KEY`, `NAME/byteorder`.
pub(crate) fn read_zip(file: &[u8]) -> Result<Vec<Stored>, FileError> {
    let members = zip::read(file)?;
    let prefix = members
        .keys()
        .filter_map(|name| name.strip_suffix("data.pkl"))
        .filter(|prefix| prefix.is_empty() || prefix.ends_with('/'))
        .min_by_key(|prefix| prefix.len())
        .ok_or(TorchError::NoPickle)?;
    if members.contains_key(&format!("{prefix}constants.pkl")) {
        return Err(TorchError::TorchScript.into());
    }
    let member = |name: &str| members.get(&format!("{prefix}{name}"));
    if let Some(order) = member("byteorder")
        && file.get(order.clone()) == Some(b"big".as_slice())
    {
        return Err(TorchError::BigEndian.into());
    }
    let pickle_at = member("data.pkl").cloned().ok_or(TorchError::NoPickle)?;
    let pickle = pickle::load(file.get(pickle_at).unwrap_or_default())?;
    let tensors = named_tensors(&pickle)?;
    let storage = |s: &StorageRef<'_>| member(&format!("data/{}", s.key)).cloned();
    Ok(resolve(tensors, storage)?)
}

/// The legacy form: magic number, version, system information, the pickle, the storages' keys, and for
/// each key in turn its number of elements and its bytes.
pub(crate) fn read_legacy(file: &[u8]) -> Result<Vec<Stored>, FileError> {
    /// 0x1950a86a20f9469cfc6c, little-endian.
    const MAGIC: &[u8] = &[0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
    const VERSION: i64 = 1001;

    let mut at = 0;
    let next = |at: &mut usize| -> Result<Pickle<'_>, PickleError> {
        let pickle = pickle::load(file.get(*at..).unwrap_or_default())?;
        *at += pickle.used;
        Ok(pickle)
    };
    let magic = next(&mut at)?;
    if !matches!(magic.node(magic.root), Node::BigInt(bytes) if *bytes == MAGIC) {
        return Err(TorchError::LegacyHeader.into());
    }
    let version = next(&mut at)?;
    if !matches!(version.node(version.root), Node::Int(VERSION)) {
        return Err(TorchError::LegacyHeader.into());
    }
    let system = next(&mut at)?;
    if let Node::Dict(items) = system.node(system.root)
        && items.iter().any(|&(k, v)| {
            matches!(
                (system.node(k), system.node(v)),
                (Node::Str("little_endian"), Node::Bool(false))
            )
        })
    {
        return Err(TorchError::BigEndian.into());
    }
    let pickle = next(&mut at)?;
    let tensors = named_tensors(&pickle)?;
    let keys = next(&mut at)?;
    let Node::List(keys_list) = keys.node(keys.root) else {
        return Err(TorchError::LegacyHeader.into());
    };

    // The size of an element is only known from the tensors that use the storage.
    let mut sizes: HashMap<&str, usize> = HashMap::new();
    for (_, tensor) in &tensors {
        sizes.insert(tensor.storage.key, tensor.storage.kind.size());
    }
    let mut storages: HashMap<&str, Range<usize>> = HashMap::new();
    for &id in keys_list {
        let &Node::Str(key) = keys.node(id) else {
            return Err(TorchError::LegacyHeader.into());
        };
        let count = file.get(at..).and_then(|rest| rest.first_chunk::<8>());
        let Some(count) = count.map(|b| u64::from_le_bytes(*b)) else {
            return Err(TorchError::StorageLength {
                key: short(key),
                expected: 8,
                got: file.len() - at,
            }
            .into());
        };
        at += 8;
        let Some(&size) = sizes.get(key) else {
            // Nothing uses it, so nothing says how long it is.
            return Err(TorchError::NoStorage {
                tensor: "(none)".to_owned(),
                key: short(key),
            }
            .into());
        };
        let length = usize::try_from(count)
            .ok()
            .and_then(|n| n.checked_mul(size))
            .unwrap_or(usize::MAX);
        let got = file.len() - at;
        if length > got {
            return Err(TorchError::StorageLength {
                key: short(key),
                expected: length,
                got,
            }
            .into());
        }
        storages.insert(key, at..at + length);
        at += length;
    }
    Ok(resolve(tensors, |s| storages.get(s.key).cloned())?)
}

/// A name for messages, shortened when it is absurdly long.
fn short(name: &str) -> String {
    name.chars().take(200).collect()
}

/// Binds tensors to byte ranges.
fn resolve(
    tensors: Vec<(String, &TensorRef<'_>)>,
    storage: impl Fn(&StorageRef<'_>) -> Option<Range<usize>>,
) -> Result<Vec<Stored>, TorchError> {
    let mut out = Vec::with_capacity(tensors.len());
    let mut names = HashSet::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        if !names.insert(name.clone()) {
            return Err(TorchError::Twice { tensor: name });
        }
        let source = &tensor.storage;
        let key = || short(source.key);
        let Some(range) = storage(source) else {
            return Err(TorchError::NoStorage {
                tensor: name,
                key: key(),
            });
        };
        let dtype = match (tensor.dtype, source.kind) {
            (Some(dtype), _) | (None, StorageType::Typed(dtype)) => dtype,
            (None, StorageType::Untyped) => return Err(TorchError::NoDtype { tensor: name }),
        };
        let unit = source.kind.size();
        let expected = source.numel.saturating_mul(unit);
        if range.len() < expected {
            return Err(TorchError::StorageLength {
                key: key(),
                expected,
                got: range.len(),
            });
        }
        let mut range = range.start..range.start + expected;
        let view_error = |name: String| TorchError::View {
            tensor: name,
            shape: tensor.shape.clone(),
            strides: tensor.strides.clone(),
            key: key(),
        };
        if let Some((first, count)) = source.view {
            let end = first.checked_add(count).filter(|&end| end <= source.numel);
            let Some(end) = end else {
                return Err(view_error(name));
            };
            range = range.start + first * unit..range.start + end * unit;
        }
        let (shape, strides) = (tensor.shape.clone(), tensor.strides.clone());
        match Stored::view(name.clone(), dtype, shape, strides, tensor.offset, range) {
            Some(stored) => out.push(stored),
            None => return Err(view_error(name)),
        }
    }
    Ok(out)
}

/// Published names have up to 120 bytes; longer ones could multiply to fill memory.
const MAX_NAME: usize = 256;

/// Deep enough for any checkpoint, shallow enough for the stack.
const MAX_DEPTH: usize = 32;

/// Finds the state dict: the tensors of the dict, or of the dict inside that holds them.
///
/// A dict without tensors of its own is a wrapper. Of its dicts with tensors the only one is taken, or
/// the one with a usual name; if several remain, names are joined with dots.
fn named_tensors<'p, 'a>(
    pickle: &'p Pickle<'a>,
) -> Result<Vec<(String, &'p TensorRef<'a>)>, TorchError> {
    const USUAL: [&str; 5] = [
        "state_dict",
        "model_state_dict",
        "model",
        "module",
        "weights",
    ];
    let mut holds = Holds {
        pickle,
        known: HashMap::new(),
    };
    let mut dict = pickle.root;
    for _ in 0..MAX_DEPTH {
        let Node::Dict(items) = pickle.node(dict) else {
            break;
        };
        if items
            .iter()
            .any(|&(_, v)| matches!(pickle.node(v), Node::Tensor(_)))
        {
            break;
        }
        let mut inner = Vec::new();
        for &(key, value) in items {
            if holds.tensors(value, 0)? {
                inner.push((key, value));
            }
        }
        let chosen = match inner.as_slice() {
            [(_, only)] => Some(*only),
            several => USUAL.iter().find_map(|usual| {
                let named =
                    |&&(k, _): &&(Id, Id)| matches!(pickle.node(k), Node::Str(s) if s == usual);
                several.iter().find(named).map(|&(_, v)| v)
            }),
        };
        match chosen {
            Some(value) => dict = value,
            None => break,
        }
    }
    let mut found = Vec::new();
    collect(
        pickle,
        &mut holds,
        dict,
        "",
        0,
        &mut HashSet::new(),
        &mut found,
    )?;
    if found.is_empty() {
        Err(TorchError::NoTensors)
    } else {
        Ok(found)
    }
}

/// Answers whether a value holds tensors, each dict looked at once.
struct Holds<'p, 'a> {
    pickle: &'p Pickle<'a>,
    known: HashMap<Id, bool>,
}

impl Holds<'_, '_> {
    fn tensors(&mut self, id: Id, depth: usize) -> Result<bool, TorchError> {
        if depth > MAX_DEPTH {
            return Err(TorchError::Depth { limit: MAX_DEPTH });
        }
        if let Some(&known) = self.known.get(&id) {
            return Ok(known);
        }
        let items = match self.pickle.node(id) {
            Node::Tensor(_) => return Ok(true),
            Node::Dict(items) => items,
            _ => return Ok(false),
        };
        // A dict that holds itself adds nothing.
        self.known.insert(id, false);
        let mut any = false;
        for &(_, value) in items {
            any |= self.tensors(value, depth + 1)?;
        }
        self.known.insert(id, any);
        Ok(any)
    }
}

fn collect<'p, 'a>(
    pickle: &'p Pickle<'a>,
    holds: &mut Holds<'p, 'a>,
    dict: Id,
    prefix: &str,
    depth: usize,
    seen: &mut HashSet<Id>,
    found: &mut Vec<(String, &'p TensorRef<'a>)>,
) -> Result<(), TorchError> {
    // A dict that is reachable twice is read once: repeated sharing could otherwise multiply without end.
    if !seen.insert(dict) {
        return Ok(());
    }
    let Node::Dict(items) = pickle.node(dict) else {
        return Ok(());
    };
    // Setting a key again replaces the value, as in Python, but keeps its place.
    let mut order: Vec<(String, Id)> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    for &(key, value) in items {
        // What leads to no tensor is passed over before its name is made.
        let wanted = match pickle.node(value) {
            Node::Tensor(_) => true,
            Node::Dict(_) => holds.tensors(value, depth)?,
            _ => false,
        };
        let key = match pickle.node(key) {
            Node::Str(key) if wanted => join(prefix, key)?,
            Node::Int(key) if wanted => join(prefix, &key.to_string())?,
            _ => continue,
        };
        match places.get(&key) {
            Some(&place) => order[place].1 = value,
            None => {
                places.insert(key.clone(), order.len());
                order.push((key, value));
            }
        }
    }
    for (name, value) in order {
        match pickle.node(value) {
            Node::Tensor(tensor) => found.push((name, tensor)),
            _ => collect(pickle, holds, value, &name, depth + 1, seen, found)?,
        }
    }
    Ok(())
}

fn join(prefix: &str, key: &str) -> Result<String, TorchError> {
    if prefix.len() + key.len() > MAX_NAME {
        return Err(TorchError::Name { start: short(key) });
    }
    Ok(if prefix.is_empty() {
        key.to_owned()
    } else {
        format!("{prefix}.{key}")
    })
}
