"""How a model in use is asked by prompts, without training."""

from __future__ import annotations

from typing import Unpack

from pretune.evaluate.labelled import Columns, merge_columns
from pretune.evaluate.prompted import PromptedModel, PromptOptions
from pretune.generate.session import context_length
from pretune.models.model import LanguageModel
from pretune.tasks.task import Truncate
from pretune.text.readers.labelled import LabelledConfig
from pretune.text.tokenizer.tokenizer import Tokenizer


class Prompting:
    """The prompts of a model in use.

    Attributes:
        network: that is asked.
        tokenizer: that it was trained with.
    """

    network: LanguageModel
    tokenizer: Tokenizer

    @property
    def _fused(self) -> LanguageModel:
        """The network in the form in which it is used."""
        return self.network

    def prompted(
        self,
        *,
        columns: Columns | None = None,
        truncate: Truncate | None = None,
        **prompting: Unpack[PromptOptions],
    ) -> PromptedModel:
        """The language model as a prompt asks it, for several calls of its `predict` and `evaluate`.

        Args:
            columns, truncate: as of `predict`; second texts are in the column "second" where no other is named.
            prompting: see `PromptOptions`.

        Raises:
            UsageError: a model without a language head, an unknown option, labels without words.
            DataError: a solved example that cannot be used.
        """
        config = merge_columns(self.network.metadata, columns) or LabelledConfig()
        settings = {"columns": config, **({"truncate": truncate} if truncate else {})}
        length = context_length(self.network, self.tokenizer)
        return PromptedModel(self._fused, self.tokenizer, length, prompting, settings)
