#!/usr/bin/env python3
"""Writes the text that the embedded model was pretrained on: `pretraining-text.py BOOKS.txt GSM8K.json OUT.txt`.

BOOKS.txt holds a paragraph a line; GSM8K.json is a list of objects with `instruction`, a problem, and
`output`, its worked answer. A problem is followed by its answer, and all of them are repeated, since they
are few beside the books.
"""

import json
import sys

REPEATS = 4

books, problems, out = sys.argv[1:]
with open(out, "w", encoding="utf-8") as file:
    file.write(open(books, encoding="utf-8").read())
    rows = json.load(open(problems, encoding="utf-8"))
    lines = [" ".join(f"{row['instruction']} {row['output']}".split()) for row in rows]
    for line in lines * REPEATS:
        file.write(line + "\n")
