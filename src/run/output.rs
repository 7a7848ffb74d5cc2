use std::{
    fs,
    path::{Path, PathBuf},
};

use ailora_runtime::{
    store,
    train::{Checkpoint, CheckpointError, Event, Outcome, Progress, StepReport, Trainer},
};
use serde::Serialize;
use serde_json::json;

use super::{Error, Manifest, Record, Report, manifest};
use crate::{
    log::{JsonLines, TensorBoard},
    output::{Existing, Folder, OutputError, RUN},
};

/// The log of steps.
const STEPS: &str = "train.jsonl";
/// The log of evaluations.
const EVALUATIONS: &str = "evaluations.jsonl";

/// The folder of a run:
///
/// | file | what |
/// | --- | --- |
/// | `adapter_config.json`, `adapter_model.safetensors` | the adapter that is kept, as PEFT loads it |
/// | `ailora.json` | the adapters' specification, and what they belong to |
/// | `metrics.json` | the held-out metrics: every evaluation, the best, and `last`, those of what is left |
/// | `train.jsonl` | loss, rate, norm, rows a second of every step |
/// | `evaluations.jsonl` | the held-out metrics of every evaluation, when it is made |
/// | `tensorboard/` | both as curves |
/// | `run.json` | hashes of base, data and settings; seeds; versions |
/// | `checkpoint.safetensors` | where to go on: the last step, and the best parameters |
/// | `checkpoint.previous.safetensors` | the checkpoint before it |
///
/// Nobody else writes there while this is there.
#[derive(Debug)]
pub struct Output {
    folder: Folder,
    /// The record of the run that goes on.
    record: Option<Record>,
    logs: Option<Logs>,
    last_step: std::time::Instant,
}

/// The logs of a run.
#[derive(Debug)]
struct Logs {
    /// `train.jsonl`
    steps: JsonLines,
    /// `evaluations.jsonl`
    evaluations: JsonLines,
    board: TensorBoard,
}

/// A row of `train.jsonl`.
#[derive(Serialize)]
struct Row {
    step: u64,
    epoch: usize,
    loss: f64,
    lr: f64,
    gradient_norm: f64,
    rows_per_second: f64,
}

impl Output {
    /// Claims a folder for a run that reads `inputs` and writes the files of the lists `writes`, and
    /// proves that it can be written.
    ///
    /// # Errors
    /// It cannot be written; it is an input; another run is at work there; it holds something that
    /// `existing` does not let go; or a run that goes on was started with other settings or files.
    pub fn open(
        folder: &Path,
        existing: Existing,
        manifest: &Manifest,
        inputs: &[PathBuf],
        writes: &[&str],
    ) -> Result<Self, Error> {
        let mut output = Self {
            folder: Folder::claim(
                folder,
                &inputs.iter().map(PathBuf::as_path).collect::<Vec<_>>(),
            )?,
            record: None,
            logs: None,
            last_step: std::time::Instant::now(),
        };
        if existing == Existing::Replace {
            output.folder.clear(&[RUN, writes])?;
        }
        if let Some(record) = Record::of(folder)? {
            if existing != Existing::Resume {
                return Err(OutputError::Occupied(folder.to_owned()).into());
            }
            let changes = manifest.changes(&record);
            if !changes.is_empty() {
                return Err(Error::Changed {
                    folder: folder.to_owned(),
                    changes,
                });
            }
            output.record = Some(record);
        } else {
            if existing != Existing::Replace {
                output.folder.check_empty()?;
            }
            output.write_json(manifest::NAME, manifest)?;
        }
        Ok(output)
    }

    /// Where the checkpoints of a run in a folder go.
    pub fn checkpoint_in(folder: &Path) -> PathBuf {
        folder.join("checkpoint.safetensors")
    }

    /// What stands for everything that fixes the run.
    pub(crate) fn fingerprint(&self, manifest: &Manifest) -> String {
        let record = self.record.as_ref().map(Record::fingerprint);
        record.unwrap_or(&manifest.fingerprint).to_owned()
    }

    /// Goes on from the checkpoint, if there is one, or from the one before it where it is damaged,
    /// which `say` is told.
    ///
    /// # Errors
    /// The checkpoints are damaged or of another run.
    pub(crate) fn restore(
        &self,
        manifest: &Manifest,
        trainer: &mut Trainer,
        progress: &mut Progress,
        say: impl FnMut(String),
    ) -> Result<(), Error> {
        if self.record.is_some()
            && let Some((checkpoint, saved)) = self.last(&self.fingerprint(manifest), say)?
        {
            trainer.restore(&checkpoint)?;
            *progress = saved;
        }
        Ok(())
    }

