//! Which results may be left in the memory of what they are computed from.

use ailora_graph::ir::{Id, Op};

use super::{Kind, Lowering, homes::is_for_sum};

impl Lowering<'_> {
    /// Whether a product that is added to `onto` is left in its memory.
    pub(super) fn takes_sum(&self, onto: Id, node: Id, product: Id, time: usize) -> bool {
        let view = self.view(onto);
        let factors = &self.program[product].args;
        is_for_sum(self.program, &self.readers, onto)
            || (self.homes[usize::from(node)].is_none()
                && self.is_value(onto)
                && self.dies(onto, time)
                && factors
                    .iter()
                    .all(|&factor| self.view(factor).buffer != view.buffer))
    }

    /// Whether a result may take the place of an operand: what lies there is read before it is stored.
    pub(super) fn replaces(&self, operand: Id, result: Id, time: usize) -> bool {
        self.homes[usize::from(result)].is_none()
            && self.is_value(operand)
            && (self.dies(operand, time) || self.part_dies(operand, result, time))
    }

    fn is_value(&self, id: Id) -> bool {
        self.out.buffers[self.view(id).buffer].kind == Kind::Value
    }

    /// Whether it lies in a state.
    pub(super) fn is_state(&self, id: Id) -> bool {
        matches!(self.out.buffers[self.view(id).buffer].kind, Kind::State(_))
    }

    /// Whether nothing reads an operand's buffer later.
    fn dies(&self, operand: Id, time: usize) -> bool {
        let owner = self.program.source(operand);
        let view = self.view(operand);
        self.last_use[usize::from(owner)] == time
            && view.len() == self.out.buffers[view.buffer].len
            // What it joins may be read later.
            && !matches!(self.program[owner].op, Op::Concat(_))
    }

    /// Whether a result may take the place of an operand that is columns of a wider value,
    /// since all else that reads the value reads other columns.
    fn part_dies(&self, operand: Id, result: Id, time: usize) -> bool {
        let program = self.program;
        if self.is_output(result) || self.is_read_outside(operand, time) {
            return false;
        }
        let mut part = operand;
        while program[part].op.is_view() {
            let whole = program[part].args[0];
            let apart = |other: Id| match (&program[part].op, &program[other].op) {
                (Op::Slice(a), Op::Slice(b)) => {
                    a.axis == b.axis && (a.end <= b.start || b.end <= a.start)
                }
                _ => false,
            };
            let mut readers = self.readers[usize::from(whole)].iter();
            if self.is_output(whole) || !readers.all(|&other| other == part || apart(other)) {
                return false;
            }
            part = whole;
        }
        // What has its home elsewhere may be read there.
        part != operand
            && self.homes[usize::from(part)].is_none()
            && !matches!(program[part].op, Op::Concat(_))
    }

    /// Whether a node is a result, in whatever type of elements.
    pub(super) fn is_output(&self, id: Id) -> bool {
        let mut outputs = self.program.outputs().values();
        outputs.any(|&output| match self.program[output].op {
            Op::Cast(_) => self.program[output].args[0] == id || output == id,
            _ => output == id,
        })
    }

    /// Whether something reads a node's memory beside the unit of that time.
    pub(super) fn is_read_outside(&self, id: Id, time: usize) -> bool {
        let own = &self.units[usize::from(id)];
        let mut readers = self.readers[usize::from(id)].iter();
        let reads = |reader: &Id| {
            let mut units = self.units[usize::from(*reader)].iter();
            units.any(|unit| *unit != time && !own.contains(unit))
        };
        self.is_output(id) || readers.any(reads)
    }
}
