//! Which products of a region read which parameters, and what is made of them.

use crate::ir::{
    DType, Id, Name, Op, Program,
    ops::{elementwise::Binary, matmul::MatMul},
};

/// A use of a parameter: a product that has it on its right.
pub(super) struct Use {
    pub node: Id,
    pub parameter: Name,
    pub dtype: DType,
    pub trained: bool,
    pub trans_b: bool,
    /// Columns of the result.
    pub out: usize,
    pub left: Id,
}

/// Who multiplies and sums what in a region.
pub(super) struct Uses {
    pub products: Vec<Use>,
    pub by_left: Vec<(Id, Vec<usize>)>,
    readers: Vec<Vec<Id>>,
}

impl Uses {
    pub fn of(region: &Program) -> Self {
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
            uses.products.push(Use {
                node: id,
                parameter: leaf.name.clone(),
                dtype: leaf.ty.dtype,
                trained: matches!(region[node.args[1]].op, Op::Trained(_)),
                trans_b,
                out: region.shape(id)[1],
                left,
            });
        }
        uses
    }

    fn products_of(&self, left: Id) -> impl Iterator<Item = &Use> {
        self.products
            .iter()
            .filter(move |product| product.left == left)
    }

    /// What a product, perhaps scaled, is on the left of other products.
    pub fn scaled_left(&self, region: &Program, product: Id) -> Option<Id> {
        let scaled = self.readers[usize::from(product)]
            .iter()
            .copied()
            .filter(|&id| matches!(region[id].op, Op::Binary(Binary::Mul)));
        std::iter::once(product)
            .chain(scaled)
            .find(|&id| self.products_of(id).next().is_some())
    }

    /// The sums that a node ends in.
    pub fn sums(&self, region: &Program, mut id: Id) -> Vec<Id> {
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
