//! DoRA: trained magnitudes beside low-rank factors, against their definition.

mod support;

use std::collections::HashMap;

use ailora_graph::{
    AdapterSpec, Strategy, Trainable,
    adapt::{Mode, adapt, distribute},
    adapter::{Layout, Site},
    element_types::element_types,
    grad::{gradient_name, gradients},
    ir::{Bindings, DType, Draw, Op, Program, Tensor, Type, ops::elementwise::Binary},
    method::{
        Projected,
        constructors::{minor, principal, random},
    },
};
use support::{bind, close, encoder, encoder_inputs, normal};

const DRAW: Draw = Draw { seed: 3, step: 5 };

fn site([out, inputs]: [usize; 2], spec: AdapterSpec, layout: Layout) -> Site {
    Site {
        path: "p".into(),
        weight: "p.weight".into(),
        bias: Some("p.bias".into()),
        in_features: inputs,
        out_features: out,
        layout,
        spec,
    }
}

/// `y = x W^T + b` of one projection, and the loss `sum(y)`; adapted.
fn projection(site: &Site, rows: usize, mode: Mode) -> Program {
    let mut p = Program::new();
    let (out, inputs) = (site.out_features, site.in_features);
    let x = p.input("x", Type::f32([rows, inputs])).unwrap();
    let is_rows = site.layout == Layout::OutIn;
    let shape = if is_rows {
        [out, inputs]
    } else {
        [inputs, out]
    };
    let weight = p.frozen("p.weight", Type::f32(shape)).unwrap();
    let bias = p.frozen("p.bias", Type::f32([out])).unwrap();
    let y = p.matmul(x, false, weight, is_rows).unwrap();
    let y = p.sum(y, bias).unwrap();
    let loss = p.sum_to(y, &[]).unwrap();
    p.set_output("y", y);
    p.set_output("loss", loss);
    adapt(&p, std::slice::from_ref(site), &Trainable::Adapters, mode).unwrap()
}

fn bindings<const N: usize>(values: [(&str, &[usize], &[f64]); N]) -> Bindings {
    let tensor = |(name, shape, data): (&str, &[usize], &[f64])| {
        (name.to_owned(), Tensor::new(shape, data.to_vec()))
    };
    values.into_iter().map(tensor).collect()
}

/// What is dropped from the input still goes through the frozen weight, unscaled; the bias sees no dropout.
/// The outputs are those of PEFT 0.21.2, one for each mask.
#[test]
fn dropout_is_of_both_terms_with_one_mask() {
    let spec = random(2).with_dora(true).with_dropout(0.5);
    let site = site([1, 2], spec, Layout::OutIn);
    let values = bindings([
        ("p.weight", &[1, 2], &[3.0, 4.0]),
        ("p.bias", &[1], &[7.0]),
        ("p.lora_A.weight", &[2, 2], &[1.0, 0.0, 0.0, 1.0]),
        ("p.lora_B.weight", &[1, 2], &[1.0, 0.0]),
        ("p.lora_magnitude_vector", &[1], &[5.0]),
        ("x", &[1, 2], &[1.0, 1.0]),
    ]);
    let near = |a: f64, b: f64| (a - b).abs() < 5e-5;
    let trained = projection(&site, 1, Mode::Train);
    let expected = [14.0, 13.0711, 15.0711, 14.1421];
    let mut seen = [false; 4];
    for step in 0..40 {
        let draw = Draw { seed: 1, step };
        let y = trained.eval(&values, draw).unwrap()["y"].data[0];
        let which = expected.iter().position(|&known| near(known, y));
        seen[which.unwrap_or_else(|| panic!("{y}"))] = true;
    }
    assert_eq!(seen, [true; 4]);
    let y = projection(&site, 1, Mode::Infer)
        .eval(&values, DRAW)
        .unwrap()["y"]
        .data[0];
    assert!(near(y, 14.0711), "{y}");
}

/// With the norm in the derivative it would be [0.64, -0.48].
#[test]
fn the_norm_is_a_constant_to_the_derivative() {
    let site = site([1, 2], random(2).with_dora(true), Layout::OutIn);
    let values = bindings([
        ("p.weight", &[1, 2], &[3.0, 4.0]),
        ("p.bias", &[1], &[0.0]),
        ("p.lora_A.weight", &[2, 2], &[1.0, 0.0, 0.0, 1.0]),
        ("p.lora_B.weight", &[1, 2], &[0.0, 0.0]),
        ("p.lora_magnitude_vector", &[1], &[5.0]),
        ("x", &[1, 2], &[1.0, 0.0]),
    ]);
    let step = gradients(&projection(&site, 1, Mode::Train), "loss").unwrap();
    let found = step.eval(&values, DRAW).unwrap();
    assert_eq!(found[&*gradient_name("p.lora_B.weight")].data, [1.0, 0.0]);
    // x V^T / |V| = 3 / 5.
    let magnitude = found[&*gradient_name("p.lora_magnitude_vector")].data[0];
    assert!((magnitude - 0.6).abs() < 1e-12);
}

