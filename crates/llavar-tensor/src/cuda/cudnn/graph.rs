//! Operation graphs of cuDNN's backend interface.

use std::ffi::c_void;

use cudarc::cudnn::sys::{
    self as dn, cudnnBackendAttributeName_t as At, cudnnBackendAttributeType_t as Ty,
    cudnnBackendDescriptorType_t as Kind, cudnnDataType_t as Data, cudnnPointwiseMode_t as Mode,
    cudnnReduceTensorOp_t as Reduction,
};

use crate::{Error, Result};

/// Dimensions or strides of a four-axis tensor.
pub(super) type Four = [i64; 4];

/// A descriptor that is destroyed with its owner.
pub(super) struct Descriptor(dn::cudnnBackendDescriptor_t);

// SAFETY: descriptors are plain heap objects of the library without thread affinity; uses are serialised
// by the mutex around the plans.
unsafe impl Send for Descriptor {}

impl Descriptor {
    pub(super) fn new(kind: Kind) -> Result<Self> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: valid out-pointer.
        check(
            unsafe { dn::cudnnBackendCreateDescriptor(kind, &mut raw) },
            "create",
        )?;
        Ok(Self(raw))
    }

    /// Sets an attribute; `V` is the type that the library documents for `ty`.
    pub(super) fn set<V>(&mut self, name: At, ty: Ty, values: &[V]) -> Result<()> {
        // SAFETY: `values` has the count stated; the library copies them.
        let result = unsafe {
            dn::cudnnBackendSetAttribute(
                self.0,
                name,
                ty,
                values.len() as i64,
                values.as_ptr().cast(),
            )
        };
        check(result, "set attribute").map_err(|e| match e {
            Error::Cuda { op, reason } => Error::Cuda {
                op,
                reason: format!("{name:?}: {reason}"),
            },
            other => other,
        })
    }

    /// Sets an attribute that is another descriptor.
    fn link(&mut self, name: At, other: &Self) -> Result<()> {
        self.set(name, Ty::CUDNN_TYPE_BACKEND_DESCRIPTOR, &[other.0])
    }

    pub(super) fn finish(self, what: &'static str) -> Result<Self> {
        // SAFETY: a live descriptor.
        check(unsafe { dn::cudnnBackendFinalize(self.0) }, what)?;
        Ok(self)
    }

    pub(super) fn raw(&self) -> dn::cudnnBackendDescriptor_t {
        self.0
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: made by `new`, destroyed once.
        let _ = unsafe { dn::cudnnBackendDestroyDescriptor(self.0) };
    }
}

/// A tensor of a graph.
#[derive(Clone, Copy)]
pub(super) struct Node {
    index: usize,
    dims: Four,
}

/// A graph under construction. `S` names the tensors that the caller supplies.
pub(super) struct Graph<S> {
    tensors: Vec<Descriptor>,
    /// Descriptors that operations refer to.
    parts: Vec<Descriptor>,
    operations: Vec<Descriptor>,
    slots: Vec<(i64, S)>,
}

/// An executable graph.
pub(super) struct Plan<S> {
    plan: Descriptor,
    pub(super) workspace: usize,
    slots: Vec<(i64, S)>,
    /// Everything that the plan was made of.
    _parts: Vec<Descriptor>,
}

pub(super) fn row_major(d: Four) -> Four {
    [d[1] * d[2] * d[3], d[2] * d[3], d[3], 1]
}

impl<S: Copy> Graph<S> {
    pub(super) fn new() -> Self {
        Self {
            tensors: Vec::new(),
            parts: Vec::new(),
            operations: Vec::new(),
            slots: Vec::new(),
        }
    }

