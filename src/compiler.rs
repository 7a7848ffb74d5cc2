//! `ailora` as a luminal compiler: part of a graph becomes one adapted operator.

use std::{
    cell::RefCell,
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
};

use ailora_graph::{
    AdaptConfig, Module, Visitor,
    adapter::{AdapterError, Site, Trainable},
    ir::Draw,
    lift::{Leaves, LiftError, Output, lift},
    module::Parameter,
};
use ailora_runtime::{
    backend::Precision,
    engine::{Engine, EngineError, PlanId},
    init::{InitError, initialise},
    passes::{PassError, Passes},
    run::Value,
    spectrum::Options,
    store::{Array, Params},
    weights::Weights,
};
use luminal::{
    op::{InputTensor, Operator},
    prelude::{
        Compiler as LuminalCompiler, Graph, NodeIndex, ShapeTracker, Tensor, ToIdsMut,
        petgraph::Direction,
    },
};
use thiserror::Error;

/// A graph that cannot be compiled; it is left as it was.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "most variants are the error they wrap")]
pub enum CompileError {
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    #[error(transparent)]
    Lift(#[from] LiftError),
    #[error(transparent)]
    Pass(#[from] PassError),
    #[error(transparent)]
    Init(#[from] InitError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A parameter without a value: adapters start from it.
    #[error("parameter `{0}` has no value; set it before compiling, since adapters start from it")]
    Unset(String),
    /// The compiler was never run on a graph.
    #[error("the compiler has not been run; call `cx.compile(compiler, &mut outputs)`")]
    NotRun,
}

/// Adapts a model of a luminal graph: `cx.compile(Compiler::new(&model, &config)?, &mut outputs)`
/// replaces what computes the outputs by one operator, so that `cx.execute()` gives the adapted
/// outputs. Keep [`adapters`](Self::adapters) to see whether it worked and to reach the adapters.
///
/// ```
/// use ailora::{AdaptConfig, Compiler, adapt};
/// use luminal::{nn::linear::Linear, prelude::*};
///
/// #[adapt(project = principal(2))]
/// struct Model { project: Linear<4, 4> }
///
/// let mut cx = Graph::new();
/// let model = Model { project: InitModule::initialize(&mut cx) };
/// let x = cx.named_tensor::<R2<1, 4>>("x").set(vec![1.0, 2.0, 3.0, 4.0]);
/// let mut y = model.project.forward(x).retrieve();
/// cx.execute();
/// let before = y.data();
///
/// let compiler = Compiler::new(&model, &AdaptConfig::default())?;
/// let adapters = compiler.adapters();
/// cx.compile(compiler, &mut y);
/// adapters.check()?;
/// cx.execute();
/// assert!(y.data().iter().zip(before).all(|(a, b)| (a - b).abs() < 1e-5));
/// # Ok::<(), ailora::compiler::CompileError>(())
/// ```
#[derive(Debug)]
pub struct Compiler {
    parameters: Vec<Parameter>,
    leaves: Leaves,
    sites: Vec<Site>,
    trainable: Trainable,
    seed: u64,
    adapters: Adapters,
}

/// The adapters of a compiled graph.
#[derive(Clone, Debug)]
pub struct Adapters(Rc<RefCell<Result<Engine, CompileError>>>);

impl Adapters {
    /// Whether the graph was compiled.
    ///
    /// # Errors
    /// Why it was not; takes the reason with it.
    pub fn check(&self) -> Result<(), CompileError> {
        let mut state = self.0.borrow_mut();
        match &*state {
            Ok(_) => Ok(()),
            Err(_) => std::mem::replace(&mut *state, Err(CompileError::NotRun)).map(|_| ()),
        }
    }

    /// Changes the parameters of the adapters, such as to trained ones. Nothing happens before the
    /// graph is compiled.
    pub fn update(&self, f: impl FnOnce(&mut Weights)) {
        if let Ok(engine) = &mut *self.0.borrow_mut() {
            f(engine.weights_mut());
        }
    }
}

impl Compiler {
    /// A compiler for graphs that `model` is part of, with the adapters that its annotations and
    /// `config` give.
    ///
    /// # Errors
    /// The configuration does not fit the model.
    pub fn new<M: Module + ?Sized>(model: &M, config: &AdaptConfig) -> Result<Self, AdapterError> {
        let (parameters, sites) = Visitor::inventory(model);
        let sites = config.resolve(sites)?;
        let trainable = config.resolve_trainable(&sites, &parameters)?;
        Ok(Self {
            parameters,
            leaves: Leaves::of(model),
            sites,
            trainable,
            seed: 0,
            adapters: Adapters(Rc::new(RefCell::new(Err(CompileError::NotRun)))),
        })
    }

    /// Sets what fixes random starts.
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// A handle to the adapters of the graph that this compiler is run on.
    pub fn adapters(&self) -> Adapters {
        self.adapters.clone()
    }

    fn replace(
        &self,
        graph: &mut Graph,
        mut outputs: Vec<&mut NodeIndex>,
    ) -> Result<(), CompileError> {
        let wanted: Vec<Output> = outputs
            .iter()
            .enumerate()
            .map(|(i, node)| Output::buffer(&i.to_string(), **node))
            .collect();
        let program = lift(graph, &self.leaves, &wanted)?;
        let passes = Passes {
            sites: &self.sites,
            trainable: &self.trainable,
            precision: Precision::F32,
        };
        let adapted = passes.inference(&program)?;
        let mut params = parameter_values(&self.parameters, graph)?;
        initialise(
            &self.sites,
            &mut params,
            self.seed,
            &Options::default(),
            |_| {},
        )?;
        let mut engine = Engine::new(params);
        let plan = engine.compile(&adapted)?;
        engine.release_unread();

        let inputs: Vec<(String, NodeIndex, usize)> = engine
            .plan(plan)
            .inputs
            .iter()
            .filter_map(|input| {
                let node = self.leaves.node_of(graph, &input.name)?;
                Some((input.name.to_string(), node, input.ty.len()))
            })
            .collect();
        *self.adapters.0.borrow_mut() = Ok(engine);
        let operator = Adapted {
            adapters: self.adapters.clone(),
            plan,
            inputs: inputs.iter().map(|(name, _, _)| name.clone()).collect(),
            outputs: outputs.len(),
        };
        let mut node = graph.add_op(operator);
        for (_, input, len) in &inputs {
            node = node.input(*input, 0, ShapeTracker::new(&[(*len).into()]));
        }
        let node = node.finish();
        for (i, output) in outputs.iter_mut().enumerate() {
            let take = graph
                .add_op(Take)
                .input(node, i as u8, ShapeTracker::new(&[]))
                .finish();
            let old = std::mem::replace(&mut **output, take);
            for set in [&mut graph.no_delete, &mut graph.to_retrieve] {
                if set.remove(&old) {
                    set.insert(take);
                }
            }
            graph.tensors.remove(&(old, 0));
            prune(graph, old);
        }
        Ok(())
    }
}

/// The values that are set for the parameters of a luminal model, by name.
///
/// # Errors
/// A parameter has none.
pub fn values<M: Module + ?Sized>(model: &M, graph: &mut Graph) -> Result<Params, CompileError> {
    parameter_values(&Visitor::inventory(model).0, graph)
}

/// What the loads of parameters give.
fn parameter_values(parameters: &[Parameter], graph: &mut Graph) -> Result<Params, CompileError> {
    parameters
        .iter()
        .map(|parameter| {
            let unset = || CompileError::Unset(parameter.name.clone());
            let loaded = match graph.get_tensor_ref(parameter.node, 0) {
                Some(tensor) => Some(tensor.clone()),
                None => {
                    let load = graph
                        .graph
                        .node_weight_mut(parameter.node)
                        .ok_or_else(unset)?;
                    // luminal's own placeholder for a value that was not set panics.
                    catch_unwind(AssertUnwindSafe(|| load.process(Vec::new())))
                        .ok()
                        .and_then(|tensors| tensors.into_iter().next())
                }
            };
            let data = loaded
                .as_ref()
                .and_then(|tensor| tensor.data.as_any().downcast_ref::<Vec<f32>>())
                .filter(|data| data.len() == parameter.shape.iter().product::<usize>());
            let array = Array::new(parameter.shape.clone(), data.ok_or_else(unset)?.clone());
            Ok((parameter.name.clone(), array))
        })
        .collect()
}

impl LuminalCompiler for Compiler {
    fn compile<T: ToIdsMut>(&self, graph: &mut Graph, mut remap: T) {
        let replaced = self.replace(graph, remap.to_ids_mut());
        if let Err(error) = replaced {
            *self.adapters.0.borrow_mut() = Err(error);
        }
    }
}

/// Removes a node that nothing reads, and then those that only it read, but no loads: they may be
/// set again.
fn prune(graph: &mut Graph, node: NodeIndex) {
    let mut stack = vec![node];
    while let Some(node) = stack.pop() {
        let read = graph
            .graph
            .edges_directed(node, Direction::Outgoing)
            .next()
            .is_some();
        let sources: Vec<NodeIndex> = graph
            .graph
            .neighbors_directed(node, Direction::Incoming)
            .collect();
        if !read && !sources.is_empty() && !graph.no_delete.contains(&node) {
            graph.graph.remove_node(node);
            stack.extend(sources);
        }
    }
}

/// The adapted part of a graph.
#[derive(Debug)]
struct Adapted {
    adapters: Adapters,
    plan: PlanId,
    inputs: Vec<String>,
    outputs: usize,
}

impl PartialEq for Adapted {
    fn eq(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.adapters.0, &other.adapters.0)
    }
}

impl Operator for Adapted {
    fn process(&mut self, inputs: Vec<(InputTensor, ShapeTracker)>) -> Vec<Tensor> {
        let values = inputs.iter().map(|(input, _)| {
            let data = input.borrowed().data.as_any().downcast_ref::<Vec<f32>>();
            data.map(Vec::as_slice).unwrap_or_default()
        });
        let named: Vec<(&str, Value<'_>)> = self
            .inputs
            .iter()
            .map(String::as_str)
            .zip(values.map(Value::F32))
            .collect();
        let mut state = self.adapters.0.borrow_mut();
        let run = |engine: &mut Engine| -> Result<Vec<Tensor>, EngineError> {
            let outputs = engine.run(self.plan, &named, Draw::default())?;
            let take = |i: usize| Ok(Tensor::new(outputs.output(&i.to_string())?.to_vec()));
            (0..self.outputs).map(take).collect()
        };
        let result = match &mut *state {
            Ok(engine) => run(engine),
            // The error was taken by whoever asked; the graph then has no such operator.
            Err(_) => Ok(Vec::new()),
        };
        match result {
            Ok(tensors) => tensors,
            // luminal's operators cannot fail: like its own, this one panics on a missing value.
            Err(error) => panic!("{error}"),
        }
    }
}

/// One of several outputs of an operator.
#[derive(Debug, PartialEq)]
struct Take;

impl Operator for Take {
    fn process(&mut self, inputs: Vec<(InputTensor, ShapeTracker)>) -> Vec<Tensor> {
        inputs
            .into_iter()
            .map(|(input, _)| input.cloned())
            .collect()
    }
}
