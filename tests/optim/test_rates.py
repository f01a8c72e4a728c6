"""Rates by place: factors by pattern, a decay from layer to layer, groups that keep their rates."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from pretune.config import validate
from pretune.errors import UsageError
from pretune.models import build
from pretune.optim import adamw, muon
from pretune.optim.optimizer import LearnedParameters, build_optimizer, gradient_norm, update
from pretune.optim.rates import rate_factors
from pretune.train.recipe import Recipe

NAMES = [
    *("model.embedding.word.weight", "model.embedding.norm.bias", "model.stack.norm.weight", "model.mask"),
    *(f"model.stack.blocks.{n}.{role}.weight" for n in range(3) for role in ("attention.query", "feedforward.up")),
    *("model.heads.mlm.bias", "model.heads.classification.linear.weight", "objective.scale"),
]
SMALL = {"num_hidden_layers": 3, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 48, "vocab_size": 40}


def factors(rates: dict[str, float], decay: float = 1.0, names: list[str] = NAMES) -> dict[str, float]:
    return {n: f for n, f in rate_factors(names, names, rates, decay).items() if f != 1}


@pytest.mark.parametrize(
    ("pattern", "named"),
    [
        ("heads", [n for n in NAMES if ".heads." in n]),
        ("head", [n for n in NAMES if ".heads." in n]),
        ("heads.mlm", ["model.heads.mlm.bias"]),
        ("layers", [n for n in NAMES if "blocks" in n]),
        ("embedding", NAMES[:2]),
        ("layers[0:2]", [n for n in NAMES if ".0." in n or ".1." in n]),
        ("layers[-1:].attention", ["model.stack.blocks.2.attention.query.weight"]),
        ("layers[:1].feedforward.up", ["model.stack.blocks.0.feedforward.up.weight"]),
        ("query", [n for n in NAMES if "query" in n]),
        ("objective", ["objective.scale"]),
    ],
)
def test_patterns(pattern: str, named: list[str]) -> None:
    assert factors({pattern: 3.0}) == dict.fromkeys(named, 3.0)


def test_factors_of_several_patterns_multiply() -> None:
    both = factors({"heads": 10.0, "heads.mlm": 0.5})
    assert both == {"model.heads.mlm.bias": 5.0, "model.heads.classification.linear.weight": 10.0}


def test_the_decay_goes_from_layer_to_layer() -> None:
    decayed = factors({"heads": 2.0}, 0.5)
    layers = {n: 0.5 ** (3 - int(n.split(".")[3])) for n in NAMES if "blocks" in n}
    below = dict.fromkeys((*NAMES[:2], "model.mask"), 0.5**4)
    assert decayed == {**layers, **below, **{n: 2.0 for n in NAMES if "heads" in n}}


def test_each_side_of_an_encoder_decoder_decays_by_itself() -> None:
    sides = [("model.", 2), ("model.encoder.", 4)]
    names = [f"{side}stack.blocks.{n}.x.weight" for side, count in sides for n in range(count)]
    names += ["model.encoder.embedding.norm.weight", "model.embedding.word.weight", "model.encoder.stack.norm.weight"]
    names += ["objective.generator.stack.blocks.0.x.weight"]
    assert factors({}, 0.5, names) == {
        **{f"model.stack.blocks.{n}.x.weight": 0.5 ** (2 - n) for n in range(2)},
        **{f"model.encoder.stack.blocks.{n}.x.weight": 0.5 ** (4 - n) for n in range(4)},
        "model.encoder.embedding.norm.weight": 0.5**5,
        "model.embedding.word.weight": 0.5**3,
    }


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("hedas", r"nothing that learns is called 'hedas'; did you mean 'heads'"),
        ("layers[7:9]", r"nothing that learns is called 'layers\[7:9\]'; .*layers\[0:3\]"),
        ("layers[0:2", "names no place; write one such as heads"),
        ("layers[x:2].up", "names no place"),
        ("", "names no place"),
        ("embedding", "does not learn with this tuning method"),
    ],
)
def test_a_pattern_that_names_nothing(pattern: str, message: str) -> None:
    learning = [name for name in NAMES if "embedding" not in name]
    with pytest.raises(UsageError, match=message):
        rate_factors(NAMES, learning, {pattern: 2.0}, 1.0)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_groups_keep_their_rates(name: str) -> None:
    model = build("bert", "tiny", ["mlm"], SMALL)
    config = validate({"adamw": adamw, "muon": muon}[name].Config, settings(name), "optimizer")
    optimizer = build_optimizer(model, config)
    rates = {id(p): group["initial_lr"] for group in optimizer.param_groups for p in group["params"]}
    wanted = {id(p): _wanted(n) for n, p in model.named_parameters()}
    assert rates == pytest.approx(wanted)
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decays == {id(p): 0.01 * (p.dim() > 1) for p in model.parameters()}
    for factor in (0.5, 0.25):
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        update(optimizer, factor, float(gradient_norm(optimizer)), 0.0)
        now = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
        assert now == pytest.approx({key: rate * factor for key, rate in wanted.items()})


def settings(name: str) -> dict[str, Any]:
    return {"name": name, "lr": 1e-3, "rates": {"heads": 10, "layers[0:1].attention": 0.1}, "layer_decay": 0.9}


def _wanted(name: str) -> float:
    if name.startswith("heads."):
        return 1e-2
    layer = int(name.split(".")[2]) if "blocks" in name else -1
    return 1e-3 * 0.9 ** (3 - layer) * (0.1 if "blocks.0.attention" in name else 1)


def test_a_matrix_steps_by_its_own_rate_with_muon() -> None:
    """The matrices of one shape are one batch, whatever their rates."""
    model = build("bert", "tiny", ["mlm"], SMALL)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer = build_optimizer(model, validate(muon.Config, {**settings("muon"), "weight_decay": 0}, "optimizer"))
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    update(optimizer, 1.0, 1.0, 0.0)
    steps = [
        float(
            (
                model.stack.blocks[n].attention.query.weight.detach()
                - before[f"stack.blocks.{n}.attention.query.weight"]
            ).norm()
        )
        for n in range(3)
    ]
    assert steps[0] / steps[2] == pytest.approx(0.1 * 0.9**2, rel=1e-3)
    assert steps[1] / steps[2] == pytest.approx(0.9, rel=1e-3)


class Beside(nn.Module):
    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base, self.down = base, nn.Linear(8, 2, bias=False)


def test_what_a_method_adds_is_no_matrix_of_a_layer() -> None:
    model = nn.Module()
    model.stack = nn.ModuleList([Beside(nn.Linear(8, 8)), nn.Linear(8, 8)])
    learned = LearnedParameters(model)
    assert learned.added == {"stack.0.down.weight"}
    optimizer = build_optimizer(model, muon.Config(name="muon"))
    assert {id(p) for p in optimizer.param_groups[0]["params"]} == {
        id(model.stack[0].base.weight),
        id(model.stack[1].weight),
    }
    for frozen in (model.stack[0].base, model.stack[1]):
        frozen.requires_grad_(False)
    assert isinstance(build_optimizer(model, muon.Config(name="muon")), torch.optim.AdamW)


@pytest.mark.parametrize("bad", [{"rates": {"heads": 0}}, {"rates": {"heads": "fast"}}, {"layer_decay": 1.1}])
def test_bad_settings(bad: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(bad))):
        validate(Recipe, {"objective": "mlm", "output": "x", "optimizer": bad}, "recipe")


def test_names_with_dots_come_as_tables_too() -> None:
    given = {"rates": {"heads": 2, "attention": {"query": 3}, "layers[0:2]": {"feedforward": {"up": 0.5}}, "a.b": 1}}
    read = validate(Recipe, {"objective": "mlm", "output": "x", "optimizer": given}, "recipe").optimizer.rates
    assert read == {"heads": 2, "attention.query": 3, "layers[0:2].feedforward.up": 0.5, "a.b": 1}