    fn tensor(
        &mut self,
        data: Data,
        dims: Four,
        strides: Four,
        slot: Option<S>,
        by_value: bool,
        ragged: Option<Node>,
    ) -> Result<Node> {
        let id = self.tensors.len() as i64 + 1;
        let mut t = Descriptor::new(Kind::CUDNN_BACKEND_TENSOR_DESCRIPTOR)?;
        t.set(
            At::CUDNN_ATTR_TENSOR_DATA_TYPE,
            Ty::CUDNN_TYPE_DATA_TYPE,
            &[data],
        )?;
        t.set(
            At::CUDNN_ATTR_TENSOR_DIMENSIONS,
            Ty::CUDNN_TYPE_INT64,
            &dims,
        )?;
        t.set(
            At::CUDNN_ATTR_TENSOR_STRIDES,
            Ty::CUDNN_TYPE_INT64,
            &strides,
        )?;
        t.set(At::CUDNN_ATTR_TENSOR_UNIQUE_ID, Ty::CUDNN_TYPE_INT64, &[id])?;
        t.set(
            At::CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT,
            Ty::CUDNN_TYPE_INT64,
            &[16i64],
        )?;
        match slot {
            None => t.set(
                At::CUDNN_ATTR_TENSOR_IS_VIRTUAL,
                Ty::CUDNN_TYPE_BOOLEAN,
                &[true],
            )?,
            Some(slot) => self.slots.push((id, slot)),
        }
        if by_value {
            t.set(
                At::CUDNN_ATTR_TENSOR_IS_BY_VALUE,
                Ty::CUDNN_TYPE_BOOLEAN,
                &[true],
            )?;
        }
        if let Some(ragged) = ragged {
            let offsets = self.tensors[ragged.index].raw();
            t.set(
                At::CUDNN_ATTR_TENSOR_RAGGED_OFFSET_DESC,
                Ty::CUDNN_TYPE_BACKEND_DESCRIPTOR,
                &[offsets],
            )?;
        }
        self.tensors.push(t.finish("tensor")?);
        Ok(Node {
            index: self.tensors.len() - 1,
            dims,
        })
    }

    /// A tensor in memory, its rows at ragged offsets where these are given.
    pub(super) fn io(
        &mut self,
        data: Data,
        dims: Four,
        strides: Four,
        slot: S,
        ragged: Option<Node>,
    ) -> Result<Node> {
        self.tensor(data, dims, strides, Some(slot), false, ragged)
    }

    /// An f32 passed by value.
    pub(super) fn scalar(&mut self, slot: S) -> Result<Node> {
        self.tensor(
            Data::CUDNN_DATA_FLOAT,
            [1; 4],
            [1; 4],
            Some(slot),
            true,
            None,
        )
    }

    /// An intermediate that never reaches memory.
    pub(super) fn inner(&mut self, data: Data, dims: Four) -> Result<Node> {
        self.inner_strided(data, dims, row_major(dims), None)
    }

    pub(super) fn inner_strided(
        &mut self,
        data: Data,
        dims: Four,
        strides: Four,
        ragged: Option<Node>,
    ) -> Result<Node> {
        self.tensor(data, dims, strides, None, false, ragged)
    }

    fn raw(&self, node: &Node) -> dn::cudnnBackendDescriptor_t {
        self.tensors[node.index].raw()
    }

    fn attach(&self, op: &mut Descriptor, name: At, node: &Node) -> Result<()> {
        op.set(name, Ty::CUDNN_TYPE_BACKEND_DESCRIPTOR, &[self.raw(node)])
    }

    /// `y = mode(x, b, t)`.
    pub(super) fn pointwise_to(
        &mut self,
        mode: Mode,
        precision: Data,
        axis: Option<i64>,
        x: &Node,
        b: Option<&Node>,
        t: Option<&Node>,
        y: &Node,
    ) -> Result<()> {
        let mut how = Descriptor::new(Kind::CUDNN_BACKEND_POINTWISE_DESCRIPTOR)?;
        how.set(
            At::CUDNN_ATTR_POINTWISE_MODE,
            Ty::CUDNN_TYPE_POINTWISE_MODE,
            &[mode],
        )?;
        how.set(
            At::CUDNN_ATTR_POINTWISE_MATH_PREC,
            Ty::CUDNN_TYPE_DATA_TYPE,
            &[precision],
        )?;
        if let Some(axis) = axis {
            how.set(At::CUDNN_ATTR_POINTWISE_AXIS, Ty::CUDNN_TYPE_INT64, &[axis])?;
        }
        let how = how.finish("pointwise")?;
        let mut op = Descriptor::new(Kind::CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR)?;
        op.link(At::CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, &how)?;
        self.attach(&mut op, At::CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x)?;
        if let Some(b) = b {
            self.attach(&mut op, At::CUDNN_ATTR_OPERATION_POINTWISE_BDESC, b)?;
        }
        if let Some(t) = t {
            self.attach(&mut op, At::CUDNN_ATTR_OPERATION_POINTWISE_TDESC, t)?;
        }
        self.attach(&mut op, At::CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y)?;
        self.operations.push(op.finish("pointwise operation")?);
        self.parts.push(how);
        Ok(())
    }

