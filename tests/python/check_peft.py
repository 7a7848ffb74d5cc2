#!/usr/bin/env python3
"""Whether PEFT loads an exported adapter, head included, and gets the same logits from it.

    python3 check_peft.py BASE_DIR ADAPTER_DIR IDS_AND_LOGITS.safetensors

The last file holds input_ids, attention_mask and, where the model takes them, token_type_ids [batch, length] and,
of an encoder-decoder that writes, labels [batch, target length]; and `logits`, or `start_logits` and `end_logits`,
as transformers gives them. With `base_logits` the difference of the model without adapter is reported too.
Logits agree when |difference| <= 1e-5 max(1, |logit|), with the adapter beside the weights and merged into them.
Prints one JSON line; exits with 1 and says why when anything is off.
"""
import argparse
import json
import sys
import warnings
from pathlib import Path

import torch
from peft import PeftModel
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
)
from transformers.utils import logging

TOLERANCE = 1e-5
# The layers whose rows are the labels.
HEADS = (".classifier.weight", ".classifier.out_proj.weight", ".classification_head.out_proj.weight", ".score.weight")
LOGITS = ("logits", "start_logits", "end_logits")
MODELS = dict(
    CAUSAL_LM=AutoModelForCausalLM,
    SEQ_2_SEQ_LM=AutoModelForSeq2SeqLM,
    QUESTION_ANS=AutoModelForQuestionAnswering,
    SEQ_CLS=AutoModelForSequenceClassification,
)


class Mismatch(Exception):
    """What PEFT loaded is not what was exported."""


def label_count(tensors):
    found = [name for name in tensors if name.endswith(HEADS)]
    if len(found) != 1:
        raise Mismatch(f"expected one classification head (*{' or *'.join(HEADS)}) in the adapter, found {found}")
    return tensors[found[0]].shape[0]


def load(base_dir, adapter_dir, tensors):
    """The base with the adapter on it, after checking that every tensor of the file arrived and no other was missing."""
    config = json.loads((adapter_dir / "adapter_config.json").read_text())
    gguf = next((path.name for path in base_dir.glob("*.gguf")), None)
    task = config["task_type"]
    labels = dict(num_labels=label_count(tensors)) if task == "SEQ_CLS" else {}
    base = MODELS[task].from_pretrained(base_dir, gguf_file=gguf, dtype=torch.float32, **labels)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = PeftModel.from_pretrained(base, adapter_dir).eval()
    texts = [str(w.message) for w in caught]
    if any("adapter keys" in text for text in texts):
        raise Mismatch("; ".join(texts))
    loaded = get_peft_model_state_dict(model, save_embedding_layers=False)
    missing, unexpected = sorted(loaded.keys() - tensors.keys()), sorted(tensors.keys() - loaded.keys())
    if missing or unexpected:
        raise Mismatch(f"the adapter file lacks {missing} and has {unexpected}, which PEFT does not use")
    for name, tensor in tensors.items():
        if not torch.equal(loaded[name], tensor):
            raise Mismatch(f"{name}: PEFT holds other values than the file")
    return model, texts


def difference(got, expected):
    if got.shape != expected.shape:
        raise Mismatch(f"logits of shape {list(expected.shape)} in the file, {list(got.shape)} from the model")
    return ((got - expected).abs() / expected.abs().clamp(min=1)).max().item()


def check(args):
    tensors = load_file(args.adapter_dir / "adapter_model.safetensors")
    expected = load_file(args.expected)
    model, texts = load(args.base_dir, args.adapter_dir, tensors)
    names = ["input_ids", "attention_mask", "token_type_ids"]
    # Their labels are also what the decoder reads.
    names += ["labels"] if model.config.is_encoder_decoder and "logits" in expected else []
    inputs = {name: expected[name] for name in names if name in expected}
    names = [name for name in LOGITS if name in expected]
    report = dict(tensors=len(tensors), warnings=texts)
    with torch.no_grad():
        # PEFT 0.21's own call for question answering leaves out token_type_ids.
        found = model.base_model(**inputs)
        report["difference"] = max(difference(found[name], expected[name]) for name in names)
        if "base_logits" in expected:
            with model.disable_adapter():
                report["base_difference"] = difference(model(**inputs).logits, expected["base_logits"])
        found = model.merge_and_unload()(**inputs)
        report["merged_difference"] = max(difference(found[name], expected[name]) for name in names)
    print(json.dumps(report))
    for name in ("difference", "merged_difference"):
        if not report[name] <= TOLERANCE:
            raise Mismatch(f"{name} is {report[name]:.3g}, more than {TOLERANCE:g}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base_dir", type=Path)
    parser.add_argument("adapter_dir", type=Path)
    parser.add_argument("expected", type=Path)
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        check(parser.parse_args())
    except Mismatch as error:
        sys.exit(f"check_peft.py: {error}")


if __name__ == "__main__":
    main()
