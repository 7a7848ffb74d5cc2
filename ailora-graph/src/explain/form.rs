//! A region's program as a list of values to be shown.

use std::collections::HashMap;

use super::Explained;
use crate::ir::{
    DType, Id, Op, Program, Type,
    ops::{concat::Concat, elementwise::Binary, matmul::MatMul, merge::Update},
};

/// What the matrix products of a form take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// How many they are.
    pub gemms: usize,
    /// Their floating-point operations.
    pub flops: usize,
    /// Bytes of their operands and results.
    pub bytes: usize,
}

impl Work {
    /// The products of a program of matrices.
    pub fn of(program: &Program) -> Self {
        let mut work = Self::default();
        let live = program.live();
        for id in program.ids().filter(|&id| live[usize::from(id)]) {
            for [m, n, k] in gemms(program, id) {
                work.gemms += 1;
                work.flops += 2 * m * n * k;
                work.bytes += 4 * (m * k + k * n + m * n);
            }
        }
        work
    }
}

/// The sizes of the products that a node is: rows, columns, depth.
fn gemms(program: &Program, id: Id) -> Vec<[usize; 3]> {
    let node = &program[id];
    match &node.op {
        Op::MatMul(product) => {
            let dims = product.dims(program.shape(node.args[0]), program.shape(node.args[1]));
            vec![[dims.batch * dims.m, dims.n, dims.k]]
        }
        Op::Merge(merge) => merge.updates.iter().map(Update::sizes).collect(),
        _ => Vec::new(),
    }
}

/// One form of a region.
pub struct Form {
    /// What it is called.
    pub title: &'static str,
    /// Its values, operands first.
    pub values: Vec<Value>,
    /// What its products take.
    pub work: Work,
    /// What it takes, as predicted.
    pub seconds: f64,
}

/// A value of a form.
pub struct Value {
    /// How others refer to it.
    pub name: String,
    /// How it is computed from others; nothing for a leaf.
    pub expression: String,
    /// What it is.
    pub kind: Kind,
    /// The parameters that it holds, if it is a part of a pack with more than one.
    pub parts: Vec<String>,
    /// Its type.
    pub ty: Type,
    /// The values that it is computed from, by their place in the form.
    pub args: Vec<usize>,
}

/// What a value is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Given by what comes before the region.
    Input,
    /// Parameters that are not trained.
    Frozen,
    /// Parameters that are trained.
    Trained,
    /// Parameters of both kinds.
    Both,
    /// Matrix products: rows, columns, depth.
    Gemm(Vec<[usize; 3]>),
    /// Something that costs little.
    Other(&'static str),
}

impl Form {
    /// A region's program, whose parameters may be blocks of packs.
    pub fn of(title: &'static str, program: &Program, seconds: f64, explained: &Explained) -> Self {
        let mut form = Self {
            title,
            values: Vec::new(),
            work: Work::of(program),
            seconds,
        };
        let outputs: HashMap<Id, &str> = program
            .outputs()
            .iter()
            .map(|(name, &id)| (id, &**name))
            .collect();
        let mut places: HashMap<Id, usize> = HashMap::new();
        let mut computed = 0;
        for id in shown(program) {
            let node = &program[id];
            let mut value = match leaf(program, id, explained) {
                Some(value) => value,
                None => {
                    computed += 1;
                    Value {
                        name: format!("t{computed}"),
                        expression: expression(program, id, &|arg| match places.get(&arg) {
                            Some(&place) => form.values[place].name.clone(),
                            None => program[arg].op.to_string(),
                        }),
                        kind: kind(program, id),
                        parts: Vec::new(),
                        ty: program.ty(id).clone(),
                        args: node
                            .args
                            .iter()
                            .filter_map(|arg| places.get(arg).copied())
                            .collect(),
                    }
                }
            };
            if let Some(&name) = outputs.get(&id) {
                computed -= usize::from(value.name == format!("t{computed}"));
                name.clone_into(&mut value.name);
            }
            places.insert(id, form.values.len());
            form.values.push(value);
        }
        form
    }
}

