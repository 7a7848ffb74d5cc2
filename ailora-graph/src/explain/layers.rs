//! Where the boxes of a drawing stand: in layers, each below all that it reads.

/// Between boxes of a layer, and between layers.
const GAP: [f64; 2] = [22.0, 44.0];
/// How often layers are ordered, and moved, by what they are connected with.
const SWEEPS: usize = 24;

/// Places in a drawing.
pub struct Layers {
    /// The middle of each box.
    pub middles: Vec<[f64; 2]>,
    /// For each box and each that it reads: the points that the line between them passes, from the
    /// bottom of the one that is read.
    pub routes: Vec<Vec<[f64; 2]>>,
    /// Width and height of all.
    pub size: [f64; 2],
}

/// A box, or a point that a line passes on its way through a layer.
struct Stop {
    layer: usize,
    size: [f64; 2],
    above: Vec<usize>,
    below: Vec<usize>,
    x: f64,
}

/// Places boxes of these sizes, which read earlier ones.
pub fn place(sizes: &[[f64; 2]], reads: &[Vec<usize>]) -> Layers {
    let ranks = ranks(reads);
    let mut stops: Vec<Stop> = ranks
        .iter()
        .zip(sizes)
        .map(|(&layer, &size)| Stop::new(layer, size))
        .collect();
    let mut chains: Vec<Vec<usize>> = Vec::new();
    // The points below a box are those of all lines from it.
    let mut trunks: Vec<Vec<usize>> = vec![Vec::new(); sizes.len()];
    for (reader, args) in reads.iter().enumerate() {
        for &arg in args {
            let mut chain = vec![arg];
            for layer in ranks[arg] + 1..ranks[reader] {
                let depth = layer - ranks[arg] - 1;
                if trunks[arg].len() == depth {
                    stops.push(Stop::new(layer, [2.0, 0.0]));
                    trunks[arg].push(stops.len() - 1);
                }
                chain.push(trunks[arg][depth]);
            }
            chain.push(reader);
            for pair in chain.windows(2) {
                stops[pair[0]].below.push(pair[1]);
                stops[pair[1]].above.push(pair[0]);
            }
            chains.push(chain);
        }
    }
    let count = ranks.iter().max().map_or(0, |rank| rank + 1);
    let mut layers: Vec<Vec<usize>> = vec![Vec::new(); count];
    for (i, stop) in stops.iter().enumerate() {
        layers[stop.layer].push(i);
    }
    arrange(&mut stops, &mut layers);

    let mut y = 0.0;
    // The middle of each layer, and half its height.
    let mut rows: Vec<[f64; 2]> = Vec::new();
    for layer in &layers {
        let heights = layer.iter().map(|&i| stops[i].size[1]);
        let height = heights.fold(0.0, f64::max);
        rows.push([y + height / 2.0, height / 2.0]);
        y += height + GAP[1];
    }
    let left = stops
        .iter()
        .map(|stop| stop.x - stop.size[0] / 2.0)
        .fold(f64::INFINITY, f64::min);
    let right = stops
        .iter()
        .map(|stop| stop.x + stop.size[0] / 2.0)
        .fold(left, f64::max);
    let at = |i: usize| [stops[i].x - left, rows[stops[i].layer][0]];
    // A line goes straight through a layer.
    let route = |chain: &Vec<usize>| {
        let ends = chain.iter().enumerate().flat_map(|(place, &i)| {
            let ([x, y], half) = (at(i), stops[i].size[1] / 2.0);
            if place == 0 {
                vec![[x, y + half]]
            } else if place + 1 == chain.len() {
                vec![[x, y - half]]
            } else {
                let half = rows[stops[i].layer][1];
                vec![[x, y - half], [x, y + half]]
            }
        });
        ends.collect()
    };
    Layers {
        routes: chains.iter().map(route).collect(),
        middles: (0..sizes.len()).map(at).collect(),
        size: [right - left, (y - GAP[1]).max(0.0)],
    }
}

