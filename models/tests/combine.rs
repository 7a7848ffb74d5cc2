//! Adapters made one of several: what PEFT computes with them (`tests/fixtures/combine.py`), and by
//! definition where PEFT 0.21 is wrong.

mod support;

use ailora_graph::{
    adapt::{Mode, adapt},
    adapter::{Site, Trainable},
    method::constructors::random,
};
use ailora_models::{
    head::Head,
    peft::{Adapter, Combination, Combine, Majority, PeftError, Source},
    pretrained::Pretrained,
};
use ailora_runtime::store::Array;
use support::{File, fixtures, largest_difference, run};

const BASE: &str = "llama_gqa_tied-0";
/// The seed of what DARE drops in the fixture.
const SEED: u64 = 11;

fn base() -> Pretrained {
    Pretrained::open(&fixtures().join("parity").join(BASE), Head::CausalLm).unwrap()
}

fn load(name: &str, base: &mut Pretrained) -> Adapter {
    Adapter::load(&fixtures().join("combine").join(name), base).unwrap()
}

fn logits(base: &Pretrained, adapter: &Adapter) -> Vec<f64> {
    let io = fixtures().join("parity").join(BASE).join("io.safetensors");
    let batch = File::open(&io).batch(Head::CausalLm);
    let program = base.model.program(batch.shape(), false, false).unwrap();
    let sites = adapter.apply_to(base.model.sites());
    let program = adapt(&program, &sites, &Trainable::Adapters, Mode::Infer).unwrap();
    let mut params = base.weights.clone();
    params.extend(adapter.tensors.clone());
    let mut outputs = run(&program, &params, &base.model.inputs(&batch));
    outputs.retain(|(name, _)| name == "logits");
    outputs.remove(0).1
}

fn how(kind: Combination) -> Combine {
    let drops = kind.name().starts_with("dare");
    let prunes = drops || kind.name().starts_with("ties") || kind.name().starts_with("magnitude");
    Combine {
        kind,
        density: prunes.then_some(0.6),
        seed: drops.then_some(SEED),
        ..Combine::default()
    }
}

/// The combination of adapters called `a`, `b` and so on.
fn combine(adapters: &[(&Adapter, f64)], how: &Combine) -> Result<Adapter, PeftError> {
    let names = ["a", "b", "c"];
    let sources: Vec<Source<'_>> = names
        .iter()
        .zip(adapters)
        .map(|(name, &(adapter, weight))| Source {
            name,
            adapter,
            weight,
        })
        .collect();
    Adapter::combine(&sources, how, &base().model)
}

#[test]
fn every_way_computes_what_it_does_in_peft() {
    let mut base = base();
    let [a, b, c] = ["a", "b", "c"].map(|name| load(name, &mut base));
    let expected = File::open(&fixtures().join("combine/logits.safetensors"));
    let three = Combine {
        svd_rank: Some(3),
        ..how(Combination::Svd)
    };
    let frequency = Combine {
        majority: Some(Majority::Frequency),
        ..how(Combination::Ties)
    };
    let others = [("svd_3", three), ("ties_frequency", frequency)];
    let named = Combination::ALL.map(|kind| (kind.name(), how(kind)));
    for (name, how) in named.into_iter().chain(others) {
        let mut weighted = vec![(&a, 0.7), (&b, -0.4)];
        if how.kind == Combination::Cat || name.contains("svd") {
            weighted.push((&c, 1.3));
        }
        let combined = combine(&weighted, &how).unwrap_or_else(|e| panic!("{name}: {e}"));
        let found = logits(&base, &combined);
        let expected = expected.floats(name);
        let most = expected.iter().fold(1.0, |most: f64, x| most.max(x.abs()));
        let difference = largest_difference(&found, &expected) / most;
        assert!(difference <= 1e-5, "{name}: {difference:e}");
    }
}

/// `s B A` of a projection, `[out, in]`.
fn change(adapter: &Adapter, path: &str) -> Vec<f64> {
    let site = &adapter.sites[path];
    let (a, b) = (
        &adapter.tensors[&site.lora_a()],
        &adapter.tensors[&site.lora_b()],
    );
    let rank = site.spec.rank().unwrap();
    assert_eq!(a.shape(), [rank, site.in_features], "{path}");
    assert_eq!(b.shape(), [site.out_features, rank], "{path}");
    let (a, b) = (a.floats(), b.floats());
    let at = |i: usize, j: usize| -> f64 {
        let terms =
            (0..rank).map(|k| f64::from(b[i * rank + k]) * f64::from(a[k * site.in_features + j]));
        site.spec.scale().unwrap() * terms.sum::<f64>()
    };
    let places = (0..site.out_features).flat_map(|i| (0..site.in_features).map(move |j| (i, j)));
    places.map(|(i, j)| at(i, j)).collect()
}

fn assert_near(what: &str, found: &[f64], expected: &[f64]) {
    let most = expected.iter().fold(1.0, |most: f64, x| most.max(x.abs()));
    let difference = largest_difference(found, expected) / most;
    assert!(difference <= 1e-6, "{what}: {difference:e}");
}

