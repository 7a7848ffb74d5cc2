use std::collections::HashMap;

use ailora_graph::{
    adapter::{Site, Trainable},
    ir::{Draw, Program},
};
use ailora_runtime::{
    engine::{Engine, EngineError, PlanId},
    passes::{PassError, Passes},
    run::Value,
};
use thiserror::Error;

use super::{
    Decode,
    cache::{Step, entry, memory},
};
use crate::{
    batch::{Batch, Targets},
    model::{Model, ModelError},
    objective::NotFinite,
};

/// Prompts of nearly one length share a program: their lengths are padded to a multiple of this.
const PROMPT: usize = 16;
/// Places of a cache come in multiples of this.
const PLACES: usize = 64;

/// Tokens that cannot be generated.
#[derive(Debug, Error)]
pub enum GenerateError {
    /// The model cannot be built, or is none that generates.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The adapters do not fit the model.
    #[error(transparent)]
    Pass(#[from] PassError),
    /// A program cannot be compiled or run.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A logit is infinite or not a number.
    #[error("a logit behind prompt {row} is {value}: {cause}")]
    NotFinite {
        /// The prompt, from 0.
        row: usize,
        /// The logit.
        value: f32,
        /// Where that may come from.
        cause: NotFinite,
    },
    /// There is nothing to go on from.
    #[error("prompt {0} is empty; expected at least one token")]
    EmptyPrompt(usize),
    /// A prompt that the model has no positions for.
    #[error("prompt {prompt} has {len} tokens, but the model has positions for {max}; shorten it")]
    LongPrompt {
        /// Which one, counted from 0.
        prompt: usize,
        /// Its length.
        len: usize,
        /// The model's limit.
        max: usize,
    },
}

/// A language model with adapters, compiled for shapes of steps as they come.
#[derive(Debug)]
pub struct Generator {
    model: Model,
    sites: Vec<Site>,
    engine: Engine,
    start: Option<i32>,
    plans: HashMap<[usize; 4], PlanId>,
    memories: HashMap<[usize; 2], PlanId>,
}

impl Generator {
    /// A model whose projections are as `sites` says, over an engine with their parameters.
    pub fn new(model: Model, sites: Vec<Site>, engine: Engine) -> Self {
        Self {
            start: model.config().architecture.start_token(),
            model,
            sites,
            engine,
            plans: HashMap::new(),
            memories: HashMap::new(),
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

    /// Exchanges the engine for another: a run that trains lends its own while it is evaluated. Programs that were
    /// compiled are of the engine that they were compiled with.
    pub fn exchange(&mut self, engine: &mut Engine) {
        std::mem::swap(&mut self.engine, engine);
    }

    /// What each row has before its first new token: its prompt or, of an encoder-decoder, the
    /// start token.
    pub fn given(&self, prompts: &[Vec<i32>]) -> Vec<Vec<i32>> {
        match self.start {
            Some(token) => vec![vec![token]; prompts.len()],
            None => prompts.to_vec(),
        }
    }

    /// Runs the prompts, of an encoder-decoder the input texts and its start tokens, with room for
    /// `room` more tokens. Gives the logits of the tokens that follow, `[rows, vocabulary]`, beside the
    /// session.
    ///
    /// # Errors
    /// A prompt that is empty, too long, or has an id that the model does not know.
    pub fn start(
        &mut self,
        prompts: &[Vec<i32>],
        room: usize,
    ) -> Result<(Session<'_>, Vec<f32>), GenerateError> {
        let rows = prompts.len();
        if let Some(empty) = prompts.iter().position(Vec::is_empty) {
            return Err(GenerateError::EmptyPrompt(empty));
        }
        let max = self.model.config().architecture.max_len();
        let mut lengths = prompts.iter().map(Vec::len).enumerate();
        if let Some((prompt, len)) = lengths.find(|(_, len)| *len > max) {
            return Err(GenerateError::LongPrompt { prompt, len, max });
        }
        let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
        let len = longest.next_multiple_of(PROMPT).min(max);
        let room = room.min(max);
        let Some(token) = self.start else {
            return self.begin(prompts, len, room, Source::default());
        };
        let source = self.read(prompts, len)?;
        let starts = vec![vec![token]; rows];
        self.begin(&starts, 1, room, source)
    }

    /// Runs an encoder-decoder's encoder on texts, padded to `len`.
    fn read(&mut self, texts: &[Vec<i32>], len: usize) -> Result<Source, GenerateError> {
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
        let id = match self.memories.get(&[rows, len]) {
            Some(&id) => id,
            None => {
                let program = self.model.memory(rows, len)?;
                let id = self.compile(&program)?;
                self.memories.insert([rows, len], id);
                id
            }
        };
        let inputs = self.model.inputs(&batch);
        let outputs = self.engine.run(id, &inputs.values(), Draw::default())?;
        let parts = (0..).map_while(|i| Some(outputs.get(&memory(i))?.to_vec()));
        Ok(Source {
            len,
            memory: parts.collect(),
            mask: batch.mask,
        })
    }

    /// The first step: prompts padded to `len`.
    fn begin(
        &mut self,
        prompts: &[Vec<i32>],
        len: usize,
        room: usize,
        source: Source,
    ) -> Result<(Session<'_>, Vec<f32>), GenerateError> {
        let rows = prompts.len();
        let mut step = Step {
            ids: Vec::new(),
            positions: Vec::new(),
            mask: Vec::new(),
            source_mask: source.mask.clone(),
        };
        for prompt in prompts {
            // Padding is on the left, so that all rows go on at the same place. Any id will do.
            let padding = len - prompt.len();
            step.ids.extend(vec![0; padding]);
            step.ids.extend(prompt);
            step.positions.extend(vec![0; padding]);
            step.positions.extend(0..prompt.len() as i32);
            step.mask.extend(vec![0.0; padding]);
            step.mask.extend(vec![1.0; prompt.len()]);
        }
        let mut session = Session {
            generator: self,
            places: (len + room).next_multiple_of(PLACES),
            used: 0,
            next: prompts.iter().map(|prompt| prompt.len() as i32).collect(),
            mask: vec![0.0; rows * (len + room).next_multiple_of(PLACES)],
            entries: Vec::new(),
            source,
        };
        let logits = session.run(len, 0, step)?;
        Ok((session, logits))
    }

    fn plan(&mut self, key: [usize; 4]) -> Result<PlanId, GenerateError> {
        if let Some(&id) = self.plans.get(&key) {
            return Ok(id);
        }
        let [rows, len, cached, source] = key;
        let program = self.model.step(rows, len, cached, source)?;
        let id = self.compile(&program)?;
        self.plans.insert(key, id);
        Ok(id)
    }

    /// Compiles one of the model's programs, with those of the adapters whose weights it reads.
    fn compile(&mut self, program: &Program) -> Result<PlanId, GenerateError> {
        let passes = Passes {
            sites: &self.sites,
            trainable: &Trainable::Adapters,
            precision: self.engine.backend().precision(),
        };
        Ok(self.engine.compile(&passes.part(program)?)?)
    }
}

/// What the steps of an encoder-decoder read of the input texts.
#[derive(Debug, Default)]
struct Source {
    /// Padded length of the texts.
    len: usize,
    /// Keys and values of every layer, `[rows, len, width]` each.
    memory: Vec<Vec<f32>>,
    /// Which of them are a token's, `[rows, len]`.
    mask: Vec<f32>,
}

/// Sequences that grow by one token a step.
#[derive(Debug)]
pub struct Session<'a> {
    generator: &'a mut Generator,
    /// Places of a row in the cache, and how many of them are taken.
    places: usize,
    used: usize,
    /// The position of each row's next token.
    next: Vec<i32>,
    /// Which places hold a token, `[rows, places]`.
    mask: Vec<f32>,
    /// Keys and values of every layer, `[rows, places, width]` each.
    entries: Vec<Vec<f32>>,
    source: Source,
}

impl Session<'_> {
    /// Runs `len` tokens of every row and keeps their keys and values. Of the cache, the step reads
    /// all places or, before there is anything in them, none.
    fn run(&mut self, len: usize, cached: usize, step: Step) -> Result<Vec<f32>, GenerateError> {
        let (rows, places, used) = (self.next.len(), self.places, self.used);
        let id = self.generator.plan([rows, len, cached, self.source.len])?;
        let inputs = self
            .generator
            .model
            .config()
            .architecture
            .step_inputs(&step);
        let parts = self.source.memory.iter().enumerate();
        let parts = parts.map(|(i, data)| (memory(i), data));
        let entries = self.entries.iter().enumerate();
        let entries = entries.map(|(i, data)| (entry(i), data));
        let entries: Vec<(String, &Vec<f32>)> = parts.chain(entries).collect();
        let mut values = inputs.values();
        let entries = entries.iter();
        values.extend(entries.map(|(name, data)| (name.as_str(), Value::F32(data))));
        let outputs = self.generator.engine.run(id, &values, Draw::default())?;
        let logits = outputs
            .output("logits")
            .map_err(EngineError::from)?
            .to_vec();
        for i in 0.. {
            let Some(added) = outputs.get(&entry(i)) else {
                break;
            };
            let width = added.len() / (rows * len);
            if i == self.entries.len() {
                self.entries.push(vec![0.0; rows * places * width]);
            }
            let rows = self.entries[i].chunks_exact_mut(places * width);
            for (row, added) in rows.zip(added.chunks_exact(len * width)) {
                row[used * width..][..len * width].copy_from_slice(added);
            }
        }
        let rows = self.mask.chunks_exact_mut(places);
        for (row, step) in rows.zip(step.mask.chunks_exact(cached + len)) {
            row[used..used + len].copy_from_slice(&step[cached..]);
        }
        self.used += len;
        let is_odd = |x: &f32| x.is_nan() || *x == f32::INFINITY;
        if let Some(at) = logits.iter().position(is_odd) {
            return Err(GenerateError::NotFinite {
                row: at / (logits.len() / self.next.len().max(1)).max(1),
                value: logits[at],
                cause: NotFinite::of(self.generator.engine.weights()),
            });
        }
        Ok(logits)
    }

