//! The rules by which a region is rewritten.
//!
//! Each rule adds expressions to the e-graph and says which they equal; none takes any away. The
//! parameters' layout is their common guard: parameters are joined with each other and with zeros
//! only as they lie in memory, so that a right side costs nothing to make, or one kernel for a whole
//! pack where it is merged. Activations are joined
//! along the layout too, and only where they compute a value that something reads.
//!
//! One long file: the rules are one table, and are read beside each other.

use egg::Id;

use super::{
    equal::{Equal, Member, Product},
    layout::{Block, Matrix},
};
use crate::ir::{
    Op, Real,
    ops::{concat::Concat, elementwise::Binary, matmul::MatMul},
};

/// A law.
pub struct Rule {
    /// Its name.
    pub name: &'static str,
    /// What it says.
    pub law: &'static str,
    /// Adds what follows from it; how much was new.
    pub apply: fn(&mut Equal) -> usize,
}

/// All rules, in the order in which they are applied until none finds anything new.
pub const RULES: &[Rule] = &[
    Rule {
        name: "scale",
        law: "s (a b c) = (s a b) c",
        apply: scale,
    },
    Rule {
        name: "siblings",
        law: "s x b_i = columns i of s x [b_1 | b_2 | ...]",
        apply: siblings,
    },
    Rule {
        name: "gather",
        law: "[h_1 | h_2 | ...], in the order of what multiplies them",
        apply: gather,
    },
    Rule {
        name: "embed",
        law: "columns i of h, times b = h [0; b; 0]",
        apply: embed,
    },
    Rule {
        name: "sum",
        law: "a_1 b_1 + a_2 b_2 + ... = [a_1 | a_2 | ...] [b_1; b_2; ...]",
        apply: sum,
    },
    Rule {
        name: "merge",
        law: "[x | s x a] [w; b] = x (w + s a b)",
        apply: merge,
    },
    Rule {
        name: "collapse",
        law: "[x | columns 1 of h | columns 2 of h] = [x | h]",
        apply: collapse,
    },
    Rule {
        name: "outer",
        law: "(columns i of a)^T b = rows i of a^T b",
        apply: outer,
    },
];

/// The axis of a stored right side along which the product sums.
pub(super) fn inner_axis(op: MatMul) -> usize {
    usize::from(op.trans_b)
}

/// `s (a b c) = (s a b) c`: the factor goes to the small product.
fn scale(equal: &mut Equal) -> usize {
    let products = equal.products();
    let mut new = 0;
    for (product, factor, scaled) in equal.scaled() {
        for outer in products.iter().filter(|outer| outer.result == product) {
            let chained = outer.block.is_some() && products.iter().any(|p| p.result == outer.left);
            if chained {
                let factor = equal.add(Op::Const(factor), &[]);
                let left = equal.add(Binary::Mul, &[outer.left, factor]);
                let moved = equal.add(outer.op, &[left, outer.right]);
                new += usize::from(equal.union(scaled, moved));
            }
        }
    }
    new
}

/// What siblings have in common: the product, its left side, its factor, and whether other products
/// multiply it.
type Family = (MatMul, Id, Option<Real>, bool);

/// One of several products of one left side.
struct Sibling {
    result: Id,
    right: Id,
    block: Block,
}

