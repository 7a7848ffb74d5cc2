//! Tensors of every element type, their own or a file's.

#[path = "../../tests/device/mod.rs"]
mod device;

use std::{collections::HashMap, fs, path::Path};

use ailora_graph::ir::{DType, Draw, Program, Type};
use ailora_runtime::{
    passes::Fusion,
    run::Value,
    store::{Array, Params, load, save, save_half},
};

/// Random numbers, of which most are rounded in every type.
fn values(len: usize) -> Vec<f32> {
    let key = Draw { seed: 7, step: 0 }.key("values");
    (0..len as u64).map(|i| key.normal(i) as f32).collect()
}

fn encoded(dtype: DType, values: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; values.len() * dtype.bytes()];
    dtype.encode(values, &mut bytes);
    bytes
}

/// Writes tensors one after the other, behind a head with so many spaces more than it needs to be aligned.
fn write(path: &Path, spaces: usize, tensors: &[(&str, &str, &[usize], Vec<u8>)]) {
    let (mut entries, mut data) = (Vec::new(), Vec::new());
    for (name, dtype, shape, bytes) in tensors {
        let start = data.len();
        data.extend_from_slice(bytes);
        entries.push(format!(
            r#""{name}": {{"dtype": "{dtype}", "shape": {shape:?}, "data_offsets": [{start}, {}]}}"#,
            data.len()
        ));
    }
    let mut head = format!("{{{}}}", entries.join(", "));
    head.push_str(&" ".repeat(head.len().next_multiple_of(8) - head.len() + spaces));
    let len = (head.len() as u64).to_le_bytes();
    fs::write(path, [&len, head.as_bytes(), &data].concat()).unwrap();
}

fn floats() -> impl Iterator<Item = DType> {
    DType::ALL.iter().copied().filter(|dtype| dtype.is_float())
}

fn address(array: &Array) -> usize {
    array.bytes().as_ptr() as usize
}

#[test]
fn tensors_keep_the_type_that_the_file_has() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.safetensors");
    let values = values(3 * 41);
    for dtype in floats() {
        for spaces in 0..8 {
            let bytes = encoded(dtype, &values);
            let empty = ("none", dtype.file_name(), &[0, 5][..], Vec::new());
            let full = ("w", dtype.file_name(), &[3, 41][..], bytes.clone());
            let scalar = ("x", dtype.file_name(), &[][..], encoded(dtype, &[2.5]));
            write(&path, spaces, &[full, empty, scalar]);
            let (params, _) = load(&path).unwrap();
            let array = &params["w"];
            assert_eq!((array.dtype(), array.shape()), (dtype, &[3, 41][..]));
            assert_eq!(array.bytes(), bytes, "{dtype}, {spaces} spaces");
            for (x, found) in values.iter().zip(array.floats().iter()) {
                assert_eq!(*found, dtype.round(f64::from(*x)) as f32, "{dtype}");
            }
            assert_eq!(array.as_f32().is_some(), dtype == DType::F32);
            // A copy shares the file's bytes, unless those are float32 that cannot be read there.
            let is_shared = dtype != DType::F32 || spaces % 4 == 0;
            assert_eq!(
                address(array) == address(&array.clone()),
                is_shared,
                "{dtype}"
            );
            assert!(params["none"].is_empty() && params["none"].floats().is_empty());
            assert_eq!(params["none"].shape(), [0, 5]);
            assert_eq!(*params["x"].floats(), [2.5]);
        }
    }
}

#[test]
fn integers_are_left_out_and_unknown_floats_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.safetensors");
    let ids = ("ids", "I32", &[1][..], vec![0; 4]);
    let w = ("w", "F16", &[2][..], vec![0; 4]);
    write(&path, 0, &[ids.clone(), w]);
    let (params, _) = load(&path).unwrap();
    assert_eq!(params.keys().collect::<Vec<_>>(), ["w"]);
    write(&path, 0, &[ids, ("q.weight", "F8_E4M3", &[4], vec![0; 4])]);
    let error = load(&path).unwrap_err().to_string();
    assert!(
        error.contains("tensor `q.weight` has element type F8_E4M3"),
        "{error}"
    );
}

#[test]
fn what_is_written_to_a_tensor_stays_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.safetensors");
    for dtype in floats() {
        write(
            &path,
            0,
            &[("w", dtype.file_name(), &[5], encoded(dtype, &values(5)))],
        );
        let before = fs::read(&path).unwrap();
        let (mut params, _) = load(&path).unwrap();
        let given = params["w"].clone();
        let copy = given.floats().into_owned();
        params["w"].floats_mut()[3] = 0.1;
        assert_eq!((params["w"].dtype(), given.dtype()), (DType::F32, dtype));
        assert_eq!(params["w"].floats()[..3], copy[..3]);
        assert_eq!(params["w"].floats()[3], 0.1);
        assert_eq!(*given.floats(), copy);
        assert_eq!(given.into_floats(), copy);
        assert_eq!(fs::read(&path).unwrap(), before, "{dtype}");
    }
}