    /// Gives every row more places.
    fn grow(&mut self) {
        let (rows, old) = (self.next.len(), self.places);
        self.places += old.max(PLACES);
        let grown = |data: &Vec<f32>| {
            let width = data.len() / (rows * old);
            let rows = data.chunks_exact(old * width);
            let spare = vec![0.0; (self.places - old) * width];
            rows.flat_map(|row| [row, &spare].concat()).collect()
        };
        self.entries = self.entries.iter().map(grown).collect();
        self.mask = grown(&self.mask);
    }
}

impl Decode for Session<'_> {
    type Error = GenerateError;

    fn step(&mut self, tokens: &[i32]) -> Result<Vec<f32>, GenerateError> {
        let max = self.generator.model.config().architecture.max_len();
        if let Some(&position) = self.next.iter().find(|&&next| next as usize >= max) {
            let len = position as usize + 1;
            return Err(ModelError::TooLong { len, max }.into());
        }
        if self.used == self.places {
            self.grow();
        }
        let rows = self.mask.chunks_exact(self.places);
        let step = Step {
            ids: tokens.to_vec(),
            positions: self.next.clone(),
            mask: rows.flat_map(|row| [row, &[1.0]].concat()).collect(),
            source_mask: self.source.mask.clone(),
        };
        self.next.iter_mut().for_each(|next| *next += 1);
        self.run(1, self.places, step)
    }

    fn reorder(&mut self, rows: &[usize]) {
        let taken = |data: &Vec<f32>, count: usize| -> Vec<f32> {
            let width = data.len() / count;
            let rows = rows.iter().map(|&row| &data[row * width..][..width]);
            rows.flatten().copied().collect()
        };
        let count = self.next.len();
        self.entries = self.entries.iter().map(|e| taken(e, count)).collect();
        self.mask = taken(&self.mask, count);
        let memory = self.source.memory.iter();
        self.source.memory = memory.map(|part| taken(part, count)).collect();
        self.source.mask = taken(&self.source.mask, count);
        self.next = rows.iter().map(|&row| self.next[row]).collect();
    }
}
