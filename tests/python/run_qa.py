"""Extractive question answering as transformers' run_qa.py and utils_qa.py do it, for one question at a time.

Written from what these scripts do, without the packages that they need; the other scripts import it.
"""
import re
import string
from collections import Counter
from dataclasses import dataclass

import numpy as np


@dataclass
class Feature:
    """A row of tokens: what the model is given, the span it should find, and its tokens' characters of the context."""

    ids: list
    types: list
    span: tuple
    offsets: list


def features(tokenizer, question, context, answers, length, stride):
    """The rows of a question. `answers` are (text, start) pairs, of which the first is learned."""
    right = tokenizer.padding_side == "right"
    texts = (question.lstrip(), context) if right else (context, question.lstrip())
    encoded = tokenizer(
        *texts,
        truncation="only_second" if right else "only_first",
        max_length=length,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_token_type_ids=True,
    )
    found = []
    for i, ids in enumerate(encoded["input_ids"]):
        is_context = [of == (1 if right else 0) for of in encoded.sequence_ids(i)]
        offsets = [tuple(o) if own else None for o, own in zip(encoded["offset_mapping"][i], is_context)]
        span = target(encoded["offset_mapping"][i], is_context, ids.index(tokenizer.cls_token_id), answers)
        found.append(Feature(ids, encoded["token_type_ids"][i], span, offsets))
    return found


def target(offsets, is_context, cls, answers):
    """The first and the last token of the first answer, as run_qa finds them."""
    own = [i for i, inside in enumerate(is_context) if inside]
    if not answers or not own:
        return cls, cls
    text, start = answers[0]
    end = start + len(text)
    if offsets[own[0]][0] > start or offsets[own[-1]][1] < end:
        return cls, cls
    first, last = own[0], own[-1]
    while first < len(offsets) and offsets[first][0] <= start:
        first += 1
    while offsets[last][1] >= end:
        last -= 1
    return first - 1, last + 1


def answer(context, rows, logits, negative, n_best=20, longest=30, threshold=0.0):
    """What utils_qa makes of logits, a pair of float32 arrays for each row: the answer, the n best as
    (text, score), and by how much no answer is likelier."""
    null, spans = None, []
    for row, (starts, ends) in zip(rows, logits):
        if null is None or starts[0] + ends[0] < null["score"]:
            null = dict(at=(0, 0), score=starts[0] + ends[0], start=starts[0], end=ends[0])
        top = [np.argsort(values)[::-1][:n_best].tolist() for values in (starts, ends)]
        for s in top[0]:
            for e in top[1]:
                if max(s, e) >= len(row.offsets) or row.offsets[s] is None or row.offsets[e] is None:
                    continue
                if 0 <= e - s < longest:
                    at = row.offsets[s][0], row.offsets[e][1]
                    spans.append(dict(at=at, score=starts[s] + ends[e], start=starts[s], end=ends[e]))
    if negative:
        spans.append(null)
    spans = sorted(spans, key=lambda span: span["score"], reverse=True)[:n_best]
    if negative and not any(span["at"] == (0, 0) for span in spans):
        spans.append(null)
    texts = [context[slice(*span["at"])] for span in spans]
    if not any(texts):
        spans, texts = [dict(score=0.0, start=0.0, end=0.0)] + spans, ["empty"] + texts
    best = next(i for i, text in enumerate(texts) if text) if negative else 0
    difference = float(null["score"] - spans[best]["start"] - spans[best]["end"])
    text = "" if negative and difference > threshold else texts[best]
    return text, [(t, float(span["score"])) for t, span in zip(texts, spans)], difference


def normalized(text):
    """As SQuAD's official scripts compare answers."""
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def f1(found, gold, negative):
    found, gold = normalized(found).split(), normalized(gold).split()
    if negative and (not found or not gold):
        return float(found == gold)
    same = sum((Counter(found) & Counter(gold)).values())
    return 2 * same / (len(found) + len(gold)) if same else 0.0


def scores(found, golds, negative):
    """Exact match and F1 in percent of answers, given the texts that are right for each."""
    exact = total = 0.0
    for answer, texts in zip(found, golds):
        if negative:
            texts = [text for text in texts if normalized(text)] or [""]
        exact += max(normalized(answer) == normalized(text) for text in texts)
        total += max(f1(answer, text, negative) for text in texts)
    return dict(exact=100 * exact / len(golds), f1=100 * total / len(golds))
