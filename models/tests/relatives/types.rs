//! Types of elements over a narrow base.

use ailora_graph::{
    AdaptConfig, Strategy,
    adapt::Mode,
    adapter::{Layout, Site, Trainable},
    element_types::element_types,
    ir::{DType, Op},
    method::{METHODS, constructors::random},
};
use ailora_models::{peft::Adapter, pretrained::Pretrained};
use ailora_runtime::{
    optim::{AdamW, AdamWConfig, Group},
    store::{Array, Params},
    weights::Weights,
};
use indexmap::IndexMap;

use super::{
    adapted,
    saved::{FOLDERS, bert, on_bert},
    site,
};

/// What a projection puts out stays as narrow as its base.
#[test]
fn no_adapter_widens_what_a_narrow_projection_puts_out() {
    let methods = METHODS
        .iter()
        .filter(|method| method.trainable() == Trainable::Adapters);
    let mut narrow = 0;
    for method in methods {
        let config = AdaptConfig::method(*method, 2);
        let path = if method.name() == "ia3" { "k" } else { "q" };
        let annotated = [[3, 5], [4, 2]].into_iter().enumerate();
        let annotated = annotated
            .map(|(i, shape)| site(&format!("{i}.{path}"), shape, Layout::OutIn, random(2)));
        let Ok(sites) = config.resolve(annotated.collect()) else {
            continue;
        };
        if !sites.iter().any(Site::is_adapted) {
            continue;
        }
        for parameter in sites.iter().flat_map(|site| site.parameters(&sites)) {
            assert_eq!(parameter.ty().dtype, DType::F32);
        }
        let with = adapted(&sites, Mode::Infer);
        let typed = element_types(&with, DType::Bf16).unwrap();
        for site in &sites {
            let output = typed.outputs()[&*format!("y.{}", site.path)];
            assert!(matches!(typed[output].op, Op::Cast(_)), "{}", method.name());
            let inner = typed[output].args[0];
            assert_eq!(typed.ty(inner).dtype, DType::Bf16, "{}", method.name());
            narrow += 1;
        }
    }
    assert!(narrow >= 20, "{narrow} projections");
}

/// Over a base in bfloat16 what trains is float32, also saved, and moves by steps that bfloat16 has not.
#[test]
fn what_trains_over_a_narrow_base_is_wide() {
    let mut weights = Weights::new([("p".to_owned(), Array::new([1], vec![0.02]))].into());
    let groups = vec![Group {
        lr: 1.0,
        parameters: vec!["p".into()],
    }];
    let mut optimizer = AdamW::new(AdamWConfig::default(), groups, &weights);
    let gradients = IndexMap::from([("p".to_owned(), vec![1.0])]);
    for _ in 0..1000 {
        optimizer.update(&mut weights, &gradients, 1e-5, 1.0);
    }
    let found = weights.get("p").unwrap();
    assert_eq!(found.dtype(), DType::F32);
    assert!(
        (found.floats()[0] - 0.01).abs() < 1e-5,
        "{}",
        found.floats()[0]
    );

    let base = bert();
    let narrow = |array: &Array| {
        let bytes: Vec<u8> = (array.floats().iter())
            .flat_map(|x| ((x.to_bits() >> 16) as u16).to_le_bytes())
            .collect();
        Array::from_bytes(DType::Bf16, array.shape(), &bytes)
    };
    let weights: Params = (base.weights.iter())
        .map(|(name, array)| (name.clone(), narrow(array)))
        .collect();
    for method in FOLDERS {
        let narrow = Pretrained {
            weights: weights.clone(),
            ..bert()
        };
        let (sites, params) = on_bert(&narrow, method);
        for parameter in sites.iter().flat_map(|site| site.parameters(&sites)) {
            assert_eq!(
                params[&parameter.name].dtype(),
                DType::F32,
                "{}",
                parameter.name
            );
        }
        let saved =
            Adapter::from_trained(&base.model, &sites, &params, &Trainable::Adapters, &[]).unwrap();
        let site = saved.sites.values().next().unwrap();
        assert!(matches!(site.spec.strategy, Strategy::Adapted(_)));
        let own = saved
            .tensors
            .iter()
            .filter(|(name, _)| !weights.contains_key(*name));
        assert!(
            own.into_iter()
                .all(|(_, array)| array.dtype() == DType::F32),
            "{}",
            method.name()
        );
    }
}
