"""A planned step computes what the model computes, in every family, and what has no kernels is told."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from programinterpreter import Interpreter
from torch import nn

from pretune import native
from pretune.batch import Batch, Layout, ragged
from pretune.models import build
from pretune.models.encoder_decoder import EncoderDecoder
from pretune.models.fuse import fuse
from pretune.models.model import LanguageModel
from pretune.models.native_bricks import UnplannedError
from pretune.models.native_step import plan_step
from pretune.native.cache import PagedCache
from pretune.native.program import Multiply
from pretune.nn.block import ParallelBlock
from pretune.nn.cast import cast_to_bf16
from pretune.nn.feedforward import FeedForward
from pretune.nn.formats.format import InputRounding, find_format
from pretune.nn.low_rank import LowRankProjection
from pretune.nn.projection import Projection
from pretune.nn.rotary import PartialRotary
from pretune.nn.rounded import RoundedProjection, RoundedVocabulary
from pretune.nn.structure import SlidingWindow
from pretune.nn.tuned import TunedProjection
from pretune.runtime.device import inference_context

_LLAMA = {"vocab_size": 50, "max_position_embeddings": 64, "num_key_value_heads": 1}
_BART = {"vocab_size": 50, "max_position_embeddings": 64, "decoder_attention_heads": 4}
_YARN = {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0, "original_max_position_embeddings": 16}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt": ("gpt", {"vocab_size": 50, "n_positions": 64}),
    "gpt2": ("gpt2", {"vocab_size": 50, "n_positions": 64, "scale_attn_by_inverse_layer_idx": True}),
    "gpt3": (
        "gpt3",
        {
            "vocab_size": 50,
            "max_position_embeddings": 64,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 5,
        },
    ),
    "llama": ("llama", _LLAMA | {"rope_parameters": _YARN}),
    "qwen2": ("qwen2", _LLAMA | {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}),
    "qwen3": ("qwen3", _LLAMA | {"head_dim": 32}),
    "bart": ("bart", _BART | {"scale_embedding": True}),
    "marian": ("marian", _BART | {"activation_function": "relu"}),
    "t5": ("t5", {"vocab_size": 50, "relative_attention_max_distance": 20, "relative_attention_num_buckets": 8}),
    "t5 gated": ("t5", {"vocab_size": 50, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
}


def make(name: str) -> LanguageModel:
    family, fields = CASES[name]
    torch.manual_seed(0)
    model = build(family, "tiny", ["clm"], fields).eval()
    for parameter in model.parameters():  # so that no bias and no norm is what it is by default
        parameter.data += 0.2 * torch.randn_like(parameter) * (parameter.abs().mean() + 0.1)
    return model


def runs(seed: int, lengths: tuple[int, ...]) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(2, 50, size=n).tolist() for n in lengths]


def expected(model: LanguageModel, texts: list[list[int]], sources: list[list[int]], half: bool) -> list[torch.Tensor]:
    """Scores of every token by the model's own forward, one text after another."""
    out = []
    for text, source in zip(texts, sources, strict=True):
        batch = ragged([text])
        if model.has_encoder:
            batch = Batch(batch.tokens, batch.layout, source=ragged([source]))
        with inference_context(torch.device("cpu"), half):
            out.append(model.heads["clm"](model(batch).last_hidden_state).float())
    return out


