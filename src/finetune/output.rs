use std::path::{Path, PathBuf};

use ailora_graph::adapter::{Layout, Site};
use ailora_models::{peft::Adapter, task::Task};
use ailora_runtime::{
    store,
    train::{Checkpoint, Event, Outcome, Progress, StepReport, Trainer},
};
use serde::Serialize;
use serde_json::json;

use super::{Error, Manifest, Model, Report, Settings};
use crate::log::{JsonLines, TensorBoard};
use ailora_runtime::store::Params;

/// The folder of a run:
///
/// | file | what |
/// | --- | --- |
/// | `adapter_config.json`, `adapter_model.safetensors` | the adapter of the epoch that is kept, as PEFT loads it |
/// | `ailora.json` | the adapters' specification, and what they belong to |
/// | `metrics.json` | the task's metrics: every epoch, the best, the last, and which one is left |
/// | `train.jsonl`, `tensorboard/` | loss, rate, norm, rows a second of every step |
/// | `run.json` | hashes of base, data and settings; seeds; versions |
/// | `checkpoint.safetensors` | where to go on: the last step, and the best epoch's parameters |
#[derive(Debug)]
pub struct Output {
    folder: PathBuf,
    resume: bool,
    logs: Option<(JsonLines, TensorBoard)>,
    last_step: std::time::Instant,
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
    /// Claims a folder for a run, and proves that it can be written.
    ///
    /// # Errors
    /// It cannot be written, or holds a run and `resume` is not asked for.
    pub fn open<S: Serialize>(
        folder: &Path,
        manifest: &Manifest<S>,
        resume: bool,
    ) -> Result<Self, Error> {
        let output = Self {
            folder: folder.to_owned(),
            resume,
            logs: None,
            last_step: std::time::Instant::now(),
        };
        if !resume && (output.checkpoint_path().exists() || folder.join("run.json").exists()) {
            return Err(Error::Occupied(folder.to_owned()));
        }
        // Not before the checkpoint was seen to fit: a resume with other settings changes nothing.
        if !output.checkpoint_path().exists() {
            output.write_json("run.json", manifest)?;
        }
        Ok(output)
    }

    /// Where checkpoints go.
    pub fn checkpoint_path(&self) -> PathBuf {
        self.folder.join("checkpoint.safetensors")
    }

    /// Goes on from the checkpoint, if that is asked for and there is one, and opens the logs.
    ///
    /// # Errors
    /// The checkpoint is of another run, or a log cannot be written.
    pub(crate) fn restore<S>(
        &mut self,
        manifest: &Manifest<S>,
        trainer: &mut Trainer,
        progress: &mut Progress,
    ) -> Result<(), Error> {
        let path = self.checkpoint_path();
        if self.resume && path.exists() {
            let (checkpoint, saved) = Checkpoint::load(&path, &manifest.fingerprint)?;
            trainer.restore(&checkpoint)?;
            *progress = saved;
        }
        let path = self.folder.join("train.jsonl");
        let rows = JsonLines::open(&path, trainer.steps_done());
        let rows = rows.map_err(Error::io(&path, "write it"))?;
        let path = self.folder.join("tensorboard");
        let board = TensorBoard::create(&path).map_err(Error::io(&path, "write it"))?;
        self.logs = Some((rows, board));
        self.last_step = std::time::Instant::now();
        Ok(())
    }

    /// Logs what happened.
    ///
    /// # Errors
    /// A log cannot be written.
    pub fn log(&mut self, event: &Event<'_>) -> Result<(), Error> {
        let Some((rows, board)) = &mut self.logs else {
            return Ok(());
        };
        let board_path = self.folder.join("tensorboard");
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
                let path = self.folder.join("train.jsonl");
                rows.write(&row).map_err(Error::io(&path, "write it"))?;
                let values = [
                    ("train/loss", loss),
                    ("train/lr", lr),
                    ("train/gradient_norm", gradient_norm),
                    ("train/rows_per_second", row.rows_per_second),
                ];
                scalars.extend(values.map(|(tag, value)| (tag.into(), step, value)));
            }
            Event::Evaluated { evaluation, .. } => {
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
        metrics["headline"] = json!(report.headline);
        metrics["best"] = json!(report.best);
        metrics["last"] = json!(report.evaluations.last());
        metrics["keep"] = json!(report.keep);
        metrics["kept"] = json!(report.kept.as_ref().map(|kept| kept.epoch));
        metrics["epochs"] = json!(report.evaluations);
        self.write_json("metrics.json", &metrics)
    }

    /// Writes the adapter as PEFT loads it, and what it is beside it.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn write_adapter(
        &self,
        adapter: &Adapter,
        settings: &Settings,
        task: &Task,
        sites: &[Site],
        heads: &[String],
    ) -> Result<(), Error> {
        adapter.save(&self.folder, &settings.model, task.head(), heads)?;
        let described: Vec<serde_json::Value> = sites
            .iter()
            .filter(|site| site.spec.trains())
            .map(|site| {
                json!({
                    "path": site.path,
                    "strategy": format!("{:?}", site.spec.strategy),
                    "shape": [site.out_features, site.in_features],
                    "layout": if site.layout == Layout::OutIn { "out_in" } else { "in_out" },
                    "lr": site.spec.lr,
                    "scale": site.spec.scale(),
                    "dropout": site.spec.dropout,
                })
            })
            .collect();
        let about = json!({
            "model": settings.model,
            "task": settings.task,
            "labels": task.label_names(),
            "seed": settings.seed,
            "sites": described,
        });
        self.write_json("ailora.json", &about)
    }

    /// Writes a fully trained model as a folder of its own.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn write_model(&self, model: &Model, task: &Task, params: &Params) -> Result<(), Error> {
        super::write_model(model, task, params, &self.folder)
    }

    fn write_json(&self, name: &str, value: &impl Serialize) -> Result<(), Error> {
        let path = self.folder.join(name);
        let bytes = serde_json::to_vec_pretty(value)
            .map_err(|error| Error::io(&path, "describe it")(error.into()))?;
        Ok(store::write_atomically(&path, &bytes)?)
    }
}
