//! The loss and the adapters' gradients of a block against another framework's, dfdx, in float64.

mod support;

use ailora_graph::{
    AdaptConfig, Trainable, Visitor,
    adapt::{Mode, adapt},
    adapter::Site,
    grad::{gradient_name, gradients},
    ir::{Bindings, Draw, Program, Tensor, Type},
    nn::{Cx, Linear, Tensor as Value},
};
use dfdx::prelude::{
    AsArray, Axes2, Axis, Backward, BroadcastTo, Cpu, Gradients, OwnedTape, PermuteTo, Rank1,
    Rank2, SumTo, Tensor as DfdxTensor, TensorFromVec, Trace, TryMatMul, WithEmptyTape,
    cross_entropy_with_logits_loss,
};
use support::{bind, normal};

const LENGTH: usize = 5;
const WIDTH: usize = 6;
const INNER: usize = 9;
const CLASSES: usize = 3;
const EPS: f64 = 1e-5;

/// Attention with one head and a feed-forward part, each with a residual and a normalisation.
#[ailora_graph::adapt(q = principal(2), v = minor(3), up = random(2))]
struct Block {
    q: Linear,
    k: Linear,
    v: Linear,
    output: Linear,
    up: Linear,
    down: Linear,
    classifier: Linear,
}

impl Block {
    fn new(cx: &Cx) -> Self {
        let linear = |inputs, outputs| Linear::new(cx, inputs, outputs, false);
        Self {
            q: linear(WIDTH, WIDTH),
            k: linear(WIDTH, WIDTH),
            v: linear(WIDTH, WIDTH),
            output: linear(WIDTH, WIDTH),
            up: linear(WIDTH, INNER),
            down: linear(INNER, WIDTH),
            classifier: linear(WIDTH, CLASSES),
        }
    }

    fn forward<'g>(&self, x: &Value<'g>, mask: &Value<'g>) -> Value<'g> {
        let [q, k, v] = [&self.q, &self.k, &self.v].map(|linear| linear.forward(x));
        let mixed = self.output.forward(&q.attention(&k, &v, mask, 1, 0.0));
        let x = (x + &mixed).normalize(EPS);
        // Not the exact GELU: in its derivative dfdx 0.13 has a density that is sqrt(2) too large.
        let inner = self.down.forward(&self.up.forward(&x).gelu_tanh());
        let x = (&x + &inner).normalize(EPS);
        self.classifier.forward(&x).reshape([LENGTH, CLASSES])
    }
}

/// The adapted block with output `loss`, and its projections.
fn block(config: &str) -> (Program, Vec<Site>) {
    let cx = Cx::new();
    let model = Block::new(&cx);
    let x = cx.input("x", Type::f32([1, LENGTH, WIDTH]));
    let mask = cx.input("mask", Type::f32([1, LENGTH]));
    let labels = cx.input("labels", Type::i32([LENGTH]));
    let loss = model.forward(&x, &mask).cross_entropy(&labels);
    let program = cx.program(&model, &[("loss", &loss)]).unwrap();
    let (_, sites) = Visitor::inventory(&model);
    let config: AdaptConfig = serde_json::from_str(config).unwrap();
    let sites = config.resolve(sites).unwrap();
    (
        adapt(&program, &sites, &Trainable::Adapters, Mode::Train).unwrap(),
        sites,
    )
}

/// Orthonormal columns.
fn orthonormal(name: &str, rows: usize, columns: usize) -> Vec<Vec<f64>> {
    let random = normal(name, &[columns, rows], 1.0);
    let mut basis: Vec<Vec<f64>> = Vec::new();
    for row in random.data.chunks(rows) {
        let mut row = row.to_vec();
        for other in &basis {
            let along: f64 = row.iter().zip(other).map(|(a, b)| a * b).sum();
            row.iter_mut().zip(other).for_each(|(x, o)| *x -= along * o);
        }
        let norm = row.iter().map(|x| x * x).sum::<f64>().sqrt();
        basis.push(row.iter().map(|x| x / norm).collect());
    }
    basis
}

/// Values of a square weight with known singular triplets, and of the adapter's start from the
/// given ones of them: `B0 = U S^1/2 / s^1/2`, `A0 = S^1/2 V^T / s^1/2`.
fn initialize(bindings: &mut Bindings, site: &Site, triplets: std::ops::Range<usize>) {
    let [u, v] = ["u", "v"].map(|side| orthonormal(&format!("{side} {}", site.path), WIDTH, WIDTH));
    let sigma: Vec<f64> = (0..WIDTH).map(|i| 2.0 / (1.0 + i as f64)).collect();
    let weight = Tensor::from_fn(&[WIDTH, WIDTH], |i| {
        (0..WIDTH).map(|k| u[k][i[0]] * sigma[k] * v[k][i[1]]).sum()
    });
    let scale = site.spec.scale().unwrap();
    let rank = triplets.len();
    let root = |k: usize| (sigma[triplets.start + k] / scale).sqrt();
    let a = Tensor::from_fn(&[rank, WIDTH], |i| {
        root(i[0]) * v[triplets.start + i[0]][i[1]]
    });
    let b = Tensor::from_fn(&[WIDTH, rank], |i| {
        root(i[1]) * u[triplets.start + i[1]][i[0]]
    });
    bindings.insert(site.weight.clone(), weight);
    bindings.insert(site.lora_a0(), a.clone());
    bindings.insert(site.lora_a(), a);
    bindings.insert(site.lora_b0(), b.clone());
    bindings.insert(site.lora_b(), b);
}