def write_cross(model: LanguageModel, cross: PagedCache, source: list[int], half: bool) -> int:
    """The keys and values of an encoder's output."""
    assert isinstance(model, EncoderDecoder)
    slot = cross.admit()
    with inference_context(torch.device("cpu"), half):
        encoded = model.encoder(ragged([source]))
        cross.reserve(slot, len(source))
        for layer, block in enumerate(model.stack.in_order):
            keys, values, _ = block.cross.project_keys(encoded)
            cross.write(slot, layer, keys.float(), values.float())
    cross.lengths[slot] = len(source)
    return slot


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", CASES)
def test_a_program_gives_the_scores_of_the_model(name: str, half: bool) -> None:
    model = make(name)
    if half:
        cast_to_bf16(model)
    texts, sources = runs(0, (30, 9, 1)), runs(1, (7, 3, 11))
    program = plan_step(fuse(model), fuse(model).heads["clm"])
    machine, cache = Interpreter(program), PagedCache(program.cache)
    slots = [cache.admit() for _ in texts]
    cross = None
    if program.cross is not None:
        cross = PagedCache(program.cross)
        assert [write_cross(model, cross, source, half) for source in sources] == slots
    wanted = expected(model, texts, sources, half)
    got: list[list[torch.Tensor]] = [[], [], []]
    for start, stop in ((0, 9), (9, 10), (10, 30)):  # a prompt, a token, several tokens
        parts = [text[start:stop] for text in texts]
        rows = [slots[n] for n, part in enumerate(parts) for _ in part]
        every = [token for part in parts for token in part]
        result = machine.run(cache, every, rows, wanted=range(len(rows)), cross=cross)
        assert result.scores is not None
        for n, scores in zip(rows, result.scores, strict=True):
            got[n].append(scores)
    for own, want in zip(got, wanted, strict=True):
        scale = float(want.abs().max())
        tolerance = 1e-5 if not half else 2e-2
        torch.testing.assert_close(torch.stack(own), want, atol=tolerance * scale, rtol=tolerance)
    assert cache.lengths == [30, 9, 1]


@pytest.mark.parametrize(
    ("name", "inputs"), [("bf16", "exact"), *product(["int8", "q8_0", "q4_0"], ["exact", "int8", "int7"])]
)
def test_packed_matrices_are_planned_as_they_are(name: str, inputs: InputRounding) -> None:
    model, form = make("qwen2"), find_format(name)
    for block in model.stack.blocks:
        for owner in (block.attention, block.feedforward):
            for place, brick in list(owner.named_children()):
                if isinstance(brick, Projection):
                    setattr(owner, place, RoundedProjection.of(form, *brick.dense(), inputs))
    rounded = RoundedVocabulary.of(form, model.embedding.word.dense(), inputs)
    model.embedding.word = rounded
    model.heads["clm"].tie(rounded)
    (text,) = runs(0, (12,))
    program = plan_step(fuse(model), fuse(model).heads["clm"])
    assert {o.matrix.format for o in program.operations if hasattr(o, "matrix")} == {name}
    cache = PagedCache(program.cache)
    result = Interpreter(program).run(cache, text, [cache.admit()] * 12, wanted=range(12))
    (want,) = expected(model, [text], [[]], False)
    tolerance = 2e-5 if inputs == "exact" else 2e-2  # what is nearly halfway is rounded to either side
    torch.testing.assert_close(result.scores, want, atol=tolerance * float(want.abs().max()), rtol=tolerance)


def test_a_vocabulary_that_is_larger_than_the_tokenizer_has_no_scores_beyond() -> None:
    model = make("gpt2")
    program = plan_step(model, model.heads["clm"], vocabulary=45)
    cache = PagedCache(program.cache)
    result = Interpreter(program).run(cache, [3], [cache.admit()], wanted=[0])
    assert result.scores is not None
    assert result.scores.shape == (1, 45)


@pytest.mark.skipif(not native.available(), reason="kernels")
@pytest.mark.parametrize("name", ["fp32", "bf16", "int8", "q8_0"])
def test_a_vocabulary_that_is_read_twice_is_packed_once(name: str) -> None:
    model = make("gpt2")
    if name in ("int8", "q8_0"):
        rounded = RoundedVocabulary.of(find_format(name), model.embedding.word.dense())
        model.embedding.word = rounded
        model.heads["clm"].tie(rounded)
    elif name == "bf16":
        cast_to_bf16(model)
    scores = []
    for vocabulary in (50, 45):
        program = plan_step(model, model.heads["clm"], vocabulary)
        executor, cache = native.Executor(program), PagedCache(program.cache)
        scores.append(executor.run(cache, [3, 49], [cache.admit()] * 2, wanted=[0, 1]).scores)
        matrices = {id(kept) for kept in executor._kept if isinstance(kept, native.PackedMatrix)}
        assert len(matrices) == 1 + sum(isinstance(operation, Multiply) for operation in program.operations)
    assert torch.equal(scores[0][:, :45], scores[1])


