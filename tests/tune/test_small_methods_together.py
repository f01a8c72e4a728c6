"""Adapters of several methods in one batch: each sequence by its own, as if it were alone; fused or not."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import parity
import pytest
import torch
from familykit import FAMILIES, tiny
from torch import nn

from pretune.batch import Batch, ragged
from pretune.models.adapters import SharedModels
from pretune.models.fuse import FusedBlock, Products, fuse
from pretune.models.model import LanguageModel
from pretune.nn.bottleneck import Bottleneck
from pretune.nn.grouped import BASE
from pretune.nn.scaling import ScaledInput, ScaledOutput
from pretune.optim import muon
from pretune.optim.optimizer import build_optimizer
from pretune.tune.method import find_method

METHODS: list[tuple[str, dict[str, Any]]] = [
    ("ia3", {}),
    ("adapter", {"form": "pfeiffer", "reduction": 4}),
    ("adapter", {"form": "houlsby", "reduction": 4}),
    ("adapter", {"form": "parallel", "reduction": 4}),
]
GROUP = (0, 3, 1, BASE, 2, 1)
LENGTHS = (5, 1, 8, 3, 8, 2)


def forms_of(base: LanguageModel, methods: list[tuple[str, dict[str, Any]]]) -> list[LanguageModel]:
    """The base after each method, with random values in all that was added."""
    forms = []
    for number, (name, settings) in enumerate(methods):
        form = find_method(name, settings).apply(copy.deepcopy(base))
        torch.manual_seed(number)
        for module in form.modules():
            if isinstance(module, Bottleneck):
                for weight in module.parameters():
                    nn.init.normal_(weight, std=0.3)
            elif isinstance(module, ScaledInput | ScaledOutput):
                nn.init.normal_(module.scale, mean=1.0, std=0.5)
        forms.append(form.eval())
    return forms


def grouped_batch(model: LanguageModel) -> Batch:
    batch = ragged(parity.sequences(50, LENGTHS))
    batch = replace(batch, layout=replace(batch.layout, group=GROUP))
    if not model.has_encoder:
        return batch
    source = ragged(parity.sequences(50, [length + 2 for length in LENGTHS]))
    return replace(batch, source=replace(source, layout=replace(source.layout, group=GROUP)))


def one_of(batch: Batch, sequence: int) -> Batch:
    rows, layout = batch.layout.select([sequence])
    source = None if batch.source is None else one_of(batch.source, sequence)
    return Batch(batch.tokens[rows], replace(layout, group=None), source=source)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_sequence_is_read_by_its_own_adapter(family: str) -> None:
    base = tiny(family)
    models = SharedModels.of(base, forms_of(base, METHODS))
    assert models.apart == {}
    batch = grouped_batch(base)
    networks = [models.network, fuse(models.network, Products(merges=False))]
    with torch.inference_mode():
        for network in networks:
            together = network(batch).last_hidden_state
            for n, number in enumerate(GROUP):
                rows, _ = batch.layout.select([n])
                wanted = models.form(number)(one_of(batch, n)).last_hidden_state
                torch.testing.assert_close(together[rows], wanted, atol=2e-5, rtol=1e-5, msg=f"{family}, sequence {n}")


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
@pytest.mark.parametrize("number", range(len(METHODS)))
def test_blocks_stay_fused(family: str, number: int) -> None:
    base = tiny(family)
    (form,) = forms_of(base, METHODS[number : number + 1])
    fused = fuse(form)
    assert all(type(block) is FusedBlock for block in fused.stack.blocks)
    batch = replace(grouped_batch(base), layout=ragged(parity.sequences(50, LENGTHS)).layout)
    with torch.inference_mode():
        want, got = form(batch).last_hidden_state, fused(batch).last_hidden_state
    torch.testing.assert_close(got, want, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "settings"),
    [*METHODS, ("lora", {"weight_decomposed": True}), ("adalora", {}), ("prefix", {}), ("prompt", {})],
)
def test_what_a_method_adds_is_no_matrix_for_muon(name: str, settings: dict[str, Any]) -> None:
    model = find_method(name, settings).apply(tiny("bert"))
    optimizer = build_optimizer(model, muon.Config(name="muon"))
    assert all("momentum" not in group for group in optimizer.param_groups)
