"""Benchmarks against nanoGPT and litgpt, tiny; litgpt's own side is left to the harness, which has it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.benchmark import OURS, Context, Run
from benchmarks.peers import nanogpt
from benchmarks.suite import char_shakespeare, clm, train_step
from benchmarks.suite.char_shakespeare import RECIPE, CharShakespeare, Race
from benchmarks.suite.clm import CausalSteps
from benchmarks.suite.train_step import Shape
from pretune.errors import BenchError

ALPHABET = "".join(map(chr, range(48, 113)))  # 65 characters, as Shakespeare has


class TestCausalSteps:
    @pytest.fixture
    def context(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Context:
        monkeypatch.setattr(CausalSteps, "variants", {"tiny": Shape("gpt2", 1, 64, 3, 16, 1.0, 2)})
        monkeypatch.setattr(train_step, "BATCHES", 3)
        monkeypatch.delenv("PRETUNE_NANOGPT", raising=False)
        return Context("tiny", tmp_path, "fp32", 1)

    def test_same_function_same_tokens(self, context: Context) -> None:
        ours, default, best, *litgpt = CausalSteps().sides(context)
        json.dumps([dict(side.options) for side in (ours, default, best, *litgpt)])  # as they travel
        assert {side.environment for side in litgpt} == {"litgpt"}
        runs = {OURS: [clm.setup(**ours.options)()]}
        runs |= {side.label: [nanogpt.setup(**side.options)()] for side in (default, best)}
        assert len({past[0]["tokens"] for past in runs.values()}) == 1
        assert CausalSteps().check(context, runs)["gap_fp32"] < 1e-6

    def test_other_weights_do_not_count(self, context: Context) -> None:
        ours, default, *_ = CausalSteps().sides(context)
        runs = {OURS: [clm.setup(**ours.options)()]}
        weights = load_file(default.options["model"])
        save_file({name: tensor * 1.5 for name, tensor in weights.items()}, context.folder / "other.safetensors")
        options = dict(default.options) | {"model": str(context.folder / "other.safetensors")}
        runs["other"] = [nanogpt.setup(**options)()]
        with pytest.raises(BenchError, match="first losses differ, the row does not count: loss_fp32"):
            CausalSteps().check(context, runs)

    def test_biases_that_a_peer_lacks_must_be_zero(self, context: Context) -> None:
        _, default, *_ = CausalSteps().sides(context)
        weights = load_file(default.options["model"])
        (name, *_) = [name for name in weights if name.endswith("c_fc.bias")]
        save_file(weights | {name: torch.ones_like(weights[name])}, default.options["model"])
        with pytest.raises(ValueError, match=r"c_fc\.bias is not zero"):
            nanogpt.setup(**default.options)


class TestCharShakespeare:
    @pytest.fixture
    def context(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Context:
        """A text that is learned at once: the alphabet, again and again."""
        (tmp_path / "text.txt").write_text(ALPHABET * 60, encoding="utf-8")
        monkeypatch.setattr(char_shakespeare, "TEXT", "text.txt")
        monkeypatch.setenv("PRETUNE_DATA", str(tmp_path))
        monkeypatch.setattr(char_shakespeare, "RECIPE", {**RECIPE, "budget": {"steps": 30}})
        monkeypatch.setattr(CharShakespeare, "variants", {"tiny": Race(loss=3.5, iterations=4)})
        monkeypatch.delenv("PRETUNE_NANOGPT", raising=False)
        return Context("tiny", tmp_path, "fp32", 1)

    @pytest.fixture
    def runs(self, context: Context) -> dict[str, list[Run]]:
        """Ours gets there, the peer runs its recipe to the end."""
        ours, default, _ = CharShakespeare().sides(context)
        json.dumps([dict(ours.options), dict(default.options)])  # as they travel
        return {
            OURS: [char_shakespeare.setup(**ours.options)()],
            default.label: [nanogpt.recipe(**default.options)()],
        }

    def test_both_are_evaluated_by_the_same_code(self, context: Context, runs: dict[str, list[Run]]) -> None:
        actual: dict[str, Any] = CharShakespeare().check(context, runs)
        peer = next(label for label in runs if label != OURS)
        assert actual[f"loss, {OURS}"][0] <= 3.5
        assert actual[f"steps, {OURS}"][0] < 30
        assert actual[f"steps, {peer}"] == [5]  # `train.py` runs one more than its count
        assert actual[f"loss, {peer}"][0] > 3.5

    def test_a_loss_that_the_weights_do_not_have_is_refused(self, context: Context, runs: dict[str, list[Run]]) -> None:
        for label, past in runs.items():
            messages = runs | {label: [{**past[0], "loss": past[0]["loss"] - 0.01}]}
            with pytest.raises(BenchError, match="its weights cost"):
                CharShakespeare().check(context, messages)

    def test_a_look_far_from_the_target_reads_the_beginning(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(nanogpt, "_EVALUATED", 2)
        net = nanogpt.network({"n_layer": 1, "n_head": 1, "n_embd": 8, "block_size": 4, "vocab_size": 9, "bias": True})
        text = torch.arange(90) % 9
        whole, beginning = nanogpt.evaluate(net, text, 4), nanogpt.evaluate(net, text[:9], 4)
        assert whole != beginning
        assert nanogpt.look(net, text, 4, near=beginning + 0.01) == whole
        assert nanogpt.look(net, text, 4, near=beginning - 0.01) == beginning

    def test_ours_must_get_there(
        self, context: Context, runs: dict[str, list[Run]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(CharShakespeare, "variants", {"tiny": Race(loss=0.5)})
        with pytest.raises(BenchError, match=r"seed 0: ours ended at .*, above 0\.5"):
            CharShakespeare().check(context, runs)
