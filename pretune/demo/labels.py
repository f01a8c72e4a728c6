"""A labelled task that the documentation carries by itself: what type has a parameter, told from its description?

NumPy-style docstrings say `n_jobs : int, default=None` and then describe the parameter in words. The type becomes the
label, the description the text; the name of the parameter is masked where the text repeats it. Modules are split three
ways, so that no module that is trained on is tested on.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pretune.draw import Draw

Text = tuple[str, str]  # (description, label)

_PARAMETER = re.compile(r"^(\w+) : ([^\n]+)\n((?:[ ]{4}[^\n]*\n|\n)+)", re.MULTILINE)
_TYPES = {
    "yes or no": re.compile(r"bool"),
    "whole number": re.compile(r"(positive |non-negative )?int"),
    "real number": re.compile(r"(positive |non-negative )?(float|double|scalar)"),
    "text": re.compile(r"str|\{['\"]"),
    "array": re.compile(r"\(?(array|ndarray|\{?array|sparse|list of (array|int|float)|np\.)"),
    "mapping": re.compile(r"dict|mapping"),
    "function": re.compile(r"callable|function"),
}
LEAST, MOST = 20, 400  # characters of a text


@dataclass(frozen=True)
class Splits:
    """Labelled texts, modules apart.

    Attributes:
        train: to draw the few labels from.
        development: for choosing recipes.
        test: looked at once.
    """

    train: list[Text]
    development: list[Text]
    test: list[Text]


def build(corpus: Path) -> Splits:
    """Labelled texts of a corpus as `write_pydocs` makes it; half of the modules train, a quarter each for the rest."""
    shares: dict[str, list[Text]] = {"train": [], "development": [], "test": []}
    seen: set[str] = set()
    for record in _records(corpus):
        part = _part(str(record["module"]))
        for text, label in parameters(str(record["text"])):
            if text not in seen:
                seen.add(text)
                shares[part].append((text, label))
    return Splits(**shares)


def parameters(docstring: str) -> Iterator[Text]:
    """Descriptions of a docstring's parameters with the kind of their type."""
    for name, kind, body in _PARAMETER.findall(docstring + "\n"):
        label = next((label for label, pattern in _TYPES.items() if pattern.match(kind.lower())), None)
        text = re.sub(rf"`*\b{re.escape(name)}\b`*", "it", " ".join(body.split()))[:MOST]
        if label is not None and len(text) >= LEAST:
            yield text, label


def draw_few(texts: Sequence[Text], count: int, seed: int) -> list[Text]:
    """A keyed choice of `count` texts."""
    order = np.argsort(Draw(seed).at("labels").bits(np.arange(len(texts))), kind="stable")
    return [texts[n] for n in order[:count].tolist()]


def write(path: Path, texts: Sequence[Text]) -> None:
    """Write a CSV file with the columns `text` and `label`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as out:
        rows = csv.writer(out)
        rows.writerow(["text", "label"])
        rows.writerows(texts)


def _records(corpus: Path) -> Iterator[Mapping[str, object]]:
    with corpus.open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def _part(module: str) -> str:
    share = float(Draw(0).at("module", module).uniform(0))
    return "train" if share < 0.5 else "development" if share < 0.75 else "test"
