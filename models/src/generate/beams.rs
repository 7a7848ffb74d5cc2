//! Beam search, as transformers 5 does it.

use std::cmp::Reverse;

use super::{
    Options,
    candidates::{Candidates, Ordered},
    search::{Decode, Next},
};

pub(super) struct Beams<'a> {
    pub beams: usize,
    pub length_penalty: f64,
    pub early_stopping: bool,
    pub options: &'a Options,
}

/// The search of one row.
struct Search {
    /// The sequences that go on, in descending order of their log-probability.
    running: Vec<(f32, Vec<i32>)>,
    /// The best of those that ended, in descending order of their score.
    finished: Vec<(f32, Vec<i32>)>,
    /// Whether one that goes on may become better than those.
    improvable: bool,
}

/// A running sequence with one more token.
struct Longer {
    score: f32,
    /// Its number among those of its row.
    parent: usize,
    token: i32,
}

impl Beams<'_> {
    pub fn search<D: Decode>(
        &self,
        model: &mut D,
        mut next: Next,
        given: &[Vec<i32>],
        stop: &mut impl FnMut(usize, &[i32]) -> bool,
    ) -> Result<Vec<Vec<i32>>, D::Error> {
        let start = || Search {
            running: vec![(0.0, Vec::new())],
            finished: Vec::new(),
            improvable: true,
        };
        let mut searches: Vec<Search> = given.iter().map(|_| start()).collect();
        loop {
            let mut candidates = Candidates::new(model, next, self.options, true);
            let mut order = Vec::new();
            let mut first = 0;
            for (row, search) in searches.iter_mut().enumerate() {
                let count = search.running.len();
                let longer = self.longer(&mut candidates, search, first, &given[row])?;
                let parents = self.advance(search, longer, |tokens| stop(row, tokens));
                order.extend(parents.into_iter().map(|parent| first + parent));
                first += count;
            }
            let improvable = searches.iter().any(|search| search.improvable);
            let full = |search: &Search| search.finished.len() == self.beams;
            let stopped = self.early_stopping && searches.iter().all(full);
            if !improvable || stopped || order.is_empty() {
                let best = |search: Search| {
                    let mut all = search.finished.into_iter().chain(search.running);
                    all.next().map(|(_, tokens)| tokens).unwrap_or_default()
                };
                return Ok(searches.into_iter().map(best).collect());
            }
            let running = searches.iter().flat_map(|search| &search.running);
            let tokens: Vec<i32> = running
                .filter_map(|(_, tokens)| tokens.last().copied())
                .collect();
            next = model.step(&order, &tokens)?;
        }
    }

    /// The most tokens that may be looked at before as many as there are beams go on, whichever token ends
    /// the others.
    pub fn looked_at(beams: usize, ends: usize) -> usize {
        (1 + ends).max(2) * beams
    }

    /// The best sequences with one more token, in descending order; the first running one is row `first` of
    /// the step.
    fn longer<D: Decode>(
        &self,
        candidates: &mut Candidates<'_, D>,
        search: &Search,
        first: usize,
        given: &[i32],
    ) -> Result<Vec<Longer>, D::Error> {
        let kept = Self::looked_at(self.beams, self.options.ends.len());
        let mut all = Vec::new();
        for (parent, (score, tokens)) in search.running.iter().enumerate() {
            let text = self.options.text(given, tokens);
            let best = candidates.best(first + parent, text, kept)?;
            all.extend(best.into_iter().map(|(token, log)| Longer {
                score: log + score,
                parent,
                token,
            }));
        }
        all.sort_by_key(|one| (Reverse(Ordered(one.score)), one.parent, one.token));
        all.truncate(kept);
        Ok(all)
    }

    /// Makes every running sequence a token longer; for each that then runs, which one it was.
    fn advance(
        &self,
        search: &mut Search,
        longer: Vec<Longer>,
        mut stop: impl FnMut(&[i32]) -> bool,
    ) -> Vec<usize> {
        let full = self.early_stopping && search.finished.len() == self.beams;
        let (mut running, mut parents) = (Vec::new(), Vec::new());
        for (rank, one) in longer.into_iter().enumerate() {
            if one.score == f32::NEG_INFINITY {
                break;
            }
            let mut tokens = search.running[one.parent].1.clone();
            tokens.push(one.token);
            let ends = self.options.ends.contains(&one.token)
                || tokens.len() >= self.options.max_new_tokens
                || stop(&tokens);
            if !ends && running.len() < self.beams {
                running.push((one.score, tokens));
                parents.push(one.parent);
            } else if ends && rank < self.beams && search.improvable && !full {
                let score = one.score / self.penalty(tokens.len());
                search.finished.push((score, tokens));
            }
        }
        search
            .finished
            .sort_by_key(|(score, _)| Reverse(Ordered(*score)));
        search.finished.truncate(self.beams);
        search.running = running;
        // As if the best of those that go on ended here.
        if let (Some((best, tokens)), Some((worst, _))) =
            (search.running.first(), search.finished.get(self.beams - 1))
        {
            search.improvable &= best / self.penalty(tokens.len()) > *worst;
        }
        parents
    }

    fn penalty(&self, len: usize) -> f32 {
        (len as f64).powf(self.length_penalty) as f32
    }
}