/// `s x b_i = columns i of s x [b_1 | b_2 | ...]`, for right sides that lie beside each other.
fn siblings(equal: &mut Equal) -> usize {
    let products = equal.products();
    let scaled = equal.scaled();
    // Thin products that others multiply stay apart from the wide ones that are read.
    let is_left = |id: Id| products.iter().any(|p| p.left == id && p.block.is_some());
    let mut groups: Vec<(Family, Vec<Sibling>)> = Vec::new();
    for product in &products {
        let Some(block) = product.block.filter(|_| !product.op.trans_a) else {
            continue;
        };
        // What is only scaled is read scaled.
        let results: Vec<(Option<Real>, Id)> = scaled
            .iter()
            .filter(|(x, ..)| *x == product.result)
            .map(|&(_, factor, result)| (Some(factor), result))
            .collect();
        let results = if results.is_empty() {
            vec![(None, product.result)]
        } else {
            results
        };
        for (factor, result) in results {
            let sibling = Sibling {
                result,
                right: product.right,
                block,
            };
            let key = (product.op, product.left, factor, is_left(result));
            match groups.iter_mut().find(|(known, _)| *known == key) {
                Some((_, members)) => members.push(sibling),
                None => groups.push((key, vec![sibling])),
            }
        }
    }
    let mut new = 0;
    for ((op, left, factor, _), mut members) in groups {
        let across = inner_axis(op);
        let along = 1 - across;
        // Narrow before wide, so that what was joined before is seen to hold others.
        members.sort_by_key(|m| (m.block.of, m.block.at, m.block.shape));
        let contains = |a: &Block, b: &Block| {
            a.of == b.of
                && a.shape != b.shape
                && (0..2)
                    .all(|i| a.at[i] <= b.at[i] && b.at[i] + b.shape[i] <= a.at[i] + a.shape[i])
        };
        let blocks: Vec<Block> = members.iter().map(|m| m.block).collect();
        members.retain(|m| !blocks.iter().any(|other| contains(&m.block, other)));
        members.sort_by_key(|m| {
            let Block { of, at, shape } = m.block;
            (of, at[across], shape[across], at[along])
        });
        members.dedup_by_key(|m| m.block);
        let mut at = 0;
        while at < members.len() {
            let mut end = at + 1;
            while end < members.len()
                && members[end - 1]
                    .block
                    .beside(&members[end].block, along)
                    .is_some()
            {
                end += 1;
            }
            if end - at > 1 {
                new += join_siblings(equal, op, left, factor, &members[at..end]);
            }
            at = end;
        }
    }
    new
}

fn join_siblings(
    equal: &mut Equal,
    op: MatMul,
    left: Id,
    factor: Option<Real>,
    members: &[Sibling],
) -> usize {
    let along = 1 - inner_axis(op);
    let rights: Vec<Id> = members.iter().map(|m| m.right).collect();
    let right = equal.add(Concat { axis: along }, &rights);
    let mut whole = equal.add(op, &[left, right]);
    if let Some(factor) = factor {
        let factor = equal.add(Op::Const(factor), &[]);
        whole = equal.add(Binary::Mul, &[whole, factor]);
    }
    let mut start = 0;
    let mut new = 0;
    for member in members {
        let end = start + member.block.shape[along];
        let part = equal.slice(whole, 1, start, end);
        new += usize::from(equal.union(member.result, part));
        start = end;
    }
    new
}

/// A left side, with the first row and the rows that its right sides have in a pack.
type Link = (usize, usize, Id);