/// Of weighted changes, by projection.
fn sum(weighted: &[(&Adapter, f64)], path: &str) -> Vec<f64> {
    let mut sum = Vec::new();
    for (adapter, weight) in weighted.iter().filter(|(a, _)| a.sites.contains_key(path)) {
        let change = change(adapter, path);
        sum.resize(change.len(), 0.0);
        sum.iter_mut()
            .zip(change)
            .for_each(|(s, x)| *s += weight * x);
    }
    sum
}

/// A random adapter of these ranks at the queries and values of the two layers.
fn adapter(seed: usize, ranks: [usize; 4], scale: f64) -> Adapter {
    let mut adapter = Adapter::default();
    let sites = base().model.sites().into_iter();
    let sites = sites.filter(|site| site.path.ends_with("q_proj") || site.path.ends_with("v_proj"));
    for (i, (site, rank)) in sites.zip(ranks).enumerate() {
        let spec = random(rank).with_alpha(scale * rank as f64);
        let site = Site { spec, ..site };
        let numbers = |shape: [usize; 2], salt: usize| {
            let number = |k: usize| ((k * 37 + salt * 101 + seed * 53) % 97) as f32 / 48.0 - 1.0;
            Array::new(shape, (0..shape[0] * shape[1]).map(number).collect())
        };
        let [a, b] = [[rank, site.in_features], [site.out_features, rank]];
        adapter.tensors.insert(site.lora_a(), numbers(a, 2 * i));
        adapter.tensors.insert(site.lora_b(), numbers(b, 2 * i + 1));
        adapter.sites.insert(site.path.clone(), site);
    }
    adapter
}

/// PEFT 0.21 inherits `use_rslora`, and so doubles this adapter: `sqrt(4)`.
#[test]
fn one_rank_stabilised_adapter_is_itself() {
    let mut base = base();
    for source in [adapter(1, [4; 4], 8.0 / 2.0), load("c", &mut base)] {
        for kind in [Combination::Linear, Combination::Cat, Combination::Svd] {
            let found = combine(&[(&source, 1.0)], &how(kind)).unwrap();
            for path in source.sites.keys() {
                assert_near(kind.name(), &change(&found, path), &change(&source, path));
                assert_eq!(found.sites[path].spec.scale(), Some(1.0));
            }
        }
    }
}

#[test]
fn negative_weights_turn_the_change_round() {
    let (a, b) = (adapter(1, [4; 4], 2.0), adapter(2, [4; 4], 0.5));
    for kind in [Combination::Linear, Combination::Cat, Combination::Svd] {
        let of = |weighted: &[(&Adapter, f64)]| combine(weighted, &how(kind)).unwrap();
        let minus = of(&[(&a, -1.0)]);
        let [one, other] = [[-1.0, 1.0], [1.0, -1.0]].map(|[x, y]| of(&[(&a, x), (&b, y)]));
        for path in a.sites.keys() {
            let turned: Vec<f64> = change(&minus, path).iter().map(|x| -x).collect();
            assert_near(kind.name(), &turned, &change(&a, path));
            let turned: Vec<f64> = change(&other, path).iter().map(|x| -x).collect();
            // Of the cross terms one factor changes its sign in each.
            assert_near(kind.name(), &turned, &change(&one, path));
            assert!(change(&one, path).iter().any(|x| x.abs() > 1e-3));
        }
    }
}

#[test]
fn cat_and_svd_are_the_sum_and_linear_is_not() {
    let (a, b) = (adapter(1, [3; 4], 2.0), adapter(2, [3; 4], 0.5));
    let weighted = [(&a, 0.7), (&b, 0.3)];
    let cat = combine(&weighted, &how(Combination::Cat)).unwrap();
    let whole = Combine {
        svd_rank: Some(6),
        ..how(Combination::Svd)
    };
    let svd = combine(&weighted, &whole).unwrap();
    let linear = combine(&weighted, &how(Combination::Linear)).unwrap();
    for path in a.sites.keys() {
        let sum = sum(&weighted, path);
        assert_near("cat", &change(&cat, path), &sum);
        assert_near("svd", &change(&svd, path), &sum);
        let spec = cat.sites[path].spec;
        assert_eq!((spec.rank(), spec.alpha), (Some(6), Some(6.0)));
        // The sum of the A times the sum of the B, each with the root of its weight.
        let site = &linear.sites[path];
        for name in [site.lora_a(), site.lora_b()] {
            let roots = [(0.7_f64 * 2.0).sqrt(), (0.3_f64 * 0.5).sqrt()];
            let [x, y] = [&a, &b].map(|adapter| adapter.tensors[&name].floats());
            let pairs = x.iter().zip(y.iter());
            let expected = pairs.map(|(&x, &y)| f64::from(x) * roots[0] + f64::from(y) * roots[1]);
            let found = linear.tensors[&name].floats();
            let found: Vec<f64> = found.iter().map(|&x| f64::from(x)).collect();
            assert_near(&name, &found, &expected.collect::<Vec<_>>());
        }
        assert!(largest_difference(&change(&linear, path), &sum) > 1e-2);
    }
    let narrow = adapter(3, [2; 4], 1.0);
    let error = combine(&[(&a, 1.0), (&narrow, 1.0)], &how(Combination::Linear));
    let error = error.unwrap_err().to_string();
    for part in [
        "`a` has rank 3",
        "`b` rank 2",
        "q_proj",
        "use `cat` or `svd`",
    ] {
        assert!(error.contains(part), "{error}");
    }
}

