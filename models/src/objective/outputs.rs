use std::borrow::Cow;

use super::BindError;
use crate::config::Config;

/// Where the classes of an objective are among the outputs of a model's head, whose order is another.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Outputs {
    /// For each class, which output of the head it is.
    order: Vec<usize>,
    /// What the model's files call the outputs.
    pub names: Vec<String>,
}

impl Outputs {
    /// Of a model's head: whichever output `id2label` gives the name of a class, whatever the case, is
    /// its. None where the order is the classes' own, where the model gives its labels no names, or where
    /// it has another number of them and so no head for these classes.
    ///
    /// # Errors
    /// The model has other labels.
    pub fn of(classes: &[String], config: &Config) -> Result<Option<Self>, BindError> {
        let labels = config.labels();
        let Some(labels) = labels.filter(|labels| labels.len() == classes.len()) else {
            return Ok(None);
        };
        let plain = |name: &str| name.trim().to_lowercase().replace([' ', '-'], "_");
        let place = |name: &String| labels.iter().position(|label| plain(label) == plain(name));
        let order: Option<Vec<usize>> = classes.iter().map(place).collect();
        let Some(order) = order else {
            return Err(BindError::Labels {
                expected: classes.join(", "),
                found: labels.join(", "),
            });
        };
        if order.iter().copied().eq(0..order.len()) {
            return Ok(None);
        }
        let names = labels.into_iter().map(str::to_owned).collect();
        Ok(Some(Self { order, names }))
    }

    /// The output of a class, where the order may be the classes' own.
    pub fn output(outputs: Option<&Self>, class: usize) -> Option<usize> {
        match outputs {
            Some(outputs) => outputs.order.get(class).copied(),
            None => Some(class),
        }
    }

    /// The logits of a row in the order of the classes.
    pub fn of_classes<'a>(outputs: Option<&Self>, logits: &'a [f32]) -> Cow<'a, [f32]> {
        match outputs {
            Some(Self { order, .. }) => {
                let ordered = order.iter().filter_map(|&output| logits.get(output));
                ordered.copied().collect()
            }
            None => logits.into(),
        }
    }
}

/// Unless there are at least so many classes, each of a name of its own.
pub(super) fn check(classes: &[String], least: usize) -> Result<(), String> {
    let found = classes.len();
    let twice = (1..found).find(|&i| classes[..i].contains(&classes[i]));
    match (classes, twice) {
        ([only], _) if least > 1 => Err(format!(
            "`classes` has `{only}` alone; expected at least {least}: where every label is the same there is \
             nothing to learn"
        )),
        (_, _) if found < least => Err(format!(
            "`classes` has {found} names; expected at least {least}"
        )),
        (_, Some(i)) => Err(format!("`classes` has `{}` twice", classes[i])),
        (_, None) => Ok(()),
    }
}
