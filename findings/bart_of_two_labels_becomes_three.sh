#!/usr/bin/env bash
# A BART classifier of two labels is saved without their number, and is read as one of three.
#
# Guess, written first: a configuration that `transformers` saves and reads again has as many labels as before, whatever
# their number; two, three or four of them make no difference.
# Seen with transformers 5.23.0 (CPU): `BartConfig(num_labels=2)` writes neither `id2label` nor `num_labels`, as two are
# the usual number of all families, and reading takes BART's own, three. `BartForSequenceClassification` of such a folder
# does not load at all. Three or four labels, two labels with names, and two labels of BERT come back as they were.
# For pretune: the rows of the head in the files count where config.json is silent, and labels are always written.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - <<'PY'
import json
import tempfile
from pathlib import Path

import transformers

names = {0: "negative", 1: "positive"}
numbers = {name: number for number, name in names.items()}
cases = [
    ("BartConfig", {"num_labels": 2}, 3),
    ("BartConfig", {"num_labels": 3}, 3),
    ("BartConfig", {"num_labels": 4}, 4),
    ("BartConfig", {"id2label": names, "label2id": numbers}, 2),
    ("BertConfig", {"num_labels": 2}, 2),
]
for name, fields, read in cases:
    config = getattr(transformers, name)(**fields)
    with tempfile.TemporaryDirectory() as saved:
        config.save_pretrained(saved)
        written = json.loads(Path(saved, "config.json").read_text())
        again = getattr(transformers, name).from_pretrained(saved)
    labels = sorted(field for field in written if "label" in field)
    print(f"transformers {transformers.__version__} {name} {fields}: {config.num_labels} labels, {labels} written, {again.num_labels} read")
    assert again.num_labels == read, name
PY
