//! Where parameters lie so that their concatenations are there already.
//!
//! The weights that multiply one input are stacked, the adapters' `A` below them and their `B`
//! beside the weight that each one adapts; what is left over is zero, and stays so:
//!
//! ```text
//!          x     h_q  h_v
//!        ┌─────┬────┬────┐
//!     q  │ W_q │ B_q│  0 │
//!     v  │ W_v │  0 │ B_v│     forward:  h = x Aᵀ, then  [q|v|k] = [x|h] [W|B]ᵀ
//!     k  │ W_k │  0 │  0 │     backward: dh = dy B, then dx = [dy|dh] [W;A]
//!        ├─────┼────┴────┤
//!    h_q │ A_q │         │
//!    h_v │ A_v │ (unread)│
//!        └─────┴─────────┘
//! ```

use std::collections::HashMap;

use crate::ir::{
    Id, Name, Op, Program,
    ops::{elementwise::Binary, matmul::MatMul, merge::Update},
    shape::pitch,
};

/// Rows and columns of a pack with adapters are multiples of this, filled up with zeros, for products of
/// whole vectors.
const VECTOR: usize = 8;

/// A parameter's place in a pack.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The pack's name.
    pub pack: Name,
    /// Its first row there.
    pub row: usize,
    /// Its first column there.
    pub column: usize,
}

/// One matrix in memory that holds several parameters and zeros.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pack {
    /// Its name as a parameter of a fused program.
    pub name: Name,
    /// Rows and columns, of which the last may be zeros.
    pub shape: [usize; 2],
    /// The parameters in it.
    pub parts: Vec<Part>,
    /// Where the weights end: from this row and column on, nothing is read.
    pub corner: [usize; 2],
}

impl Pack {
    /// Behind the last row and column of its parts.
    pub fn end(&self) -> [usize; 2] {
        [0, 1].map(|axis| {
            let parts = self.parts.iter();
            let ends = parts.map(|part| part.at[axis] + part.shape[axis]);
            ends.max().unwrap_or_default()
        })
    }

    /// Its adapters: each part beside the weights with what is below them for the same `h`.
    pub fn updates(&self) -> Vec<Update> {
        let along = |axis: usize| {
            let parts = self.parts.iter();
            parts.filter(move |part| part.at[axis] >= self.corner[axis])
        };
        let pairs = along(1).flat_map(|up| along(0).map(move |down| (up, down)));
        let updates = pairs.map(|(up, down)| {
            let starts = [up.at[1] - self.corner[1], down.at[0] - self.corner[0]];
            let ends = [starts[0] + up.shape[1], starts[1] + down.shape[0]];
            let inner = starts[0].max(starts[1]);
            Update {
                at: [up.at[0], down.at[1]],
                shape: [up.shape[0], down.shape[1]],
                inner,
                rank: ends[0].min(ends[1]).saturating_sub(inner),
            }
        });
        updates.filter(|update| update.rank > 0).collect()
    }
}

/// A parameter in a pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The parameter.
    pub parameter: Name,
    /// Its first row and column.
    pub at: [usize; 2],
    /// Its rows and columns.
    pub shape: [usize; 2],
}

/// A rectangle of a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Block {
    /// Which pack.
    pub pack: usize,
    /// First row and column.
    pub at: [usize; 2],
    /// Rows and columns.
    pub shape: [usize; 2],
}

impl Block {
    /// The two side by side along `axis`, if they touch there.
    pub fn beside(&self, next: &Self, axis: usize) -> Option<Self> {
        let across = 1 - axis;
        let touches = self.pack == next.pack
            && self.at[across] == next.at[across]
            && self.shape[across] == next.shape[across]
            && self.at[axis] + self.shape[axis] == next.at[axis];
        touches.then(|| {
            let mut whole = *self;
            whole.shape[axis] += next.shape[axis];
            whole
        })
    }
}

/// The packs of a region.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    /// The packs; each parameter in none has one of its own.
    pub packs: Vec<Pack>,
    places: HashMap<Name, (usize, [usize; 2])>,
}