    /// An f32 intermediate `mode(x, b)`.
    pub(super) fn pointwise(&mut self, mode: Mode, x: &Node, b: Option<&Node>) -> Result<Node> {
        let y = self.inner(Data::CUDNN_DATA_FLOAT, x.dims)?;
        self.pointwise_to(mode, Data::CUDNN_DATA_FLOAT, None, x, b, None, &y)?;
        Ok(y)
    }

    /// `c = a b`; `lengths` override m, n and k for every sequence.
    pub(super) fn matmul(
        &mut self,
        a: &Node,
        b: &Node,
        c: &Node,
        lengths: [Option<Node>; 3],
    ) -> Result<()> {
        let mut how = Descriptor::new(Kind::CUDNN_BACKEND_MATMUL_DESCRIPTOR)?;
        how.set(
            At::CUDNN_ATTR_MATMUL_COMP_TYPE,
            Ty::CUDNN_TYPE_DATA_TYPE,
            &[Data::CUDNN_DATA_FLOAT],
        )?;
        let how = how.finish("matmul")?;
        let mut op = Descriptor::new(Kind::CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR)?;
        self.attach(&mut op, At::CUDNN_ATTR_OPERATION_MATMUL_ADESC, a)?;
        self.attach(&mut op, At::CUDNN_ATTR_OPERATION_MATMUL_BDESC, b)?;
        self.attach(&mut op, At::CUDNN_ATTR_OPERATION_MATMUL_CDESC, c)?;
        op.link(At::CUDNN_ATTR_OPERATION_MATMUL_DESC, &how)?;
        let names = [
            At::CUDNN_ATTR_OPERATION_MATMUL_GEMM_M_OVERRIDE_DESC,
            At::CUDNN_ATTR_OPERATION_MATMUL_GEMM_N_OVERRIDE_DESC,
            At::CUDNN_ATTR_OPERATION_MATMUL_GEMM_K_OVERRIDE_DESC,
        ];
        for (length, name) in lengths.iter().zip(names) {
            if let Some(length) = length {
                self.attach(&mut op, name, length)?;
            }
        }
        self.operations.push(op.finish("matmul operation")?);
        self.parts.push(how);
        Ok(())
    }

    /// `y = reduction of x` over the axes where y has one element.
    pub(super) fn reduce(&mut self, how: Reduction, x: &Node, y: &Node) -> Result<()> {
        let mut reduction = Descriptor::new(Kind::CUDNN_BACKEND_REDUCTION_DESCRIPTOR)?;
        reduction.set(
            At::CUDNN_ATTR_REDUCTION_OPERATOR,
            Ty::CUDNN_TYPE_REDUCTION_OPERATOR_TYPE,
            &[how],
        )?;
        reduction.set(
            At::CUDNN_ATTR_REDUCTION_COMP_TYPE,
            Ty::CUDNN_TYPE_DATA_TYPE,
            &[Data::CUDNN_DATA_FLOAT],
        )?;
        let reduction = reduction.finish("reduction")?;
        let mut op = Descriptor::new(Kind::CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR)?;
        self.attach(&mut op, At::CUDNN_ATTR_OPERATION_REDUCTION_XDESC, x)?;
        self.attach(&mut op, At::CUDNN_ATTR_OPERATION_REDUCTION_YDESC, y)?;
        op.link(At::CUDNN_ATTR_OPERATION_REDUCTION_DESC, &reduction)?;
        self.operations.push(op.finish("reduction operation")?);
        self.parts.push(reduction);
        Ok(())
    }