/// PEFT 0.21.2 divides by zero there.
#[test]
fn a_row_of_zeros_is_finite_and_its_output_is_the_bias() {
    let site = site([8, 8], random(2).with_dora(true), Layout::OutIn);
    let step = gradients(&projection(&site, 3, Mode::Train), "loss").unwrap();
    let mut values = Bindings::new();
    bind(&step, &mut values);
    values.get_mut("p.weight").unwrap().data[3 * 8..4 * 8].fill(0.0);
    values.get_mut("p.lora_B.weight").unwrap().data.fill(0.0);
    for magnitude in [0.0, 1.5] {
        values.get_mut("p.lora_magnitude_vector").unwrap().data[3] = magnitude;
        let found = step.eval(&values, DRAW).unwrap();
        for row in 0..3 {
            assert_eq!(found["y"].at(&[row, 3]), values["p.bias"].data[3]);
        }
        assert!(found.values().all(|x| x.data.iter().all(|x| x.is_finite())));
        // Its factors still learn, with k = 1.
        let up = &found[&*gradient_name("p.lora_B.weight")];
        assert!(up.at(&[3, 0]) != 0.0);
    }
}

/// A start, perturbed, and magnitudes that are not the lengths.
fn perturbed(program: &Program) -> Bindings {
    let mut values = Bindings::new();
    bind(program, &mut values);
    for (name, value) in &mut values {
        if name.ends_with("lora_magnitude_vector") {
            value.data.iter_mut().for_each(|x| *x = x.abs() + 0.4);
        }
    }
    values
}

const SPECS: [AdapterSpec; 4] = [
    random(2).with_alpha(3.0).with_dora(true),
    principal(3).with_alpha(1.5).with_dora(true),
    minor(1).with_alpha(2.5).with_dora(true),
    minor(2).with_alpha(3.0).with_dora(true).with_dropout(0.4),
];

/// `k (x V^T) + b` of the definition, for the adapter at `site`.
fn defined(site: &Site, values: &Bindings, rows: usize) -> (Tensor, Tensor) {
    let (out, inputs) = (site.out_features, site.in_features);
    let scale = site.spec.scale().unwrap();
    let product = |b: &str, a: &str, i: usize, j: usize| -> f64 {
        match (values.get(b), values.get(a)) {
            (Some(b), Some(a)) => {
                let ranks = 0..a.shape[0];
                ranks.map(|k| b.at(&[i, k]) * a.at(&[k, j])).sum()
            }
            _ => 0.0,
        }
    };
    let v = Tensor::from_fn(&[out, inputs], |index| {
        let [i, j] = [index[0], index[1]];
        let at = if site.layout == Layout::OutIn {
            [i, j]
        } else {
            [j, i]
        };
        values["p.weight"].at(&at) + scale * product(&site.lora_b(), &site.lora_a(), i, j)
            - scale * product(&site.lora_b0(), &site.lora_a0(), i, j)
    });
    let merged = Tensor::from_fn(&[out, inputs], |index| {
        let row = (0..inputs).map(|j| v.at(&[index[0], j]).powi(2));
        let length = row.sum::<f64>().sqrt();
        values["p.lora_magnitude_vector"].data[index[0]] / length * v.at(index)
    });
    let y = Tensor::from_fn(&[rows, out], |index| {
        let x = &values["x"];
        let terms = (0..inputs).map(|j| x.at(&[index[0], j]) * merged.at(&[index[1], j]));
        terms.sum::<f64>() + values["p.bias"].data[index[1]]
    });
    (y, merged)
}

