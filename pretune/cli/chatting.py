"""The verb `chat`: a conversation on a terminal, or answers to conversations of a file or a pipe."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from pretune.cli.answers import AnswerRow, open_answers
from pretune.cli.inputs import chunks
from pretune.cli.language import NO_DECODING, Decoding
from pretune.cli.loading import OfBase, OfStep, load_model, unknown_said_once, written
from pretune.cli.outputs import check_output
from pretune.cli.session import DEFAULT, Common, Session
from pretune.errors import DataError, UsageError

if TYPE_CHECKING:
    from pretune.generate.chat import ChatDecoder
    from pretune.text.readers.records import Record

_MAX_LINE = 16 << 20
_FIELD = "messages"


def chat(
    model: Path,
    /,
    *questions: str,
    input: Annotated[tuple[Path, ...], Parameter(negative=())] = (),
    output: Path | None = None,
    template: str | None = None,
    system: str | None = None,
    messages: str = _FIELD,
    decoding: Decoding = NO_DECODING,
    step: OfStep = None,
    base: OfBase = None,
    session: Common = DEFAULT,
) -> None:
    """Talk with a model that was trained on conversations.

    On a terminal it answers what you type; /help lists its commands, Ctrl-C stops an answer. Questions on the command
    line are answered one after the other, as one conversation. From a file or a pipe, each line of JSON is a
    conversation, {"messages": [{"role": "user", "content": "Hi"}]}, and is written with the answer.

    Args:
        model: folder of a decoder, such as a run with --task chat, or a .gguf file.
        questions: messages of one conversation.
        input: files of conversations, one JSON object per line, or another form that --task chat reads.
        output: file to write, instead of standard output: lines of JSON.
        template: chat template: one of `pretune show chat_templates`, a .jinja file, or the name of one of several of
            the model; by default the model's own.
        system: a system message, with which each conversation begins.
        messages: field of the messages in files.
    """
    check_output(output)
    if questions and input:
        raise UsageError(f"expected questions, such as {questions[0][:40]!r}, or files, not both")
    options: Any = decoding.options()
    loaded = load_model(model, session, step=step, base=base)
    decoder = loaded.conversation(template)
    _say_template(session, decoder)
    is_terminal = sys.stdin.isatty() and not input and not questions and output is None
    with unknown_said_once(loaded):
        if is_terminal:
            from pretune.cli.chat_terminal import ChatTerminal

            ChatTerminal(decoder, options, system).run()
        elif questions:
            _answer_questions(decoder, options, system, questions)
        else:
            _answer_records(decoder, options, system, _records(input, messages), output, messages)
    written(session, output)


def _say_template(session: Session, decoder: ChatDecoder) -> None:
    """Says which template is used, and what ends an answer."""
    tokens = [repr(decoder.token(end)) for end in decoder.ends]
    ends = ", ".join([*tokens, *map(repr, decoder.stop)]) or "nothing that the template writes"
    session.say(f"conversations are written by {decoder.template.where}; an answer ends with {ends}")


def _answer_questions(decoder: ChatDecoder, options: Any, system: str | None, questions: tuple[str, ...]) -> None:
    """Answers questions as one conversation, each answer as it is written."""
    turns: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    for question in questions:
        turns.append({"role": "user", "content": question})
        text = ""
        for piece in decoder.stream(turns, options):
            text += piece
            sys.stdout.write(piece)
            sys.stdout.flush()
        sys.stdout.write("\n")
        turns.append({"role": "assistant", "content": text.strip()})


def _answer_records(
    decoder: ChatDecoder,
    options: Any,
    system: str | None,
    records: Iterator[Record],
    output: Path | None,
    field: str,
) -> None:
    """Answers conversations, some together; each line is the record with its answer."""
    from pretune.text.chat.messages import read_messages, read_tools

    with open_answers(output, as_json=True) as writer:
        for part in chunks(records, 64):
            prompts = []
            for record in part:
                turns = read_messages(record, field)
                if system and turns[0]["role"] != "system":
                    turns = [{"role": "system", "content": system}, *turns]
                prompts.append(decoder.encode(turns, read_tools(record), record.origin))
            for record, answer in zip(part, decoder.answers(prompts, options), strict=True):
                fields = {"answer": answer.text.strip(), "finish_reason": answer.reason}
                writer.write(AnswerRow(dict(record), fields))


def _records(files: tuple[Path, ...], field: str) -> Iterator[Record]:
    """The records of files, or of the lines of standard input.

    Raises:
        DataError: a line that is no JSON object.
    """
    from pretune.text.chat.messages import ALTERNATIVES
    from pretune.text.readers.labelled import read_records
    from pretune.text.readers.records import Column, Origin, Record

    if files:
        column = Column(field, "messages", alternatives=ALTERNATIVES)
        yield from read_records(list(files), [column], needs_labels=False, every_line=True)
        return
    number = 0
    while line := sys.stdin.buffer.readline(_MAX_LINE + 1):
        number += 1
        where = f"standard input:{number}"
        if len(line) > _MAX_LINE:
            raise DataError(f"{where}: a line longer than {_MAX_LINE:,} bytes; split the conversation")
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            remedy = 'write one object a line: {"messages": [{"role": "user", "content": "Hi"}]}'
            raise DataError(f"{where}: not JSON: {error}; {remedy}") from None
        if not isinstance(value, dict):
            raise DataError(f"{where}: holds {str(value)[:40]!r}, not an object; write one with messages")
        yield Record(value, Origin("standard input", number))
