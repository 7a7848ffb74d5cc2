//! Every generator's kernels compile for devices, and compute on the host what the CPU backend
//! computes.
//!
//! One long file: the cases share the plans that they run in both ways.

pub(in crate::cuda) mod emulate;
mod generation;
mod machine;
mod nvrtc;

use ailora_graph::ir::{
    Draw, Program, Real, Type,
    ops::{
        attention::{Attention, AttentionGrad, Operand},
        dropout::Dropout,
        elementwise::{Binary, Unary},
        embedding::{Embedding, EmbeddingGrad},
        loss::{CrossEntropy, CrossEntropyGrad, IGNORED, Matches},
        merge::{Merge, Update},
        normalize::{Normalize, NormalizeGrad},
        reduce::Reduce,
        rotary::Rotary,
        row_lengths::RowLengths,
        softmax::{Softmax, SoftmaxGrad},
        take_along::{TakeAlong, TakeAlongGrad},
        view::{Pad, Permute, Slice},
    },
};

use crate::{
    cuda::planner::{actions, kernels},
    kernels::device::{
        Source, Target,
        text::{grid, kernel},
    },
    plan::{plan, rematerialising},
};
use emulate::Kernels;
use machine::{agree, agree_on, typed};

#[test]
fn split_loops() {
    for shape in [
        vec![1],
        vec![7, 3],
        vec![3, 5, 8],
        vec![9, 1024],
        vec![4099],
    ] {
        let mut p = Program::new();
        let x = p.input("x", Type::f32(shape.clone())).unwrap();
        let y = p.input("y", Type::f32(shape.clone())).unwrap();
        let last = shape.len() - 1;
        let bias = p.input("b", Type::f32(&shape[last..])).unwrap();
        let mut lead = shape.clone();
        lead[last] = 1;
        let rows = p.input("r", Type::f32(lead)).unwrap();
        let sum = p.add(Binary::Add, &[x, bias]).unwrap();
        let g = p.unary(Unary::Gelu, sum).unwrap();
        let dg = p.unary(Unary::GeluPrime, sum).unwrap();
        let dropped = p
            .add(
                Dropout {
                    rate: Real(0.3),
                    stream: "s".into(),
                },
                &[g],
            )
            .unwrap();
        let scaled = p.add(Binary::Mul, &[dropped, rows]).unwrap();
        let less = p.add(Binary::Less, &[y, scaled]).unwrap();
        let out = p.add(Binary::Sub, &[less, dg]).unwrap();
        p.set_output("out", out);
        p.set_output("scaled", scaled);
        agree(&p);
    }
}

#[test]
fn functions() {
    use Unary::*;
    let mut p = Program::new();
    let x = p.input("x", Type::f32([5, 64])).unwrap();
    let y = p.input("y", Type::f32([5, 64])).unwrap();
    for op in [
        Exp, Exp2, Recip, Sin, Cos, Tanh, Sigmoid, Softplus, Relu, Gelu, GeluPrime,
    ] {
        let f = p.unary(op, x).unwrap();
        p.set_output(format!("{op}"), f);
    }
    let square = p.product(x, x).unwrap();
    for op in [Log, Log2, Sqrt] {
        let f = p.unary(op, square).unwrap();
        p.set_output(format!("{op}"), f);
    }
    for op in [Binary::Div, Binary::Less] {
        let f = p.add(op, &[x, y]).unwrap();
        p.set_output(format!("{op:?}"), f);
    }
    agree(&p);
}

#[test]
fn row_loops() {
    for (rows, width) in [
        (3, 1),
        (5, 7),
        (9, 20),
        (2, 128),
        (33, 100),
        (3, 768),
        (2, 1001),
        (2, 4096),
        (1, 40_000),
    ] {
        let mut p = Program::new();
        let ty = Type::f32([rows, width]);
        let x = p.input("x", ty.clone()).unwrap();
        let y = p.input("y", ty).unwrap();
        let gain = p.input("gain", Type::f32([width])).unwrap();
        let sum = p.sum(x, y).unwrap();
        for centered in [false, true] {
            let eps = Real(1e-5);
            let normal = p.add(Normalize { centered, eps }, &[sum]).unwrap();
            let out = p.product(normal, gain).unwrap();
            p.set_output(format!("normal {centered}"), out);
            let grad = p.add(NormalizeGrad { centered, eps }, &[x, y]).unwrap();
            p.set_output(format!("normal grad {centered}"), grad);
        }
        let soft = p.add(Softmax, &[x]).unwrap();
        p.set_output("soft", soft);
        let rate = Dropout {
            rate: Real(0.5),
            stream: "s".into(),
        };
        let dropped = p.add(rate, &[y]).unwrap();
        let grad = p.add(SoftmaxGrad, &[soft, dropped]).unwrap();
        p.set_output("soft grad", grad);
        agree(&p);
    }
}

