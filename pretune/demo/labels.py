"""A labelled task built from the documentation itself: do two passages come from the same page?

A page is one docstring or one topic of the language reference. In half of the pairs the two passages are consecutive,
in the other half the second one comes from another page. No single word gives the label away: both texts count.

Modules are split by the hash of their names: most form the corpus, the rest give labelled pairs, each module to one
split only, so that neither the tokenizer nor pretraining nor fine-tuning has seen the test texts.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from pretune.draw import Draw

Pair = tuple[str, str, str]  # first passage, second passage, label
SAME, OTHER = "same page", "another page"
HELD_OUT = 0.2  # fraction of the modules that are in no corpus
MIN_LENGTH, MAX_LENGTH = 40, 200  # characters of a passage
_CODE = re.compile(r"^\s*(>>>|\.\. |\||[-=+]{3})", re.MULTILINE)
_KEY = Draw(0).at("demo")


@dataclass(frozen=True)
class Splits:
    """Labelled pairs; no module is in two splits.

    Attributes:
        train: the pairs from which the few labels are drawn.
        development: pairs for choosing recipes.
        test: pairs that are evaluated once.
    """

    train: list[Pair]
    development: list[Pair]
    test: list[Pair]


def split_corpus(everything: Path, corpus: Path, held_out: Path) -> None:
    """Splits the lines of `write_pydocs` into two files, module by module."""
    with everything.open("rb") as lines, corpus.open("wb") as kept, held_out.open("wb") as apart:
        for line in lines:
            module = str(json.loads(line)["module"])
            (apart if _uniform("corpus", module) < HELD_OUT else kept).write(line)


def build(held_out: Path) -> Splits:
    """Builds pairs from the held-out modules: half of them for training, a quarter each for development and test."""
    pages: dict[str, list[list[str]]] = {field.name: [] for field in fields(Splits)}
    with held_out.open(encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            prose = passages(record["text"])
            if len(prose) > 1:
                pages[_part(record["module"])].append(prose)
    return Splits(**{name: list(pairs(module_pages, _KEY.at(name))) for name, module_pages in pages.items()})


def passages(text: str) -> list[str]:
    """Paragraphs of prose, each on one line, cut to `MAX_LENGTH` characters, without code, tables and short ones."""
    parts = (" ".join(part.split()) for part in re.split(r"\n\s*\n", text) if not _CODE.search(part))
    return [part[:MAX_LENGTH] for part in parts if len(part) >= MIN_LENGTH]


def pairs(pages: Sequence[Sequence[str]], draw: Draw) -> Iterator[Pair]:
    """Yields one pair per page."""
    count = len(pages)
    for n, page in enumerate(pages):
        first = int(draw.at("first").below(n, len(page) - 1))
        if draw.at("label").uniform(n) < 0.5:
            yield page[first], page[first + 1], SAME
            continue
        other = pages[(n + 1 + int(draw.at("page").below(n, count - 1))) % count]
        yield page[first], other[1 + int(draw.at("second").below(n, len(other) - 1))], OTHER


def draw_few(candidates: Sequence[Pair], count: int, seed: int) -> list[Pair]:
    """Returns a random choice of `count` pairs that depends on the seed alone."""
    order = np.argsort(_KEY.at("few", seed).bits(np.arange(len(candidates))), kind="stable")
    return [candidates[n] for n in order[:count].tolist()]


def write(path: Path, pairs_to_write: Sequence[Pair]) -> None:
    """Writes a CSV file with the columns `text`, `second` and `label`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as out:
        rows = csv.writer(out)
        rows.writerow(["text", "second", "label"])
        rows.writerows(pairs_to_write)


def _uniform(purpose: str, module: str) -> float:
    return float(_KEY.at(purpose, module).uniform(0))


def _part(module: str) -> str:
    number = _uniform("part", module)
    return "train" if number < 0.5 else "development" if number < 0.75 else "test"
