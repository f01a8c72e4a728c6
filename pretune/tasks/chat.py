"""Chat: a decoder learns the answers of conversations, each with the mark that ends it, and nothing else of them.

Data: records with `messages`, a list of objects with `role` (system, user, assistant, tool) and `content`
(`data.columns.messages` names the field). Three other forms are read too: ShareGPT's `conversations` with `from` and
`value`, Alpaca's `instruction`, `input` and `output`, and KdConv's list of `message`, where speakers take turns.

The chat template writes a conversation as text: the model's own, or the one that `template` names, which is saved with
the model. An answer is what comes behind the text of all messages before it; a template that writes these otherwise
once an answer follows is refused. The text is encoded as a whole. Of a conversation that is too long the first turns
are left out, never a part of one.

Scores: those of `metric` between the last answer and the one that the model writes, the share of answers that ended by
themselves, `distinct2`, and the loss of all answers. Related: `generation`, for one text from another.

Source: Ouyang et al. 2022 (arXiv 2203.02155), section 3, for learning from demonstrations; chat templates and their
`apply_chat_template` are those of `transformers`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

import numpy as np

from pretune.errors import DataError, UsageError
from pretune.generate.generate import generate
from pretune.generate.options import Continuation
from pretune.generate.recorded import record_ends
from pretune.generate.session import max_new_tokens_left
from pretune.nn.model_protocol import TrainableModel
from pretune.objectives.objective import Ability, ModelLoader, refuse_to_load
from pretune.tasks.shared.chat_texts import ChatEncoder, ChatTokens, message_field
from pretune.tasks.shared.chat_tokenizer import with_template
from pretune.tasks.shared.generation_task import GenerationTask
from pretune.tasks.shared.own_tokenizer import OwnTokenizer
from pretune.tasks.shared.written_texts import GenerationExample
from pretune.tasks.task import Truncate
from pretune.text.chat.choice import FILE, end_of_turn, find_chat_template, special_marks
from pretune.text.chat.messages import ALTERNATIVES, check_messages, read_messages, read_tools
from pretune.text.chat.turns import AnswerFinder, Which
from pretune.text.readers.records import Column, Record
from pretune.text.samples.rows import Encoded, Ints, Row
from pretune.text.tokenizer.tokenizer import Tokenizer
from pretune.wording import counted

_log = logging.getLogger("pretune")


@dataclass(frozen=True, slots=True)
class ChatExample(GenerationExample):
    """A conversation.

    Attributes:
        text: the last message of the user.
        target: the last answer; None where the conversation ends with the user.
        conversation: all messages, as JSON.
        schemas: JSON schemas of functions that the assistant may call, as JSON.
    """

    conversation: str = "[]"
    schemas: str = "null"

    @property
    def messages(self) -> list[dict[str, Any]]:
        """All messages."""
        messages: list[dict[str, Any]] = json.loads(self.conversation)
        return messages

    @property
    def tools(self) -> list[dict[str, Any]] | None:
        """The schemas of functions; None where there are none."""
        tools: list[dict[str, Any]] | None = json.loads(self.schemas)
        return tools


class Chat(GenerationTask[ChatExample], OwnTokenizer):
    """The answers of conversations."""

    name: ClassVar[str] = "chat"

    class Config(GenerationTask.Config):
        """How conversations are written, and which answers are learned.

        Attributes:
            template: chat template: a file of `text/chat/formats`, such as chatml, or a `.jinja` file; by default the
                model's own.
            special_tokens: what becomes of special tokens of the template that the tokenizer lacks: `text` spells them
                with tokens that are there, `add` gives each a new row of the embedding.
            turns: the answers of `all` turns are learned, or that of the `last` one alone.
        """

        truncate: Truncate = "tail"
        template: str | None = None
        special_tokens: Literal["text", "add"] = "text"
        turns: Which = "all"
        metrics: tuple[str, ...] = ("distinct",)

    config: Config

    def __init__(self, config: Config, vocabulary: Any) -> None:
        super().__init__(config, vocabulary)
        self._ends: tuple[int, ...] = ()
        self._stop: tuple[str, ...] = ()
        self._encoder: tuple[Tokenizer, ChatEncoder] | None = None

    @classmethod
    def fit_tokenizer(cls, config: Any, tokenizer: Tokenizer, files: Mapping[str, bytes]) -> Tokenizer:
        """The tokenizer with the chat template, and with its special tokens where they are to be added."""
        return with_template(tokenizer, files, config.template, adds=config.special_tokens == "add")

    def observe(self, model: TrainableModel) -> None:
        """Learns what it must know of the model.

        Raises:
            UsageError: an encoder-decoder, or a model that would read what is to be written.
        """
        super().observe(model)
        if model.has_encoder:
            raise UsageError(
                f"task {self.name!r} is for decoders, and {model.family} is an encoder-decoder; use the task generation"
            )

    def setup(self, model: TrainableModel, draw: Any, load: ModelLoader = refuse_to_load) -> None:
        """Prepares training; the model's own template file gives way to the one that is learned."""
        super().setup(model, draw, load)
        cast(Any, model).carried.whole.pop(FILE, None)

    def resolve_config(self, examples: Sequence[ChatExample]) -> Config:
        """Fills in the metric.

        Raises:
            DataError: no examples.
            UsageError: `truncate` that would cut turns.
        """
        if not examples:
            raise DataError("no conversations: the file is empty; give it at least one record")
        if self.config.truncate not in ("tail", "error"):
            raise UsageError(
                f"task.{self.name}.truncate {self.config.truncate}: conversations are cut by whole turns from their "
                "beginning; use tail, or error"
            )
        return self.config.model_copy(update={"metric": self.config.metric or "chrf"})

    @property
    def abilities(self) -> dict[str, Ability]:
        """It answers."""
        return {self.name: "chat"}

    def columns(self, needs_labels: bool) -> list[Column]:
        """The field of the messages, and that of tools."""
        messages = Column(self.config.columns.messages, "columns.messages", alternatives=ALTERNATIVES)
        return [messages, Column("tools", "", required=False)]

    def read(self, record: Mapping[str, object]) -> ChatExample:
        """A conversation; a bare text is a message of the user, where no answer is asked for."""
        fields, field = Record.of(record), self.config.columns.messages
        value = fields.get(field)
        if isinstance(value, str) and not value.lstrip().startswith("[") and not fields.needs_labels:
            messages = [{"role": "user", "content": fields.text(field)}]
        else:
            messages = read_messages(fields, field)
        ends_with_answer = messages[-1]["role"] == "assistant"
        check_messages(messages, fields.origin, needs_answer=fields.needs_labels or ends_with_answer)
        answered = fields.needs_labels or ends_with_answer
        target = message_field(messages, "assistant") if answered else None
        return ChatExample(
            message_field(messages, "user"),
            target,
            () if not target or not target.strip() else (target,),
            json.dumps(messages, ensure_ascii=False),
            json.dumps(read_tools(fields), ensure_ascii=False),
            origin=fields.origin,
        )

    def encode(self, examples: Sequence[ChatExample], tokenizer: Tokenizer, length: int) -> list[Encoded]:
        """A row for each conversation; turns of one that is too long are left out, and said.

        Raises:
            DataError: a template that does not fit the messages, or leaves one out, with the record and the message.
            UsageError: training on conversations of which none keeps a whole answer.
        """
        encoder, may_cut = self._encoder_of(tokenizer), self.config.truncate != "error"
        rows, chats = list[Encoded](), list[ChatTokens]()
        for n, example in enumerate(examples):
            messages, tools, where = example.messages, example.tools, example.origin
            if example.target is None:
                chat = encoder.prompt(messages, self.room(length), where, may_cut=may_cut, tools=tools)
                rows.append(Encoded(chat.tokens, example=n, cut=chat.cut))
            else:
                chat = encoder.learned(messages, length, where, may_cut=may_cut, tools=tools)
                first = int(chat.mask.argmax())
                if not first:
                    raise DataError(f"{where}: the chat template writes nothing before an answer; use another one")
                run, learned = chat.tokens[first:], chat.mask[first:]
                rows.append(Encoded(chat.tokens[:first], run, targets=learned, example=n, cut=chat.cut))
            chats.append(chat)
        if self._is_training and self.longest_answer is None:
            self._check_length(chats, length)
            self.longest_answer = max((chat.longest for chat in chats), default=1)
        self._say(chats, length)
        return rows

    def _check_length(self, chats: Sequence[ChatTokens], length: int) -> None:
        """Refuses a length for which no answer is left whole, and says how many conversations have none."""
        broken = sum(chat.is_broken for chat in chats)
        if not broken:
            return
        wanted = int(np.percentile([chat.size for chat in chats], 95, method="inverted_cdf"))
        most = f"95 % of the conversations have {wanted:,} tokens or fewer"
        if broken == len(chats):
            raise UsageError(
                f"data.length = {length}: no answer of {counted(broken, 'conversation')} is left whole, so that a "
                f"model would not learn where answers end; {most}: --length {wanted}"
            )
        _log.warning("%s without a whole answer: %s", counted(broken, "conversation"), most)

    def _say(self, chats: Sequence[ChatTokens], length: int) -> None:
        """Says what was left out, and where use would read other tokens than training."""
        if cut := [chat for chat in chats if chat.cut]:
            turns = counted(sum(chat.turns_cut for chat in cut), "message")
            _log.warning(
                "%s longer than %d tokens: the first %s of them left out, whole turns where one fits",
                counted(len(cut), "conversation"), length, turns,
            )  # fmt: skip
        if straddling := sum(chat.straddling for chat in chats):
            _log.warning(
                "%s inside a token that the template begins, so that in use other tokens are read before it; use a "
                "template with a special token or a line break there",
                counted(straddling, "answer begins", "answers begin"),
            )

    def _encoder_of(self, tokenizer: Tokenizer) -> ChatEncoder:
        """What encodes conversations with the template of a tokenizer.

        Raises:
            UsageError: the tokenizer has no template.
        """
        if self._encoder is None or self._encoder[0] is not tokenizer:
            template = find_chat_template(tokenizer, {})
            if template is None:
                raise UsageError(
                    "the tokenizer has no chat template; train the model with --task chat, which saves one"
                )
            if self.config.template is not None:
                template.where = f"the chat template {self.config.template}"
            finder = AnswerFinder(template, special_marks(tokenizer), self.config.turns)
            self._ends, self._stop = end_of_turn(finder.end_mark, tokenizer)
            if not finder.end_mark:
                _log.warning(
                    "%s writes nothing behind the last answer, so that a model does not learn from it where to stop; "
                    "end answers with a mark, such as {{ eos_token }}",
                    template.where,
                )
            self._encoder = tokenizer, ChatEncoder(finder, tokenizer)
        return self._encoder[1]

    @property
    def lead(self) -> Ints:
        """Nothing: the template writes what a conversation begins with."""
        return np.zeros(0, np.int64)

    def prompt_of(self, row: Row) -> Ints:
        """All that comes before the last answer."""
        if row.second is None or row.targets is None:
            return row.tokens
        learned = np.flatnonzero(row.targets)
        gaps = np.flatnonzero(np.diff(learned) > 1)
        start = int(learned[gaps[-1] + 1]) if len(gaps) else int(learned[0])
        return np.concatenate([row.tokens, row.second[:start]])

    def write(self, network: Any, tokenizer: Tokenizer, prompts: Sequence[Ints], beams: int) -> list[Continuation]:
        """What a model answers."""
        self._encoder_of(tokenizer)
        left = max(max_new_tokens_left(network, tokenizer, prompts))
        options = self.options(beams, min(self.new_tokens, left))
        options = options.model_copy(update={"ends": self._ends, "stop": self._stop})
        return generate(network, tokenizer, prompts, options, complete=True)

    def finalize(self, model: TrainableModel) -> GenerationTask.Config:
        """Says in the model's files how it writes, how long its answers are, and what ends them."""
        config = super().finalize(model)
        record_ends(cast(Any, model), self._ends, self._stop)
        return config