/// The nodes that are shown: results, and what they read, where a slice of a parameter is one leaf.
fn shown(program: &Program) -> Vec<Id> {
    let mut shown = vec![false; program.len()];
    for &id in program.outputs().values() {
        shown[usize::from(id)] = true;
    }
    for id in program.ids().rev() {
        if shown[usize::from(id)] && block(program, id).is_none() {
            for &arg in &program[id].args {
                shown[usize::from(arg)] |= !matches!(program[arg].op, Op::Const(_));
            }
        }
    }
    program.ids().filter(|&id| shown[usize::from(id)]).collect()
}

/// A parameter of a program, and the first row and column of it that a node is.
fn block(program: &Program, id: Id) -> Option<(Id, [usize; 2])> {
    match &program[id].op {
        Op::Frozen(_) | Op::Trained(_) => Some((id, [0, 0])),
        Op::Slice(slice) => {
            let (leaf, mut at) = block(program, program[id].args[0])?;
            *at.get_mut(slice.axis)? += slice.start;
            Some((leaf, at))
        }
        _ => None,
    }
}

/// A value that is not computed.
fn leaf(program: &Program, id: Id, explained: &Explained) -> Option<Value> {
    let is_trained = |name: &str| {
        let mut trained = explained.report.before.trained_parameters();
        trained.any(|leaf| *leaf.name == *name)
    };
    let mut value = Value {
        name: String::new(),
        expression: String::new(),
        kind: Kind::Input,
        parts: Vec::new(),
        ty: program.ty(id).clone(),
        args: Vec::new(),
    };
    if let Op::Input(leaf) = &program[id].op {
        value.name = leaf.name.to_string();
        return Some(value);
    }
    let (leaf, at) = block(program, id)?;
    let (Op::Frozen(leaf) | Op::Trained(leaf)) = &program[leaf].op else {
        return None;
    };
    let Some(pack) = explained.packs.iter().find(|pack| pack.name == leaf.name) else {
        value.name = leaf.name.to_string();
        value.kind = if is_trained(&leaf.name) {
            Kind::Trained
        } else {
            Kind::Frozen
        };
        return Some(value);
    };
    let shape = program.shape(id);
    let end = [at[0] + shape[0], at[1] + shape[1]];
    let inside = pack.parts.iter().filter(|part| {
        (0..2).all(|axis| part.at[axis] < end[axis] && at[axis] < part.at[axis] + part.shape[axis])
    });
    value.parts = inside.map(|part| part.parameter.to_string()).collect();
    let trained = value.parts.iter().filter(|name| is_trained(name)).count();
    value.kind = match trained {
        0 => Kind::Frozen,
        n if n == value.parts.len() => Kind::Trained,
        _ => Kind::Both,
    };
    let whole = pack
        .parts
        .iter()
        .find(|part| part.at == at && part.shape[..] == *shape);
    value.name = match whole {
        Some(part) => {
            value.parts.clear();
            part.parameter.to_string()
        }
        None => format!("{}[{}:{}, {}:{}]", pack.name, at[0], end[0], at[1], end[1]),
    };
    Some(value)
}

/// What a value is that is computed.
fn kind(program: &Program, id: Id) -> Kind {
    match gemms(program, id) {
        sizes if !sizes.is_empty() => Kind::Gemm(sizes),
        _ => Kind::Other(match &program[id].op {
            Op::Binary(Binary::Add) => "sum",
            Op::Binary(Binary::Mul) => "scaled",
            Op::Concat(_) => "side by side",
            Op::Slice(slice) if slice.axis == 0 => "rows",
            Op::Slice(_) => "columns",
            _ => "rearranged",
        }),
    }
}

