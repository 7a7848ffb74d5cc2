use super::*;
use crate::{
    adapter::Layout,
    method::{
        Ailora, Full, Lora, Milora, Pissa, Reailora, Rslora,
        constructors::{frozen, full, minor, principal, random},
    },
};

fn site(path: &str, spec: AdapterSpec) -> Site {
    Site {
        path: path.into(),
        weight: format!("{path}.weight"),
        bias: None,
        in_features: 16,
        out_features: 12,
        layout: Layout::OutIn,
        spec,
    }
}

fn model() -> Vec<Site> {
    vec![
        site("layer.0.query", principal(8)),
        site("layer.0.key", frozen()),
        site("layer.0.value", minor(8).with_lr(2.0)),
        site("layer.1.query", principal(8)),
        site("classifier", full()),
    ]
}

fn parse(json: &str) -> AdaptConfig {
    serde_json::from_str(json).unwrap()
}

#[test]
fn methods_reinterpret_the_annotations() {
    let init = |method: &'static dyn Method, i: usize| {
        let sites = AdaptConfig::method(method, 4).resolve(model()).unwrap();
        assert_eq!(sites[4].spec.strategy, Strategy::Full, "heads stay trained");
        sites[i].spec
    };
    let fast = |spec: AdapterSpec| spec.with_lr(2.0);
    assert_eq!(init(&Ailora, 2), fast(minor(4)));
    assert_eq!(init(&Reailora, 2), fast(principal(4)));
    assert_eq!(init(&Reailora, 0), minor(4));
    assert_eq!(init(&Pissa, 2), principal(4));
    assert_eq!(init(&Milora, 0), minor(4));
    assert_eq!(init(&Lora, 2), random(4));
    assert_eq!(
        init(&Rslora, 0),
        random(4).with_scaling(Scaling::RankStabilized)
    );
    assert_eq!(init(&Rslora, 0).scale(), Some(2.0));
    assert_eq!(init(&Lora, 1), frozen());
    assert_eq!(init(&Full, 1), full());
    assert_eq!(init(&Full, 2), full());
}

