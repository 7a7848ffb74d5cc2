//! LoRA and its relatives: `y = x (W - s B0 A0)^T + s (x A^T) B^T`.
//!
//! `A0` and `B0` are the frozen start of `A` and `B`, such that `s B0 A0` is the part of `W` that the
//! adapter starts from; a random start has none, as its `B` is zero.
//!
//! With trained magnitudes `m` (DoRA) the product is `k (x V^T)`, with `V = W - s B0 A0 + s B A` and for each
//! output the factor `k = m / |V|` of its row of `V`. The lengths `|V|` are constants to the derivative.

use crate::{
    adapter::{
        Adapter, AdapterError, AdapterOption, AdapterParameter, AdapterSpec, End, Field, Layout,
        Merged, Operands, Peft, Projected, Published, Side, Site, Start, Strategy,
    },
    ir::{
        Id, ProgramError, Real,
        ops::{concat::Concat, elementwise::Binary, row_lengths::RowLengths},
    },
};

/// A product of two thin matrices beside a weight.
#[derive(Debug)]
pub struct LowRank {
    name: &'static str,
    begin: Begin,
}

/// What `A` and `B` start from.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Begin {
    /// Kaiming-uniform `A`, zero `B`.
    Random,
    /// The same with `A` frozen, and the gradient of `B` as [`Adapter::gradient`] makes it (LoRA-FA).
    RandomFrozen,
    /// The part of the weight that these triplets span, half of each value in each factor.
    Triplets(End),
    /// The part of the weight that its first columns span: `B = Q_r` and `A = R_r` of `W = Q R` (OLoRA).
    Qr,
    /// Zero `A`, and frozen left singular vectors of the smallest singular values as `B` (MiCA).
    MinorVectors,
}

/// From the largest singular triplets (AILoRA's choice for queries; PiSSA everywhere).
pub const PRINCIPAL: LowRank = LowRank {
    name: "principal",
    begin: Begin::Triplets(End::Principal),
};

/// From the smallest singular triplets (AILoRA's choice for values; MiLoRA everywhere).
pub const MINOR: LowRank = LowRank {
    name: "minor",
    begin: Begin::Triplets(End::Minor),
};

/// Kaiming-uniform `A`, zero `B` (LoRA).
pub const RANDOM: LowRank = LowRank {
    name: "random",
    begin: Begin::Random,
};

/// From the QR decomposition of the weight (OLoRA).
pub const OLORA: LowRank = LowRank {
    name: "olora",
    begin: Begin::Qr,
};

/// Frozen minor left singular vectors `B`, zero `A` (MiCA).
pub const MICA: LowRank = LowRank {
    name: "mica",
    begin: Begin::MinorVectors,
};

/// Kaiming-uniform, frozen `A`, zero `B` (LoRA-FA).
pub const RANDOM_FROZEN: LowRank = LowRank {
    name: "random_frozen",
    begin: Begin::RandomFrozen,
};

/// What can be said of an adapter one of whose factors trains.
const OPTIONS_OF_ONE: &[AdapterOption] = &[
    AdapterOption::Rank,
    AdapterOption::Alpha,
    AdapterOption::Scaling,
    AdapterOption::Dropout,
];

/// What can be said of a low-rank adapter.
const OPTIONS: &[AdapterOption] = &[
    AdapterOption::Rank,
    AdapterOption::Alpha,
    AdapterOption::Scaling,
    AdapterOption::Dropout,
    AdapterOption::BRate,
    AdapterOption::Dora,
];

/// The rank of an adapter of which nothing is said.
const RANK: usize = 8;

/// What the factors are called below their projection.
pub(crate) const FACTORS: [&str; 2] = ["lora_A", "lora_B"];

/// As `PeftModel.from_pretrained` loads it. The values are in the file: loading must not decompose the
/// weight again.
static PEFT: Peft = Peft {
    kind: "LORA",
    fields: &[
        ("r", Field::Rank),
        ("lora_alpha", Field::Alpha),
        ("lora_dropout", Field::Number(0.0)),
        ("use_rslora", Field::Bool(false)),
        ("use_dora", Field::Dora),
        ("fan_in_fan_out", Field::Bool(false)),
        ("bias", Field::Biases),
        ("init_lora_weights", Field::Bool(true)),
        ("rank_pattern", Field::Ranks),
        ("alpha_pattern", Field::Alphas),
    ],
};