/// A node in the notation of the rules.
fn expression(program: &Program, id: Id, name: &dyn Fn(Id) -> String) -> String {
    let node = &program[id];
    let args: Vec<String> = node.args.iter().map(|&arg| name(arg)).collect();
    match (&node.op, &args[..]) {
        (Op::MatMul(MatMul { trans_a, trans_b }), [a, b]) => {
            let oriented =
                |side: &str, transposed| format!("{side}{}", if transposed { "ᵀ" } else { "" });
            format!("{} · {}", oriented(a, *trans_a), oriented(b, *trans_b))
        }
        (Op::Binary(Binary::Add), [a, b]) => format!("{a} + {b}"),
        (Op::Binary(Binary::Mul), [a, b]) => format!("{a} × {b}"),
        (Op::Concat(Concat { axis: 0 }), parts) => format!("[{}]", parts.join("; ")),
        (Op::Concat(_), parts) => format!("[{}]", parts.join(" | ")),
        (Op::Slice(slice), [x]) => {
            let range = format!("{}:{}", slice.start, slice.end);
            match slice.axis {
                0 => format!("{x}[{range}, :]"),
                _ => format!("{x}[:, {range}]"),
            }
        }
        (Op::Merge(merge), [pack]) => match merge.scale.0 {
            1.0 => format!("{pack} with W + B · A for W"),
            scale => format!("{pack} with W + {scale} × B · A for W"),
        },
        (op, args) => format!("{op} {}", args.join(" ")),
    }
}

/// Rows and columns, behind the type of the elements where that is not float32.
pub fn sizes(ty: &Type) -> String {
    let sizes: Vec<String> = ty.shape.iter().map(ToString::to_string).collect();
    let sizes = sizes.join(" × ");
    match ty.dtype {
        DType::F32 => sizes,
        dtype => format!("{dtype} {sizes}"),
    }
}

impl Form {
    /// What it takes, in one line.
    pub fn summary(&self) -> String {
        let Work {
            gemms,
            flops,
            bytes,
        } = self.work;
        format!(
            "{}: {gemms} GEMM{}, {}, {} moved, {} predicted",
            self.title,
            if gemms == 1 { "" } else { "s" },
            scaled(flops as f64, &["FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP"]),
            scaled(bytes as f64, &["B", "kB", "MB", "GB", "TB"]),
            seconds(self.seconds),
        )
    }
}

/// A number in thousands, millions and so on, with three digits.
pub fn scaled(mut number: f64, units: &[&str]) -> String {
    let mut unit = 0;
    while number >= 999.5 && unit + 1 < units.len() {
        number /= 1000.0;
        unit += 1;
    }
    let decimals = match number {
        n if n >= 99.95 || unit == 0 => 0,
        n if n >= 9.995 => 1,
        _ => 2,
    };
    format!("{number:.decimals$} {}", units[unit])
}

/// A time.
pub fn seconds(seconds: f64) -> String {
    scaled(1e9 * seconds, &["ns", "µs", "ms", "s"])
}

impl Value {
    /// Whether it is there before anything runs.
    pub fn is_parameter(&self) -> bool {
        matches!(self.kind, Kind::Frozen | Kind::Trained | Kind::Both)
    }

    /// What stands in its box, line by line.
    pub fn label(&self) -> Vec<String> {
        let mut lines = vec![self.name.clone()];
        // A pack's parameters, two a line.
        lines.extend(self.parts.chunks(2).map(|parts| parts.join(", ")));
        lines.push(match &self.kind {
            Kind::Gemm(sizes) => products(sizes),
            Kind::Other(what) => format!("{what}, {}", sizes(&self.ty)),
            _ => sizes(&self.ty),
        });
        lines
    }
}

/// Matrix products, as they are called in the trade: rows, columns, depth.
pub fn products(all: &[[usize; 3]]) -> String {
    let all = all.iter().map(|[m, n, k]| format!("GEMM {m} × {n} × {k}"));
    all.collect::<Vec<_>>().join(", ")
}
