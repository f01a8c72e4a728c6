"""Bottleneck adapters in every family: the same at the start, three forms, places, dropout, ragged batches."""

from __future__ import annotations

from dataclasses import replace

import parity
import pytest
import torch
from familykit import FAMILIES, answers, batch_of, learning, logits, loss, tiny
from torch import Tensor, nn

from pretune.batch import Batch, ragged
from pretune.errors import UsageError
from pretune.models.fuse import fuse
from pretune.models.model import LanguageModel
from pretune.nn.bottleneck import Bottleneck, NormAdapter, ParallelAdapter, SerialAdapter
from pretune.nn.projection import Projection
from pretune.nn.tuned import Nothing
from pretune.tune.method import TuningMethod, find_method

FORMS = ("houlsby", "pfeiffer", "parallel")


def tuned(model: LanguageModel, **settings: object) -> TuningMethod:
    method = find_method("adapter", settings)
    method.apply(model, 3)
    return method


def randomise(model: nn.Module) -> None:
    for bottleneck in model.modules():
        if isinstance(bottleneck, Bottleneck):
            for weight in bottleneck.parameters():
                nn.init.normal_(weight, std=0.3)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("family", FAMILIES)
def test_equal_at_the_start_and_all_of_it_learns(family: str, form: str) -> None:
    model = tiny(family)
    before = answers(model)
    method = tuned(model, form=form, reduction=4)
    assert torch.equal(answers(model), before)
    assert not method.can_merge
    assert method.acted(model) == []
    idle = method.idle(model)
    assert all(line.endswith("bottleneck: up is still 0") for line in idle)
    randomise(model)
    assert (answers(model) - before).abs().max() > 1e-2
    assert method.idle(model) == []
    assert method.acted(model) == [line.split(":")[0] for line in idle]
    loss(model).backward()
    learned = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert all(name.startswith("heads.") or ".bottleneck." in name for name in learned)
    assert not [name for name, p in learned.items() if p.grad is None or not p.grad.any()]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("family", ["bert", "gpt2", "t5", "xlnet"])
def test_a_ragged_batch_is_as_one_by_one_and_fused_as_not(family: str, form: str) -> None:
    model = tiny(family)
    tuned(model, form=form)
    randomise(model)
    whole = batch_of(model)
    rows, sources = parity.sequences(50, (6, 1, 9)), parity.sequences(50, (4, 3, 7))
    single = [ragged([row]) for row in rows]
    if model.has_encoder:
        single = [replace(one, source=ragged([source])) for one, source in zip(single, sources, strict=True)]
    with torch.no_grad():
        together, alone = logits(model, whole), torch.cat([logits(model, one) for one in single])
        in_use = logits(fuse(model), whole)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(in_use, together, atol=2e-5, rtol=1e-5)


def test_where_each_form_stands() -> None:
    x, y = torch.randn(5, 8), torch.randn(5, 8)
    bottleneck = Bottleneck(8, 2, torch.relu, scale=2.0)
    randomise(bottleneck)

    def f(rows: Tensor) -> Tensor:
        return 2 * bottleneck.up(torch.relu(bottleneck.down(rows)))

    norm, linear = nn.LayerNorm(8), Projection(8, 8)
    torch.testing.assert_close(SerialAdapter(linear, bottleneck)(x), linear(x) + f(linear(x)))
    torch.testing.assert_close(NormAdapter(norm, bottleneck)(x), norm(x + f(norm(x))))
    torch.testing.assert_close(ParallelAdapter(Nothing(), bottleneck).change(x, y, None), y + f(x))


def test_places_and_sizes() -> None:
    model = tiny("t5")
    tuned(model, form="houlsby", places=["cross", "layers[-1:].feedforward"], reduction=8)
    names = {name.partition(".bottleneck.")[0] for name in learning(model) if not name.startswith("heads.")}
    assert names == {
        *(f"stack.blocks.{n}.cross.output" for n in (0, 1)),
        "stack.blocks.1.feedforward.down",
        "encoder.stack.blocks.1.feedforward.down",
    }
    assert model.stack.blocks[1].feedforward.down.bottleneck.down.weight.shape == (4, 32)
    usual = {form: tiny("bert") for form in FORMS}
    for form, made in usual.items():
        tuned(made, form=form)
    sizes = {form: [b for b in made.modules() if isinstance(b, Bottleneck)] for form, made in usual.items()}
    assert {form: len(found) for form, found in sizes.items()} == {"houlsby": 4, "pfeiffer": 2, "parallel": 2}
    assert {form: found[0].down.out_features for form, found in sizes.items()} == {
        "houlsby": 2,
        "pfeiffer": 2,
        "parallel": 16,
    }
    assert [found[0].scale for found in sizes.values()] == [1, 1, 4]
    assert [found[0].activation.__name__ for found in sizes.values()] == ["silu", "relu", "relu"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"form": "parallel", "places": ["attention"]}, "stands beside a feed-forward, and not beside attention"),
        ({"places": ["cross"]}, "no place of this model is called 'cross'.*attention, feedforward"),
        ({"places": ["attention.query"]}, "no place of this model is called 'attention.query'"),
        ({"activation": "rleu"}, "did you mean 'relu'"),
        ({"reduction": 0}, "reduction"),
        ({"form": "sideways"}, "form"),
    ],
)
def test_bad_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        tuned(tiny("bert"), **settings)


@pytest.mark.parametrize("form", FORMS)
def test_dropout_is_a_function_of_the_row(form: str) -> None:
    model = tiny("bert")
    tuned(model, form=form, dropout=0.5)
    randomise(model)
    model.train()
    for module in model.modules():
        if hasattr(module, "p") and not isinstance(module, Bottleneck):
            module.p = 0.5 if any(module is b.dropout for b in model.modules() if isinstance(b, Bottleneck)) else 0.0
    rows = parity.sequences(50, (6, 1, 9))

    def run(order: list[int]) -> list[Tensor]:
        from pretune.batch import RowKeys

        batch: Batch = ragged([rows[n] for n in order])
        words = torch.cat([torch.arange(len(rows[n]) * 2, dtype=torch.int32).view(-1, 2) + 1000 * n for n in order])
        batch = replace(batch, layout=replace(batch.layout, keys=RowKeys(words)))
        out = model(batch).last_hidden_state.detach()
        pieces = dict(zip(order, out.split(batch.layout.lengths), strict=True))
        return [pieces[n] for n in sorted(pieces)]

    first, again = run([0, 1, 2]), run([2, 0, 1])
    for a, b in zip(first, again, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    model.eval()
    assert (run([0, 1, 2])[2] - first[2]).abs().max() > 1e-3


def test_flops_count_the_bottleneck() -> None:
    linear, bottleneck = Projection(32, 32), Bottleneck(32, 4, torch.relu)
    assert SerialAdapter(linear, bottleneck).flops(10) == linear.flops(10) + 4 * 32 * 4 * 10