/// `[h_1 | h_2 | ...]`: the left sides of products with one pack, in the order of their right sides.
fn gather(equal: &mut Equal) -> usize {
    let before = equal.graph.total_size();
    let products = equal.products();
    let scaled = equal.scaled();
    // Left sides of thin products that others multiply: what has an adapter.
    let is_left = |id: Id| products.iter().any(|p| p.left == id && p.block.is_some());
    let feeds = |left: Id| {
        products.iter().any(|p| {
            let results = scaled.iter().filter(|(x, ..)| *x == p.result).map(|s| s.2);
            p.left == left && results.chain([p.result]).any(is_left)
        })
    };
    let mut chains: Vec<((Matrix, MatMul), Vec<Link>)> = Vec::new();
    for product in &products {
        let Some(block) = product.block.filter(|_| !product.op.trans_a) else {
            continue;
        };
        let axis = inner_axis(product.op);
        let link = (block.at[axis], block.shape[axis], product.left);
        let key = (block.of, product.op);
        match chains.iter_mut().find(|(known, _)| *known == key) {
            Some((_, links)) if links.contains(&link) => {}
            Some((_, links)) => links.push(link),
            None => chains.push((key, vec![link])),
        }
    }
    for (_, mut links) in chains {
        // Narrow before wide: what was joined already covers others.
        links.sort_unstable();
        let ambiguous = |a: &Link, b: &Link| a != b && a.0 < b.0 + b.1 && b.0 < a.0 + a.1;
        let narrow: Vec<Link> = links
            .iter()
            .copied()
            .filter(|a| !links.iter().any(|b| ambiguous(a, b) && a.1 > b.1))
            .collect();
        let is_leaf = |id: Id| {
            equal.graph[id]
                .iter()
                .any(|node| matches!(node.op, Op::Input(_)))
        };
        let mut runs: Vec<Vec<Link>> = Vec::new();
        for link in narrow.iter().copied() {
            if narrow.iter().any(|other| ambiguous(&link, other)) {
                continue;
            }
            match runs.last_mut() {
                Some(run)
                    if run.last().is_some_and(|last| {
                        last.0 + last.1 == link.0 && is_leaf(last.2) == is_leaf(link.2)
                    }) =>
                {
                    run.push(link);
                }
                _ => runs.push(vec![link]),
            }
        }
        // What adapters read, and what gradients are formed of, also by themselves.
        let in_outer = |id: Id| products.iter().any(|p| p.op.trans_a && p.right == id);
        let role = |link: &Link| (feeds(link.2), in_outer(link.2));
        let adapted: Vec<Vec<Link>> = runs
            .iter()
            .flat_map(|run| run.chunk_by(|a, b| role(a) == role(b)))
            .map(<[_]>::to_vec)
            .collect();
        // The shorter first: the longer ones then hold them.
        for run in adapted.into_iter().chain(runs).filter(|run| run.len() > 1) {
            let parts: Vec<Id> = run.into_iter().map(|(_, _, id)| id).collect();
            let rows = equal.shape(parts[0])[0];
            if parts.iter().all(|&part| equal.shape(part)[0] == rows) {
                equal.concat(&parts);
            }
        }
    }
    equal.graph.total_size() - before
}

/// `columns i of h, times b = h [0; b; 0]`, where the zeros are there in memory.
fn embed(equal: &mut Equal) -> usize {
    let members = equal.members();
    let mut new = 0;
    for product in equal.products() {
        if product.block.is_none() || product.op.trans_a {
            continue;
        }
        for member in members.iter().filter(|m| m.part == product.left) {
            if equal.reaches(member.whole, product.result) {
                continue;
            }
            let width = equal.shape(member.whole)[1];
            let after = width - member.start - member.width;
            let axis = inner_axis(product.op);
            if let Some(right) = equal.pad(product.right, axis, member.start, after) {
                let whole = equal.add(product.op, &[member.whole, right]);
                new += usize::from(equal.union(product.result, whole));
            }
        }
    }
    new
}

/// `a_1 b_1 + a_2 b_2 + ... = [a_1 | a_2 | ...] [b_1; b_2; ...]`, for right sides that lie below
/// each other.
fn sum(equal: &mut Equal) -> usize {
    let nodes = equal.nodes();
    let is_sum = |op: &Op| *op == Op::Binary(Binary::Add);
    let find = |id: &Id| equal.graph.find(*id);
    let inner: Vec<Id> = nodes
        .iter()
        .filter(|(_, node)| is_sum(&node.op))
        .flat_map(|(_, node)| node.args.iter().map(find).collect::<Vec<_>>())
        .collect();
    let roots: Vec<Id> = nodes
        .iter()
        .filter(|(id, node)| is_sum(&node.op) && !inner.contains(id))
        .map(|(id, _)| *id)
        .collect();
    let products = equal.products();
    let mut new = 0;
    for root in roots {
        let terms = terms(equal, root);
        // As they stand, and each over the widest left side that holds it.
        for widest in [false, true] {
            let mut joinable: Vec<Product> = Vec::new();
            let mut others: Vec<Id> = Vec::new();
            for &term in &terms {
                let alternatives = products
                    .iter()
                    .filter(|p| p.result == term && p.block.is_some() && !p.op.trans_a);
                let width = |p: &&Product| equal.shape(p.left)[1];
                let chosen = if widest {
                    alternatives.max_by_key(width)
                } else {
                    alternatives.min_by_key(width)
                };
                match chosen {
                    Some(product) => joinable.push(*product),
                    None => others.push(term),
                }
            }
            new += join_terms(equal, root, joinable, others);
        }
    }
    new
}