    /// Opens the logs, and records what the run is now. Not before all was seen to fit: a resume that
    /// is refused changes nothing.
    ///
    /// # Errors
    /// A file cannot be written.
    pub(crate) fn start(
        &mut self,
        manifest: &Manifest,
        trainer: &Trainer,
        progress: &Progress,
    ) -> Result<(), Error> {
        self.write_json(manifest::NAME, manifest)?;
        let lines = |name: &str, after: u64| {
            let path = self.path(name);
            JsonLines::open(&path, after).map_err(Error::io(&path, "write it"))
        };
        let steps = lines(STEPS, trainer.steps_done())?;
        let evaluated = progress.evaluations.last().map_or(0, |last| last.step);
        let evaluations = lines(EVALUATIONS, evaluated)?;
        let path = self.path("tensorboard");
        let board = TensorBoard::create(&path).map_err(Error::io(&path, "write it"))?;
        self.logs = Some(Logs {
            steps,
            evaluations,
            board,
        });
        self.last_step = std::time::Instant::now();
        Ok(())
    }

    /// The last checkpoint that is whole. One that is damaged makes room for the one before it.
    fn last(
        &self,
        fingerprint: &str,
        mut say: impl FnMut(String),
    ) -> Result<Option<(Checkpoint, Progress)>, Error> {
        let path = Self::checkpoint_in(self.folder.path());
        let before = Checkpoint::before(&path);
        let load = |path: &Path| match path.exists() {
            true => Checkpoint::load(path, fingerprint).map(Some),
            false => Ok(None),
        };
        let (last, spare) = (load(&path), load(&before));
        let damaged = |error: &CheckpointError| matches!(error, CheckpointError::Damaged { .. });
        match (last, spare) {
            (Ok(Some(last)), spare) => {
                if let Err(error) = spare {
                    say(format!("{error}; the last one is whole, and is used"));
                }
                Ok(Some(last))
            }
            (Err(error), Ok(Some(spare))) if damaged(&error) => {
                fs::rename(&before, &path).map_err(Error::io(&before, "put it in place"))?;
                let step = spare.0.step;
                say(format!(
                    "{error}; going on from the older one, of step {step}"
                ));
                Ok(Some(spare))
            }
            (Ok(None), Ok(spare)) => Ok(spare),
            (Err(error), _) | (Ok(None), Err(error)) if damaged(&error) => {
                Err(Error::Damaged(error))
            }
            (Err(error), _) | (_, Err(error)) => Err(error.into()),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Logs what happened.
    ///
    /// # Errors
    /// A log cannot be written.
    pub fn log(&mut self, event: &Event<'_>) -> Result<(), Error> {
        let Some(Logs {
            steps,
            evaluations,
            board,
        }) = &mut self.logs
        else {
            return Ok(());
        };
        let folder = self.folder.path();
        let board_path = folder.join("tensorboard");
        let mut scalars: Vec<(String, u64, f64)> = Vec::new();
        match event {
            Event::Step { epoch, report } => {
                let StepReport {
                    step,
                    loss,
                    lr,
                    gradient_norm,
                    rows: count,
                    ..
                } = **report;
                let seconds = self.last_step.elapsed().as_secs_f64().max(1e-9);
                self.last_step = std::time::Instant::now();
                let row = Row {
                    step,
                    epoch: *epoch,
                    loss,
                    lr,
                    gradient_norm,
                    rows_per_second: count as f64 / seconds,
                };
                let path = folder.join(STEPS);
                steps.write(&row).map_err(Error::io(&path, "write it"))?;
                let values = [
                    ("train/loss", loss),
                    ("train/lr", lr),
                    ("train/gradient_norm", gradient_norm),
                    ("train/rows_per_second", row.rows_per_second),
                ];
                scalars.extend(values.map(|(tag, value)| (tag.into(), step, value)));
            }
            Event::Evaluated { evaluation, .. } => {
                let path = folder.join(EVALUATIONS);
                let written = evaluations.write(evaluation);
                written.map_err(Error::io(&path, "write it"))?;
                let metrics = evaluation.metrics.iter();
                scalars.extend(
                    metrics.map(|(name, &value)| (format!("dev/{name}"), evaluation.step, value)),
                );
            }
            Event::Checkpointed { .. } => {}
        }
        for (tag, step, value) in scalars {
            board
                .scalar(&tag, step, value)
                .map_err(Error::io(&board_path, "write it"))?;
        }
        Ok(())
    }

    /// Writes `metrics.json`: what the run is `about`, and how it ended.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn write_metrics(
        &self,
        about: serde_json::Value,
        report: &Report,
    ) -> Result<(), Error> {
        let mut metrics = about;
        metrics["finished"] = json!(report.outcome == Outcome::Finished);
        metrics["headline"] = json!(report.headline.as_ref().map(|headline| &headline.name));
        metrics["best"] = json!(report.best);
        // What the run says last is of what it leaves.
        let last = report.kept.as_ref().or(report.evaluations.last());
        metrics["last"] = json!(last);
        metrics["keep"] = json!(report.keep);
        metrics["kept"] = json!(report.kept.as_ref().map(|kept| kept.epoch));
        metrics["epochs"] = json!(report.evaluations);
        self.write_json("metrics.json", &metrics)
    }

    fn write_json(&self, name: &str, value: &impl Serialize) -> Result<(), Error> {
        let path = self.path(name);
        let bytes = serde_json::to_vec_pretty(value)
            .map_err(|error| Error::io(&path, "describe it")(error.into()))?;
        Ok(store::write_atomically(&path, &bytes)?)
    }
}