/// What is added along the pack's inner axis: an adapter.
struct Adapter {
    /// The left side of the up projections.
    hidden: Id,
    /// The down projection, if it multiplies the weights' own input.
    down: Option<Name>,
    /// Whether it learns.
    trained: bool,
    rank: usize,
    /// The up projections, and which weight each is added to.
    ups: Vec<(Name, usize)>,
}

impl Layout {
    /// The layout of a region's parameters, of which `is_free` says whether their place can be
    /// chosen.
    pub fn of(region: &Program, is_free: impl Fn(&str) -> bool) -> Self {
        let mut layout = Self::default();
        let uses = Uses::of(region);
        // What multiplies most comes first: the input of several projections, not their gradients.
        let mut lefts: Vec<&(Id, Vec<usize>)> = uses.by_left.iter().collect();
        lefts.sort_by_key(|(_, products)| std::cmp::Reverse(products.len()));
        for (left, products) in lefts {
            layout.pack(region, &uses, *left, products, &is_free);
        }
        for leaf in region
            .frozen_parameters()
            .chain(region.trained_parameters())
        {
            if !layout.places.contains_key(&leaf.name) {
                let [rows, columns] = [leaf.ty.shape[0], leaf.ty.shape[1]];
                layout.push(
                    leaf.name.clone(),
                    [rows, columns],
                    [rows, columns],
                    vec![Part {
                        parameter: leaf.name.clone(),
                        at: [0, 0],
                        shape: [rows, columns],
                    }],
                );
            }
        }
        layout
    }

    /// The layout in which parameters lie already: each where `place` says, or by itself.
    pub fn given(region: &Program, packs: &HashMap<Name, (Pack, [usize; 2])>) -> Self {
        let mut layout = Self::default();
        for leaf in region
            .frozen_parameters()
            .chain(region.trained_parameters())
        {
            let shape = [leaf.ty.shape[0], leaf.ty.shape[1]];
            let Some((pack, at)) = packs.get(&leaf.name) else {
                let part = Part {
                    parameter: leaf.name.clone(),
                    at: [0, 0],
                    shape,
                };
                layout.push(leaf.name.clone(), shape, shape, vec![part]);
                continue;
            };
            let known = layout
                .packs
                .iter()
                .position(|known| known.name == pack.name);
            let index = known.unwrap_or_else(|| {
                layout.packs.push(pack.clone());
                layout.packs.len() - 1
            });
            layout.places.insert(leaf.name.clone(), (index, *at));
        }
        layout
    }

    fn push(&mut self, name: Name, shape: [usize; 2], corner: [usize; 2], parts: Vec<Part>) {
        for part in &parts {
            self.places
                .insert(part.parameter.clone(), (self.packs.len(), part.at));
        }
        self.packs.push(Pack {
            name,
            shape,
            parts,
            corner,
        });
    }

    /// Where a parameter lies, or a pack by its own name.
    pub fn block(&self, name: &str, shape: [usize; 2]) -> Option<Block> {
        let place = self.places.get(name).copied();
        let whole = || {
            Some((
                self.packs.iter().position(|pack| *pack.name == *name)?,
                [0, 0],
            ))
        };
        let (pack, at) = place.or_else(whole)?;
        Some(Block { pack, at, shape })
    }

    /// The pack that a block is of; a merged pack lies as the one that it is made of.
    pub fn pack_of(&self, block: &Block) -> &Pack {
        &self.packs[block.pack % self.packs.len()]
    }

    /// Whether a block is of a [merged](crate::ir::ops::merge::Merge) pack, which is computed. These
    /// are numbered behind the others.
    pub fn is_merged(&self, block: &Block) -> bool {
        block.pack >= self.packs.len()
    }

    /// The same block of the merged pack.
    pub fn merged(&self, block: &Block) -> Block {
        Block {
            pack: block.pack % self.packs.len() + self.packs.len(),
            ..*block
        }
    }