/// What a sum adds up.
fn terms(equal: &Equal, root: Id) -> Vec<Id> {
    let mut terms = Vec::new();
    let mut stack = vec![root];
    while let Some(id) = stack.pop() {
        let sum = equal.graph[id]
            .iter()
            .find(|node| node.op == Op::Binary(Binary::Add));
        match sum {
            Some(node) => stack.extend(node.args.iter().rev().map(|&arg| equal.graph.find(arg))),
            None => terms.push(id),
        }
    }
    terms
}

fn join_terms(equal: &mut Equal, root: Id, mut products: Vec<Product>, others: Vec<Id>) -> usize {
    let key = |p: &Product| {
        let axis = inner_axis(p.op);
        p.block
            .map(|block| (p.op, block.of, block.at[1 - axis], block.at[axis]))
    };
    products.sort_by_key(key);
    let mut runs: Vec<(Vec<Product>, Option<Block>)> = Vec::new();
    for product in products {
        let axis = inner_axis(product.op);
        let joined = runs.last().and_then(|(run, block)| {
            let fits = run.first().is_some_and(|first| first.op == product.op);
            let whole = (*block)?.beside(&product.block?, axis)?;
            fits.then_some(whole)
        });
        match (joined, runs.last_mut()) {
            (Some(whole), Some((run, block))) => {
                run.push(product);
                *block = Some(whole);
            }
            _ => runs.push((vec![product], product.block)),
        }
    }
    if runs.iter().all(|(run, _)| run.len() < 2) {
        return 0;
    }
    let mut terms = others;
    for (run, _) in runs {
        let [first, ..] = run[..] else { continue };
        if run.len() == 1 {
            terms.push(first.result);
            continue;
        }
        let lefts: Vec<Id> = run.iter().map(|p| p.left).collect();
        let rights: Vec<Id> = run.iter().map(|p| p.right).collect();
        let left = equal.concat(&lefts);
        let axis = inner_axis(first.op);
        let right = equal.add(Concat { axis }, &rights);
        terms.push(equal.add(first.op, &[left, right]));
    }
    let first = terms[0];
    let total = terms[1..]
        .iter()
        .fold(first, |sum, &term| equal.add(Binary::Add, &[sum, term]));
    usize::from(equal.union(root, total))
}

/// `[x | s x a] [w; b] = x (w + s a b)`, beside which `s x a` can be computed. It pays where there
/// are many rows, beside which adding the adapters to the weights is little.
fn merge(equal: &mut Equal) -> usize {
    if !equal.merges {
        return 0;
    }
    let products = equal.products();
    let scaled = equal.scaled();
    let mut new = 0;
    for product in &products {
        let Some(block) = product.block.filter(|_| !product.op.trans_a) else {
            continue;
        };
        let (inner, layout) = (inner_axis(product.op), &equal.graph.analysis.0);
        let outer = 1 - inner;
        let pack = layout.pack_of(&block);
        let (whole, corner) = (pack.end(), pack.corner);
        let end = block.at[outer] + block.shape[outer];
        let spans = block.shape[inner] == whole[inner] && end <= corner[outer];
        if block.of.merged || !spans || corner[inner] == whole[inner] {
            continue;
        }
        // The adapters that make the second part of the left side.
        let mut down = Block {
            of: block.of,
            at: [0, 0],
            shape: corner,
        };
        down.at[outer] = corner[outer];
        down.shape[outer] = whole[outer] - corner[outer];
        let lefts: Vec<[Id; 2]> = equal.graph[product.left]
            .iter()
            .filter(|node| matches!(node.op, Op::Concat(_)))
            .filter_map(|node| <[Id; 2]>::try_from(&node.args[..]).ok())
            .map(|parts| parts.map(|part| equal.graph.find(part)))
            .collect();
        for [x, h] in lefts {
            let is_down = |p: &&Product| p.op == product.op && p.left == x && p.block == Some(down);
            let scale = products.iter().filter(is_down).find_map(|p| {
                let scale = scaled
                    .iter()
                    .find(|(y, _, own)| *y == p.result && *own == h);
                let plain = (p.result == h).then_some(Real(1.0));
                scale.map(|(_, scale, _)| *scale).or(plain)
            });
            let Some(merged) = scale.and_then(|scale| equal.merge(block.of.pack, scale)) else {
                continue;
            };
            let mut part = block.shape;
            part[inner] = corner[inner];
            let right = equal.part(merged, block.at, part);
            let alone = equal.add(product.op, &[x, right]);
            new += usize::from(equal.union(product.result, alone));
            if end == corner[outer] {
                part[outer] = whole[outer] - block.at[outer];
                let right = equal.part(merged, block.at, part);
                let both = equal.add(product.op, &[x, right]);
                let columns = [0, block.shape[outer], part[outer]];
                for (i, known) in [product.result, h].into_iter().enumerate() {
                    let own = equal.slice(both, 1, columns[i], columns[i + 1]);
                    new += usize::from(equal.union(known, own));
                }
            }
        }
    }
    new
}

