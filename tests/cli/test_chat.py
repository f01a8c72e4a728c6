"""The verb `chat`: from a pipe, from files, from the command line and on a terminal."""

from __future__ import annotations

import io
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chatkit import assistant, chat_tokenizer, user

from pretune.cli import main
from pretune.cli.chat_terminal import ChatTerminal
from pretune.errors import DataError
from pretune.generate.chat import ChatDecoder
from pretune.model import Model

sys.path.append(str(Path(__file__).parent.parent / "generate"))
from test_chat_decoder import saved


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return saved(tmp_path_factory.mktemp("chat"))


def folder_of(model: Model) -> str:
    return str(model._source.folder)


def piped(monkeypatch: pytest.MonkeyPatch, lines: list[object]) -> None:
    text = "".join(line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))


def test_lines_of_json_are_answered(
    model: Model, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    records = [
        {"id": 7, "messages": [user("Hi")]},
        {"conversations": [{"from": "human", "value": "你好"}]},
        {"messages": [{"message": "a"}, {"message": "b"}, {"message": "c"}]},
        {"instruction": "Add", "input": "1 2"},
    ]
    turns = [[user("Hi")], [user("你好")], [user("a"), assistant("b"), user("c")], [user("Add\n\n1 2")]]
    flags = ["--max-new-tokens", "6", "--precision", "fp32"]
    piped(monkeypatch, records)
    assert main(["chat", folder_of(model), *flags]) == 0
    out = capsys.readouterr()
    answers = [json.loads(line) for line in out.out.splitlines()]
    assert [answer["answer"] for answer in answers] == [model.chat(messages, max_new_tokens=6) for messages in turns]
    assert answers[0]["id"] == 7
    assert {answer["finish_reason"] for answer in answers} <= {"end", "length"}
    assert (
        "conversations are written by the model's chat template (chat_template.jinja); an answer ends with" in out.err
    )
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert (
        main(
            [
                "chat",
                folder_of(model),
                "--input",
                str(tmp_path / "in.jsonl"),
                "--output",
                str(tmp_path / "out.jsonl"),
                *flags,
            ]
        )
        == 0
    )
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert written == answers
    piped(monkeypatch, records[:1])
    assert main(["chat", folder_of(model), "--system", "Be brief.", "--quiet", *flags]) == 0
    with_system = [{"role": "system", "content": "Be brief."}, user("Hi")]
    assert json.loads(capsys.readouterr().out)["answer"] == model.chat(with_system, max_new_tokens=6)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"messages": [user("a"), user("b")]}, "standard input:2: message 2: two user turns in a row"),
        ({"messages": [user("a"), assistant("b")]}, "standard input:2: the last message is not the user's"),
        (
            {"messages": [{"role": "bot!", "content": "a"}]},
            "standard input:2: field 'messages[0].role' = \"bot!\" is no",
        ),
        (
            {"messages": [{"role": "user"}]},
            "standard input:2: field 'messages[0]' has no content; fill it in, or remove",
        ),
        ({"messages": []}, "standard input:2: field 'messages' is an empty list; fix or remove the record"),
        ({"messages": "x"}, "standard input:2: field 'messages' holds str x, not a list of messages"),
        ({"messages": [{"role": "user", "content": [1]}]}, "holds a list of parts, not text; write its text alone"),
        ({"message": 1}, "standard input:2: no field 'messages'"),
        ("[1]\n", "standard input:2: holds '[1]', not an object; write one with messages"),
        ("{\n", "standard input:2: not JSON: "),
    ],
)
def test_bad_lines_are_refused(
    model: Model, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: object, message: str
) -> None:
    piped(monkeypatch, [{"messages": [user("Hi")]}, line])
    assert main(["chat", folder_of(model), "--quiet", "--max-new-tokens", "2"]) == 65
    assert message in capsys.readouterr().err


