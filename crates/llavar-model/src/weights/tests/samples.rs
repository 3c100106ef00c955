//! Small files written by hand, byte for byte as PyTorch lays them out.

use crate::weights::Dtype;

/// A tensor of a hand-made file: `(name, dtype, storage key, offset, shape, strides)`.
pub(crate) struct Sample<'a> {
    pub(crate) name: &'a str,
    pub(crate) dtype: Dtype,
    pub(crate) key: &'a str,
    pub(crate) numel: u32,
    pub(crate) offset: u32,
    pub(crate) shape: &'a [u32],
    pub(crate) strides: &'a [u32],
}

pub(crate) fn text(out: &mut Vec<u8>, text: &str) {
    out.push(b'X');
    out.extend((text.len() as u32).to_le_bytes());
    out.extend(text.bytes());
}

pub(crate) fn int(out: &mut Vec<u8>, n: u32) {
    out.push(b'J');
    out.extend(n.to_le_bytes());
}

fn tuple(out: &mut Vec<u8>, numbers: &[u32]) {
    out.push(b'(');
    numbers.iter().for_each(|&n| int(out, n));
    out.push(b't');
}

fn storage_class(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::F64 => "DoubleStorage",
        Dtype::F32 => "FloatStorage",
        Dtype::F16 => "HalfStorage",
        Dtype::BF16 => "BFloat16Storage",
        Dtype::I64 => "LongStorage",
        Dtype::I32 => "IntStorage",
        Dtype::I16 => "ShortStorage",
        Dtype::I8 => "CharStorage",
        Dtype::U8 => "ByteStorage",
        Dtype::Bool => "BoolStorage",
    }
}

/// The opcodes that build one tensor.
pub(crate) fn tensor(out: &mut Vec<u8>, t: &Sample<'_>) {
    out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
    text(out, "storage");
    out.extend(format!("ctorch\n{}\n", storage_class(t.dtype)).bytes());
    text(out, t.key);
    text(out, "cpu");
    int(out, t.numel);
    out.extend(b"tQ");
    int(out, t.offset);
    tuple(out, t.shape);
    tuple(out, t.strides);
    out.extend(b"\x89ccollections\nOrderedDict\n)RtR");
}

/// A pickled state dict.
pub(crate) fn state_dict(tensors: &[Sample<'_>]) -> Vec<u8> {
    let mut out = b"\x80\x02ccollections\nOrderedDict\n)R(".to_vec();
    for t in tensors {
        text(&mut out, t.name);
        tensor(&mut out, t);
    }
    out.extend(b"u.");
    out
}

/// A stored zip archive.
pub(crate) fn zip(members: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for (name, data) in members {
        let offset = out.len() as u32;
        let sizes = [data.len() as u32, data.len() as u32];
        out.extend(b"PK\x03\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
        sizes.iter().for_each(|n| out.extend(n.to_le_bytes()));
        out.extend((name.len() as u16).to_le_bytes());
        out.extend([0, 0]);
        out.extend(name.bytes());
        out.extend(*data);
        directory.extend(b"PK\x01\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
        sizes.iter().for_each(|n| directory.extend(n.to_le_bytes()));
        directory.extend((name.len() as u16).to_le_bytes());
        directory.extend([0; 12]);
        directory.extend(offset.to_le_bytes());
        directory.extend(name.bytes());
    }
    let at = out.len() as u32;
    let size = directory.len() as u32;
    out.append(&mut directory);
    out.extend(b"PK\x05\x06\0\0\0\0");
    out.extend((members.len() as u16).to_le_bytes());
    out.extend((members.len() as u16).to_le_bytes());
    out.extend(size.to_le_bytes());
    out.extend(at.to_le_bytes());
    out.extend([0, 0]);
    out
}

/// A PyTorch archive of one storage of twelve floats 0..12, seen plainly, transposed and repeated.
pub(crate) fn torch_zip() -> Vec<u8> {
    let data: Vec<u8> = (0..12).flat_map(|n| (n as f32).to_le_bytes()).collect();
    let sample = |name, offset, shape, strides| Sample {
        name,
        dtype: Dtype::F32,
        key: "0",
        numel: 12,
        offset,
        shape,
        strides,
    };
    let pickle = state_dict(&[
        sample("plain", 0, &[3, 4], &[4, 1]),
        sample("transposed", 0, &[4, 3], &[1, 4]),
        sample("tail", 10, &[2], &[1]),
        sample("repeated", 3, &[2, 3], &[0, 1]),
        sample("scalar", 7, &[], &[]),
        sample("empty", 0, &[0, 4], &[4, 1]),
        sample("odd_stride_of_one", 4, &[1, 4], &[u32::MAX >> 1, 1]),
    ]);
    zip(&[
        ("a/data.pkl", &pickle),
        ("a/byteorder", b"little"),
        ("a/data/0", &data),
    ])
}

/// The same in the legacy form.
pub(crate) fn torch_legacy() -> Vec<u8> {
    let data: Vec<u8> = (0..12).flat_map(|n| (n as f32).to_le_bytes()).collect();
    let mut out = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.".to_vec();
    out.extend(b"\x80\x02M\xe9\x03.");
    out.extend(b"\x80\x02}(");
    text(&mut out, "little_endian");
    out.extend(b"\x88u.");
    let sample = |name, shape, strides| Sample {
        name,
        dtype: Dtype::F32,
        key: "k",
        numel: 12,
        offset: 0,
        shape,
        strides,
    };
    out.extend(state_dict(&[
        sample("plain", &[3, 4], &[4, 1]),
        sample("transposed", &[4, 3], &[1, 4]),
    ]));
    out.extend(b"\x80\x02](");
    text(&mut out, "k");
    out.extend(b"e.");
    out.extend(12_u64.to_le_bytes());
    out.extend(data);
    out
}

/// A safetensors file from its header.
pub(crate) fn safetensors(header: &str, data: usize) -> Vec<u8> {
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend(header.bytes());
    out.resize(out.len() + data, 0);
    out
}
