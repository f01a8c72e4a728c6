"""What the `tokenizers` library raises becomes an error of the house, its panics too."""

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from pretune.cli.session import explain, guard
from pretune.errors import DataError
from pretune.text.tokenizer.library import library_errors, without_panic_text
from pretune.text.tokenizer.spool import run_trainer
from pretune.text.tokenizer.tokenizer import Tokenizer, encode_all
from pretune.text.tokenizer.train import TokenizerConfig, train_tokenizer

PanicException = type("PanicException", (BaseException,), {})
"""As `pyo3_runtime` has it: no `Exception`, and no class that could be imported."""


TEMPLATE = {"type": "TemplateProcessing", "single": [], "pair": [], "special_tokens": {}}


class Panicking:
    """Fails within, as a backend with a defect does."""

    def encode_batch_fast(self, texts: list[str], **options: Any) -> None:
        raise PanicException("index out of bounds\n" + "long list\n" * 20_000)


def test_a_panic_is_one_line_and_65(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError, match=r"^the tokenizer cannot encode text: index out of bounds$"):
        encode_all(Panicking(), ["a"])  # type: ignore[arg-type]

    def fail() -> int:
        raise PanicException("x" * 5000 + "\nsecond line")

    assert guard(fail, debug=False) == 65
    message = capsys.readouterr().err
    assert "a library failed within: xxx" in message
    assert len(message.splitlines()) == 1
    assert len(message) < 400
    assert explain(PanicException())[1] == 65


def test_a_panic_of_a_trainer() -> None:
    class Training:
        def train_from_iterator(self, texts: list[str], trainer: None) -> None:
            raise PanicException("attempt to add with overflow")

    with pytest.raises(DataError, match="cannot train on these texts: attempt to add"):
        run_trainer(Training(), [], None, lambda seconds: None)  # type: ignore[arg-type]


def test_what_is_no_error_of_the_library_passes() -> None:
    for error in (SystemExit(3), KeyboardInterrupt(), TypeError("ours"), GeneratorExit()):
        with pytest.raises(type(error)), library_errors("file"):
            raise error
    with pytest.raises(SystemExit):
        guard(lambda: (_ for _ in ()).throw(SystemExit(3)), debug=False)


def fail(text: bytes, error: BaseException) -> None:
    with without_panic_text():
        os.write(2, text)
        raise error


@pytest.fixture
def no_other_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a verb: what runs tests side by side has threads of its own."""
    monkeypatch.setattr(threading, "enumerate", lambda: [threading.current_thread()])


@pytest.mark.usefixtures("no_other_thread")
def test_only_the_text_of_a_panic_is_dropped(capfd: pytest.CaptureFixture[str]) -> None:
    with without_panic_text():
        os.write(2, b"a warning\n")
    with pytest.raises(ValueError, match="other"):
        fail(b"another\n", ValueError("other"))
    with pytest.raises(PanicException):
        fail(b"thread '<unnamed>' panicked at src/lib.rs:1:2\n", PanicException())
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "a warning\nanother\nafter\n"


@pytest.mark.usefixtures("no_other_thread", "capfd")
def test_a_screen_that_is_gone_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    before = os.dup(2)
    os.dup2(writer, 2)
    try:
        with without_panic_text():
            os.write(2, b"a warning\n")
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(writer)


@pytest.mark.usefixtures("no_other_thread")
@pytest.mark.parametrize("closed", [False, True])
def test_a_tokenizer_is_read_without_standard_error_or_a_temporary_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed: bool
) -> None:
    train_tokenizer(["a b c d e f"] * 20, TokenizerConfig(vocab_size=40)).save(tmp_path)

    def fail(*args: Any, **options: Any) -> None:
        raise FileNotFoundError(2, "No usable temporary directory found")

    if closed:
        monkeypatch.setattr(sys, "stderr", None)
    else:
        monkeypatch.setattr("pretune.text.tokenizer.library.tempfile.TemporaryFile", fail)
    assert Tokenizer.load(tmp_path).decode(Tokenizer.load(tmp_path).encode("a b")) == "a b"


@pytest.mark.usefixtures("no_other_thread")
def test_a_panic_while_a_file_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    train_tokenizer(["a b c d e f"] * 20, TokenizerConfig(vocab_size=40)).save(tmp_path)

    def panic(*args: Any, **options: Any) -> None:
        os.write(2, b"thread '<unnamed>' panicked at src/lib.rs:1:2\n")
        raise PanicException("called `Option::unwrap()` on a `None` value")

    monkeypatch.setattr("pretune.text.tokenizer.reading.add_tokens", panic)
    with pytest.raises(DataError, match="not a tokenizer that the tokenizers library reads: called"):
        Tokenizer.load(tmp_path)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", {"model": {"type": "WordPiece", "vocab": [1, 2]}}),
        ("tokenizer.json", {"model": {"type": "WordPiece", "vocab": {"a": "0"}}}),
        ("tokenizer.json", {"model": {"type": "WordPiece", "vocab": {"a": True}}}),
        ("tokenizer.json", {"model": {"type": "WordPiece", "vocab": {"a": -1}}}),
        ("tokenizer.json", {"model": {"type": "WordPiece"}}),
        ("tokenizer.json", {"model": {"type": 5, "vocab": {}}}),
        ("tokenizer.json", {"model": {"type": "BPE", "vocab": {}, "merges": 7}}),
        ("tokenizer.json", {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a"]}}),
        ("tokenizer.json", {"model": {"type": "Unigram", "vocab": [["a"]]}}),
        ("tokenizer.json", {"model": {"type": "Unigram", "vocab": [["a", "0"]]}}),
        ("tokenizer.json", {"added_tokens": [7]}),
        ("tokenizer.json", {"added_tokens": [{"id": 0, "content": None}]}),
        ("tokenizer.json", {"normalizer": {"type": 5}}),
        ("tokenizer.json", {"normalizer": {"normalizers": []}}),
        ("tokenizer.json", {"normalizer": {"type": "Sequence", "normalizers": None}}),
        ("tokenizer.json", {"normalizer": {"type": "Sequence", "normalizers": [None]}}),
        ("tokenizer.json", {"pre_tokenizer": {"type": "Split", "pattern": "a", "behavior": "Isolated"}}),
        ("tokenizer.json", {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated"}}),
        ("tokenizer.json", {"post_processor": {**TEMPLATE, "single": 1}}),
        ("tokenizer.json", {"post_processor": {**TEMPLATE, "single": [5]}}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"9" * 5000: {"content": "a"}}}),
        ("special_tokens_map.json", {"extra_special_tokens": [[]]}),
    ],
)  # fmt: skip
def test_values_of_other_types_are_named(name: str, content: dict[str, Any], tmp_path: Path) -> None:
    train_tokenizer(["a b c d e f"] * 20, TokenizerConfig(vocab_size=40)).save(tmp_path)
    path = tmp_path / name
    path.write_text(json.dumps(json.loads(path.read_text()) | content))
    with pytest.raises(DataError, match=rf"{name}|tokenizer_config\.json: field 'extra"):
        Tokenizer.load(tmp_path)
    if name == "tokenizer.json":  # by the rules of a class, too
        settings = {"tokenizer_class": "T5Tokenizer" if "Unigram" in json.dumps(content) else "BertTokenizer"}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
        with pytest.raises(DataError, match=name):
            Tokenizer.load(tmp_path)