#[test]
fn outputs_and_merged_weights_are_as_defined_in_either_layout() {
    for layout in [Layout::OutIn, Layout::InOut] {
        for spec in SPECS {
            let site = site([5, 4], spec, layout);
            let program = projection(&site, 3, Mode::Infer);
            let values = perturbed(&program);
            let (y, weight) = defined(&site, &values, 3);
            let apart = distribute(&program).unwrap();
            for program in [&program, &apart] {
                let found = &program.eval(&values, DRAW).unwrap()["y"];
                assert!(close(found, &y, 1e-12), "{spec:?}\n{program}");
            }
            let is_moved = program.frozen_parameters().count() > 2;
            let no_residual = |id| match &apart[id].op {
                Op::RowLengths(op) => op.scales.len() == 1 + usize::from(is_moved),
                op => !matches!(op, Op::Binary(Binary::Sub)) || apart.ty(id).rank() < 2,
            };
            let live = apart.live();
            let mut ids = apart.ids().filter(|&id| live[usize::from(id)]);
            assert!(ids.all(no_residual), "{apart}");

            let mut merged = Program::new();
            let shape = values["p.weight"].shape.clone();
            let own = merged.frozen("p.weight", Type::f32(shape)).unwrap();
            let bias = merged.frozen("p.bias", Type::f32([5])).unwrap();
            let Strategy::Adapted(adapter) = spec.strategy else {
                panic!("it is adapted");
            };
            let mut p = Projected {
                program: &mut merged,
                site: &site,
                sites: std::slice::from_ref(&site),
            };
            let result = adapter.merged(&mut p, own, Some(bias)).unwrap().unwrap();
            assert_eq!(result.bias, Some(bias));
            let published = adapter.published(&mut p).unwrap();
            for (name, id) in published.tensors {
                merged.set_output(name, id);
            }
            merged.set_output("merged", result.weight);
            let found = merged.eval(&values, DRAW).unwrap();
            let expected = match layout {
                Layout::OutIn => weight.clone(),
                Layout::InOut => Tensor::from_fn(&[4, 5], |index| weight.at(&[index[1], index[0]])),
            };
            assert!(close(&found["merged"], &expected, 1e-12));

            // The published adapter is one of plain factors and magnitudes beside W.
            let published = Site {
                spec: published.spec,
                ..site.clone()
            };
            let program = projection(&published, 3, Mode::Infer);
            assert_eq!(program.frozen_parameters().count(), 2);
            let mut values: Bindings = values
                .iter()
                .filter(|(name, _)| !name.contains("lora"))
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect();
            let tensors = found.into_iter().map(|(name, x)| (name.to_string(), x));
            values.extend(tensors);
            assert!(close(&program.eval(&values, DRAW).unwrap()["y"], &y, 1e-12));
        }
    }
}

/// The program with the lengths of rows as parameters, and their values: to central differences they would
/// vary.
fn with_constant_lengths(program: &Program, values: &Bindings) -> (Program, Bindings) {
    let mut lengths = program.clone();
    lengths.clear_outputs();
    let is_lengths = |&id: &_| matches!(program[id].op, Op::RowLengths(_));
    let name = |id| format!("lengths {id}");
    for id in program.ids().filter(is_lengths) {
        lengths.set_output(name(id), id);
    }
    let found = lengths.eval(values, DRAW).unwrap();
    let mut values = values.clone();
    values.extend(found.into_iter().map(|(name, x)| (name.to_string(), x)));
    let constant = program.rewrite(|new, id, node, args| match node.op {
        Op::RowLengths(_) => new.frozen(&name(id), program.ty(id).clone()),
        _ => new.add(node.op.clone(), args),
    });
    (constant.unwrap(), values)
}

#[test]
fn gradients_are_central_differences_at_constant_lengths() {
    const H: f64 = 1e-5;
    for spec in SPECS {
        let site = site([5, 4], spec, Layout::OutIn);
        let mut p = projection(&site, 3, Mode::Train);
        let y = p.outputs()["y"];
        let square = p.product(y, y).unwrap();
        let loss = p.sum_to(square, &[]).unwrap();
        p.set_output("loss", loss);
        let values = perturbed(&p);
        let step = gradients(&p, "loss").unwrap();
        let found = step.eval(&values, DRAW).unwrap();
        let (constant, values) = with_constant_lengths(&p, &values);
        let names: HashMap<String, usize> = p
            .trained_parameters()
            .map(|leaf| (leaf.name.to_string(), leaf.ty.len()))
            .collect();
        assert_eq!(names.len(), 3);
        for (name, count) in names {
            let slopes = (0..count).map(|i| {
                let [above, below] = [H, -H].map(|h| {
                    let mut values = values.clone();
                    values.get_mut(&name).unwrap().data[i] += h;
                    constant.eval(&values, DRAW).unwrap()["loss"].data[0]
                });
                (above - below) / (2.0 * H)
            });
            let expected = Tensor::new(values[&name].shape.clone(), slopes.collect::<Vec<_>>());
            let found = &found[&*gradient_name(&name)];
            assert!(
                close(found, &expected, 1e-7),
                "{name}: {found:?} {expected:?}"
            );
        }
    }
}