/// Targets are roles, names or all; what they leave out that is adapted otherwise is frozen.
#[test]
fn targets_choose_what_is_adapted() {
    let specs = |json: &str| {
        let sites = parse(json).resolve(model()).unwrap();
        sites.into_iter().map(|site| site.spec).collect::<Vec<_>>()
    };
    let kinds = specs(r#"{"targets": ["k", "layer.0.value"], "rank": 2}"#);
    assert_eq!(
        kinds,
        [frozen(), random(2), minor(2).with_lr(2.0), frozen(), full()]
    );
    let all = specs(r#"{"targets": ["all-linear"], "method": "pissa"}"#);
    assert_eq!(all[..4], [principal(8); 4]);
    assert_eq!(all[4], full(), "a head is no target");
    let rates = specs(r#"{"method": "lora", "v_lr": 3.0, "b_lr": 16.0}"#);
    assert_eq!(rates[0], random(8).with_b_lr(16.0));
    assert_eq!(rates[2], random(8).with_b_lr(16.0).with_lr(3.0));
}

/// What would change nothing is refused.
#[test]
fn what_is_given_counts_somewhere() {
    let error = |json: &str| parse(json).resolve(model()).unwrap_err().to_string();
    let all = r#""trainable": "all""#;
    assert!(
        error(&format!(r#"{{"method": "lora", {all}}}"#))
            .contains("method `lora` says what trains")
    );
    assert!(error(&format!(r#"{{{all}, "targets": ["q"]}}"#)).contains("`targets` says nothing"));
    let one = r#""sites": {"query": {"lr": 2.0}}"#;
    assert!(error(&format!(r#"{{"method": "full", {one}}}"#)).contains("`sites` says nothing"));
    assert!(
        error(r#"{"method": "bitfit", "targets": ["q"]}"#)
            .contains("`bitfit` places no adapter there")
    );
    assert!(error(&format!(r#"{{"method": "bitfit", {one}}}"#)).contains("takes no `lr`"));
    // At a head only by its whole path.
    assert!(error(r#"{"targets": ["class*"]}"#).contains("`ailora` places no adapter there"));
    let sites = parse(r#"{"targets": ["classifier"]}"#)
        .resolve(model())
        .unwrap();
    assert_eq!(sites[4].spec, random(8));
    // An option of a pattern counts where it is taken.
    let sites = parse(r#"{"sites": {"layer.0.*": {"rank": 3, "lr": 0.5}}}"#)
        .resolve(model())
        .unwrap();
    assert_eq!(sites[0].spec, principal(3).with_lr(0.5));
    assert_eq!(sites[1].spec, frozen());
}

/// All linear layers but heads are meant by their whole names: an ending is one at a dot only.
#[test]
fn all_linear_goes_by_whole_names() {
    let sites = || {
        let paths = ["a.proj", "c.myproj", "lm_head", "score"];
        paths.map(|path| site(path, frozen())).to_vec()
    };
    let adapted = |targets: &str| {
        let config = parse(&format!(
            r#"{{"targets": ["{targets}"], "method": "lora"}}"#
        ));
        let sites = config.resolve(sites()).unwrap();
        let adapted = sites.into_iter().filter(Site::is_adapted);
        adapted.map(|site| site.path).collect::<Vec<_>>()
    };
    assert_eq!(adapted("all-linear"), ["a.proj", "c.myproj"]);
    assert_eq!(adapted("proj"), ["a.proj"]);
}

/// Three adapters of 28 numbers a rank.
#[test]
fn a_budget_finds_the_rank() {
    let rank = |budget: usize| {
        let config = AdaptConfig {
            budget: Some(budget),
            ..AdaptConfig::default()
        };
        config.resolve(model()).unwrap()[0].spec.rank()
    };
    assert_eq!(rank(84), Some(1));
    assert_eq!(rank(84 * 5 - 1), Some(4));
    assert_eq!(rank(84 * 5), Some(5));
    assert_eq!(
        rank(usize::MAX),
        Some(12),
        "the largest that the shapes allow"
    );
}

/// Rank and alpha are looked up each by itself, as PEFT's two patterns are.
#[test]
fn options_of_patterns_do_not_hide_each_other() {
    let sites = vec![site("foo", random(1)), site("bar.foo", random(1))];
    let config = parse(
        r#"{"rank": 4, "alpha": 8.0,
            "sites": {"foo": {"rank": 2}, "bar.foo": {"alpha": 32.0}}}"#,
    );
    let sites = config.resolve(sites).unwrap();
    let found: Vec<_> = sites
        .iter()
        .map(|site| (site.spec.rank(), site.spec.alpha, site.spec.scale()))
        .collect();
    assert_eq!(
        found,
        [
            (Some(2), Some(8.0), Some(4.0)),
            (Some(2), Some(32.0), Some(16.0))
        ]
    );
}

#[test]
fn later_patterns_win() {
    let config = parse(
        r#"{"sites": {"key": {"init": "random", "rank": 3, "alpha": 6.0},
                      "layer.0.*": {"lr": 0.5}}}"#,
    );
    let sites = config.resolve(model()).unwrap();
    assert_eq!(sites[1].spec, random(3).with_alpha(6.0).with_lr(0.5));
    assert_eq!(sites[3].spec, principal(8));
}

#[test]
fn every_mistake_is_named() {
    let error = |json: &str| parse(json).resolve(model()).unwrap_err().to_string();
    assert_eq!(
        error(r#"{"sites": {"qeury": {"rank": 3}}}"#),
        "pattern `qeury` matches no projection of the model; did you mean `query`?"
    );
    assert!(
        error(r#"{"sites": {"zzz": {}}}"#)
            .ends_with("their names end in: query, key, value, classifier")
    );
    assert!(
        error(r#"{"sites": {"key": {"init": "minor"}}}"#).contains("give `rank` beside `init`")
    );
    assert!(error(r#"{"sites": {"key": {"alpha": 2}}}"#).contains(
        "layer.0.key is frozen, which takes no `alpha`; give `init: principal`, or `minor`"
    ));
    assert!(error(r#"{"targets": ["gate"]}"#).contains("pattern `gate` matches no projection"));
    assert!(error(r#"{"rank": 2, "budget": 100}"#).contains("both `rank` and `budget`"));
    assert!(error(r#"{"budget": 83}"#).contains("with rank 1 the adapters train 84"));
    assert!(error(r#"{"targets": ["q"], "v_lr": 2}"#).contains("no projection of values"));
    assert!(error(r#"{"b_lr": 0}"#).contains("b_lr is 0"));
    assert!(
        error(r#"{"targets": ["classifier"], "sites": {"*": {"init": "frozen"}}, "alpha": 2}"#)
            .contains("nothing would be trained")
    );
    let none = r#"{"method": "bitfit", "rank": 8, "alpha": 2}"#;
    assert!(error(none).contains("`alpha` is given, but no adapter here takes it"));
    assert!(
        error(r#"{"rank": 13}"#)
            .contains("rank 13 is too large for a projection of 12 x 16; the largest is 12")
    );
    assert!(error(r#"{"rank": 0}"#).contains("rank 0"));
    assert!(error(r#"{"dropout": 1.0}"#).contains("a probability in [0, 1)"));
    assert!(error(r#"{"sites": {"value": {"lr": -1}}}"#).contains("lr is -1"));
    assert!(error(r#"{"sites": {"*": {"init": "frozen"}}}"#).contains("nothing would be trained"));
    assert!(serde_json::from_str::<AdaptConfig>(r#"{"rnak": 1}"#).is_err());
}
