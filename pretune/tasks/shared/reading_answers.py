"""Answers to a question: the best ones of a window, those of all windows joined, and what speaks for none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray

from pretune.text.samples.rows import Flags, Ints

KEPT = 20  # answers of a window that are compared with those of others
_SMALLEST = 1e-300


class Candidate(TypedDict):
    """A possible answer: its text and where it begins and ends, in characters; empty and None for no answer."""

    answer: str
    start: int | None
    end: int | None
    probability: float


class ReadingPrediction(Candidate):
    """The answer to a question, and the most probable ones of all."""

    candidates: list[Candidate]


class Scored(NamedTuple):
    """A part of a text, in characters, and how much speaks for it."""

    start: int
    end: int
    score: float


class WindowAnswers(NamedTuple):
    """The best answers of a window, and how much speaks for none."""

    best: list[Scored]
    none: float


def join_windows(
    text: str, answers: Sequence[WindowAnswers], *, may_lack: bool, threshold: float, count: int
) -> ReadingPrediction:
    """The best answer of all windows of a text, and the others.

    Args:
        may_lack: the text may have no answer; windows that have none speak least for that, so the least counts.
        threshold: how much more must speak for no answer than for the best one so that none is given.
        count: answers that are listed.
    """
    best = sorted((span for answer in answers for span in answer.best), key=lambda span: -span.score)[:KEPT]
    none = min(answer.none for answer in answers)
    scores = [span.score for span in best] + ([none] if may_lack or not best else [])
    weights = np.exp(np.array(scores) - max(scores))
    probabilities = (weights / weights.sum()).tolist()
    listed: list[Candidate] = [
        {"answer": text[span.start : span.end], "start": span.start, "end": span.end, "probability": probability}
        for span, probability in zip(best, probabilities, strict=False)
    ]
    nothing: Candidate = {"answer": "", "start": None, "end": None, "probability": probabilities[-1]}
    has_none = len(scores) > len(best)
    is_empty = has_none and (not best or none - best[0].score > threshold)
    candidates = sorted(listed[:count] + [nothing] * has_none, key=lambda item: -item["probability"])
    return {**(nothing if is_empty else listed[0]), "candidates": candidates}


def best_answer(prediction: ReadingPrediction) -> tuple[str, float]:
    """The best answer that is not empty, and how much more speaks for none: the difference of their logits."""
    some = next((each for each in prediction["candidates"] if each["answer"]), None)
    none = next((each for each in prediction["candidates"] if not each["answer"]), None)
    first, second = (0.0 if each is None else each["probability"] for each in (some, none))
    gap = math.log(max(second, _SMALLEST)) - math.log(max(first, _SMALLEST))
    return "" if some is None else some["answer"], gap


def best_spans(
    scores: NDArray[np.float64], offsets: Ints, starts: Ints, ends: Flags, max_characters: int | None
) -> list[tuple[int, int, float]]:
    """The spans of tokens with the highest sums of scores, best first.

    Args:
        scores: of each token as the first and as the last one.
        offsets: of each token, in characters.
        starts: the tokens with which a span may begin.
        ends: whether one may end with each token.
        max_characters: of a span at most; one of a single word may have more.

    Shape:
        scores: (n, 2); offsets: (n, 2); starts: (k,); ends: (n,)
    """
    if not len(starts):
        return []
    stop = np.maximum.accumulate(offsets[:, 1])
    limit = len(scores) if max_characters is None else max_characters
    last = np.searchsorted(stop, offsets[starts, 0] + limit, side="right") - 1
    last = np.full(len(starts), len(scores) - 1) if max_characters is None else last
    first_end = np.searchsorted(np.flatnonzero(ends), starts)
    last = np.maximum(last, np.flatnonzero(ends)[first_end])  # the word itself
    other = starts[:, None] + np.arange(int((last - starts).max()) + 1)
    inside = np.minimum(other, len(scores) - 1)
    sums = np.where((other <= last[:, None]) & ends[inside], scores[starts, 0][:, None] + scores[inside, 1], -np.inf)
    flat = sums.ravel()
    count = min(KEPT, int(np.isfinite(flat).sum()))
    chosen = np.argpartition(-flat, count - 1)[:count] if count else np.zeros(0, np.int64)
    chosen = chosen[np.lexsort((chosen, -flat[chosen]))]
    rows, columns = np.divmod(chosen, sums.shape[1])
    return [
        (int(starts[a]), int(starts[a] + b), float(sums[a, b]))
        for a, b in zip(rows.tolist(), columns.tolist(), strict=True)
    ]
