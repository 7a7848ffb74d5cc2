//! Which nodes run together, and in which order.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
};

use ailora_graph::ir::{
    Id, Op, Program, Real,
    ops::{
        attention::{Attention, Operand as Toward},
        elementwise::Binary,
    },
};

/// Nodes that one kernel computes.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Unit {
    /// One node by its own kernel, or by none if it is a view or a leaf.
    Single(Id),
    /// `node = alpha · product`, plus `onto`.
    Gemm {
        node: Id,
        product: Id,
        alpha: f64,
        onto: Option<Id>,
    },
    /// Element-wise and row-wise nodes of one shape, in order.
    Loop(Vec<Id>),
    /// `node = value + bias`, of which no kernel computes more than `value`: the attentions that read
    /// `node` add `bias` themselves.
    Biased { node: Id, value: Id, bias: Id },
    /// The gradients of one attention.
    AttentionGrad(Vec<Id>),
    /// Products of as many rows, transposed, by as many.
    Outer(Vec<ScaledProduct>),
}

/// `node = alpha · product`, which may be one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct ScaledProduct {
    pub node: Id,
    pub product: Id,
    pub alpha: f64,
}

impl Unit {
    /// The nodes whose arguments it reads.
    pub(super) fn members(&self) -> Vec<Id> {
        match self {
            Self::Single(id) | Self::Biased { node: id, .. } => vec![*id],
            Self::Gemm { node, product, .. } => vec![*node, *product],
            Self::Loop(members) | Self::AttentionGrad(members) => members.clone(),
            Self::Outer(products) => {
                let ids = products.iter().flat_map(|p| [p.node, p.product]);
                ids.collect()
            }
        }
    }
}

/// What runs together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Nothing.
    Separate,
    /// As much as can.
    Fused,
    /// As much as can, and loops compute again what they would keep for less.
    Rematerialising,
}

/// The units of a program in execution order.
pub(super) fn schedule(program: &Program, form: Form) -> Vec<Unit> {
    let mut grouping = Grouping::new(program);
    if form == Form::Separate {
        grouping.separate_loops();
    } else {
        grouping.absorb_scales_and_sums();
        grouping.leave_biases_to_attention();
        grouping.fuse_loops();
    }
    grouping.join_attention_gradients();
    grouping.order()
}

struct Grouping<'a> {
    program: &'a Program,
    live: Vec<bool>,
    uses: Vec<usize>,
    units: Vec<Unit>,
    /// The unit of each node that has one.
    unit: Vec<Option<usize>>,
}

impl<'a> Grouping<'a> {
    fn new(program: &'a Program) -> Self {
        let live = program.live();
        let mut uses = vec![0; program.len()];
        for id in program.ids().filter(|&id| live[usize::from(id)]) {
            for &arg in &program[id].args {
                uses[usize::from(arg)] += 1;
            }
        }
        for &id in program.outputs().values() {
            uses[usize::from(id)] += 1;
        }
        Self {
            program,
            live,
            uses,
            units: Vec::new(),
            unit: vec![None; program.len()],
        }
    }

    fn ids(&self) -> impl DoubleEndedIterator<Item = Id> + use<> {
        let live = self.live.clone();
        self.program.ids().filter(move |&id| live[usize::from(id)])
    }

    fn used_once(&self, id: Id) -> bool {
        self.uses[usize::from(id)] == 1
    }

    fn assign(&mut self, id: Id, unit: usize) {
        self.unit[usize::from(id)] = Some(unit);
    }

    /// Gives matrix products the factor that scales them and the sum that they end in.
    fn absorb_scales_and_sums(&mut self) {
        for id in self.ids() {
            let node = &self.program[id];
            let Op::Binary(Binary::Add) = node.op else {
                continue;
            };
            let [a, b] = [node.args[0], node.args[1]];
            if a == b
                || [a, b]
                    .iter()
                    .any(|arg| self.program.shape(*arg) != self.program.shape(id))
            {
                continue;
            }
            // The later product adds onto the earlier value.
            for (product, onto) in [(b.max(a), b.min(a)), (b.min(a), b.max(a))] {
                if let Some((product, alpha)) = self.scaled_product(product) {
                    self.gemm(id, product, alpha, Some(onto));
                    break;
                }
            }
        }
        for id in self.ids() {
            if self.unit[usize::from(id)].is_none()
                && !matches!(self.program[id].op, Op::MatMul(_))
                && let Some((product, alpha)) = self.scaled_product_at(id)
                && self.used_once(product)
            {
                self.gemm(id, product, alpha, None);
            }
        }
    }

    fn gemm(&mut self, node: Id, product: Id, alpha: f64, onto: Option<Id>) {
        let unit = self.units.len();
        for id in [node, product] {
            self.assign(id, unit);
        }
        // The scaling node between them, if there is one.
        for &arg in &self.program[node].args {
            if self.program[arg].args.contains(&product) && Some(arg) != onto {
                self.assign(arg, unit);
            }
        }
        self.units.push(Unit::Gemm {
            node,
            product,
            alpha,
            onto,
        });
    }