/// `[x | columns 1 of h | columns 2 of h] = [x | h]`, where `h` is computed as one; and what is
/// computed as one in two ways is equal.
fn collapse(equal: &mut Equal) -> usize {
    let mut new = 0;
    for (id, node) in equal.nodes() {
        let is_concat = node.op == Op::Concat(Concat { axis: 1 });
        if !is_concat || equal.block(id).is_some() {
            continue;
        }
        let whole = equal.concat_apart_from(&node.args, Some(id));
        // A whole by itself would be made of its own columns.
        if !equal.is_computed(whole) {
            new += usize::from(equal.union(id, whole));
        }
        let parts: Vec<Id> = node.args.iter().map(|&arg| equal.graph.find(arg)).collect();
        let computed: Vec<Id> = equal
            .wholes(&parts)
            .into_iter()
            .filter(|&w| equal.is_computed(w))
            .collect();
        for pair in computed.windows(2) {
            new += usize::from(equal.union(pair[0], pair[1]));
        }
    }
    new
}

/// `(columns i of a)^T b = rows i of a^T b`, and the same on the right.
fn outer(equal: &mut Equal) -> usize {
    let members = equal.members();
    let products: Vec<Product> = equal
        .products()
        .into_iter()
        .filter(|p| p.op.trans_a && !p.op.trans_b)
        .collect();
    let mut new = 0;
    for product in &products {
        for is_left in [true, false] {
            let side = |p: &Product| {
                if is_left {
                    [p.left, p.right]
                } else {
                    [p.right, p.left]
                }
            };
            let [own, other] = side(product);
            let of_product = |m: &&Member| m.part == own && m.start == 0;
            for first in members.iter().filter(of_product) {
                // The run of columns from the first on whose products with the other side exist.
                let mut run: Vec<(Member, Product)> = vec![(*first, *product)];
                let mut end = first.width;
                while let Some(next) = members.iter().find_map(|m| {
                    let follows = m.whole == first.whole && m.start == end;
                    let with = products.iter().find(|p| side(p) == [m.part, other])?;
                    follows.then_some((*m, *with))
                }) {
                    end += next.0.width;
                    run.push(next);
                }
                if run.len() < 2 || equal.reaches(first.whole, product.result) {
                    continue;
                }
                let whole = equal.slice(first.whole, 1, 0, end);
                let args = if is_left {
                    [whole, other]
                } else {
                    [other, whole]
                };
                let all = equal.add(product.op, &args);
                for (member, product) in run {
                    let axis = usize::from(!is_left);
                    let part = equal.slice(all, axis, member.start, member.start + member.width);
                    new += usize::from(equal.union(product.result, part));
                }
            }
        }
    }
    new
}
