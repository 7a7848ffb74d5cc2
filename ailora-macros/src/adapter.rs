//! What is said of one field's adapter.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Error, Expr, ExprPath, Ident, Result};

use crate::{
    number::{Number, Range},
    suggest,
};

/// Strategies that take a rank; each is a constructor of `AdapterSpec`.
const LOW_RANK: [&str; 3] = ["principal", "minor", "random"];
/// Strategies that take none; each is a constructor of `AdapterSpec`.
const WHOLE: [&str; 2] = ["frozen", "full"];

/// A strategy and its options.
pub struct Adapter {
    /// The strategy's name.
    pub strategy: Ident,
    /// Of a low-rank strategy.
    pub rank: Option<Number>,
    /// `NAME_lr`
    pub lr: Option<Number>,
    /// `NAME_alpha`, or `alpha`.
    pub alpha: Option<Number>,
    /// `dropout`
    pub dropout: Option<Number>,
    /// `scaling`, as a variant of `Scaling`.
    pub scaling: Option<Ident>,
}

impl Adapter {
    /// Reads the strategy of `field`, such as `principal(8)` or `frozen`.
    pub fn parse(field: &str, value: Expr) -> Result<Self> {
        let (strategy, rank) = match value {
            Expr::Call(call) => {
                let strategy = name_of(&call.func)?;
                if WHOLE.iter().any(|name| strategy == name) {
                    let message = format!("`{strategy}` takes no rank: write `{strategy}`");
                    return Err(Error::new(call.paren_token.span.join(), message));
                }
                check_known(&strategy)?;
                let mut args = call.args.into_iter();
                let (Some(rank), None) = (args.next(), args.next()) else {
                    let message = format!(
                        "`{strategy}` takes one rank: write `{strategy}(r)`, such as `{strategy}(8)`"
                    );
                    return Err(Error::new(call.paren_token.span.join(), message));
                };
                let rank = Number::new(rank, format!("the rank of `{field}`"), Range::Rank)?;
                (strategy, Some(rank))
            }
            value => {
                let strategy = name_of(&value)?;
                check_known(&strategy)?;
                if LOW_RANK.iter().any(|name| strategy == name) {
                    let message = format!(
                        "`{strategy}` needs a rank: write `{strategy}(r)`, such as `{strategy}(8)`"
                    );
                    return Err(Error::new(strategy.span(), message));
                }
                (strategy, None)
            }
        };
        Ok(Self {
            strategy,
            rank,
            lr: None,
            alpha: None,
            dropout: None,
            scaling: None,
        })
    }

    /// Whether there is anything to train.
    pub fn trains(&self) -> bool {
        self.strategy != "frozen"
    }

    /// Whether it is a product of two thin matrices.
    pub fn is_low_rank(&self) -> bool {
        self.rank.is_some()
    }

    /// As an expression of type `AdapterSpec`.
    pub fn spec(&self, krate: &TokenStream) -> TokenStream {
        let Self { strategy, rank, .. } = self;
        let lr = self.lr.iter();
        let alpha = self.alpha.iter();
        let dropout = self.dropout.iter();
        let scaling = self.scaling.iter();
        quote! {
            #krate::AdapterSpec::#strategy(#rank)
                #(.with_lr(#lr))*
                #(.with_alpha(#alpha))*
                #(.with_dropout(#dropout))*
                #(.with_scaling(#krate::Scaling::#scaling))*
        }
    }
}

/// Reads `classic` or `rank_stabilized`.
pub fn scaling(value: &Expr) -> Result<Ident> {
    const NAMES: [&str; 2] = ["classic", "rank_stabilized"];
    let Some(name) = ident(value) else {
        let message = format!("expected {}", suggest::either(&NAMES));
        return Err(Error::new_spanned(value, message));
    };
    let variant = match name.to_string().as_str() {
        "classic" => "Classic",
        "rank_stabilized" => "RankStabilized",
        other => {
            let message = format!(
                "unknown scaling `{other}`; {}",
                suggest::hint(other, &NAMES)
            );
            return Err(Error::new(name.span(), message));
        }
    };
    Ok(Ident::new(variant, name.span()))
}

fn ident(expr: &Expr) -> Option<&Ident> {
    match expr {
        Expr::Path(ExprPath { path, .. }) => path.get_ident(),
        _ => None,
    }
}

fn name_of(expr: &Expr) -> Result<Ident> {
    ident(expr)
        .cloned()
        .ok_or_else(|| Error::new_spanned(expr, format!("expected a strategy: {}", strategies())))
}

fn check_known(strategy: &Ident) -> Result<()> {
    let name = strategy.to_string();
    let mut known = LOW_RANK.into_iter().chain(WHOLE);
    if known.clone().any(|known| name == known) {
        return Ok(());
    }
    let hint = match suggest::closest(&name, &mut known) {
        Some(known) => format!("did you mean `{known}`?"),
        None => format!("expected {}", strategies()),
    };
    let message = format!("unknown strategy `{name}`; {hint}");
    Err(Error::new(strategy.span(), message))
}

fn strategies() -> String {
    let low_rank = LOW_RANK.map(|name| format!("{name}(r)"));
    let names: Vec<_> = low_rank.iter().map(String::as_str).chain(WHOLE).collect();
    suggest::either(&names)
}
