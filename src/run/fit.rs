//! What happens in a run, in order.

use std::{path::Path, sync::Mutex};

use ailora_graph::adapter::Site;
use ailora_runtime::{
    backend::Backend,
    engine::Engine,
    init::complete,
    spectrum::Options,
    store::Params,
    train::{Checkpoint, Control, Fit, Headline, Keep, Progress, Trainer, Workload, fit},
    weights::Weights,
};

use super::{
    Adapted, Error, Learner, Manifest, Output, Recipe, Report, Run, Stage, recipe::Sizes,
    spectrum_cache,
};
use crate::output::Existing;

impl<L: Learner> Run<L> {
    /// Carries the run out, writing to the folder `output`, which holds nothing unless `existing` says
    /// what becomes of it. `watch` sees everything and may stop it.
    ///
    /// Of several ranks the first writes; all of them read the folder.
    ///
    /// # Errors
    /// Something given is wrong, or a file cannot be written. Whatever was checkpointed is intact.
    pub fn fit(
        self,
        output: &Path,
        existing: Existing,
        watch: impl FnMut(Stage<'_>) -> Control + Send,
    ) -> Result<Report, Error> {
        let ranks = self.ranks.clone();
        let report = self.carry_out(output, existing, watch);
        if let Err(error) = &report {
            ranks.fail(&error.to_string());
        }
        report
    }

    fn carry_out(
        self,
        folder: &Path,
        existing: Existing,
        mut watch: impl FnMut(Stage<'_>) -> Control + Send,
    ) -> Result<Report, Error> {
        let mut ready = self.ready(folder, existing, &mut watch)?;
        ready.go_on(folder, &mut watch)?;
        let report = ready.train(folder, &mut watch)?;
        ready.leave(folder, &report)?;
        Ok(report)
    }

    /// Claims the folder, gives adapters their start and compiles every program.
    fn ready(
        self,
        folder: &Path,
        existing: Existing,
        watch: &mut (impl FnMut(Stage<'_>) -> Control + Send),
    ) -> Result<Ready<L>, Error> {
        let Self {
            mut learner,
            adapters,
            recipe,
            ranks,
        } = self;
        recipe.check()?;
        let adapted = learner.adapted(&adapters)?;
        let backend = recipe.backend()?;
        let identity = learner.identity(&adapters, &recipe)?;
        let manifest = Manifest::new(&identity);
        let together = Recipe {
            accumulate: recipe.accumulate * ranks.world(),
            ..recipe.clone()
        };
        let mut workload = learner.workload(&adapted, &together)?;
        let headline = recipe.headline(&workload.headlines())?;
        let writes = learner.writes(&adapted);
        let open = || Output::open(folder, existing, &manifest, &identity.inputs, writes);
        let files = ranks.leads().then(open).transpose()?;

        let mut params = learner.take_weights();
        let mut left: Params = (learner.kept(&adapted).into_iter())
            .filter_map(|name| Some((name.clone(), params.get(&name)?.clone())))
            .collect();
        announce(&learner, &adapted, &params, watch);
        start(&adapted.sites, &mut params, &recipe, &*backend, watch)?;
        let engine = Engine::fused(backend, params).among(ranks);
        let mut engine = engine.checkpointing(recipe.gradient_checkpointing);
        let compiled = workload.compile(&mut engine, recipe.epochs);
        compiled.map_err(Into::into)?;
        left.extend(starts(&adapted.sites, engine.weights()));
        engine.release_unread();
        let total = workload.steps_per_epoch() * recipe.epochs as u64;
        let (trainer, sizes) = recipe.trainer(engine, &adapted, learner.parameters(), total);
        Ok(Ready {
            learner,
            recipe,
            adapted,
            manifest,
            files,
            left,
            workload,
            headline,
            trainer,
            sizes,
            total,
            progress: Progress::default(),
        })
    }
}

/// A run whose programs are compiled.
struct Ready<L: Learner> {
    learner: L,
    recipe: Recipe,
    adapted: Adapted,
    manifest: Manifest,
    /// The folder's, of the rank that writes.
    files: Option<Output>,
    /// What is left beside what trains.
    left: Params,
    workload: L::Workload,
    headline: Option<Headline>,
    trainer: Trainer,
    sizes: Sizes,
    /// Steps of all epochs.
    total: u64,
    progress: Progress,
}

impl<L: Learner> Ready<L> {
    /// What stands for everything that fixes the run.
    fn fingerprint(&self) -> String {
        match &self.files {
            Some(files) => files.fingerprint(&self.manifest),
            None => self.manifest.fingerprint.clone(),
        }
    }

    /// Goes on from the folder's checkpoint, if a run goes on there. The first rank finds the one that
    /// is whole, then the others read it.
    fn go_on(
        &mut self,
        folder: &Path,
        watch: &mut impl FnMut(Stage<'_>) -> Control,
    ) -> Result<(), Error> {
        let mut found = [0.0];
        if let Some(files) = &self.files {
            let (trainer, progress) = (&mut self.trainer, &mut self.progress);
            files.restore(&self.manifest, trainer, progress, |notice| {
                let _ = watch(Stage::Notice(&notice));
            })?;
            found[0] = f64::from(u8::from(self.trainer.steps_done() > 0));
        }
        self.trainer.ranks().sum_f64(&mut found)?;
        if self.files.is_none() && found[0] > 0.0 {
            let path = Output::checkpoint_in(folder);
            let (checkpoint, saved) = Checkpoint::load(&path, &self.fingerprint())?;
            self.trainer.restore(&checkpoint)?;
            self.progress = saved;
        }
        let (done, epochs) = (self.trainer.steps_done(), self.recipe.epochs);
        match done > self.total {
            true => Err(Error::Behind { epochs, done }),
            false => Ok(()),
        }
    }

    /// Makes the steps.
    fn train(
        &mut self,
        folder: &Path,
        watch: &mut impl FnMut(Stage<'_>) -> Control,
    ) -> Result<Report, Error> {
        let headline = self.headline.take();
        let options = Fit {
            epochs: self.recipe.epochs,
            max_steps: self.recipe.max_steps,
            checkpoint: Output::checkpoint_in(folder),
            checkpoint_every: self.recipe.checkpoint_every,
            evaluate_every: self.recipe.evaluate_every,
            fingerprint: self.fingerprint(),
            keep: self.recipe.keep(headline.is_some()),
            patience: self.recipe.patience,
            headline,
        };
        if let Some(best) = self.progress.best(options.headline.as_ref())
            && options.keep == Keep::Best
            && self.progress.kept != Some(best.step)
        {
            return Err(Error::NotKept(best.place()));
        }
        if let Some(files) = &mut self.files {
            self.learner.begin(folder)?;
            files.start(&self.manifest, &self.trainer, &self.progress)?;
        }
        let compiled = self.recipe.compiled(self.sizes, &self.trainer, self.total);
        let _ = watch(compiled);
        let outcome = fit(
            &mut self.trainer,
            &mut self.workload,
            &options,
            &mut self.progress,
            |event| {
                if let Some(files) = &mut self.files {
                    files.log(&event)?;
                }
                Ok::<_, Error>(watch(Stage::Training(event)))
            },
        )
        .map_err(Error::of_fit)?;
        let progress = std::mem::take(&mut self.progress);
        let steps = self.trainer.steps_done();
        Ok(Report::new(outcome, progress, &options, steps))
    }

    /// Writes what training left.
    fn leave(self, folder: &Path, report: &Report) -> Result<(), Error> {
        if let Some(files) = &self.files {
            files.write_metrics(self.learner.about(), report)?;
            let mut params = match report.keep {
                Keep::Best => self.trainer.kept()?,
                Keep::Last => self.trainer.trained()?,
            };
            for (name, array) in self.left {
                params.entry(name).or_insert(array);
            }
            self.learner.save(folder, &self.adapted, params)?;
        }
        // What the first rank wrote is there when any is through.
        Ok(self.trainer.ranks().barrier()?)
    }
}

/// Says what was loaded.
fn announce<L: Learner>(
    learner: &L,
    adapted: &Adapted,
    params: &Params,
    watch: &mut impl FnMut(Stage<'_>) -> Control,
) {
    let _ = watch(Stage::Loaded {
        report: learner.report(),
        sites: &adapted.sites,
        parameters: params.values().map(|array| array.len()).sum(),
        trainable: (adapted.trainable).count(&adapted.sites, learner.parameters()),
        rows: learner.rows(),
    });
    for notice in learner.notices() {
        let _ = watch(Stage::Notice(notice));
    }
}

/// Gives adapters their start, but for what has one.
fn start(
    sites: &[Site],
    params: &mut Params,
    recipe: &Recipe,
    backend: &dyn Backend,
    watch: &mut (impl FnMut(Stage<'_>) -> Control + Send),
) -> Result<(), Error> {
    let options = Options {
        cache: spectrum_cache(),
        solver: backend.solver(),
        ..Options::default()
    };
    let watch = Mutex::new(watch);
    complete(sites, params, recipe.seed, &options, |progress| {
        if let Ok(mut watch) = watch.lock() {
            let (done, total) = (progress.done, progress.total);
            let _ = watch(Stage::Initialised { done, total });
        }
    })?;
    Ok(())
}

/// The frozen parameters of the adapters, which the saved adapter may need.
fn starts(sites: &[Site], weights: &Weights) -> Params {
    let parameters = sites.iter().flat_map(|site| site.parameters(sites));
    parameters
        .filter(|parameter| !parameter.trains)
        .filter_map(|parameter| {
            let array = weights.get(&parameter.name)?;
            Some((parameter.name, array))
        })
        .collect()
}
