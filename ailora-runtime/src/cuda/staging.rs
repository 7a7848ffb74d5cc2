//! Page-locked memory, and parameters on their way to a device through it: converted by all threads,
//! one part while the other is copied.

use std::{ffi::c_void, ptr::NonNull};

use ailora_graph::ir::DType;
use cudarc::driver::{
    CudaEvent, result,
    sys::{CUdeviceptr, CUevent_flags},
};
use rayon::prelude::*;

use super::{
    CudaError, Device,
    device::{Buffer, Rectangle},
    error::During,
};
use crate::{store::Array, weights::Place};

/// Bytes of a part.
const PART: usize = 32 << 20;
/// Elements that a thread converts at a time.
const SHARE: usize = 1 << 16;

/// Two parts of page-locked memory, made when they are first needed.
#[derive(Debug, Default)]
pub(super) struct Staging {
    parts: Vec<Locked>,
    next: usize,
}

/// Page-locked memory, which is copied while other work goes on.
#[derive(Debug)]
pub(super) struct Locked {
    memory: NonNull<c_void>,
    bytes: usize,
    /// When it was last copied from or to.
    copied: CudaEvent,
}

// SAFETY: the memory is used by the one thread that has it.
unsafe impl Send for Locked {}

impl Staging {
    /// Queues the copy of a tensor's elements to their places, in whatever type they have there; they may
    /// change when this returns.
    ///
    /// # Errors
    /// The driver fails.
    pub fn upload(
        &mut self,
        device: &Device,
        array: &Array,
        to: &Buffer,
        dtype: DType,
        place: Place<'_>,
    ) -> Result<(), CudaError> {
        let (size, len) = (dtype.bytes(), array.len());
        let is_dense = place.rows <= 1 || place.width == place.stride;
        // Rows without gaps are rows of any width.
        let (width, stride) = match is_dense {
            true => (len.min(PART / size), len.min(PART / size)),
            false => (place.width, place.stride),
        };
        if width == 0 {
            return Ok(());
        }
        let end = match is_dense {
            true => place.start + len,
            false => place.start + (place.rows - 1) * stride + width,
        };
        assert!(
            end * size <= to.bytes() && width * size <= PART,
            "an upload fits its buffer"
        );
        let rows = PART / (width * size);
        let (bytes, source) = (array.bytes(), array.dtype());
        for (i, bytes) in bytes.chunks(rows * width * source.bytes()).enumerate() {
            let len = bytes.len() / source.bytes();
            let part = self.part(device)?;
            // SAFETY: the part is as large, aligned to pages, and what was in it is copied.
            unsafe { part.fill(bytes, source, dtype) };
            // Without gaps there is one row, and the last one may be shorter.
            let width = width.min(len);
            let rectangle = Rectangle {
                from: part.address(),
                to: to.at((place.start + i * rows * stride) * size),
                pitches: [width * size, stride * size],
                rows: len / width,
                bytes: width * size,
            };
            // SAFETY: in bounds, as asserted; the part is used again, or freed, when it is copied, and a
            // buffer is freed when the work before is done.
            unsafe { device.copy(&rectangle)? };
            part.mark(device)?;
        }
        Ok(())
    }

    /// The part that was copied longest ago.
    fn part(&mut self, device: &Device) -> Result<&mut Locked, CudaError> {
        const PARTS: usize = 2;
        if self.parts.len() < PARTS {
            self.parts.push(Locked::new(device, PART)?);
        }
        self.next = (self.next + 1) % self.parts.len();
        let part = &mut self.parts[self.next];
        part.wait()?;
        Ok(part)
    }
}

impl Locked {
    /// So many bytes, zeroed.
    ///
    /// # Errors
    /// The driver does not lock as many.
    pub fn new(device: &Device, bytes: usize) -> Result<Self, CudaError> {
        let what = "page-locked memory";
        device
            .context()
            .bind_to_thread()
            .during("using the device")?;
        let flags = Some(CUevent_flags::CU_EVENT_DISABLE_TIMING);
        let copied = device.context().new_event(flags).during(what)?;
        // SAFETY: freed once, on drop.
        let memory = unsafe { result::malloc_host(bytes.max(1), 0) }.during(what)?;
        let memory = NonNull::new(memory).unwrap_or_else(|| unreachable!("the driver succeeded"));
        // SAFETY: it is as large.
        unsafe { memory.write_bytes(0, bytes) };
        Ok(Self {
            memory,
            bytes,
            copied,
        })
    }

