"""A classifier that saw the labels of one language alone is right in another that translations aligned with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from trainkit import WORDS

import pretune
from pretune.text.tokenizer.train import TokenizerConfig, train_tokenizer

WORDS_OF_BOTH = {"first": WORDS[:56], "other": [f"q{word}" for word in WORDS[:56]]}
QUIET = {"report": False, "progress": "quiet"}


def text(random: np.random.Generator, topic: int) -> list[int]:
    return random.integers(8 * topic, 8 * topic + 8, 4).tolist()


def write(words: list[int], language: str) -> str:
    return " ".join(WORDS_OF_BOTH[language][n] for n in words)


def labelled(count: int, seed: int, language: str) -> list[dict[str, str]]:
    """Texts of seven topics, of which some are good."""
    random = np.random.default_rng(seed)
    return [
        {"text": write(text(random, n % 7), language), "label": "good" if n % 7 in (0, 2, 5) else "bad"}
        for n in range(count)
    ]


def encoder(folder: Path, translated: bool) -> Path:
    """An encoder from scratch: pairs of translations, or of texts of one topic within each language."""
    random = np.random.default_rng(4)
    pairs: list[dict[str, str]] = []
    for n in range(280):
        words, same = text(random, n % 7), text(random, n % 7)
        language = "first" if n % 2 else "other"
        second = write(words, "other") if translated else write(same, language)
        pairs.append({"text": write(words, "first" if translated else language), "second": second})
    train_tokenizer([t for pair in pairs for t in pair.values()], TokenizerConfig(vocab_size=240)).save(
        folder / "tokenizer"
    )
    contrast: dict[str, Any] = {
        "directions": ["query_to_doc", "doc_to_query", "query_to_query", "doc_to_doc"], "joint": True
    }  # fmt: skip
    pretune.finetune(
        train=pairs,
        model={"size": "tiny", "dropout": 0.0},
        data={"tokenizer": str(folder / "tokenizer"), "columns": {"second": "second"}, "batch": 70},
        task={"similarity": {"loss": {"contrast": contrast}}},
        optimizer={"lr": 2e-3},
        budget={"epochs": 8},
        precision="fp32",
        device="cpu",
        track=QUIET,
        output=str(folder / "run"),
    )
    return folder / "run"


def test_labels_of_one_language_classify_another(tmp_path: Path) -> None:
    def accuracy(translated: bool) -> tuple[float, float]:
        folder = tmp_path / str(translated)
        folder.mkdir()
        classifier = pretune.finetune(
            train=labelled(140, 1, "first"),
            model=str(encoder(folder, translated)),
            task={"classification": {"head": "mean", "fit_head": True}},
            tune="frozen",
            device="cpu",
            precision="fp32",
            track=QUIET,
            output=str(folder / "classifier"),
        )
        scores = [classifier.evaluate(labelled(70, 2, language))["accuracy"] for language in ("first", "other")]
        return scores[0], scores[1]

    known, other = accuracy(translated=True)
    assert min(known, other) > 0.9
    known, other = accuracy(translated=False)
    assert known > 0.9
    assert other < 0.75  # 4 of 7 are bad: without translations the languages have nothing in common