impl Site {
    /// Name of the down projection `A`, `[r, in]`, of a low-rank adapter.
    pub fn lora_a(&self) -> String {
        format!("{}.lora_A.weight", self.path)
    }

    /// Name of the up projection `B`, `[out, r]`, of a low-rank adapter.
    pub fn lora_b(&self) -> String {
        format!("{}.lora_B.weight", self.path)
    }

    /// Name of the magnitudes of a low-rank adapter, `[out]`.
    pub fn lora_magnitudes(&self) -> String {
        format!("{}.lora_magnitude_vector", self.path)
    }

    /// Name of the frozen start of `A`.
    pub fn lora_a0(&self) -> String {
        format!("{}.lora_A0.weight", self.path)
    }

    /// Name of the frozen start of `B`.
    pub fn lora_b0(&self) -> String {
        format!("{}.lora_B0.weight", self.path)
    }
}

/// `A` and `B`, or their start: as they are declared, or in a program.
#[derive(Clone, Copy)]
struct Factors<T> {
    a: T,
    b: T,
}

impl LowRank {
    /// The scale of a site that passed its checks.
    fn scale(site: &Site) -> f64 {
        site.spec.scale().unwrap_or(1.0)
    }

    fn shapes(site: &Site) -> [[usize; 2]; 2] {
        let rank = site.spec.rank().unwrap_or_default();
        [[rank, site.in_features], [site.out_features, rank]]
    }

    /// `A` and `B`, of which at least one trains.
    fn trained(&self, site: &Site) -> Factors<AdapterParameter> {
        let [a, b] = Self::shapes(site);
        let [start_a, start_b] = match self.begin {
            Begin::Random | Begin::RandomFrozen => {
                let bound = 1.0 / (site.in_features as f64).sqrt();
                [Start::Uniform { bound }, Start::Constant(0.0)]
            }
            Begin::MinorVectors => {
                let end = End::Minor;
                [Start::Constant(0.0), Start::LeftVectors { end }]
            }
            Begin::Triplets(_) | Begin::Qr => self.part_starts(),
        };
        Factors {
            a: AdapterParameter {
                trains: self.begin != Begin::RandomFrozen,
                ..AdapterParameter::trained(site.lora_a(), a, start_a)
            },
            b: AdapterParameter {
                rate: site.spec.b_lr,
                trains: self.begin != Begin::MinorVectors,
                ..AdapterParameter::trained(site.lora_b(), b, start_b)
            },
        }
    }

    /// Of `A` and `B` that are a part of the weight.
    fn part_starts(&self) -> [Start; 2] {
        [Side::Right, Side::Left].map(|side| match self.begin {
            Begin::Triplets(end) => Start::Triplets { end, side },
            _ => Start::Qr { side },
        })
    }

    /// `m`: the lengths of the published weight's rows at the start.
    fn magnitudes(site: &Site) -> AdapterParameter {
        let name = site.lora_magnitudes();
        AdapterParameter::trained(name, [site.out_features], Start::RowLengths)
    }

    /// `k = m / |V|`, `[out]`, with `V` the sum of `residual` and `s B A`, both `[out, in]`. Where `|V|` is
    /// zero, `k` is one.
    fn row_factors(
        p: &mut Projected<'_>,
        residual: Id,
        trained: Factors<Id>,
    ) -> Result<Id, ProgramError> {
        let magnitudes = p.parameter(&Self::magnitudes(p.site))?;
        let scales = vec![Real(Self::scale(p.site))];
        let p = &mut *p.program;
        let lengths = p.add(RowLengths { scales }, &[residual, trained.b, trained.a])?;
        let [zero, one] = [0.0, 1.0].map(|number| p.constant(number));
        let is_some = p.add(Binary::Less, &[zero, lengths])?;
        let is_zero = p.difference(one, is_some)?;
        let magnitudes = p.product(magnitudes, is_some)?;
        let [above, below] = [magnitudes, lengths].map(|id| p.sum(id, is_zero));
        p.add(Binary::Div, &[above?, below?])
    }

    /// `A0` and `B0`.
    fn start(&self, site: &Site) -> Option<Factors<AdapterParameter>> {
        if !matches!(self.begin, Begin::Triplets(_) | Begin::Qr) {
            return None;
        }
        let [a, b] = Self::shapes(site);
        let [start_a, start_b] = self.part_starts();
        Some(Factors {
            a: AdapterParameter::frozen(site.lora_a0(), a, start_a),
            b: AdapterParameter::frozen(site.lora_b0(), b, start_b),
        })
    }