/// Element `i` of the mask of two sequences: some keys of the first; of the second none, or those of documents
/// of 9, 27, 45... tokens with padding in and behind them.
fn masked(i: usize, keys: usize, documents: bool) -> f32 {
    let j = i % keys;
    match (i < keys, documents) {
        (true, _) => f32::from(u8::from(j % 4 != 2)),
        (false, false) => 0.0,
        (false, true) if j % 13 == 12 || j > keys - keys / 8 => 0.0,
        (false, true) => (1 + j.isqrt() / 3) as f32,
    }
}

/// Attention and its gradients, with heads that share keys, masks and dropout.
#[test]
fn attentions() {
    for (heads, kv_heads, queries, keys, depth) in [
        (2, 2, 5, 5, 4),
        (4, 2, 3, 7, 8),
        (3, 1, 1, 40, 4),
        (2, 1, 70, 72, 4),
    ] {
        for (causal, dropout) in [(false, 0.0), (true, 0.0), (false, 0.3), (true, 0.3)] {
            let mut p = Program::new();
            let op = Attention {
                heads,
                kv_heads,
                causal,
                scale: Real(0.7),
                dropout: Real(dropout),
                stream: "attention".into(),
            };
            let wide = Type::f32([2, queries, heads * depth]);
            let q = p.input("q", wide.clone()).unwrap();
            let narrow = Type::f32([2, keys, kv_heads * depth]);
            let k = p.input("k", narrow.clone()).unwrap();
            let v = p.input("v", narrow).unwrap();
            let mask = p.input("mask", Type::f32([2, keys])).unwrap();
            let dy = p.input("dy", wide).unwrap();
            let mut biased = |name: &str, x| {
                let width = p.shape(x)[2];
                let bias = p.frozen(name, Type::f32([width])).unwrap();
                p.sum(x, bias).unwrap()
            };
            // Not all have one.
            let [q, v] = [biased("q bias", q), biased("v bias", v)];
            let k = if causal { biased("k bias", k) } else { k };
            let y = p.add(op.clone(), &[q, k, v, mask]).unwrap();
            p.set_output("y", y);
            for of in Operand::ALL {
                let forward = op.clone();
                let grad = AttentionGrad { forward, of };
                let id = p.add(grad, &[q, k, v, mask, dy]).unwrap();
                p.set_output(format!("{of:?}"), id);
            }
            for bf16 in [false, true] {
                let p = typed(&p, bf16);
                for plan in [plan(&p), rematerialising(&p)] {
                    agree_on(&plan, bf16, Target::AMPERE, |name, i, x| {
                        if name == "mask" {
                            *x = masked(i, keys, causal && dropout == 0.0);
                        }
                    });
                }
            }
        }
    }
}

#[test]
fn fused_attentions() {
    for sizes in [
        (2, 2, 20, 24, 16),
        (2, 1, 37, 70, 32),
        (1, 1, 5, 130, 16),
        (2, 2, 33, 1, 48),
        (2, 1, 135, 33, 16),
        (1, 1, 140, 150, 16),
    ] {
        fused_attention(sizes, Target::AMPERE, "mma(");
    }
}

/// Of few multiprocessors, so that blocks have more than one task.
#[test]
fn attentions_of_warpgroups() {
    let target = Target {
        processors: 3,
        ..Target::HOPPER
    };
    for sizes in [(2, 1, 256, 300, 64), (2, 2, 330, 257, 128)] {
        fused_attention(sizes, target, "wgmma<");
    }
}

