"""Writes the folder of a small BART with weights drawn at random, and a tokenizer trained on a file's texts.

    python3 small_bart.py TRAIN.jsonl FOLDER
"""

import json
import sys

import torch
from tokenizers import ByteLevelBPETokenizer
from tokenizers.processors import TemplateProcessing
from transformers import BartConfig, BartForConditionalGeneration

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]


def texts(value):
    """All texts in a value, in lists too."""
    match value:
        case str():
            yield value
        case list():
            for item in value:
                yield from texts(item)


def main(train, folder):
    with open(train, encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    tokenizer = ByteLevelBPETokenizer(add_prefix_space=True)
    found = [text for row in rows for value in row.values() for text in texts(value)]
    tokenizer.train_from_iterator(found, vocab_size=6000, special_tokens=SPECIAL)
    tokenizer = tokenizer._tokenizer
    ends = [(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")]
    tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=ends
    )
    torch.manual_seed(0)
    config = BartConfig(
        vocab_size=tokenizer.get_vocab_size(), d_model=128, max_position_embeddings=256,
        encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4,
        encoder_ffn_dim=512, decoder_ffn_dim=512,
    )
    BartForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save(f"{folder}/tokenizer.json")
    special = dict(zip(["bos_token", "pad_token", "eos_token", "unk_token"], SPECIAL))
    with open(f"{folder}/tokenizer_config.json", "w", encoding="utf-8") as file:
        json.dump(special, file)


main(*sys.argv[1:])
