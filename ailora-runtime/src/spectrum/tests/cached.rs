use super::oracle::Weight;
use super::*;
use crate::spectrum::SpectrumCache;
use std::fs;
use std::path::{Path, PathBuf};

fn cached(dir: &Path) -> Options {
    Options {
        cache: Some(SpectrumCache::open(dir)),
        ..Options::default()
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
}

#[test]
fn what_is_read_back_has_the_bits_of_what_is_computed() {
    for (weight, options) in [
        (Weight::gaussian(80, 100, 1), Options::default()),
        (Weight::gaussian(430, 420, 2), truncated()),
        (
            Weight {
                data: vec![0.0; 420 * 420],
                rows: 420,
                cols: 420,
            },
            truncated(),
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let cached = Options {
            exact_up_to: options.exact_up_to,
            ..cached(dir.path())
        };
        for end in ENDS {
            for k in [8, 3, 20] {
                let plain = compute(&weight, end, k, &options);
                for pass in ["first", "second"] {
                    assert_eq!(
                        compute(&weight, end, k, &cached),
                        plain,
                        "{end:?}, k = {k}, {pass} time"
                    );
                }
            }
        }
    }
}

#[test]
fn a_sound_file_is_used_and_serves_smaller_ranks_and_the_other_end() {
    let dir = tempfile::tempdir().unwrap();
    let weight = Weight::gaussian(90, 80, 3);
    let options = cached(dir.path());
    compute(&weight, End::Principal, 8, &options);
    assert_eq!(files(dir.path()).len(), 2);

    // Mark what is stored to see it come back.
    let cache = options.cache.as_ref().unwrap();
    let key = cache.key(&weight.matrix(), &options);
    for end in ENDS {
        let stored = cache.read(&key, &weight.matrix(), end, 64).unwrap();
        cache.write(
            &key,
            end,
            &Triplets {
                residual: 1e-20,
                ..stored
            },
        );
        for k in [1, 8, 64] {
            assert_eq!(compute(&weight, end, k, &options).residual, 1e-20);
        }
        assert_ne!(
            compute(&weight, end, 65, &options).residual,
            1e-20,
            "more than is stored"
        );
    }

    let other = Weight {
        data: weight.data.iter().map(|x| -x).collect(),
        ..weight
    };
    assert_ne!(
        compute(&other, End::Minor, 8, &options).residual,
        1e-20,
        "another weight"
    );
    let reshaped = Weight {
        data: other.data.iter().map(|x| -x).collect(),
        rows: 80,
        cols: 90,
    };
    assert_ne!(
        compute(&reshaped, End::Minor, 8, &options).residual,
        1e-20,
        "another shape"
    );
    let strict = Options {
        tolerance: 1e-12,
        ..cached(dir.path())
    };
    assert_ne!(
        compute(&weight_again(), End::Minor, 8, &strict).residual,
        1e-20,
        "another tolerance"
    );

    fn weight_again() -> Weight {
        Weight::gaussian(90, 80, 3)
    }
}

#[test]
fn damaged_and_foreign_files_are_ignored_and_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let weight = Weight::gaussian(30, 40, 4);
    let plain = compute(&weight, End::Minor, 5, &Options::default());
    compute(&weight, End::Minor, 5, &cached(dir.path()));
    let path = files(dir.path())
        .into_iter()
        .find(|path| path.to_string_lossy().contains("minor"))
        .unwrap();
    let sound = fs::read(&path).unwrap();

    let mut damages: Vec<Vec<u8>> = [0, 1, 7, 8, 9, 100, sound.len() / 2, sound.len() - 1]
        .into_iter()
        .map(|len| sound[..len].to_vec())
        .collect();
    damages.extend((0..sound.len()).step_by(101).map(|at| {
        let mut flipped = sound.clone();
        flipped[at] ^= 0x10;
        flipped
    }));
    damages.push([sound.as_slice(), b"more"].concat());
    damages.push(vec![0xff; 4096]);
    damages.push(b"not a tensor file".to_vec());
    let foreign =
        safetensors::serialize::<&str, safetensors::tensor::TensorView<'_>, _>([], None).unwrap();
    damages.push(foreign);
    for damage in damages {
        fs::write(&path, &damage).unwrap();
        assert_eq!(compute(&weight, End::Minor, 5, &cached(dir.path())), plain);
        let rewritten = fs::read(&path).unwrap();
        let options = cached(dir.path());
        let cache = options.cache.as_ref().unwrap();
        let key = cache.key(&weight.matrix(), &options);
        assert!(
            rewritten != damage && cache.read(&key, &weight.matrix(), End::Minor, 30).is_some()
        );
    }

    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert_eq!(compute(&weight, End::Minor, 5, &cached(dir.path())), plain);
}

/// Files of one weight under the names of another's of the same shape, and the two ends exchanged.
#[test]
fn files_of_another_weight_or_end_are_not_used() {
    let [one, two] = [7, 8].map(|seed| Weight::gaussian(40, 30, seed));
    let plain = ENDS.map(|end| compute(&two, end, 6, &Options::default()));
    let folders = [one, two].map(|weight| {
        let dir = tempfile::tempdir().unwrap();
        compute(&weight, End::Minor, 6, &cached(dir.path()));
        (dir, weight)
    });
    let [(dir_of_one, _), (dir, two)] = &folders;
    let (from, to) = (files(dir_of_one.path()), files(dir.path()));
    assert_eq!((from.len(), to.len()), (2, 2));
    let exchanged = [to[1].clone(), to[0].clone()];
    for from in [&from[..], &exchanged] {
        let bytes: Vec<_> = from.iter().map(|path| fs::read(path).unwrap()).collect();
        for (bytes, to) in bytes.iter().zip(&to) {
            fs::write(to, bytes).unwrap();
        }
        for (end, plain) in ENDS.into_iter().zip(&plain) {
            assert_eq!(&compute(two, end, 6, &cached(dir.path())), plain);
        }
    }
}

#[test]
fn a_directory_that_cannot_be_written_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let blocked = dir.path().join("file");
    fs::write(&blocked, "in the way").unwrap();
    let weight = Weight::gaussian(30, 40, 5);
    let plain = compute(&weight, End::Minor, 5, &Options::default());
    for dir in [blocked.clone(), blocked.join("below")] {
        assert_eq!(compute(&weight, End::Minor, 5, &cached(&dir)), plain);
    }
    assert_eq!(fs::read(&blocked).unwrap(), b"in the way");
}

#[test]
fn several_users_of_a_directory_agree() {
    let dir = tempfile::tempdir().unwrap();
    let weight = Weight::gaussian(60, 50, 6);
    let plain = compute(&weight, End::Principal, 8, &Options::default());
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..5 {
                    assert_eq!(
                        compute(&weight, End::Principal, 8, &cached(dir.path())),
                        plain
                    );
                }
            });
        }
    });
    assert_eq!(files(dir.path()).len(), 2, "no temporary file is left");
}
