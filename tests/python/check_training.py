#!/usr/bin/env python3
"""Whether training with dropout prints the metrics of what it leaves, for each family, as this command and PEFT see it.

    python3 check_training.py AILORA [FAMILY ...]

Fine-tunes the tiny models of ../fixtures/parity on sentence pairs with `--dropout 0.5`, and compares the metrics that
training printed for the epoch that it kept with those of `ailora evaluate`, and with those of the logits that PEFT gets
from the folder that was left; and these logits with `ailora predict`'s. Prints one JSON line a family; exits with 1 if
anything is more than 1e-5 apart.
"""
import json
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from peft import PeftModel
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast
from transformers.utils import logging

PARITY = Path(__file__).resolve().parent.parent / "fixtures" / "parity"
TOLERANCE = 1e-5
WORDS = "the a cat dog sat saw ran him her she he mat on under old and".split()
FAMILIES = dict(
    bert=("bert_cls-0", {}),
    roberta=("roberta_cls-0", {}),
    deberta_v3=("deberta_v3_cls-0", {}),
    deberta_v2=("deberta_v2_cls-0", {}),
    bart=("bart_cls-0", {}),
    llama=("llama_cls-0", dict(pad_token_id=1)),
    mistral=("llama_cls-0", dict(pad_token_id=1, model_type="mistral", architectures=["MistralForSequenceClassification"], sliding_window=None)),
    qwen2=("qwen2-0", dict(pad_token_id=1)),
)


def make_model(folder, fixture, changes):
    shutil.copytree(PARITY / fixture, folder)
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))
    tokens = ["<s>", "<pad>", "</s>", "<unk>"] + WORDS
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = [("<s>", 0), ("</s>", 2)]
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", "<s> $A </s> $B </s>", special)
    named = dict(bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named).save_pretrained(folder)


def make_rows(path, count, seed):
    draw = random.Random(seed)
    rows = [(draw.choices(WORDS, k=draw.randint(2, 8)), draw.choices(WORDS, k=draw.randint(2, 8)), draw.uniform(0, 5)) for _ in range(count)]
    lines = [f"{i}\t{' '.join(a)}\t{' '.join(b)}\t{score:.2f}" for i, (a, b, score) in enumerate(rows)]
    path.write_text("\n".join(["index\tsentence1\tsentence2\tscore", *lines]) + "\n")


def pearson(a, b):
    return torch.corrcoef(torch.stack([a, b]))[0, 1].item()


def check(ailora, root, family):
    fixture, changes = FAMILIES[family]
    model, out, rows = root / family, root / f"{family}-out", root / f"{family}.jsonl"
    make_model(model, fixture, changes)
    run = lambda *args: subprocess.run([ailora, *map(str, args)], check=True, capture_output=True, text=True).stdout
    task = ["--model", model, "--task", "stsb"]
    run("finetune", *task, "--data", root / "data", "--method", "lora", "--rank", 4, "--alpha", 12, "--dropout", 0.5, "--lr", 1e-2, "--epochs", 3, "--batch-size", 8, "--output", out)
    metrics = json.loads((out / "metrics.json").read_text())
    printed = metrics["epochs"][metrics["kept"] - 1]["metrics"]
    evaluated = json.loads(run("evaluate", *task, "--data", root / "data", "--adapter", out))["dev"]
    run("predict", *task, "--data", root / "data" / "dev.tsv", "--adapter", out, "--output", rows)
    predicted = torch.tensor([json.loads(line)["logits"][0] for line in rows.read_text().splitlines()], dtype=torch.float64)

    tokenizer = PreTrainedTokenizerFast.from_pretrained(model)
    base = AutoModelForSequenceClassification.from_pretrained(model, num_labels=1, ignore_mismatched_sizes=True, dtype=torch.float64)
    peft = PeftModel.from_pretrained(base, out).double().eval()
    held_out = [line.split("\t") for line in (root / "data" / "dev.tsv").read_text().splitlines()[1:]]
    takes_types = family.startswith("bert") or family == "deberta_v2"
    found = []
    with torch.no_grad():
        for _, a, b, _ in held_out:
            inputs = tokenizer(a, b, return_tensors="pt")
            if not takes_types:
                inputs.pop("token_type_ids", None)
            found.append(peft(**inputs).logits[0, 0].double())
    found = torch.stack(found)
    gold = torch.tensor([float(row[3]) for row in held_out], dtype=torch.float64)
    report = dict(
        family=family,
        evaluate=max(abs(printed[name] - evaluated[name]) for name in printed),
        peft_logits=((found - predicted).abs() / found.abs().clamp(min=1)).max().item(),
        peft_metric=abs(pearson(found, gold) - printed["pearson"]),
    )
    print(json.dumps(report))
    return all(value <= TOLERANCE for name, value in report.items() if name != "family")


def main():
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    ailora, *families = sys.argv[1:]
    with tempfile.TemporaryDirectory() as root:
        root = Path(root)
        (root / "data").mkdir()
        make_rows(root / "data" / "train.tsv", 40, 0)
        make_rows(root / "data" / "dev.tsv", 21, 1)
        right = [check(str(Path(ailora).resolve()), root, family) for family in families or FAMILIES]
    sys.exit(not all(right))


if __name__ == "__main__":
    main()
