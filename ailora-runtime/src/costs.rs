//! Times of matrix products on this machine, measured once.

use std::{path::Path, time::Instant};

use ailora_graph::{
    fuse::cost::{Costs, ProductCost},
    ir::{Draw, Program, ProgramError, Type},
};
use faer::{Mat, linalg::solvers::SolveLstsq};
use thiserror::Error;

use crate::{
    cpu::Cpu,
    plan::plan,
    run::{RunError, Value},
    store::{Params, StoreError, write_atomically},
};

/// Costs that cannot be measured or kept.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each variant is the error it wraps")]
pub enum CostError {
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Rows, columns and depths of the products that are measured: wide, thin on either side, small.
const SIZES: [[usize; 3]; 12] = [
    [512, 384, 384],
    [2048, 384, 384],
    [2048, 1152, 400],
    [512, 1024, 1024],
    [2048, 16, 384],
    [2048, 128, 1024],
    [512, 8, 1024],
    [2048, 384, 16],
    [512, 1024, 8],
    [1024, 64, 384],
    [64, 384, 384],
    [128, 16, 384],
];
/// Each is timed until this many seconds have passed, and at least thrice.
const SECONDS: f64 = 0.01;

/// The costs in `file`, measured and kept there if it is not there or of another machine.
///
/// # Errors
/// They cannot be measured or written.
pub fn cached(file: &Path) -> Result<Costs, CostError> {
    let machine = machine();
    let known = std::fs::read(file).ok();
    let known = known.and_then(|bytes| serde_json::from_slice::<Kept>(&bytes).ok());
    if let Some(kept) = known.filter(|kept| kept.machine == machine) {
        return Ok(kept.costs);
    }
    let costs = measure()?;
    let text = serde_json::to_vec_pretty(&Kept { machine, costs }).unwrap_or_default();
    write_atomically(file, &text)?;
    Ok(costs)
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Kept {
    machine: String,
    costs: Costs,
}

/// The processor's name and how many threads are used.
pub fn machine() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find(|line| line.starts_with("model name"));
    let name = model.and_then(|line| line.split(": ").nth(1));
    let threads = rayon::current_num_threads();
    format!(
        "{}, {threads} threads",
        name.unwrap_or(std::env::consts::ARCH)
    )
}

/// Measures this machine: about half a second.
///
/// # Errors
/// None that can be foreseen: the programs that are run are fixed.
pub fn measure() -> Result<Costs, CostError> {
    let product = fit(&SIZES, false)?;
    // Gradients of parameters sum over rows: their result is one of the thin sides.
    let outer = SIZES.map(|[rows, columns, depth]| [columns.min(depth), columns.max(depth), rows]);
    Ok(Costs {
        product,
        outer: fit(&outer, true)?,
        element: element()?,
        merges: true,
        vector: 1,
    })
}

/// The seconds a flop, an element and a start that predict best, in the least squares of relative
/// errors, what products of these sizes take; none is negative.
fn fit(sizes: &[[usize; 3]], trans_a: bool) -> Result<ProductCost, CostError> {
    let mut rows: Vec<[f64; 5]> = Vec::new();
    for &[m, n, k] in sizes {
        let mut p = Program::new();
        let a = p.input("a", Type::f32(if trans_a { [k, m] } else { [m, k] }))?;
        let b = p.input("b", Type::f32([k, n]))?;
        let c = p.matmul(a, trans_a, b, false)?;
        p.set_output("c", c);
        let seconds = time(&p)?;
        rows.push(ProductCost::counts([m, n, k]).map(|count| count / seconds));
    }
    // Terms that would be negative are left out, the most negative first.
    let mut used: Vec<usize> = (0..5).collect();
    loop {
        let a = Mat::from_fn(rows.len(), used.len(), |i, j| rows[i][used[j]]);
        // Columns of one size, or the smallest are lost.
        let sizes: Vec<f64> = (0..used.len()).map(|j| a.col(j).norm_l2()).collect();
        let a = Mat::from_fn(rows.len(), used.len(), |i, j| a[(i, j)] / sizes[j]);
        let ones = Mat::from_fn(rows.len(), 1, |_, _| 1.0);
        let x = a.col_piv_qr().solve_lstsq(&ones);
        let worst = (0..used.len()).min_by(|&i, &j| x[(i, 0)].total_cmp(&x[(j, 0)]));
        match worst {
            Some(worst) if x[(worst, 0)] < 0.0 && used.len() > 1 => {
                used.remove(worst);
            }
            _ => {
                let mut seconds = [0.0; 5];
                for (j, &term) in used.iter().enumerate() {
                    seconds[term] = x[(j, 0)].max(0.0) / sizes[j];
                }
                return Ok(ProductCost::from_seconds(seconds));
            }
        }
    }
}

/// Seconds of adding to an element in memory.
fn element() -> Result<f64, CostError> {
    const SHAPE: [usize; 2] = [2048, 1024];
    let mut p = Program::new();
    let a = p.input("a", Type::f32(SHAPE))?;
    let b = p.input("b", Type::f32(SHAPE))?;
    let sum = p.sum(a, b)?;
    p.set_output("sum", sum);
    Ok(time(&p)? / (SHAPE[0] * SHAPE[1]) as f64)
}

/// The least seconds that a program's kernels took.
fn time(program: &Program) -> Result<f64, CostError> {
    let plan = plan(program);
    let values: Vec<(&str, Vec<f32>)> = plan
        .inputs
        .iter()
        .map(|input| {
            let key = Draw::default().key(&input.name);
            let data = (0..input.ty.len()).map(|i| key.uniform(i as u64) as f32 - 0.5);
            (&*input.name, data.collect())
        })
        .collect();
    let inputs: Vec<(&str, Value<'_>)> = values
        .iter()
        .map(|(name, data)| (*name, Value::F32(data)))
        .collect();
    let mut cpu = Cpu::new();
    let mut least = f64::INFINITY;
    let start = Instant::now();
    let mut runs = 0;
    while runs < 3 || start.elapsed().as_secs_f64() < SECONDS {
        let mut seconds = Vec::new();
        cpu.profile(
            &plan,
            &Params::new(),
            &inputs,
            Draw::default(),
            &mut seconds,
        )?;
        least = least.min(seconds.iter().sum());
        runs += 1;
    }
    Ok(least.max(1e-9))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_kept_for_the_machine_that_they_were_measured_on() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("costs.json");
        let first = cached(&file).unwrap();
        let all =
            [first.product, first.outer].map(|c| [c.flop, c.left, c.right, c.result, c.start]);
        assert!(
            all.iter()
                .flatten()
                .chain([&first.element])
                .all(|x| x.is_finite() && *x >= 0.0)
        );
        assert!(first.product.flop > 0.0 || first.product.left > 0.0);
        assert_eq!(cached(&file).unwrap(), first);
        let other = Kept {
            machine: "another".into(),
            costs: Costs {
                element: 1.0,
                ..first
            },
        };
        std::fs::write(&file, serde_json::to_vec(&other).unwrap()).unwrap();
        assert!(cached(&file).unwrap().element < 1.0);
        std::fs::write(&file, b"no json").unwrap();
        assert!(cached(&file).unwrap().element < 1.0);
    }
}
