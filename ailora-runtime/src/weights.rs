//! Parameters in the memory layout that compiled programs read.

use ailora_graph::{
    fuse::layout::{Pack, Part},
    ir::DType,
};
use indexmap::{IndexMap, IndexSet};

use crate::store::{Array, Params};

/// Parameters by name, each in the type that it came in until it is written to or widened: float32 then.
/// Some lie in packs, the matrices that fused products read, float32: each value exists
/// once, and is read and written in its place. Where a device has the packs, the values here lie by
/// themselves, and what is known of the packs is where each value is there.
#[derive(Debug, Default)]
pub struct Weights {
    arrays: Params,
    packed: IndexMap<String, Packed>,
    /// Parameters whose values were replaced, or may have been, since that was last asked for.
    changed: IndexSet<String>,
}

/// A part of a pack.
#[derive(Debug)]
struct Packed {
    pack: String,
    part: Part,
    /// Columns of the pack.
    width: usize,
}

/// Rows of elements within an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place<'a> {
    /// The array's name.
    pub array: &'a str,
    /// The first element.
    pub start: usize,
    /// How many rows.
    pub rows: usize,
    /// Elements of a row.
    pub width: usize,
    /// From one row's first element to the next's.
    pub stride: usize,
}

impl Weights {
    /// Parameters that lie by themselves.
    pub fn new(params: Params) -> Self {
        Self {
            arrays: params,
            packed: IndexMap::new(),
            changed: IndexSet::new(),
        }
    }

    /// What is in memory: packs, and parameters that are in none.
    pub fn arrays(&self) -> &Params {
        &self.arrays
    }

    /// A parameter, copied.
    pub fn get(&self, name: &str) -> Option<Array> {
        if let Some(array) = self.arrays.get(name) {
            return Some(array.clone());
        }
        let Packed { pack, part, .. } = self.packed.get(name)?;
        let whole = self.arrays.get(pack)?;
        let floats = whole.floats();
        let rows = floats.chunks_exact(whole.shape()[1].max(1));
        let [row, column] = part.at;
        let data = rows
            .skip(row)
            .take(part.shape[0])
            .flat_map(|row| &row[column..column + part.shape[1]]);
        Some(Array::new(part.shape, data.copied().collect()))
    }

