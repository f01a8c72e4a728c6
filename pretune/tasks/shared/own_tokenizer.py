"""What a task may change of the tokenizer before anything is read with it, such as tokens that it adds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from pretune.text.tokenizer.tokenizer import Tokenizer


class OwnTokenizer(ABC):
    """A task that reads with a tokenizer of its own, which is saved with the model."""

    @classmethod
    @abstractmethod
    def fit_tokenizer(cls, config: Any, tokenizer: Tokenizer, files: Mapping[str, bytes]) -> Tokenizer:
        """The tokenizer that the task reads with; tokens that it adds come behind all others.

        Args:
            config: of the task.
            tokenizer: of the model, fitted to it.
            files: of the model or the tokenizer that are handed on, by name, such as `chat_template.jinja`.

        Returns:
            A tokenizer whose `notes` say what is new.

        Raises:
            PretuneError: the task cannot read with this tokenizer.
        """
