//! What the known globals make of their arguments: dicts, storages and tensors, as nodes.

use super::{
    Global, Id, Node, PickleError, StorageRef, TensorRef,
    machine::{Machine, Result},
};

/// No tensor has more dimensions than this in PyTorch.
const MAX_DIMS: usize = 64;

impl<'a> Machine<'a> {
    pub(super) fn reduce(&mut self, callee: Id, args: Id) -> Result<()> {
        let &Node::Global(global) = self.get(callee) else {
            return Err(self.damaged("a known global to apply"));
        };
        let Node::Tuple(args) = self.get(args) else {
            return Err(self.damaged("a tuple of arguments"));
        };
        let node = match (global, args.first().copied()) {
            // Nothing is copied here: the argument itself stands for its copy.
            (Global::Sequence, Some(id)) => {
                self.stack.push(id);
                return Ok(());
            }
            (Global::Dict, Some(id)) if matches!(self.get(id), Node::Dict(_)) => {
                self.stack.push(id);
                return Ok(());
            }
            (Global::Sequence, None) => Node::Tuple(Box::default()),
            (Global::Dict, _) => self.dict_from(args)?,
            (Global::Opaque, _) => Node::Opaque,
            (Global::RebuildTensor | Global::RebuildTensorV3, _) => self.tensor(global, args)?,
            (Global::RebuildParameter, tensor) => match tensor.map(|id| self.get(id)) {
                Some(Node::Tensor(tensor)) => {
                    self.spend(tensor.shape.len())?;
                    Node::Tensor(tensor.clone())
                }
                _ => return Err(self.damaged("a tensor for a parameter")),
            },
            (Global::RebuildFromType, _) => {
                let (func, inner) = match **args {
                    [func, _, inner, ..] => (func, inner),
                    _ => return Err(self.damaged("function, type and arguments")),
                };
                // One level only: the function must itself be one that makes a tensor.
                match (self.get(func), self.get(inner)) {
                    (
                        &Node::Global(how @ (Global::RebuildTensor | Global::RebuildTensorV3)),
                        Node::Tuple(inner),
                    ) => self.tensor(how, inner)?,
                    _ => return Err(self.damaged("a function that rebuilds a tensor")),
                }
            }
            (Global::TensorClass | Global::Storage(_) | Global::Dtype(_), _) => {
                return Err(PickleError::TensorKind {
                    how: global.name(),
                    at: self.at,
                });
            }
        };
        self.push(node);
        Ok(())
    }

    /// `OrderedDict()` or `OrderedDict([(key, value), ...])`.
    fn dict_from(&self, args: &[Id]) -> Result<Node<'a>> {
        let items = match args.first().map(|&id| self.get(id)) {
            None | Some(Node::Global(_)) => return Ok(Node::Dict(Vec::new())),
            Some(Node::List(items)) => items.as_slice(),
            Some(Node::Tuple(items)) => items,
            Some(_) => return Err(self.damaged("pairs for a dict")),
        };
        self.spend(items.len())?;
        let pairs = items.iter().map(|&id| match self.get(id) {
            Node::Tuple(pair) if pair.len() == 2 => Ok((pair[0], pair[1])),
            Node::List(pair) if pair.len() == 2 => Ok((pair[0], pair[1])),
            _ => Err(self.damaged("pairs for a dict")),
        });
        pairs.collect::<Result<_>>().map(Node::Dict)
    }

    /// `_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks[, dtype for v3])`.
    fn tensor(&self, how: Global, args: &[Id]) -> Result<Node<'a>> {
        let [storage, offset, size, stride, rest @ ..] = args else {
            return Err(self.damaged("storage, offset, size and stride"));
        };
        let Node::Storage(storage) = self.get(*storage) else {
            return Err(self.damaged("a storage for a tensor"));
        };
        let dtype = match (how, rest.get(2).map(|&id| self.get(id))) {
            (Global::RebuildTensorV3, Some(&Node::Global(Global::Dtype(dtype)))) => Some(dtype),
            (Global::RebuildTensorV3, _) => {
                return Err(self.damaged("the element type of a tensor"));
            }
            _ => None,
        };
        Ok(Node::Tensor(Box::new(TensorRef {
            storage: (**storage).clone(),
            dtype,
            offset: self.size(*offset)?,
            shape: self.sizes(*size)?,
            strides: self.sizes(*stride)?,
        })))
    }

    /// `('storage', type, key, location, numel[, (view key, offset, size)])`.
    pub(super) fn storage(&self, id: Id) -> Result<StorageRef<'a>> {
        let Node::Tuple(parts) = self.get(id) else {
            return Err(self.damaged("a tuple that names a storage"));
        };
        let [tag, kind, key, _location, numel, rest @ ..] = &**parts else {
            return Err(self.damaged("five parts in the name of a storage"));
        };
        let (Node::Str("storage"), &Node::Global(Global::Storage(kind)), &Node::Str(key)) =
            (self.get(*tag), self.get(*kind), self.get(*key))
        else {
            return Err(self.damaged("`storage`, a storage type and a key"));
        };
        let view = match rest.first().map(|&id| self.get(id)) {
            None | Some(Node::None) => None,
            Some(Node::Tuple(view)) if view.len() == 3 => {
                Some((self.size(view[1])?, self.size(view[2])?))
            }
            Some(_) => return Err(self.damaged("key, offset and size of a storage view")),
        };
        Ok(StorageRef {
            kind,
            key,
            numel: self.size(*numel)?,
            view,
        })
    }

    /// Counts copied items. A real pickle writes each list once and uses it once; without a limit, one
    /// long list used by many short opcodes would fill memory.
    fn spend(&self, items: usize) -> Result<()> {
        self.copied.set(self.copied.get() + items);
        if self.copied.get() > self.input.len() {
            Err(self.damaged("lists that are used once"))
        } else {
            Ok(())
        }
    }

    fn size(&self, id: Id) -> Result<usize> {
        match self.get(id) {
            Node::Int(n) => {
                usize::try_from(*n).map_err(|_| self.damaged("a size that is not negative"))
            }
            _ => Err(self.damaged("a size")),
        }
    }

    fn sizes(&self, id: Id) -> Result<Vec<usize>> {
        let items: &[Id] = match self.get(id) {
            Node::Tuple(items) => items,
            Node::List(items) => items,
            _ => return Err(self.damaged("a tuple of sizes")),
        };
        self.spend(items.len())?;
        if items.len() > MAX_DIMS {
            return Err(self.damaged("at most 64 dimensions"));
        }
        items.iter().map(|&id| self.size(id)).collect()
    }
}
