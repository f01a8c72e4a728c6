"""The benchmarks themselves, at sizes of a moment: same inputs on both sides, and what would not count is refused."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from safetensors.torch import load_file

from benchmarks.benchmark import OURS, Context
from benchmarks.peers import datasets_map, transformers_decode, transformers_train
from benchmarks.suite import decode, prepare, prepare_memory, train_step
from benchmarks.suite.decode import Decode, Work
from benchmarks.suite.prepare import Prepare
from benchmarks.suite.train_step import Shape, TrainStep
from pretune import native
from pretune.errors import BenchError

WORDS = ("the", "quick", "foxes", "jump", "over", "lazy", "dogs,", "don't", "you", "think?")
SHAPES = {
    "mlm": Shape("bert", 1, 64, 4, 24, 0.6, 2),
    "clm": Shape("gpt2", 1, 64, 3, 16, 1.0, 2),
}


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Context:
    """A training benchmark of two tiny models and few batches."""
    monkeypatch.setattr(TrainStep, "variants", SHAPES)
    monkeypatch.setattr(train_step, "BATCHES", 3)
    return Context("mlm", tmp_path, "fp32", 1)


class TestTrainStep:
    @pytest.mark.parametrize("variant", SHAPES)
    def test_both_sides_train_the_same(self, small: Context, variant: str) -> None:
        context, benchmark = replace(small, variant=variant), TrainStep()
        ours, default, *best = benchmark.sides(context)
        json.dumps([dict(side.options) for side in (ours, default, *best)])  # as they travel
        runs = {OURS: [train_step.setup(**ours.options)()]}
        for side in (default, *best):
            runs[side.label] = [transformers_train.setup(**side.options)()]
        assert benchmark.check(context, runs)["gap_fp32"] < 1e-5
        assert {past[0]["tokens"] for past in runs.values()} == {runs[OURS][0]["tokens"]}
        limits = {"GEMM": [1e9]}
        facts = benchmark.facts(context, [runs[OURS][0] | {"seconds": 1.0, "flops": 4e8}], limits)
        assert facts == {"gemm_utilization": 0.4, "gemm_peak_gflops": [1]}
        assert benchmark.notes(facts)[0].startswith("40% of the best matmul")

    def test_settings_of_the_peer(self, small: Context) -> None:
        _, default, *best = TrainStep().sides(replace(small, precision="bf16"))
        assert [side.setting for side in (default, *best)] == ["default", "best", "best"]
        assert [side.options["precision"] for side in (default, *best)] == ["fp32", "bf16", "bf16"]
        assert [side.options["padding"] for side in (default, *best)] == ["fixed", "longest", "longest"]
        dropout = [side.options["overrides"]["attention_probs_dropout_prob"] for side in (default, *best)]
        assert dropout == [0.1, 0.1, 0.0]
        assert {side.environment for side in (default, *best)} == {"transformers"}
        wanted = TrainStep().search(replace(small, precision="bf16"))
        assert wanted.start == default
        assert all(axis == "allocator" or axis in default.options for axis in wanted.axes)

    def test_padding_changes_nothing_but_the_shape(self, small: Context, tmp_path: Path) -> None:
        options = dict(TrainStep().sides(small)[2].options) | {"length": 40}
        losses = {}
        for padding in ("longest", "fixed"):
            batches, _ = transformers_train.read(options["inputs"], 40 if padding == "fixed" else 0, True)
            network = transformers_train.load("mlm", options["model"], "sdpa", {}).eval()
            losses[padding] = transformers_train.first_loss(network, batches[0], "fp32")
            assert batches[0]["input_ids"].shape == (4, 40 if padding == "fixed" else 24)
        assert losses["fixed"] == pytest.approx(losses["longest"], rel=1e-5)

    @pytest.mark.parametrize("variant", SHAPES)
    def test_inputs_are_our_batches(self, small: Context, variant: str, tmp_path: Path) -> None:
        shape = SHAPES[variant]
        train_step.write_padded(shape, tmp_path / "inputs.safetensors")
        tensors = load_file(tmp_path / "inputs.safetensors")
        _, batches = train_step.batches_of(shape)
        assert tensors["tokens"].tolist() == [batch.layout.total for batch in batches]
        shift = variant == "clm"
        for number, batch in enumerate(batches):
            ids, labels = tensors[f"{number:03d}.input_ids"], tensors[f"{number:03d}.labels"]
            real = tensors[f"{number:03d}.attention_mask"].bool()
            inputs = real.clone()
            if shift:  # the last token is no input of ours, only a target
                inputs[:, -1] = False
            assert torch.equal(ids[inputs], batch.tokens)
            ((index, label),) = batch.targets.values()
            places = labels[real] if not shift else labels[:, 1:][real[:, 1:]]
            assert torch.equal((places != -100).nonzero()[:, 0], index)
            assert torch.equal(places[index], label)

    @pytest.mark.parametrize(
        ("loss", "gap", "fine"),
        [
            ("loss_fp32", 0.9e-4, True), ("loss_fp32", 1.1e-4, False), ("loss_fp32", float("nan"), False),
            ("loss_bf16", 1.9e-2, True), ("loss_bf16", 2.1e-2, False), ("loss_bf16", -2.1e-2, False),
        ],
    )  # fmt: skip
    def test_unequal_first_losses_are_refused(self, small: Context, loss: str, gap: float, fine: bool) -> None:
        ours = {"loss_fp32": 10.0, "loss_bf16": 10.0}
        runs = {OURS: [ours], "near": [ours], "far": [{loss: 10.0 + gap}]}
        if fine:
            assert TrainStep().check(small, runs)[loss.replace("loss", "gap")] > 0
        else:
            with pytest.raises(BenchError, match=f"first losses differ, the row does not count: {loss}"):
                TrainStep().check(small, runs)

    def test_lengths(self) -> None:
        shape = TrainStep.variants["mlm-mini-ragged"]
        drawn = [shape.lengths(seed) for seed in range(50)]
        assert all(max(lengths) == 128 and lengths == sorted(lengths) for lengths in drawn)
        assert sum(map(sum, drawn)) / sum(map(len, drawn)) / 128 == pytest.approx(0.53, abs=0.03)
        assert asdict(shape) == asdict(Shape(**json.loads(json.dumps(asdict(shape)))))


class TestDecode:
    @pytest.fixture
    def context(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Context:
        monkeypatch.setattr(decode, "VOCABULARY", 2048)
        monkeypatch.setattr(decode, "write_model", partial(decode.write_model, size="tiny"))
        monkeypatch.setattr(
            Decode,
            "variants",
            {
                "tiny": Work(8, 6),
                "rounded": Work(8, 6, prompts=2, format="q8_0"),
                "steps": Work(8, 6, steps=3),
                "guesses": Work(8, 6, guesses=True),
                "torch": Work(8, 6, format="q4_0", kernels=False),
                "beams": Work(8, 6, beams=4, format="fp32"),
            },
        )
        return Context("tiny", tmp_path, "bf16", 1)

    def test_rounded_weights_and_several_prompts(self, context: Context) -> None:
        ours, each, *others = Decode().sides(replace(context, variant="rounded"))
        assert decode.setup(**ours.options)()["tokens"] == decode.one_by_one(**each.options)()["tokens"] == 12
        assert [side.name for side in others] == ["transformers bf16", "llama.cpp Q8_0", "ctranslate2 int8"]
        weights = decode.weight_bytes(context.folder / "model", "bf16")
        assert decode.weight_bytes(context.folder / "model", "q8_0") == pytest.approx(8.5 / 16 * weights)

    def test_guesses_are_made_by_both_sides_or_none(self, context: Context) -> None:
        for variant, asked in (("tiny", None), ("guesses", 10)):
            ours, theirs, *engines = Decode().sides(replace(context, variant=variant))
            assert ours.options["guesses"] == (asked is not None)
            assert theirs.options.get("guesses") == asked
            assert bool(engines) == (asked is None)

    def test_without_kernels(self, context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PRETUNE_NATIVE", "1")
        ours, *others = Decode().sides(replace(context, variant="torch"))
        assert [side.name for side in others] == ["transformers bf16"]
        native.reload()
        try:
            assert decode.setup(**ours.options)()["tokens"] == 6
            assert not native.available()
        finally:
            monkeypatch.undo()
            native.reload()

    def test_steps_alone(self, context: Context) -> None:
        sides = Decode().sides(replace(context, variant="steps"))
        assert [side.options["prompt"] for side in sides] == [Work(8, 6).tokens()[0], Work(8, 6).tokens()[0][:3]]
        assert [decode.steps(**side.options)()["tokens"] for side in sides] == [6, 6]

    def test_beams_write_the_peers_text(self, context: Context) -> None:
        context = replace(context, variant="beams")
        ours, theirs = Decode().sides(context)
        runs = {OURS: [decode.setup(**ours.options)()], "peer": [transformers_decode.setup(**theirs.options)()]}
        assert Decode().check(context, runs) == {"same_text": True}
        assert len(runs[OURS][0]["chosen"]) == 6
        runs[OURS][0]["chosen"][3] ^= 1
        with pytest.raises(BenchError, match="another text than the peer's"):
            Decode().check(context, runs)

    def test_both_sides_decode(self, context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
        ours, theirs, *_ = Decode().sides(context)
        runs = {OURS: [decode.setup(**ours.options)()], "peer": [transformers_decode.setup(**theirs.options)()]}
        assert [past[0]["tokens"] for past in runs.values()] == [6, 6]

        def once(side: Any, threads: int) -> dict[str, float]:
            assert (side.function, side.environment) == ("margin", "transformers")
            return transformers_decode.margin(**side.options)()

        monkeypatch.setattr(decode, "once", once)
        assert Decode().check(context, runs)["margin"] < decode.MARGIN
        runs[OURS][0]["chosen"][3] ^= 1
        with pytest.raises(BenchError, match="below the best fp32 logit"):
            Decode().check(context, runs)


class TestPrepare:
    @pytest.fixture
    def context(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Context:
        def write_source(path: Path) -> Path:
            lines = ["".join(f"{word}{n * m % 97} " for m, word in enumerate(WORDS * 20)) for n in range(100)]
            path.write_text("".join(json.dumps({"text": f"{n} {line}"}) + "\n" for n, line in enumerate(lines)))
            return path

        monkeypatch.setattr(prepare, "write_source", write_source)
        monkeypatch.setattr(prepare, "VOCABULARY", 300)
        return Context("bpe", tmp_path, "fp32", 1)

    @pytest.mark.parametrize("variant", Prepare.variants)
    def test_ours_tells_what_the_tokenizer_makes(self, context: Context, variant: str) -> None:
        ours, *_ = Prepare().sides(replace(context, variant=variant))
        backend = tokenizers.Tokenizer.from_file(f"{ours.options['tokenizer']}/tokenizer.json")
        texts = [json.loads(line)["text"] for line in Path(ours.options["source"]).read_text().splitlines()]
        ids = [n for actual in backend.encode_batch(texts, add_special_tokens=False) for n in actual.ids]
        run = prepare.setup(**ours.options)()
        assert (run["tokens"], run["id_sum"]) == (len(ids), sum(ids))

    @pytest.mark.parametrize("variant", Prepare.variants)
    def test_both_sides_make_the_same_tokens(self, context: Context, variant: str) -> None:
        pytest.importorskip("datasets")
        ours, *theirs = Prepare().sides(replace(context, variant=variant))
        runs = {OURS: [prepare.setup(**ours.options)()]}
        for side in theirs:
            runs[side.label] = [datasets_map.setup(**side.options)()]
        assert Prepare().check(context, runs)["tokens"] > 10_000
        assert {past[0]["megabytes"] for past in runs.values()} == {runs[OURS][0]["megabytes"]}

    def test_other_tokens_do_not_count(self, context: Context) -> None:
        same = {"tokens": 5, "id_sum": 9}
        assert Prepare().check(context, {OURS: [same], "x": [same]}) == {"tokens": 5}
        for other in ({"tokens": 6, "id_sum": 9}, {"tokens": 5, "id_sum": 8}):
            with pytest.raises(BenchError, match="different tokens"):
                Prepare().check(context, {OURS: [same], "x": [other]})

    def test_memory_is_measured_alone(self, context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(prepare_memory.PrepareMemory, "variants", {"1MB": 1})
        monkeypatch.setattr(prepare_memory, "SAMPLE", 1)
        (ours,) = prepare_memory.PrepareMemory().sides(replace(context, variant="1MB"))
        assert 1e6 < Path(ours.options["source"]).stat().st_size < 2.3e6
        assert ours.script.stem == "prepare_memory"