    /// The same elements under other dimensions or strides.
    pub(super) fn reshape(&mut self, x: &Node, y: &Node) -> Result<()> {
        let mut op = Descriptor::new(Kind::CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR)?;
        self.attach(&mut op, At::CUDNN_ATTR_OPERATION_RESHAPE_XDESC, x)?;
        self.attach(&mut op, At::CUDNN_ATTR_OPERATION_RESHAPE_YDESC, y)?;
        self.operations.push(op.finish("reshape operation")?);
        Ok(())
    }

    /// Index of every element along an axis.
    pub(super) fn index(&mut self, x: &Node, axis: i64, precision: Data) -> Result<Node> {
        let y = self.inner(Data::CUDNN_DATA_INT32, x.dims)?;
        let mode = Mode::CUDNN_POINTWISE_GEN_INDEX;
        self.pointwise_to(mode, precision, Some(axis), x, None, None, &y)?;
        Ok(y)
    }

    /// A truth value for every element.
    pub(super) fn compare(&mut self, mode: Mode, a: &Node, b: &Node) -> Result<Node> {
        let y = self.inner(Data::CUDNN_DATA_BOOLEAN, a.dims)?;
        self.pointwise_to(mode, Data::CUDNN_DATA_BOOLEAN, None, a, Some(b), None, &y)?;
        Ok(y)
    }

    /// `x` where `mask`, else `other`.
    pub(super) fn select(&mut self, x: &Node, mask: &Node, other: &Node) -> Result<Node> {
        let y = self.inner(Data::CUDNN_DATA_FLOAT, x.dims)?;
        let mode = Mode::CUDNN_POINTWISE_BINARY_SELECT;
        self.pointwise_to(
            mode,
            Data::CUDNN_DATA_FLOAT,
            None,
            x,
            Some(other),
            Some(mask),
            &y,
        )?;
        Ok(y)
    }

