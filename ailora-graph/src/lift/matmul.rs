use luminal::{op, prelude::NodeIndex};

use super::{LiftError, Lifter, Sources, view::View};
use crate::ir::{Id, Program, ProgramError};

impl Lifter<'_> {
    /// The matrix product that a sum over one axis of a product is, if it is one.
    ///
    /// Each axis of the product is stored by one factor or both: by the left alone it counts rows,
    /// by the right alone columns, by both it is a batch axis, or the summed one.
    pub(super) fn matmul(
        &mut self,
        node: NodeIndex,
        axis: usize,
        sources: &Sources,
    ) -> Result<Option<Id>, LiftError> {
        let Some(&(product, _)) = sources.first() else {
            return Ok(None);
        };
        let seen = self.input_view(node, sources, 0)?;
        if !self.operator(product).is::<op::Mul>() || seen.is_permuted() || !seen.is_exact() {
            return Ok(None);
        }
        let factors = self.sources(product);
        let a = self.input_view(product, &factors, 0)?;
        let b = self.input_view(product, &factors, 1)?;
        let rank = a.shape().len();
        // A reshape between the product and the sum would make `axis` an axis of another shape.
        if a.shape() != seen.shape()
            || a.shape() != b.shape()
            || axis >= rank
            || !a.is_exact()
            || !b.is_exact()
            || a.is_fake(axis)
            || b.is_fake(axis)
        {
            return Ok(None);
        }
        let mut batch = Vec::new();
        let mut rows = Vec::new();
        let mut columns = Vec::new();
        for i in (0..rank).filter(|&i| i != axis) {
            match (a.is_fake(i), b.is_fake(i)) {
                (false, false) => batch.push(i),
                (false, true) => rows.push(i),
                (true, false) => columns.push(i),
                (true, true) if a.shape()[i] == 1 => {}
                (true, true) => return Ok(None),
            }
        }
        // Dot products of rows with their own partners are no matrix product.
        if rows.is_empty() && columns.is_empty() {
            return Ok(None);
        }
        let logical = a.shape().to_vec();
        let mut result = logical.clone();
        result.remove(axis);
        let product = self.added(node, |p| {
            let (left, trans_left) = operand(p, &a, &batch, &rows, axis)?;
            let (right, trans_right) = operand(p, &b, &batch, &columns, axis)?;
            // `operand` says whether the summed axis comes first, which is what transposes the
            // left side and does not transpose the right one.
            let product = p.matmul(left, trans_left, right, !trans_right)?;
            let axes: Vec<usize> = [&batch[..], &rows, &columns].concat();
            let sizes: Vec<usize> = axes.iter().map(|&i| logical[i]).collect();
            let unfolded = p.reshape(product, &sizes)?;
            let mut sorted = axes.clone();
            sorted.sort_unstable();
            let place = |i: &usize| axes.iter().position(|a| a == i).unwrap_or(0);
            let ordered = p.permute(unfolded, &sorted.iter().map(place).collect::<Vec<_>>())?;
            p.reshape(ordered, &result)
        })?;
        Ok(Some(product))
    }
}

/// One factor as a matrix or a stack of them, and whether the summed axis comes before the kept
/// ones in it. The buffer is used as it lies wherever its order allows, and its last axis stays last
/// but where that is a batch axis.
fn operand(
    p: &mut Program,
    view: &View,
    batch: &[usize],
    kept: &[usize],
    summed: usize,
) -> Result<(Id, bool), ProgramError> {
    let stored = view.stored();
    let (order, sizes): (Vec<usize>, Vec<usize>) = stored.iter().copied().unzip();
    let kept_first = [batch, kept, &[summed]].concat();
    let summed_first = [batch, &[summed], kept].concat();
    let first = order.last() != Some(&summed);
    let wanted = if first { summed_first } else { kept_first };
    let place = |i: &usize| order.iter().position(|o| o == i).unwrap_or(0);
    let x = p.reshape(view.source, &sizes)?;
    let x = p.permute(x, &wanted.iter().map(place).collect::<Vec<_>>())?;
    let size = |axes: &[usize]| -> usize { axes.iter().map(|&i| view.shape()[i]).product() };
    let [k, n] = [size(&[summed]), size(kept)];
    let tail = if first { [k, n] } else { [n, k] };
    let shape = if batch.is_empty() {
        tail.to_vec()
    } else {
        [size(batch), tail[0], tail[1]].to_vec()
    };
    Ok((p.reshape(x, &shape)?, first))
}
