//! Training rows that do not fit into memory: they are read again every epoch, and tokenized ahead of
//! the steps by a thread of their own.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::JoinHandle,
};

use crate::{
    batch::{Encoded, shuffle},
    data::{DataError, Example},
    objective::{Objective, ObjectiveError},
    task::{Labels, Malformed, Rows, Task, TaskError},
    tokenizer::Tokenizer,
};

/// Examples that are tokenized at a time.
const BLOCK: usize = 1024;
/// Tokens of a window, at most, unless a step needs more.
const WINDOW_TOKENS: usize = 1 << 22;
/// Rows of a window, at most and at least.
const WINDOW_ROWS: [usize; 2] = [8192, 1024];
/// Windows that wait for their turn.
const AHEAD: usize = 1;

/// Rows of files.
///
/// An epoch reads the files in an order that its number and the seed fix, each from its start. Its
/// rows come in *windows* of neighbours, each of which is shuffled and put into batches as a whole
/// data set in memory is; the first window of an epoch is of another size every time, so that windows
/// are not of the same rows again.
#[derive(Clone, Debug)]
pub struct Stream {
    /// What the rows are for, bound to the model.
    pub objective: Arc<dyn Objective>,
    /// Reads the files.
    pub task: Arc<Task>,
    /// The files, each with the number of its first row.
    pub files: Vec<(PathBuf, usize)>,
    /// Which rows are of the training part.
    pub part: Rows,
    /// What becomes of rows that cannot be used.
    pub malformed: Malformed,
    /// Makes tokens of text.
    pub tokenizer: Arc<Tokenizer>,
    /// The longest sequence, in tokens.
    pub max_len: usize,
    /// Rows of an epoch.
    pub rows: usize,
    /// The first rows, by which shapes are chosen.
    pub sample: Vec<Encoded>,
}

/// Which of an epoch's windows are read.
#[derive(Clone, Copy, Debug)]
pub struct Windows {
    /// What fixes the order.
    pub seed: u64,
    /// The epoch, from 0.
    pub epoch: u64,
    /// Rows of the first window, and of the others.
    sizes: [usize; 2],
    /// Windows that are left out.
    skip: usize,
}

impl Windows {
    /// The windows of an epoch from the one that has the row `first`, for steps of `step_rows`; and
    /// how many of that window's rows are before it.
    pub fn from_row(
        stream: &Stream,
        seed: u64,
        epoch: u64,
        step_rows: usize,
        first: usize,
    ) -> (Self, usize) {
        let [most, least] = WINDOW_ROWS;
        let rows = (WINDOW_TOKENS / stream.max_len.max(1)).clamp(least, most);
        let steps = rows.div_ceil(step_rows.max(1));
        let size = steps * step_rows;
        // A shuffle's first place is any of them.
        let start = (1 + shuffle(steps, seed, !epoch)[0]) * step_rows;
        let (skip, before) = match first.checked_sub(start) {
            None => (0, first),
            Some(behind) => (1 + behind / size, behind % size),
        };
        let windows = Self {
            seed,
            epoch,
            sizes: [start, size],
            skip,
        };
        (windows, before)
    }

    /// The number of the first window, from 0.
    pub fn first(&self) -> usize {
        self.skip
    }

    fn size(&self, window: usize) -> usize {
        self.sizes[usize::from(window > 0)]
    }
}

/// The windows that a thread makes.
#[derive(Debug)]
pub struct Reading {
    windows: Option<Receiver<Result<Vec<Encoded>, ObjectiveError>>>,
    thread: Option<JoinHandle<()>>,
}