/// PEFT 0.21 drops `rank_pattern` from what it writes, and cannot load `linear` and its like again.
#[test]
fn ranks_by_projection_are_written_and_read_again() {
    let (a, b) = (adapter(1, [4, 2, 4, 3], 2.0), adapter(2, [4, 2, 4, 3], 0.5));
    for kind in Combination::ALL {
        let mut base = base();
        let mut combined = combine(&[(&a, 0.7), (&b, -0.3)], &how(kind)).unwrap();
        combined.close(&base.model, &base.weights).unwrap();
        let folder = tempfile::tempdir().unwrap();
        combined.save(folder.path(), BASE, Head::CausalLm).unwrap();
        let again = Adapter::load(folder.path(), &mut base).unwrap();
        assert_eq!(again.sites.len(), 4);
        for path in a.sites.keys() {
            let expected = change(&combined, path);
            assert_near(kind.name(), &change(&again, path), &expected);
            assert!(expected.iter().any(|&x| x != 0.0), "{kind}");
        }
    }
}

#[test]
fn a_density_is_a_share_and_counts_where_values_are_pruned() {
    let (a, b) = (adapter(1, [4; 4], 2.0), adapter(2, [4; 4], 0.5));
    let weighted = [(&a, 0.7), (&b, 0.3)];
    for kind in Combination::ALL {
        let at = |density| {
            let how = Combine {
                density,
                ..how(kind)
            };
            combine(&weighted, &how)
        };
        if how(kind).density.is_none() {
            let error = at(Some(0.5)).unwrap_err().to_string();
            assert!(error.contains("no use for a density"), "{error}");
            continue;
        }
        let nothing = at(Some(0.0)).unwrap();
        for path in a.sites.keys() {
            assert!(change(&nothing, path).iter().all(|&x| x == 0.0), "{kind}");
        }
        for wrong in [-0.1, 1.1, f64::NAN] {
            let error = at(Some(wrong)).unwrap_err().to_string();
            assert!(error.contains("from 0 to 1"), "{error}");
        }
        let error = at(None).unwrap_err().to_string();
        assert!(
            error.contains("density") && error.contains(kind.name()),
            "{error}"
        );
    }
}

#[test]
fn what_is_held_whole_is_the_same_or_chosen() {
    let norm = "model.norm.weight";
    let mut a = adapter(1, [4; 4], 2.0);
    let mut b = adapter(2, [4; 4], 0.5);
    let values = |x: f32| {
        Array::new(
            [base().weights[norm].len()],
            vec![x; base().weights[norm].len()],
        )
    };
    a.tensors.insert(norm.into(), values(2.0));
    let of = |a: &Adapter, b: &Adapter, head: Option<&str>| {
        let how = Combine {
            head: head.map(str::to_owned),
            ..how(Combination::Cat)
        };
        combine(&[(a, 1.0), (b, 1.0)], &how)
    };
    for b_has in [None, Some(3.0)] {
        if let Some(x) = b_has {
            b.tensors.insert(norm.into(), values(x));
        }
        let error = of(&a, &b, None).unwrap_err().to_string();
        for part in [norm, "--head a", "--head b"] {
            assert!(error.contains(part), "{error}");
        }
        let found = of(&a, &b, Some("a")).unwrap();
        assert_eq!(found.tensors[norm], values(2.0));
        let found = of(&a, &b, Some("b")).unwrap();
        assert_eq!(found.tensors.get(norm), b_has.map(values).as_ref());
    }
    let error = of(&a, &b, Some("d")).unwrap_err().to_string();
    assert!(error.contains("`d`") && error.contains("a, b"), "{error}");
    b.tensors.insert(norm.into(), values(2.0));
    assert_eq!(of(&a, &b, None).unwrap().tensors[norm], values(2.0));
}

#[test]
fn only_products_beside_a_weight_are_combined() {
    let folder = fixtures().join("adapters/dora");
    let head = Head::classification(2);
    let mut base = Pretrained::open(&fixtures().join("parity/bert_cls-0"), head).unwrap();
    let dora = Adapter::load(&folder, &mut base).unwrap();
    let source = Source {
        name: "a",
        adapter: &dora,
        weight: 1.0,
    };
    let error = Adapter::combine(&[source], &how(Combination::Cat), &base.model);
    let error = error.unwrap_err().to_string();
    for part in ["adapter `a`", "with magnitudes", "query", "only such"] {
        assert!(error.contains(part), "{error}");
    }
}