    /// A parameter's dimensions.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        match self.packed.get(name) {
            Some(Packed { part, .. }) => Some(&part.shape),
            None => self.arrays.get(name).map(Array::shape),
        }
    }

    /// Where a parameter lies, here or on a device.
    pub fn place<'a>(&'a self, name: &'a str) -> Option<Place<'a>> {
        let Some(Packed { pack, part, width }) = self.packed.get(name) else {
            let len = self.arrays.get(name)?.len();
            return Some(Place {
                array: name,
                start: 0,
                rows: 1,
                width: len,
                stride: len,
            });
        };
        Some(Place {
            array: pack,
            start: part.at[0] * width + part.at[1],
            rows: part.shape[0],
            width: part.shape[1],
            stride: *width,
        })
    }

    /// Whether a parameter's value was replaced, or may have been, since
    /// [`take_changed`](Self::take_changed) was last called.
    pub fn is_changed(&self, name: &str) -> bool {
        self.changed.contains(name)
    }

    /// Takes a parameter as one that was not replaced.
    pub fn settle(&mut self, name: &str) {
        self.changed.swap_remove(name);
    }

    /// The parameters whose values were replaced, or may have been, since the last call.
    pub fn take_changed(&mut self) -> IndexSet<String> {
        std::mem::take(&mut self.changed)
    }

    /// How many elements a parameter has.
    pub fn len(&self, name: &str) -> Option<usize> {
        match self.packed.get(name) {
            Some(Packed { part, .. }) => Some(part.shape.iter().product()),
            None => self.arrays.get(name).map(Array::len),
        }
    }

    /// The first parameter with a value that is infinite or not a number.
    pub fn not_finite(&self) -> Option<String> {
        let is_odd = |data: &[f32]| data.iter().any(|x| !x.is_finite());
        let (found, _) = self
            .arrays
            .iter()
            .find(|(_, array)| is_odd(&array.floats()))?;
        let parts = self
            .packed
            .iter()
            .filter(|(_, packed)| packed.pack == *found);
        let mut parts = parts.map(|(name, _)| name);
        let part = parts.find(|name| self.get(name).is_some_and(|part| is_odd(&part.floats())));
        Some(part.unwrap_or(found).clone())
    }

    /// Whether there is no parameter.
    pub fn is_empty(&self) -> bool {
        self.arrays.is_empty()
    }

    /// A parameter's elements where they lie: rows, or one piece if it is in no pack.
    pub fn rows_mut(&mut self, name: &str) -> Option<Vec<&mut [f32]>> {
        if !self.changed.contains(name) {
            self.changed.insert(name.to_owned());
        }
        self.lying(name)
    }

    fn lying(&mut self, name: &str) -> Option<Vec<&mut [f32]>> {
        if self.arrays.contains_key(name) {
            return Some(vec![self.arrays.get_mut(name)?.floats_mut()]);
        }
        let Packed { pack, part, .. } = self.packed.get(name)?;
        let whole = self.arrays.get_mut(pack)?;
        let width = whole.shape()[1].max(1);
        let [row, column] = part.at;
        let rows = whole.floats_mut().chunks_exact_mut(width).skip(row);
        Some(
            rows.take(part.shape[0])
                .map(|row| &mut row[column..column + part.shape[1]])
                .collect(),
        )
    }

    /// Replaces the elements of a parameter; whether it is there in that size.
    pub fn set(&mut self, name: &str, data: &[f32]) -> bool {
        let fits = self.mirror(name, data);
        if fits && !self.changed.contains(name) {
            self.changed.insert(name.to_owned());
        }
        fits
    }

    /// As [`set`](Self::set), with what a device has already.
    pub(crate) fn mirror(&mut self, name: &str, data: &[f32]) -> bool {
        if self.len(name) != Some(data.len()) {
            return false;
        }
        let mut rest = data;
        for row in self.lying(name).into_iter().flatten() {
            let (own, after) = rest.split_at(row.len());
            row.copy_from_slice(own);
            rest = after;
        }
        true
    }

    /// Adds parameters, or replaces those of the same name.
    pub(crate) fn extend(&mut self, params: impl IntoIterator<Item = (String, Array)>) {
        for (name, array) in params {
            self.changed.insert(name.clone());
            self.arrays.insert(name, array);
        }
    }

    /// Makes what has other elements float32, one at a time, and returns what it was.
    pub(crate) fn widen<'a>(&mut self, names: impl IntoIterator<Item = &'a str>) -> Params {
        let mut before = Params::new();
        for name in names {
            if let Some(array) = self.arrays.get_mut(name)
                && array.dtype() != DType::F32
            {
                let wide = Array::new(array.shape(), array.floats().into_owned());
                before.insert(name.to_owned(), std::mem::replace(array, wide));
            }
        }
        before
    }

    /// Takes back what [`widen`](Self::widen) has returned.
    pub(crate) fn narrow(&mut self, before: Params) {
        self.arrays.extend(before);
    }

    /// Moves parameters into a pack. Where none lies, it is zero.
    pub fn pack(&mut self, pack: &Pack) {
        let [rows, width] = pack.shape;
        self.arrays
            .insert(pack.name.to_string(), Array::zeros([rows, width]));
        for part in &pack.parts {
            let Some(value) = self.arrays.shift_remove(&*part.parameter) else {
                continue;
            };
            self.lay(pack, part);
            self.set(&part.parameter, &value.floats());
        }
    }

    /// Notes where parameters lie in a pack that a device has.
    pub fn pack_elsewhere(&mut self, pack: &Pack) {
        for part in &pack.parts {
            if self.arrays.contains_key(&*part.parameter) {
                self.lay(pack, part);
            }
        }
    }

    fn lay(&mut self, pack: &Pack, part: &Part) {
        let packed = Packed {
            pack: pack.name.to_string(),
            part: part.clone(),
            width: pack.shape[1],
        };
        self.packed.insert(part.parameter.to_string(), packed);
    }

    /// The parameters that lie in a pack.
    pub fn parts<'a>(&'a self, pack: &str) -> impl Iterator<Item = &'a str> {
        let packed = self
            .packed
            .iter()
            .filter(move |(_, packed)| packed.pack == pack);
        packed.map(|(name, _)| name.as_str())
    }

    /// Frees what `keep` does not name.
    pub(crate) fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        let packed = &self.packed;
        let used = |name: &str| {
            let of = packed.get(name);
            keep(name) || of.is_some_and(|Packed { pack, .. }| keep(pack))
        };
        self.arrays.retain(|name, _| used(name));
        self.packed.retain(|_, Packed { pack, .. }| keep(pack));
    }

    /// Bytes of everything.
    pub fn bytes(&self) -> usize {
        let bytes = |array: &Array| array.dtype().bytes() * array.len();
        self.arrays.values().map(bytes).sum()
    }
}

impl From<Params> for Weights {
    fn from(params: Params) -> Self {
        Self::new(params)
    }
}

#[cfg(test)]
mod tests {
    use ailora_graph::ir::DType;

    use super::*;

    #[test]
    fn packed_parameters_are_read_and_written_in_place() {
        let array = |shape: [usize; 2], start: f32| {
            Array::new(
                shape,
                (0..shape[0] * shape[1]).map(|i| start + i as f32).collect(),
            )
        };
        let params = [
            ("w", array([2, 3], 10.0)),
            ("b", array([2, 1], 20.0)),
            ("a", array([1, 3], 30.0)),
        ];
        let mut weights =
            Weights::new(params.map(|(n, a)| (n.to_owned(), a)).into_iter().collect());
        let part = |parameter: &str, at, shape| Part {
            parameter: parameter.into(),
            at,
            shape,
        };
        weights.pack(&Pack {
            name: "pack".into(),
            dtype: DType::F32,
            shape: [3, 4],
            parts: vec![
                part("w", [0, 0], [2, 3]),
                part("b", [0, 3], [2, 1]),
                part("a", [2, 0], [1, 3]),
            ],
            corner: [2, 3],
        });
        let whole = |weights: &Weights| weights.arrays()["pack"].floats().into_owned();
        assert_eq!(weights.arrays().len(), 1);
        assert_eq!(
            whole(&weights),
            [10., 11., 12., 20., 13., 14., 15., 21., 30., 31., 32., 0.]
        );
        assert_eq!(weights.get("w"), Some(array([2, 3], 10.0)));
        assert!(
            weights.set("b", &[7.0, 8.0]) && !weights.set("b", &[7.0]) && !weights.set("c", &[])
        );
        assert_eq!(weights.not_finite(), None);
        weights.set("a", &[0.0, f32::INFINITY, 0.0]);
        assert_eq!(weights.not_finite().as_deref(), Some("a"));
        weights.set("a", &[30., 31., 32.]);
        for row in weights.rows_mut("a").into_iter().flatten() {
            row[1] = 0.5;
        }
        assert_eq!(
            whole(&weights),
            [10., 11., 12., 7., 13., 14., 15., 8., 30., 0.5, 32., 0.]
        );
    }
}
