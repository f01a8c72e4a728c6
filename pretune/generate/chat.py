"""Answers conversations: a template writes them as text, the model continues it up to the end of the turn.

messages --template--> text --encoded as a whole--> tokens --only the new ones are read--> answer
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretune.errors import UsageError
from pretune.generate.defaults import resolve_options
from pretune.generate.generate import generate, stream
from pretune.generate.options import Continuation, GenerateConfig, GenerateOptions
from pretune.generate.resume import ResumedSession
from pretune.generate.session import context_length
from pretune.models.model import LanguageModel
from pretune.text.chat.choice import end_of_turn, find_chat_template, find_format, formats, special_marks
from pretune.text.chat.messages import check_messages
from pretune.text.chat.template import ChatTemplate
from pretune.text.chat.turns import AnswerFinder
from pretune.text.tokenizer.tokenizer import Tokenizer
from pretune.text.tokenizer.unknown import say_unknown

MAX_NEW_TOKENS = 512
"""Tokens of an answer, where neither the user nor the model's files say it."""


def choose_template(model: LanguageModel, tokenizer: Tokenizer, name: str | None = None) -> ChatTemplate:
    """The template of a conversation: a variant or a file by its name, one of the model's own by its, or its only one.

    Raises:
        UsageError: the model has none, and none is named; no such template.
        MissingInputError, DataError: a file that is missing or no template.
    """
    files = model.carried.whole
    if name is not None:
        own = find_chat_template(tokenizer, files, name) if _has(tokenizer, files, name) else None
        return own or find_format(name).with_tokens(tokenizer)
    template = find_chat_template(tokenizer, files)
    if template is None:
        raise UsageError(
            "the model's files have no chat template; name the one that it was trained with, by --template: "
            f"{', '.join(formats())}, or a .jinja file (a model that was never trained on conversations answers badly)"
        )
    return template


def _has(tokenizer: Tokenizer, files: Mapping[str, bytes], name: str) -> bool:
    """Whether a model has a template of a name."""
    try:
        return find_chat_template(tokenizer, files, name) is not None
    except UsageError:
        return False


class ChatDecoder:
    """Answers the last message of a conversation; of the next one it reads only what is new.

    Args:
        model: a decoder, in use.
        tokenizer: that it was trained with.
        template: writes the conversations.

    Attributes:
        ends: special tokens that end an answer.
        stop: texts that do, where the template ends answers with text.

    Raises:
        UsageError: an encoder-decoder.
    """

    def __init__(self, model: LanguageModel, tokenizer: Tokenizer, template: ChatTemplate) -> None:
        if model.has_encoder:
            raise UsageError(f"{model.family} is an encoder-decoder, and conversations are for decoders; use generate")
        self._model, self._tokenizer, self.template = model, tokenizer, template
        self._finder = AnswerFinder(template, special_marks(tokenizer))
        self._session: ResumedSession | None = None
        self.ends, self.stop = end_of_turn(self._finder.end_mark, tokenizer)

    @property
    def tokens_read(self) -> int:
        """How many tokens of conversations were read; those that the cache held are not."""
        return 0 if self._session is None else self._session.tokens_read

    def reset(self) -> None:
        """Forgets what was read."""
        self._session = None

    def token(self, number: int) -> str:
        """A token as text."""
        return self._tokenizer.token(number)

    def encode(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        where: object = "the conversation",
    ) -> NDArray[np.int64]:
        """The tokens that the model reads before it answers. Shape: return: (n,)

        Args:
            tools: JSON schemas of functions, for templates that write them.
            where: the record, for messages.

        Raises:
            DataError: messages missing or out of order; a template that refuses them, fails, or leaves one out.
        """
        check_messages(messages, where, needs_answer=False)
        text = self._finder.prompt(messages, where, tools)
        with say_unknown(self._tokenizer):
            return self._tokenizer.encode(text, allow_special=True)

    def config(self, options: GenerateOptions) -> GenerateConfig:
        """The decoding options, with what ends a turn.

        Raises:
            UsageError: an option out of range.
        """
        config = resolve_options(self._model, options)
        ends, stop = (*config.ends, *self.ends), (*config.stop, *self.stop)
        named = {"max_new_tokens", "max_length"} & ({*options} | config.model_fields_set)
        longest = {} if named else {"max_new_tokens": MAX_NEW_TOKENS}
        return config.model_copy(
            update={"ends": tuple(dict.fromkeys(ends)), "stop": tuple(dict.fromkeys(stop)), **longest}
        )

    def stream(
        self,
        messages: Sequence[Mapping[str, Any]],
        options: GenerateOptions | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> Generator[str, None, Continuation]:
        """Yields the answer to the last message as it grows; the generator returns all of it.

        Raises:
            UsageError: a conversation that is longer than the model's context, or an option out of range.
            DataError: as `encode`.
        """
        config, tokens = self.config(options or {}), self.encode(messages, tools)
        room = self._room(tokens)
        limit = room if config.max_length is not None else min(room, config.max_new_tokens)
        session = None
        if config.beams == 1:
            session = self._session or ResumedSession(self._model, self._tokenizer.vocabulary.size, len(tokens) + limit)
        self._session = None  # until it is known to be whole
        answer = stream(self._model, self._tokenizer, [tokens], config, complete=True, resumed=session)
        begins = True
        while True:
            try:
                _, piece = next(answer)
            except StopIteration as end:
                self._session = session
                continuations: list[Continuation] = end.value
                return continuations[0]
            piece = piece.lstrip() if begins else piece
            begins = begins and not piece
            if piece:
                yield piece

    def _room(self, tokens: NDArray[np.int64]) -> int:
        """How many tokens the model's context leaves to an answer.

        Raises:
            UsageError: none.
        """
        length = context_length(self._model, self._tokenizer)
        if len(tokens) >= length:
            raise UsageError(
                f"the conversation has {len(tokens)} tokens, and the model reads {length}; begin a new one, or shorten "
                "it"
            )
        return length - len(tokens)

    def answers(
        self, prompts: Sequence[NDArray[np.int64]], options: GenerateOptions | None = None
    ) -> list[Continuation]:
        """The answers to many conversations, which are decoded together.

        Args:
            prompts: as `encode` gives them.

        Raises:
            UsageError: as `stream`.
        """
        config = self.config(options or {})
        for prompt in prompts:
            self._room(prompt)
        return generate(self._model, self._tokenizer, prompts, config, complete=True)

    def answer(
        self,
        messages: Sequence[Mapping[str, Any]],
        options: GenerateOptions | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> Continuation:
        """The answer to the last message.

        Raises:
            UsageError, DataError: as `stream`.
        """
        parts = self.stream(messages, options, tools)
        while True:
            try:
                next(parts)
            except StopIteration as end:
                continuation: Continuation = end.value
                return continuation
