//! The globals that a pickle of tensors may name, and what each stands for.

use super::super::Dtype;

/// Element type of a storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StorageType {
    /// `torch.FloatStorage` and its kin.
    Typed(Dtype),
    /// `torch.storage.UntypedStorage`, counted in bytes.
    Untyped,
}

impl StorageType {
    /// Bytes of one counted element.
    pub(crate) fn size(self) -> usize {
        match self {
            Self::Typed(dtype) => dtype.size(),
            Self::Untyped => 1,
        }
    }
}

/// A global on the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Global {
    /// `collections.OrderedDict` and the plain `dict`.
    Dict,
    /// `list`, `tuple`, `torch.Size`: their argument.
    Sequence,
    /// `set`, `frozenset`, `torch.device`: read and not looked at.
    Opaque,
    /// Builds a tensor from storage, offset, size, stride, ...
    RebuildTensor,
    /// As above with the element type as seventh argument.
    RebuildTensorV3,
    /// Wraps its first argument, a tensor.
    RebuildParameter,
    /// Calls its first argument on its third (a tensor with extra attributes).
    RebuildFromType,
    /// The classes `torch.Tensor` and `torch.nn.parameter.Parameter` themselves.
    TensorClass,
    Storage(StorageType),
    Dtype(Dtype),
}

impl Global {
    /// Finds a global; `None` when it is not on the list.
    pub(crate) fn find(module: &str, name: &str) -> Option<Self> {
        Some(match (module, name) {
            ("collections", "OrderedDict" | "defaultdict") => Self::Dict,
            ("builtins" | "__builtin__", "dict") => Self::Dict,
            ("builtins" | "__builtin__", "list" | "tuple") | ("torch", "Size") => Self::Sequence,
            ("builtins" | "__builtin__", "set" | "frozenset") | ("torch", "device") => Self::Opaque,
            ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Self::RebuildTensor,
            ("torch._utils", "_rebuild_tensor_v3") => Self::RebuildTensorV3,
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => {
                Self::RebuildParameter
            }
            ("torch._tensor", "_rebuild_from_type_v2" | "_rebuild_from_type") => {
                Self::RebuildFromType
            }
            ("torch", "Tensor") | ("torch.nn.parameter", "Parameter") => Self::TensorClass,
            ("torch.storage", "UntypedStorage") => Self::Storage(StorageType::Untyped),
            ("torch" | "torch.storage" | "torch.cuda", _) => return storage_or_dtype(name),
            _ => return None,
        })
    }

    /// The name in messages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Dict => "dict",
            Self::Sequence => "list",
            Self::Opaque => "set",
            Self::RebuildTensor => "_rebuild_tensor_v2",
            Self::RebuildTensorV3 => "_rebuild_tensor_v3",
            Self::RebuildParameter => "_rebuild_parameter",
            Self::RebuildFromType => "_rebuild_from_type_v2",
            Self::TensorClass => "Tensor",
            Self::Storage(_) => "Storage",
            Self::Dtype(_) => "dtype",
        }
    }
}

fn storage_or_dtype(name: &str) -> Option<Global> {
    let storage = |dtype| Some(Global::Storage(StorageType::Typed(dtype)));
    let dtype = |dtype| Some(Global::Dtype(dtype));
    match name {
        "DoubleStorage" => storage(Dtype::F64),
        "FloatStorage" => storage(Dtype::F32),
        "HalfStorage" => storage(Dtype::F16),
        "BFloat16Storage" => storage(Dtype::BF16),
        "LongStorage" => storage(Dtype::I64),
        "IntStorage" => storage(Dtype::I32),
        "ShortStorage" => storage(Dtype::I16),
        "CharStorage" => storage(Dtype::I8),
        "ByteStorage" => storage(Dtype::U8),
        "BoolStorage" => storage(Dtype::Bool),
        "float64" | "double" => dtype(Dtype::F64),
        "float32" | "float" => dtype(Dtype::F32),
        "float16" | "half" => dtype(Dtype::F16),
        "bfloat16" => dtype(Dtype::BF16),
        "int64" | "long" => dtype(Dtype::I64),
        "int32" | "int" => dtype(Dtype::I32),
        "int16" | "short" => dtype(Dtype::I16),
        "int8" => dtype(Dtype::I8),
        "uint8" => dtype(Dtype::U8),
        "bool" => dtype(Dtype::Bool),
        _ => None,
    }
}
