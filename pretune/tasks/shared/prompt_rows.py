"""Examples as rows of prompts: what stands before a label and behind it, cut to what a model reads at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from pretune.errors import DataError
from pretune.prompts.prompt import Prompt, Rendered, Solved
from pretune.prompts.words import encode_around
from pretune.tasks.shared.sequence_task import TextExample
from pretune.tasks.task import Truncate, truncate_pair
from pretune.text.samples.rows import Encoded
from pretune.text.tokenizer.tokenizer import Tokenizer

_ATTEMPTS = 8  # at cutting a text; a cut text may have a token more than was counted


@dataclass(frozen=True, slots=True)
class PromptedExample(TextExample):
    """A text, or a pair of texts, its label, and the solved examples before it in its prompt.

    Attributes:
        label: None where it is not known.
        solved: the least important first.
        rendered: what the model reads instead of the text in its prompt; None, the default, for the prompt.
    """

    label: str | None = None
    solved: tuple[Solved, ...] = field(default=(), kw_only=True)
    rendered: Rendered | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class PromptRows:
    """Makes rows of examples.

    Args:
        prompt: in which they stand.
        name: of the prompt, for messages.
        word: of a label, with which prompts are encoded.
        has_after: the model reads what stands behind the label.
        truncate: which part of a text that is too long stays.

    Attributes:
        left_out: how many texts had no room for a solved example, by where this was read.
    """

    prompt: Prompt
    name: str
    word: str
    has_after: bool
    truncate: Truncate
    left_out: Counter[str] = field(default_factory=Counter)

    def encode(self, examples: Sequence[PromptedExample], tokenizer: Tokenizer, max_tokens: int) -> list[Encoded]:
        """A row for each example, in their order, without targets.

        Raises:
            DataError: an empty text, a second text that is missing or that the prompt has no place for, or no room for
                a token of the text.
        """
        for example in examples:
            self._check(example)
        rows = self._encode(examples, tokenizer)
        return [
            replace(row if row.size <= max_tokens else self._fit(example, tokenizer, max_tokens), example=n)
            for n, (example, row) in enumerate(zip(examples, rows, strict=True))
        ]

    def _check(self, example: PromptedExample) -> None:
        if example.rendered is not None:
            return
        for text in (example.text, example.second):
            if text is not None and not text.strip():
                raise DataError(f"{example.origin}: the text is empty; give it some words or leave the line out")
        if self.prompt.is_paired and example.second is None:
            raise DataError(
                f"{example.origin}: no second text, and the prompt {self.name} has a place for one; give it with "
                "--pair, or name its column with --second"
            )
        if example.second is not None and not self.prompt.is_paired:
            raise DataError(
                f"{example.origin}: the prompt {self.name} has no place for a second text, {{second}}; use another "
                "prompt, or leave the second text out"
            )

    def _encode(self, examples: Sequence[PromptedExample], tokenizer: Tokenizer) -> list[Encoded]:
        """The rows of examples, however long."""
        rendered = [each.rendered or self.prompt.render(each.text, each.second, each.solved) for each in examples]
        if not self.has_after:
            rendered = [replace(each, after="") for each in rendered]
        arounds = encode_around(rendered, self.word, tokenizer, self.name)
        return [Encoded(each.before, each.after if len(each.after) else None) for each in arounds]

    def _fit(self, example: PromptedExample, tokenizer: Tokenizer, max_tokens: int) -> Encoded:
        """The row of an example that is too long: the least important solved examples go, then some of its text.

        Raises:
            DataError: there is no room for a token of the text.
        """
        row, shorter, left_out = Encoded(np.zeros(0, np.int64)), example, 0
        for left_out in range(len(example.solved) + 1):
            shorter = replace(example, solved=example.solved[left_out:])
            (row,) = self._encode([shorter], tokenizer)
            if row.size <= max_tokens:
                break
        self.left_out.update(str(solved.origin) for solved in example.solved[:left_out])
        return row if row.size <= max_tokens else self._cut(shorter, tokenizer, max_tokens, row.size - max_tokens)

    def _cut(self, example: PromptedExample, tokenizer: Tokenizer, max_tokens: int, excess: int) -> Encoded:
        """The row of an example whose text is cut by so many tokens, or by some more where these are too few."""
        texts = [text for text in (example.text, example.second) if text is not None]
        offsets = [tokenizer.encode_offsets(text)[1] for text in texts]
        indexes = [np.arange(len(each)) for each in offsets]
        total, cut = sum(map(len, indexes)), 0
        for _ in range(_ATTEMPTS):
            cut += excess
            second = indexes[1] if len(indexes) > 1 else None
            kept = truncate_pair(indexes[0], second, total - cut, self.truncate, example)
            parts = [
                _part_of(text, each, index)
                for text, each, index in zip(texts, offsets, kept, strict=False)
                if index is not None
            ]
            shorter = replace(example, text=parts[0], second=parts[1] if len(parts) > 1 else None)
            (row,) = self._encode([shorter], tokenizer)
            excess = row.size - max_tokens
            if excess <= 0:
                return replace(row, cut=cut)
        raise DataError(f"{example.origin}: the text could not be cut to {max_tokens} tokens; shorten it")


def _part_of(text: str, offsets: NDArray[np.int64], index: NDArray[np.int64]) -> str:
    """The characters of some tokens of a text; runs of tokens that follow each other stay whole."""
    if not len(index):
        return ""
    runs = np.split(index, np.flatnonzero(np.diff(index) > 1) + 1)
    return " ".join(text[offsets[run[0], 0] : offsets[run[-1], 1]] for run in runs)