def test_questions_are_one_conversation(model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--max-new-tokens", "6", "--precision", "fp32", "--quiet"]
    assert main(["chat", folder_of(model), "Hi", "Why?", *flags]) == 0
    first = model.chat("Hi", max_new_tokens=6)
    second = model.chat([user("Hi"), assistant(first), user("Why?")], max_new_tokens=6)
    assert capsys.readouterr().out.split() == f"{first}\n{second}".split()
    assert main(["chat", folder_of(model), "Hi", "--template", "none", *flags]) == 64
    assert "no variant 'none'" in capsys.readouterr().err
    assert main(["chat", folder_of(model), "Hi", "--input", "x.jsonl", *flags]) == 64
    assert "expected questions, such as 'Hi', or files, not both" in capsys.readouterr().err


class Script:
    """Lines that a user types, and all that is shown."""

    def __init__(self, *lines: str | type[BaseException]) -> None:
        self.lines, self.text = iter(lines), ""

    def read(self, prompt: str) -> str:
        line = next(self.lines, EOFError)
        if not isinstance(line, str):
            raise line
        self.text += f"{prompt}{line}\n"
        return line

    def write(self, text: str) -> None:
        self.text += text


def terminal(model: Model, script: Script, **options: Any) -> ChatTerminal:
    return ChatTerminal(model.conversation(), {"max_new_tokens": 6, **options}, None, script.read, script.write)


def test_a_conversation_on_a_terminal(model: Model, tmp_path: Path) -> None:
    saved_to = tmp_path / "chat.jsonl"
    script = Script(
        *(
            "/help",
            "Hi\\",
            "there",
            '"""',
            "two",
            "",
            "lines",
            '"""',
            f"/save {saved_to}",
            KeyboardInterrupt,
            "",
            "/x",
            "/save",
        ),
        *(
            "/system Be kind.",
            "/retry",
            "/save x",
            "Hello",
            f"/save {saved_to}",
            "/system",
            "end <|im_end|>",
            "/exit",
            "never",
        ),
    )
    chat = terminal(model, script)
    chat.run()
    first = model.chat("Hi\nthere", max_new_tokens=6)
    second = model.chat([user("Hi\nthere"), assistant(first), user("two\n\nlines")], max_new_tokens=6)
    kind = [{"role": "system", "content": "Be kind."}, user("Hello")]
    records = [json.loads(line)["messages"] for line in saved_to.read_text().splitlines()]
    assert records == [
        [user("Hi\nthere"), assistant(first), user("two\n\nlines"), assistant(second)],
        [*kind, assistant(model.chat(kind, max_new_tokens=6))],
    ]
    for text in (
        *("/retry        answer the last question again", "Ctrl-D leaves", "no command /x; /help lists them"),
        *(
            "/save needs the name of a file",
            "there is no question yet",
            "there is nothing to save yet",
            f"saved: {saved_to}",
        ),
        *("a new conversation, with the system message 'Be kind.'", "its text holds '<|im_end|>'"),
    ):
        assert text in script.text
    assert "never" not in script.text
    assert chat.messages == []


def test_retry_draws_anew(model: Model) -> None:
    script = Script("Hi", "/retry", "/reset", "Hi")
    chat = terminal(model, script, temperature=1.5, seed=1)
    answers = []
    chat._say = answers.append  # type: ignore[method-assign]
    chat.run()
    drawn = [model.chat("Hi", max_new_tokens=6, temperature=1.5, seed=seed) for seed in (1, 2, 2)]
    assert drawn[0] != drawn[1]
    assert drawn[1].split() == script.text.split("> ")[2].removeprefix("/retry\n").split()


class Failing(ChatDecoder):
    """A decoder whose first answers, by their numbers, fail after a piece."""

    fails: tuple[int, ...] = ()
    asked: int = 0

    def stream(self, *args: Any, **kwargs: Any) -> Any:
        pieces = super().stream(*args, **kwargs)
        yield next(pieces)
        self.asked += 1
        if self.asked in self.fails:
            raise DataError("the model gives no finite number")
        yield from pieces


@pytest.mark.parametrize(
    ("fails", "lines"),
    [((1,), ["Hi", "/retry"]), ((2,), ["Hi", "/retry", "/retry"]), ((2, 3), ["Hi", "/retry", "/retry", "/retry"])],
)
def test_a_question_whose_answer_fails_is_not_lost(model: Model, fails: tuple[int, ...], lines: list[str]) -> None:
    script = Script(*lines, "Go on")
    decoder = Failing(model.network, model.tokenizer, model.conversation().template)
    decoder.fails = fails
    chat = ChatTerminal(decoder, {"max_new_tokens": 6}, None, script.read, script.write)
    chat.run()
    assert [turn["content"] for turn in chat.messages if turn["role"] == "user"] == ["Hi", "Go on"]
    assert len(chat.messages) == 4
    assert script.text.count("the model gives no finite number") == len(fails)


def test_a_failed_retry_leaves_the_old_answer(model: Model) -> None:
    script = Script("Hi", "/retry")
    decoder = Failing(model.network, model.tokenizer, model.conversation().template)
    decoder.fails = (2,)
    chat = ChatTerminal(decoder, {"max_new_tokens": 6}, None, script.read, script.write)
    chat.run()
    assert chat.messages == [user("Hi"), assistant(model.chat("Hi", max_new_tokens=6))]


class Interrupting(ChatDecoder):
    """A user who stops the first answer after a piece."""

    stopped = False

    def stream(self, *args: Any, **kwargs: Any) -> Any:
        pieces = super().stream(*args, **kwargs)
        yield next(pieces)
        if not self.stopped:
            self.stopped = True
            raise KeyboardInterrupt
        yield from pieces


def test_ctrl_c_stops_the_answer_alone(model: Model) -> None:
    script = Script("Hi", "Go on")
    decoder = Interrupting(model.network, model.tokenizer, model.conversation().template)
    chat = ChatTerminal(decoder, {"max_new_tokens": 6}, None, script.read, script.write)
    chat.run()
    question, stopped, second, answer = chat.messages
    assert (question, second) == (user("Hi"), user("Go on"))
    assert stopped["content"]
    assert " ... stopped" in script.text
    assert answer["content"] == model.chat([question, stopped, second], max_new_tokens=6)


@pytest.mark.slow
def test_a_real_terminal(model: Model) -> None:
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "pretune", "chat", folder_of(model), "--max-new-tokens", "4", "--precision", "fp32"],
        stdin=child, stdout=child, stderr=child, close_fds=True,
    )  # fmt: skip
    os.close(child)
    text = read_until(parent, lambda text: "> " in text)
    os.write(parent, b"Hi\n")
    text += read_until(parent, lambda text: text.rstrip().endswith(">") and "\n" in text)
    for _ in range(3):  # as Ctrl-C does, where nothing is written; each counts, not the first alone
        process.send_signal(signal.SIGINT)
        text += read_until(parent, lambda text: "Ctrl-D leaves" in text and text.rstrip().endswith(">"))
    os.write(parent, b"Hi\n")
    text += read_until(parent, lambda text: text.rstrip().endswith(">") and "\n" in text)
    os.write(parent, b"\x04")
    text += read_until(parent, lambda _: False)
    assert process.wait(60) == 0
    assert "/help lists the commands" in text


def read_until(terminal: int, is_enough: Callable[[str], bool]) -> str:
    data = b""
    for part in parts_of(terminal):
        data += part
        if is_enough(data.decode(errors="replace")):
            break
    return data.decode(errors="replace")


def parts_of(terminal: int) -> Iterator[bytes]:
    while True:
        try:
            part = os.read(terminal, 4096)
        except OSError:  # the other side is closed
            return
        if not part:
            return
        yield part


def test_what_a_tokenizer_does_not_know_is_no_harm(model: Model) -> None:
    assert chat_tokenizer().encode("你").size == 3
    with pytest.raises(DataError):
        model.chat([])
