#!/usr/bin/env bash
# A field that first appears in a later record is dropped without a word when records become a table.
#
# Guess, written first: a list of dicts in which only some have a "second" text becomes a table with that column, empty
# where it is absent (as pandas does).
# Seen: datasets 5.2.0 `Dataset.from_list` and pyarrow 26.0.1 `Table.from_pylist` look at the first record alone; polars
# 2.1.0 `DataFrame(...)` and `read_ndjson` at the first hundred. The field is gone, no error and no warning. The readers
# of whole files of datasets and pyarrow, and pandas 3.1.1, keep it.
# For pretune: hand `finetune` and `predict` the list of dicts itself, which is read record by record.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet datasets==5.2.0 pyarrow==26.0.1 polars==2.1.0 pandas==3.1.1
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - <<'PY'
import json
import warnings

import datasets
import pandas
import polars
import pyarrow
import pyarrow.json

warnings.simplefilter("error")
rows = [{"text": "a", "label": "x"}, {"text": "b", "label": "y", "second": "c"}]
many = [{"text": str(n), "label": "x"} for n in range(100)] + [{"text": "z", "label": "x", "second": "c"}]
with open("many.jsonl", "w", encoding="utf-8") as file:
    file.writelines(json.dumps(row) + "\n" for row in many)
columns = {
    f"datasets {datasets.__version__} from_list": datasets.Dataset.from_list(rows).column_names,
    f"pyarrow {pyarrow.__version__} from_pylist": pyarrow.Table.from_pylist(rows).column_names,
    f"polars {polars.__version__} DataFrame": polars.DataFrame(many).columns,
    f"polars {polars.__version__} read_ndjson": polars.read_ndjson("many.jsonl").columns,
}
kept = {
    f"pandas {pandas.__version__} DataFrame": list(pandas.DataFrame(rows).columns),
    f"pyarrow {pyarrow.__version__} read_json": pyarrow.json.read_json("many.jsonl").column_names,
}
for name, found in {**columns, **kept}.items():
    print(name, found)
assert all(found == ["text", "label"] for found in columns.values())
assert all(found == ["text", "label", "second"] for found in kept.values())
PY
