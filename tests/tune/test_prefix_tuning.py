"""Prefix tuning of every family: what stands in front of a sequence, where its tokens then stand, and what trains."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import parity
import pytest
import torch
from torch import Tensor, nn

from pretune.batch import Batch, OutputRows, ragged
from pretune.errors import UsageError
from pretune.find import variants
from pretune.models import build
from pretune.models.fuse import fuse
from pretune.models.model import LanguageModel
from pretune.nn.prefix import NO_PREFIX, LearnedPrefix, ReparameterizedPrefix
from pretune.tune import prefix
from pretune.tune.method import find_method
from pretune.tune.prefix import Config

LENGTHS, SOURCES = (6, 1, 9, 6), (4, 3, 7, 4)
ROLES = {"xlnet": "plm", **dict.fromkeys(("bart", "bert2bert", "marian", "t5", "gpt2", "gpt3", "llama"), "clm")}
ROLES |= dict.fromkeys(("gpt", "qwen2", "qwen3"), "clm")
_GROUPED = {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48}
FIELDS: dict[str, dict[str, Any]] = {
    "bert2bert": {"decoder_start_token_id": 2},
    "modernbert": {"global_attn_every_n_layers": 2, "local_attention": 4},
    "gpt3": {
        "num_layers": 2,
        "hidden_size": 32,
        "num_heads": 2,
        "window_size": 3,
        "attention_types": [[["global", "local"], 1]],
    },
    "t5": {"d_model": 32, "d_kv": 8},
    "llama": _GROUPED,
    "qwen2": _GROUPED,
    "qwen3": _GROUPED,
}
FAMILIES = sorted(variants("models"))
CAUSAL = ["gpt", "gpt2", "llama", "qwen2", "qwen3"]


def make(family: str, **fields: Any) -> LanguageModel:
    heads = [ROLES.get(family, "mlm")] if family != "electra" else ["rtd"]
    model = build(family, "tiny", heads, {"vocab_size": 50, **FIELDS.get(family, {}), **fields}, seed=1).eval()
    parity.randomise(model)
    return model


def batch_of(model: LanguageModel, lengths: tuple[int, ...] = LENGTHS) -> Batch:
    batch = ragged(parity.sequences(50, lengths))
    return replace(batch, source=ragged(parity.sequences(50, SOURCES))) if model.has_encoder else batch


def tuned(model: LanguageModel, seed: int = 3, **settings: Any) -> LanguageModel:
    return find_method("prefix", {"length": 4, **settings}).apply(model, seed)


def one_by_one(model: LanguageModel, batch: Batch) -> Tensor:
    parts = []
    for n in range(batch.layout.count):
        own = Batch(
            batch.tokens[slice(*batch.layout.bounds[n : n + 2])], ragged([[0] * batch.layout.lengths[n]]).layout
        )
        if batch.source is not None:
            rows = slice(*batch.source.layout.bounds[n : n + 2])
            own = replace(own, source=ragged([batch.source.tokens[rows].numpy()]))
        parts.append(model(own).last_hidden_state)
    return torch.cat(parts)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_reads_its_prefix(family: str) -> None:
    """Ragged as one by one; every row of every layer sees it; it alone trains, with the heads."""
    model = make(family)
    names = {name for name, _ in model.named_parameters()}
    body = {name for name in names if not name.startswith("heads.")}
    batch = batch_of(model)
    before = model(batch).last_hidden_state
    model = tuned(model)
    hidden = model(batch).last_hidden_state
    assert hidden.shape == before.shape
    torch.testing.assert_close(hidden, one_by_one(model, batch), atol=1e-5, rtol=1e-5)
    assert (hidden - before).abs().amax(dim=1).min() > 1e-4, "no row is as it was"
    (hidden * torch.randn_like(hidden)).sum().backward()
    prefixes = {path: module for path, module in model.named_modules() if isinstance(module, LearnedPrefix)}
    places = 3 if model.has_encoder else 1
    assert len(prefixes) == places * len(model.stack.blocks)
    for brick in prefixes.values():
        assert brick.key.grad is not None
        assert brick.key.grad.any(), "T5's encoder and every cross-attention too"
        assert brick.value.grad.any()
    assert not any(parameter.requires_grad for name, parameter in model.named_parameters() if name in body)
    learned = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert learned >= {f"{path}.{part}" for path in prefixes for part in ("key", "value")}


@torch.no_grad()
@pytest.mark.parametrize("family", CAUSAL)
def test_a_prefix_of_tokens_is_the_model_behind_these_tokens(family: str) -> None:
    """Positions, learned or rotary: the keys of four tokens as a prefix are those tokens in front of the text."""
    model, texts = make(family), parity.sequences(50, (5, 1, 8))
    drawn: list[list[int]] = []
    model.register_forward_hook(lambda module, inputs, output: drawn.append(inputs[0].tokens.tolist()))
    want = tuned(make(family))(ragged(texts)).last_hidden_state
    model = tuned(model)
    words = drawn[0]
    assert len(words) == 4
    plain = make(family)
    rows = [plain(ragged([[*words, *text]])).last_hidden_state[4:] for text in texts]
    torch.testing.assert_close(want, torch.cat(rows), atol=2e-5, rtol=1e-5)


@torch.no_grad()
def test_a_prefix_of_tokens_in_a_decoder_with_distances() -> None:
    """T5's bias by distance counts the prefix as the nearest earlier tokens."""
    model = make("t5")
    source, words, text = ragged([[5, 6, 7]]), [9, 8, 7, 6], [3, 4, 5]
    model = tuned(model, places=("decoder.attention",), initial="normal")
    recorder = {site.path: prefix._Recorder() for site in prefix.attention_sites(make("t5"))}
    plain = make("t5")
    for site in prefix.attention_sites(plain):
        site.brick.prefix = recorder[site.path]  # type: ignore[assignment]
    plain(replace(ragged([words]), source=source))
    for path, module in model.named_modules():
        if isinstance(module, LearnedPrefix):
            key, value = recorder[path.removesuffix(".prefix")].rows  # type: ignore[misc]
            module.key.copy_(key)
            module.value.copy_(value)
    got = model(replace(ragged([text]), source=source)).last_hidden_state
    want = make("t5")(replace(ragged([[*words, *text]]), source=source)).last_hidden_state[4:]
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("ordered", [False, True])
def test_a_prefix_of_both_streams_is_their_memory(ordered: bool) -> None:
    """XLNet behind a prefix of tokens: as behind a segment of these tokens, in which no row of the text was seen."""
    words, plain, model = [9, 8, 7, 6], make("xlnet"), tuned(make("xlnet"))
    for site, other in zip(prefix.attention_sites(plain), prefix.attention_sites(model), strict=True):
        site.brick.prefix = recorder = prefix._Recorder()  # type: ignore[assignment]
        plain(ragged([words]))
        other.brick.prefix.key.copy_(recorder.rows[0])  # type: ignore[index,operator,union-attr]
        other.brick.prefix.value.copy_(recorder.rows[1])  # type: ignore[index,operator,union-attr]
        site.brick.prefix = NO_PREFIX  # type: ignore[assignment]
    batch = ragged([[5, 6, 7, 8, 3]])
    if ordered:
        rows = OutputRows.of(np.array([0, 2, 3]), batch.layout)
        batch = replace(batch, order=torch.tensor([1, -1, 0, 2, -1]), output_rows=rows)
    want = make("xlnet")(batch, memory=plain.read_segment(ragged([words]), 8)).last_hidden_state  # type: ignore[call-arg,operator]
    torch.testing.assert_close(model(batch).last_hidden_state, want, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("family", [*CAUSAL, "gpt3", "t5", "bart", "marian"])
def test_step_by_step_with_a_cache(family: str) -> None:
    model = tuned(make(family))
    batch = batch_of(model, (5, 7, 5, 6))
    want = model(batch).last_hidden_state
    cache = model.new_cache(4, 3)
    starts, source = batch.layout.bounds[:-1], batch.source
    first = torch.cat([batch.tokens[start : start + 2] for start in starts])
    hidden = model(Batch(first, cache.layout([2] * 4), source=source), cache=cache).last_hidden_state
    rows = torch.cat([want[start : start + 2] for start in starts])
    torch.testing.assert_close(hidden, rows, atol=2e-5, rtol=1e-5)
    cache.reorder([2, 0, 1, 3, 0])  # as beams do
    order = [starts[n] for n in (2, 0, 1, 3, 0)]
    for step in range(2, 5):
        at = torch.tensor([start + step for start in order])
        hidden = model(Batch(batch.tokens[at], cache.layout([1] * 5)), cache=cache).last_hidden_state
        torch.testing.assert_close(hidden, want[at], atol=2e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "modernbert"])
