#!/usr/bin/env python3
"""PEFT's own figures on GLUE tasks, to hold ours against: every task, method and seed in one process.

    python3 peft_table.py MODEL DATA_ROOT OUT.jsonl --tasks cola rte sst2 --seeds 0 1 2 --methods lora pissa --rows 10000

DATA_ROOT holds CoLA, RTE and SST-2, each with train.tsv and dev.tsv; --rows takes that many shuffled training rows of
SST-2, the others are taken whole. Rank 8 on query and value, alpha = rank, AdamW without weight decay, linear schedule
with 6% warmup, gradients clipped at 1, batch 32, length 128, float32 without TF32, dropout as the model's config has it.
`milora` takes PEFT's LoRA and sets the factors to the minor singular triplets. Appends one JSON line an epoch to
OUT.jsonl. Runs on the GPU if there is one and needs no network.
"""
import argparse
import json
import os
import random
import time
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from torch.nn.functional import cross_entropy
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging

RANK, BATCH, EVAL_BATCH, LENGTH = 8, 32, 128, 128
FOLDERS = dict(cola="CoLA", rte="RTE", sst2="SST-2")
METHODS = ("lora", "pissa", "milora")


def read(task, path):
    """(first text, second text or None, label) of each row; rows that lack a column are left out."""
    rows = [line.rstrip("\n").split("\t") for line in open(path, encoding="utf-8")]
    if task == "cola":
        return [(row[3], None, int(row[1])) for row in rows]
    head = rows.pop(0)
    rows = [dict(zip(head, row)) for row in rows if len(row) == len(head)]
    if task == "sst2":
        return [(row["sentence"], None, int(row["label"])) for row in rows]
    return [(row["sentence1"], row["sentence2"], int(row["label"] == "not_entailment")) for row in rows]


class Examples:
    """A tokenised split on the device; a batch is padded to its longest row only."""

    def __init__(self, rows, tokenizer, device):
        first, second, labels = zip(*rows)
        options = dict(truncation=True, max_length=LENGTH, padding=True, return_tensors="pt")
        encoded = tokenizer(list(first), None if second[0] is None else list(second), **options)
        self.lengths = encoded["attention_mask"].sum(1).tolist()
        self.encoded = {name: t.to(device) for name, t in encoded.items()}
        self.labels = torch.tensor(labels, device=device)

    def __len__(self):
        return len(self.lengths)

    def batches(self, order, size):
        on_device = torch.tensor(order, device=self.labels.device)
        for start in range(0, len(order), size):
            rows = on_device[start : start + size]
            longest = max(self.lengths[i] for i in order[start : start + size])
            yield {name: t[rows, :longest] for name, t in self.encoded.items()}, self.labels[rows]


def set_minor(model):
    """MiLoRA: B A is the part of W below its top singular triplets, and W keeps the rest."""
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            weight = layer.get_base_layer().weight.data
            scale = layer.scaling["default"]
            u, s, vt = torch.linalg.svd(weight.double(), full_matrices=False)
            root = (s[-RANK:] / scale).sqrt()
            a, b = (root[:, None] * vt[-RANK:]).float(), (u[:, -RANK:] * root).float()
            layer.lora_A["default"].weight.data.copy_(a)
            layer.lora_B["default"].weight.data.copy_(b)
            weight -= scale * (b @ a)


def build(path, method, device):
    model = AutoModelForSequenceClassification.from_pretrained(path, num_labels=2, dtype=torch.float32)
    config = LoraConfig(
        task_type="SEQ_CLS",
        r=RANK,
        lora_alpha=RANK,
        target_modules=["query", "value"],
        init_lora_weights="pissa" if method == "pissa" else True,
    )
    model = get_peft_model(model, config)
    if method == "milora":
        set_minor(model)
    return model.to(device)


def evaluate(model, examples):
    model.eval()
    with torch.no_grad():
        batches = examples.batches(range(len(examples)), EVAL_BATCH)
        predicted = torch.cat([model(**x).logits.argmax(1) for x, _ in batches]).tolist()
    gold = examples.labels.tolist()
    scores = dict(accuracy=accuracy_score, f1=f1_score, matthews=matthews_corrcoef)
    return {name: round(float(score(gold, predicted)), 4) for name, score in scores.items()}


def train(model, examples, lr, epochs, seed):
    """Yields every epoch's mean training loss, right after the epoch."""
    params = [p for p in model.parameters() if p.requires_grad]
    device = examples.labels.device
    optimizer = torch.optim.AdamW(params, lr=lr, weight_decay=0.0, fused=device.type == "cuda")
    steps = (len(examples) + BATCH - 1) // BATCH * epochs
    warmup = max(1, int(0.06 * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: s / warmup if s < warmup else max(0.0, (steps - s) / (steps - warmup))
    )
    shuffle, order = random.Random(seed).shuffle, list(range(len(examples)))
    for _ in range(epochs):
        model.train()
        shuffle(order)
        total = torch.zeros((), dtype=torch.float64, device=device)  # read once an epoch: no wait in a step
        for x, y in examples.batches(order, BATCH):
            loss = cross_entropy(model(**x).logits, y)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(params, 1.0)
            optimizer.step()
            schedule.step()
            total += loss.detach().double() * len(y)
        yield total.item() / len(examples)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data_root", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tasks", nargs="+", choices=FOLDERS, default=list(FOLDERS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["lora", "pissa"])
    parser.add_argument("--rows", type=int, help="training rows of SST-2 (default: all)")
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--epochs", type=int, default=3)
    args = parser.parse_args()
    if not (args.model / "config.json").is_file():
        parser.error(f"{args.model} is no model folder: it has no config.json")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_float32_matmul_precision("highest")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    with open(args.out, "a", encoding="utf-8") as out:
        for task in args.tasks:
            rows = read(task, args.data_root / FOLDERS[task] / "train.tsv")
            if task == "sst2" and args.rows:
                random.Random(0).shuffle(rows)
                rows = rows[: args.rows]
            examples = Examples(rows, tokenizer, device)
            held_out = Examples(read(task, args.data_root / FOLDERS[task] / "dev.tsv"), tokenizer, device)
            for method in args.methods:
                for seed in args.seeds:
                    torch.manual_seed(seed)
                    model = build(args.model, method, device)
                    start = time.perf_counter()
                    for epoch, loss in enumerate(train(model, examples, args.lr, args.epochs, seed), 1):
                        row = dict(task=task, method=method, seed=seed, lr=args.lr, epoch=epoch, loss=round(loss, 4))
                        row.update(evaluate(model, held_out))
                        print(json.dumps(row), file=out, flush=True)
                        print(json.dumps(row), f"{time.perf_counter() - start:.1f} s", flush=True)


if __name__ == "__main__":
    main()
