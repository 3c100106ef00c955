//! Operations beside plain loops over ONNX's own order of sides.

use crate::{
    conv::{Conv, Kernels, Spread},
    lower::lower,
    model::{Attribute, Node},
    op::Op,
    pointwise::Pointwise,
    value::{Order, Value},
    window::{Pads, Window},
};

/// Numbers without a pattern.
fn numbers(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn value(dims: &[usize], seed: u32) -> Value {
    Value::floats(dims.to_vec(), numbers(dims.iter().product(), seed))
}

fn node(op: &str, attributes: &[(&str, Attribute)]) -> Node {
    Node {
        op: op.to_owned(),
        inputs: vec!["x".to_owned(), "w".to_owned()],
        outputs: vec!["y".to_owned()],
        attributes: attributes
            .iter()
            .map(|(k, v)| ((*k).to_owned(), v.clone()))
            .collect(),
    }
}

fn ints(list: &[i64]) -> Attribute {
    Attribute::Ints(list.to_vec())
}

fn close(got: &Value, want: &[f32]) {
    let got = got.clone().ordered(Order::Plain);
    let got = got.as_floats().unwrap();
    assert_eq!(got.len(), want.len());
    for (at, (a, b)) in got.iter().zip(want).enumerate() {
        assert!(
            (a - b).abs() < 1e-4 * (1.0 + b.abs()),
            "element {at}: {a} instead of {b}"
        );
    }
}

/// A convolution by its definition: `[1, c, h, w]` by `[o, c / groups, kh, kw]`, zeros around.
fn plain_conv(
    x: &Value,
    weights: &Value,
    stride: [usize; 2],
    pads: [usize; 4],
    depthwise: bool,
) -> Vec<f32> {
    let [_, c, h, w] = x.nchw().unwrap();
    let [o, per, kh, kw] = weights.nchw().unwrap();
    let (x, k) = (x.as_floats().unwrap(), weights.as_floats().unwrap());
    let oh = (h + pads[0] + pads[2] - kh) / stride[0] + 1;
    let ow = (w + pads[1] + pads[3] - kw) / stride[1] + 1;
    let mut out = Vec::new();
    for o in 0..o {
        for y in 0..oh {
            for across in 0..ow {
                let mut sum = 0.0;
                for i in 0..per {
                    let channel = if depthwise { o } else { i };
                    assert!(channel < c);
                    for dy in 0..kh {
                        for dx in 0..kw {
                            let (sy, sx) = (y * stride[0] + dy, across * stride[1] + dx);
                            if sy < pads[0]
                                || sx < pads[1]
                                || sy - pads[0] >= h
                                || sx - pads[1] >= w
                            {
                                continue;
                            }
                            let from = (channel * h + sy - pads[0]) * w + sx - pads[1];
                            sum += x[from] * k[((o * per + i) * kh + dy) * kw + dx];
                        }
                    }
                }
                out.push(sum);
            }
        }
    }
    out
}

#[test]
fn convolutions() {
    for (channels, outputs, kernel, stride, pads, size) in [
        (3, 16, [3, 3], [2, 2], [1, 1, 1, 1], [17, 22]),
        (24, 10, [1, 1], [1, 1], [0; 4], [9, 40]),
        (8, 5, [5, 3], [2, 1], [2, 0, 2, 1], [11, 9]),
        (45, 0, [3, 3], [1, 1], [1; 4], [7, 9]),
        (41, 0, [1, 7], [1, 1], [0, 3, 0, 3], [1, 5]),
        (64, 0, [5, 5], [2, 2], [2; 4], [20, 13]),
    ] {
        let depthwise = outputs == 0;
        let outputs = if depthwise { channels } else { outputs };
        let x = value(&[1, channels, size[0], size[1]], 1);
        let per = if depthwise { 1 } else { channels };
        let weights = value(&[outputs, per, kernel[0], kernel[1]], 2);
        let node = node(
            "Conv",
            &[
                ("strides", ints(&stride.map(|s| s as i64))),
                ("pads", ints(&pads.map(|p| p as i64))),
                (
                    "group",
                    Attribute::Int(if depthwise { channels as i64 } else { 1 }),
                ),
            ],
        );
        let (op, read) = lower(&node, &[None, Some(&weights)]).unwrap();
        assert_eq!(read, [0]);
        let mut want = plain_conv(&x, &weights, stride, pads, depthwise);
        for parallel in [false, true] {
            close(&op.run(vec![x.clone()], &[], parallel).unwrap(), &want);
        }
        // With a normalisation inside and a function behind.
        let Op::Conv(mut conv) = op else {
            panic!("no convolution")
        };
        let (scale, shift) = (numbers(outputs, 3), numbers(outputs, 4));
        conv.scaled(&scale, &shift);
        let places = want.len() / outputs;
        for (at, y) in want.iter_mut().enumerate() {
            *y = (*y * scale[at / places] + shift[at / places]).max(0.0);
        }
        let relu = [Pointwise::Clip(0.0, f32::INFINITY)];
        close(&Op::Conv(conv).run(vec![x], &relu, false).unwrap(), &want);
    }
}

#[test]
fn a_kernel_of_even_size_keeps_the_size() {
    let x = value(&[1, 3, 4, 5], 1);
    let weights = value(&[2, 3, 2, 2], 2);
    let same = node(
        "Conv",
        &[("auto_pad", Attribute::Text("SAME_UPPER".to_owned()))],
    );
    let (op, _) = lower(&same, &[None, Some(&weights)]).unwrap();
    assert!(matches!(&op, Op::Conv(Conv { window, .. }) if window.pads == Pads::SameUpper));
    let y = op.run(vec![x.clone()], &[], false).unwrap();
    assert_eq!(y.dims, [1, 2, 4, 5]);
    close(&y, &plain_conv(&x, &weights, [1, 1], [0, 0, 1, 1], false));
}

#[test]
fn large_products_are_cut_into_tiles() {
    let x = value(&[1, 48, 70, 60], 1);
    let weights = value(&[96, 48, 3, 3], 2);
    let padded = node("Conv", &[("pads", ints(&[1; 4]))]);
    let (op, _) = lower(&padded, &[None, Some(&weights)]).unwrap();
    let want = plain_conv(&x, &weights, [1, 1], [1; 4], false);
    close(&op.run(vec![x.clone()], &[], true).unwrap(), &want);
    let alone = op.run(vec![x.clone()], &[], false).unwrap();
    assert_eq!(
        alone.as_floats(),
        op.run(vec![x], &[], true).unwrap().as_floats()
    );
}

#[test]
fn spreading_and_repeating() {
    let x = value(&[1, 6, 3, 4], 1);
    let weights = value(&[6, 5, 2, 2], 2);
    let bias = value(&[5], 3);
    let twice = node("ConvTranspose", &[("strides", ints(&[2, 2]))]);
    let (op, _) = lower(&twice, &[None, Some(&weights), Some(&bias)]).unwrap();
    assert!(matches!(op, Op::Spread(Spread { outputs: 5, .. })));
    let (xs, ks, bs) = (
        x.as_floats().unwrap(),
        weights.as_floats().unwrap(),
        bias.as_floats().unwrap(),
    );
    let mut want = Vec::new();
    for o in 0..5 {
        for y in 0..6 {
            for at in 0..8 {
                let sum: f32 = (0..6)
                    .map(|i| {
                        xs[(i * 3 + y / 2) * 4 + at / 2]
                            * ks[((i * 5 + o) * 2 + y % 2) * 2 + at % 2]
                    })
                    .sum();
                want.push(sum + bs[o]);
            }
        }
    }
    for parallel in [false, true] {
        close(&op.run(vec![x.clone()], &[], parallel).unwrap(), &want);
    }
    let again = Op::Repeat([2, 3]).run(vec![x.clone()], &[], false).unwrap();
    assert_eq!(again.dims, [1, 6, 6, 12]);
    let mut want = Vec::new();
    for place in 0..6 * 6 * 12 {
        let (channel, y, at) = (place / 72, place / 12 % 6, place % 12);
        want.push(xs[(channel * 3 + y / 2) * 4 + at / 3]);
    }
    close(&again, &want);
}

#[test]
fn pools_and_means() {
    let x = value(&[1, 9, 5, 6], 1);
    let xs = x.as_floats().unwrap();
    let pool = node(
        "MaxPool",
        &[
            ("kernel_shape", ints(&[3, 2])),
            ("strides", ints(&[2, 2])),
            ("pads", ints(&[1, 0, 1, 0])),
        ],
    );
    let (op, _) = lower(&pool, &[None, None]).unwrap();
    let mut want = Vec::new();
    for c in 0..9 {
        for y in 0..3_usize {
            for at in 0..3 {
                let rows = (2 * y).saturating_sub(1)..(2 * y + 2).min(5);
                let all = rows.flat_map(|y| [0, 1].map(|d| xs[(c * 5 + y) * 6 + 2 * at + d]));
                want.push(all.fold(f32::NEG_INFINITY, f32::max));
            }
        }
    }
    close(&op.run(vec![x.clone()], &[], true).unwrap(), &want);
    let mean = Op::Mean {
        axes: vec![2, 3],
        keep: true,
    }
    .run(vec![x.clone()], &[], false)
    .unwrap();
    assert_eq!(mean.dims, [1, 9, 1, 1]);
    let want: Vec<f32> = xs
        .chunks(30)
        .map(|c| c.iter().sum::<f32>() / 30.0)
        .collect();
    close(&mean, &want);
}

#[test]
fn shapes() {
    let run = |op: Op, inputs: Vec<Value>| op.run(inputs, &[], false);
    let x = value(&[2, 3, 4], 1);
    let xs = x.as_floats().unwrap();
    let turned = run(Op::Transpose(vec![2, 0, 1]), vec![x.clone()]).unwrap();
    assert_eq!(turned.dims, [4, 2, 3]);
    assert_eq!(turned.as_floats().unwrap()[7], xs[4 + 1]);
    let to = Value::ints(vec![2], vec![0, -1]);
    assert_eq!(run(Op::Reshape, vec![x.clone(), to]).unwrap().dims, [2, 12]);
    let to = Value::ints(vec![1], vec![5]);
    assert!(run(Op::Reshape, vec![x.clone(), to]).is_err());
    let bound = |v: i64| Value::ints(vec![1], vec![v]);
    let part = run(
        Op::Slice,
        vec![x.clone(), bound(1), bound(i64::MAX), bound(-1)],
    )
    .unwrap();
    assert_eq!(part.dims, [2, 3, 3]);
    assert_eq!(part.as_floats().unwrap()[3], xs[5]);
    let joined = run(Op::Concat(1), vec![x.clone(), part.clone()]);
    assert!(joined.is_err());
    let joined = run(Op::Concat(2), vec![x.clone(), part]).unwrap();
    assert_eq!(joined.dims, [2, 3, 7]);
    assert_eq!(joined.as_floats().unwrap()[7 + 4], xs[5]);
    // A picture with its channels last and one as it is come to the same.
    let a = value(&[1, 3, 2, 5], 1);
    let b = value(&[1, 3, 1, 1], 2);
    let last = a.clone().ordered(Order::ChannelsLast);
    let add = Op::Binary(crate::pointwise::Binary::Add);
    let one = run(add.clone(), vec![last, b.clone()]).unwrap();
    let want: Vec<f32> = (0..30)
        .map(|i| a.as_floats().unwrap()[i] + b.as_floats().unwrap()[i / 10])
        .collect();
    close(&one, &want);
    close(&run(add, vec![b, a]).unwrap(), &want);
    let product = run(Op::MatMul, vec![value(&[2, 3, 4], 1), value(&[2, 4, 5], 2)]).unwrap();
    assert_eq!(product.dims, [2, 3, 5]);
    assert!(run(Op::MatMul, vec![value(&[2, 3, 4], 1), value(&[3, 4, 5], 2)]).is_err());
}

#[test]
fn what_is_not_known_is_named() {
    let error = lower(&node("Einsum", &[]), &[None, None])
        .unwrap_err()
        .to_string();
    assert!(error.contains("Einsum") && error.contains('y'), "{error}");
    let weights = value(&[4, 2, 3, 3], 1);
    let error = lower(
        &node("Conv", &[("group", Attribute::Int(2))]),
        &[None, Some(&weights)],
    )
    .unwrap_err();
    assert!(error.to_string().contains("2 groups"), "{error}");
    for bytes in [&b""[..], b"\x00", b"hello", &[0x3a, 0x7f]] {
        assert!(crate::Network::load(bytes).is_err());
    }
    assert!(
        matches!(lower(&node("Conv", &[]), &[None, None]), Err(error) if error.to_string().contains("kernels"))
    );
}

/// What a damaged file may ask for is refused where it would be computed, or before.
#[test]
fn sides_of_nothing_and_axes_that_come_twice() {
    let empty = |dims: &[usize]| Value::floats(dims.to_vec(), Vec::new());
    let group = |count: i64| ("group", Attribute::Int(count));
    for (op, attributes, constants) in [
        ("Conv", vec![], vec![empty(&[0, 3, 1, 1])]),
        ("Conv", vec![group(0)], vec![empty(&[0, 1, 1, 1])]),
        ("Conv", vec![], vec![empty(&[4, 0, 1, 1])]),
        ("Conv", vec![], vec![empty(&[4, 3, 0, 1])]),
        ("Conv", vec![], vec![empty(&[4, 3, 1, 0])]),
        ("ConvTranspose", vec![], vec![empty(&[3, 0, 1, 1])]),
        ("ConvTranspose", vec![], vec![empty(&[0, 3, 1, 1])]),
        ("BatchNormalization", vec![], vec![empty(&[0]); 4]),
        ("MatMul", vec![], vec![empty(&[0, 4])]),
        ("MatMul", vec![], vec![empty(&[3, 0])]),
    ] {
        let given: Vec<_> = [None]
            .into_iter()
            .chain(constants.iter().map(Some))
            .collect();
        let error = lower(&node(op, &attributes), &given)
            .unwrap_err()
            .to_string();
        let told = error.contains("without elements") || error.contains("no channels");
        assert!(told, "{op} {:?}: {error}", constants[0].dims);
    }

    let window = Window {
        kernel: [1, 1],
        stride: [1, 1],
        pads: Pads::Given([0; 4]),
    };
    let pool = |largest| Op::Pool { window, largest };
    let mean = |axes: &[i64]| Op::Mean {
        axes: axes.to_vec(),
        keep: true,
    };
    let weights = value(&[2, 3, 1, 1], 2);
    let made = |op: &str| lower(&node(op, &[]), &[None, Some(&weights)]).unwrap().0;
    let (row, some) = (value(&[2, 3], 1), value(&[1, 3, 4, 5], 1));
    let list = |list: &[i64]| Value::ints(vec![list.len()], list.to_vec());
    let parts = vec![some.clone(), list(&[1, 3]), list(&[2, 4]), list(&[2, 2])];
    for (op, inputs, word) in [
        (mean(&[2, 3]), vec![empty(&[1, 0, 4, 5])], "elements"),
        (mean(&[2, 3]), vec![empty(&[1, 3, 0, 5])], "elements"),
        (mean(&[-1]), vec![empty(&[5, 0])], "elements"),
        (mean(&[]), vec![value(&[], 1)], "a mean over"),
        (mean(&[2, -1, 3]), vec![some.clone()], "twice"),
        (pool(true), vec![empty(&[1, 0, 4, 5])], "elements"),
        (pool(false), vec![empty(&[1, 3, 4, 0])], "elements"),
        (Op::Repeat([2, 2]), vec![empty(&[1, 0, 4, 5])], "elements"),
        (made("Conv"), vec![empty(&[1, 3, 0, 5])], "elements"),
        (
            made("ConvTranspose"),
            vec![empty(&[1, 2, 4, 0])],
            "elements",
        ),
        (Op::Transpose(vec![2; 4]), vec![some.clone()], "twice"),
        (Op::Transpose(vec![0, -2]), vec![row.clone()], "twice"),
        (Op::Unsqueeze(vec![3, 3]), vec![row.clone()], "twice"),
        (Op::Unsqueeze(vec![5, 5]), vec![row.clone()], "axis 5"),
        (Op::Squeeze(vec![0, -4]), vec![some.clone()], "twice"),
        (Op::Slice, parts, "twice"),
    ] {
        for parallel in [false, true] {
            let error = op.run(inputs.clone(), &[], parallel).unwrap_err();
            assert!(error.contains(word), "{op:?}: {error}");
        }
    }

    // Nothing and nothing is nothing.
    let add = Op::Binary(crate::pointwise::Binary::Add);
    let none = empty(&[1, 0, 4, 5]);
    let sum = add.run(vec![none.clone(), none], &[], false).unwrap();
    assert_eq!(sum.dims, [1, 0, 4, 5]);
}

/// A picture or a value that no memory holds is refused and not asked for.
#[test]
fn sides_that_are_absurdly_large() {
    let part = |number: u8, bytes: &[u8]| [&[number << 3 | 2, bytes.len() as u8], bytes].concat();
    let relu = [part(1, b"x"), part(2, b"y"), part(4, b"Relu")].concat();
    let ends = [part(11, &part(1, b"x")), part(12, &part(1, b"y"))].concat();
    let graph = [part(1, &relu), ends].concat();
    let network = crate::Network::load(&part(7, &graph)).unwrap();
    assert!(network.run(vec![0.0; 12], [2, 2], false).is_ok());
    // The last ones are as many elements as there are, where products wrap around.
    for (count, size) in [
        (3_000_000, [1_000_000, 1]),
        (0, [1_000_000, 1_000_000]),
        (0, [60_000, 60_000]),
        (0, [1 << 32, 1 << 32]),
        (0, [1 << 63, 2]),
    ] {
        let error = network.run(vec![0.0; count], size, false).unwrap_err();
        let told = error.to_string();
        assert!(
            told.contains(&format!("{} x {} px: too large", size[0], size[1])),
            "{told}"
        );
    }

    let far = 1_i64 << 40;
    let some = value(&[1, 3, 4, 5], 1);
    let weights = value(&[2, 3, 1, 1], 2);
    let made = |op: &str, attributes: &[(&str, Attribute)]| {
        lower(&node(op, attributes), &[None, Some(&weights)])
            .unwrap()
            .0
    };
    let pads = |side: i64| ("pads", ints(&[side; 4]));
    let point = ("kernel_shape", ints(&[1, 1]));
    let line = |n: usize| value(&[n, 1], 1);
    let row = |n: usize| value(&[1, n], 2);
    let list = |list: &[i64]| Value::ints(vec![list.len()], list.to_vec());
    let spread = Op::Spread(Spread {
        kernel: [1 << 20; 2],
        inputs: 3,
        outputs: 1,
        weights: Vec::new(),
        bias: vec![0.0],
    });
    let wide = Op::Linear {
        weights: numbers(1 << 15, 1),
        k: 1,
        n: 1 << 15,
        bias: Vec::new(),
    };
    let (n, add) = (1 << 15, Op::Binary(crate::pointwise::Binary::Add));
    for (op, inputs, word) in [
        (made("Conv", &[pads(far)]), vec![some.clone()], "too large"),
        (made("Conv", &[pads(i64::MAX)]), vec![some.clone()], "fit"),
        (
            made("MaxPool", &[point.clone(), pads(far)]),
            vec![some.clone()],
            "too large",
        ),
        (Op::Repeat([1 << 20; 2]), vec![some.clone()], "too large"),
        (Op::Repeat([usize::MAX; 2]), vec![some.clone()], "too large"),
        (spread, vec![some.clone()], "too large"),
        (wide, vec![line(n)], "too large"),
        (Op::MatMul, vec![line(n), row(n)], "too large"),
        (add, vec![line(n), row(n)], "too large"),
        (
            Op::Reshape,
            vec![some.clone(), list(&[far, far, 60])],
            "too large",
        ),
        (
            Op::Reshape,
            vec![some.clone(), list(&[far, far, -1])],
            "too large",
        ),
        (Op::Concat(0), vec![value(&[1 << 20], 1); 300], "too large"),
    ] {
        let error = op.run(inputs, &[], false).unwrap_err();
        assert!(error.contains(word), "{op:?}: {error}");
    }

    // A constant whose sides multiply to no element at all.
    let huge = [1 << 7 | 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
    let sides = [
        [&[8][..], &huge].concat(),
        [&[8][..], &huge].concat(),
        vec![8, 0],
    ]
    .concat();
    let constant = [sides, vec![16, 1], part(8, b"w")].concat();
    let error = crate::Network::load(&part(7, &[graph, part(5, &constant)].concat())).unwrap_err();
    assert!(error.to_string().contains("`w` is too large"), "{error}");
}

#[test]
fn windows_in_the_padding_alone() {
    let x = value(&[1, 3, 2, 2], 1);
    let pads = [1, 1, 4, 5];
    let padded = ("pads", ints(&pads.map(|p| p as i64)));
    let weights = value(&[2, 3, 2, 1], 2);
    let (op, _) = lower(
        &node("Conv", std::slice::from_ref(&padded)),
        &[None, Some(&weights)],
    )
    .unwrap();
    let want = plain_conv(&x, &weights, [1, 1], pads, false);
    close(&op.run(vec![x.clone()], &[], false).unwrap(), &want);
    let attributes = [padded, ("kernel_shape", ints(&[2, 1]))];
    let (op, _) = lower(&node("AveragePool", &attributes), &[None]).unwrap();
    let y = op.run(vec![x], &[], false).unwrap();
    assert_eq!(y.dims, [1, 3, 6, 8]);
    assert_eq!(y.as_floats().unwrap().last(), Some(&0.0));
}

#[test]
fn some_class_is_kept() {
    let part = |number: u8, bytes: &[u8]| [&[number << 3 | 2, bytes.len() as u8], bytes].concat();
    let one = part(9, &1.0_f32.to_le_bytes());
    // Sides 1 and 1, of floats.
    let weights = [vec![8, 1, 8, 1, 16, 1], part(8, b"w"), one].concat();
    let product = [
        part(1, b"x"),
        part(1, b"w"),
        part(2, b"y"),
        part(4, b"MatMul"),
    ]
    .concat();
    let graph = [
        part(1, &product),
        part(5, &weights),
        part(11, &part(1, b"x")),
        part(12, &part(1, b"y")),
    ]
    .concat();
    let mut network = crate::Network::load(&part(7, &graph)).unwrap();
    for (keep, word) in [(&[][..], "no classes"), (&[1], "fewer classes")] {
        let error = network.keep_classes(keep).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
        assert_eq!(network.classes(), Some(1));
    }
    network.keep_classes(&[0]).unwrap();
}

/// Kernels are a constant of the operation, not of the network's memory.
#[test]
fn kernels_are_laid_out_once() {
    let weights = value(&[2, 1, 1, 1], 1);
    let (op, _) = lower(
        &node("Conv", &[("group", Attribute::Int(2))]),
        &[None, Some(&weights)],
    )
    .unwrap();
    let Op::Conv(conv) = op else {
        panic!("no convolution")
    };
    assert!(matches!(&conv.kernels, Kernels::Depthwise(w) if w == weights.as_floats().unwrap()));
}
