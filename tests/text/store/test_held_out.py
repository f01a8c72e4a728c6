"""Of a small corpus enough is held out: 32 documents of 1,124 tokens gave a validation loss of noise."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tinymodels import byte_tokenizer

from pretune.text.store import held_out
from pretune.text.store.held_out import FRACTION, RANKS, HeldOut
from pretune.text.store.prepare import PrepareConfig, prepare
from pretune.text.tokenizer.tokenizer import Tokenizer


@dataclass
class Batch:
    sizes: list[int] = field(default_factory=list)
    ranks: list[int] = field(default_factory=list)


def corpus(documents: int, size: int, of_batch: int = 64) -> list[Batch]:
    ranks = [int.from_bytes(hashlib.sha256(b"%d" % n).digest()[:8], "little") for n in range(documents)]
    parts = [ranks[n : n + of_batch] for n in range(0, documents, of_batch)]
    return [Batch([size] * len(part), part) for part in parts]


def count(batches: list[Batch], fraction: float | None = None) -> int:
    decided = HeldOut(fraction)
    handed_on = list(decided.look_ahead(iter(batches)))
    assert handed_on == batches
    return sum(rank < decided.limit for batch in batches for rank in batch.ranks)


@pytest.mark.parametrize(
    ("documents", "size", "expected"),
    [
        (3000, 1000, 100),  # 1% would be 30
        (3000, 200, 300),  # 100 documents are 20,000 bytes, and a tenth is all that may be taken
        (500, 1000, 50),
        (30, 1000, 3),
        (5, 1000, 0),
        (1, 10, 0),
    ],
)
def test_a_small_corpus_has_a_floor_and_trains_on_nine_tenths(documents: int, size: int, expected: int) -> None:
    assert count(corpus(documents, size)) == expected
    assert abs(count(corpus(documents, size), FRACTION) - 0.01 * documents) <= 20, "a fraction that is named is obeyed"


def test_one_long_document_is_not_all_that_is_held_out() -> None:
    batches = [*corpus(2000, 100), Batch([10_000_000], [5])]
    assert HeldOut(None).limit == int(FRACTION * RANKS)
    decided = HeldOut(None)
    list(decided.look_ahead(batches))
    assert decided.limit == int(FRACTION * RANKS)


def test_a_large_corpus_is_not_held_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_out, "SMALL", 100_000)
    batches, drawn = corpus(1000, 1000), 0

    def counting() -> object:
        nonlocal drawn
        for batch in batches:
            drawn += 1
            yield batch

    decided = HeldOut(None)
    next(decided.look_ahead(counting()))  # type: ignore[arg-type]
    assert drawn == 2
    assert decided.limit == int(FRACTION * RANKS)


def test_a_store_says_by_which_rule_it_was_divided(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n\n".join(f"text {n}" for n in range(300)), encoding="utf-8")
    tokenizer: Tokenizer = byte_tokenizer()
    store = prepare(tmp_path / "a.txt", tokenizer, tmp_path / "store", PrepareConfig(processes=1))
    assert 25 <= store.split("validation").document_count <= 30
    assert store.manifest.config["validation"] == "auto"
    again = prepare(tmp_path / "a.txt", tokenizer, tmp_path / "store", PrepareConfig(processes=2))
    assert again.fingerprint == store.fingerprint


def test_more_is_not_to_be_held_out_than_was(tmp_path: Path) -> None:
    """A store of `--validation 0.5` was told to hold 0.2 out."""
    (tmp_path / "a.txt").write_text("\n\n".join(f"text {n}" for n in range(40)), encoding="utf-8")
    for fraction, remedy in ((0.5, "add text"), (0.1, "add text, or hold more out with prepare --validation 0.2")):
        config = PrepareConfig(processes=1, validation=fraction)
        store = prepare(tmp_path / "a.txt", byte_tokenizer(), tmp_path / str(fraction), config)
        (warning,) = held_out.few_held_out(store)
        assert warning.endswith(f"says little; {remedy}")