/// Attention whose operands products make, which leave its biases to it: in bfloat16 by fused kernels,
/// with such products.
fn fused_attention(
    (heads, kv_heads, queries, keys, depth): (usize, usize, usize, usize, usize),
    target: Target,
    by: &str,
) {
    for (causal, dropout, biased) in [
        (false, 0.0, [true, true, true]),
        (true, 0.0, [false, true, false]),
        (true, 0.3, [true, false, true]),
    ] {
        let mut p = Program::new();
        let op = Attention {
            heads,
            kv_heads,
            causal,
            scale: Real(0.05),
            dropout: Real(dropout),
            stream: "attention".into(),
        };
        let mut projected = |name: &str, rows: usize, heads: usize, biased: bool| {
            let width = heads * depth;
            let x = p.input(name, Type::f32([2, rows, 4])).unwrap();
            let weight = format!("{name} weight");
            let w = p.frozen(&weight, Type::f32([4, width])).unwrap();
            let y = p.matmul(x, false, w, false).unwrap();
            if !biased {
                return y;
            }
            let bias = p
                .frozen(&format!("{name} bias"), Type::f32([width]))
                .unwrap();
            p.sum(y, bias).unwrap()
        };
        let q = projected("q", queries, heads, biased[0]);
        let k = projected("k", keys, kv_heads, biased[1]);
        let v = projected("v", keys, kv_heads, biased[2]);
        let dy = projected("dy", queries, heads, false);
        let mask = p.input("mask", Type::f32([2, keys])).unwrap();
        let y = p.add(op.clone(), &[q, k, v, mask]).unwrap();
        let mut results = vec![("y".to_owned(), y)];
        for of in Operand::ALL {
            let forward = op.clone();
            let grad = AttentionGrad { forward, of };
            let id = p.add(grad, &[q, k, v, mask, dy]).unwrap();
            results.push((format!("{of:?}"), id));
        }
        for (name, result) in results {
            // An output is float32; what a product reads is not.
            let width = p.shape(result)[2];
            let square = p
                .input(&format!("{name} square"), Type::f32([width, width]))
                .unwrap();
            let read = p.matmul(result, false, square, false).unwrap();
            p.set_output(name, read);
        }
        let plan = rematerialising(&typed(&p, true));
        let fused = actions(&plan, target);
        let fused = kernels(&fused)
            .filter(|kernel| kernel.code.contains(by))
            .count();
        assert!(fused >= 2, "{fused} fused kernels");
        agree_on(&plan, true, target, |name, i, x| {
            if name == "mask" {
                *x = masked(i, keys, causal && dropout == 0.0);
            }
        });
    }
}

/// A fused chain between products, with rows that have gaps.
#[test]
fn products() {
    let mut p = Program::new();
    let x = p.input("x", Type::f32([6, 8])).unwrap();
    let w = p.input("w", Type::f32([8, 12])).unwrap();
    let bias = p.input("b", Type::f32([12])).unwrap();
    let wide = p.matmul(x, false, w, false).unwrap();
    let wide = p.sum(wide, bias).unwrap();
    let part = p
        .add(
            Slice {
                axis: 1,
                start: 4,
                end: 12,
            },
            &[wide],
        )
        .unwrap();
    let gelu = p.unary(Unary::Gelu, part).unwrap();
    let back = p.matmul(gelu, false, w, true).map(|_| ()).err();
    assert!(back.is_some());
    let outer = p.matmul(x, true, gelu, false).unwrap();
    let small = p.scale(outer, 0.25).unwrap();
    p.set_output("outer", small);
    p.set_output("part", part);
    agree(&p);
}

/// What moves, gathers and reduces.
#[test]
fn tensors() {
    for [rows, width] in [[1, 1], [5, 12], [33, 40], [70, 7]] {
        let mut p = Program::new();
        let x = p.input("x", Type::f32([2, rows, width])).unwrap();
        let out = |p: &mut Program, name: &str, id| p.set_output(name, id);
        for axes in [vec![0], vec![2], vec![0, 1], vec![0, 2], vec![0, 1, 2]] {
            for reduce in [Reduce::sum(axes.clone()), Reduce::max(axes.clone())] {
                let id = p.add(reduce.clone(), &[x]).unwrap();
                out(&mut p, &format!("{reduce}"), id);
            }
        }
        for axes in [vec![0, 2, 1], vec![2, 0, 1], vec![1, 0, 2]] {
            let permute = Permute { axes };
            let id = p.add(permute.clone(), &[x]).unwrap();
            out(&mut p, &format!("{permute}"), id);
        }
        for axis in 0..3 {
            let pad = Pad {
                axis,
                before: 2,
                after: 3,
            };
            let id = p.add(pad, &[x]).unwrap();
            out(&mut p, &format!("pad {axis}"), id);
        }
        let table = p.input("table", Type::f32([9, width])).unwrap();
        let ids = p.input("ids", Type::i32([3, rows])).unwrap();
        let found = p.add(Embedding, &[table, ids]).unwrap();
        out(&mut p, "found", found);
        let gradient = p.add(EmbeddingGrad { rows: 9 }, &[ids, found]).unwrap();
        out(&mut p, "gradient", gradient);
        agree(&p);
    }
}

