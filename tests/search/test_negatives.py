"""Mined negatives: those of a plain search, without partners, copies of them, and what may belong to the text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from numpy.typing import NDArray
from tinymodels import save_bert, word_tokenizer

from pretune.cli import main
from pretune.errors import DataError
from pretune.search.nearest import nearest
from pretune.search.negatives import MinedPair, MiningConfig, MiningStats, mine_negatives

RANDOM = np.random.default_rng(5)
FIRSTS = [f"q{n % 20}" for n in range(30)]
PAIRS = [(first, f"d{n % 26}") for n, first in enumerate(FIRSTS)]
CORPUS = [f"c{n}" for n in range(40)] + ["q3"]
VECTORS = {text: RANDOM.normal(size=4).astype(np.float32) for text in [*FIRSTS, *(d for _, d in PAIRS), *CORPUS]}
VECTORS["c1"] = VECTORS["d4"] * 2 + 1e-3  # a copy of d4, longer


def embed(texts: Sequence[str]) -> NDArray[np.float32]:
    return np.stack([VECTORS[text] for text in texts])


def cosine(first: str, second: str) -> float:
    a, b = VECTORS[first], VECTORS[second]
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def mine(**fields: Any) -> tuple[list[MinedPair], MiningStats]:
    stats = MiningStats()
    return mine_negatives(PAIRS, CORPUS, embed, MiningConfig(**fields), stats), stats


def slowly(config: MiningConfig, first: str, second: str) -> list[str]:
    """All texts that may be negatives of a pair, nearest first."""
    own = {d for q, d in PAIRS if q == first}
    texts = dict.fromkeys([*(d for _, d in PAIRS), *CORPUS])
    ranked = sorted((t for t in texts if t not in own and t != first), key=lambda text: -cosine(first, text))
    out = []
    for text in ranked[: config.depth][config.skip :]:
        if any(cosine(text, partner) >= config.duplicate for partner in own):
            continue
        score, limit = cosine(first, text), cosine(first, second)
        if config.ratio is not None and score > (limit * config.ratio if limit > 0 else limit):
            continue
        if config.margin is not None and score > limit - config.margin:
            continue
        if config.max_score is None or score <= config.max_score:
            out.append(text)
    return out


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"negatives": 3, "skip": 2, "depth": 9, "ratio": None},
        {"ratio": None, "margin": 0.2},
        {"ratio": 0.5, "max_score": 0.3, "negatives": 50},
        {"ratio": None, "duplicate": 0.8},
        {"ratio": None, "duplicate": 1.01},
    ],
)
def test_negatives_are_those_of_a_slow_search(fields: dict[str, Any]) -> None:
    mined, stats = mine(**fields)
    config = MiningConfig(**fields)
    for (first, second), pair in zip(PAIRS, mined, strict=True):
        assert pair.negatives == slowly(config, first, second)[: config.negatives]
        expected = [cosine(first, text) for text in [second, *pair.negatives]]
        np.testing.assert_allclose(pair.cosines, expected, atol=1e-5)
    assert stats.found == sum(len(pair.negatives) for pair in mined) > 0
    assert (stats.pairs, stats.texts) == (30, 26 + 41)
    assert stats.without == sum(not pair.negatives for pair in mined)


def test_some_are_drawn_by_key() -> None:
    fields: dict[str, Any] = {"ratio": None, "negatives": 3, "depth": 20}
    first, _ = mine(sample="random", seed=1, **fields)
    assert first == mine(sample="random", seed=1, **fields)[0] != mine(sample="random", seed=2, **fields)[0]
    for (query, second), pair in zip(PAIRS, first, strict=True):
        allowed = slowly(MiningConfig(**fields), query, second)
        assert [text for text in allowed if text in pair.negatives] == pair.negatives
        assert len(pair.negatives) == 3
    assert any(pair.negatives != slowly(MiningConfig(**fields), *PAIRS[pair.number])[:3] for pair in first)


def test_random_ones_stand_beside_hard_ones() -> None:
    mined, _ = mine(negatives=2, random=4)
    for (first, second), pair in zip(PAIRS, mined, strict=True):
        assert len(set(pair.negatives)) == len(pair.negatives) >= 4
        assert not {second, first} & set(pair.negatives)
    everything, _ = mine(negatives=0, random=1000)
    for (first, _), pair in zip(PAIRS, everything, strict=True):
        own = {d for q, d in PAIRS if q == first} | {first}
        assert set(pair.negatives) == {*(d for _, d in PAIRS), *CORPUS} - own


@pytest.mark.parametrize("count", [1, 7, 50, 90])
def test_nearest_vectors_with_ties(count: int) -> None:
    vectors = RANDOM.integers(-2, 3, size=(50, 3)).astype(np.float32)
    queries = RANDOM.integers(-2, 3, size=(40, 3)).astype(np.float32)
    index, scores = nearest(queries, vectors, count)
    expected = np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :count]
    np.testing.assert_array_equal(index, expected)
    np.testing.assert_array_equal(scores, np.take_along_axis(queries @ vectors.T, expected, axis=1))


def test_what_cannot_be_mined() -> None:
    with pytest.raises(DataError, match="no pairs"):
        mine_negatives([], [], embed, MiningConfig())
    with pytest.raises(DataError, match="all pairs have the same second text 'd1'; name further texts"):
        mine_negatives([("q1", "d1"), ("q2", "d1")], [], embed, MiningConfig())
    with pytest.raises(DataError, match=r"the vector of text 2 of 3 is not finite"):
        mine_negatives(
            [("q1", "d1"), ("q2", "d2")], ["d3"], lambda t: np.array([[1.0], [np.nan], [1]])[: len(t)], MiningConfig()
        )
    for fields, message in (({"skip": 9, "depth": 9}, "skip 9 leaves nothing"), ({"negatives": 0}, "mine nothing")):
        with pytest.raises(ValueError, match=message):
            MiningConfig(**fields)


def test_the_verb_writes_what_fine_tuning_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_bert(tmp_path / "bert", word_tokenizer())
    words = ["quick", "brown", "fox", "jumps", "over", "lazy", "dog", "cat", "hat", "model"]
    rows = [{"id": n, "text": f"the {word}", "second": f"a {word} {words[n - 1]}"} for n, word in enumerate(words)]
    path, out = tmp_path / "pairs.jsonl", tmp_path / "hard.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    common = ["mine", str(tmp_path / "bert"), str(path), "--output", str(out), "--device", "cpu"]
    assert main([*common, "--negatives", "2", "--ratio", "1", "--random", "1"]) == 0
    shown = capsys.readouterr().err
    assert "hard negatives, mean cosine" in shown
    assert "--second second --third negatives" in shown
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["id"] for line in lines] == list(range(10))
    for line, row in zip(lines, rows, strict=True):
        assert line["text"] == row["text"]
        assert row["second"] not in line["negatives"]
        assert len(line["cosines"]) == len(line["negatives"]) + 1
    scored = ["--output", str(tmp_path / "scored.jsonl"), "--scorer", str(tmp_path / "scorer")]
    save_bert(tmp_path / "scorer", word_tokenizer(), transformers.BertForSequenceClassification, ["one"])
    assert main([*common[:3], *scored, "--device", "cpu", "--ratio", "1"]) == 0
    for row in map(json.loads, (tmp_path / "scored.jsonl").read_text().splitlines()):
        assert len(row["scores"]) == len(row["negatives"]) + 1
    save_bert(tmp_path / "classifier", word_tokenizer(), transformers.BertForSequenceClassification, ["yes", "no"])
    assert main([*common[:3], *scored[:1], str(tmp_path / "x.jsonl"), "--scorer", str(tmp_path / "classifier")]) == 64
    assert "gives a pair of texts no score" in capsys.readouterr().err
    assert main([*common[:2], str(out), "--output", str(tmp_path / "again.jsonl")]) == 65
    assert "has a column 'negatives', which mine writes" in capsys.readouterr().err
    assert main([*common, "--negatives", "many"]) != 0
    assert main([*common[:4], str(tmp_path / "hard.csv")]) == 64
    assert "a table has no place for lists of negatives" in capsys.readouterr().err


def test_a_file_of_another_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pairs.csv").write_text("text,second\na cat,\n")
    code = main(["mine", "nowhere", str(tmp_path / "pairs.csv"), "--output", str(tmp_path / "x.jsonl")])
    assert code == 65
    assert "pairs.csv:2: field 'second' = '' is empty" in capsys.readouterr().err


def test_second_texts_may_stand_in_a_column_that_is_called_label(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Labels are not read; that column ended in a traceback."""
    save_bert(tmp_path / "bert", word_tokenizer())
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps({"text": "the fox", "label": text}) + "\n" for text in ("a dog", "a lazy dog")))
    words = [
        "mine",
        str(tmp_path / "bert"),
        str(path),
        "--quiet",
        "--ratio",
        "1",
        "--duplicate",
        "1.01",
        "--random",
        "1",
    ]
    assert main([*words, "--second", "text", "--output", str(tmp_path / "x.jsonl")]) == 64
    assert "text and second are both 'text'" in capsys.readouterr().err
    path.write_text(
        "".join(json.dumps({"text": a, "label": b}) + "\n" for a, b in (("fox", "a dog"), ("dog", "a fox")))
    )
    assert main([*words, "--second", "label", "--output", str(tmp_path / "x.jsonl")]) == 0
