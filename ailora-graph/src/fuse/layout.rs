//! Places parameters so that their concatenations need no copying.
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

mod uses;

use std::collections::HashMap;

use self::uses::{Use, Uses};
use crate::ir::{DType, Id, Name, Op, Program, Type, ops::merge::Update, shape::pitch};

/// Rows and columns of a pack with adapters are multiples of this, filled up with zeros, for products of
/// whole vectors.
const VECTOR: usize = 8;

/// One matrix in memory that holds several parameters and zeros.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pack {
    /// Its name as a parameter of a fused program.
    pub name: Name,
    /// The type of its elements, and of all its parts'.
    pub dtype: DType,
    /// Rows and columns, of which the last may be zeros.
    pub shape: [usize; 2],
    /// The parameters in it.
    pub parts: Vec<Part>,
    /// Where the weights end: from this row and column on, nothing is read.
    pub corner: [usize; 2],
}

impl Pack {
    /// Its type as a parameter.
    pub fn ty(&self) -> Type {
        Type::new(self.dtype, self.shape)
    }

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

/// What blocks are rectangles of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Matrix {
    /// Whether it is not the pack as it lies, but with its adapters
    /// [merged](crate::ir::ops::merge::Merge), which is computed.
    pub merged: bool,
    /// Which pack.
    pub pack: usize,
}

/// A rectangle of a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Block {
    /// What it is a part of.
    pub of: Matrix,
    /// First row and column.
    pub at: [usize; 2],
    /// Rows and columns.
    pub shape: [usize; 2],
}

impl Block {
    /// The same block of the merged pack.
    pub fn merged(self) -> Self {
        Self {
            of: Matrix {
                merged: true,
                ..self.of
            },
            ..self
        }
    }

    /// The two side by side along `axis`, if they touch there.
    pub fn beside(&self, next: &Self, axis: usize) -> Option<Self> {
        let across = 1 - axis;
        let touches = self.of == next.of
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
struct PackedAdapter {
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
                    &leaf.ty,
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
                layout.push(leaf.name.clone(), &leaf.ty, shape, vec![part]);
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

    fn push(&mut self, name: Name, ty: &Type, corner: [usize; 2], parts: Vec<Part>) {
        for part in &parts {
            self.places
                .insert(part.parameter.clone(), (self.packs.len(), part.at));
        }
        self.packs.push(Pack {
            name,
            dtype: ty.dtype,
            shape: [ty.shape[0], ty.shape[1]],
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
        let merged = false;
        Some(Block {
            of: Matrix { merged, pack },
            at,
            shape,
        })
    }

    /// The pack that a block is of; a merged pack lies as the one that it is made of.
    pub fn pack_of(&self, block: &Block) -> &Pack {
        &self.packs[block.of.pack]
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
        let &Use { trans_b, dtype, .. } = &uses.products[*products.first()?];
        let packable = |product: &&Use| {
            product.trans_b == trans_b
                && product.dtype == dtype
                && is_free(&product.parameter)
                && !self.places.contains_key(&product.parameter)
        };
        let mut weights: Vec<Weight> = Vec::new();
        let mut downs: Vec<(Id, &Use)> = Vec::new();
        for product in products.iter().map(|&i| &uses.products[i]).filter(packable) {
            match uses.scaled_left(region, product.node) {
                Some(hidden) => downs.push((hidden, product)),
                None if weights
                    .iter()
                    .any(|weight| weight.parameter == product.parameter) => {}
                None => weights.push(Weight {
                    parameter: product.parameter.clone(),
                    out: product.out,
                    sums: uses.sums(region, product.node),
                }),
            }
        }
        let ups = uses.products.iter().filter(packable);
        let ups = ups.filter(|up| up.left != left);
        let adapters = adapters(region, uses, &weights, &downs, ups);
        if weights.is_empty() || weights.len() + adapters.len() < 2 {
            return None;
        }
        let inner = region.shape(left)[1];
        let (parts, [row, column], corner) = arranged(&weights, &adapters, inner);
        // Rows are the features that come out, columns those that go in; `orient` swaps both for a
        // weight that lies the other way.
        let orient = |[a, b]: [usize; 2]| if trans_b { [a, b] } else { [b, a] };
        let parts = parts.into_iter().map(|part| Part {
            at: orient(part.at),
            shape: orient(part.shape),
            ..part
        });
        let name = format!("pack:{}", weights.first()?.parameter);
        let mut shape = orient([row, column]);
        if !adapters.is_empty() {
            shape = shape.map(|size| size.next_multiple_of(VECTOR));
            shape[1] = pitch(shape[1]);
        }
        let parts = parts.collect();
        self.push(name.into(), &Type::new(dtype, shape), orient(corner), parts);
        Some(())
    }
}

/// A weight to be packed.
struct Weight {
    parameter: Name,
    /// Features that come out.
    out: usize,
    /// The sums that its product is a term of.
    sums: Vec<Id>,
}

/// The adapters whose products with `ups` are added to those with `weights`, by the hidden values that
/// they go through, which products with `downs` make.
fn adapters<'a>(
    region: &Program,
    uses: &Uses,
    weights: &[Weight],
    downs: &[(Id, &Use)],
    ups: impl Iterator<Item = &'a Use>,
) -> Vec<PackedAdapter> {
    let mut adapters: Vec<PackedAdapter> = Vec::new();
    for up in ups {
        let sums = uses.sums(region, up.node);
        let is_added = |weight: &Weight| {
            weight.out == up.out && weight.sums.iter().any(|sum| sums.contains(sum))
        };
        let Some(target) = weights.iter().position(is_added) else {
            continue;
        };
        let known = adapters
            .iter()
            .position(|adapter| adapter.hidden == up.left);
        let at = known.unwrap_or_else(|| {
            let down = downs.iter().find(|(hidden, _)| *hidden == up.left);
            adapters.push(PackedAdapter {
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
    adapters
}

/// Where weights and adapters lie in a pack of `inner` columns and those of the adapters' `B`: the parts,
/// how many rows and columns they take, and where nothing but zeros is.
fn arranged(
    weights: &[Weight],
    adapters: &[PackedAdapter],
    inner: usize,
) -> (Vec<Part>, [usize; 2], [usize; 2]) {
    let mut parts = Vec::new();
    let mut part = |parameter: &Name, at: [usize; 2], shape: [usize; 2]| {
        parts.push(Part {
            parameter: parameter.clone(),
            at,
            shape,
        });
    };
    // Weights with adapters first: their gradients then lie side by side too.
    let mut order: Vec<usize> = (0..weights.len()).collect();
    let is_adapted = |weight: usize| {
        adapters
            .iter()
            .any(|a| a.ups.iter().any(|(_, t)| *t == weight))
    };
    order.sort_by_key(|&weight| !is_adapted(weight));
    let mut row = 0;
    let mut rows = vec![0; weights.len()];
    for weight in order {
        let Weight { parameter, out, .. } = &weights[weight];
        part(parameter, [row, 0], [*out, inner]);
        rows[weight] = row;
        row += out;
    }
    let corner = [row, inner];
    let mut column = inner;
    for adapter in adapters {
        if let Some(down) = &adapter.down {
            part(down, [row, 0], [adapter.rank, inner]);
            row += adapter.rank;
        }
        for (up, target) in &adapter.ups {
            let shape = [weights[*target].out, adapter.rank];
            part(up, [rows[*target], column], shape);
        }
        column += adapter.rank;
    }
    (parts, [row, column], corner)
}
