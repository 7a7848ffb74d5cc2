//! Attributes and structs, changed at random from a seed: each expands, or is refused on its tokens.

#[path = "../../tests/campaign/mutate.rs"]
mod mutate;

use std::{
    str::FromStr,
    time::{Duration, Instant},
};

use mutate::Random;
use proc_macro2::TokenStream;

use crate::attr::{adapt, derive_module};

const ARGS: &str = "q = principal(R), v = minor(4 * 2), v_lr = 2.0, k = random(1), out = full, \
    alpha = 16, q_alpha = 0.5, dropout = 1e-1, scaling = rank_stabilized";
const ITEM: &str = "
/// Documented.
#[derive(Clone, Debug)]
pub(crate) struct Attention<'a, T: Clone, const R: usize = 8> where T: Default {
    #[module(name = \"query\")] q: Linear<32, 32>,
    k: Linear<R, 32>,
    v: Box<[Linear<32, { R + 1 }>; 2]>,
    #[cfg(test)] out: Option<&'a Linear<32, 32>>,
    #[module(skip)] heads: (usize, T),
}
";
const ENUM: &str = "
enum Either<A, B = A> { Left(A), #[module(skip)] Neither, Right { inner: B, other: Vec<B> } }
";

/// Mutants, unless `AILORA_MUTANTS` says how many.
const MUTANTS: u64 = 500;

#[test]
fn campaign_of_macro_input() {
    let count = std::env::var("AILORA_MUTANTS").map_or(MUTANTS, |n| n.parse().unwrap());
    let (mut expanded, mut refused) = (0, 0);
    for seed in 0..count {
        let random = &mut Random::new(seed);
        let mut change = |text: &str, percent| match random.chance(percent) {
            true => mutate::text(random, text),
            false => text.to_owned(),
        };
        let (args, item, either) = (change(ARGS, 80), change(ITEM, 40), change(ENUM, 80));
        let start = Instant::now();
        let tokens = |text: &str| TokenStream::from_str(text).ok();
        for result in [
            tokens(&args)
                .zip(tokens(&item))
                .map(|(args, item)| adapt(args, item)),
            tokens(&item).map(derive_module),
            tokens(&either).map(derive_module),
        ] {
            // What is no tokens never reaches a macro.
            let Some(result) = result else { continue };
            match result.to_string().contains("compile_error") {
                true => refused += 1,
                false => {
                    let parsed = syn::parse2::<syn::File>(result.clone());
                    assert!(parsed.is_ok(), "mutant {seed}: {item}\nexpands to {result}");
                    expanded += 1;
                }
            }
        }
        let took = start.elapsed();
        assert!(
            took < Duration::from_secs(10),
            "mutant {seed}: {took:?}: {args} {item}"
        );
    }
    println!("macro input: {expanded} expanded, {refused} refused");
    assert!(expanded > 0 && refused > 0);
}
