//! The projections of an attention layer as a program.

use std::{fmt, str::FromStr};

use ailora::{
    AdapterSpec,
    adapter::{Layout, Site},
    bench::{Options, Pass, Row, Subject, compare},
    ir::{Draw, Program, ProgramError, Type},
    method::constructors,
    runtime::{
        run::Value,
        store::{Array, Params},
    },
};
use serde::Serialize;

use crate::Error;

/// Width of the layer, rows of its input, rank of its adapters.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Shape {
    pub width: usize,
    pub rows: usize,
    pub rank: usize,
}

impl Shape {
    /// The table: rows that take minutes each are left out.
    pub fn all() -> Vec<Self> {
        let mut shapes = Vec::new();
        for width in [384, 768, 1024, 4096] {
            for rows in [512, 2048, 8192] {
                if width == 4096 && rows == 8192 {
                    continue;
                }
                for rank in [1, 8, 32, 64] {
                    shapes.push(Self { width, rows, rank });
                }
            }
        }
        shapes
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { width, rows, rank } = self;
        write!(f, "{width}x{rows}x{rank}")
    }
}

impl FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let sizes: Result<Vec<usize>, _> = text.split('x').map(str::parse).collect();
        match sizes.as_deref() {
            Ok(&[width, rows, rank]) if rows > 0 && (1..=width).contains(&rank) => {
                Ok(Self { width, rows, rank })
            }
            _ => Err(format!(
                "`{text}` is no shape; expected width x rows x rank, the rank at most the width, \
                 as 768x2048x8"
            )),
        }
    }
}

/// Which projections have adapters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Adapted {
    /// Query and value, of query, key and value.
    QueryValue,
    /// Query, key and value of one input, and the output projection of its own.
    AllLinear,
}

impl fmt::Display for Adapted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::QueryValue => "q/v",
            Self::AllLinear => "all",
        })
    }
}

/// The projections, with random weights and inputs.
pub struct Group {
    program: Program,
    sites: Vec<Site>,
    params: Params,
    inputs: Vec<(&'static str, Vec<f32>)>,
}

impl Group {
    pub fn new(shape: Shape, adapted: Adapted) -> Result<Self, ProgramError> {
        let Shape { width, rows, rank } = shape;
        // A scale that is not 1, as PEFT's examples have it.
        let low_rank = constructors::random(rank).with_alpha(2.0 * rank as f64);
        let projections: &[(&str, &str, bool)] = match adapted {
            Adapted::QueryValue => &[("q", "x", true), ("k", "x", false), ("v", "x", true)],
            Adapted::AllLinear => &[
                ("q", "x", true),
                ("k", "x", true),
                ("v", "x", true),
                ("o", "mixed", true),
            ],
        };
        let mut group = Self {
            program: Program::new(),
            sites: Vec::new(),
            params: Params::new(),
            inputs: Vec::new(),
        };
        for &(name, input, is_adapted) in projections {
            if !group.inputs.iter().any(|(known, _)| *known == input) {
                let data = random(input, rows * width, 1.0);
                group.inputs.push((input, data));
            }
            let x = group.program.input(input, Type::f32([rows, width]))?;
            let weight = format!("{name}.weight");
            let w = group.program.frozen(&weight, Type::f32([width, width]))?;
            let y = group.program.matmul(x, false, w, true)?;
            group.program.set_output(name, y);
            let scale = 1.0 / (width as f32).sqrt();
            let array = Array::new([width, width], random(&weight, width * width, scale));
            group.params.insert(weight.clone(), array);
            group.sites.push(Site {
                path: name.to_owned(),
                weight,
                bias: None,
                in_features: width,
                out_features: width,
                layout: Layout::OutIn,
                spec: if is_adapted {
                    low_rank
                } else {
                    AdapterSpec::frozen()
                },
            });
        }
        Ok(group)
    }

    pub fn compare(&self, pass: Pass, options: &Options) -> Result<Row, Error> {
        let inputs: Vec<(&str, Value<'_>)> = self
            .inputs
            .iter()
            .map(|(name, data)| (*name, Value::F32(data)))
            .collect();
        let below: Vec<&str> = inputs.iter().map(|(name, _)| *name).collect();
        let subject = Subject {
            program: &self.program,
            sites: &self.sites,
            params: &self.params,
            inputs: &inputs,
            below: &below,
        };
        Ok(compare(&subject, pass, options)?)
    }
}

/// Numbers in `[-scale, scale)` that depend on the name.
pub fn random(name: &str, len: usize, scale: f32) -> Vec<f32> {
    let key = Draw::default().key(name);
    (0..len as u64)
        .map(|i| scale * (2.0 * key.uniform(i) as f32 - 1.0))
        .collect()
}
