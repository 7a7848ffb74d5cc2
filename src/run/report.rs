use ailora_graph::adapter::Site;
use ailora_models::pretrained::LoadReport;
use ailora_runtime::train::{Evaluation, Event, Fit, Headline, Keep, Outcome, Progress};

/// What a run tells whoever watches it.
#[derive(Debug)]
pub enum Stage<'a> {
    /// Model, data and adapters are known; nothing was computed yet.
    Loaded {
        /// What of the model's files was used, if it is of files.
        report: Option<&'a LoadReport>,
        /// The projections and what happens to them.
        sites: &'a [Site],
        /// Numbers in all parameters.
        parameters: usize,
        /// Numbers that are trained.
        trainable: usize,
        /// Training rows.
        rows: usize,
    },
    /// An adapter got its start.
    Initialised {
        /// How many did.
        done: usize,
        /// Of how many.
        total: usize,
    },
    /// Every program is compiled.
    Compiled {
        /// How many programs.
        programs: usize,
        /// Peak bytes of parameters, intermediate values, gradients and optimiser.
        peak_bytes: usize,
        /// Steps of the run.
        steps: u64,
        /// Steps that an earlier session made.
        done: u64,
    },
    /// Something that whoever started the run should know.
    Notice(&'a str),
    /// Training.
    Training(Event<'a>),
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Report {
    /// Whether all steps were made.
    pub outcome: Outcome,
    /// All evaluations, in order.
    pub evaluations: Vec<Evaluation>,
    /// The one with the best headline score, if that was measured.
    pub best: Option<Evaluation>,
    /// The headline score, if anything is held out to measure.
    pub headline: Option<Headline>,
    /// Which parameters were to be left.
    pub keep: Keep,
    /// The evaluation of the parameters that were left; none if they were not evaluated.
    pub kept: Option<Evaluation>,
    /// Updates made.
    pub steps: u64,
}

impl Report {
    pub(crate) fn new(outcome: Outcome, progress: Progress, fit: &Fit, steps: u64) -> Self {
        let best = progress.best(fit.headline.as_ref()).cloned();
        let last = progress.evaluations.last();
        let last = last.filter(|last| last.step == steps).cloned();
        Self {
            outcome,
            kept: match fit.keep {
                Keep::Best => best.clone().or(last),
                Keep::Last => last,
            },
            best,
            evaluations: progress.evaluations,
            headline: fit.headline.clone(),
            keep: fit.keep,
            steps,
        }
    }
}