impl Reading {
    /// The next window's rows; none at the end of the epoch.
    ///
    /// # Errors
    /// A file is another than it was, or cannot be read any more.
    pub fn window(&mut self) -> Result<Option<Vec<Encoded>>, ObjectiveError> {
        match self.windows.as_ref().map(Receiver::recv) {
            Some(Ok(window)) => window.map(Some),
            _ => Ok(None),
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        // The thread's next window has nowhere to go, and so it ends.
        self.windows = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Stream {
    /// Begins to read windows.
    pub fn read(&self, windows: Windows) -> Reading {
        let (sender, receiver) = sync_channel(AHEAD);
        let stream = self.clone();
        let thread = std::thread::spawn(move || {
            let mut making = Making::new(&stream, windows, &sender);
            if let Err(error) = making.run() {
                let _ = sender.send(Err(error));
            }
        });
        Reading {
            windows: Some(receiver),
            thread: Some(thread),
        }
    }

    /// Hands over the examples of an epoch, as long as `take` takes them.
    fn examples(
        &self,
        seed: u64,
        epoch: u64,
        take: &mut dyn FnMut(Example) -> Result<(), DataError>,
    ) -> Result<(), TaskError> {
        let mut stopped = false;
        for file in shuffle(self.files.len(), seed, epoch) {
            let (path, first) = &self.files[file];
            let mut pass = |row: usize, example| {
                if !self.part.contains(first + row) {
                    return Ok(());
                }
                let taken = take(example);
                stopped = matches!(taken, Err(DataError::Stopped));
                taken
            };
            self.task
                .read(&[path], Labels::Required, self.malformed, &mut pass)?;
            if stopped {
                break;
            }
        }
        Ok(())
    }

    fn encode(&self, examples: &[Example]) -> Result<Vec<Encoded>, ObjectiveError> {
        let mut rows = self
            .objective
            .encode(examples, &self.tokenizer, self.max_len)?;
        // Of a prompt without any of its answer there is nothing to learn.
        rows.retain(|row| self.objective.has_targets(row));
        Ok(rows)
    }

    /// How many rows of tokens with something to learn an epoch's examples make, up to `most`.
    ///
    /// # Errors
    /// The tokenizer fails on a row.
    pub fn count(&self, most: usize) -> Result<usize, ObjectiveError> {
        let mut count = 0;
        let mut block = Vec::with_capacity(BLOCK);
        let mut failed = None;
        let mut take = |example| {
            block.push(example);
            if block.len() < BLOCK {
                return Ok(());
            }
            match self.encode(&std::mem::take(&mut block)) {
                Ok(rows) => count += rows.len(),
                Err(error) => failed = Some(error),
            }
            match failed.is_some() || count >= most {
                true => Err(DataError::Stopped),
                false => Ok(()),
            }
        };
        self.examples(0, 0, &mut take)?;
        match failed {
            Some(error) => Err(error),
            None => Ok((count + self.encode(&block)?.len()).min(most)),
        }
    }
}

/// Windows in the making.
struct Making<'a> {
    stream: &'a Stream,
    windows: Windows,
    sender: &'a SyncSender<Result<Vec<Encoded>, ObjectiveError>>,
    /// Examples that are not tokenized yet.
    block: Vec<Example>,
    /// Rows that are of no whole window yet.
    rows: Vec<Encoded>,
    /// Rows that are still left out.
    skip: usize,
    /// The window that `rows` are of.
    window: usize,
    failed: Option<ObjectiveError>,
}

impl<'a> Making<'a> {
    fn new(
        stream: &'a Stream,
        windows: Windows,
        sender: &'a SyncSender<Result<Vec<Encoded>, ObjectiveError>>,
    ) -> Self {
        Self {
            stream,
            windows,
            sender,
            block: Vec::new(),
            rows: Vec::new(),
            skip: (0..windows.skip).map(|window| windows.size(window)).sum(),
            window: windows.skip,
            failed: None,
        }
    }

    fn run(&mut self) -> Result<(), ObjectiveError> {
        let Windows { seed, epoch, .. } = self.windows;
        let stream = self.stream;
        stream.examples(seed, epoch, &mut |example| self.take(example))?;
        if self.failed.is_none() {
            let _ = self.end_block();
        }
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        if !self.rows.is_empty() {
            let _ = self.sender.send(Ok(std::mem::take(&mut self.rows)));
        }
        Ok(())
    }

    fn take(&mut self, example: Example) -> Result<(), DataError> {
        // An example that is a row by itself need not be tokenized to be left out.
        if self.skip > 0 && self.stream.objective.has_row_each() {
            self.skip -= 1;
            return Ok(());
        }
        self.block.push(example);
        match self.block.len() < BLOCK {
            true => Ok(()),
            false => self.end_block(),
        }
    }

    /// Tokenizes what was taken, and hands on the windows that are whole.
    fn end_block(&mut self) -> Result<(), DataError> {
        let block = std::mem::take(&mut self.block);
        match self.stream.encode(&block) {
            Ok(mut rows) => {
                let skipped = self.skip.min(rows.len());
                self.skip -= skipped;
                self.rows.extend(rows.drain(skipped..));
            }
            Err(error) => {
                self.failed = Some(error);
                return Err(DataError::Stopped);
            }
        }
        loop {
            let size = self.windows.size(self.window);
            if self.rows.len() < size {
                return Ok(());
            }
            let rest = self.rows.split_off(size);
            let window = std::mem::replace(&mut self.rows, rest);
            self.window += 1;
            // Whoever wanted it is gone.
            if self.sender.send(Ok(window)).is_err() {
                return Err(DataError::Stopped);
            }
        }
    }
}