type Matrix<const R: usize, const C: usize> = DfdxTensor<Rank2<R, C>, f64, Cpu>;
type Traced<const R: usize, const C: usize> =
    DfdxTensor<Rank2<R, C>, f64, Cpu, OwnedTape<f64, Cpu>>;

fn matrix<const R: usize, const C: usize>(device: &Cpu, data: &[f64]) -> Matrix<R, C> {
    device.tensor_from_vec(data.to_vec(), Default::default())
}

fn transposed<const R: usize, const C: usize>(device: &Cpu, value: &Tensor) -> Matrix<C, R> {
    assert_eq!(value.shape, [R, C]);
    let transposed = Tensor::from_fn(&[C, R], |i| value.at(&[i[1], i[0]]));
    matrix(device, &transposed.data)
}

/// A projection in dfdx: `x (W - s B0 A0)^T + s (x A^T) B^T`, with the transposes as parameters; with magnitudes
/// times these by the lengths of the columns of what `x` is multiplied by, which are constants.
struct Adapted<const I: usize, const O: usize, const R: usize> {
    residual: Matrix<I, O>,
    a: Matrix<I, R>,
    b: Matrix<R, O>,
    magnitudes: Option<DfdxTensor<Rank1<O>, f64, Cpu>>,
    scale: f64,
}

impl<const I: usize, const O: usize, const R: usize> Adapted<I, O, R> {
    fn new(device: &Cpu, site: &Site, bindings: &Bindings) -> Self {
        let scale = site.spec.scale().unwrap();
        let weight = transposed::<O, I>(device, &bindings[&site.weight]);
        let a = transposed::<R, I>(device, &bindings[&site.lora_a()]);
        let b = transposed::<O, R>(device, &bindings[&site.lora_b()]);
        let residual = match (bindings.get(&site.lora_a0()), bindings.get(&site.lora_b0())) {
            (Some(a), Some(b)) => {
                let a = transposed::<R, I>(device, a);
                weight - a.matmul(transposed::<O, R>(device, b)) * scale
            }
            _ => weight,
        };
        let magnitudes = bindings.get(&site.lora_magnitudes());
        let vector = |x: &Tensor| device.tensor_from_vec(x.data.clone(), Default::default());
        Self {
            residual,
            a,
            b,
            magnitudes: magnitudes.map(vector),
            scale,
        }
    }

    fn forward<const S: usize>(&self, x: &Traced<S, I>) -> Traced<S, O> {
        let low = x
            .with_empty_tape()
            .matmul(self.a.clone())
            .matmul(self.b.clone())
            * self.scale;
        let sum = x.with_empty_tape().matmul(self.residual.clone()) + low;
        let Some(magnitudes) = &self.magnitudes else {
            return sum;
        };
        let whole = self.residual.clone() + self.a.clone().matmul(self.b.clone()) * self.scale;
        let lengths = whole.square().sum::<Rank1<O>, Axis<0>>().sqrt();
        let magnitudes = magnitudes.leaky_trace();
        sum * magnitudes.broadcast::<Rank2<S, O>, Axis<0>>()
            / lengths.broadcast::<Rank2<S, O>, Axis<0>>()
    }

    /// Gradients towards `A`, `B` and the magnitudes of a site.
    fn gradients(&self, site: &Site, gradients: &Gradients<f64, Cpu>) -> Vec<(String, Tensor)> {
        let transposed = |data: Vec<f64>, rows: usize, columns: usize| {
            let value = Tensor::new([columns, rows], data);
            Tensor::from_fn(&[rows, columns], |i| value.at(&[i[1], i[0]]))
        };
        let a = transposed(gradients.get(&self.a).as_vec(), R, I);
        let b = transposed(gradients.get(&self.b).as_vec(), O, R);
        let mut all = vec![(site.lora_a(), a), (site.lora_b(), b)];
        if let Some(magnitudes) = &self.magnitudes {
            let own = Tensor::new([O], gradients.get(magnitudes).as_vec());
            all.push((site.lora_magnitudes(), own));
        }
        all
    }
}

