#!/usr/bin/env python3
"""The table of docs/results.md.

    glue_table.py collect OUT             a JSON line for each finished run below OUT
    glue_table.py table OURS.jsonl PEFT.jsonl   the table, in Markdown

OURS.jsonl is what `collect` printed; PEFT.jsonl is what tests/python/peft_table.py wrote.
"""
import json
import statistics
import sys
from pathlib import Path

HEADLINE = dict(cola="matthews", rte="accuracy", sst2="accuracy")
METHODS = dict(ailora="AILoRA", lora="LoRA", pissa="PiSSA", milora="MiLoRA", reailora="reAILoRA")


def collect(out):
    for path in sorted(Path(out).glob("*/metrics.json")):
        run = json.loads(path.read_text())
        if run["finished"]:
            run["last"] = run["epochs"][-1]
            print(json.dumps({name: run[name] for name in ("task", "method", "seed", "best", "last")}))


def cell(values):
    if not values:
        return "-"
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{100 * statistics.mean(values):.1f} ± {100 * spread:.1f}"


def rows(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def table(ours, peft):
    ours, peft = rows(ours), rows(peft)
    print("| task | method | best epoch | last epoch | training loss | seeds | PEFT, last epoch | PEFT, loss |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for task, metric in HEADLINE.items():
        for method, name in METHODS.items():
            runs = [run for run in ours if (run["task"], run["method"]) == (task, method)]
            theirs = [run for run in peft if (run["task"], run["method"], run["epoch"]) == (task, method, 3)]
            figures = [
                cell([run[which]["metrics"][metric] for run in runs]) for which in ("best", "last")
            ] + [cell([run["last"]["train_loss"] for run in runs]), str(len(runs))]
            figures += [cell([run[metric] for run in theirs]), cell([run["loss"] for run in theirs])]
            print(f"| {task} ({metric}) | {name} | " + " | ".join(figures) + " |")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["collect", out]:
            collect(out)
        case ["table", ours, peft]:
            table(ours, peft)
        case _:
            sys.exit(__doc__)