    /// The library's first engine that takes the graph.
    pub(super) fn plan(self, handle: dn::cudnnHandle_t) -> Result<Plan<S>> {
        let mut graph = Descriptor::new(Kind::CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR)?;
        let operations: Vec<_> = self.operations.iter().map(Descriptor::raw).collect();
        graph.set(
            At::CUDNN_ATTR_OPERATIONGRAPH_OPS,
            Ty::CUDNN_TYPE_BACKEND_DESCRIPTOR,
            &operations,
        )?;
        graph.set(
            At::CUDNN_ATTR_OPERATIONGRAPH_HANDLE,
            Ty::CUDNN_TYPE_HANDLE,
            &[handle],
        )?;
        let graph = graph.finish("graph")?;
        let mut heuristics = Descriptor::new(Kind::CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR)?;
        heuristics.link(At::CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, &graph)?;
        heuristics.set(
            At::CUDNN_ATTR_ENGINEHEUR_MODE,
            Ty::CUDNN_TYPE_HEUR_MODE,
            &[dn::cudnnBackendHeurMode_t::CUDNN_HEUR_MODE_A],
        )?;
        let heuristics = heuristics.finish("heuristics")?;
        let configs = results(&heuristics)?;
        let mut last = Error::Cuda {
            op: "cuDNN",
            reason: "no engine takes this graph".into(),
        };
        for config in configs {
            let mut plan = Descriptor::new(Kind::CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR)?;
            plan.set(
                At::CUDNN_ATTR_EXECUTION_PLAN_HANDLE,
                Ty::CUDNN_TYPE_HANDLE,
                &[handle],
            )?;
            plan.link(At::CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, &config)?;
            match plan.finish("plan") {
                Ok(plan) => {
                    let (mut bytes, mut count) = (0i64, 0i64);
                    // SAFETY: room for one 64-bit value.
                    let result = unsafe {
                        dn::cudnnBackendGetAttribute(
                            plan.raw(),
                            At::CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE,
                            Ty::CUDNN_TYPE_INT64,
                            1,
                            &mut count,
                            (&raw mut bytes).cast::<c_void>(),
                        )
                    };
                    check(result, "workspace size")?;
                    let mut parts = self.operations;
                    parts.extend(self.parts);
                    parts.extend(self.tensors);
                    parts.extend([graph, heuristics, config]);
                    return Ok(Plan {
                        plan,
                        workspace: bytes.max(0) as usize,
                        slots: self.slots,
                        _parts: parts,
                    });
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

impl<S: Copy> Plan<S> {
    /// Runs the graph; `address` gives the memory of every slot.
    pub(super) fn execute(
        &self,
        handle: dn::cudnnHandle_t,
        address: impl Fn(S) -> u64,
        workspace: u64,
    ) -> Result<()> {
        let ids: Vec<i64> = self.slots.iter().map(|(id, _)| *id).collect();
        let addresses: Vec<u64> = self.slots.iter().map(|(_, slot)| address(*slot)).collect();
        let mut pack = Descriptor::new(Kind::CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR)?;
        pack.set(
            At::CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS,
            Ty::CUDNN_TYPE_VOID_PTR,
            &addresses,
        )?;
        pack.set(
            At::CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS,
            Ty::CUDNN_TYPE_INT64,
            &ids,
        )?;
        pack.set(
            At::CUDNN_ATTR_VARIANT_PACK_WORKSPACE,
            Ty::CUDNN_TYPE_VOID_PTR,
            &[workspace],
        )?;
        let pack = pack.finish("variant pack")?;
        // SAFETY: the caller's addresses belong to tensors of the sizes that the graph was made for.
        check(
            unsafe { dn::cudnnBackendExecute(handle, self.plan.raw(), pack.raw()) },
            "execute",
        )
    }
}

/// Engine configurations, best first.
fn results(heuristics: &Descriptor) -> Result<Vec<Descriptor>> {
    let name = At::CUDNN_ATTR_ENGINEHEUR_RESULTS;
    let ty = Ty::CUDNN_TYPE_BACKEND_DESCRIPTOR;
    let (mut count, mut got) = (0i64, 0i64);
    // SAFETY: asking for the count alone.
    let result = unsafe {
        dn::cudnnBackendGetAttribute(
            heuristics.raw(),
            name,
            ty,
            0,
            &mut count,
            std::ptr::null_mut(),
        )
    };
    check(result, "number of engines")?;
    let configs = (0..count.max(0))
        .map(|_| Descriptor::new(Kind::CUDNN_BACKEND_ENGINECFG_DESCRIPTOR))
        .collect::<Result<Vec<_>>>()?;
    let mut raw: Vec<_> = configs.iter().map(Descriptor::raw).collect();
    // SAFETY: room for `count` descriptors that exist already and are filled in.
    let result = unsafe {
        dn::cudnnBackendGetAttribute(
            heuristics.raw(),
            name,
            ty,
            count,
            &mut got,
            raw.as_mut_ptr().cast(),
        )
    };
    check(result, "engines")?;
    Ok(configs.into_iter().take(got.max(0) as usize).collect())
}

/// Turns a status into an error with the library's own words.
pub(super) fn check(status: dn::cudnnStatus_t, what: &'static str) -> Result<()> {
    if status == dn::cudnnStatus_t::CUDNN_STATUS_SUCCESS {
        return Ok(());
    }
    let mut text = vec![0u8; 1024];
    // SAFETY: the buffer has the length stated; the library terminates the text.
    unsafe { dn::cudnnGetLastErrorString(text.as_mut_ptr().cast(), text.len()) };
    let text = String::from_utf8_lossy(&text);
    let text = text.trim_end_matches('\0').replace('\n', " ");
    Err(Error::Cuda {
        op: "cuDNN",
        reason: format!("{what}: {status:?} {text}"),
    })
}
