//! The expansion needs nothing in scope and clashes with no name.
#![no_implicit_prelude]
#![deny(warnings)]

#[derive(::std::clone::Clone, ::std::fmt::Debug)]
#[::ailora_graph::adapt(r#type = principal(4), visitor = minor(2 + 2), scaling = full, type_lr = 2)]
pub struct Names {
    /// Documented.
    #[doc(alias = "kind")]
    pub r#type: Option,
    pub visitor: Option,
    pub scaling: Option,
    #[cfg(any())]
    pub absent: Absent,
}

#[::ailora_graph::adapt(part = random(4))]
#[derive(::std::fmt::Debug)]
pub(crate) struct Only {
    #[cfg(all())]
    part: Option,
    #[cfg(any())]
    part: Absent,
}

#[derive(::std::fmt::Debug, ::ailora_graph::Module)]
pub enum Visitor {
    AdapterSpec { visitor: Option, r#type: Option },
    Module(Option, #[module(skip)] fn()),
    None,
}

#[derive(::ailora_graph::Module)]
pub enum Never {}

#[derive(::ailora_graph::Module)]
pub enum Flags {
    On,
    Off,
}

#[derive(::ailora_graph::Module)]
pub struct Unit;

#[derive(::std::clone::Clone, ::std::fmt::Debug)]
pub struct Option;

impl ::ailora_graph::Module for Option {
    fn visit(&self, visitor: &mut ::ailora_graph::Visitor) {
        visitor.projection(
            "weight",
            ::std::option::Option::None,
            [4, 4],
            ::ailora_graph::adapter::Layout::OutIn,
        );
    }
}

impl ::ailora_graph::Projection for Option {
    const MAX_RANK: usize = 4;
}

fn main() {
    let only = Only { part: Option };
    let (_, sites) = ::ailora_graph::Visitor::inventory(&only);
    ::std::assert_eq!(sites[0].path, "part");
    ::std::mem::drop(only.part);
    let _ = (
        Visitor::None,
        Visitor::Module(Option, main),
        Flags::On,
        Flags::Off,
    );
    let _ = Visitor::AdapterSpec {
        visitor: Option,
        r#type: Option,
    };
}
