//! Several adapters on one base, of which one counts at a time.
//!
//! The base is there once, and programs are compiled once, for projections with room for every adapter: a
//! product of the largest rank at each. Adapters are kept beside it at their own size, and a switch writes
//! one of them to where the programs read: on a device one launch. Which adapter trains is no matter of a
//! switch: a run trains what it is given.

use ailora_graph::{AdapterSpec, Trainable, adapter::Site, method::constructors::random};
use ailora_runtime::{
    engine::{Engine, EngineError},
    init::{InitError, initialise},
    spectrum::Options,
    store::{Array, Params},
    switch::Kept,
};
use indexmap::IndexMap;
use thiserror::Error;

use super::{Adapter, PeftError, merge};

/// Adapters that cannot be switched.
#[derive(Debug, Error)]
pub enum SwitchError {
    /// There is none.
    #[error("no adapter is given to switch to")]
    Nothing,
    /// Two of one name.
    #[error(
        "there is an adapter called `{0}` already; give each a name of its own, or remove it first"
    )]
    Repeated(String),
    /// A name that none has.
    #[error("no adapter is called `{name}`; there are {known}")]
    Unknown {
        /// The name.
        name: String,
        /// The names there are.
        known: String,
    },
    /// Adapters that are no products of two factors, and not alike.
    #[error(
        "{site}: adapter `{name}` has {found} there, and `{first}` {expected}; adapters other than products of \
         two factors (LoRA) are switched where all are of one kind and shape"
    )]
    Unlike {
        /// Module path of the projection.
        site: String,
        /// The adapter.
        name: String,
        /// What it has.
        found: String,
        /// The first adapter.
        first: String,
        /// What that has.
        expected: String,
    },
    /// An adapter that came later and needs more than was made room for.
    #[error(
        "adapter `{name}` needs {what}, for which the compiled programs have no room; give it with the others \
         before they are compiled"
    )]
    NoRoom {
        /// The adapter.
        name: String,
        /// What it needs.
        what: String,
    },
    /// A parameter that the base has not got, and not every adapter has.
    #[error(
        "neither the base nor adapter `{name}` has a value for `{parameter}`, which others hold whole"
    )]
    NoValue {
        /// The adapter.
        name: String,
        /// The parameter.
        parameter: String,
    },
    /// A part of an adapter is missing.
    #[error(transparent)]
    Peft(#[from] PeftError),
    /// Adapters that are not products cannot be given their start, which is what `off` is.
    #[error(transparent)]
    Init(#[from] InitError),
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// Adapters of one base, and which of them counts.
///
/// Programs are to be made with [`sites`](Self::sites) and [`trainable`](Self::trainable), and the engine of
/// the base's weights and [`start`](Self::start); no adapter counts then.
#[derive(Debug)]
pub struct Switch {
    /// The model's projections, with room for every adapter.
    sites: Vec<Site>,
    /// What is held whole by any adapter, with the base's value if it has one.
    whole: IndexMap<String, (Vec<usize>, Option<Array>)>,
    start: Params,
    /// Whether adapters are products of two factors, which may differ in rank, scale and place.
    products: bool,
    off: Kept,
    kept: IndexMap<String, Kept>,
    current: Option<String>,
}

impl Switch {
    /// Adapters by name, all loaded for one model, of which these are the projections and the weights. LoRA
    /// adapters may differ in rank, scale and targets; others are to be of one kind and shape.
    ///
    /// # Errors
    /// None is given, two have one name, or they are unlike.
    pub fn new(
        mut sites: Vec<Site>,
        base: &Params,
        adapters: &[(&str, &Adapter)],
    ) -> Result<Self, SwitchError> {
        let &[(first, like), ..] = adapters else {
            return Err(SwitchError::Nothing);
        };
        let mut products = true;
        for (_, adapter) in adapters {
            let sites = adapter.adapted();
            for site in &sites {
                products &= merge::update(site, &sites)?.is_some();
            }
        }
        for site in &mut sites {
            let own = adapters
                .iter()
                .filter_map(|(_, adapter)| adapter.sites.get(&site.path));
            site.spec = match products {
                true => match own.filter_map(|own| own.spec.rank()).max() {
                    Some(rank) => random(rank).with_alpha(rank as f64),
                    None => AdapterSpec::frozen(),
                },
                false => like
                    .sites
                    .get(&site.path)
                    .map_or(AdapterSpec::frozen(), |own| own.spec),
            };
        }
        let mut switch = Self {
            start: starts(&sites, products, base)?,
            sites,
            whole: whole(base, adapters),
            products,
            off: Kept::new([]),
            kept: IndexMap::new(),
            current: None,
        };
        for (name, (_, value)) in &switch.whole {
            let held = adapters
                .iter()
                .find_map(|(_, adapter)| adapter.tensors.get(name));
            if let (None, Some(held)) = (value, held) {
                switch.start.insert(name.clone(), held.clone());
            }
        }
        switch.off = switch.neutral();
        for (name, adapter) in adapters {
            switch.check_like((first, like), (name, adapter))?;
            switch.add(name, adapter)?;
        }
        Ok(switch)
    }

    /// The model's projections with room for every adapter, for programs.
    pub fn sites(&self) -> &[Site] {
        &self.sites
    }

    /// What programs are not to take for frozen beside adapters: parameters that adapters hold whole, since
    /// what depends on frozen parameters alone is computed once.
    pub fn trainable(&self) -> Trainable {
        match self.whole.is_empty() {
            true => Trainable::Adapters,
            false => Trainable::Parameters(self.whole.keys().cloned().collect()),
        }
    }

    /// The parameters that an engine needs beside the base's.
    pub fn start(&self) -> Params {
        self.start.clone()
    }

    /// The names of the adapters.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.kept.keys().map(String::as_str)
    }

    /// The adapter that counts; none if they are off.
    pub fn current(&self) -> Option<&str> {
        self.current.as_deref()
    }

    /// Bytes of an adapter's values, as they are kept here and on a device.
    pub fn bytes(&self, name: &str) -> Option<usize> {
        self.kept.get(name).map(Kept::bytes)
    }

    /// Keeps another adapter, for which there is room.
    ///
    /// # Errors
    /// There is one of this name, or no room.
    pub fn add(&mut self, name: &str, adapter: &Adapter) -> Result<(), SwitchError> {
        if self.kept.contains_key(name) {
            return Err(SwitchError::Repeated(name.to_owned()));
        }
        self.check_room(name, adapter)?;
        let kept = self.values(name, adapter)?;
        self.kept.insert(name.to_owned(), kept);
        Ok(())
    }

    /// Forgets an adapter. If it counts, it does so until the next switch.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn remove(&mut self, engine: &mut Engine, name: &str) -> Result<(), SwitchError> {
        let kept = self.kept.shift_remove(name);
        let kept = kept.ok_or_else(|| self.unknown(name))?;
        engine.forget(&kept);
        Ok(())
    }

    /// Lets an adapter count from the next run on.
    ///
    /// # Errors
    /// There is none of this name, or the device fails.
    pub fn switch(&mut self, engine: &mut Engine, name: &str) -> Result<(), SwitchError> {
        let kept = self.kept.get(name).ok_or_else(|| self.unknown(name))?;
        engine.put(kept)?;
        self.current = Some(name.to_owned());
        Ok(())
    }

    /// Lets no adapter count from the next run on: the base alone. Parameters that the base has not got, such
    /// as a head, stay as they are.
    ///
    /// # Errors
    /// The device fails.
    pub fn off(&mut self, engine: &mut Engine) -> Result<(), SwitchError> {
        engine.put(&self.off)?;
        self.current = None;
        Ok(())
    }

    fn unknown(&self, name: &str) -> SwitchError {
        let known: Vec<&str> = self.names().collect();
        SwitchError::Unknown {
            name: name.to_owned(),
            known: known.join(", "),
        }
    }

    /// What adapters that are not products have to have in common.
    fn check_like(
        &self,
        (first, like): (&str, &Adapter),
        (name, adapter): (&str, &Adapter),
    ) -> Result<(), SwitchError> {
        if self.products {
            return Ok(());
        }
        for site in &self.sites {
            let [expected, found] = [like, adapter].map(|adapter| adapter.sites.get(&site.path));
            if expected.map(|site| site.spec) != found.map(|site| site.spec) {
                return Err(SwitchError::Unlike {
                    site: site.path.clone(),
                    name: name.to_owned(),
                    found: said(found),
                    first: first.to_owned(),
                    expected: said(expected),
                });
            }
        }
        Ok(())
    }

    fn check_room(&self, name: &str, adapter: &Adapter) -> Result<(), SwitchError> {
        let no_room = |what: String| SwitchError::NoRoom {
            name: name.to_owned(),
            what,
        };
        for (path, own) in &adapter.sites {
            let room = self.sites.iter().find(|site| site.path == *path);
            let fits = room.is_some_and(|room| match self.products {
                true => room.is_adapted() && own.spec.rank() <= room.spec.rank(),
                false => room.spec == own.spec,
            });
            if !fits {
                return Err(no_room(format!("{} at {path}", said(Some(own)))));
            }
        }
        let mut whole = adapter.trained_in_full();
        let fits = |name: &str, array: &Array| {
            self.whole
                .get(name)
                .is_some_and(|(shape, _)| shape == array.shape())
        };
        match whole.find(|(name, array)| !fits(name, array)) {
            Some((parameter, _)) => Err(no_room(format!("`{parameter}` held whole"))),
            None => Ok(()),
        }
    }

    /// What is written where an adapter counts.
    fn values(&self, name: &str, adapter: &Adapter) -> Result<Kept, SwitchError> {
        let own_sites = adapter.adapted();
        let mut values = Vec::new();
        for site in self.sites.iter().filter(|site| site.is_adapted()) {
            let own = adapter.sites.get(&site.path);
            let factors = match own.filter(|_| self.products) {
                Some(own) => merge::update(own, &own_sites)?,
                None => None,
            };
            for parameter in site.parameters(&self.sites) {
                let get = |name: &str| {
                    let array = adapter.tensors.get(name).cloned();
                    array.ok_or_else(|| PeftError::Missing(name.to_owned()))
                };
                let array = match (&factors, self.products) {
                    (Some(update), _) if parameter.name == site.lora_b() => {
                        scaled(get(&update.b)?, update.scale)
                    }
                    (Some(update), _) => get(&update.a)?,
                    (None, true) => Array::zeros([0, 0]),
                    (None, false) => get(&parameter.name)?,
                };
                values.push((parameter.name, parameter.shape, array));
            }
        }
        for (parameter, (shape, base)) in &self.whole {
            let own = adapter.tensors.get(parameter).or(base.as_ref());
            let own = own.ok_or_else(|| SwitchError::NoValue {
                name: name.to_owned(),
                parameter: parameter.clone(),
            })?;
            values.push((parameter.clone(), shape.clone(), own.clone()));
        }
        Ok(Kept::new(values))
    }

    /// What is written where none counts.
    fn neutral(&self) -> Kept {
        let sites = self.sites.iter();
        let own = sites.flat_map(|site| site.parameters(&self.sites));
        let own = own.filter_map(|parameter| {
            let array = match self.products {
                true => Array::zeros([0, 0]),
                false => self.start.get(&parameter.name)?.clone(),
            };
            Some((parameter.name, parameter.shape, array))
        });
        let whole = self.whole.iter();
        let whole = whole
            .filter_map(|(name, (shape, base))| Some((name.clone(), shape.clone(), base.clone()?)));
        Kept::new(own.chain(whole))
    }
}