/// Reductions that several blocks share, rows that add up from more ids than a block has threads, and
/// what is no number.
#[test]
fn long_sums() {
    for [rows, width] in [[900, 64], [900, 33], [1, 30_000], [2, 20_001]] {
        let mut p = Program::new();
        let x = p.input("x", Type::f32([rows, width])).unwrap();
        for axes in [vec![0], vec![1], vec![0, 1]] {
            for reduce in [Reduce::sum(axes.clone()), Reduce::max(axes.clone())] {
                let id = p.add(reduce.clone(), &[x]).unwrap();
                p.set_output(format!("{reduce}"), id);
            }
        }
        for bf16 in [false, true] {
            for at in [usize::MAX, rows * width / 2] {
                agree_on(&plan(&typed(&p, bf16)), bf16, Target::AMPERE, |_, i, x| {
                    if i == at {
                        *x = f32::NAN;
                    }
                });
            }
        }
    }
    for width in [8, 7] {
        let mut p = Program::new();
        let ids = p.input("ids", Type::i32([700])).unwrap();
        let dy = p.input("dy", Type::f32([700, width])).unwrap();
        let gradient = p.add(EmbeddingGrad { rows: 3 }, &[ids, dy]).unwrap();
        p.set_output("gradient", gradient);
        // What ids are below.
        let table = p.input("table", Type::f32([3, width])).unwrap();
        let found = p.add(Embedding, &[table, ids]).unwrap();
        p.set_output("found", found);
        agree(&p);
    }
}

#[test]
fn relative_positions_and_rotations() {
    for [s, t, n] in [[1, 1, 1], [3, 5, 7], [17, 33, 40]] {
        for transposed in [false, true] {
            let mut p = Program::new();
            let forward = TakeAlong { transposed };
            let rows = if transposed { t } else { s };
            let x = p.input("x", Type::f32([2, 3, rows, n])).unwrap();
            let by = p.input("by", Type::i32([s, t])).unwrap();
            let dy = p.input("dy", Type::f32([2, 3, s, t])).unwrap();
            let y = p.add(forward, &[x, by]).unwrap();
            let dx = p
                .add(TakeAlongGrad { forward, width: n }, &[by, dy])
                .unwrap();
            p.set_output("y", y);
            p.set_output("dx", dx);
            agree(&p);
        }
    }
    for half in [1, 3, 8] {
        let mut p = Program::new();
        let x = p.input("x", Type::f32([2, 5, 3 * 2 * half])).unwrap();
        let [cos, sin] = ["cos", "sin"].map(|name| p.input(name, Type::f32([2, 5, half])).unwrap());
        let y = p.add(Rotary, &[x, cos, sin]).unwrap();
        p.set_output("y", y);
        agree(&p);
    }
}

#[test]
fn losses() {
    for [rows, classes] in [[1, 2], [7, 3], [40, 130], [3, 5000]] {
        for smoothing in [0.0, 0.1] {
            let forward = CrossEntropy {
                smoothing: Real(smoothing),
            };
            let mut p = Program::new();
            let logits = p.input("logits", Type::f32([rows, classes])).unwrap();
            let labels = p.input("labels", Type::i32([rows])).unwrap();
            let loss = p.add(forward, &[logits, labels]).unwrap();
            let gradient = p
                .add(CrossEntropyGrad { forward }, &[logits, labels])
                .unwrap();
            p.set_output("loss", loss);
            p.set_output("gradient", gradient);
            agree(&p);
        }
    }
}

