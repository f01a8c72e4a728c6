"""A conversation on a terminal: answers stream, commands begin with a slash, Ctrl-C stops an answer."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pretune.disk import storage_errors
from pretune.errors import DataError, PretuneError, UsageError
from pretune.language import translate

if TYPE_CHECKING:
    from pretune.generate.chat import ChatDecoder
    from pretune.generate.options import GenerateOptions

_HELP = """/system TEXT  begin anew with a system message; without a text, without one
/reset        begin anew
/retry        answer the last question again; where tokens are drawn, with others
/save FILE    append the conversation to a file of lines of JSON
/exit         leave, as Ctrl-D does
A line that ends with \\ goes on in the next one; a line of three quotes begins and ends a message of many lines.
Ctrl-C stops an answer."""
_QUOTES = '"""'


@contextmanager
def _each_interrupt() -> Iterator[None]:
    """Lets every Ctrl-C raise `KeyboardInterrupt`, where a verb that ends takes only the first for one."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class ChatTerminal:
    """One conversation.

    Args:
        decoder: answers.
        options: of decoding.
        system: a system message, or None.
        read: asks for a line.
        write: shows a piece of an answer.
    """

    def __init__(
        self,
        decoder: ChatDecoder,
        options: GenerateOptions,
        system: str | None = None,
        read: Callable[[str], str] = input,
        write: Callable[[str], object] = sys.stdout.write,
    ) -> None:
        self._decoder, self._options, self._system = decoder, options.copy(), system
        self._read, self._write = read, write
        self._turns: list[dict[str, Any]] = []
        self._unanswered: tuple[list[dict[str, Any]], dict[str, Any]] | None = None  # turns, and a question that failed

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The conversation so far."""
        return [*self._system_turns, *self._turns]

    @property
    def _system_turns(self) -> list[dict[str, Any]]:
        return [{"role": "system", "content": self._system}] if self._system else []

    def run(self) -> None:
        """Asks and answers until the user leaves."""
        with suppress(ImportError):
            import readline  # noqa: F401  # lines can be edited, and come again
        self._say("/help lists the commands; Ctrl-D leaves")
        with _each_interrupt():
            self._talk()

    def _talk(self) -> None:
        while True:
            try:
                text = self._question()
            except EOFError:
                self._write("\n")
                return
            except KeyboardInterrupt:
                self._say("\nCtrl-D leaves")
                continue
            if text.strip() == "/exit":
                return
            try:
                self._handle(text)
            except PretuneError as error:
                self._say(str(error))

    def _question(self) -> str:
        """What the user says, of one line or many."""
        line = self._read("> ")
        if line.strip() == _QUOTES:
            lines: list[str] = []
            while (line := self._read("| ")).strip() != _QUOTES:
                lines.append(line)
            return "\n".join(lines)
        lines = [line]
        while lines[-1].endswith("\\"):
            lines[-1] = lines[-1][:-1]
            lines.append(self._read("| "))
        return "\n".join(lines)

    def _handle(self, text: str) -> None:
        """Follows a command, or answers."""
        command, _, argument = text.strip().partition(" ")
        argument = argument.strip()
        if not text.strip():
            return
        if command == "/help":
            self._say(_HELP)
        elif command == "/reset":
            self._begin(self._system)
        elif command == "/system":
            self._begin(argument or None)
        elif command == "/save":
            self._save(argument)
        elif command == "/retry":
            self._retry()
        elif command.startswith("/"):
            raise UsageError(f"no command {command}; /help lists them (a question may begin with a space)"[:200])
        else:
            self._answer(self._turns, {"role": "user", "content": text.strip()})

    def _begin(self, system: str | None) -> None:
        self._system, self._turns, self._unanswered = system, [], None
        self._decoder.reset()
        self._say("a new conversation" + (f", with the system message {system!r}" if system else ""))

    def _answer(self, before: list[dict[str, Any]], question: dict[str, Any]) -> None:
        """Writes the answer as it grows; what was written when the user stopped it is a part of the conversation.

        Where it fails, the conversation stays as it was, and /retry asks the question again.

        Args:
            before: the turns that the question follows.
        """
        self._unanswered = before, question
        text = ""
        try:
            for piece in self._decoder.stream([*self._system_turns, *before, question], self._options):
                text += piece
                self._write(piece)
                sys.stdout.flush()
        except KeyboardInterrupt:
            self._say(" ... stopped")
        else:
            self._write("\n")
        self._turns = [*before, question, {"role": "assistant", "content": text.strip()}]
        self._unanswered = None

    def _retry(self) -> None:
        if self._unanswered is not None:
            before, question = self._unanswered
        elif self._turns:
            *before, question, _ = self._turns
        else:
            raise UsageError("there is no question yet; ask one first")
        self._options["seed"] = self._options.get("seed", 0) + 1
        self._answer(before, question)

    def _save(self, name: str) -> None:
        if not name:
            raise UsageError("/save needs the name of a file, such as /save chat.jsonl")
        if not self._turns:
            raise DataError("there is nothing to save yet; ask something first")
        path = Path(name)
        with storage_errors(path, "save the conversation"), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"messages": self.messages}, ensure_ascii=False) + "\n")
        self._say(f"saved: {path}")

    def _say(self, text: str) -> None:
        self._write(translate(text) + "\n")