    /// A matrix product, perhaps scaled, or with its rows on other axes, that nothing else reads.
    fn scaled_product(&self, id: Id) -> Option<(Id, f64)> {
        let program = self.program;
        let (product, alpha) = match (&program[id].op, &program[id].args[..]) {
            (Op::Reshape(_), &[product])
                if matches!(program[product].op, Op::MatMul(_))
                    && program.shape(product).last() == program.shape(id).last() =>
            {
                (product, 1.0)
            }
            _ => self.scaled_product_at(id)?,
        };
        let free = self.used_once(id)
            && self.used_once(product)
            && self.unit[usize::from(product)].is_none();
        free.then_some((product, alpha))
    }

    fn scaled_product_at(&self, id: Id) -> Option<(Id, f64)> {
        let node = &self.program[id];
        match (&node.op, &node.args[..]) {
            (Op::MatMul(_), _) => Some((id, 1.0)),
            (Op::Binary(Binary::Mul), &[a, b]) => {
                [(a, b), (b, a)].into_iter().find_map(|(x, c)| {
                    match (&self.program[x].op, &self.program[c].op) {
                        (Op::MatMul(_), Op::Const(Real(alpha))) => Some((x, *alpha)),
                        _ => None,
                    }
                })
            }
            _ => None,
        }
    }

    /// Biases of what only attention reads: a loop would read and write it all for so little.
    fn leave_biases_to_attention(&mut self) {
        let program = self.program;
        let mut others_read = vec![false; program.len()];
        let mut attends = vec![false; program.len()];
        for &id in program.outputs().values() {
            others_read[usize::from(id)] = true;
        }
        for id in self.ids() {
            let is_attention = matches!(program[id].op, Op::Attention(_) | Op::AttentionGrad(_));
            for (i, &arg) in program[id].args.iter().enumerate() {
                let reads = if is_attention && i < Toward::ALL.len() {
                    &mut attends
                } else {
                    &mut others_read
                };
                reads[usize::from(arg)] = true;
            }
        }
        for node in self.ids() {
            let i = usize::from(node);
            let Op::Binary(Binary::Add) = program[node].op else {
                continue;
            };
            if !attends[i] || others_read[i] || self.unit[i].is_some() {
                continue;
            }
            let [a, b] = [program[node].args[0], program[node].args[1]];
            let shape = program.shape(node);
            let biased = [(a, b), (b, a)].into_iter().find(|&(value, bias)| {
                // A parameter is there whenever it is read, and nothing takes its memory.
                matches!(program[bias].op, Op::Frozen(_) | Op::Trained(_))
                    && program.shape(value) == shape
                    && shape.ends_with(program.shape(bias))
                    && program.shape(bias).len() == 1
            });
            if let Some((value, bias)) = biased {
                self.assign(node, self.units.len());
                self.units.push(Unit::Biased { node, value, bias });
            }
        }
    }

    /// Joins element-wise and row-wise nodes of one shape with the loop of an argument or else with
    /// one that reads an argument too, where the loop does not then wait for itself.
    fn fuse_loops(&mut self) {
        // The last loop that reads each node.
        let mut reader: Vec<Option<usize>> = vec![None; self.program.len()];
        for id in self.ids() {
            if self.unit[usize::from(id)].is_some() || !is_fusible(&self.program[id].op) {
                continue;
            }
            let whole = self.program[id].args.iter().rev().copied();
            let whole = whole.filter(|&arg| self.program.shape(arg) == self.program.shape(id));
            let whole: Vec<Id> = whole.collect();
            let latest = |units: &mut dyn Iterator<Item = usize>| {
                let mut units: Vec<usize> = units.collect();
                units.sort_unstable_by_key(|&unit| Reverse(unit));
                units.into_iter().find(|&unit| self.can_join(id, unit))
            };
            let mut sources = whole.iter().filter_map(|&arg| self.unit[usize::from(arg)]);
            let mut siblings = whole.iter().filter_map(|&arg| reader[usize::from(arg)]);
            let joined = latest(&mut sources).or_else(|| latest(&mut siblings));
            let unit = joined.unwrap_or(self.units.len());
            match self.units.get_mut(unit) {
                Some(Unit::Loop(members)) => members.push(id),
                _ => self.units.push(Unit::Loop(vec![id])),
            }
            self.assign(id, unit);
            for &arg in &whole {
                reader[usize::from(arg)] = Some(unit);
            }
        }
    }

    /// Whether a node can be computed by a loop that there is.
    fn can_join(&self, id: Id, unit: usize) -> bool {
        match &self.units[unit] {
            Unit::Loop(members) => {
                self.program.shape(members[0]) == self.program.shape(id)
                    && !self.waits_for(id, unit)
            }
            _ => false,
        }
    }

    /// Gives each element-wise and row-wise node a loop of its own.
    fn separate_loops(&mut self) {
        let program = self.program;
        for id in self.ids().filter(|&id| is_fusible(&program[id].op)) {
            self.assign(id, self.units.len());
            self.units.push(Unit::Loop(vec![id]));
        }
    }