    /// The block with `before` and `after` more along `axis`, if only zeros are there.
    pub fn padded(&self, block: &Block, axis: usize, [before, after]: [usize; 2]) -> Option<Block> {
        let pack = self.pack_of(block);
        let mut whole = *block;
        whole.at[axis] = whole.at[axis].checked_sub(before)?;
        whole.shape[axis] += before + after;
        let inside = whole.at[axis] + whole.shape[axis] <= pack.shape[axis];
        let overlaps = |a: [usize; 2], a_shape: [usize; 2], b: [usize; 2], b_shape: [usize; 2]| {
            (0..2).all(|i| a[i] < b[i] + b_shape[i] && b[i] < a[i] + a_shape[i])
        };
        let mut zeros = [(whole, before), (whole, after)];
        zeros[0].0.shape[axis] = before;
        zeros[1].0.at[axis] = block.at[axis] + block.shape[axis];
        zeros[1].0.shape[axis] = after;
        let is_zero = zeros.iter().filter(|(_, size)| *size > 0).all(|(zero, _)| {
            // Beside `A`, and below `B`, nothing is of use: `h` is not made of itself.
            let corner = pack.corner;
            !overlaps(zero.at, zero.shape, corner, [usize::MAX / 2; 2])
                && pack
                    .parts
                    .iter()
                    .all(|part| !overlaps(zero.at, zero.shape, part.at, part.shape))
        });
        (inside && is_zero).then_some(whole)
    }

    /// Packs what multiplies `left`, if that is several parameters.
    fn pack(
        &mut self,
        region: &Program,
        uses: &Uses,
        left: Id,
        products: &[usize],
        is_free: &impl Fn(&str) -> bool,
    ) -> Option<()> {
        if !matches!(region[left].op, Op::Input(_)) {
            return None;
        }
        let trans_b = uses.products[*products.first()?].trans_b;
        let packable = |product: &&Product| {
            product.trans_b == trans_b
                && is_free(&product.parameter)
                && !self.places.contains_key(&product.parameter)
        };
        let mut weights: Vec<(Name, usize, Vec<Id>)> = Vec::new();
        let mut downs: Vec<(Id, &Product)> = Vec::new();
        for product in products.iter().map(|&i| &uses.products[i]).filter(packable) {
            match uses.scaled_left(region, product.node) {
                Some(hidden) => downs.push((hidden, product)),
                None if weights.iter().any(|(name, ..)| *name == product.parameter) => {}
                None => {
                    let sums = uses.sums(region, product.node);
                    weights.push((product.parameter.clone(), product.out, sums));
                }
            }
        }
        let mut adapters: Vec<Adapter> = Vec::new();
        for up in uses
            .products
            .iter()
            .filter(packable)
            .filter(|up| up.left != left)
        {
            let sums = uses.sums(region, up.node);
            let is_added = |(_, out, own): &(Name, usize, Vec<Id>)| {
                *out == up.out && own.iter().any(|sum| sums.contains(sum))
            };
            let Some(target) = weights.iter().position(is_added) else {
                continue;
            };
            let known = adapters
                .iter()
                .position(|adapter| adapter.hidden == up.left);
            let at = known.unwrap_or_else(|| {
                let down = downs.iter().find(|(hidden, _)| *hidden == up.left);
                adapters.push(Adapter {
                    hidden: up.left,
                    down: down.map(|(_, down)| down.parameter.clone()),
                    trained: up.trained,
                    rank: region.shape(up.left)[1],
                    ups: Vec::new(),
                });
                adapters.len() - 1
            });
            adapters[at].ups.push((up.parameter.clone(), target));
        }
        // Gradients of what learns lie side by side.
        adapters.sort_by_key(|adapter| !adapter.trained);
        // Weights with adapters first: their gradients then lie side by side too.
        let mut order: Vec<usize> = (0..weights.len()).collect();
        let is_adapted = |weight: usize| {
            adapters
                .iter()
                .any(|a| a.ups.iter().any(|(_, t)| *t == weight))
        };
        order.sort_by_key(|&weight| !is_adapted(weight));
        if weights.is_empty() || weights.len() + adapters.len() < 2 {
            return None;
        }
        let inner = region.shape(left)[1];
        // Rows are the features that come out, columns those that go in; `orient` turns both for a
        // weight that lies the other way.
        let orient = |[a, b]: [usize; 2]| if trans_b { [a, b] } else { [b, a] };
        let mut parts = Vec::new();
        let mut part = |parameter: &Name, at: [usize; 2], shape: [usize; 2]| {
            parts.push(Part {
                parameter: parameter.clone(),
                at: orient(at),
                shape: orient(shape),
            });
        };
        let mut row = 0;
        let mut rows = vec![0; weights.len()];
        for weight in order {
            let (name, out, _) = &weights[weight];
            part(name, [row, 0], [*out, inner]);
            rows[weight] = row;
            row += out;
        }
        let corner = orient([row, inner]);
        let mut column = inner;
        for adapter in &adapters {
            if let Some(down) = &adapter.down {
                part(down, [row, 0], [adapter.rank, inner]);
                row += adapter.rank;
            }
            for (up, target) in &adapter.ups {
                part(
                    up,
                    [rows[*target], column],
                    [weights[*target].1, adapter.rank],
                );
            }
            column += adapter.rank;
        }
        let name = format!("pack:{}", weights.first()?.0);
        let mut shape = orient([row, column]);
        if !adapters.is_empty() {
            shape = shape.map(|size| size.next_multiple_of(VECTOR));
            shape[1] = pitch(shape[1]);
        }
        self.push(name.into(), shape, corner, parts);
        Some(())
    }
}

