"""The labelled examples of which some stand solved in a prompt: how they are read, and which ones each text has."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np

from pretune.draw import Draw
from pretune.errors import UsageError
from pretune.find import find
from pretune.prompts.pool import Pool
from pretune.prompts.prompt import Prompt, Solved
from pretune.prompts.similarity import Similarity
from pretune.tasks.prompted import Prompted
from pretune.tasks.shared.prompt_rows import PromptedExample
from pretune.tasks.shared.records import read_examples
from pretune.text.readers.labelled import Data
from pretune.text.samples.rows import Ints
from pretune.wording import counted

_log = logging.getLogger("pretune")


@dataclass(frozen=True)
class Shots:
    """The examples among which solved ones are chosen.

    Attributes:
        examples: each, with a label of `labels`.
        labels: of the prompts.
        pool: what is looked at to choose.
        count: how many stand in a prompt.
        choose: name of the way to choose.
        seed: of random choices.
    """

    examples: Sequence[PromptedExample]
    labels: Sequence[str]
    pool: Pool
    count: int
    choose: str
    seed: int

    @classmethod
    def read(
        cls,
        data: Data,
        task: Prompted,
        similarity_of: Callable[[Sequence[str]], Similarity],
        count: int,
        choose: str,
        seed: int,
    ) -> Shots:
        """Reads the examples.

        Args:
            task: that reads them.
            similarity_of: what says how alike texts are to the given ones.

        Raises:
            UsageError: a count below 1.
            DataError: an example that cannot be used.
        """
        examples = read_examples(task, data)
        if count < 1:
            raise UsageError(f"shot_count {count}: expected at least 1; leave the examples out for none")
        if count > len(examples):
            have = counted(len(examples), "example")
            _log.warning("%s solved examples were asked for, and there are no more than %s", count, have)
        numbers = [_number(task, example) for example in examples]
        texts = [_text_of(each) for each in examples]
        pool = Pool(texts, np.array(numbers), similarity_of(texts))
        return cls(examples, task.labels, pool, count, choose, seed)

    def choose_for(self, examples: Sequence[PromptedExample]) -> list[list[int]]:
        """The numbers of the solved examples of each, the most important last; a text itself is none of them."""
        texts = [_text_of(example) for example in examples]
        choose = find("prompts.choosing", self.choose).choose
        chosen = cast(Ints, choose(self.pool, texts, self.count, Draw(self.seed)))
        rows = chosen.tolist()
        return [
            [n for n in row if self.pool.texts[n] != text]
            for row, text in zip(rows if len(rows) == len(texts) else rows * len(texts), texts, strict=True)
        ]

    def put(
        self, examples: Sequence[PromptedExample], chosen: Sequence[Sequence[int]], form: Prompt
    ) -> list[PromptedExample]:
        """The examples with those that were chosen for them, by the words of a prompt."""
        solved = {n: self._solved(n, form) for n in {n for own in chosen for n in own}}
        return [replace(each, solved=tuple(solved[n] for n in own)) for each, own in zip(examples, chosen, strict=True)]

    def _solved(self, n: int, form: Prompt) -> Solved:
        """An example by the word of its label."""
        each, label = self.examples[n], self.labels[int(self.pool.labels[n])]
        return Solved(each.text, form.words_of(label)[0], each.second, each.origin)


def _number(task: Prompted, example: PromptedExample) -> int:
    """The number of an example's label, which is known."""
    number = task.target_of(example)
    assert number is not None  # records with labels alone were read
    return int(number)


def _text_of(example: PromptedExample) -> str:
    return example.text if example.second is None else f"{example.text} {example.second}"
