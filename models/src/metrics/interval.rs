//! How far a share of some rows may be from that of all there could be.

/// The 0.975 quantile of the normal distribution.
const Z: f64 = 1.959_963_984_540_054;

/// The interval that has the true share in 95% of samples, by Wilson's score (1927), given the share of
/// `rows`. Of no rows it is everything.
pub fn wilson(share: f64, rows: usize) -> [f64; 2] {
    let n = rows as f64;
    if rows == 0 {
        return [0.0, 1.0];
    }
    let weight = Z * Z / n;
    let centre = (share + weight / 2.0) / (1.0 + weight);
    let half = Z / (1.0 + weight) * ((share * (1.0 - share) + weight / 4.0) / n).sqrt();
    // Of no row and of all rows one end is known, and rounded otherwise.
    [
        if share == 0.0 { 0.0 } else { centre - half },
        if share == 1.0 { 1.0 } else { centre + half },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected values: statsmodels 0.15, `proportion_confint(..., method="wilson")`.
    #[test]
    fn intervals_are_wilsons() {
        for (right, rows, low, high) in [
            (0, 10, 0.0, 0.27753279986288926),
            (5, 10, 0.23659309051256394, 0.763406909487436),
            (395, 395, 0.990368456599139, 1.0),
            (300, 1000, 0.272406842477005, 0.329123860917217),
        ] {
            let [found_low, found_high] = wilson(f64::from(right) / f64::from(rows), rows as usize);
            assert!((found_low - low).abs() < 1e-12, "{found_low}");
            assert!((found_high - high).abs() < 1e-12, "{found_high}");
        }
        assert_eq!(wilson(0.5, 0), [0.0, 1.0]);
        for rows in 1..400 {
            assert_eq!(
                (wilson(0.0, rows)[0], wilson(1.0, rows)[1]),
                (0.0, 1.0),
                "{rows}"
            );
        }
    }
}
