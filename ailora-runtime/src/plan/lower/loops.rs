//! Chains of element-wise and row-wise operations as loops.

use ailora_graph::ir::{Id, Op};

use super::Lowering;
use crate::{
    kernels::{
        Kernel,
        fused::{Access, Instruction, Loop, LoopOp, Source, Stored},
    },
    plan::{Step, View},
};

impl Lowering<'_> {
    /// A loop over the members' common shape.
    pub(super) fn fused(&mut self, time: usize, members: &[Id]) {
        let program = self.program;
        let whole_rows = members
            .iter()
            .any(|&id| loop_op(&program[id].op).needs_row());
        let shape = program.shape(members[0]).to_vec();
        let mut operands: Vec<Id> = Vec::new();
        let mut instructions = Vec::new();
        for (to, &id) in members.iter().enumerate() {
            let args = program[id].args.iter().map(|&arg| {
                if let Some(register) = members.iter().position(|&member| member == arg) {
                    return Source::Register(register);
                }
                if let Op::Const(value) = &program[arg].op {
                    return Source::Number(value.0 as f32);
                }
                let known = operands.iter().position(|&operand| operand == arg);
                Source::Operand(known.unwrap_or_else(|| {
                    operands.push(arg);
                    operands.len() - 1
                }))
            });
            let args = args.collect();
            let op = loop_op(&program[id].op);
            instructions.push(Instruction { op, args, to });
        }
        let leaves: Vec<Id> = members
            .iter()
            .copied()
            .filter(|&id| self.units[usize::from(id)][0] == time && self.is_read_outside(id, time))
            .collect();
        let reads: Vec<View> = operands.iter().map(|&id| self.view(id)).collect();
        let mut taken: Vec<usize> = Vec::new();
        let writes: Vec<View> = leaves
            .iter()
            .map(|&id| {
                let dying = operands.iter().copied().find(|&operand| {
                    let buffer = self.view(operand).buffer;
                    program.shape(operand) == shape
                        && !taken.contains(&buffer)
                        && operands
                            .iter()
                            .all(|&o| o == operand || self.view(o).buffer != buffer)
                        && self.replaces(operand, id, time)
                });
                let view = match dying {
                    Some(operand) => self.view(operand),
                    None => self.place(id),
                };
                taken.push(view.buffer);
                self.keep(id, view);
                view
            })
            .collect();
        let operand_strides = operands.iter().zip(&reads).map(|(&id, view)| {
            let own = program.shape(id);
            let lead = shape.len() - own.len();
            let mut strides = vec![0; shape.len()];
            for (axis, stride) in view.strides(own).into_iter().enumerate() {
                strides[lead + axis] = if own[axis] == 1 { 0 } else { stride };
            }
            strides
        });
        let result_strides = writes.iter().map(|view| view.strides(&shape));
        let strides = operand_strides.chain(result_strides).collect();
        let domain = Domain::collapsed(&shape, strides, whole_rows);
        let registers = leaves
            .iter()
            .filter_map(|id| members.iter().position(|member| member == id));
        let kernel = domain.walk(instructions, registers.collect(), whole_rows);
        self.out.steps.push(Step {
            kernel: Kernel::Loop(kernel),
            reads,
            writes,
        });
    }
}

fn loop_op(op: &Op) -> LoopOp {
    match op {
        Op::Unary(op) => LoopOp::Unary(*op),
        Op::Binary(op) => LoopOp::Binary(*op),
        Op::Dropout(op) => LoopOp::Dropout {
            rate: op.rate.0,
            stream: op.stream.clone(),
        },
        Op::Softmax(_) => LoopOp::Softmax,
        Op::SoftmaxGrad(_) => LoopOp::SoftmaxGrad,
        Op::Normalize(op) => LoopOp::Normalize {
            centered: op.centered,
            eps: op.eps.0 as f32,
        },
        Op::NormalizeGrad(op) => LoopOp::NormalizeGrad {
            centered: op.centered,
            eps: op.eps.0 as f32,
        },
        // An expansion is its operand, walked with strides of 0.
        _ => LoopOp::Copy,
    }
}

/// The shape that a loop walks, and the strides of each operand along it.
struct Domain {
    shape: Vec<usize>,
    strides: Vec<Vec<usize>>,
}