def test_the_fused_form_has_it(family: str) -> None:
    model = tuned(make(family))
    batch = batch_of(model)
    torch.testing.assert_close(
        fuse(model)(batch).last_hidden_state, model(batch).last_hidden_state, atol=2e-5, rtol=1e-5
    )


@torch.no_grad()
def test_a_network_gives_the_rows_until_the_run_ends() -> None:
    model = tuned(make("bert"), projection=True, projection_width=16)
    bricks = [module for module in model.modules() if isinstance(module, ReparameterizedPrefix)]
    assert len(bricks) == 2
    assert bricks[0].source is bricks[1].source
    assert bricks[0].source.up.out_features == 16
    batch = batch_of(model)
    want = model(batch).last_hidden_state
    config = Config(length=4, projection=True, projection_width=16)
    plain = prefix.finished(model, config)
    assert plain == Config(length=4)
    assert torch.equal(model(batch).last_hidden_state, want)
    assert not any("source" in name for name, _ in model.named_parameters())
    again = find_method("prefix", plain.model_dump()).apply(make("bert"))
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(batch).last_hidden_state, want)


def prefixed(model: nn.Module) -> list[str]:
    return [path.removesuffix(".prefix") for path, module in model.named_modules() if isinstance(module, LearnedPrefix)]


