use std::borrow::Cow;

use super::SpectrumError;
use crate::store::Array;

/// A finite, non-empty weight `[rows, cols]`, row-major, with the path it is known by.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    site: &'a str,
    entries: Entries<'a>,
    rows: usize,
    cols: usize,
}

#[derive(Debug, Clone, Copy)]
enum Entries<'a> {
    Floats(&'a [f32]),
    /// Decoded whenever they are asked for.
    Array(&'a Array),
}

impl<'a> Matrix<'a> {
    /// A view of `data` as `[rows, cols]`, row-major; `site` is the parameter path that errors and
    /// logs name.
    ///
    /// # Errors
    /// [`SpectrumError::Empty`], [`SpectrumError::Length`] and [`SpectrumError::NonFinite`].
    pub fn new(
        site: &'a str,
        data: &'a [f32],
        rows: usize,
        cols: usize,
    ) -> Result<Self, SpectrumError> {
        Self::over(site, Entries::Floats(data), [rows, cols])
    }

    /// As [`new`](Self::new), of elements of any type.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn of(
        site: &'a str,
        array: &'a Array,
        rows: usize,
        cols: usize,
    ) -> Result<Self, SpectrumError> {
        Self::over(site, Entries::Array(array), [rows, cols])
    }

    fn over(
        site: &'a str,
        entries: Entries<'a>,
        [rows, cols]: [usize; 2],
    ) -> Result<Self, SpectrumError> {
        if rows == 0 || cols == 0 {
            return Err(SpectrumError::Empty {
                site: site.to_owned(),
                rows,
                cols,
            });
        }
        let data = entries.floats();
        if rows.checked_mul(cols) != Some(data.len()) {
            return Err(SpectrumError::Length {
                site: site.to_owned(),
                rows,
                cols,
                found: data.len(),
            });
        }
        if let Some(at) = data.iter().position(|x| !x.is_finite()) {
            return Err(SpectrumError::NonFinite {
                site: site.to_owned(),
                row: at / cols,
                col: at % cols,
                value: data[at],
            });
        }
        Ok(Self {
            site,
            entries,
            rows,
            cols,
        })
    }

    /// The parameter path.
    pub fn site(&self) -> &'a str {
        self.site
    }

    /// The entries, row-major.
    pub fn data(&self) -> Cow<'a, [f32]> {
        self.entries.floats()
    }

    /// Output features of a linear layer.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input features of a linear layer.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The number of singular values, `min(rows, cols)`.
    pub fn rank_limit(&self) -> usize {
        self.rows.min(self.cols)
    }

    /// The same entries in f64, row-major.
    pub(super) fn widened(&self) -> Vec<f64> {
        self.data().iter().map(|&x| f64::from(x)).collect()
    }
}

impl<'a> Entries<'a> {
    fn floats(self) -> Cow<'a, [f32]> {
        match self {
            Self::Floats(data) => Cow::Borrowed(data),
            Self::Array(array) => array.floats(),
        }
    }
}
