use ailora_runtime::run::Value;

/// Values of a program's inputs by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Inputs(Vec<(&'static str, Data)>);

#[derive(Clone, Debug, PartialEq)]
enum Data {
    F32(Vec<f32>),
    I32(Vec<i32>),
}

impl Inputs {
    /// These values and `data` for the input `name`.
    pub fn with_floats(mut self, name: &'static str, data: Vec<f32>) -> Self {
        self.0.push((name, Data::F32(data)));
        self
    }

    /// These values and `data` for the input `name`.
    pub fn with_ids(mut self, name: &'static str, data: Vec<i32>) -> Self {
        self.0.push((name, Data::I32(data)));
        self
    }

    /// These values and those of `others`.
    pub fn with(mut self, others: Self) -> Self {
        self.0.extend(others.0);
        self
    }

    /// The integers of the input `name`, if there are any.
    pub fn ids(&self, name: &str) -> Option<&[i32]> {
        self.0.iter().find_map(|(found, data)| match data {
            Data::I32(data) if *found == name => Some(&**data),
            _ => None,
        })
    }

    /// The values as a backend takes them.
    pub fn values(&self) -> Vec<(&str, Value<'_>)> {
        self.0
            .iter()
            .map(|(name, data)| match data {
                Data::F32(data) => (*name, Value::F32(data)),
                Data::I32(data) => (*name, Value::I32(data)),
            })
            .collect()
    }
}
