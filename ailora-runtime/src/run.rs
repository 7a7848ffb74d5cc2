//! What goes into a plan and comes out of it, on any device.

use ailora_graph::ir::{DType, Draw, Name, ops::loss::IGNORED};
use indexmap::IndexMap;
use thiserror::Error;

use crate::{
    plan::{Buffer, Input, Plan},
    store::Params,
    weights::Weights,
};

/// A value for an input of a plan.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    /// Floats.
    F32(&'a [f32]),
    /// Ids.
    I32(&'a [i32]),
}

/// One execution of a plan that a backend was given.
#[derive(Debug)]
pub struct Run<'a, 'i> {
    /// The plan's number, in the order in which the backend was given its plans.
    pub id: usize,
    /// The plan.
    pub plan: &'a Plan,
    /// The parameters.
    pub weights: &'a mut Weights,
    /// A value for each input of the plan.
    pub inputs: &'i [(&'i str, Value<'i>)],
    /// What fixes its random numbers.
    pub draw: Draw,
}

/// A plan that cannot be run on what was given.
#[derive(Debug, Error)]
pub enum RunError {
    /// There is less memory than intermediate values take.
    #[error(
        "{} bytes of memory are needed for intermediate values, and cannot be had; take smaller \
         batches or shorter rows, or checkpoint gradients", .0
    )]
    NoMemory(usize),
    /// An input without a value.
    #[error("input `{0}` has no value")]
    MissingInput(Name),
    /// An input of another size or type.
    #[error("input `{name}` is {expected}, found {found}")]
    WrongInput {
        /// Its name.
        name: Name,
        /// Its type.
        expected: String,
        /// What was given.
        found: String,
    },
    /// An id that is not below the number of rows or classes.
    #[error("input `{name}`: id {id} at position {position} is not in 0..{limit}")]
    IdOutOfRange {
        /// The input's name.
        name: Name,
        /// The id.
        id: i32,
        /// Its position.
        position: usize,
        /// How many ids there are.
        limit: usize,
    },
    /// A result that the program does not have.
    #[error("the compiled program has no output `{0}`")]
    NoOutput(String),
    /// A parameter that the store does not have, or has in another size.
    #[error("parameter `{0}` is missing from the store or has another shape there")]
    MissingParameter(Name),
}

/// The results of a run, until the next.
#[derive(Clone, Copy, Debug)]
pub struct Outputs<'a> {
    held: Held<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Held<'a> {
    /// Where the plan left them.
    InPlace {
        plan: &'a Plan,
        arena: &'a [f32],
        params: &'a Params,
    },
    /// Copied from a device.
    Copied(&'a IndexMap<Name, Vec<f32>>),
}

impl<'a> Outputs<'a> {
    /// Where a plan left them, in the arena and in parameters.
    pub fn in_place(plan: &'a Plan, arena: &'a [f32], params: &'a Params) -> Self {
        Self {
            held: Held::InPlace {
                plan,
                arena,
                params,
            },
        }
    }

    /// Copied from where they were computed.
    pub fn copied(outputs: &'a IndexMap<Name, Vec<f32>>) -> Self {
        Self {
            held: Held::Copied(outputs),
        }
    }

    /// The elements of an output that has to be there.
    ///
    /// # Errors
    /// It is not.
    pub fn output(&self, name: &str) -> Result<&'a [f32], RunError> {
        self.get(name)
            .ok_or_else(|| RunError::NoOutput(name.to_owned()))
    }

    /// The elements of an output, if there is one of this name.
    pub fn get(&self, name: &str) -> Option<&'a [f32]> {
        match self.held {
            Held::InPlace {
                plan,
                arena,
                params,
            } => {
                let (view, _) = plan.outputs.get(name)?;
                match &plan.buffers[view.buffer] {
                    Buffer::Arena { start, .. } => Some(&arena[start + view.start..][..view.len()]),
                    // What is put into a state is no output.
                    Buffer::State { .. } => None,
                    Buffer::Parameter { name, .. } => {
                        Some(&params.get(&**name)?.as_f32()?[view.start..][..view.len()])
                    }
                }
            }
            Held::Copied(outputs) => outputs.get(name).map(Vec::as_slice),
        }
    }
}

/// The value of each of a plan's inputs, in their order.
///
/// # Errors
/// One that is missing, of another size or type, or has an id out of range.
pub(crate) fn bound<'a>(
    inputs: &'a [Input],
    values: &[(&str, Value<'a>)],
) -> Result<Vec<(&'a Input, Value<'a>)>, RunError> {
    let find = |input: &'a Input| {
        let given = values.iter().find(|(name, _)| *name == &*input.name);
        let (_, value) = given.ok_or_else(|| RunError::MissingInput(input.name.clone()))?;
        check(input, *value)?;
        Ok((input, *value))
    };
    inputs.iter().map(find).collect()
}

fn check(input: &Input, value: Value<'_>) -> Result<(), RunError> {
    let len = input.view.len();
    match (value, input.ty.dtype) {
        (Value::F32(data), DType::F32) if data.len() == len => Ok(()),
        (Value::I32(data), DType::I32) if data.len() == len => {
            let limit = input.range.map_or(i32::MAX as usize, |range| range.limit);
            let ignorable = input.range.is_some_and(|range| range.ignorable);
            let outside = |&id: &i32| {
                usize::try_from(id).map_or(!(ignorable && id == IGNORED), |id| id >= limit)
            };
            match data.iter().position(outside) {
                None => Ok(()),
                Some(position) => Err(RunError::IdOutOfRange {
                    name: input.name.clone(),
                    id: data[position],
                    position,
                    limit,
                }),
            }
        }
        (value, _) => {
            let found = match value {
                Value::F32(data) => format!("{} floats", data.len()),
                Value::I32(data) => format!("{} ids", data.len()),
            };
            Err(RunError::WrongInput {
                name: input.name.clone(),
                expected: input.ty.to_string(),
                found,
            })
        }
    }
}
