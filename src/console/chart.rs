//! Small charts: a line over the last minutes, drawn as SVG without scripts or styles of its own.

use std::fmt::Write as _;

/// Size of a chart in its own units; the style sheet gives it its size on the page.
const WIDTH: f64 = 120.0;
const HEIGHT: f64 = 28.0;

/// The points of a line through these values, oldest first, from zero to the largest.
pub(super) fn points(values: &[f64]) -> String {
    let most = values.iter().copied().fold(0.0, f64::max);
    let step = WIDTH / (values.len().max(2) - 1) as f64;
    let mut points = String::new();
    for (at, value) in values.iter().enumerate() {
        let height = if most > 0.0 { value / most } else { 0.0 };
        let (x, y) = (at as f64 * step, HEIGHT - 1.0 - height * (HEIGHT - 2.0));
        let _ = write!(points, "{x:.1},{y:.1} ");
    }

    points
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_goes_from_zero_to_the_largest_value() {
        assert_eq!(points(&[0.0, 5.0, 10.0]), "0.0,27.0 60.0,14.0 120.0,1.0 ");
        assert_eq!(points(&[0.0, 0.0]), "0.0,27.0 120.0,27.0 ");
        assert_eq!(points(&[]), "");
    }
}
