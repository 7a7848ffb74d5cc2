//! A plan on a device.

use ailora_graph::ir::{DType, Draw, Name};
use bytemuck::Pod;
use cudarc::driver::{
    CudaFunction, CudaGraph,
    sys::{self, CUdeviceptr},
};
use indexmap::{IndexMap, IndexSet};

use super::{
    CudaError, Resources,
    device::{Buffer, Device, no_other_captures},
    error::During,
    gemm,
    planner::{actions, kernels, places},
};
use crate::{
    kernels::device::{Action, Actions, Param},
    plan::{self, Input, Places, Plan, View},
    run::{RunError, Value},
};

/// Runs of a plan that try to capture it.
const TRIES: usize = 3;

/// A plan's kernels, compiled, and where its values lie.
pub(super) struct Executable {
    places: Places,
    actions: Vec<Actions>,
    /// Streams of random numbers, and their keys of this run.
    streams: IndexSet<Name>,
    keys: Buffer,
    /// What is launched for each step, at the addresses that memory had.
    launches: Vec<Vec<Launch>>,
    /// How often memory had moved when `launches` and `graph` were made.
    moves: usize,
    graph: Option<CudaGraph>,
    /// How often it is still tried to capture them.
    tries: usize,
}

// SAFETY: a graph is launched by one thread at a time, the one that has the executable.
unsafe impl Send for Executable {}

impl std::fmt::Debug for Executable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Executable")
            .field("steps", &self.actions.len())
            .field("bytes", &self.places.bytes)
            .finish_non_exhaustive()
    }
}

/// A launch with its addresses.
pub(super) enum Launch {
    Kernel {
        function: CudaFunction,
        grid: (u32, u32, u32),
        block: u32,
        shared: usize,
        arguments: Vec<CUdeviceptr>,
    },
    Product(gemm::Launch),
}

impl Executable {
    /// Compiles a plan's kernels, those that `functions` does not have yet.
    ///
    /// # Errors
    /// A kernel does not compile.
    pub fn new(cuda: &mut Resources, plan: &Plan) -> Result<Self, CudaError> {
        let actions = actions(plan, cuda.planner.target);
        cuda.compile(kernels(&actions).map(|kernel| kernel.code.as_str()))?;
        let params = kernels(&actions).flat_map(|kernel| &kernel.params);
        let streams: IndexSet<Name> = params
            .filter_map(|param| match param {
                Param::Key(name) => Some(name.clone()),
                _ => None,
            })
            .collect();
        Ok(Self {
            places: places(plan, &actions),
            keys: cuda
                .device
                .allocate(8 * streams.len(), "keys of random numbers")?,
            actions,
            streams,
            launches: Vec::new(),
            moves: 0,
            graph: None,
            tries: TRIES,
        })
    }

    /// Bytes of the arena that it needs.
    pub fn bytes(&self) -> usize {
        self.places.bytes
    }

