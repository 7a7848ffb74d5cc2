//! Numbers in attributes: checked here if literal, else by an assertion in the expansion.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote_spanned};
use syn::{Error, Expr, ExprUnary, Lit, LitFloat, Result, UnOp, spanned::Spanned};

/// What a number may be.
#[derive(Clone, Copy)]
pub enum Range {
    /// A positive, finite number.
    Positive,
    /// From 0 to below 1.
    Probability,
}

impl Range {
    fn holds(self, value: f64) -> bool {
        match self {
            Self::Positive => value > 0.0 && value.is_finite(),
            Self::Probability => (0.0..1.0).contains(&value),
        }
    }

    fn condition(self, value: &TokenStream, span: Span) -> TokenStream {
        match self {
            Self::Positive => quote_spanned!(span=> #value > 0.0 && #value.is_finite()),
            Self::Probability => quote_spanned!(span=> #value >= 0.0 && #value < 1.0),
        }
    }

    fn expected(self) -> &'static str {
        match self {
            Self::Positive => "a positive, finite number, such as 2.0",
            Self::Probability => "at least 0 and below 1, such as 0.1",
        }
    }
}

/// A constant expression that is, or will be asserted to be, in its range.
#[derive(Clone)]
pub struct Number {
    expr: Expr,
    what: String,
    range: Range,
    literal: bool,
}

impl Number {
    /// Checks `expr` if it is a literal. `what` names it in the message.
    pub fn new(expr: Expr, what: String, range: Range) -> Result<Self> {
        let literal = Literal::of(&expr);
        let wrong = match literal {
            Literal::Int(value) | Literal::Float(value) => !range.holds(value),
            Literal::Other => true,
            Literal::Not => false,
        };
        if wrong {
            let message = format!("{what} must be {}", range.expected());
            return Err(Error::new_spanned(&expr, message));
        }
        Ok(Self {
            expr: float(expr),
            what,
            range,
            literal: !matches!(literal, Literal::Not),
        })
    }

    /// Where errors about it belong.
    fn span(&self) -> Span {
        Span::mixed_site().located_at(self.expr.span())
    }

    /// It as an operand of a comparison: `a + b` becomes `(a + b)`.
    fn operand(&self) -> TokenStream {
        let expr = &self.expr;
        match expr {
            Expr::Lit(_) | Expr::Path(_) | Expr::Call(_) | Expr::MethodCall(_) | Expr::Paren(_) => {
                expr.to_token_stream()
            }
            _ => quote_spanned!(self.span()=> (#expr)),
        }
    }

    /// The assertion that it is in its range, unless that is known.
    pub fn assertion(&self) -> Option<TokenStream> {
        let message = format!("{} must be {}", self.what, self.range.expected());
        let span = self.span();
        let condition = self.range.condition(&self.operand(), span);
        (!self.literal).then(|| quote_spanned!(span=> ::core::assert!(#condition, #message);))
    }
}

impl ToTokens for Number {
    fn to_tokens(&self, tokens: &mut TokenStream) {
        self.expr.to_tokens(tokens);
    }
}

enum Literal {
    Int(f64),
    Float(f64),
    Other,
    Not,
}

impl Literal {
    fn of(expr: &Expr) -> Self {
        match expr {
            Expr::Lit(lit) => match &lit.lit {
                Lit::Int(int) => int.base10_parse().map_or(Self::Not, Self::Int),
                Lit::Float(float) => float.base10_parse().map_or(Self::Not, Self::Float),
                _ => Self::Other,
            },
            Expr::Unary(ExprUnary {
                op: UnOp::Neg(_),
                expr,
                ..
            }) => match Self::of(expr) {
                Self::Int(value) => Self::Int(-value),
                Self::Float(value) => Self::Float(-value),
                other => other,
            },
            Expr::Paren(paren) => Self::of(&paren.expr),
            Expr::Group(group) => Self::of(&group.expr),
            _ => Self::Not,
        }
    }
}

/// `2` as `2.0`, so that whole numbers need no point.
fn float(expr: Expr) -> Expr {
    match &expr {
        Expr::Lit(lit) => match &lit.lit {
            Lit::Int(int) if int.suffix().is_empty() => {
                let float = LitFloat::new(&format!("{}.0", int.base10_digits()), int.span());
                syn::parse_quote!(#float)
            }
            _ => expr,
        },
        _ => expr,
    }
}
