use std::fmt;

use super::Program;

/// One line a node that a result needs: `%3 = matmul_nt %1 %2 : f32[12, 8]`.
impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let live = self.live();
        for id in self.ids().filter(|&id| live[usize::from(id)]) {
            let node = &self[id];
            write!(f, "%{id} = {}", node.op)?;
            for arg in &node.args {
                write!(f, " %{arg}")?;
            }
            writeln!(f, " : {}", self.ty(id))?;
        }
        for (name, id) in self.outputs() {
            writeln!(f, "return {name} = %{id}")?;
        }
        Ok(())
    }
}