/// The layer of each box: below all it reads, and what reads nothing just above its first reader.
fn ranks(reads: &[Vec<usize>]) -> Vec<usize> {
    let mut ranks = vec![0; reads.len()];
    for (i, args) in reads.iter().enumerate() {
        ranks[i] = args.iter().map(|&arg| ranks[arg] + 1).max().unwrap_or(0);
    }
    for i in 0..reads.len() {
        if reads[i].is_empty() {
            let readers = (0..reads.len()).filter(|&reader| reads[reader].contains(&i));
            ranks[i] = readers.map(|reader| ranks[reader] - 1).min().unwrap_or(0);
        }
    }
    ranks
}

/// Orders the layers so that few lines cross, and moves each box to the middle of its neighbours.
fn arrange(stops: &mut [Stop], layers: &mut [Vec<usize>]) {
    for layer in layers.iter() {
        spread(stops, layer, |_, i| i as f64);
    }
    for sweep in 0..2 * SWEEPS {
        let down = sweep % 2 == 0;
        let order: Vec<usize> = if down {
            (0..layers.len()).collect()
        } else {
            (0..layers.len()).rev().collect()
        };
        for layer in order {
            let wanted = |stops: &[Stop], i: usize| {
                let stop: &Stop = &stops[i];
                let towards = if down { &stop.above } else { &stop.below };
                let sum: f64 = towards.iter().map(|&other| stops[other].x).sum();
                if towards.is_empty() {
                    stop.x
                } else {
                    sum / towards.len() as f64
                }
            };
            // The order is settled before the places.
            if sweep < SWEEPS {
                layers[layer].sort_by(|&a, &b| wanted(stops, a).total_cmp(&wanted(stops, b)));
            }
            spread(stops, &layers[layer], wanted);
        }
    }
}

/// Moves the boxes of a layer near to where they are wanted, in their order, without overlaps.
fn spread(stops: &mut [Stop], layer: &[usize], wanted: impl Fn(&[Stop], usize) -> f64) {
    let wanted: Vec<f64> = layer.iter().map(|&i| wanted(stops, i)).collect();
    let apart =
        |a: usize, b: usize| (stops[layer[a]].size[0] + stops[layer[b]].size[0]) / 2.0 + GAP[0];
    let mut pushed_right = wanted.clone();
    for i in 1..layer.len() {
        pushed_right[i] = pushed_right[i].max(pushed_right[i - 1] + apart(i - 1, i));
    }
    let mut pushed_left = wanted;
    for i in (1..layer.len()).rev() {
        pushed_left[i - 1] = pushed_left[i - 1].min(pushed_left[i] - apart(i - 1, i));
    }
    for (place, &i) in layer.iter().enumerate() {
        stops[i].x = (pushed_right[place] + pushed_left[place]) / 2.0;
    }
}

impl Stop {
    fn new(layer: usize, size: [f64; 2]) -> Self {
        Self {
            layer,
            size,
            above: Vec::new(),
            below: Vec::new(),
            x: 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_stand_apart_and_below_what_they_read() {
        let reads = [
            vec![],
            vec![],
            vec![0],
            vec![0, 1],
            vec![2, 3],
            vec![0, 4],
            vec![],
        ];
        let sizes: Vec<[f64; 2]> = (0..reads.len())
            .map(|i| [40.0 + 30.0 * i as f64, 20.0])
            .collect();
        let layers = place(&sizes, &reads);
        for i in 0..reads.len() {
            let [x, y] = layers.middles[i];
            assert!(
                reads[i]
                    .iter()
                    .all(|&arg| layers.middles[arg][1] + 20.0 < y)
            );
            let half = sizes[i][0] / 2.0;
            assert!(x - half > -1e-9 && x + half < layers.size[0] + 1e-9);
            for (other, size) in layers.middles.iter().zip(&sizes).take(i) {
                let [other_x, other_y] = *other;
                let apart = half + size[0] / 2.0;
                assert!(y != other_y || (x - other_x).abs() >= apart);
            }
        }
        let lines: usize = reads.iter().map(Vec::len).sum();
        assert_eq!(layers.routes.len(), lines);
        assert_eq!(place(&[], &[]).size[1], 0.0);
    }
}
