"""The bound on the words that a trainer is given, and the signals that are heard while it works."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pretune.text.tokenizer import spool
from pretune.text.tokenizer.spool import Bound, TrainProgress
from pretune.text.tokenizer.train import TokenizerConfig, train_tokenizer

TEXTS = ["the cat sat on the mat and the cat ran", "a dog ate the hat of the cat"] * 20


def config(kind: str) -> TokenizerConfig:
    return TokenizerConfig.model_validate({"kind": kind, "vocab_size": 320 if kind == "bpe" else 120})


def test_wordpiece_learns_nothing_from_a_word_that_it_cannot_use() -> None:
    """Of 101 characters, of which WordPiece makes the unknown token; one of 100 is used."""
    over, under = "ab" * 50 + "a", "xy" * 50
    tokenizer = train_tokenizer([*TEXTS, f"the {over} {under}", f"{over}."], config("wordpiece"))
    assert tokenizer.notes == [
        "left out of training: 2 words of more than 100 characters (202 in all), the unknown token in any case"
    ]
    assert tokenizer.backend.encode(over, add_special_tokens=False).tokens == ["[UNK]"]
    assert tokenizer.backend.encode(under, add_special_tokens=False).tokens != ["[UNK]"]
    assert any("xy" in token for token in tokenizer.backend.get_vocab())
    assert not any("ab" in token for token in tokenizer.backend.get_vocab())
    assert train_tokenizer(TEXTS, config("wordpiece")).notes == []


def test_chinese_is_no_long_word_where_its_characters_are_words() -> None:
    text = "我们在这里学习语言模型的训练方法" * 20
    assert train_tokenizer([*TEXTS, text], config("wordpiece")).notes == []


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_elsewhere_words_just_over_the_bound_are_cut(kind: str) -> None:
    notes = train_tokenizer([*TEXTS, "q" * 1001, "z" * 1000], config(kind)).notes
    assert notes == ["cut for training: 1 word of more than 1,000 characters (1,001 in all)"]


def test_cutting_loses_nothing() -> None:
    bound = Bound.of(4, [r"\w"])
    assert list(bound.split("abcdefghi jk lmnop")) == ["abcd", "efgh", "i jk lmno", "p"]
    assert (bound.words, bound.characters) == (2, 14)
    left_out = Bound.of(4, [r"\w"], is_left_out=True)
    assert list(left_out.split("abcdefghi jk lmnop.")) == ["", " jk ", "."]


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
def test_time_does_not_grow_with_the_square_of_a_word(kind: str) -> None:
    """80,000 characters without a space took 4 to 12 s, four times as long as half of them."""
    begin = time.monotonic()
    train_tokenizer([*TEXTS, "abcdefgh" * 40_000, "ab" * 200_000], config(kind))
    assert time.monotonic() - begin < 8


def test_progress_is_reported() -> None:
    reports: list[TrainProgress] = []
    train_tokenizer(TEXTS, config("wordpiece"), reports.append)
    assert reports[0] == TrainProgress(True, len(TEXTS[0]))
    assert not reports[-1].is_reading
    assert reports[-1].bytes == sum(map(len, TEXTS))


def test_a_signal_ends_the_training(tmp_path: Path) -> None:
    """It was deaf to SIGTERM while the trainer worked."""
    code = (
        "import sys, time, tokenizers\n"
        "from pretune.cli import main\n"
        "from pretune.text.tokenizer import spool\n"
        "def slow(backend, texts, trainer):\n"
        "    print('working', flush=True)\n"
        "    time.sleep(60)\n"
        "class Backend:\n"
        "    def train_from_iterator(self, texts, trainer): slow(self, texts, trainer)\n"
        "true = spool.run_trainer\n"
        "from pretune.text.tokenizer import train\n"
        "train.run_trainer = lambda backend, *rest: true(Backend(), *rest)\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    (tmp_path / "text.txt").write_text("\n".join(TEXTS))
    words = ["tokenizer", "train", str(tmp_path / "text.txt"), "--output", str(tmp_path / "tok"), "--vocab-size", "60"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "working\n"
    begin = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, output = process.communicate(timeout=30)
    assert time.monotonic() - begin < 10
    assert process.returncode == 128 + signal.SIGTERM
    assert "terminated" in output
    assert not (tmp_path / "tok").exists()


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
def test_long_texts_train_in_parts_as_they_do_whole(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [
        "the",
        "quick",
        "brown",
        "fox's",
        "jumps,",
        "over",
        "(the)",
        "lazy_dog",
        "and",
        "École",
        "naïve",
        "天地玄黄",
        "12,345",
    ]
    draw = random.Random(0)
    text = "".join(draw.choice(words) + draw.choice([" ", "  ", "\n", " \n", "\t"]) for _ in range(3000))
    settings = TokenizerConfig.model_validate({"kind": kind, "vocab_size": 330})
    monkeypatch.setattr(spool, "_PART", 1 << 30)
    whole = train_tokenizer([text], settings)
    monkeypatch.setattr(spool, "_PART", 100)
    assert len(list(spool._short_parts(text))) > 50
    assert "".join(spool._short_parts(text)) == text
    assert train_tokenizer([text], settings).backend.to_str() == whole.backend.to_str()