    /// Executes the plan. The first time kernels are launched one by one, which loads them; then
    /// they are captured, and later runs launch them as one graph.
    ///
    /// # Errors
    /// An input that is missing or does not fit; the device failed.
    pub fn run(
        &mut self,
        cuda: &mut Resources,
        plan: &Plan,
        inputs: &[(&Input, Value<'_>)],
        draw: Draw,
    ) -> Result<(), CudaError> {
        self.start(cuda, plan, inputs, draw)?;
        if let Some(graph) = &self.graph {
            return graph.launch().during("launching a plan");
        }
        for launches in &self.launches {
            launch(cuda, launches)?;
        }
        if self.tries == 0 {
            return Ok(());
        }
        match self.capture(cuda, |_| true) {
            Ok(graph) => self.graph = graph,
            // The library has products of small or unaligned operands that it does not capture; and
            // what another thread asks of the device may end a capture.
            Err(why) => {
                tracing::debug!(%why, "a plan is launched kernel by kernel");
                self.tries -= 1;
            }
        }
        Ok(())
    }

    /// A graph of the steps of these numbers; nothing if there are none.
    fn capture(
        &self,
        cuda: &Resources,
        which: impl Fn(usize) -> bool,
    ) -> Result<Option<CudaGraph>, CudaError> {
        let stream = cuda.device.stream();
        let _guard = no_other_captures();
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        stream.begin_capture(mode).during("capturing a plan")?;
        let steps = self.launches.iter().enumerate();
        let mut steps = steps.filter(|(i, _)| which(*i));
        let launched = steps.try_for_each(|(_, launches)| launch(cuda, launches));
        let flags = sys::CUgraphInstantiate_flags(0);
        let graph = stream.end_capture(flags).during("capturing a plan");
        launched.and(graph)
    }

    /// Seconds of a run of the steps that are `timed`: those of all less those of the others, both as
    /// graphs.
    ///
    /// # Errors
    /// As [`run`](Self::run); a product that cannot be captured.
    pub fn time(
        &mut self,
        cuda: &mut Resources,
        plan: &Plan,
        inputs: &[(&Input, Value<'_>)],
        draw: Draw,
        timed: &[bool],
    ) -> Result<f64, CudaError> {
        const RUNS: u32 = 10;
        self.start(cuda, plan, inputs, draw)?;
        let mark = || {
            let flags = sys::CUevent_flags::CU_EVENT_DEFAULT;
            let stream = cuda.device.stream();
            stream.record_event(Some(flags)).during("timing a plan")
        };
        // Kernels are loaded by their first launch.
        self.launches
            .iter()
            .try_for_each(|launches| launch(cuda, launches))?;
        let mut seconds = [0.0; 2];
        for (total, others) in seconds.iter_mut().zip([false, true]) {
            let Some(graph) = self.capture(cuda, |i| !(others && timed[i]))? else {
                continue;
            };
            graph.launch().during("launching a plan")?;
            let start = mark()?;
            for _ in 0..RUNS {
                graph.launch().during("launching a plan")?;
            }
            let took = start.elapsed_ms(&mark()?).during("timing a plan")?;
            *total = f64::from(took) / 1e3 / f64::from(RUNS);
        }
        Ok(seconds[0] - seconds[1])
    }

    /// Executes the plan and adds to `seconds` what each of its steps took.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn profile(
        &mut self,
        cuda: &mut Resources,
        plan: &Plan,
        inputs: &[(&Input, Value<'_>)],
        draw: Draw,
        seconds: &mut Vec<f64>,
    ) -> Result<(), CudaError> {
        self.start(cuda, plan, inputs, draw)?;
        seconds.resize(self.launches.len(), 0.0);
        let mark = || {
            let flags = sys::CUevent_flags::CU_EVENT_DEFAULT;
            let stream = cuda.device.stream();
            stream.record_event(Some(flags)).during("timing a step")
        };
        let mut marks = vec![mark()?];
        for launches in &self.launches {
            launch(cuda, launches)?;
            marks.push(mark()?);
        }
        for (total, pair) in seconds.iter_mut().zip(marks.windows(2)) {
            let took = pair[0].elapsed_ms(&pair[1]).during("timing a step")?;
            *total += f64::from(took) / 1e3;
        }
        Ok(())
    }

    /// Everything before the first kernel.
    fn start(
        &mut self,
        cuda: &mut Resources,
        plan: &Plan,
        inputs: &[(&Input, Value<'_>)],
        draw: Draw,
    ) -> Result<(), CudaError> {
        if self.moves != cuda.moves || self.launches.is_empty() {
            self.graph = None;
            self.launches = self.resolve(cuda, plan)?;
            self.moves = cuda.moves;
        }
        let keys: Vec<u64> = self.streams.iter().map(|s| draw.key(s).word()).collect();
        cuda.device.upload(&keys, &self.keys, 0)?;
        for &(input, value) in inputs {
            match value {
                Value::F32(data) => self.fill(cuda, input, data)?,
                Value::I32(data) => self.fill(cuda, input, data)?,
            }
        }
        Ok(())
    }

    fn fill<T: Pod>(&self, cuda: &Resources, input: &Input, data: &[T]) -> Result<(), CudaError> {
        let View {
            buffer,
            start,
            width,
            stride,
            ..
        } = input.view;
        let first = self.places.buffers[buffer] + start * size_of::<T>();
        if input.view.is_dense() {
            return cuda.device.upload(data, &cuda.arena, first);
        }
        for (i, row) in data.chunks_exact(width.max(1)).enumerate() {
            let at = first + i * stride * size_of::<T>();
            cuda.device.upload(row, &cuda.arena, at)?;
        }
        Ok(())
    }

    /// Launches at the addresses that things have now.
    fn resolve(&self, cuda: &mut Resources, plan: &Plan) -> Result<Vec<Vec<Launch>>, CudaError> {
        let mut all = Vec::with_capacity(self.actions.len());
        for (time, actions) in self.actions.iter().enumerate() {
            let mut launches = Vec::with_capacity(actions.list.len());
            for action in &actions.list {
                let launch = match action {
                    Action::Kernel(kernel) => {
                        let arguments = kernel.params.iter();
                        let arguments: Vec<CUdeviceptr> = arguments
                            .map(|param| self.address(cuda, plan, time, param))
                            .collect();
                        let [x, y, z] = kernel.grid;
                        let function = cuda.functions[&kernel.code].clone();
                        allow_shared(&function, kernel.shared)?;
                        // Nothing to do is no launch.
                        (x * y * z > 0).then_some(Launch::Kernel {
                            function,
                            grid: (x, y, z),
                            block: kernel.block,
                            shared: kernel.shared,
                            arguments,
                        })
                    }
                    Action::Product(product) => {
                        let operands = product.operands.each_ref();
                        let addresses =
                            operands.map(|matrix| self.address(cuda, plan, time, &matrix.at));
                        let Resources {
                            device, products, ..
                        } = cuda;
                        // SAFETY: they lie where the plan has them, in the arena and the parameters,
                        // whose contents are the plan's own to write.
                        unsafe { products.prepare(device, product, addresses)? }
                            .map(Launch::Product)
                    }
                };
                launches.extend(launch);
            }
            all.push(launches);
        }
        cuda.products.keep();
        Ok(all)
    }

    fn address(&self, cuda: &Resources, plan: &Plan, time: usize, param: &Param) -> CUdeviceptr {
        let step = &plan.steps[time];
        match param {
            Param::Read(i) => self.at(cuda, plan, step.reads[*i]),
            Param::Write(i) => self.at(cuda, plan, step.writes[*i]),
            Param::Scratch(byte) => cuda.arena.at(self.places.scratch[time] + byte),
            Param::Key(stream) => {
                let i = self.streams.get_index_of(stream);
                let Some(i) = i else {
                    unreachable!("the streams are those of all kernels")
                };
                self.keys.at(8 * i)
            }
        }
    }

    /// The address of a view's first element.
    pub fn at(&self, cuda: &Resources, plan: &Plan, view: View) -> CUdeviceptr {
        let byte = view.start * plan.buffers[view.buffer].dtype().bytes();
        match &plan.buffers[view.buffer] {
            plan::Buffer::Arena { .. } => cuda.arena.at(self.places.buffers[view.buffer] + byte),
            plan::Buffer::Parameter { name, .. } => cuda.parameters[&**name].buffer.at(byte),
            plan::Buffer::State { name, .. } => cuda.states[&**name].at(byte),
        }
    }

    /// The results of the last run.
    ///
    /// # Errors
    /// The run failed.
    pub fn outputs(
        &self,
        cuda: &Resources,
        plan: &Plan,
        into: &mut IndexMap<Name, Vec<f32>>,
    ) -> Result<(), CudaError> {
        into.retain(|name, _| plan.outputs.contains_key(name));
        for (name, &(view, _)) in &plan.outputs {
            let data = into.entry(name.clone()).or_default();
            data.resize(view.len(), 0.0);
            self.read(cuda, plan, view, data)?;
        }
        Ok(())
    }

    /// One result of the last run.
    ///
    /// # Errors
    /// There is none of this name, or the run failed.
    pub fn output(&self, cuda: &Resources, plan: &Plan, name: &str) -> Result<Vec<f32>, CudaError> {
        let found = plan.outputs.get(name);
        let &(view, _) = found.ok_or_else(|| RunError::NoOutput(name.to_owned()))?;
        let mut data = vec![0.0; view.len()];
        self.read(cuda, plan, view, &mut data)?;
        Ok(data)
    }

    /// Copies what lies in a view without gaps.
    fn read(
        &self,
        cuda: &Resources,
        plan: &Plan,
        view: View,
        data: &mut [f32],
    ) -> Result<(), CudaError> {
        let (buffer, first) = match &plan.buffers[view.buffer] {
            plan::Buffer::Arena { .. } => (&cuda.arena, self.places.buffers[view.buffer]),
            plan::Buffer::Parameter { name, .. } => (&cuda.parameters[&**name].buffer, 0),
            plan::Buffer::State { name, .. } => (&cuda.states[&**name], 0),
        };
        let dtype = plan.buffers[view.buffer].dtype();
        let byte = first + view.start * dtype.bytes();
        read(&cuda.device, buffer, byte, dtype, data)
    }
}

/// Queues what a step launches.
fn launch(cuda: &Resources, launches: &[Launch]) -> Result<(), CudaError> {
    launches.iter().try_for_each(|launch| {
        // SAFETY: launches are resolved again when the arena moves, parameters stay where they are, and
        // the plan gives kernels views that are in bounds and apart.
        unsafe { cuda.launch(launch) }
    })
}

/// Lets a kernel's blocks have that many bytes of shared memory, which is asked for beyond 48 KiB.
fn allow_shared(function: &CudaFunction, bytes: usize) -> Result<(), CudaError> {
    let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    if bytes <= 48 << 10 {
        return Ok(());
    }
    function
        .set_attribute(attribute, bytes as i32)
        .during("giving a kernel shared memory")
}

/// Copies floats from a device, whatever type they have there.
pub(super) fn read(
    device: &Device,
    from: &Buffer,
    byte: usize,
    dtype: DType,
    data: &mut [f32],
) -> Result<(), CudaError> {
    if dtype.bytes() == size_of::<f32>() {
        return device.download(from, byte, data);
    }
    let mut bytes = vec![0_u8; data.len() * dtype.bytes()];
    device.download(from, byte, &mut bytes)?;
    dtype.decode(&bytes, data);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        thread,
    };

    use ailora_graph::ir::{Program, Type};

    use super::*;
    use crate::{
        backend::Precision, cuda::Cuda, plan::plan, run::Run, store::Params, weights::Weights,
    };

    const DRAW: Draw = Draw { seed: 3, step: 5 };

    /// Closing a device waits for all work on it, which no thread may do while another captures.
    #[test]
    fn plans_are_captured_while_other_threads_open_and_close_the_device() {
        const OTHERS: usize = 30;
        let open = || Cuda::open(0, Precision::F32, None);
        let Ok(mut cuda) = open() else {
            println!("skipped: there is no device");
            return;
        };
        let mut p = Program::new();
        let x = p.input("x", Type::f32([64, 64])).unwrap();
        let square = p.matmul(x, false, x, true).unwrap();
        p.set_output("square", square);
        let (plan, data) = (plan(&p), vec![1.0; 64 * 64]);
        let mut weights = Weights::new(Params::new());
        let closed = AtomicUsize::new(0);
        let (mut captured, mut runs) = (0, 0);
        thread::scope(|scope| {
            scope.spawn(|| {
                while closed.load(Ordering::Relaxed) < OTHERS {
                    drop(open());
                    closed.fetch_add(1, Ordering::Relaxed);
                }
            });
            while closed.load(Ordering::Relaxed) < OTHERS {
                let inputs = [("x", Value::F32(&data))];
                let run = Run {
                    id: runs,
                    plan: &plan,
                    weights: &mut weights,
                    inputs: &inputs,
                    draw: DRAW,
                };
                let ran = cuda.compile(&plan).and_then(|()| cuda.execute(run));
                runs += 1;
                captured += usize::from(ran.is_ok() && cuda.programs[runs - 1].graph.is_some());
            }
        });
        assert!(runs > OTHERS);
        assert_eq!(captured, runs);
    }
}