/// Every label has a large logit; in some rows one beside it is as large, and in some the first is larger.
#[test]
fn labels_with_the_largest_logit() {
    for [rows, classes] in [[1, 2], [13, 3], [40, 130], [12, 5000]] {
        let mut p = Program::new();
        let logits = p.input("logits", Type::f32([rows, classes])).unwrap();
        let labels = p.input("labels", Type::i32([rows])).unwrap();
        let matches = p.add(Matches, &[logits, labels]).unwrap();
        p.set_output("matches", matches);
        let label = |row: usize| (7 * row + 1) % classes;
        for bf16 in [false, true] {
            let plan = plan(&typed(&p, bf16));
            agree_on(&plan, bf16, Target::AMPERE, |name, i, x| match name {
                "labels" if *x != IGNORED as f32 => *x = label(i) as f32,
                "logits" => {
                    let (row, column) = (i / classes, i % classes);
                    let beside =
                        (label(row) + if row % 3 == 0 { 1 } else { classes - 1 }) % classes;
                    if column == label(row) || (row % 2 == 0 && column == beside) {
                        *x = 8.0;
                    } else if row % 5 == 4 && column == 0 {
                        *x = 9.0;
                    }
                }
                _ => {}
            });
        }
    }
}

/// Gradients of two projections' adapters whose factors are columns of wider rows, wherever they begin:
/// those that the kernel takes, alone and beside those that it leaves to the library.
#[test]
fn gradients_of_adapters() {
    for (rows, width, [first, second], taken) in [
        (1, 8, [8, 8], 3),
        (200, 136, [8, 8], 3),
        (333, 264, [16, 24], 3),
        (700, 128, [64, 32], 2),
        (70, 40, [40, 8], 3),
        (200, 136, [4, 8], 3),
        (300, 264, [1, 1], 3),
        (100, 136, [3, 7], 3),
        (90, 72, [60, 9], 2),
        (200, 100, [8, 16], 0),
        (90, 256, [72, 8], 1),
    ] {
        let mut p = Program::new();
        let ranks = first + second;
        let ids = p.input("ids", Type::i32([rows])).unwrap();
        // Gathered, as what a loop computes may take the place of an input, which is float32.
        let [before, after] =
            [("x", width + ranks), ("dy", 2 * width + ranks)].map(|(name, n): (&str, usize)| {
                let n = if width % 8 > 0 {
                    n
                } else {
                    n.next_multiple_of(8)
                };
                let table = p.input(name, Type::f32([rows, n])).unwrap();
                p.add(Embedding, &[table, ids]).unwrap()
            });
        let mut columns = |of, start, end| p.slice(of, 1, start, end).unwrap();
        let x = columns(before, 0, width);
        let h1 = columns(before, width, width + first);
        let h2 = columns(before, width + first, width + ranks);
        let dy1 = columns(after, 0, width);
        let dy2 = columns(after, width, 2 * width);
        let dh = columns(after, 2 * width, 2 * width + ranks);
        for (name, a, b, factor) in [
            ("db1", dy1, h1, 1.5),
            ("db2", dy2, h2, -0.25),
            ("da", dh, x, 1.0),
        ] {
            let product = p.matmul(a, true, b, false).unwrap();
            let gradient = p.scale(product, factor).unwrap();
            p.set_output(name, gradient);
        }
        // Both are kept until then.
        for (name, of) in [("before", before), ("after", after)] {
            let by = p.input(&format!("by {name}"), Type::f32([p.shape(of)[1], 1]));
            let late = p.matmul(of, false, by.unwrap(), false).unwrap();
            p.set_output(name, late);
        }
        let [wide, plan] = [false, true].map(|bf16| rematerialising(&typed(&p, bf16)));
        let joined = plan.steps.iter().map(|step| step.kernel.products());
        assert_eq!(joined.max(), Some(3));
        // Blocks that go over a tile of rows each, and over all of them.
        let small = Target {
            processors: 1,
            ..Target::AMPERE
        };
        for target in [Target::HOPPER, small] {
            let actions = actions(&plan, target);
            // Each is in the list of the kernel that sums, and of the one that adds up.
            let listed = kernels(&actions).map(|kernel| kernel.code.matches(" DO(").count());
            assert_eq!(
                listed.sum::<usize>(),
                2 * taken,
                "{rows} x {width}, {ranks}"
            );
            agree_on(&plan, true, target, |_, _, _| {});
        }
        agree_on(&wide, false, Target::AMPERE, |_, _, _| {});
    }
}

