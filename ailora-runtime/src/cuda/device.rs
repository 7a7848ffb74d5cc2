//! A device, its memory, and the handles of the libraries on it.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use bytemuck::Pod;
use cudarc::{
    cublas::{result as blas, sys as blas_sys},
    driver::{
        CudaContext, CudaFunction, CudaStream,
        result::{self, DriverError, launch_kernel},
        sys::{
            CUDA_MEMCPY2D, CUdevice_attribute, CUdeviceptr, CUmemorytype, CUresult,
            cuMemcpy2DAsync_v2,
        },
    },
};

use super::{CudaError, error::During, library};
use crate::kernels::device::Target;

const MIB: usize = 1 << 20;

static CAPTURES: Mutex<()> = Mutex::new(());

/// To be held while work is captured, and while a library's handle goes, which waits for all of the
/// device: during a capture that may not be, on any thread, and makes the capture fail.
pub(super) fn no_other_captures() -> MutexGuard<'static, ()> {
    CAPTURES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One device with one stream of work on it.
#[derive(Debug)]
pub struct Device {
    memory: Arc<Memory>,
    stream: Arc<CudaStream>,
    blas: blas_sys::cublasHandle_t,
    workspace: Buffer,
    ordinal: usize,
    name: String,
    capability: (i32, i32),
    shared_memory: usize,
    processors: usize,
}

// SAFETY: the handle may be used from any thread, by one at a time; every use is behind `&mut` or
// on the thread that owns the device.
unsafe impl Send for Device {}

impl Device {
    /// Bytes that products may work in; as many as the library wants on a Hopper.
    pub(super) const PRODUCT_WORKSPACE: usize = 32 * MIB;

    /// Opens the device of that number.
    ///
    /// # Errors
    /// No library, no such device, or one that is too old.
    pub fn open(ordinal: usize) -> Result<Self, CudaError> {
        library::load()?;
        result::init().during("starting the CUDA driver")?;
        let count = CudaContext::device_count().during("counting devices")? as usize;
        if ordinal >= count {
            return Err(CudaError::NoDevice { ordinal, count });
        }
        let context = CudaContext::new(ordinal).during("opening the device")?;
        // There is one stream, so that nothing waits for another's work.
        // SAFETY: as just said.
        unsafe { context.disable_event_tracking() };
        let name = context.name().during("reading the device's name")?;
        let capability = context
            .compute_capability()
            .during("reading the device's capability")?;
        if capability < (8, 0) {
            let (major, minor) = capability;
            return Err(CudaError::TooOld { name, major, minor });
        }
        let attribute = |which, what: &str| {
            let value = context.attribute(which).during(what)?;
            Ok::<_, CudaError>(usize::try_from(value).unwrap_or_default())
        };
        let shared_memory = attribute(
            CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
            "reading the device's shared memory",
        )?;
        let processors = attribute(
            CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT,
            "counting multiprocessors",
        )?;
        let stream = context.new_stream().during("making a stream")?;
        let blas = blas::create_handle()?;
        let memory = Arc::new(Memory {
            context,
            used: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
        });
        let workspace = Buffer::new(&memory, Self::PRODUCT_WORKSPACE, "the products' workspace")?;
        let device = Self {
            memory,
            stream,
            blas,
            ordinal,
            name,
            capability,
            workspace,
            shared_memory,
            processors,
        };
        // SAFETY: the stream and the workspace live as long as the handle. A workspace of our own
        // is what makes products give the same bits each time, in a graph too.
        unsafe {
            blas::set_stream(blas, device.stream.cu_stream().cast())?;
            blas_sys::cublasSetWorkspace_v2(
                blas,
                device.workspace.at(0) as *mut _,
                Self::PRODUCT_WORKSPACE,
            )
            .result()?;
        }
        Ok(device)
    }

