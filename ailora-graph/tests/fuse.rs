//! Fused programs compute what they were made from.

mod support;

use ailora_graph::{
    adapt::adapt,
    fuse::{Fused, cost::Costs, fuse, layout::Pack},
    grad::gradients,
    hoist::hoist,
    ir::{Bindings, Draw, Op, Program, Tensor},
};
use support::{bind, close, encoder, encoder_inputs};

const DRAW: Draw = Draw { seed: 3, step: 5 };

/// Values of packs from those of their parts.
fn pack(packs: &[Pack], bindings: &mut Bindings) {
    for pack in packs {
        let mut whole = Tensor::new(
            pack.shape.to_vec(),
            vec![0.0; pack.shape.iter().product::<usize>()],
        );
        for part in &pack.parts {
            let value = &bindings[&*part.parameter];
            assert_eq!(value.shape, part.shape);
            for row in 0..part.shape[0] {
                for column in 0..part.shape[1] {
                    let at = (part.at[0] + row) * pack.shape[1] + part.at[1] + column;
                    assert_eq!(whole.data[at], 0.0, "parts lie apart");
                    whole.data[at] = value.at(&[row, column]);
                }
            }
        }
        bindings.insert(pack.name.to_string(), whole);
    }
}

fn check(program: &Program, bindings: &Bindings) -> Fused {
    let expected = program.eval(bindings, DRAW).unwrap();
    let fused = fuse(program, &Costs::default(), &[], |_| true).unwrap();
    let mut bindings = bindings.clone();
    pack(&fused.packs, &mut bindings);
    let found = fused.program.eval(&bindings, DRAW).unwrap();
    assert_eq!(
        expected.keys().collect::<Vec<_>>(),
        found.keys().collect::<Vec<_>>()
    );
    for (name, expected) in &expected {
        assert!(
            close(&found[name], expected, 1e-9),
            "{name}\n{program}\n{}",
            fused.program
        );
    }
    fused
}

fn products(program: &Program) -> usize {
    let live = program.live();
    program
        .ids()
        .filter(|&id| live[usize::from(id)] && matches!(program[id].op, Op::MatMul(_)))
        .count()
}

#[test]
fn an_adapted_encoder_is_fused() {
    for config in [
        r#"{"sites": {"query": {"init": "principal", "rank": 2}, "value": {"init": "minor", "rank": 2}}}"#,
        r#"{"sites": {"query": {"init": "principal", "rank": 2, "alpha": 3.0},
            "value": {"init": "minor", "rank": 3, "lr": 2.0, "dropout": 0.2},
            "layers.1.up": {"init": "random", "rank": 2},
            "classifier": {"init": "full"}}}"#,
    ] {
        let (program, sites) = encoder(2, 0.1, config);
        let adapted = adapt(&program, &sites, false).unwrap();
        for step in [adapted.clone(), gradients(&adapted, "loss").unwrap()] {
            let step = hoist(&step).unwrap().step;
            let mut bindings = encoder_inputs();
            bind(&step, &mut bindings);
            let fused = check(&step, &bindings);
            for report in &fused.reports {
                eprintln!(
                    "{}\n=>\n{}\n{:?} {:?} {:?} {:?} {:?} x{}",
                    report.before,
                    report.after,
                    report.stop,
                    report.size,
                    report.found,
                    report.method,
                    report.seconds,
                    report.count
                );
            }
            eprintln!("{} => {}", products(&step), products(&fused.program));
        }
    }
}
