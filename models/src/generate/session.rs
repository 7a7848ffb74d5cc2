//! A model's steps: what they read, and where the keys and values of tokens lie.

use std::collections::HashMap;

use ailora_graph::{
    adapter::{Site, Trainable},
    ir::{Draw, Program, ops::loss::IGNORED},
};
use ailora_runtime::{
    engine::{Engine, PlanId},
    passes::{PassError, Passes},
    run::Value,
};

use super::{Decode, GenerateError, Next, Options, Places, cache::Step, search};
use crate::{
    batch::{Batch, Inputs, Targets},
    model::{Choices, LOG_SUM, LOGITS, Model, ModelError, TOP},
    objective::NotFinite,
};

/// Prompts of nearly one length share a program: their lengths are padded to a multiple of this.
const PROMPT: usize = 16;
/// Places of a cache come in multiples of this.
const PLACES: usize = 64;
/// New tokens that a cache has places for at first; it grows to as many as are wanted.
const AHEAD: usize = 256;
/// A cache may have as many times the places that are needed, where there are programs for it.
const SPARE: usize = 2;

/// A language model with adapters, and its programs for shapes of steps as they come.
#[derive(Debug)]
pub struct Generator {
    model: Model,
    sites: Vec<Site>,
    start: Option<i32>,
    plans: HashMap<Shape, PlanId>,
    /// Places of a row of the cache that there are programs for.
    places: usize,
}

/// What a program is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Shape {
    /// Reads input texts, of that length.
    Source(Places),
    /// The tokens of prompts, of `len` with their padding.
    First {
        rows: usize,
        len: usize,
        places: Places,
        choices: Choices,
    },
    /// A token of every sequence.
    Next {
        rows: usize,
        places: Places,
        source: Option<Places>,
        choices: Choices,
    },
}

impl Generator {
    /// A model whose projections are as `sites` says.
    pub fn new(model: Model, sites: Vec<Site>) -> Self {
        Self {
            start: model.config().architecture.start_token(),
            model,
            sites,
            plans: HashMap::new(),
            places: 0,
        }
    }

    /// This generator of an encoder-decoder whose texts begin with this token, where that is another
    /// than in training; of other models, as it was.
    pub fn with_start(mut self, token: Option<i32>) -> Self {
        if let (Some(start), Some(token)) = (&mut self.start, token) {
            *start = token;
        }
        self
    }

    /// What each row has before its first new token: its prompt or, of an encoder-decoder, the
    /// start token.
    pub fn given(&self, prompts: &[Vec<i32>]) -> Vec<Vec<i32>> {
        match self.start {
            Some(token) => vec![vec![token]; prompts.len()],
            None => prompts.to_vec(),
        }
    }

    /// Continues prompts, or texts that an encoder-decoder reads, over an engine with the model's
    /// parameters; `stop` and `watch` are as in [`search()`].
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn generate(
        &mut self,
        engine: &mut Engine,
        prompts: &[Vec<i32>],
        options: &Options,
        stop: impl FnMut(usize, &[i32]) -> bool,
        watch: impl FnMut(usize, i32),
    ) -> Result<Vec<Vec<i32>>, GenerateError> {
        if options.max_new_tokens == 0 || prompts.is_empty() {
            return Ok(vec![Vec::new(); prompts.len()]);
        }
        let given = self.given(prompts);
        let (mut session, next) = self.start(engine, prompts, options)?;
        search(&mut session, next, &given, options, stop, watch)
    }