    /// Its number, from 0.
    pub fn ordinal(&self) -> usize {
        self.ordinal
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What kernels are compiled for, such as `sm_80`; with what only Hoppers have, `sm_90a`.
    pub fn arch(&self) -> String {
        let own = if self.has_warpgroups() { "a" } else { "" };
        format!("sm_{}{}{own}", self.capability.0, self.capability.1)
    }

    fn has_warpgroups(&self) -> bool {
        self.capability == (9, 0)
    }

    /// The context.
    pub(super) fn context(&self) -> &Arc<CudaContext> {
        &self.memory.context
    }

    /// The stream that all work goes to.
    pub(super) fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// The handle of the library of products, on the stream.
    pub(super) fn blas(&self) -> blas_sys::cublasHandle_t {
        self.blas
    }

    /// Where products may work.
    pub(super) fn workspace(&self) -> CUdeviceptr {
        self.workspace.at(0)
    }

    /// Free and all bytes of the device.
    ///
    /// # Errors
    /// The driver does not answer.
    pub fn memory(&self) -> Result<(usize, usize), CudaError> {
        self.context().bind_to_thread().during("using the device")?;
        result::mem_get_info().during("asking for free memory")
    }

    /// The most bytes that were allocated at a time.
    pub fn peak_bytes(&self) -> usize {
        self.memory.peak.load(Ordering::Relaxed)
    }

    /// Memory on the device, zeroed.
    ///
    /// # Errors
    /// There is not as much, which the error says with what it is for.
    pub(super) fn allocate(&self, bytes: usize, what: &str) -> Result<Buffer, CudaError> {
        let buffer = Buffer::new(&self.memory, bytes, what)?;
        if bytes > 0 {
            // SAFETY: the buffer is as large.
            unsafe { result::memset_d8_async(buffer.pointer, 0, bytes, self.stream.cu_stream()) }
                .during("clearing memory")?;
        }
        Ok(buffer)
    }

    /// Copies elements to a byte of a buffer; they may change when this returns.
    ///
    /// # Errors
    /// The driver fails.
    pub(super) fn upload<T: Pod>(
        &self,
        data: &[T],
        to: &Buffer,
        byte: usize,
    ) -> Result<(), CudaError> {
        let bytes: &[u8] = bytemuck::cast_slice(data);
        assert!(byte + bytes.len() <= to.bytes, "an upload fits its buffer");
        self.context().bind_to_thread().during("using the device")?;
        if bytes.is_empty() {
            return Ok(());
        }
        // SAFETY: in bounds. From pageable memory the call returns when the data is read.
        unsafe { result::memcpy_htod_async(to.at(byte), bytes, self.stream.cu_stream()) }
            .during("copying to the device")
    }

    /// Queues a copy of rows, from wherever they are.
    ///
    /// # Errors
    /// The driver fails.
    ///
    /// # Safety
    /// All rows at both places are in memory of this device or of a [`Locked`](super::staging::Locked),
    /// which is not freed until the copy is done; nothing else writes them until then.
    pub(super) unsafe fn copy(&self, rectangle: &Rectangle) -> Result<(), CudaError> {
        let &Rectangle {
            from,
            to,
            pitches,
            rows,
            bytes,
        } = rectangle;
        self.context().bind_to_thread().during("using the device")?;
        // Host memory that the driver has locked has one address for both sides.
        let copy = CUDA_MEMCPY2D {
            srcXInBytes: 0,
            srcY: 0,
            srcMemoryType: CUmemorytype::CU_MEMORYTYPE_UNIFIED,
            srcHost: std::ptr::null(),
            srcDevice: from,
            srcArray: std::ptr::null_mut(),
            srcPitch: pitches[0],
            dstXInBytes: 0,
            dstY: 0,
            dstMemoryType: CUmemorytype::CU_MEMORYTYPE_UNIFIED,
            dstHost: std::ptr::null_mut(),
            dstDevice: to,
            dstArray: std::ptr::null_mut(),
            dstPitch: pitches[1],
            WidthInBytes: bytes,
            Height: rows,
        };
        // SAFETY: by the caller's promise.
        unsafe { cuMemcpy2DAsync_v2(&copy, self.stream.cu_stream()) }
            .result()
            .during("copying on the device")
    }

    /// Copies elements from a byte of a buffer, when all work before is done.
    ///
    /// # Errors
    /// The work before it failed, or the driver does.
    pub(super) fn download<T: Pod>(
        &self,
        from: &Buffer,
        byte: usize,
        data: &mut [T],
    ) -> Result<(), CudaError> {
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(data);
        assert!(
            byte + bytes.len() <= from.bytes,
            "a download fits its buffer"
        );
        self.context().bind_to_thread().during("using the device")?;
        if !bytes.is_empty() {
            // SAFETY: in bounds, and waited for below.
            unsafe { result::memcpy_dtoh_async(bytes, from.at(byte), self.stream.cu_stream()) }
                .during("copying from the device")?;
        }
        self.synchronize()
    }

    /// Queues a kernel, whose parameters are pointers, or numbers of at most 64 bits.
    ///
    /// # Errors
    /// The driver refuses it.
    ///
    /// # Safety
    /// The kernel has as many parameters as there are arguments, of these types. What it reads and
    /// writes behind each pointer, with this grid, is memory of this device that is as large and is not
    /// freed until the kernel is done.
    pub(super) unsafe fn launch(
        &self,
        function: &CudaFunction,
        grid: (u32, u32, u32),
        (block, shared): (u32, usize),
        arguments: &[CUdeviceptr],
    ) -> Result<(), CudaError> {
        let pointers = arguments
            .iter()
            .map(|a| std::ptr::from_ref(a).cast_mut().cast());
        let mut pointers: Vec<_> = pointers.collect();
        // SAFETY: by the caller's promise; the arguments themselves are read before this returns.
        unsafe {
            launch_kernel(
                function.cu_function(),
                grid,
                (block, 1, 1),
                shared as u32,
                self.stream.cu_stream(),
                &mut pointers,
            )
        }
        .during("launching a kernel")
    }

    /// What kernels are written for.
    pub(super) fn target(&self) -> Target {
        Target {
            shared: self.shared_memory,
            processors: self.processors,
            warpgroups: self.has_warpgroups(),
        }
    }

    /// Waits until all work is done.
    ///
    /// # Errors
    /// The work failed.
    pub fn synchronize(&self) -> Result<(), CudaError> {
        self.stream.synchronize().during("work on the device")
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let _guard = no_other_captures();
        // SAFETY: nothing uses the handle any more. What fails here is of no use to anyone.
        unsafe { blas::destroy_handle(self.blas) }.ok();
    }
}

/// Rows of bytes, from one place to another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rectangle {
    pub from: CUdeviceptr,
    pub to: CUdeviceptr,
    /// From one row to the next, there and there.
    pub pitches: [usize; 2],
    pub rows: usize,
    /// Of a row.
    pub bytes: usize,
}