/// dfdx's loss, and its gradients towards what trains of q, v and up.
fn oracle(sites: &[Site], bindings: &Bindings) -> (f64, Vec<(String, Tensor)>) {
    let device = Cpu::default();
    let site = |path: &str| sites.iter().find(|site| site.path == path).unwrap();
    let q = Adapted::<WIDTH, WIDTH, 2>::new(&device, site("q"), bindings);
    let v = Adapted::<WIDTH, WIDTH, 3>::new(&device, site("v"), bindings);
    let up = Adapted::<WIDTH, INNER, 2>::new(&device, site("up"), bindings);
    let k = transposed::<WIDTH, WIDTH>(&device, &bindings["k.weight"]);
    let output = transposed::<WIDTH, WIDTH>(&device, &bindings["output.weight"]);
    let down = transposed::<WIDTH, INNER>(&device, &bindings["down.weight"]);
    let classifier = transposed::<CLASSES, WIDTH>(&device, &bindings["classifier.weight"]);
    let labels = Tensor::from_fn(&[LENGTH, CLASSES], |i| {
        f64::from(u8::from(bindings["labels"].data[i[0]] == i[1] as f64))
    });
    let labels: Matrix<LENGTH, CLASSES> = matrix(&device, &labels.data);

    let x: Matrix<LENGTH, WIDTH> = matrix(&device, &bindings["x"].data);
    let x = x.leaky_trace();
    let keys: Traced<WIDTH, LENGTH> = x.with_empty_tape().matmul(k).permute::<_, Axes2<1, 0>>();
    let scores = q.forward(&x).matmul(keys) / (WIDTH as f64).sqrt();
    let mixed = scores
        .softmax::<Axis<1>>()
        .matmul(v.forward(&x))
        .matmul(output);
    let x = (x + mixed).normalize::<Axis<1>>(EPS);
    let inner = up.forward(&x).fast_gelu().matmul(down);
    let x = (x + inner).normalize::<Axis<1>>(EPS);
    let loss = cross_entropy_with_logits_loss(x.matmul(classifier), labels);
    let value = loss.array();
    let found = loss.backward();
    let all = [
        q.gradients(site("q"), &found),
        v.gradients(site("v"), &found),
        up.gradients(site("up"), &found),
    ];
    (value, all.concat())
}

#[test]
fn loss_and_gradients_are_those_of_dfdx() {
    let config = r#"{"sites": {"q": {"alpha": 3.0}, "v": {"alpha": 1.2, "lr": 2.0},
        "up": {"alpha": 5.0, "scaling": "rank_stabilized"}}"#;
    are_those_of_dfdx(&format!("{config}}}"), 6);
    are_those_of_dfdx(&format!(r#"{config}, "dora": true}}"#), 9);
}

fn are_those_of_dfdx(config: &str, parameters: usize) {
    let (program, sites) = block(config);
    let backward = gradients(&program, "loss").unwrap();
    let site = |path: &str| sites.iter().find(|site| site.path == path).unwrap();
    let mut bindings = Bindings::new();
    bindings.insert("mask".into(), Tensor::new([1, LENGTH], [1.0; LENGTH]));
    bindings.insert(
        "labels".into(),
        Tensor::new([LENGTH], [2.0, 0.0, 1.0, 1.0, 2.0]),
    );
    initialize(&mut bindings, site("q"), 0..2);
    initialize(&mut bindings, site("v"), WIDTH - 3..WIDTH);
    bindings.insert(
        site("up").lora_b(),
        Tensor::new([INNER, 2], [0.0; INNER * 2]),
    );
    bind(&backward, &mut bindings);

    let trained: Vec<String> = program
        .trained_parameters()
        .map(|leaf| leaf.name.to_string())
        .collect();
    assert_eq!(trained.len(), parameters);
    for moved in [false, true] {
        if moved {
            for name in &trained {
                let step = normal(&format!("step {name}"), &bindings[name].shape, 0.3);
                let value = bindings.get_mut(name).unwrap();
                value
                    .data
                    .iter_mut()
                    .zip(&step.data)
                    .for_each(|(x, step)| *x += step);
            }
        }
        let found = backward.eval(&bindings, Draw::default()).unwrap();
        let (loss, expected) = oracle(&sites, &bindings);
        let near = |a: f64, b: f64, scale: f64| (a - b).abs() <= 1e-9 * scale;
        assert!(
            near(found["loss"].data[0], loss, loss),
            "{:?} but dfdx: {loss}",
            found["loss"]
        );
        for (name, expected) in expected {
            let found = &found[&*gradient_name(&name)];
            let largest = expected
                .data
                .iter()
                .fold(0.0, |max: f64, x| max.max(x.abs()));
            // `B` of a random adapter starts at zero, and then `A` has no slope.
            assert!(
                largest > 1e-4 || !moved && name == site("up").lora_a(),
                "{name}: {largest}"
            );
            assert_eq!(found.shape, expected.shape);
            assert!(
                found
                    .data
                    .iter()
                    .zip(&expected.data)
                    .all(|(a, b)| near(*a, *b, largest)),
                "{name}: {:?}\ndfdx: {:?}",
                found.data,
                expected.data
            );
        }
    }
}
