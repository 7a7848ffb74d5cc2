//! What the values of a program are kept in.

use crate::ir::{DType, Leaf, Op, Program, ProgramError, Type};

/// The program with its matrices kept as elements of `matrices`, a type of floats: parameters with two axes or
/// more, embeddings among them, states, and inputs, which are cast to it.
///
/// What is computed is as narrow as the narrowest value that it is computed of. Vectors (biases, gains) stay
/// float32, and so do losses, sums along axes, and results, which are cast to it.
///
/// # Errors
/// None for a program that passed its own type checks.
pub fn element_types(program: &Program, matrices: DType) -> Result<Program, ProgramError> {
    let mut typed = program.rewrite(|new, _, node, args| match &node.op {
        Op::Frozen(leaf) => new.add(Op::Frozen(kept(leaf, matrices)), &[]),
        Op::Trained(leaf) => new.add(Op::Trained(kept(leaf, matrices)), &[]),
        Op::State(leaf) => new.add(Op::State(kept(leaf, matrices)), &[]),
        Op::Input(leaf) => {
            let dtype = kept(leaf, matrices).ty.dtype;
            let given = new.add(node.op.clone(), &[])?;
            new.cast(given, dtype)
        }
        Op::Cast(cast) => new.cast(args[0], cast.to),
        op => new.add(op.clone(), args),
    })?;
    let outputs: Vec<_> = typed.outputs().clone().into_iter().collect();
    for (name, id) in outputs {
        let node = &typed[id];
        let stays = matches!(node.op, Op::Put(_)) && matches!(typed[node.args[0]].op, Op::State(_));
        if typed.ty(id).dtype.is_float() && !stays {
            let wide = typed.cast(id, DType::F32)?;
            typed.set_output(name, wide);
        }
    }
    Ok(typed)
}

/// A leaf as it is kept.
fn kept(leaf: &Leaf, matrices: DType) -> Leaf {
    let is_matrix = leaf.ty.dtype.is_float() && leaf.ty.rank() >= 2;
    let dtype = if is_matrix { matrices } else { leaf.ty.dtype };
    Leaf {
        name: leaf.name.clone(),
        ty: Type::new(dtype, leaf.ty.shape.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{Bindings, Draw, Tensor};

    /// `y = x W^T + b` with numbers that bfloat16 does not have.
    #[test]
    fn values_are_rounded_to_what_they_are_kept_in() {
        let mut p = Program::new();
        let x = p.input("x", Type::f32([1, 2])).unwrap();
        let w = p.frozen("w", Type::f32([1, 2])).unwrap();
        let b = p.frozen("b", Type::f32([1])).unwrap();
        let product = p.matmul(x, false, w, true).unwrap();
        let y = p.sum(product, b).unwrap();
        p.set_output("y", y);
        p.set_output("b", b);
        let typed = element_types(&p, DType::Bf16).unwrap();
        let types: Vec<String> = typed.ids().map(|id| typed.ty(id).to_string()).collect();
        let expected = [
            "f32[1, 2]",
            "bf16[1, 2]",
            "bf16[1, 2]",
            "f32[1]",
            "bf16[1, 1]",
            "bf16[1, 1]",
            "f32[1, 1]",
        ];
        assert_eq!(types, expected);
        assert!(
            typed
                .outputs()
                .values()
                .all(|&id| typed.ty(id).dtype == DType::F32)
        );
        let bindings = |w: [f64; 2], b: f64| -> Bindings {
            let values = [("x", vec![1.0, 0.5]), ("w", w.to_vec()), ("b", vec![b])];
            let shape = |name| if name == "b" { vec![1] } else { vec![1, 2] };
            let tensors = values.map(|(name, v)| (name.to_owned(), Tensor::new(shape(name), v)));
            tensors.into_iter().collect()
        };
        // 1.003 is 1.0 in bfloat16, 2.012 is 2.015625, and so 1 + 1.0078125 is 2.0, the even of two as near.
        let values = typed
            .eval(&bindings([1.003, 2.012], 0.001), Draw::default())
            .unwrap();
        assert_eq!(values["y"].data, [2.0]);
        assert_eq!(values["b"].data, [0.001]);
        let again = element_types(&typed, DType::Bf16).unwrap();
        assert_eq!(again.to_string(), typed.to_string());
        let same = element_types(&p, DType::F32).unwrap();
        assert_eq!(same.to_string(), p.to_string());
    }
}
