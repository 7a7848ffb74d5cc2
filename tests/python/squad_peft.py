#!/usr/bin/env python3
"""Transformers' and PEFT's own figures on SQuAD 1.1 or 2.0, to hold ours against.

    python3 squad_peft.py MODEL TRAIN.json DEV.json OUT.jsonl --seeds 0 1 2

The files are in SQuAD's own JSON, maybe as .gz; if any question of TRAIN has no answer, the rules of 2.0 apply. LoRA of
rank 8 with alpha 16 on query and value, the head is trained too; AdamW without weight decay, linear schedule with 6%
warmup, gradients clipped at 1, batch 32, rows of 384 tokens with stride 128 as run_qa makes them, dropout as the model's
config has it. Products are in TF32 on a GPU and in float32 elsewhere. Appends a JSON line a seed to OUT.jsonl, with the
scores on all of DEV after the last epoch. Uses a GPU if there is one, and no network.
"""
import argparse
import gzip
import json
import os
import random
import time
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForQuestionAnswering, AutoTokenizer
from transformers.utils import logging

import run_qa

LENGTH, STRIDE = 384, 128


def read(path):
    """Question, context and (text, start) answers of every question of a file."""
    opened = gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else open(path, encoding="utf-8")
    with opened as file:
        articles = json.load(file)["data"]
    paragraphs = [paragraph for article in articles for paragraph in article["paragraphs"]]
    return [
        (q["question"], p["context"], [(a["text"], a["answer_start"]) for a in q["answers"]])
        for p in paragraphs
        for q in p["qas"]
    ]


def batches(rows, order, size, pad, device):
    """Padded to the longest row of each batch; with the rows that they are of."""
    for start in range(0, len(order), size):
        part = [rows[i] for i in order[start : start + size]]
        longest = max(len(row.ids) for row in part)
        fill = lambda values, value: values + [value] * (longest - len(values))
        inputs = dict(
            input_ids=[fill(row.ids, pad) for row in part],
            token_type_ids=[fill(row.types, 0) for row in part],
            attention_mask=[fill([1] * len(row.ids), 0) for row in part],
        )
        spans = torch.tensor([row.span for row in part], device=device)
        inputs = {name: torch.tensor(values, device=device) for name, values in inputs.items()}
        yield inputs, spans, order[start : start + size]


def train(model, rows, args, pad, device, seed):
    params = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(params, lr=args.lr, weight_decay=0.0, fused=device.type == "cuda")
    steps = (len(rows) + args.batch_size - 1) // args.batch_size * args.epochs
    warmup = max(1, int(0.06 * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: s / warmup if s < warmup else max(0.0, (steps - s) / (steps - warmup))
    )
    shuffle, order, step = random.Random(seed).shuffle, list(range(len(rows))), 0
    model.train()
    for _ in range(args.epochs):
        shuffle(order)
        for inputs, spans, _ in batches(rows, order, args.batch_size, pad, device):
            loss = model(**inputs, start_positions=spans[:, 0], end_positions=spans[:, 1]).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(params, 1.0)
            optimizer.step()
            schedule.step()
            step += 1
            if step == args.max_steps:
                return step
    return step


def evaluate(model, questions, rows, of, pad, device, negative):
    """The official scores; `of` says which question each row is of."""
    model.eval()
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].ids))
    logits = [None] * len(rows)
    with torch.no_grad():
        for inputs, _, numbers in batches(rows, order, 128, pad, device):
            out = model(**inputs)
            starts, ends = out.start_logits.float().cpu().numpy(), out.end_logits.float().cpu().numpy()
            for i, start, end in zip(numbers, starts, ends):
                logits[i] = start[: len(rows[i].ids)], end[: len(rows[i].ids)]
    parts = [([], []) for _ in questions]
    for number, row, found in zip(of, rows, logits):
        parts[number][0].append(row)
        parts[number][1].append(found)
    found = [run_qa.answer(context, *part, negative)[0] for (_, context, _), part in zip(questions, parts)]
    return run_qa.scores(found, [[text for text, _ in answers] for _, _, answers in questions], negative)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("train", type=Path)
    parser.add_argument("dev", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rows", type=int, help="questions to train on, and to evaluate (default: all)")
    parser.add_argument("--max-steps", type=int)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=32)
    args = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_float32_matmul_precision("high")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    questions = [read(path)[: args.rows] for path in (args.train, args.dev)]
    rows = [[run_qa.features(tokenizer, *q, LENGTH, STRIDE) for q in part] for part in questions]
    negative = any(not answers for _, _, answers in questions[0])
    learned = [row for found in rows[0] for row in found]
    held_out = [row for found in rows[1] for row in found]
    of = [number for number, found in enumerate(rows[1]) for _ in found]
    for seed in args.seeds:
        start = time.perf_counter()
        torch.manual_seed(seed)
        model = AutoModelForQuestionAnswering.from_pretrained(args.model, dtype=torch.float32)
        config = LoraConfig(task_type="QUESTION_ANS", r=8, lora_alpha=16, target_modules=["query", "value"])
        # PeftModelForQuestionAnswering does not hand on token_type_ids; the model in it takes them.
        model = get_peft_model(model, config).get_base_model().to(device)
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        steps = train(model, learned, args, tokenizer.pad_token_id, device, seed)
        found = evaluate(model, questions[1], held_out, of, tokenizer.pad_token_id, device, negative)
        row = dict(train=args.train.name, seed=seed, rows=len(learned), trained=trained, steps=steps)
        row |= {name: round(score, 4) for name, score in found.items()}
        row["seconds"] = round(time.perf_counter() - start, 1)
        print(json.dumps(row), flush=True)
        with open(args.out, "a", encoding="utf-8") as out:
            print(json.dumps(row), file=out)


if __name__ == "__main__":
    main()