/// At the start a model computes what it did, whatever the start and the scale.
#[test]
fn nothing_changes_at_the_start() {
    let config = r#"{"sites": {"query": {"init": "random", "rank": 2, "alpha": 3.0, "dora": true},
        "up": {"init": "minor", "rank": 3, "alpha": 1.5, "dora": true}}}"#;
    let (program, sites) = encoder(2, 0.0, config);
    let adapted = adapt(&program, &sites, &Trainable::Adapters, Mode::Train).unwrap();
    let mut values = encoder_inputs();
    bind(&adapted, &mut values);
    for site in sites.iter().filter(|site| site.is_adapted()) {
        let weight = values[&site.weight].clone();
        let row = |i: usize| (0..weight.shape[1]).map(move |j| (i, j));
        let lengths = (0..weight.shape[0]).map(|i| {
            let squares = row(i).map(|(i, j)| weight.at(&[i, j]).powi(2));
            squares.sum::<f64>().sqrt()
        });
        let lengths = Tensor::new([weight.shape[0]], lengths.collect::<Vec<_>>());
        values.insert(site.lora_magnitudes(), lengths);
        match values.get(&site.lora_a0()).cloned() {
            Some(a) => values.insert(site.lora_a(), a),
            None => values.get_mut(&site.lora_b()).map(|b| {
                b.data.fill(0.0);
                b.clone()
            }),
        };
        if let Some(b) = values.get(&site.lora_b0()).cloned() {
            values.insert(site.lora_b(), b);
        }
    }
    let before = &program.eval(&values, DRAW).unwrap()["logits"];
    let after = &adapted.eval(&values, DRAW).unwrap()["logits"];
    assert!(close(before, after, 1e-12));
}

/// The lengths of each adapter's rows are those over the weight itself, whatever other adapters there are.
#[test]
fn merging_two_adapters_takes_both_norms_from_the_original_weight() {
    let spec = random(4).with_alpha(8.0).with_dora(true);
    let site = site([16, 16], spec, Layout::OutIn);
    let program = projection(&site, 3, Mode::Infer);
    let base = perturbed(&program);
    let with = |which: &str| {
        let mut values = base.clone();
        for (name, value) in &mut values {
            if name.contains("lora") {
                *value = normal(&format!("{name} {which}"), &value.shape, 0.4);
            }
        }
        values
    };
    let [first, second] = ["first", "second"].map(with);
    let plain = |weight: &Tensor| {
        let mut values = base.clone();
        values.insert("p.weight".into(), weight.clone());
        let mut frozen = site.clone();
        frozen.spec = AdapterSpec::frozen();
        projection(&frozen, 3, Mode::Infer)
            .eval(&values, DRAW)
            .unwrap()["y"]
            .clone()
    };
    let add = |a: &Tensor, b: &Tensor, c: &Tensor| {
        let sums = (a.data.iter().zip(&b.data)).zip(&c.data);
        Tensor::new(
            a.shape.clone(),
            sums.map(|((a, b), c)| a + b - c).collect::<Vec<_>>(),
        )
    };
    let weight = base["p.weight"].clone();
    let outputs = [&first, &second].map(|values| program.eval(values, DRAW).unwrap()["y"].clone());
    let unmerged = add(&outputs[0], &outputs[1], &plain(&weight));
    let merged = [&first, &second].map(|values| defined(&site, values, 3).1);
    let merged = plain(&add(&merged[0], &merged[1], &weight));
    assert!(close(&unmerged, &merged, 1e-5));
    assert_eq!(base["p.weight"], weight);
}

/// In bfloat16 the magnitudes and the factors `k` stay float32.
#[test]
fn magnitudes_are_float32_over_weights_in_bfloat16() {
    let site = site([5, 4], SPECS[1], Layout::OutIn);
    let program = distribute(&projection(&site, 3, Mode::Train)).unwrap();
    let step = gradients(&program, "loss").unwrap();
    let typed = element_types(&step, DType::Bf16).unwrap();
    for leaf in typed.trained_parameters().chain(typed.frozen_parameters()) {
        let is_vector = leaf.ty.rank() == 1;
        let expected = if is_vector { DType::F32 } else { DType::Bf16 };
        assert_eq!(leaf.ty.dtype, expected, "{}", leaf.name);
    }
    let vectors = typed.ids().filter(|&id| typed.shape(id) == [5]);
    assert!(
        vectors
            .map(|id| typed.ty(id).dtype)
            .all(|dtype| dtype == DType::F32)
    );
    let gradient = typed.outputs()[&*gradient_name("p.lora_magnitude_vector")];
    assert_eq!(*typed.ty(gradient), Type::f32([5]));
}
