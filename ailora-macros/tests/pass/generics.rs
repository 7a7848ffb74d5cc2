//! Generics, bounds and where-clauses are kept; fields of a parameter's type get their bounds.
#![deny(warnings)]

use std::marker::PhantomData;

use ailora_graph::{Module, Projection, adapt};
use luminal::{
    nn::linear::Linear,
    prelude::{GraphTensor, Shape},
};

const fn half(n: usize) -> usize {
    n / 2
}

#[adapt(q = principal(half(D)), v = minor(Self::RANK), v_lr = Self::RATE, alpha = D as f64)]
pub struct Attention<'a, const D: usize, N = (), const H: usize = 2>
where
    N: Clone,
{
    pub q: Linear<D, D>,
    pub v: Option<Linear<D, D>>,
    pub norm: Option<&'a N>,
    pub heads: PhantomData<[N; H]>,
}

impl<const D: usize, N: Clone, const H: usize> Attention<'_, D, N, H> {
    const RANK: usize = half(half(D));
    const RATE: f64 = 2.0;
}

#[adapt(p = principal(2), q = minor(2))]
pub struct AnyProjection<P, Q: Projection> {
    pub p: P,
    pub q: Option<Q>,
}

#[derive(Module)]
pub struct AnyShape<S: Shape> {
    pub tensor: GraphTensor<S>,
}

#[derive(Module)]
pub struct Tree<T> {
    pub value: T,
    pub children: Vec<Tree<T>>,
    private: Private<T>,
}

#[derive(Module)]
struct Private<T>(T);

#[derive(Module)]
pub enum Either<A, B> {
    A(A),
    B { b: Box<B> },
}

pub struct NoModule;

#[derive(Module)]
pub struct Skipping<T> {
    #[module(skip)]
    pub config: T,
}

fn is_module<M: Module>() {}

fn main() {
    is_module::<Attention<8>>();
    is_module::<AnyProjection<Linear<4, 4>, Linear<4, 8>>>();
    is_module::<AnyShape<luminal::prelude::R1<4>>>();
    is_module::<Tree<Linear<4, 4>>>();
    is_module::<Either<Linear<4, 4>, Vec<u8>>>();
    is_module::<Skipping<NoModule>>();
}
