#!/usr/bin/env python3
"""Training steps beside PEFT's, and initialisation beside torch's exact SVD: one device, one call.

    python3 tests/python/beside.py FOLDER [ROW ...] [--compile]

FOLDER is what scripts/cuda-suite.sh built; ROW is roberta-large, llama2-7b, llama2-7b-long or init, all
if absent. Turns are ours, PEFT's, ours: ours is the mean of both, so that a drift of the device shows.
--compile adds PEFT under torch.compile, which takes a minute to compile.
Needs torch, transformers, peft.
"""
import argparse, json, pathlib, statistics, subprocess, sys

STEPS = {
    "roberta-large": (["roberta-large"], ["roberta-large"]),
    "llama2-7b": (["llama2-7b"], ["llama2-7b"]),
    "llama2-7b-long": (["llama2-7b", "--batch", "4", "--length", "2048"],
                       ["llama2-7b", "--batch", "4", "--seq", "2048"]),
}
SVD = """
import time, torch
def seconds(n):
    w = torch.randn(n, n, device="cuda")
    torch.linalg.svd(w); torch.cuda.synchronize(); t = time.perf_counter()
    for _ in range(2): torch.linalg.svd(w)
    torch.cuda.synchronize(); return (time.perf_counter() - t) / 2
for n, count in (1024, 48), (4096, 64): print(n, count, count * seconds(n))
"""

def output(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stderr[-2000:]}")
    return done.stdout.strip().splitlines()

def step(row, folder, compiled):
    ours_args, theirs_args = STEPS[row]
    ours = lambda: json.loads(output([folder / "bin/device", *ours_args])[-1])
    script = pathlib.Path(__file__).with_name("peft_step.py")
    theirs = lambda *more: json.loads(output([sys.executable, script, *theirs_args, *more])[-1])
    turns = [ours(), theirs(), ours()]
    peft, turns = turns[1], [turns[0], turns[2]]
    ms = statistics.mean(turn["ms"] for turn in turns)
    gib = turns[0]["peak_gib"]
    line = (f"{row}: {ms:.2f} ms ({', '.join('%.2f' % turn['ms'] for turn in turns)}), {gib:.2f} GiB; "
            f"PEFT {peft['ms']:.2f} ms, {peft['peak_gib']:.2f} GiB: {peft['ms'] / ms:.2f} times its rate, "
            f"{gib / peft['peak_gib']:.2f} of its memory")
    if compiled:
        line += f"; torch.compile {theirs('--compile')['ms']:.2f} ms"
    print(f"{line}; {turns[0]['device']}", flush=True)

def init(folder):
    ours = output([folder / "bin/svd_time", "--device", "cuda"])
    print("\n".join(ours))
    for line in output([sys.executable, "-c", SVD]):
        n, count, seconds = line.split()
        print(f"torch.linalg.svd: {count} of {n} x {n} in {float(seconds):.2f} s", flush=True)

def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("folder", type=pathlib.Path)
    ap.add_argument("rows", nargs="*", metavar="ROW")
    ap.add_argument("--compile", action="store_true")
    a = ap.parse_args()
    known = [*STEPS, "init"]
    if unknown := [row for row in a.rows if row not in known]:
        ap.error(f"no such row: {', '.join(unknown)}; there are {', '.join(known)}")
    for name in "device", "svd_time":
        if not (a.folder / "bin" / name).is_file():
            ap.error(f"there is no bin/{name} in {a.folder}; scripts/cuda-suite.sh {a.folder} builds it")
    for row in a.rows or known:
        init(a.folder) if row == "init" else step(row, a.folder.resolve(), a.compile)

main()