    /// Runs the prompts, of an encoder-decoder the input texts and its start tokens, with room for what
    /// `options` asks for. Gives what may follow beside the session.
    ///
    /// # Errors
    /// A prompt that is empty, too long, or has an id that the model does not know.
    pub fn start<'a>(
        &'a mut self,
        engine: &'a mut Engine,
        prompts: &[Vec<i32>],
        options: &Options,
    ) -> Result<(Session<'a>, Next), GenerateError> {
        let rows = prompts.len();
        if let Some(empty) = prompts.iter().position(Vec::is_empty) {
            return Err(GenerateError::EmptyPrompt(empty));
        }
        let architecture = &self.model.config().architecture;
        let (max, vocabulary) = (architecture.max_len(), architecture.vocab_size());
        let mut lengths = prompts.iter().map(Vec::len).enumerate();
        if let Some((prompt, len)) = lengths.find(|(_, len)| *len > max) {
            return Err(GenerateError::LongPrompt { prompt, len, max });
        }
        let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
        let len = longest.next_multiple_of(PROMPT).min(max);
        let given = if self.start.is_some() { 1 } else { len };
        let most = given + options.max_new_tokens.min(max);
        let first = most.min(given + AHEAD);
        if self.places < first || self.places > SPARE * most {
            self.places = first.next_multiple_of(PLACES);
        }
        let places = Places {
            rows: rows * options.beams(),
            len: self.places,
        };
        let mut session = Session {
            source: None,
            tables: vec![Vec::new(); rows],
            next: vec![0; rows],
            texts: (0..rows).collect(),
            used: 0,
            last: None,
            choices: options.choices(vocabulary),
            vocabulary,
            places,
            most: most.max(self.places),
            generator: self,
            engine,
        };
        let next = match session.generator.start {
            Some(token) => {
                session.read(prompts, len)?;
                let rows: Vec<usize> = (0..rows).collect();
                session.step(&rows, &vec![token; rows.len()])?
            }
            None => session.first(prompts, len)?,
        };
        Ok((session, next))
    }

    fn plan(&mut self, engine: &mut Engine, shape: Shape) -> Result<PlanId, GenerateError> {
        if let Some(&id) = self.plans.get(&shape) {
            return Ok(id);
        }
        let model = &self.model;
        let program = match shape {
            Shape::Source(Places { rows, len }) => model.memory(rows, len),
            Shape::First {
                rows,
                len,
                places,
                choices,
            } => model.first_step(rows, len, places, choices),
            Shape::Next {
                rows,
                places,
                source,
                choices,
            } => model.step(rows, places, source, choices),
        }?;
        let id = engine.compile(&self.part(&program, engine)?)?;
        self.plans.insert(shape, id);
        Ok(id)
    }

    /// One of the model's programs, with those of the adapters whose weights it reads.
    fn part(&self, program: &Program, engine: &Engine) -> Result<Program, PassError> {
        let passes = Passes {
            sites: &self.sites,
            trainable: &Trainable::Adapters,
            precision: engine.backend().precision(),
        };
        passes.part(program)
    }
}

/// Where an encoder-decoder's input texts lie.
#[derive(Debug)]
struct Source {
    places: Places,
    /// How many tokens each text has.
    lengths: Vec<i32>,
}

/// Sequences that grow by one token a step. Their keys and values stay where the engine computes; a
/// session knows their places.
#[derive(Debug)]
pub struct Session<'a> {
    generator: &'a mut Generator,
    engine: &'a mut Engine,
    places: Places,
    /// The most places that each row may come to have.
    most: usize,
    /// How many places of each row are taken.
    used: usize,
    /// The places of each sequence's tokens, in order.
    tables: Vec<Vec<i32>>,
    /// The position of each sequence's next token.
    next: Vec<i32>,
    /// Which text each sequence is written for.
    texts: Vec<usize>,
    source: Option<Source>,
    choices: Choices,
    vocabulary: usize,
    /// The program that ran last.
    last: Option<PlanId>,
}