    /// Queues the copy of a device's bytes into all of it.
    ///
    /// # Errors
    /// The driver fails.
    pub fn download(&mut self, device: &Device, from: &Buffer) -> Result<(), CudaError> {
        assert!(self.bytes <= from.bytes(), "a download is in its buffer");
        let rectangle = Rectangle::row(from.at(0), self.address(), self.bytes);
        // SAFETY: in bounds, as asserted; this memory is read, or freed, when it is copied, and a buffer
        // is freed when the work before is done.
        unsafe { device.copy(&rectangle)? };
        self.mark(device)
    }

    /// How many bytes it has.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What was copied into it, when that is done.
    ///
    /// # Errors
    /// The work before it failed.
    pub fn read(&self) -> Result<&[u8], CudaError> {
        self.wait()?;
        // SAFETY: the memory is as large, was written when it was made, and nothing is copied to it.
        Ok(unsafe { std::slice::from_raw_parts(self.memory.as_ptr().cast(), self.bytes) })
    }

    fn address(&self) -> CUdeviceptr {
        self.memory.as_ptr() as CUdeviceptr
    }

    /// Notes that it is copied at this point of the device's work.
    fn mark(&self, device: &Device) -> Result<(), CudaError> {
        self.copied.record(device.stream()).during("copying")
    }

    fn wait(&self) -> Result<(), CudaError> {
        self.copied.synchronize().during("work on the device")
    }

    /// Puts elements of one type into the memory as elements of another.
    ///
    /// # Safety
    /// They fit, and nothing reads the memory.
    unsafe fn fill(&mut self, from: &[u8], source: DType, dtype: DType) {
        let len = from.len() / source.bytes() * dtype.bytes();
        // SAFETY: by the caller's promise.
        let to = unsafe { std::slice::from_raw_parts_mut(self.memory.as_ptr().cast(), len) };
        let shares = to.par_chunks_mut(SHARE * dtype.bytes());
        shares
            .zip(from.par_chunks(SHARE * source.bytes()))
            .for_each(|(to, from)| convert(from, source, to, dtype));
    }
}

/// Little-endian elements of one type as the nearest of another.
fn convert(from: &[u8], source: DType, to: &mut [u8], dtype: DType) {
    /// Elements that are float32 at a time, in the cache.
    const FEW: usize = 1 << 10;
    if source == dtype {
        return to.copy_from_slice(from);
    }
    let mut floats = [0.0; FEW];
    let pieces = to.chunks_mut(FEW * dtype.bytes());
    for (to, from) in pieces.zip(from.chunks(FEW * source.bytes())) {
        let floats = &mut floats[..from.len() / source.bytes()];
        source.decode(from, floats);
        dtype.encode(floats, to);
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        if self.copied.synchronize().is_ok() {
            // SAFETY: allocated once, and copied no more.
            unsafe { result::free_host(self.memory.as_ptr()) }.ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_of_every_type_become_those_of_every_other() {
        let values: Vec<f32> = (0..5_000).map(|i| (i as f32 - 2_000.0) / 1_024.0).collect();
        let floats = DType::ALL.iter().filter(|dtype| dtype.is_float());
        for &source in floats.clone() {
            let mut from = vec![0; values.len() * source.bytes()];
            source.encode(&values, &mut from);
            for &dtype in floats.clone() {
                let mut to = vec![0xff; values.len() * dtype.bytes()];
                convert(&from, source, &mut to, dtype);
                let mut found = vec![f32::NAN; values.len()];
                dtype.decode(&to, &mut found);
                for (x, found) in values.iter().zip(found) {
                    let expected = dtype.round(source.round(f64::from(*x)));
                    assert_eq!(f64::from(found), expected, "{source} {x} as {dtype}");
                }
            }
        }
    }
}
