#!/usr/bin/env bash
# To join two data sets whose labels stand in another order one has to cast, and the cast turns every label into another.
#
# Guess, written first: `ClassLabel` is a type with names; `cast` from [pos, neg] to [neg, pos] keeps what a row is called, or
# refuses, as texts are given their number by name.
# Seen with datasets 5.2.0: `concatenate_datasets` of the two is refused, as their types differ. `cast(other.features)`, which
# makes them the same, keeps the numbers and changes the names: what was "pos" is "neg", all of it, without a warning, and the
# two are joined then. Texts that are cast get the number of their name. `align_labels_with_mapping` keeps the names.
# `class_encode_column` of whole numbers orders them as texts (1, 10, 2, 9) and numbers them anew.
# For pretune: a file of texts and names is read by names; a set whose labels are numbers takes `names[number]` first.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet datasets==5.2.0
cd "$folder"
HF_HOME="$folder/home" HF_HUB_OFFLINE=1 "$folder/venv/bin/python" -W ignore - 2>log <<'PY' || { cat log; exit 1; }
import datasets
from datasets import ClassLabel, Dataset, Features

datasets.disable_progress_bars()
print(f"datasets {datasets.__version__}")


def labelled(names: list[str], numbers: list[int]) -> Dataset:
    return Dataset.from_dict({"label": numbers}, features=Features({"label": ClassLabel(names=names)}))


def called(data: Dataset) -> list[str]:
    return [data.features["label"].int2str(number) for number in data["label"]]


first, second = labelled(["neg", "pos"], [0, 1, 1]), labelled(["pos", "neg"], [0, 0, 1])
print("second data set:", called(second))
try:
    datasets.concatenate_datasets([first, second])
except ValueError as error:
    print("joined: refused,", str(error).split(".")[0][:60], "...")
else:
    raise AssertionError("the two were joined")
cast = second.cast(first.features)
print("cast to the first one's labels:", called(cast))
assert called(second) == ["pos", "pos", "neg"] and called(cast) == ["neg", "neg", "pos"]
assert called(datasets.concatenate_datasets([first, cast])) == ["neg", "pos", "pos", "neg", "neg", "pos"]
aligned = second.align_labels_with_mapping({"neg": 0, "pos": 1}, "label")
texts = Dataset.from_dict({"label": ["pos", "pos", "neg"]}).cast(first.features)
print("aligned by a mapping:", called(aligned), "- cast from texts:", called(texts))
assert called(aligned) == called(texts) == called(second)
encoded = Dataset.from_dict({"label": [10, 9, 2, 1]}).class_encode_column("label")
print("class_encode_column of 10, 9, 2, 1:", encoded.features["label"].names, encoded["label"][:])
assert encoded.features["label"].names == ["1", "10", "2", "9"] and encoded["label"][:] == [1, 3, 2, 0]
PY
