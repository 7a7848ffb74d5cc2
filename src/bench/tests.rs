use super::*;
use crate::{
    AdapterSpec,
    adapter::Layout,
    ir::Type,
    method::constructors::{minor, random},
    runtime::store::Array,
};

const ROWS: usize = 24;
const WIDTH: usize = 12;

fn array(shape: &[usize], seed: usize) -> Array {
    let len: usize = shape.iter().product();
    Array::new(
        shape.to_vec(),
        (0..len)
            .map(|i| ((i * i + 7 * i + seed) % 17) as f32 / 17.0 - 0.5)
            .collect(),
    )
}

/// Three projections of one input, two of them adapted.
fn projections() -> (Program, Vec<Site>, Params) {
    let mut program = Program::new();
    let x = program.input("x", Type::f32([ROWS, WIDTH])).unwrap();
    let mut params = Params::new();
    let mut sites = Vec::new();
    for (i, (name, spec)) in [
        ("q", random(2)),
        ("k", AdapterSpec::frozen()),
        ("v", minor(3).with_alpha(6.0)),
    ]
    .into_iter()
    .enumerate()
    {
        let weight = format!("{name}.weight");
        let w = program.frozen(&weight, Type::f32([WIDTH, WIDTH])).unwrap();
        let y = program.matmul(x, false, w, true).unwrap();
        program.set_output(name, y);
        params.insert(weight.clone(), array(&[WIDTH, WIDTH], i));
        sites.push(Site {
            path: name.to_owned(),
            weight,
            bias: None,
            in_features: WIDTH,
            out_features: WIDTH,
            layout: Layout::OutIn,
            spec,
        });
    }
    (program, sites, params)
}

fn measured(pass: Pass) -> Row {
    let (program, sites, params) = projections();
    let x = array(&[ROWS, WIDTH], 5).into_floats();
    let subject = Subject {
        program: &program,
        sites: &sites,
        params: &params,
        inputs: &[("x", Value::F32(&x))],
        below: &["x"],
    };
    compare(&subject, pass, &Options::quick()).unwrap()
}

#[test]
fn every_form_is_measured_and_the_adapted_ones_agree() {
    for pass in [Pass::Forward, Pass::Both] {
        let row = measured(pass);
        assert_eq!(row.merged.is_some(), pass == Pass::Forward);
        for form in [row.frozen, row.unfused, row.fused]
            .iter()
            .chain(&row.merged)
        {
            let Measurement {
                ms,
                runs,
                gflops,
                bytes,
                products,
            } = *form;
            assert!(ms.is_finite() && ms > 0.0 && gflops.is_finite() && gflops > 0.0);
            assert!(runs == 3 && bytes > 4 * 3 * WIDTH * WIDTH && products > 0);
        }
        let overheads = row.ratios.overheads();
        assert!(
            overheads
                .iter()
                .chain([&row.ratios.fused_to_unfused])
                .all(|x| x.is_finite())
        );
        assert!(row.fused.products < row.unfused.products);
        assert!(row.difference < tolerance(Precision::F32));
        let predicted = row.predicted.unwrap();
        assert!(predicted.fused_ms > 0.0 && predicted.fused_ms < predicted.unfused_ms);
        assert!(row.is_ranked_right().is_some());
        // Of 5 columns of h: h itself and, in `[x|h]`, their products for all of q, k and v; and, of
        // twice as much, their gradients, those towards A, B and x.
        let least = 100.0 * (5.0 * 12.0 + 5.0 * 36.0) / (12.0 * 36.0);
        assert!((row.least_overhead() - least).abs() < 1e-6);
    }
}

#[test]
fn what_cannot_be_compared_is_said() {
    let (program, sites, params) = projections();
    let x = vec![f32::NAN; ROWS * WIDTH];
    let mut subject = Subject {
        program: &program,
        sites: &sites,
        params: &params,
        inputs: &[("x", Value::F32(&x))],
        below: &[],
    };
    let error = compare(&subject, Pass::Forward, &Options::quick()).unwrap_err();
    assert!(matches!(error, BenchError::Disagree { .. }), "{error}");
    subject.inputs = &[];
    let error = compare(&subject, Pass::Forward, &Options::quick()).unwrap_err();
    assert!(error.to_string().contains("input `x`"), "{error}");
    subject.below = &["z"];
    let error = compare(&subject, Pass::Forward, &Options::quick()).unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("names `z`, which is no float input of the program; those are x"),
        "{error}"
    );
}

fn ratios(fused_to_unfused: f64, fused_to_frozen: f64) -> Ratios {
    Ratios {
        fused_to_unfused,
        fused_to_frozen,
        unfused_to_frozen: fused_to_frozen / fused_to_unfused,
    }
}

fn baseline<const N: usize>(ratios: [(&str, Ratios); N]) -> Baseline {
    Baseline {
        ratios: ratios
            .map(|(key, own)| (key.to_owned(), own))
            .into_iter()
            .collect(),
    }
}

#[test]
fn what_became_worse_is_named_and_what_is_new_is_said() {
    let before = baseline([
        ("worse", ratios(0.8, 1.1)),
        ("better", ratios(0.8, 1.1)),
        ("noisy", ratios(0.8, 1.1)),
        ("not run", ratios(0.8, 1.1)),
    ]);
    let now = baseline([
        ("worse", ratios(1.0, 1.1)),
        ("better", ratios(0.6, 0.9)),
        ("noisy", ratios(0.85, 1.15)),
        ("new", ratios(2.0, 2.0)),
    ]);
    let Comparison {
        regressions,
        missing,
    } = before.compare(&now, 0.1);
    assert_eq!(missing, ["new"]);
    let [regression] = &regressions[..] else {
        panic!("{regressions:?}");
    };
    assert_eq!(
        regression.to_string(),
        "worse: fused / unfused is 1.000, was 0.800"
    );
    assert_eq!(before.compare(&now, 0.3).regressions, []);
}

#[test]
fn a_baseline_is_kept_in_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("baseline.json");
    let kept = baseline([("a", ratios(0.5, 1.5)), ("b", ratios(0.25, 1.25))]);
    kept.write(&file).unwrap();
    assert_eq!(Baseline::read(&file).unwrap(), kept);
    assert_eq!(std::fs::read_to_string(&file).unwrap().lines().count(), 4);
    std::fs::write(&file, "[]").unwrap();
    let error = Baseline::read(&file).unwrap_err().to_string();
    assert!(error.contains("expected an object of ratios"), "{error}");
    let error = Baseline::read(&folder.path().join("none")).unwrap_err();
    assert!(error.to_string().contains("--write-baseline"), "{error}");
}

#[test]
fn the_cost_model_is_right_about_what_is_faster_or_as_fast() {
    let mut row = measured(Pass::Forward);
    let mut is_right = |ratio: f64, predicted: [f64; 2]| {
        row.ratios.fused_to_unfused = ratio;
        let [unfused_ms, fused_ms] = predicted;
        row.predicted = Some(Prediction {
            unfused_ms,
            fused_ms,
        });
        row.is_ranked_right()
    };
    assert_eq!(is_right(0.5, [5.0, 4.0]), Some(true));
    assert_eq!(is_right(2.0, [5.0, 4.0]), Some(false));
    assert_eq!(is_right(1.02, [5.0, 4.0]), Some(true));
    row.predicted = None;
    assert_eq!(row.is_ranked_right(), None);
}