#[test]
fn merged_packs() {
    for [m, n, rank] in [[4, 8, 4], [5, 3, 2]] {
        let mut p = Program::new();
        let pack = p.input("pack", Type::f32([m + rank, n + rank])).unwrap();
        // Two adapters of some rows each.
        let updates = [[0, 2], [2, m - 2]].into_iter().enumerate();
        let updates = updates.map(|(i, [row, rows])| Update {
            at: [row, i],
            shape: [rows, n - 1],
            inner: i * rank / 2,
            rank: rank / 2,
        });
        let merge = Merge {
            corner: [m, n],
            updates: updates.collect(),
            scale: Real(1.5),
        };
        let merged = p.add(merge, &[pack]).unwrap();
        p.set_output("merged", merged);
        agree(&p);
    }
}

/// Of weights and factors that lie apart and of ones in a pack, which begin at whole vectors or not.
#[test]
fn lengths_of_rows() {
    for ([out, inner], ranks, gap) in [
        ([1, 1], vec![1], 0),
        ([5, 7], vec![], 1),
        ([9, 40], vec![3, 2], 1),
        ([33, 100], vec![4, 8], 0),
        ([70, 136], vec![8], 4),
        ([600, 24], vec![5], 3),
        ([3, 4100], vec![16, 16], 8),
    ] {
        let total: usize = ranks.iter().sum();
        let shape = [out + total + gap, inner + total + gap];
        let mut p = Program::new();
        let pack = p.input("pack", Type::f32(shape)).unwrap();
        let mut part = |at: [usize; 2], shape: [usize; 2]| {
            let rows = p.slice(pack, 0, at[0], at[0] + shape[0]).unwrap();
            p.slice(rows, 1, at[1], at[1] + shape[1]).unwrap()
        };
        let mut packed = vec![part([0, 0], [out, inner])];
        let mut start = 0;
        for &rank in &ranks {
            let up = part([0, inner + gap + start], [out, rank]);
            let down = part([out + start, 0], [rank, inner]);
            packed.extend([up, down]);
            start += rank;
        }
        let scales = [Real(1.5), Real(-0.25)];
        let lengths = RowLengths {
            scales: scales[..ranks.len()].to_vec(),
        };
        let mut apart = vec![p.input("w", Type::f32([out, inner])).unwrap()];
        for (i, &rank) in ranks.iter().enumerate() {
            for (name, shape) in [("b", [out, rank]), ("a", [rank, inner])] {
                let factor = p.input(&format!("{name}{i}"), Type::f32(shape)).unwrap();
                apart.push(factor);
            }
        }
        for (name, args) in [("packed", packed), ("apart", apart)] {
            let y = p.add(lengths.clone(), &args).unwrap();
            p.set_output(name, y);
        }
        agree(&p);
    }
}

/// At thresholds as low as an element's own bits, and one above: whatever the lower half says.
#[test]
fn dropout_compares_all_bits() {
    const COUNT: usize = 256;
    let key = Draw::default().key("s");
    let source = Source {
        code: kernel(
            COUNT,
            &["const u64* key", "const int* thresholds", "float* y"],
            "    const u32 i = threadIdx.x;\n    \
             y[i] = dropout(*key, i, u32(thresholds[i]), 2.0f);\n",
        ),
        params: Vec::new(),
        grid: grid(1),
        block: COUNT as u32,
        shared: 0,
    };
    let Some(kernels) = Kernels::new(&[&source]) else {
        return;
    };
    for (above, expected) in [(0, 2.0), (1, 0.0)] {
        let mut word = key.word();
        let mut thresholds: Vec<u32> = (0..COUNT as u32).map(|i| key.bits(i) + above).collect();
        let mut y = vec![f32::NAN; COUNT];
        let arguments: [*mut u8; 3] = [
            (&raw mut word).cast(),
            thresholds.as_mut_ptr().cast(),
            y.as_mut_ptr().cast(),
        ];
        kernels.launch(0, &source, &arguments);
        assert_eq!(y, [expected; COUNT]);
    }
}