    /// What the gradient of `B` is multiplied by, if `A` is frozen.
    fn inverse_gram(&self, site: &Site) -> Option<AdapterParameter> {
        let rank = site.spec.rank().unwrap_or_default();
        let name = format!("{}.lora_A.inverse_gram", site.path);
        let declared = || AdapterParameter::frozen(name, [rank, rank], Start::InverseGram);
        (self.begin == Begin::RandomFrozen).then(declared)
    }

    /// `W - s B0 A0`, in a layout.
    fn residual(
        &self,
        p: &mut Projected<'_>,
        weight: Id,
        layout: Layout,
    ) -> Result<Id, ProgramError> {
        let Some(start) = self.start(p.site) else {
            return Ok(weight);
        };
        let start = start.in_program(p)?;
        let part = start.part(p, layout)?;
        p.program.difference(weight, part)
    }
}

impl Factors<AdapterParameter> {
    fn in_program(&self, p: &mut Projected<'_>) -> Result<Factors<Id>, ProgramError> {
        Ok(Factors {
            a: p.parameter(&self.a)?,
            b: p.parameter(&self.b)?,
        })
    }
}

impl Factors<Id> {
    /// `s B A` as `[out, in]`, or its transpose.
    fn part(self, p: &mut Projected<'_>, layout: Layout) -> Result<Id, ProgramError> {
        let product = match layout {
            Layout::OutIn => p.program.matmul(self.b, false, self.a, false)?,
            Layout::InOut => p.program.matmul(self.a, true, self.b, true)?,
        };
        p.program.scale(product, LowRank::scale(p.site))
    }
}

