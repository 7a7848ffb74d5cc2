//! What is shown while a run goes on: a bar on a terminal, and a line now and then elsewhere.

use std::{
    io::{self, IsTerminal},
    time::{Duration, Instant},
};

use ailora::{
    run::Stage,
    runtime::train::{Event, StepReport},
};
use indicatif::{HumanDuration, ProgressBar, ProgressStyle};

use super::{args, print::say, table};

/// What is shown of a run.
pub struct Screen {
    counter: Counter,
    /// Projections that have their start.
    decomposed: usize,
    loss: f64,
}

impl Default for Screen {
    fn default() -> Self {
        Self {
            counter: Counter::hidden(),
            decomposed: 0,
            loss: f64::NAN,
        }
    }
}

impl Screen {
    pub fn show(&mut self, stage: &Stage<'_>) {
        match stage {
            Stage::Loaded {
                report,
                sites,
                parameters,
                trainable,
                rows,
            } => {
                if let Some(report) = report {
                    say!("{report}");
                    args::say(&report.notes);
                }
                say!("{}", table::sites(sites));
                say!(
                    "trained: {} of {} parameters ({:.3}%), on {} rows",
                    table::count(*trainable),
                    table::count(*parameters),
                    100.0 * *trainable as f64 / *parameters as f64,
                    table::count(*rows)
                );
            }
            Stage::Initialised { done, total } => {
                if self.decomposed == 0 {
                    let style = "decomposing {wide_bar} {pos}/{len}";
                    self.counter = Counter::new(*total as u64, 0, style);
                }
                // They come from many threads, in any order.
                self.decomposed = self.decomposed.max(*done);
                if self.counter.is_due(self.decomposed as u64) {
                    say!("decomposed {} of {total} projections", self.decomposed);
                }
            }
            Stage::Notice(text) => self.say(text),
            Stage::Compiled {
                programs,
                peak_bytes,
                steps,
                done,
            } => {
                self.finish();
                let peak = table::bytes(*peak_bytes);
                self.say(&format!("{programs} programs; peak memory {peak}"));
                if *done > 0 {
                    self.say(&format!("resumed at step {done}"));
                }
                let style = "{wide_bar} {pos}/{len}  {msg}  ETA {eta}";
                self.counter = Counter::new(*steps, *done, style);
            }
            Stage::Training(Event::Step { report, .. }) => self.step(report),
            Stage::Training(Event::Evaluated {
                evaluation, best, ..
            }) => self.say(&format!(
                "{}: loss {:.4}  {}{}",
                evaluation.place(),
                evaluation.train_loss,
                table::metrics(&evaluation.metrics),
                if *best { "  (best)" } else { "" }
            )),
            Stage::Training(Event::Checkpointed { .. }) => {}
        }
    }

    /// Says something beside the bar.
    pub fn say(&self, text: &str) {
        self.counter.bar.suspend(|| say!("{text}"));
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.counter.bar.finish_and_clear();
    }

    fn step(&mut self, report: &StepReport) {
        // The recent losses' average, which a person can follow.
        self.loss = if self.loss.is_nan() {
            report.loss
        } else {
            0.95 * self.loss + 0.05 * report.loss
        };
        let (step, total) = (report.step, self.counter.pace.total);
        let due = self.counter.is_due(step);
        let per_second = self.counter.pace.per_second(step, Instant::now());
        let shown = format!(
            "loss {:.4}  rate {:.2e}  {:.0} samples/s",
            self.loss,
            report.lr,
            per_second * report.rows as f64
        );
        if due {
            let share = 100 * step / total.max(1);
            let seconds = total.saturating_sub(step) as f64 / per_second.max(1e-9);
            let left = HumanDuration(Duration::from_secs_f64(seconds.min(1e9)));
            say!("step {step} of {total} ({share}%)  {shown}  {left} left");
        }
        self.counter.bar.set_message(shown);
    }
}

/// Something that is counted: on a terminal by a bar, elsewhere by lines.
struct Counter {
    bar: ProgressBar,
    pace: Pace,
}

impl Counter {
    fn hidden() -> Self {
        Self {
            bar: ProgressBar::hidden(),
            pace: Pace::new(0, 0, Instant::now()),
        }
    }

    fn new(total: u64, done: u64, style: &str) -> Self {
        let bar = ProgressBar::new(total);
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style);
        }
        bar.set_position(done);
        bar.reset_eta();
        Self {
            bar,
            pace: Pace::new(total, done, Instant::now()),
        }
    }

    /// Moves the bar; where there is none, whether a line is due.
    fn is_due(&mut self, at: u64) -> bool {
        self.bar.set_position(at);
        !io::stderr().is_terminal() && self.pace.is_due(at, Instant::now())
    }
}

/// When a line is due.
struct Pace {
    total: u64,
    /// Where counting began, and when.
    first: (u64, Instant),
    /// The last line.
    last: Option<(u64, Instant)>,
}

impl Pace {
    /// As much of the whole lies between lines,
    const SHARE: f64 = 0.1;
    /// but so long at least,
    const LEAST: Duration = Duration::from_millis(200);
    /// and so long at most.
    const MOST: Duration = Duration::from_secs(60);

    fn new(total: u64, done: u64, now: Instant) -> Self {
        Self {
            total,
            first: (done, now),
            last: None,
        }
    }

    fn is_due(&mut self, at: u64, now: Instant) -> bool {
        let (before, then) = self.last.unwrap_or(self.first);
        let (more, time) = (at.saturating_sub(before), now - then);
        let share = more as f64 >= Self::SHARE * self.total as f64;
        let due = time >= Self::LEAST && (self.last.is_none() || share || time >= Self::MOST);
        if due {
            self.last = Some((at, now));
        }
        due
    }

    fn per_second(&self, at: u64, now: Instant) -> f64 {
        let (first, start) = self.first;
        at.saturating_sub(first) as f64 / (now - start).as_secs_f64().max(1e-9)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The steps at which lines are due, of a run of `total` steps that each take as long.
    fn lines(total: u64, each: Duration) -> Vec<u64> {
        let start = Instant::now();
        let mut pace = Pace::new(total, 0, start);
        let due = |&step: &u64| pace.is_due(step, start + each * step as u32);
        (1..=total).filter(due).collect()
    }

    #[test]
    fn lines_come_by_share_and_by_time() {
        assert_eq!(
            lines(50, Duration::from_secs(1)),
            (0..10).map(|i| 1 + 5 * i).collect::<Vec<_>>()
        );
        // Half an hour between shares: a line a minute. In a moment, none.
        assert_eq!(lines(300, Duration::from_secs(61)).len(), 300);
        assert!(lines(100, Duration::from_millis(1)).is_empty());
        assert_eq!(lines(100, Duration::from_millis(5)), [40, 80]);
    }
}