impl Session<'_> {
    /// Runs an encoder-decoder's encoder on texts, padded to `len`.
    fn read(&mut self, texts: &[Vec<i32>], len: usize) -> Result<(), GenerateError> {
        let rows = texts.len();
        let padded = |row: &Vec<i32>| [&row[..], &vec![0; len - row.len()]].concat();
        let present = |row: &Vec<i32>| {
            let padding = vec![0.0; len - row.len()];
            [vec![1.0; row.len()], padding].concat()
        };
        let batch = Batch {
            rows,
            len,
            ids: texts.iter().flat_map(padded).collect(),
            type_ids: vec![0; rows * len],
            mask: texts.iter().flat_map(present).collect(),
            targets: Targets::default(),
            indices: (0..rows).collect(),
        };
        let places = Places { rows, len };
        let inputs = self.generator.model.inputs(&batch);
        let inputs = inputs.with_ids("memory.ids", (0..(rows * len) as i32).collect());
        self.execute(Shape::Source(places), &inputs)?;
        self.source = Some(Source {
            places,
            lengths: texts.iter().map(|text| text.len() as i32).collect(),
        });
        Ok(())
    }

    /// The first step: prompts padded to `len`.
    fn first(&mut self, prompts: &[Vec<i32>], len: usize) -> Result<Next, GenerateError> {
        let rows = prompts.len();
        let beams = self.places.rows / rows.max(1);
        let mut step = Step {
            ids: Vec::new(),
            positions: Vec::new(),
            mask: Vec::new(),
        };
        let mut ids = Vec::new();
        for (row, prompt) in prompts.iter().enumerate() {
            // Padding is on the left, so that the last tokens are one column. Any id will do.
            let padding = len - prompt.len();
            step.ids.extend(vec![0; padding]);
            step.ids.extend(prompt);
            step.positions.extend(vec![0; padding]);
            step.positions.extend(0..prompt.len() as i32);
            step.mask.extend(vec![0.0; padding]);
            step.mask.extend(vec![1.0; prompt.len()]);
            let columns = 0..prompt.len();
            let own: Vec<i32> = columns.map(|at| self.place(row * beams, at)).collect();
            ids.extend(vec![IGNORED; padding]);
            ids.extend(&own);
            self.tables[row] = own;
            self.next[row] = prompt.len() as i32;
        }
        self.used = len;
        let (places, choices) = (self.places, self.choices);
        let shape = Shape::First {
            rows,
            len,
            places,
            choices,
        };
        let architecture = &self.generator.model.config().architecture;
        let inputs = architecture.step_inputs(&step);
        self.execute(shape, &inputs.with_ids("cache.ids", ids))?;
        self.found()
    }

    /// The number of a place, as tables have it. The rows' places of one column lie side by side, so that
    /// a cache which grows keeps them.
    fn place(&self, row: usize, column: usize) -> i32 {
        (column * self.places.rows + row) as i32
    }

    /// Gives every row more places.
    fn grow(&mut self) -> Result<(), GenerateError> {
        if self.places.len >= self.most {
            return Err(GenerateError::Full(self.places));
        }
        let twice = 2 * self.places.len;
        self.places.len = twice.min(self.most).next_multiple_of(PLACES);
        self.generator.places = self.places.len;
        Ok(())
    }

    fn execute(&mut self, shape: Shape, inputs: &Inputs) -> Result<(), GenerateError> {
        let id = self.generator.plan(self.engine, shape)?;
        let values: Vec<(&str, Value<'_>)> = inputs.values();
        self.engine.execute(id, &values, Draw::default())?;
        self.last = Some(id);
        Ok(())
    }

    /// What may follow, as the last step found it.
    fn found(&self) -> Result<Next, GenerateError> {
        let rows = self.tables.len();
        let Choices { top, log_sum } = self.choices;
        let mut next = Next {
            vocabulary: self.vocabulary,
            ..Next::default()
        };
        if top > 0 {
            let found = self.output(TOP)?;
            let row = |row: &[f32]| -> Vec<(i32, f32)> {
                let pairs = row.chunks_exact(2);
                pairs.map(|pair| (pair[1] as i32, pair[0])).collect()
            };
            next.top = found.chunks_exact(2 * top).map(row).collect();
            // What is not a number comes first, then infinity.
            let largest = next.top.iter().filter_map(|row| row.first());
            let largest: Vec<f32> = largest.map(|(_, x)| *x).collect();
            self.check(&largest, rows)?;
        }
        if log_sum {
            next.log_sums = self.output(LOG_SUM)?;
        }
        Ok(next)
    }

    fn output(&self, name: &str) -> Result<Vec<f32>, GenerateError> {
        match self.last {
            Some(id) => Ok(self.engine.output(id, name)?),
            None => Ok(Vec::new()),
        }
    }

    /// No logit of `rows` rows may be infinite or not a number.
    fn check(&self, logits: &[f32], rows: usize) -> Result<(), GenerateError> {
        let is_odd = |x: &f32| x.is_nan() || *x == f32::INFINITY;
        match logits.iter().position(is_odd) {
            None => Ok(()),
            Some(at) => Err(GenerateError::NotFinite {
                row: at / (logits.len() / rows.max(1)).max(1),
                value: logits[at],
                cause: NotFinite::of(self.engine.weights()),
            }),
        }
    }
}

