//! Values that are kept beside the parameters, on the device.

use std::collections::HashMap;

use ailora_graph::ir::DType;
use bytemuck::{Pod, Zeroable};
use cudarc::driver::{CudaFunction, sys::CUdeviceptr};

use super::{Cuda, CudaError, Resources, device::Buffer};
use crate::{
    switch::{Kept, Value},
    weights::{Place, Weights},
};

/// Elements that a block handles.
const COUNT: usize = 4096;
const THREADS: u32 = 256;

shared_structs! {
    /// A parameter, and what of its value is kept.
    struct Placed {
        /// Where compiled plans read it: rows of `across`, `stride` apart.
        place: CUdeviceptr,
        /// How many elements it has.
        len: u64,
        across: u32,
        stride: u32,
        /// The first of the value's elements.
        start: u64,
        /// The parameter's columns.
        columns: u32,
        /// The value's rows and columns; zeros are around it.
        rows: u32,
        width: u32,
        is_bf16: u32,
    }

    /// What a block handles: `COUNT` elements of a parameter, from `first` on.
    struct Part {
        placed: u32,
        first: u32,
    }
}

/// The kernel.
pub(super) fn source() -> String {
    format!(
        "{STRUCTS}\n#define COUNT {COUNT}u\n\n{}",
        include_str!("switch.cu")
    )
}

/// What a device has of values that are kept.
#[derive(Debug, Default)]
pub(super) struct Residents {
    function: Option<CudaFunction>,
    by_id: HashMap<u64, Resident>,
}

/// Values on the device, without gaps, and where they go.
#[derive(Debug)]
struct Resident {
    values: Buffer,
    placed: Buffer,
    parts: Buffer,
    count: u32,
    /// How many parameters the device had when their places were listed.
    known: usize,
}

impl Residents {
    /// Frees values.
    pub fn forget(&mut self, kept: &Kept) {
        self.by_id.remove(&kept.id());
    }
}

/// The parameters among values that the device has, and the parts that blocks handle.
fn listed(resources: &Resources, weights: &Weights, kept: &Kept) -> (Vec<Placed>, Vec<Part>) {
    let (mut all, mut parts, mut start) = (Vec::new(), Vec::new(), 0);
    for (name, value) in kept.values() {
        let first = start;
        start += value.data.len();
        let len: usize = value.slot.iter().product();
        let place = weights.place(name);
        let place = place.filter(|place| place.rows * place.width == len && len > 0);
        let array = place.and_then(|place| resources.parameters.get(place.array));
        let (Some(place), Some(array)) = (place, array) else {
            continue;
        };
        parts.extend((0..len).step_by(COUNT).map(|first| Part {
            placed: all.len() as u32,
            first: first as u32,
        }));
        all.push(placed(
            place,
            array.buffer.at(place.start * array.dtype.bytes()),
            value.slot[1],
            (value.shape, first),
            array.dtype,
        ));
    }
    (all, parts)
}

fn placed(
    place: Place<'_>,
    address: CUdeviceptr,
    columns: usize,
    ([rows, width], start): ([usize; 2], usize),
    dtype: DType,
) -> Placed {
    Placed {
        place: address,
        len: (place.rows * place.width) as u64,
        across: place.width as u32,
        stride: place.stride as u32,
        start: start as u64,
        columns: columns as u32,
        rows: rows as u32,
        width: width as u32,
        is_bf16: u32::from(dtype == DType::Bf16),
    }
}

impl Resident {
    fn new(resources: &Resources, weights: &Weights, kept: &Kept) -> Result<Self, CudaError> {
        let device = &resources.device;
        let bytes = kept.bytes();
        let values = device.allocate(bytes, "values of a switch")?;
        let mut at = 0;
        let some = |value: &&Value| !value.data.is_empty();
        for value in kept.values().values().filter(some) {
            device.upload(&value.data, &values, at)?;
            at += size_of_val(&*value.data);
        }
        let empty = || device.allocate(0, "places of a switch");
        let mut resident = Self {
            values,
            placed: empty()?,
            parts: empty()?,
            count: 0,
            known: usize::MAX,
        };
        resident.list(resources, weights, kept)?;
        Ok(resident)
    }

    /// Lists where the values go, if parameters came to the device since.
    fn list(
        &mut self,
        resources: &Resources,
        weights: &Weights,
        kept: &Kept,
    ) -> Result<(), CudaError> {
        if self.known == resources.parameters.len() {
            return Ok(());
        }
        let (all, parts) = listed(resources, weights, kept);
        let device = &resources.device;
        let bytes = |bytes| device.allocate(bytes, "places of a switch");
        self.placed = bytes(size_of_val(&*all))?;
        self.parts = bytes(size_of_val(&*parts))?;
        if !parts.is_empty() {
            device.upload(&all, &self.placed, 0)?;
            device.upload(&parts, &self.parts, 0)?;
        }
        self.count = parts.len() as u32;
        self.known = resources.parameters.len();
        Ok(())
    }
}

