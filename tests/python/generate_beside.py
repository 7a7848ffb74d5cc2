"""Times transformers' `generate` beside `cargo bench --bench generate`, on models with random weights.

    python3 generate_beside.py BENCH FOLDER [--shapes smollm2,llama2-7b] [--device cuda] [--new 128]

BENCH is the built bench. Models and prompts are made in FOLDER: prompts of 16 to 64 words' length, in tokens. Each
shape runs with 1 and 32 prompts and with 8 beams of one prompt beside 8 prompts, in bf16; SmolLM2's shape also in
f32, where the tokens have to be the same. One JSON line a run and program.
"""

import argparse
import json
import os
import subprocess
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM

SHAPES = {
    "smollm2": dict(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, max_position_embeddings=8192, rms_norm_eps=1e-5, rope_theta=100000.0,
        tie_word_embeddings=True, bos_token_id=1, eos_token_id=2,
    ),
    "llama2-7b": dict(
        vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=32, max_position_embeddings=4096, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2,
    ),
}


def made(folder, shape, device):
    """The folder of a model with random weights, in bf16."""
    path = os.path.join(folder, shape)
    if not os.path.exists(os.path.join(path, "config.json")):
        torch.manual_seed(0)
        config = LlamaConfig(**SHAPES[shape], initializer_range=0.05)
        with torch.device(device):
            model = LlamaForCausalLM(config).to(torch.bfloat16)
        model.save_pretrained(path)
        del model
    return path


def prompts(folder, shape, count):
    generator = torch.Generator().manual_seed(count)
    lengths = torch.randint(20, 85, (count,), generator=generator).tolist()
    vocabulary = SHAPES[shape]["vocab_size"]
    rows = [torch.randint(3, vocabulary, (n,), generator=generator).tolist() for n in lengths]
    path = os.path.join(folder, f"{shape}-{count}.json")
    with open(path, "w") as file:
        json.dump(rows, file)
    return path, rows


def sync(device):
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def theirs(model, rows, new, beams, device, rounds):
    """Seconds of a run and of its prompts, and the tokens."""
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows], device=device)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=device)

    def run(count):
        sync(device)
        start = time.perf_counter()
        with torch.no_grad():
            out = model.generate(
                ids, attention_mask=mask, max_new_tokens=count, do_sample=False, num_beams=beams, eos_token_id=None,
                pad_token_id=0,
            )
        sync(device)
        return time.perf_counter() - start, out[:, longest:].tolist()

    run(4)
    runs = [(run(new), run(1)[0]) for _ in range(rounds)]
    runs.sort(key=lambda one: one[0][0])
    (seconds, tokens), start = runs[len(runs) // 2]
    return seconds, start, tokens


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("bench")
    parser.add_argument("folder")
    parser.add_argument("--shapes", default="smollm2,llama2-7b")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--new", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runs", default="1x1,32x1,8x1,1x8", help="prompts x beams")
    parser.add_argument("--precisions", default="bf16,f32")
    parser.add_argument("--only-ours", action="store_true")
    args = parser.parse_args()
    os.makedirs(args.folder, exist_ok=True)
    for shape in args.shapes.split(","):
        path = made(args.folder, shape, args.device)
        for precision in args.precisions.split(","):
            if precision == "f32" and shape == "llama2-7b":
                continue
            model = None
            if not args.only_ours:
                dtype = {"bf16": torch.bfloat16, "f32": torch.float32}[precision]
                model = LlamaForCausalLM.from_pretrained(path, dtype=dtype).to(args.device).eval()
            for run in args.runs.split(","):
                count, beams = map(int, run.split("x"))
                file, rows = prompts(args.folder, shape, count)
                output = os.path.join(args.folder, "tokens.json")
                command = [args.bench, path, file, "--new", str(args.new), "--beams", str(beams), "--device", args.device]
                command += ["--precision", precision, "--rounds", str(args.rounds), "--output", output]
                ours = subprocess.run(command, capture_output=True, text=True)
                print(ours.stdout.strip() or ours.stderr.strip()[-3000:], flush=True)
                if model is None or ours.returncode != 0:
                    continue
                seconds, start, tokens = theirs(model, rows, args.new, beams, args.device, args.rounds)
                with open(output) as found:
                    found = json.load(found)
                same = sum(a == b for a, b in zip(found, tokens))
                line = dict(
                    program="transformers", shape=shape, prompts=count, beams=beams, precision=precision,
                    ms_per_step=1e3 * (seconds - start) / (args.new - 1), ms_prompts=1e3 * start, seconds=seconds,
                    tokens_per_second=count * args.new / seconds, same_rows=f"{same} of {len(rows)}",
                )
                print(json.dumps(line), flush=True)
            del model


if __name__ == "__main__":
    main()
