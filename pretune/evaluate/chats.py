"""Conversations with a model in use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Unpack

from pretune.generate.chat import ChatDecoder, choose_template
from pretune.generate.options import GenerateOptions
from pretune.models.model import LanguageModel
from pretune.text.chat.choice import FIELD, find_chat_template
from pretune.text.tokenizer.tokenizer import Tokenizer


class Chats:
    """The conversations of a model in use.

    Attributes:
        network: that answers.
        tokenizer: that it was trained with.
    """

    network: LanguageModel
    tokenizer: Tokenizer

    @cached_property
    def _fused(self) -> LanguageModel:
        raise NotImplementedError

    @property
    def chat_template(self) -> str | None:
        """The template with which its files say conversations are written; None where they name none."""
        template = find_chat_template(self.tokenizer, self.network.carried.whole)
        return None if template is None else template.source

    @property
    def has_chat_template(self) -> bool:
        """Whether its files have a chat template, or several."""
        files = self.network.carried.whole
        return bool(self.tokenizer.settings.get(FIELD)) or any(name.endswith(".jinja") for name in files)

    def conversation(self, template: str | None = None) -> ChatDecoder:
        """What answers one conversation: of each further message only what is new is read.

        Args:
            template: name of a variant, such as `chatml`, of one of the model's own, or a `.jinja` file; by default the
                model's own.

        Raises:
            UsageError: the model has no template and none is named, no such template, or an encoder-decoder.
        """
        return ChatDecoder(self._fused, self.tokenizer, choose_template(self.network, self.tokenizer, template))

    def chat(
        self,
        messages: str | Sequence[Mapping[str, Any]],
        *,
        template: str | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **options: Unpack[GenerateOptions],
    ) -> str:
        """The answer to the last message of a conversation.

        Args:
            messages: such as `[{"role": "user", "content": "Hi"}]`; a text is a single message of the user.
            template: as of `conversation`.
            tools: JSON schemas of functions, for templates that write them.
            options: fields of `GenerateConfig`: max_new_tokens, temperature, top_p, seed ...

        Raises:
            UsageError: as `conversation`; or a conversation that is longer than the model's context.
            DataError: messages missing or out of order; a template that refuses them, fails, or leaves one out.
        """
        turns = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
        return self.conversation(template).answer(turns, options, tools).text.strip()