def test_places() -> None:
    cross = [f"stack.blocks.{n}.cross" for n in (0, 1)]
    assert prefixed(tuned(make("t5"), places=("cross",))) == cross
    assert prefixed(tuned(make("bart"), places=("decoder.cross",))) == cross
    assert prefixed(tuned(make("t5"), places=("encoder",))) == [f"encoder.stack.blocks.{n}.attention" for n in (0, 1)]
    assert prefixed(tuned(make("t5"), places=("layers[-1:].decoder",))) == [
        "stack.blocks.1.attention",
        "stack.blocks.1.cross",
    ]
    assert prefixed(tuned(make("bert"), places=("layers[:1].attention",))) == ["stack.blocks.0.attention"]
    with pytest.raises(
        UsageError, match=r"no place of this model is called 'cross'; it has 2 layers, and in all: attention"
    ):
        tuned(make("bert"), places=("cross",))
    with pytest.raises(UsageError, match=r"stack.blocks.0.attention has a prefix already"):
        tuned(tuned(make("bert")))


@torch.no_grad()
def test_positions_of_the_side_that_has_a_prefix() -> None:
    """Attention to the encoder's output has no positions, so that a prefix there takes none."""
    assert tuned(make("bart"), places=("cross",)).max_length == make("bart").max_length
    model = tuned(make("bart"), places=("encoder",))
    assert model.max_length == make("bart").max_length - 4
    assert model.encoder.embedding.behind.length == 4
    assert model.embedding.behind.length == 0


def test_a_text_that_no_longer_fits() -> None:
    model = tuned(make("bert", max_position_embeddings=12))
    assert model.max_length == 8
    model(ragged([[2] * 8]))
    with pytest.raises(Exception, match="8 positions"):
        model(ragged([[2] * 9]))
    with pytest.raises(UsageError, match=r"'length' = 12: the model has 12 positions"):
        tuned(make("bert", max_position_embeddings=12), length=12)
    assert model.new_cache(1).limit == 8


def test_a_prefix_without_gradient_is_named() -> None:
    model = tuned(make("bert"))
    model(batch_of(model)).last_hidden_state.square().sum().backward()
    first, second = (module for module in model.modules() if isinstance(module, LearnedPrefix))
    second.key.grad = second.value.grad = None
    prefix.after_step(model, 0.5)
    assert float(first.largest_gradient) == float(torch.stack([first.key.grad, first.value.grad]).abs().max())
    (line,) = prefix.acted(model)
    assert line.startswith("stack.blocks.0.attention.prefix: 4 keys and values")
    assert prefix.idle(model) == ["stack.blocks.1.attention.prefix: had no gradient"]