impl Rectangle {
    /// Bytes without gaps.
    pub fn row(from: CUdeviceptr, to: CUdeviceptr, bytes: usize) -> Self {
        Self {
            from,
            to,
            pitches: [bytes; 2],
            rows: 1,
            bytes,
        }
    }
}

/// The device's context, and what is allocated in it.
#[derive(Debug)]
struct Memory {
    context: Arc<CudaContext>,
    used: AtomicUsize,
    peak: AtomicUsize,
}

impl Memory {
    fn take(&self, bytes: usize) {
        let used = self.used.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.peak.fetch_max(used, Ordering::Relaxed);
    }
}

/// Memory on a device.
#[derive(Debug)]
pub(super) struct Buffer {
    memory: Arc<Memory>,
    pointer: CUdeviceptr,
    bytes: usize,
}

impl Buffer {
    fn new(memory: &Arc<Memory>, bytes: usize, what: &str) -> Result<Self, CudaError> {
        memory.context.bind_to_thread().during("using the device")?;
        let pointer = match bytes {
            0 => 0,
            // SAFETY: freed once, on drop.
            _ => match unsafe { result::malloc_sync(bytes) } {
                Ok(pointer) => pointer,
                Err(DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => {
                    let (free, total) = result::mem_get_info().unwrap_or_default();
                    return Err(CudaError::OutOfMemory {
                        what: what.to_owned(),
                        wanted: bytes.div_ceil(MIB),
                        free: free / MIB,
                        total: total / MIB,
                    });
                }
                Err(error) => return Err(error).during(&format!("allocating {what}")),
            },
        };
        memory.take(bytes);
        Ok(Self {
            memory: memory.clone(),
            pointer,
            bytes,
        })
    }

    /// The address of a byte.
    pub fn at(&self, byte: usize) -> CUdeviceptr {
        assert!(byte <= self.bytes, "an address within its buffer");
        self.pointer + byte as CUdeviceptr
    }

    /// How many bytes it has.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.memory.used.fetch_sub(self.bytes, Ordering::Relaxed);
        if self.pointer != 0 && self.memory.context.bind_to_thread().is_ok() {
            // SAFETY: allocated once, and freed when the work before is done.
            unsafe { result::free_sync(self.pointer) }.ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use cudarc::nvrtc::Ptx;

    use super::*;
    use crate::cuda::compile::{Compiler, ENTRY};

    /// What fails is named, with what was asked for; and a device that is lost, with what to do.
    #[test]
    fn errors_of_memory_and_of_lost_devices() {
        let Ok(device) = Device::open(0) else {
            println!("skipped: there is no device");
            return;
        };
        let (_, total) = device.memory().unwrap();
        let error = device.allocate(2 * total, "activations").unwrap_err();
        let expected = format!(
            "out of memory on the device: activations needs {} MiB, ",
            (2 * total).div_ceil(MIB)
        );
        assert!(error.to_string().starts_with(&expected), "{error}");
        let buffer = device.allocate(4, "a number").unwrap();
        device.upload(&[2.0_f32], &buffer, 0).unwrap();

        let compiler = Compiler::new(device.arch(), None).unwrap();
        let code = format!("extern \"C\" __global__ void {ENTRY}() {{ __trap(); }}");
        let binary = compiler.compile(&[&code]).unwrap().concat();
        let module = device.context().load_module(Ptx::from_binary(binary));
        let function = module.unwrap().load_function(ENTRY).unwrap();
        // SAFETY: it takes nothing.
        unsafe { device.launch(&function, (1, 1, 1), (1, 0), &[]) }.unwrap();
        let mut number = [0.0_f32];
        let lost = [
            device.download(&buffer, 0, &mut number).unwrap_err(),
            device.upload(&[1.0_f32], &buffer, 0).unwrap_err(),
            device.allocate(4, "a number").unwrap_err(),
        ];
        for error in lost {
            assert!(matches!(error, CudaError::Lost { .. }), "{error}");
            assert!(error.to_string().contains("--resume"), "{error}");
        }
    }
}