impl Decode for Session<'_> {
    type Error = GenerateError;

    fn step(&mut self, parents: &[usize], tokens: &[i32]) -> Result<Next, GenerateError> {
        let rows = parents.len();
        let parent = parents.iter().copied().max().unwrap_or(0);
        if parent >= self.tables.len() || rows != tokens.len() || rows == 0 {
            return Err(GenerateError::Step {
                parent,
                rows: self.tables.len(),
                tokens: tokens.len(),
                parents: rows,
            });
        }
        if rows > self.places.rows {
            return Err(GenerateError::Full(self.places));
        }
        if self.used >= self.places.len {
            self.grow()?;
        }
        fn taken<T: Clone>(all: &[T], parents: &[usize]) -> Vec<T> {
            parents.iter().map(|&parent| all[parent].clone()).collect()
        }
        self.tables = taken(&self.tables, parents);
        self.next = taken(&self.next, parents);
        self.texts = taken(&self.texts, parents);
        let architecture = &self.generator.model.config().architecture;
        let max = architecture.max_len();
        if let Some(&position) = self.next.iter().find(|&&next| next as usize >= max) {
            let len = position as usize + 1;
            return Err(ModelError::TooLong { len, max }.into());
        }
        let own: Vec<i32> = (0..rows).map(|row| self.place(row, self.used)).collect();
        let mut table = vec![0; rows * self.places.len];
        let mut counts = Vec::with_capacity(rows);
        let all = table.chunks_exact_mut(self.places.len);
        for ((places, row), &own) in self.tables.iter_mut().zip(all).zip(&own) {
            places.push(own);
            row[..places.len()].copy_from_slice(places);
            counts.push(places.len() as i32);
        }
        let mut inputs = architecture
            .step_inputs(&Step {
                ids: tokens.to_vec(),
                positions: self.next.clone(),
                mask: vec![1.0; rows],
            })
            .with_ids("cache.ids", own)
            .with_ids("cache.table", table)
            .with_ids("cache.counts", counts);
        if let Some(Source { places, lengths }) = &self.source {
            let text = |&text: &usize| (text * places.len) as i32..((text + 1) * places.len) as i32;
            let counts = self.texts.iter().map(|&text| lengths[text]);
            inputs = inputs
                .with_ids("memory.counts", counts.collect())
                .with_ids("memory.table", self.texts.iter().flat_map(text).collect());
        }
        self.next.iter_mut().for_each(|next| *next += 1);
        self.used += 1;
        let shape = Shape::Next {
            rows,
            places: self.places,
            source: self.source.as_ref().map(|source| source.places),
            choices: self.choices,
        };
        self.execute(shape, &inputs)?;
        self.found()
    }

    fn logits(&mut self) -> Result<Vec<f32>, GenerateError> {
        let logits = self.output(LOGITS)?;
        self.check(&logits, self.tables.len())?;
        Ok(logits)
    }
}