/// The parameters of adapters at these projections such that they change nothing.
fn starts(sites: &[Site], products: bool, base: &Params) -> Result<Params, SwitchError> {
    if products {
        let own = sites.iter().flat_map(|site| site.parameters(sites));
        let zeros = own.map(|parameter| (parameter.name, Array::zeros(parameter.shape)));
        return Ok(zeros.collect());
    }
    let adapted = sites.iter().filter(|site| site.is_adapted());
    let weights = adapted.filter_map(|site| base.get_key_value(&site.weight));
    let mut params: Params = weights
        .map(|(name, array)| (name.clone(), array.clone()))
        .collect();
    let given: Vec<String> = params.keys().cloned().collect();
    initialise(sites, &mut params, 0, &Options::default(), |_| {})?;
    params.retain(|name, _| !given.contains(name));
    Ok(params)
}

/// What any adapter holds whole: its shape, and the base's value if that fits.
fn whole(
    base: &Params,
    adapters: &[(&str, &Adapter)],
) -> IndexMap<String, (Vec<usize>, Option<Array>)> {
    let mut whole = IndexMap::new();
    for (_, adapter) in adapters {
        for (name, array) in adapter.trained_in_full() {
            let shape = array.shape().to_vec();
            let own = base.get(name).filter(|own| own.shape() == shape);
            whole.insert(name.clone(), (shape, own.cloned()));
        }
    }
    whole
}

fn scaled(mut array: Array, scale: f64) -> Array {
    for x in array.floats_mut() {
        *x = (f64::from(*x) * scale) as f32;
    }
    array
}

/// What happens to a projection, for people.
fn said(site: Option<&Site>) -> String {
    let Some(site) = site else {
        return "nothing".into();
    };
    let name = site.spec.strategy.name();
    match site.spec.rank() {
        Some(rank) => format!("`{name}` of rank {rank}"),
        None => format!("`{name}`"),
    }
}