impl Domain {
    /// `shape` with as few axes as the operands allow: axes of size 1 are dropped, and neighbours
    /// that every operand walks as one are one. The last axis is kept where rows must stay whole.
    fn collapsed(shape: &[usize], strides: Vec<Vec<usize>>, whole_rows: bool) -> Self {
        let mut domain = Self {
            shape: Vec::new(),
            strides: vec![Vec::new(); strides.len()],
        };
        for (axis, &size) in shape.iter().enumerate() {
            let is_row = whole_rows && axis + 1 == shape.len();
            if size == 1 && !is_row {
                continue;
            }
            let continues = |(own, all): (&Vec<usize>, &Vec<usize>)| {
                own.last().is_some_and(|&outer| outer == all[axis] * size)
            };
            let merges = !is_row
                && !domain.shape.is_empty()
                && domain.strides.iter().zip(&strides).all(continues);
            if merges {
                if let Some(last) = domain.shape.last_mut() {
                    *last *= size;
                }
                for (own, all) in domain.strides.iter_mut().zip(&strides) {
                    own.pop();
                    own.push(all[axis]);
                }
            } else {
                domain.shape.push(size);
                for (own, all) in domain.strides.iter_mut().zip(&strides) {
                    own.push(all[axis]);
                }
            }
        }
        // Columns lie side by side; what does not is rows of one column.
        if domain.strides.iter().any(|own| own.last() > Some(&1)) {
            domain.shape.push(1);
            domain.strides.iter_mut().for_each(|own| own.push(0));
        }
        domain
    }

    /// The loop over it; the strides of its results are the last ones.
    fn walk(self, instructions: Vec<Instruction>, results: Vec<usize>, whole_rows: bool) -> Loop {
        let (width, rows) = match self.shape.split_last() {
            Some((&width, rows)) => (width, rows.to_vec()),
            None => (1, Vec::new()),
        };
        let mut operands: Vec<Access> = self
            .strides
            .into_iter()
            .map(|mut strides| Access {
                column: strides.pop().unwrap_or(0),
                rows: strides,
            })
            .collect();
        let stored = operands.split_off(operands.len() - results.len());
        let results = stored
            .into_iter()
            .zip(results)
            .map(|(walked, register)| Stored {
                register,
                rows: walked.rows,
                is_non_temporal: false,
            })
            .collect();
        let mut walk = Loop {
            rows,
            width,
            whole_rows,
            operands,
            registers: instructions.len(),
            instructions,
            results,
        };
        walk.reuse_registers();
        walk
    }
}

impl Loop {
    /// Writes a number to a tensor without dimensions.
    pub(super) fn fill(number: f32) -> Self {
        Self {
            rows: Vec::new(),
            width: 1,
            whole_rows: false,
            operands: Vec::new(),
            instructions: vec![Instruction {
                op: LoopOp::Copy,
                args: vec![Source::Number(number)],
                to: 0,
            }],
            registers: 1,
            results: vec![Stored {
                register: 0,
                rows: Vec::new(),
                is_non_temporal: false,
            }],
        }
    }

    /// Renames registers so that one whose value is no longer read is written again. A result is
    /// read at the end.
    fn reuse_registers(&mut self) {
        let mut last_read = vec![0; self.registers];
        for (time, instruction) in self.instructions.iter().enumerate() {
            for arg in &instruction.args {
                if let Source::Register(register) = arg {
                    last_read[*register] = time;
                }
            }
        }
        for result in &self.results {
            last_read[result.register] = usize::MAX;
        }
        let mut names = vec![0; self.registers];
        let mut free: Vec<usize> = Vec::new();
        let mut used = 0;
        for (time, instruction) in self.instructions.iter_mut().enumerate() {
            let mut dying = Vec::new();
            for arg in &mut instruction.args {
                if let Source::Register(register) = arg {
                    let name = names[*register];
                    if last_read[*register] == time && !dying.contains(&name) {
                        dying.push(name);
                    }
                    *register = name;
                }
            }
            // The result is none of the arguments, so those are free only afterwards.
            let name = free.pop().unwrap_or_else(|| {
                used += 1;
                used - 1
            });
            names[instruction.to] = name;
            instruction.to = name;
            free.extend(dying);
        }
        for result in &mut self.results {
            result.register = names[result.register];
        }
        self.registers = used;
    }
}