impl Cuda {
    /// Puts values in their places: by a kernel where the parameter is on the device, on the host where it is
    /// not there yet, or is trained, so that its float32 value and the optimiser's are one.
    pub(super) fn put(&mut self, weights: &mut Weights, kept: &Kept) -> Result<(), CudaError> {
        if self.training.is_under_way() {
            kept.write(weights);
            return Ok(());
        }
        let resources = &self.resources;
        for name in kept.values().keys() {
            let place = weights.place(name);
            match place.is_some_and(|place| resources.parameters.contains_key(place.array)) {
                // What was to be brought there is replaced.
                true => weights.settle(name),
                false => kept.write_one(weights, name),
            }
        }
        let Residents { function, by_id } = &mut self.residents;
        let resident = match by_id.entry(kept.id()) {
            std::collections::hash_map::Entry::Occupied(found) => found.into_mut(),
            std::collections::hash_map::Entry::Vacant(empty) => {
                empty.insert(Resident::new(resources, weights, kept)?)
            }
        };
        resident.list(resources, weights, kept)?;
        if resident.count == 0 {
            return Ok(());
        }
        let function = match function {
            Some(function) => function,
            None => {
                let [put] = resources.functions(&source(), ["put"])?;
                function.insert(put)
            }
        };
        let arguments = [
            resident.placed.at(0),
            resident.parts.at(0),
            resident.values.at(0),
        ];
        let grid = (resident.count, 1, 1);
        // SAFETY: as the kernel declares them; parameters lie where the list says as long as the device has
        // them, and values are as many as it says.
        unsafe {
            resources
                .device
                .launch(function, grid, (THREADS, 0), &arguments)
        }
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;
    use crate::{cuda::tests::emulate::Kernels, kernels::device::Source};

    /// Two parameters in one launch: a corner of `A` in a pack of float32, and all of `B` beside it in
    /// bfloat16, longer than a block.
    #[test]
    fn one_launch_puts_every_value_in_its_place() {
        let (rows, across, stride) = (700, 9, 11);
        let place = |array: &'static str, rows, width, stride| Place {
            array,
            start: 0,
            rows,
            width,
            stride,
        };
        let mut pack = vec![-1.0_f32; 4 * 7];
        let mut narrow = vec![bf16::from_f32(-1.0); rows * stride];
        let mut values: Vec<f32> = (0..2 * 5 + rows * across)
            .map(|i| i as f32 * 0.5 + 0.1)
            .collect();
        let mut all = [
            placed(
                place("pack", 4, 5, 7),
                pack.as_mut_ptr() as u64,
                5,
                ([2, 5], 0),
                DType::F32,
            ),
            placed(
                place("b", rows, across, stride),
                narrow.as_mut_ptr() as u64,
                across,
                ([rows, across], 10),
                DType::Bf16,
            ),
        ];
        let mut parts: Vec<Part> = all
            .iter()
            .zip(0..)
            .flat_map(|(placed, i)| {
                let firsts = (0..placed.len as usize).step_by(COUNT);
                firsts.map(move |first| Part {
                    placed: i,
                    first: first as u32,
                })
            })
            .collect();
        assert_eq!(parts.len(), 3);
        let kernel = Source {
            code: source()
                .replace("void put(", "void KERNEL(")
                .replace("extern \"C\"", ""),
            params: Vec::new(),
            grid: [parts.len() as u32, 1, 1],
            block: THREADS,
            shared: 0,
        };
        let Some(kernels) = Kernels::new(&[&kernel]) else {
            return;
        };
        let arguments = [
            all.as_mut_ptr() as *mut u8,
            parts.as_mut_ptr() as *mut u8,
            values.as_mut_ptr() as *mut u8,
        ];
        kernels.launch(0, &kernel, &arguments);
        for (i, &x) in pack.iter().enumerate() {
            let (row, column) = (i / 7, i % 7);
            let expected = match (row < 2, column < 5) {
                (_, false) => -1.0,
                (true, _) => values[row * 5 + column],
                (false, _) => 0.0,
            };
            assert_eq!(x, expected, "{i}");
        }
        for (i, &x) in narrow.iter().enumerate() {
            let (row, column) = (i / stride, i % stride);
            let expected = match column < across {
                true => bf16::from_f32(values[10 + row * across + column]),
                false => bf16::from_f32(-1.0),
            };
            assert_eq!(x, expected, "{i}");
        }
    }
}
