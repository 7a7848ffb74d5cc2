//! The backward pass: reverse-mode differentiation of a program into the same program.

use thiserror::Error;

use crate::ir::{Id, Op, Program, ProgramError};

/// A loss that cannot be differentiated.
#[derive(Debug, Error)]
pub enum GradError {
    /// The program has no such output.
    #[error("the program has no output `{loss}`; it has {found}")]
    NoLoss {
        /// The name asked for.
        loss: String,
        /// The names there are.
        found: String,
    },
    /// A loss that is not one number.
    #[error("the loss `{loss}` has shape {shape:?}; expected a single number")]
    NotScalar {
        /// Its name.
        loss: String,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// An operation without a derivative on the way to the loss, or types that do not fit.
    #[error(transparent)]
    Program(#[from] ProgramError),
}

/// Name of the output that is the gradient of a parameter.
pub fn gradient_name(parameter: &str) -> String {
    format!("grad.{parameter}")
}

/// The program of a training step: the output `loss` and its gradients alone.
///
/// # Errors
/// As [`gradients`].
pub fn step(program: &Program, loss: &str) -> Result<Program, GradError> {
    let mut alone = program.clone();
    alone.retain_outputs(|name| name == loss);
    gradients(&alone, loss)
}

/// Adds to the outputs the gradient of the output `loss` towards every trained parameter.
///
/// Nothing is computed towards frozen parameters or inputs, nor below the lowest trained parameter.
///
/// # Errors
/// The loss is missing or not a single number, or an operation on the way has no derivative.
pub fn gradients(program: &Program, loss: &str) -> Result<Program, GradError> {
    let Some(&end) = program.outputs().get(loss) else {
        let names: Vec<&str> = program.outputs().keys().map(|name| &**name).collect();
        return Err(GradError::NoLoss {
            loss: loss.to_owned(),
            found: names.join(", "),
        });
    };
    if !program.shape(end).is_empty() {
        return Err(GradError::NotScalar {
            loss: loss.to_owned(),
            shape: program.shape(end).to_vec(),
        });
    }
    let trains = program.depends_on(|op| matches!(op, Op::Trained(_)));
    let mut new = program.clone();
    let mut towards: Vec<Option<Id>> = vec![None; program.len()];
    towards[usize::from(end)] = Some(new.constant(1.0));
    for y in program.ids().rev() {
        let Some(dy) = towards[usize::from(y)].filter(|_| trains[usize::from(y)]) else {
            continue;
        };
        let node = &program[y];
        let Some(operation) = node.op.operation() else {
            continue;
        };
        let wants: Vec<bool> = node
            .args
            .iter()
            .map(|&arg| trains[usize::from(arg)])
            .collect();
        let partial = operation.vjp(&mut new, y, &node.args, dy, &wants)?;
        for ((&arg, partial), _) in node
            .args
            .iter()
            .zip(partial)
            .zip(&wants)
            .filter(|(_, w)| **w)
        {
            let Some(partial) = partial else { continue };
            let slot = &mut towards[usize::from(arg)];
            *slot = Some(match *slot {
                Some(sum) => new.sum(sum, partial)?,
                None => partial,
            });
        }
    }
    for id in program.ids() {
        if let (Op::Trained(leaf), Some(grad)) = (&program[id].op, towards[usize::from(id)]) {
            new.set_output(gradient_name(&leaf.name), grad);
        }
    }
    Ok(new)
}
