//! The procedural macros of ailora: [`macro@adapt`] and [`macro@Module`].
//!
//! Both implement the trait `Module`, which lists a model's parameters and projections under their
//! module paths. `#[adapt]` also records which projections carry which adapter. Use them through
//! `ailora`, which exports them with the trait.

mod adapter;
mod attr;
#[cfg(test)]
mod campaign;
mod check;
mod entry;
mod expand;
mod key;
mod krate;
mod number;
mod part;
mod suggest;
mod tokens;

use proc_macro::TokenStream;

/// Says which projections of a model carry which adapter, and implements `Module` for it.
///
/// ```
/// use ailora_graph::{Visitor, adapt, method::constructors::{frozen, minor, principal}};
/// use luminal::{nn::linear::Linear, prelude::{Graph, InitModule}};
///
/// #[adapt(q = principal(8), v = minor(8), v_lr = 2.0)]
/// struct SelfAttention {
///     q: Linear<32, 32>,
///     k: Linear<32, 32>,
///     v: Linear<32, 32>,
/// }
///
/// # let cx = &mut Graph::default();
/// let attention = SelfAttention {
///     q: Linear::initialize(cx),
///     k: Linear::initialize(cx),
///     v: Linear::initialize(cx),
/// };
/// let (_, sites) = Visitor::inventory(&attention);
/// assert_eq!(sites[0].spec, principal(8));
/// assert_eq!(sites[1].spec, frozen());
/// assert_eq!(sites[2].spec, minor(8).with_lr(2.0));
/// ```
///
/// # Strategies
/// A key is a field's own name; the field is a `Projection`. The value is a call of a `const fn` that
/// returns an `AdapterSpec`, which the compiler resolves: a single name, such as `principal(8)`, is
/// one of `ailora_graph::method::constructors`; a path, such as `mine::scaled()`, is a function of
/// your own. The parentheses may be left out where there are no arguments, as in `frozen`.
///
/// # Options
/// | option                                  | of                 | meaning                            |
/// |-----------------------------------------|--------------------|------------------------------------|
/// | `NAME_lr = x`                           | a trained field    | learning rate, times the base rate |
/// | `NAME_alpha = x`                        | a low-rank field   | numerator of the scale             |
/// | `alpha = x`                             | all low-rank fields| the same, where no `NAME_alpha` is |
/// | `dropout = p`                           | all low-rank fields| dropout on the adapter's input     |
/// | `scaling = classic \| rank_stabilized`  | all low-rank fields| scale `alpha / r` or `alpha / √r`  |
/// | `dora = true`                           | all low-rank fields| trained magnitudes                 |
///
/// Ranks and numbers are const expressions: literals, constants, const generics. A key that is both
/// an option and a field's name is the field.
///
/// # Errors
/// Misspelt names, unknown functions and numbers out of range are compile errors on the token. So
/// is a rank above `min(in, out)` where the field's type knows its shape: at the definition, or
/// where the struct is generic, where it is first used with a shape that is too small.
///
/// The attributes on fields are those of [`macro@Module`].
#[proc_macro_attribute]
pub fn adapt(args: TokenStream, item: TokenStream) -> TokenStream {
    attr::adapt(args.into(), item.into()).into()
}

/// Implements `Module`: shows every field to the visitor, in order, under the field's name.
///
/// Fields are modules, parameters, or `Option`s, `Vec`s and arrays of them. A tuple struct's fields
/// are called `0`, `1`...; an enum shows the fields of its variant, without the variant's name.
///
/// | attribute                           | the field                                            |
/// |-------------------------------------|------------------------------------------------------|
/// | `#[module(name = "self.query")]`    | goes by this name, which may be several segments     |
/// | `#[module(flatten)]`                | adds no segment to the paths of what is in it        |
/// | `#[module(skip)]`                   | is left out                                          |
///
/// ```
/// use ailora_graph::{Module, Visitor};
/// use luminal::{nn::linear::Linear, prelude::{Graph, InitModule}};
///
/// #[derive(Module)]
/// struct Mlp<const D: usize> {
///     up: Linear<4, D>,
///     #[module(name = "output.dense")]
///     down: Linear<D, 4>,
/// }
///
/// # let cx = &mut Graph::default();
/// let mlp = Mlp::<16> { up: Linear::initialize(cx), down: Linear::initialize(cx) };
/// let (parameters, _) = Visitor::inventory(&mlp);
/// let names: Vec<_> = parameters.iter().map(|p| p.name.as_str()).collect();
/// assert_eq!(names, ["up.weight", "output.dense.weight"]);
/// ```
#[proc_macro_derive(Module, attributes(module))]
pub fn derive_module(item: TokenStream) -> TokenStream {
    attr::derive_module(item.into()).into()
}
