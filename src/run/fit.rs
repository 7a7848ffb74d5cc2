//! What happens in a run, in order.

use std::{path::Path, sync::Mutex};

use ailora_graph::adapter::Site;
use ailora_runtime::{
    backend::Backend,
    engine::Engine,
    init::initialise,
    spectrum::Options,
    store::Params,
    train::{Checkpoint, Control, Fit, Keep, Progress, Trainer, Workload, fit},
    weights::Weights,
};

use super::{
    Adapted, Error, Learner, Manifest, Output, Recipe, Report, Run, Stage, spectrum_cache,
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
        let Self {
            mut learner,
            adapters,
            recipe,
            ranks,
        } = self;
        recipe.check()?;
        let adapted = Adapted::new(&adapters, learner.sites(), learner.parameters())?;
        let backend = recipe.backend()?;
        let identity = learner.identity(&adapters, &recipe)?;
        let manifest = Manifest::new(&identity);
        let together = Recipe {
            accumulate: recipe.accumulate * ranks.world(),
            ..recipe.clone()
        };
        let mut workload = learner.workload(&adapted, &together)?;
        let writes = learner.writes(&adapted);
        let open = || Output::open(folder, existing, &manifest, &identity.inputs, writes);
        let mut files = ranks.leads().then(open).transpose()?;

        let mut params = learner.take_weights();
        let kept: Params = (learner.kept(&adapted).into_iter())
            .filter_map(|name| Some((name.clone(), params.get(&name)?.clone())))
            .collect();
        announce(&learner, &adapted, &params, &mut watch);
        start(&adapted.sites, &mut params, &recipe, &*backend, &mut watch)?;

        let engine = Engine::fused(backend, params).among(ranks.clone());
        let mut engine = engine.checkpointing(recipe.gradient_checkpointing);
        let compiled = workload.compile(&mut engine, recipe.epochs);
        compiled.map_err(Into::into)?;
        let starts = starts(&adapted.sites, engine.weights());
        engine.release_unread();
        let total = workload.steps_per_epoch() * recipe.epochs as u64;
        let (mut trainer, sizes) = recipe.trainer(engine, &adapted, learner.parameters(), total);
        let fingerprint = match &files {
            Some(files) => files.fingerprint(&manifest),
            None => manifest.fingerprint.clone(),
        };
        let mut progress = Progress::default();
        restore(
            &files,
            folder,
            &manifest,
            &mut trainer,
            &mut progress,
            |notice| {
                let _ = watch(Stage::Notice(&notice));
            },
        )?;
        let done = trainer.steps_done();
        if done > total {
            let epochs = recipe.epochs;
            return Err(Error::Behind { epochs, done });
        }

        let headline = workload.headline();
        let options = Fit {
            epochs: recipe.epochs,
            max_steps: recipe.max_steps,
            checkpoint: Output::checkpoint_in(folder),
            checkpoint_every: recipe.checkpoint_every,
            fingerprint,
            keep: recipe.keep(headline.is_some()),
            headline,
        };
        if let Some(best) = progress.best(options.headline.as_ref())
            && options.keep == Keep::Best
            && progress.kept != Some(best.epoch)
        {
            return Err(Error::NotKept(best.epoch));
        }
        if let Some(files) = &mut files {
            learner.begin(folder)?;
            files.start(&manifest, &trainer)?;
        }
        let _ = watch(recipe.compiled(sizes, &trainer, total));
        let outcome = fit(
            &mut trainer,
            &mut workload,
            &options,
            &mut progress,
            |event| {
                if let Some(files) = &mut files {
                    files.log(&event)?;
                }
                Ok::<_, Error>(watch(Stage::Training(event)))
            },
        )
        .map_err(Error::of_fit)?;
        let report = Report::new(outcome, progress, &options, trainer.steps_done());
        let mut params = match report.keep {
            Keep::Best => trainer.kept()?,
            Keep::Last => trainer.trained()?,
        };
        if let Some(files) = &files {
            files.write_metrics(learner.about(), &report)?;
            params.extend(starts);
            for (name, array) in kept {
                params.entry(name).or_insert(array);
            }
            learner.save(folder, &adapted, params)?;
        }
        // What the first rank wrote is there when any is through.
        ranks.barrier()?;
        Ok(report)
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
        parameters: params.values().map(|array| array.data.len()).sum(),
        trainable: (adapted.trainable).count(&adapted.sites, learner.parameters()),
        rows: learner.rows(),
    });
    for notice in learner.notices() {
        let _ = watch(Stage::Notice(notice));
    }
}

/// Gives adapters their start.
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
    initialise(sites, params, recipe.seed, &options, |progress| {
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

/// Goes on from the folder's checkpoint, if a run goes on there. The first rank finds the one that is
/// whole, then the others read it.
fn restore(
    files: &Option<Output>,
    folder: &Path,
    manifest: &Manifest,
    trainer: &mut Trainer,
    progress: &mut Progress,
    say: impl FnMut(String),
) -> Result<(), Error> {
    let ranks = trainer.ranks().clone();
    let mut goes_on = [0.0];
    let mut fingerprint = manifest.fingerprint.clone();
    if let Some(files) = files {
        files.restore(manifest, trainer, progress, say)?;
        goes_on[0] = f64::from(u8::from(trainer.steps_done() > 0));
        fingerprint = files.fingerprint(manifest);
    }
    ranks.sum_f64(&mut goes_on)?;
    if files.is_none() && goes_on[0] > 0.0 {
        let path = Output::checkpoint_in(folder);
        let (checkpoint, saved) = Checkpoint::load(&path, &fingerprint)?;
        trainer.restore(&checkpoint)?;
        *progress = saved;
    }
    Ok(())
}
