//! VeRA's shared matrices.

use ailora_graph::{
    AdaptConfig,
    adapt::{Mode, adapt},
    adapter::{AdapterError, Layout, Trainable},
    method::constructors::vera,
};
use ailora_runtime::store::Array;

use super::{program, site, started, values};

/// One pair, as large as the largest sides, from PyTorch's generator of seed 0.
#[test]
fn vera_shares_one_pair_of_the_largest_sides() {
    let sites = [
        site("a", [2, 3], Layout::OutIn, vera(2)),
        site("b", [4, 2], Layout::OutIn, vera(2)),
    ];
    for seed in [0, 5] {
        let params = started(&sites, seed);
        let (a, b) = (&params["vera_A"], &params["vera_B"]);
        assert_eq!((a.shape(), b.shape()), (&[2, 3][..], &[4, 2][..]));
        for (found, expected) in a.floats().iter().zip([-0.010_588, 0.758_646, -1.163_962]) {
            assert!((found - expected).abs() < 1e-6, "{found}");
        }
        for (found, expected) in b.floats().iter().zip([-0.034_317, 1.373_325]) {
            assert!((found - expected).abs() < 1e-6, "{found}");
        }
        for (site, out) in [("a", 2), ("b", 4)] {
            assert_eq!(*params[&format!("{site}.vera_lambda_d")].floats(), [0.1; 2]);
            assert_eq!(
                *params[&format!("{site}.vera_lambda_b")].floats(),
                vec![0.0; out]
            );
        }
    }
    // y = x W^T + b o (B (d o (A x))) of the second, which reads the first two columns of A.
    let mut params = started(&sites, 0);
    let pairs = [
        ("vera_lambda_d", vec![2.0, -1.0]),
        ("vera_lambda_b", vec![1.0, 2.0, 3.0, -4.0]),
    ];
    for (name, numbers) in pairs {
        params.insert(format!("b.{name}"), Array::new([numbers.len()], numbers));
    }
    params.insert("x.b".into(), Array::new([1, 2], vec![0.5, -2.0]));
    let with = adapt(
        &program(&sites, 1),
        &sites,
        &Trainable::Adapters,
        Mode::Infer,
    )
    .unwrap();
    let [found, plain] =
        [&with, &program(&sites, 1)].map(|program| values(program, &params)["y.b"].clone());
    let (a, b) = (params["vera_A"].floats(), params["vera_B"].floats());
    let inner = |k: usize| {
        let sum = 0.5 * f64::from(a[3 * k]) - 2.0 * f64::from(a[3 * k + 1]);
        [2.0, -1.0][k] * sum
    };
    for (i, outer) in [1.0, 2.0, 3.0, -4.0].into_iter().enumerate() {
        let up = f64::from(b[2 * i]) * inner(0) + f64::from(b[2 * i + 1]) * inner(1);
        assert!((found[i] - plain[i] - outer * up).abs() < 1e-6);
    }

    let config = AdaptConfig {
        sites: [(
            "b".to_owned(),
            serde_json::from_str(r#"{"rank": 3}"#).unwrap(),
        )]
        .into(),
        ..AdaptConfig::default()
    };
    let error = config.resolve(sites.to_vec()).unwrap_err();
    assert!(matches!(error, AdapterError::Shared { .. }), "{error}");
    assert!(
        error.to_string().contains("give both the same rank"),
        "{error}"
    );
}
