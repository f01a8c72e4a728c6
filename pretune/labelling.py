"""Labels that are probably wrong, and texts to label next: `pretune.check_labels`, `pretune.choose_to_label`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pretune.api import load
from pretune.config import validate
from pretune.evaluate.labelled import examples_of
from pretune.labels.features import Embed
from pretune.labels.work import check_examples, choose_examples, reader
from pretune.model import Model
from pretune.tasks.classification import ClassificationExample
from pretune.tasks.shared.records import read_examples
from pretune.text.readers.labelled import Data, LabelledConfig

__all__ = ["check_labels", "choose_to_label"]


def check_labels(
    data: Data,
    model: Model | Path | str | None = None,
    *,
    columns: Mapping[str, Any] | None = None,
    folds: int = 5,
    seed: int = 0,
    every_row: bool = False,
) -> list[dict[str, object]]:
    """Labels that are probably wrong, the least probable first; copies of a text with different labels come before all.

        pretune.check_labels("train.csv")[0]

    Each text is judged by logistic regression that did not learn from it, on TF-IDF, and on the vectors of a model.

    Args:
        data: labelled files or rows, as in `finetune`.
        model: whose vectors describe the texts beside their TF-IDF, or its folder.
        columns: names of the fields of records, such as `{"text": "title"}`.
        folds: parts of the rows, each of which is judged by a classifier of the others.
        seed: of the folds.
        every_row: all rows in this order, and not only those that are probably wrong.

    Returns:
        For each: `index` of the row, `label`, `suggestion`, `probability` of the label, `suggestion_probability`,
        `reason` (`model`, or `copy` where a copy of the text has another label), `text`, `origin`.
    """
    examples = read_examples(reader(validate(LabelledConfig, dict(columns or {}), "columns")), data)
    issues = check_examples(examples, _embed(model), folds=folds, seed=seed, every_row=every_row)
    return [issue | _row(examples, issue) for issue in issues]


def choose_to_label(
    data: Data,
    labelled: Data | None = None,
    model: Model | Path | str | None = None,
    *,
    columns: Mapping[str, Any] | None = None,
    count: int = 20,
    seed: int = 0,
) -> list[dict[str, object]]:
    """The texts that are worth labelling next: those of which a classifier is least sure, and that differ.

        pretune.choose_to_label("unlabelled.txt", "train.csv", count=50)

    Args:
        data: a file, a list of texts, or rows without labels, as in `Model.predict`.
        labelled: files or rows with labels; without them the most typical texts are chosen.
        model: whose vectors describe the texts beside their TF-IDF, or its folder.
        columns: names of the fields of records, such as `{"text": "title"}`.
        count: how many texts.
        seed: of the clusters by which texts differ.

    Returns:
        For each: `index` of the row, `text`, `origin`, and where there are labelled rows `guess`, its `probability`,
        and the `margin` to the next label.
    """
    task = reader(validate(LabelledConfig, dict(columns or {}), "columns"))
    known = [] if labelled is None else read_examples(task, labelled)
    examples = examples_of(task, data)
    chosen = choose_examples(examples, known, _embed(model), count=count, seed=seed)
    return [row | _row(examples, row) for row in chosen]


def _embed(model: Model | Path | str | None) -> Embed | None:
    if model is None:
        return None
    return (model if isinstance(model, Model) else load(model)).embed


def _row(examples: Sequence[ClassificationExample], answer: Mapping[str, object]) -> dict[str, object]:
    """The text of an example, and where it comes from."""
    example = examples[int(str(answer["index"]))]
    texts = {"text": example.text, "second": example.second, "origin": str(example.origin)}
    return {name: text for name, text in texts.items() if text is not None}