/// A product with a parameter on its right.
struct Product {
    node: Id,
    parameter: Name,
    trained: bool,
    trans_b: bool,
    /// Columns of the result.
    out: usize,
    left: Id,
}

/// Who multiplies and sums what in a region.
struct Uses {
    products: Vec<Product>,
    by_left: Vec<(Id, Vec<usize>)>,
    readers: Vec<Vec<Id>>,
}

impl Uses {
    fn of(region: &Program) -> Self {
        let mut uses = Self {
            products: Vec::new(),
            by_left: Vec::new(),
            readers: vec![Vec::new(); region.len()],
        };
        for id in region.ids() {
            let node = &region[id];
            for &arg in &node.args {
                uses.readers[usize::from(arg)].push(id);
            }
            let Op::MatMul(MatMul { trans_b, .. }) = node.op else {
                continue;
            };
            let (Op::Frozen(leaf) | Op::Trained(leaf)) = &region[node.args[1]].op else {
                continue;
            };
            let left = node.args[0];
            match uses.by_left.iter_mut().find(|(known, _)| *known == left) {
                Some((_, products)) => products.push(uses.products.len()),
                None => uses.by_left.push((left, vec![uses.products.len()])),
            }
            uses.products.push(Product {
                node: id,
                parameter: leaf.name.clone(),
                trained: matches!(region[node.args[1]].op, Op::Trained(_)),
                trans_b,
                out: region.shape(id)[1],
                left,
            });
        }
        uses
    }

    fn products_of(&self, left: Id) -> impl Iterator<Item = &Product> {
        self.products
            .iter()
            .filter(move |product| product.left == left)
    }

    /// What a product, perhaps scaled, is on the left of other products.
    fn scaled_left(&self, region: &Program, product: Id) -> Option<Id> {
        let scaled = self.readers[usize::from(product)]
            .iter()
            .copied()
            .filter(|&id| matches!(region[id].op, Op::Binary(Binary::Mul)));
        std::iter::once(product)
            .chain(scaled)
            .find(|&id| self.products_of(id).next().is_some())
    }

    /// The sums that a node ends in.
    fn sums(&self, region: &Program, mut id: Id) -> Vec<Id> {
        let mut sums = vec![id];
        while let Some(&sum) = self.readers[usize::from(id)]
            .iter()
            .find(|&&reader| matches!(region[reader].op, Op::Binary(Binary::Add)))
        {
            sums.push(sum);
            id = sum;
        }
        sums
    }
}
