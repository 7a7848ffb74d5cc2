//! Parameters on their way to a device: converted into page-locked memory by all threads, one part
//! while the other is copied.

use std::{ffi::c_void, ptr::NonNull};

use cudarc::driver::{
    CudaEvent, result,
    sys::{CUdeviceptr, CUevent_flags},
};
use half::{bf16, slice::HalfFloatSliceExt};
use rayon::prelude::*;

use super::{
    CudaError, Device, Element,
    device::{Buffer, Rectangle},
    error::During,
};
use crate::weights::Place;

/// Bytes of a part.
const PART: usize = 32 << 20;
/// Elements that a thread converts at a time.
const SHARE: usize = 1 << 16;

/// Two parts of page-locked memory, made when they are first needed.
#[derive(Debug, Default)]
pub(super) struct Staging {
    parts: Vec<Part>,
    next: usize,
}

#[derive(Debug)]
struct Part {
    memory: NonNull<c_void>,
    /// When it was last copied.
    copied: CudaEvent,
}

// SAFETY: the memory is used by the one thread that has the staging.
unsafe impl Send for Part {}

impl Staging {
    /// Queues the copy of floats to their places, in whatever type they have there; they may change
    /// when this returns.
    ///
    /// # Errors
    /// The driver fails.
    pub fn upload(
        &mut self,
        device: &Device,
        data: &[f32],
        to: &Buffer,
        element: Element,
        place: Place<'_>,
    ) -> Result<(), CudaError> {
        let size = element.bytes();
        let is_dense = place.rows <= 1 || place.width == place.stride;
        // Rows without gaps are rows of any width.
        let (width, stride) = match is_dense {
            true => (data.len().min(PART / size), data.len().min(PART / size)),
            false => (place.width, place.stride),
        };
        if width == 0 {
            return Ok(());
        }
        let end = match is_dense {
            true => place.start + data.len(),
            false => place.start + (place.rows - 1) * stride + width,
        };
        assert!(
            end * size <= to.bytes() && width * size <= PART,
            "an upload fits its buffer"
        );
        let rows = PART / (width * size);
        for (i, data) in data.chunks(rows * width).enumerate() {
            let part = self.part(device)?;
            // SAFETY: the part is as large, aligned to pages, and what was in it is copied.
            unsafe { part.fill(data, element) };
            // Without gaps there is one row, and the last one may be shorter.
            let width = width.min(data.len());
            device.copy(&Rectangle {
                from: part.memory.as_ptr() as CUdeviceptr,
                to: to.at((place.start + i * rows * stride) * size),
                pitches: [width * size, stride * size],
                rows: data.len() / width,
                bytes: width * size,
            })?;
            part.copied
                .record(device.stream())
                .during("copying to the device")?;
        }
        Ok(())
    }

    /// The part that was copied longest ago.
    fn part(&mut self, device: &Device) -> Result<&mut Part, CudaError> {
        const PARTS: usize = 2;
        let what = "page-locked memory for parameters";
        if self.parts.len() < PARTS {
            device
                .context()
                .bind_to_thread()
                .during("using the device")?;
            // SAFETY: freed once, on drop.
            let memory = unsafe { result::malloc_host(PART, 0) }.during(what)?;
            let flags = Some(CUevent_flags::CU_EVENT_DISABLE_TIMING);
            let copied = device.context().new_event(flags).during(what)?;
            if let Some(memory) = NonNull::new(memory) {
                self.parts.push(Part { memory, copied });
            }
        }
        self.next = (self.next + 1) % self.parts.len().max(1);
        let part = &mut self.parts[self.next];
        part.copied.synchronize().during("copying to the device")?;
        Ok(part)
    }
}

impl Part {
    /// Puts floats into the memory as elements of a type.
    ///
    /// # Safety
    /// They fit, and nothing reads the memory.
    unsafe fn fill(&mut self, data: &[f32], element: Element) {
        let memory = self.memory.as_ptr();
        let data = data.par_chunks(SHARE);
        match element {
            Element::F32 | Element::I32 => {
                // SAFETY: by the caller's promise.
                let to = unsafe { std::slice::from_raw_parts_mut(memory.cast::<f32>(), PART / 4) };
                let shares = to.par_chunks_mut(SHARE).zip(data);
                shares.for_each(|(to, from)| to[..from.len()].copy_from_slice(from));
            }
            Element::Bf16 => {
                // SAFETY: by the caller's promise.
                let to = unsafe { std::slice::from_raw_parts_mut(memory.cast::<bf16>(), PART / 2) };
                let shares = to.par_chunks_mut(SHARE).zip(data);
                shares.for_each(|(to, from)| to[..from.len()].convert_from_f32_slice(from));
            }
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if self.copied.synchronize().is_ok() {
            // SAFETY: allocated once, and copied from no more.
            unsafe { result::free_host(self.memory.as_ptr()) }.ok();
        }
    }
}
