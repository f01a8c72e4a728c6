"""Questions about paragraphs, and the paragraphs that words, vectors and both find for each."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import pretune
from pretune.disk import replace_file
from pretune.errors import MissingInputError
from pretune.search.words import WordIndex

DEPTH = 30  # paragraphs of a ranking
_CONSTANT = 60  # of reciprocal rank fusion (Cormack et al. 2009)
Say = Callable[[str], None]


@dataclass(frozen=True)
class Questions:
    """A set of questions.

    Attributes:
        paragraphs: the texts.
        articles: which article each paragraph is of.
        questions: the texts.
        answers: which paragraph each question is about.
    """

    paragraphs: list[str]
    articles: list[int]
    questions: list[str]
    answers: list[int]

    @classmethod
    def read(cls, path: Path) -> Questions:
        """The set of a file in the format of SQuAD.

        Raises:
            MissingInputError: there is no such file.
        """
        if not path.is_file():
            raise MissingInputError(f"{path}: no such file; set PRETUNE_DATA to the folder of the public data")
        out = cls([], [], [], [])
        for number, article in enumerate(json.loads(path.read_text(encoding="utf-8"))["data"]):
            for paragraph in article["paragraphs"]:
                out.paragraphs.append(paragraph["context"])
                out.articles.append(number)
                for question in paragraph["qas"]:
                    out.questions.append(question["question"])
                    out.answers.append(len(out.paragraphs) - 1)
        return out

    def fold(self, folds: int) -> NDArray[np.int64]:
        """The fold of each question, from 0: its article's. Shape: return: (questions,)"""
        return np.array([self.articles[answer] % folds for answer in self.answers], np.int64)


def first_stage(data: Questions, model: Path, tokenization: str, work: Path, say: Say) -> dict[str, list[list[int]]]:
    """The best paragraphs for each question by `words`, `vectors` and both `fused`; those that are there are read.

    Args:
        model: makes the vectors.
        tokenization: of the words.
        work: folder where rankings are kept.
    """
    path = work / "first-stage.json"
    if path.is_file():
        rankings: dict[str, list[list[int]]] = json.loads(path.read_text())
        return rankings
    work.mkdir(parents=True, exist_ok=True)
    say(f"ranking {len(data.paragraphs):,} paragraphs for {len(data.questions):,} questions by words")
    folder = work / "words"
    folder.mkdir(exist_ok=True)
    WordIndex.build(data.paragraphs, tokenization, folder)
    index = WordIndex.open(folder, tokenization, len(data.paragraphs))
    words = np.stack([index.scores(question) for question in data.questions])
    say("and by vectors")
    encoder = pretune.load(model, device="cpu", precision="fp32")
    first = encoder.embed(data.questions, normalize=True)
    vectors = first @ encoder.embed(data.paragraphs, normalize=True).T
    orders = {"words": _order(words), "vectors": _order(vectors)}
    ranks = [np.argsort(order, axis=1) for order in orders.values()]
    orders["fused"] = _order(sum((1.0 / (_CONSTANT + 1 + rank) for rank in ranks), np.zeros_like(words, np.float64)))
    rankings = {name: order[:, :DEPTH].tolist() for name, order in orders.items()}
    replace_file(path, json.dumps(rankings).encode())
    return rankings


def recall_at_1(rankings: list[list[int]], answers: list[int]) -> float:
    """How often the right paragraph is first."""
    return float(np.mean([ranking[0] == answer for ranking, answer in zip(rankings, answers, strict=True)]))


def training_rows(data: Questions, rankings: list[list[int]], is_held_out: NDArray[np.bool_], count: int) -> list[Any]:
    """Queries with their paragraph and the best wrong ones; no paragraph is of a held-out article.

    Args:
        rankings: of a first stage.
        is_held_out: of each question.
        count: wrong paragraphs of each.

    Shape:
        is_held_out: (questions,)
    """
    hidden = {data.articles[data.answers[n]] for n in np.flatnonzero(is_held_out).tolist()}
    rows = []
    for n in np.flatnonzero(~is_held_out).tolist():
        own = data.answers[n]
        wrong = [p for p in rankings[n] if p != own and data.articles[p] not in hidden][:count]
        rows.append(
            {
                "query": data.questions[n],
                "passage": data.paragraphs[own],
                "others": [data.paragraphs[p] for p in wrong],
            }
        )
    return rows


def _order(scores: NDArray[Any]) -> NDArray[np.int64]:
    """Paragraphs by their scores, best first. Shape: (questions, paragraphs) -> same."""
    return np.argsort(-scores, axis=1, kind="stable")