#[test]
fn a_file_that_is_replaced_keeps_its_values() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.safetensors");
    for dtype in floats() {
        // Several pages, of which none was looked at before.
        let values = values(50_000);
        write(
            &path,
            0,
            &[("w", dtype.file_name(), &[50_000], encoded(dtype, &values))],
        );
        let (params, _) = load(&path).unwrap();
        save(
            &path,
            &[("w".to_owned(), Array::zeros([50_000]))].into(),
            HashMap::new(),
        )
        .unwrap();
        assert_eq!(params["w"].bytes(), encoded(dtype, &values), "{dtype}");
        assert!(
            load(&path).unwrap().0["w"]
                .floats()
                .iter()
                .all(|x| *x == 0.0)
        );
        // Over the file that is read from.
        save(&path, &params, HashMap::new()).unwrap();
        let (again, _) = load(&path).unwrap();
        assert!(again["w"].same_values(&params["w"]) && again["w"].dtype() == DType::F32);
    }
}

#[test]
fn files_are_written_in_the_type_that_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.safetensors");
    let values = values(7);
    for dtype in floats() {
        let narrow = Array::from_bytes(dtype, [7], encoded(dtype, &values));
        let wide = Array::new([7], narrow.floats().into_owned());
        assert_eq!(narrow == wide, dtype == DType::F32);
        assert!(narrow.same_values(&wide) && !narrow.same_values(&Array::zeros([7])));
        let written = |array: &Array, save: fn(&Path, &Params, _) -> _| {
            let params = Params::from([("w".to_owned(), array.clone())]);
            let saved: Result<(), _> = save(&path, &params, HashMap::new());
            saved.unwrap();
            fs::read(&path).unwrap()
        };
        assert_eq!(written(&narrow, save), written(&wide, save), "{dtype}");
        assert_eq!(
            written(&narrow, save_half),
            written(&wide, save_half),
            "{dtype}"
        );
        assert_eq!(load(&path).unwrap().0["w"].dtype(), DType::F16);
    }
}

/// `y = x W^T + x0 V`, of which `V` is computed once: `V = U U`.
fn program() -> Program {
    let mut p = Program::new();
    let x = p.input("x", Type::f32([4, 48])).unwrap();
    let w = p.frozen("w", Type::f32([48, 48])).unwrap();
    let u = p.frozen("u", Type::f32([48, 48])).unwrap();
    let v = p.matmul(u, false, u, false).unwrap();
    let [a, b] = [p.matmul(x, false, w, true), p.matmul(x, false, v, false)].map(Result::unwrap);
    let y = p.sum(a, b).unwrap();
    p.set_output("y", y);
    p
}

#[test]
fn narrow_weights_are_computed_with_as_their_float32_values() {
    let x = values(4 * 48);
    for dtype in floats() {
        let narrow = |name: &str, seed: f32| {
            let values: Vec<f32> = values(48 * 48).iter().map(|x| x * seed).collect();
            let bytes = encoded(dtype, &values);
            (name.to_owned(), Array::from_bytes(dtype, [48, 48], bytes))
        };
        let params = Params::from([narrow("w", 1.1), narrow("u", 0.7), narrow("unread", 1.3)]);
        let wide = |(name, array): (&String, &Array)| {
            (
                name.clone(),
                Array::new(array.shape(), array.floats().into_owned()),
            )
        };
        let wide: Params = params.iter().map(wide).collect();
        let run = |params: &Params| {
            let costs = device::backend().costs();
            let mut engine = device::engine(params.clone(), Fusion::At(costs));
            let id = engine.compile(&program()).unwrap();
            let outputs = engine
                .run(id, &[("x", Value::F32(&x))], Draw::default())
                .unwrap();
            let y = outputs.output("y").unwrap().to_vec();
            (y, engine)
        };
        let ((found, mut engine), (expected, _)) = (run(&params), run(&wide));
        assert_eq!(found, expected, "{dtype}");
        let weights = engine.weights();
        assert_eq!(weights.get("unread").unwrap().dtype(), dtype);
        assert_eq!(
            weights.get("u").unwrap().dtype(),
            dtype,
            "only what it gives is read"
        );
        assert!(weights.get("w").unwrap().same_values(&params["w"]));
        assert_eq!(weights.not_finite(), None);
        engine.weights_mut().rows_mut("unread").unwrap()[0][5] = f32::NAN;
        assert_eq!(engine.weights().not_finite().as_deref(), Some("unread"));
        assert_eq!(engine.weights().get("unread").unwrap().dtype(), DType::F32);
        assert!(engine.weights_mut().set("u", &x[..48].repeat(48)));
        assert_eq!(
            *engine.weights().get("u").unwrap().floats(),
            x[..48].repeat(48)
        );
    }
}