    /// Whether `id` reads, through other units, something that `unit` computes.
    fn waits_for(&self, id: Id, unit: usize) -> bool {
        let of = |id: Id| self.unit[usize::from(id)];
        let mut seen_units = vec![false; self.units.len()];
        let mut seen = vec![false; self.program.len()];
        let mut stack: Vec<Id> = self.program[id].args.clone();
        stack.retain(|&arg| of(arg) != Some(unit));
        while let Some(id) = stack.pop() {
            let known = match of(id) {
                Some(other) if other == unit => return true,
                Some(other) => &mut seen_units[other],
                None => &mut seen[usize::from(id)],
            };
            if std::mem::replace(known, true) {
                continue;
            }
            // A unit waits for what any of its nodes reads.
            match of(id).map(|other| &self.units[other]) {
                Some(Unit::Loop(members)) => {
                    stack.extend(
                        members
                            .iter()
                            .flat_map(|&member| &self.program[member].args),
                    );
                }
                // The scaling node between product and sum reads nothing else but a number.
                Some(Unit::Gemm { product, onto, .. }) => {
                    stack.extend(&self.program[*product].args);
                    stack.extend(onto);
                }
                Some(_) | None => {
                    stack.extend(&self.program[id].args);
                }
            }
        }
        false
    }

    /// One kernel computes the gradients of an attention towards all of its operands.
    fn join_attention_gradients(&mut self) {
        let program = self.program;
        let mut known: HashMap<(&Attention, &[Id]), usize> = HashMap::new();
        for id in self.ids() {
            let node = &program[id];
            let Op::AttentionGrad(grad) = &node.op else {
                continue;
            };
            let unit = *known.entry((&grad.forward, &node.args)).or_insert_with(|| {
                self.units.push(Unit::AttentionGrad(Vec::new()));
                self.units.len() - 1
            });
            if let Unit::AttentionGrad(members) = &mut self.units[unit] {
                members.push(id);
            }
            self.unit[usize::from(id)] = Some(unit);
        }
    }

    /// For each unit, whether it computes something that another one reads.
    fn lead_on(&self) -> Vec<bool> {
        let read = are_read(self.program);
        let leads = self.units.iter().map(|unit| match unit {
            Unit::Single(view) if self.program[*view].op.is_view() => false,
            Unit::Single(node) | Unit::Gemm { node, .. } => read[usize::from(*node)],
            _ => true,
        });
        leads.collect()
    }

    /// Units by dependence and, where that leaves a choice, by the program's order; but views and what
    /// nothing else reads, such as an adapter's gradient, come as soon as they can: before what they
    /// read has left caches.
    fn order(mut self) -> Vec<Unit> {
        for id in self.ids() {
            if self.unit[usize::from(id)].is_none() {
                self.assign(id, self.units.len());
                self.units.push(Unit::Single(id));
            }
        }
        let mut waiting = vec![0_usize; self.units.len()];
        let mut readers: Vec<Vec<usize>> = vec![Vec::new(); self.units.len()];
        let mut last = vec![Id::from(0); self.units.len()];
        for id in self.ids() {
            let Some(unit) = self.unit[usize::from(id)] else {
                continue;
            };
            last[unit] = last[unit].max(id);
            for &arg in &self.program[id].args {
                if let Some(source) = self.unit[usize::from(arg)].filter(|&source| source != unit) {
                    waiting[unit] += 1;
                    readers[source].push(unit);
                }
            }
        }
        let leads = self.lead_on();
        let rank = |unit: usize| Reverse((leads[unit], last[unit], unit));
        let ready = (0..self.units.len()).filter(|&unit| waiting[unit] == 0);
        let mut ready: BinaryHeap<_> = ready.map(rank).collect();
        let mut order = Vec::with_capacity(self.units.len());
        while let Some(Reverse((.., unit))) = ready.pop() {
            order.push(unit);
            for &reader in &readers[unit] {
                waiting[reader] -= 1;
                if waiting[reader] == 0 {
                    ready.push(rank(reader));
                }
            }
        }
        assert_eq!(order.len(), self.units.len(), "fusion made no cycle");
        let mut units: Vec<Option<Unit>> = self.units.into_iter().map(Some).collect();
        order
            .into_iter()
            .filter_map(|unit| units[unit].take())
            .collect()
    }
}

/// For each node, whether anything but views, which nothing reads, reads it.
pub(super) fn are_read(program: &Program) -> Vec<bool> {
    let live = program.live();
    let mut read = vec![false; program.len()];
    for id in program.ids().rev().filter(|&id| live[usize::from(id)]) {
        let node = &program[id];
        if !node.op.is_view() || read[usize::from(id)] {
            node.args
                .iter()
                .for_each(|&arg| read[usize::from(arg)] = true);
        }
    }
    read
}

/// Whether a loop can compute it.
pub(super) fn is_fusible(op: &Op) -> bool {
    matches!(
        op,
        Op::Unary(_)
            | Op::Binary(_)
            | Op::Dropout(_)
            | Op::Expand(_)
            | Op::Softmax(_)
            | Op::SoftmaxGrad(_)
            | Op::Normalize(_)
            | Op::NormalizeGrad(_)
    )
}