impl Adapter for LowRank {
    fn name(&self) -> &'static str {
        self.name
    }

    fn options(&self) -> &'static [AdapterOption] {
        match self.begin {
            Begin::Random | Begin::Triplets(_) | Begin::Qr => OPTIONS,
            Begin::RandomFrozen | Begin::MinorVectors => OPTIONS_OF_ONE,
        }
    }

    /// The rank is at least 1, and at most the smaller side of the weight.
    fn check(&self, site: &Site) -> Result<(), AdapterError> {
        let rank = site.spec.rank().unwrap_or_default();
        if rank == 0 {
            return Err(AdapterError::ZeroRank {
                site: site.path.clone(),
            });
        }
        if rank > site.max_rank() {
            return Err(AdapterError::RankTooLarge {
                site: site.path.clone(),
                rank,
                out_features: site.out_features,
                in_features: site.in_features,
                max: site.max_rank(),
            });
        }
        Ok(())
    }

    fn parameters(&self, site: &Site, _: &[Site]) -> Vec<AdapterParameter> {
        let Factors { a, b } = self.trained(site);
        let mut parameters = match self.start(site) {
            None => {
                let inverse = self.inverse_gram(site).into_iter();
                [a].into_iter().chain(inverse).chain([b]).collect()
            }
            Some(Factors { a: a0, b: b0 }) => vec![a0, a, b0, b],
        };
        parameters.extend(site.spec.dora.then(|| Self::magnitudes(site)));
        parameters
    }

    /// With magnitudes and dropout, what is dropped from `x` goes through the frozen weight alone, as PEFT has
    /// it: `k (d V^T) + (x - d) (W - s B0 A0)^T`, of the input `d` with dropout.
    fn product(&self, p: &mut Projected<'_>, operands: Operands) -> Result<Id, ProgramError> {
        let weight = self.residual(p, operands.weight, Layout::OutIn)?;
        let trained = self.trained(p.site).in_program(p)?;
        let input = p.dropped(operands)?;
        let whole = match p.site.spec.dora {
            true => input,
            false => operands.input,
        };
        let frozen = p.program.matmul(whole, false, weight, true)?;
        let down = p.program.matmul(input, false, trained.a, true)?;
        let down = p.program.scale(down, Self::scale(p.site))?;
        let up = p.program.matmul(down, false, trained.b, true)?;
        let sum = p.program.sum(frozen, up)?;
        if !p.site.spec.dora {
            return Ok(sum);
        }
        let factors = Self::row_factors(p, weight, trained)?;
        let product = p.program.product(sum, factors)?;
        if input == operands.input {
            return Ok(product);
        }
        let dropped = p.program.difference(operands.input, input)?;
        let unscaled = p.program.matmul(dropped, false, weight, true)?;
        p.program.sum(product, unscaled)
    }

    /// `V = W - s B0 A0 + s B A`, or `k V`.
    fn merged(
        &self,
        p: &mut Projected<'_>,
        weight: Id,
        bias: Option<Id>,
    ) -> Result<Option<Merged>, ProgramError> {
        let layout = p.site.layout;
        let residual = self.residual(p, weight, layout)?;
        let trained = self.trained(p.site).in_program(p)?;
        let part = trained.part(p, layout)?;
        let sum = p.program.sum(residual, part)?;
        let weight = match (p.site.spec.dora, layout) {
            (false, _) => sum,
            (true, Layout::OutIn) => {
                let factors = Self::row_factors(p, residual, trained)?;
                let column = [p.site.out_features, 1];
                let column = p.program.reshape(factors, &column)?;
                p.program.product(sum, column)?
            }
            (true, Layout::InOut) => {
                let rows = p.program.transpose(weight)?;
                let rows = self.residual(p, rows, Layout::OutIn)?;
                let factors = Self::row_factors(p, rows, trained)?;
                p.program.product(sum, factors)?
            }
        };
        Ok(Some(Merged { weight, bias }))
    }

    /// Beside the published `W` the adapter of twice the rank with `A' = [A; A0]` and `B' = [B, -B0]`, so
    /// that no decomposition is repeated when it is loaded.
    fn published(&self, p: &mut Projected<'_>) -> Result<Published, ProgramError> {
        let Factors { mut a, mut b } = self.trained(p.site).in_program(p)?;
        let mut rank = p.site.spec.rank().unwrap_or_default();
        if let Some(start) = self.start(p.site) {
            let start = start.in_program(p)?;
            a = p.program.add(Concat { axis: 0 }, &[a, start.a])?;
            let minus = p.program.scale(start.b, -1.0)?;
            b = p.program.add(Concat { axis: 1 }, &[b, minus])?;
            rank *= 2;
        }
        let spec = AdapterSpec::adapted(&RANDOM).with_rank(rank);
        let mut tensors = vec![(p.site.lora_a(), a), (p.site.lora_b(), b)];
        if p.site.spec.dora {
            let magnitudes = Self::magnitudes(p.site);
            let own = p.parameter(&magnitudes)?;
            tensors.push((magnitudes.name, own));
        }
        Ok(Published {
            spec: spec
                .with_alpha(Self::scale(p.site) * rank as f64)
                .with_dora(p.site.spec.dora),
            tensors,
        })
    }

    /// With a frozen `A`, the step of `B` whose `s B A` is nearest to the step that the whole weight would
    /// make: `dB (A A^T + 1e-8 I)^-1 / s^2` (LoRA-FA, equation 7).
    fn gradient(
        &self,
        p: &mut Projected<'_>,
        parameter: &AdapterParameter,
        gradient: Id,
    ) -> Result<Id, ProgramError> {
        match self.inverse_gram(p.site) {
            Some(inverse) if parameter.name == p.site.lora_b() => {
                let inverse = p.parameter(&inverse)?;
                p.program.matmul(gradient, false, inverse, false)
            }
            _ => Ok(gradient),
        }
    }

    fn peft(&self) -> Option<&'static Peft> {
        Some(&PEFT)
    }
}

/// What a projection is annotated with, if that is an adapter, else one that starts at random.
pub(super) fn annotated(site: &Site) -> AdapterSpec {
    match site.spec.strategy {
        Strategy::Adapted(_) => site.spec,
        Strategy::Frozen | Strategy::Full => AdapterSpec::adapted(&RANDOM).with_rank(RANK),
    }
}

/// What is said of a projection, as a low-rank adapter with this start. An adapter without a rank stays.
pub(super) fn started(site: &Site, start: &'static LowRank) -> AdapterSpec {
    let spec = annotated(site);
    match spec.rank() {
        Some(_) => AdapterSpec {
            strategy: Strategy::Adapted(start),
            ..spec
        },
        None => spec,
    }
}

/// What is said of a low-rank adapter, from the other end of the spectrum.
pub(super) fn exchanged(spec: AdapterSpec) -> AdapterSpec {
    let strategy = match spec.strategy {
        Strategy::Adapted(adapter) if adapter.name() == PRINCIPAL.name => Strategy::Adapted(&MINOR),
        Strategy::Adapted(adapter) if adapter.name() == MINOR.name => Strategy::Adapted(&PRINCIPAL),
        other => other,
    };
    AdapterSpec { strategy, ..spec }
}