def test_a_users_family_of_known_bricks_is_planned() -> None:
    """Branches beside each other, heads that rotate in part: as GPT-NeoX."""
    model = make("llama")
    for n, block in enumerate(model.stack.blocks):
        block.attention.rotary = PartialRotary(16, 100.0)
        torch.manual_seed(n)
        feedforward = FeedForward(128, 96, torch.sigmoid)
        norms = block.norms
        if n:
            norms.before_feedforward = norms.before_attention
        model.stack.blocks[n] = ParallelBlock(block.attention, feedforward, norms)
    (text,) = runs(0, (12,))
    program = plan_step(model, model.heads["clm"])
    assert len(program.rotations) == 1
    cache = PagedCache(program.cache)
    result = Interpreter(program).run(cache, text, [cache.admit()] * 12, wanted=range(12))
    (want,) = expected(model, [text], [[]], False)
    torch.testing.assert_close(result.scores, want, atol=1e-5 * float(want.abs().max()), rtol=1e-5)


def test_a_linear_change_is_merged_and_any_other_is_told() -> None:
    model = make("gpt2")
    change = LowRankProjection(model.stack.blocks[0].attention.value, 2, 2.0)
    change.b.data.normal_()
    change.a.data.normal_()
    model.stack.blocks[0].attention.value = change
    (text,) = runs(0, (5,))
    program = plan_step(fuse(model), model.heads["clm"])
    cache = PagedCache(program.cache)
    result = Interpreter(program).run(cache, text, [cache.admit()] * 5, wanted=range(5))
    (want,) = expected(model, [text], [[]], False)
    torch.testing.assert_close(result.scores, want, atol=1e-5 * float(want.abs().max()), rtol=1e-5)
    model.stack.blocks[0].attention.value = TunedProjection(change)
    with pytest.raises(UnplannedError, match="layer 0: TunedProjection is not linear"):
        plan_step(model, model.heads["clm"])


class Doubled(Projection):
    def forward(self, x: torch.Tensor, layout: Layout | None = None) -> torch.Tensor:
        return 2 * super().forward(x)


def _set(path: str, value: Callable[[], object]) -> Callable[[LanguageModel], None]:
    def change(model: LanguageModel) -> None:
        *owners, last = path.split(".")
        owner: Any = model
        for name in owners:
            owner = owner[int(name)] if name.isdigit() else getattr(owner, name)
        setattr(owner, last, value())

    return change


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("gpt2", _set("stack.blocks.1.attention.query", lambda: Doubled(128, 128)), "layer 1: .* projection Doubled"),
        ("gpt2", _set("stack.blocks.0.beside", lambda: nn.Linear(128, 128)), "layer 0: something stands beside"),
        ("gpt2", _set("stack.blocks.0.feedforward.activation", lambda: torch.sin), "activation sin"),
        ("gpt2", _set("stack.blocks.1.norms.before_attention", lambda: nn.GroupNorm(1, 128)), "the norm GroupNorm"),
        ("gpt2", _set("stack.blocks.1.attention.structure", lambda: SlidingWindow(3, 1)), "attention in SlidingW"),
        ("gpt2", _set("heads.clm.transform", lambda: nn.Linear(128, 128)), "Linear before the vocabulary"),
        ("llama", _set("stack.blocks.1.attention.key_heads", lambda: 2), "different heads of keys"),
    ],
)  # fmt: skip
def test_what_has_no_kernel_is_told(name: str, change: Callable[[LanguageModel], None], reason: str) -> None:
    model = make(name)
    change(model)
    with pytest.raises(UnplannedError, match=reason):
        plan_step(model, model.heads["clm"])


def test_another_models_forward_is_not_planned() -> None:
    class Other(LanguageModel):
        pass

    model = copy.copy(make("gpt2"))
    model.__class__ = Other
    with pytest.raises(UnplannedError, match="a Other computes something of its own"):
        plan_step(model, model.heads["clm"])
