"""Augments a labelled file: writes each row, and new texts with its label."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from pretune.augment.augmenter import Augmenter
from pretune.config import Choices, Config
from pretune.draw import Draw
from pretune.errors import UsageError
from pretune.text.readers.labelled import LabelledConfig, LabelledText
from pretune.wording import counted


class AugmentConfig(Config):
    """How a file is augmented.

    Attributes:
        methods: methods by name with their settings: `{swap = {rate = 0.2}, deletion = {}}`; copies use them in turn.
        copies: number of new texts per row.
        keep: also write the original rows.
        pairs: write a row's text and a new one as the text and second text of one row: positive pairs for the task
            `similarity`.
        seed: seeds every random decision.
        columns: how labelled files are read.
    """

    methods: Choices = Field(default_factory=dict)
    copies: int = Field(default=1, ge=1, le=1000)
    keep: bool = True
    pairs: bool = False
    seed: int = Field(default=0, ge=0, lt=2**63)
    columns: LabelledConfig = Field(default_factory=LabelledConfig)


@dataclass
class AugmentStats:
    """Counts what became of the requested copies: `requested = written + unchanged + duplicates`.

    Attributes:
        rows: rows that were read.
        requested: copies that were requested of them.
        written: new texts that were written.
        unchanged: copies in which the method could not change anything.
        duplicates: copies whose text had been written before.
    """

    rows: int = 0
    requested: int = 0
    written: int = 0
    unchanged: int = 0
    duplicates: int = 0

    def summary(self) -> str:
        """Describes the counts in a sentence."""
        return (
            f"{counted(self.rows, 'row')}; {counted(self.written, 'new text')} of {self.requested:,} requested "
            f"({self.unchanged:,} unchanged, {counted(self.duplicates, 'duplicate')})"
        )


def augment_examples(
    examples: Sequence[LabelledText], methods: Sequence[Augmenter], config: AugmentConfig, stats: AugmentStats
) -> Iterator[dict[str, Any]]:
    """Yields rows by their column names; a new one also has its `method` and the number of its `origin`, from 1.

    A copy depends on the seed and the texts of its row, not on other rows nor on their order.
    """
    columns = config.columns
    for number, example in enumerate(examples, 1):
        stats.rows += 1
        texts = [text for text in (example.text, example.second) if text is not None]
        names = [columns.text, columns.second or "second"][: len(texts)]
        label = {} if example.label is None else {columns.label: example.label}
        if config.pairs and len(texts) > 1:
            raise UsageError("pairs are built from single texts; remove columns.second, or pairs")
        if config.keep and not config.pairs:
            yield {**dict(zip(names, texts, strict=True)), **label}
        seen = {tuple(texts)}
        for copy in range(config.copies):
            stats.requested += 1
            method = methods[copy % len(methods)]
            draw = Draw(config.seed).at("augment", *texts, copy)
            augmented = tuple(method.augment(text, draw.at(side)).text for side, text in enumerate(texts))
            if augmented == tuple(texts):
                stats.unchanged += 1
            elif augmented in seen or not all(text.strip() for text in augmented):
                stats.duplicates += 1
            else:
                stats.written += 1
                seen.add(augmented)
                source = {"method": method.name, "origin": number}
                if config.pairs:
                    yield {columns.text: texts[0], "second": augmented[0], **label, **source}
                else:
                    yield {**dict(zip(names, augmented, strict=True)), **label, **source}
