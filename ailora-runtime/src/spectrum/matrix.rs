use super::SpectrumError;

/// A finite, non-empty weight `[rows, cols]`, row-major, with the path it is known by.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    site: &'a str,
    data: &'a [f32],
    rows: usize,
    cols: usize,
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
        if rows == 0 || cols == 0 {
            return Err(SpectrumError::Empty {
                site: site.to_owned(),
                rows,
                cols,
            });
        }
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
            data,
            rows,
            cols,
        })
    }

    /// The parameter path.
    pub fn site(&self) -> &'a str {
        self.site
    }

    /// The entries, row-major.
    pub fn data(&self) -> &'a [f32] {
        self.data
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
        self.data.iter().map(|&x| f64::from(x)).collect()
    }
}
