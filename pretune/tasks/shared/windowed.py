"""Cuts the texts of a task's examples to what the model reads at once: truncated, or in windows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pretune.errors import UsageError
from pretune.tasks.task import Example, ExampleT, PredictionT, RowAnswerT, Task, truncate_pair, truncate_run
from pretune.text.samples.rows import Encoded, Ints
from pretune.text.samples.windows import Window, plan_windows, word_starts
from pretune.text.tokenizer.long_texts import EncodedText


def cut_text(
    task: Task[ExampleT, RowAnswerT, PredictionT], text: EncodedText, max_tokens: int, example: Example
) -> list[Window]:
    """What the model reads of a text: several windows of one that is too long, or one, truncated.

    Args:
        max_tokens: of the text in a row at most.

    Raises:
        UsageError: windows that would share all of their tokens.
        DataError: too long and `truncate = "error"`, or no token may stay.
    """
    size = len(text.tokens)
    if task.config.truncate == "windows" and max_tokens > 0:
        stride = stride_of(task, max_tokens)
        starts = np.ones(size, np.bool_) if size <= max_tokens else _starts(task, text)
        return plan_windows(starts, max_tokens, stride)
    index, _ = truncate_pair(np.arange(size), None, max_tokens, task.config.truncate, example)
    return [Window(index, cut=size - len(index) + text.dropped)]


def stride_of(task: Task[ExampleT, RowAnswerT, PredictionT], max_tokens: int) -> int:
    """How many tokens windows of `max_tokens` share.

    Raises:
        UsageError: all of them.
    """
    stride = task.config.stride
    if stride is not None and stride >= max_tokens:
        raise UsageError(
            f"task.{task.name}.stride = {stride}: windows have {max_tokens} tokens of text and must share fewer; use a "
            f"stride of {max_tokens // 4}, or a larger data.length"
        )
    return max_tokens // 4 if stride is None else stride


def cut_pair(
    task: Task[ExampleT, RowAnswerT, PredictionT],
    first: EncodedText,
    second: EncodedText | None,
    max_tokens: int,
    example: Example,
) -> list[tuple[Window, Window | None]]:
    """What the model reads of a pair at once: all of it, what truncation leaves, or windows of the longer text.

    Each window stands beside the whole shorter text, or the beginning of it that takes half of the row.

    Args:
        max_tokens: of both texts in a row at most.

    Raises:
        UsageError, DataError: as `cut_text`.
    """
    if second is None:
        return [(window, None) for window in cut_text(task, first, max_tokens, example)]
    texts = (np.arange(len(first.tokens)), np.arange(len(second.tokens)))
    if task.config.truncate != "windows" or sum(map(len, texts)) <= max_tokens or max_tokens < 2:
        truncate = "head" if task.config.truncate == "windows" else task.config.truncate
        a, b = truncate_pair(*texts, max_tokens, truncate, example)
        assert b is not None  # both texts are there
        cut = len(texts[1]) - len(b) + second.dropped
        return [(Window(a, cut=len(texts[0]) - len(a) + first.dropped), Window(b, cut=cut))]
    is_first = len(texts[0]) > len(texts[1])
    shorter, longer = (texts[1], first) if is_first else (texts[0], second)
    kept = truncate_run(shorter, max_tokens // 2, "head")
    beside = Window(kept, cut=len(shorter) - len(kept))
    out: list[tuple[Window, Window | None]] = []
    for window in cut_text(task, longer, max_tokens - len(kept), example):
        out.append((window, beside) if is_first else (beside, window))
        beside = Window(kept, repeated=len(kept))
    return out


def window_row(
    example: int,
    texts: tuple[EncodedText, EncodedText | None],
    windows: tuple[Window, Window | None],
    targets: NDArray[np.generic] | None,
) -> Encoded:
    """The row of a window of a text or of a pair, of which one text at most was cut into windows.

    Args:
        example: its index.
        targets: of the row.
    """
    first, second = texts
    window, other = windows
    row = Encoded(
        first.tokens[window.index],
        targets=targets,
        example=example,
        offsets=(first.offsets[window.index],),
        cut=window.cut,
        repeated=window.repeated,
        answers_for=window.answers_for,
    )
    if second is None or other is None:
        return row
    return replace(
        row,
        second=second.tokens[other.index],
        offsets=(*row.offsets, second.offsets[other.index]),
        cut=window.cut + other.cut,
        repeated=window.repeated + other.repeated,
        answers_for=window.answers_for if window.answers_for != slice(None) else other.answers_for,
    )


def _starts(task: Task[ExampleT, RowAnswerT, PredictionT], text: EncodedText) -> NDArray[np.bool_]:
    """Whether each token of a text begins a word. Shape: return: (n,)"""
    return word_starts(text.tokens, text.offsets, task.vocabulary.continuation)


def token_spans(offsets: Ints, starts: Ints, ends: Ints) -> tuple[Ints, Ints]:
    """The first and the last token that some runs of characters touch; last is before first where there is none.

    Args:
        offsets: where each token of the text lies, in characters.
        starts, ends: of the runs, ends exclusive.

    Shape:
        offsets: (n, 2); starts, ends: (k,); return: (k,), (k,)
    """
    first = np.searchsorted(np.maximum.accumulate(offsets[:, 1]), starts, side="right")
    last = np.searchsorted(offsets[:, 0], ends, side="left") - 1
    return first.astype(np.int64), last.astype(np.int64)
