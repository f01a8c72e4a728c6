"""LoRA in every family: the same at the start, merged as unmerged, places, heads; its numbers are those of peft."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pretune.batch import Batch, ragged
from pretune.errors import UsageError
from pretune.models import build
from pretune.models.model import LanguageModel
from pretune.nn.low_rank import LowRankProjection
from pretune.nn.projection import Projection, named_projections
from pretune.tune.method import TuningMethod, find_method

BERT = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 64}


def tuned(model: LanguageModel, **settings: object) -> TuningMethod:
    method = find_method("lora", settings)
    method.apply(model, 7)
    return method


def randomise(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if name.endswith((".b", ".magnitude")):
            nn.init.normal_(parameter, mean=float(name.endswith("e")), std=0.3)


def hidden(model: LanguageModel, batch: Batch) -> Tensor:
    with torch.no_grad():
        return model(batch).last_hidden_state


@pytest.mark.parametrize("decomposed", [False, True])
def test_equal_at_the_start_and_after_merging(decomposed: bool) -> None:
    model = build("bert", "tiny", ["mlm"], BERT).eval()
    batch = ragged([[2, 7, 8, 3], [2, 9, 3]])
    before, names = hidden(model, batch), list(dict(model.named_parameters()))
    method = tuned(model, places=["layers"], rank=4, weight_decomposed=decomposed)
    assert torch.equal(hidden(model, batch), before)
    assert method.idle(model)[0] == "stack.blocks.0.attention.query: b is still 0"
    assert len(method.idle(model)) == 12
    randomise(model)
    changed = hidden(model, batch)
    assert not torch.allclose(changed, before, atol=1e-2)
    assert not method.idle(model)
    assert (method.acted(model) or [])[-1] == "stack.blocks.1.feedforward.down: rank 4"
    method.merge(model)
    torch.testing.assert_close(hidden(model, batch), changed, atol=1e-5, rtol=1e-5)
    assert list(dict(model.named_parameters())) == names
    assert all(type(brick) is Projection for _, brick in named_projections(model))


def test_heads_train_in_full_unless_named() -> None:
    model = build("bert", "tiny", ["mlm"], BERT)
    tuned(model)
    learned = {name for name, p in model.named_parameters() if p.requires_grad}
    inner = {f"stack.blocks.{n}.attention.{role}.{p}" for n in (0, 1) for role in ("query", "value") for p in "ab"}
    heads = {name for name, _ in model.named_parameters() if name.startswith("heads.")}
    assert learned == inner | heads
    model = build("bert", "tiny", ["mlm"], BERT)
    tuned(model, places=["head"])
    assert "heads.mlm.transform.dense.base.weight" not in {n for n, p in model.named_parameters() if p.requires_grad}


def test_scales() -> None:
    assert find_method("lora", {"rank": 4, "alpha": 8}).config.scale == 2  # type: ignore[attr-defined]
    config = find_method("lora", {"rank": 4, "alpha": 8, "rank_stabilized": True}).config
    assert config.scale == 4  # type: ignore[attr-defined]


def test_a_rank_above_the_width_is_refused() -> None:
    with pytest.raises(UsageError, match=r"rank 33 is above the 32 rows or columns of stack.blocks.0.attention.query"):
        tuned(build("bert", "tiny", ["mlm"], BERT), rank=33)


def test_what_it_draws_is_a_function_of_the_seed() -> None:
    one, two = (build("bert", "tiny", ["mlm"], BERT) for _ in range(2))
    tuned(one)
    torch.rand(3)
    tuned(two)
    a, b = (m.get_submodule("stack.blocks.0.attention.query") for m in (one, two))
    assert isinstance(a, LowRankProjection)
    assert isinstance(b, LowRankProjection)
    assert torch.equal(a.a, b.a)
