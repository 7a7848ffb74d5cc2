//! Results that are read long after they are written, as what a backward pass needs.

use super::{Plan, Step, View};
use crate::kernels::Kernel;

/// Elements from which on a result pushes others out of the caches.
const LARGE: usize = 256 * 1024;
/// Steps after which what was written is no longer in the caches.
const SOON: usize = 2;

/// Marks the large results of loops that the next steps do not read.
pub(super) fn mark(plan: &mut Plan) {
    let is_non_temporal = |time: usize, view: &View| {
        let next: Vec<&Step> = plan.steps[time + 1..].iter().take(SOON).collect();
        let near = plan.steps[time].reads.iter();
        let mut near = near.chain(next.iter().flat_map(|step| &step.reads));
        view.len() >= LARGE && near.all(|read| read.buffer != view.buffer)
    };
    let all = plan.steps.iter().enumerate();
    let marked: Vec<Vec<bool>> = all
        .map(|(time, step)| {
            step.writes
                .iter()
                .map(|v| is_non_temporal(time, v))
                .collect()
        })
        .collect();
    for (step, marked) in plan.steps.iter_mut().zip(marked) {
        if let Kernel::Loop(walk) = &mut step.kernel {
            for (stored, is_non_temporal) in walk.results.iter_mut().zip(marked) {
                stored.is_non_temporal = is_non_temporal;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ailora_graph::ir::{Draw, Program, Type, ops::elementwise::Unary};

    use super::*;
    use crate::{cpu::Cpu, plan::plan, run::Value, store::Params};

    fn marks(plan: &mut Plan) -> Vec<&mut bool> {
        let loops = plan
            .steps
            .iter_mut()
            .filter_map(|step| match &mut step.kernel {
                Kernel::Loop(walk) => Some(walk),
                _ => None,
            });
        loops
            .flat_map(|walk| walk.results.iter_mut().map(|r| &mut r.is_non_temporal))
            .collect()
    }

    /// A slope waits for the backward pass, what it is the slope of does not; and bits stay.
    #[test]
    fn what_the_backward_pass_reads_is_non_temporal() {
        for width in [1024, 1022, 1023] {
            let mut p = Program::new();
            let x = p.input("x", Type::f32([512, width])).unwrap();
            let w = p.input("w", Type::f32([width, 8])).unwrap();
            let [y, slope] = [Unary::Gelu, Unary::GeluPrime].map(|f| p.unary(f, x).unwrap());
            let mut z = p.matmul(y, false, w, false).unwrap();
            for _ in 0..3 {
                let square = p.matmul(w, true, w, false).unwrap();
                z = p.matmul(z, false, square, false).unwrap();
            }
            let back = p.matmul(z, false, w, true).unwrap();
            let dx = p.product(back, slope).unwrap();
            p.set_output("dx", dx);
            let mut plan = plan(&p);
            assert_eq!(marks(&mut plan), [&mut false, &mut true, &mut false]);

            let key = Draw::default().key("values");
            let draw = |n: u64| (0..n).map(|i| key.normal(i) as f32).collect::<Vec<_>>();
            let [x, w] = [draw(512 * width as u64), draw(8 * width as u64)];
            let inputs = [("x", Value::F32(&x)), ("w", Value::F32(&w))];
            let run = |plan: &Plan| -> Vec<u32> {
                let (mut cpu, params) = (Cpu::new(), Params::new());
                let outputs = cpu.run(plan, &params, &inputs, Draw::default()).unwrap();
                outputs
                    .get("dx")
                    .unwrap()
                    .iter()
                    .map(|x| x.to_bits())
                    .collect()
            };
            let streamed = run(&plan);
            marks(&mut plan).into_iter().for_each(|mark| *mark = false);
            assert!(streamed == run(&plan));
        }
    }
}
