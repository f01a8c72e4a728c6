"""A labelled file made larger: each row, and new texts with its label."""

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


class AugmentConfig(Config):
    """How a file is augmented.

    Attributes:
        methods: by name with their settings: `{swap = {share = 0.2}, deletion = {}}`; copies take them in turn.
        copies: new texts of each row.
        keep: write the rows themselves too.
        pairs: write a row's text and a new one beside each other, as the text and second text of one row: pairs that
            belong together, for the task `similarity`.
        seed: key of every random decision.
        columns: how labelled files are read.
    """

    methods: Choices = Field(default_factory=dict)
    copies: int = Field(default=1, ge=1, le=1000)
    keep: bool = True
    pairs: bool = False
    seed: int = Field(default=0, ge=0, lt=2**63)
    columns: LabelledConfig = Field(default_factory=LabelledConfig)


@dataclass
class Account:
    """What became of the copies that were asked for: `asked = written + unchanged + repeated`.

    Attributes:
        rows: that were read.
        asked: copies of them.
        written: new texts.
        unchanged: a method found nothing to change.
        repeated: the text was there already.
    """

    rows: int = 0
    asked: int = 0
    written: int = 0
    unchanged: int = 0
    repeated: int = 0

    def summary(self) -> str:
        """In words."""
        return (
            f"{self.rows:,} rows; {self.written:,} new texts of {self.asked:,} asked for "
            f"({self.unchanged:,} unchanged, {self.repeated:,} repeated)"
        )


def augment_examples(
    examples: Sequence[LabelledText], methods: Sequence[Augmenter], config: AugmentConfig, account: Account
) -> Iterator[dict[str, Any]]:
    """Rows under the names of their columns; a new one also tells its `method` and the number of its `origin`, from 1.

    What a copy becomes depends on the seed and the texts of its row, not on other rows nor on their order.
    """
    columns = config.columns
    for number, example in enumerate(examples, 1):
        account.rows += 1
        texts = [text for text in (example.text, example.second) if text is not None]
        names = [columns.text_column, columns.second_column or "second"][: len(texts)]
        label = {} if example.label is None else {columns.label_column: example.label}
        if config.pairs and len(texts) > 1:
            raise UsageError("pairs are made of single texts; leave out columns.second_column, or pairs")
        if config.keep and not config.pairs:
            yield {**dict(zip(names, texts, strict=True)), **label}
        seen = {tuple(texts)}
        for copy in range(config.copies):
            account.asked += 1
            method = methods[copy % len(methods)]
            draw = Draw(config.seed).at("augment", *texts, copy)
            made = tuple(method.augment(text, draw.at(side)).text for side, text in enumerate(texts))
            if made == tuple(texts):
                account.unchanged += 1
            elif made in seen or not all(text.strip() for text in made):
                account.repeated += 1
            else:
                account.written += 1
                seen.add(made)
                told = {"method": method.name, "origin": number}
                if config.pairs:
                    yield {columns.text_column: texts[0], "second": made[0], **label, **told}
                else:
                    yield {**dict(zip(names, made, strict=True)), **label, **told}
