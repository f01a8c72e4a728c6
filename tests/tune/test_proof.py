"""What a method did is found by comparing values; a part that did not act is named, whoever adds it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pretune.batch import Layout
from pretune.errors import IdleMethodError
from pretune.models import build
from pretune.models.model import LanguageModel
from pretune.nn.projection import ProjectionBrick
from pretune.nn.tuned import TunedProjection
from pretune.tune.method import TuningMethod, find_method
from pretune.tune.proof import Start, prove, ranks_by_layer, still_zero, without_gradient
from pretune.tune.surgery import find_sites

SHAPE = {
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "vocab_size": 64,
}


class Offset(TunedProjection):
    """A matrix of the same shape beside another, 0 at the start."""

    def __init__(self, base: ProjectionBrick) -> None:
        super().__init__(base)
        self.matrix = nn.Parameter(torch.zeros(base.out_features, base.in_features))

    def change(self, x: Tensor, y: Tensor, layout: Layout | None) -> Tensor:
        return y + x @ self.matrix.T

    def dense(self) -> tuple[Tensor, Tensor | None]:
        weight, bias = self.projection.dense()
        return weight + self.matrix, bias


def method(tmp_path: Path, *functions: str) -> TuningMethod:
    """A method of a user's own file; the test itself does the surgery."""
    head = "from pretune import config\n\n\nclass Config(config.Config):\n    pass\n\n\n"
    path = tmp_path / "own.py"
    path.write_text("\n\n".join([head + "def apply(model, config):\n    return model\n", *functions]))
    return find_method(str(path), {})


def tuned() -> tuple[LanguageModel, Start]:
    """A model whose queries have a matrix beside their own, and what it is at the start."""
    model = build("bert", "tiny", ["mlm"], SHAPE).requires_grad_(False)
    known = {id(p) for p in model.parameters()}
    for site in find_sites(model, ["attention.query"]):
        site.replace(Offset(site.brick))  # type: ignore[arg-type]
    model.heads.requires_grad_(True)
    added = [name for name, p in model.named_parameters() if id(p) not in known]
    return model, Start.of(model, added)


@torch.no_grad()
def move(model: nn.Module, *ends: str) -> None:
    """What training would do to some parameters."""
    for name, parameter in model.named_parameters():
        if name.endswith(ends):
            parameter.add_(0.5)


def test_what_changed_and_by_how_much(tmp_path: Path) -> None:
    model, start = tuned()
    move(model, ".matrix", "transform.dense.weight")
    proof = prove(model, start, method(tmp_path))
    proof.check()
    queries = [f"stack.blocks.{n}.attention.query" for n in range(2)]
    assert set(proof.changes) == {f"{path}.matrix" for path in queries} | {"heads.mlm.transform.dense.weight"}
    assert proof.changes[f"{queries[0]}.matrix"].norm == pytest.approx(0.5 * 32)
    assert proof.changes[f"{queries[0]}.matrix"].relative is None, "it was 0"
    base = model.stack.blocks[0].attention.query.projection.dense()[0]
    assert set(proof.places) == set(queries)
    assert proof.places[queries[0]] == pytest.approx(16 / float(base.detach().norm()), rel=1e-5)
    weight = dict(model.named_parameters())["heads.mlm.transform.dense.weight"].detach() - 0.5
    assert proof.changes["heads.mlm.transform.dense.weight"].relative == pytest.approx(16 / float(weight.norm()))
    assert "heads.mlm.transform.dense.bias" in proof.unchanged
    assert proof.frozen_before == proof.frozen_after
    assert proof.frozen > 30
    tree = proof.to_json()
    assert tree["share"] == proof.learned / proof.parameters
    assert tree["changes"][f"{queries[0]}.matrix"]["norm"] == pytest.approx(16)
    assert "3 of 8 tensors changed" in proof.summary()


def test_a_part_that_did_not_act_is_named(tmp_path: Path) -> None:
    model, start = tuned()
    move(model, "blocks.0.attention.query.matrix", "transform.dense.weight")
    proof = prove(model, start, method(tmp_path))
    assert proof.idle == ["stack.blocks.1.attention.query: matrix did not change"]
    with pytest.raises(IdleMethodError, match=r"1 part of the method did not act: stack\.blocks\.1\.attention\.query"):
        proof.check()


def test_a_method_names_its_own_parts_once(tmp_path: Path) -> None:
    model, start = tuned()
    move(model, "transform.dense.weight")
    assert still_zero(model, Offset, "matrix") == [
        f"stack.blocks.{n}.attention.query: matrix is still 0" for n in (0, 1)
    ]
    own = "def idle(model):\n    return ['stack.blocks.0.attention.query: matrix is still 0']"
    proof = prove(model, start, method(tmp_path, own))
    assert [line.partition(":")[0] for line in proof.idle] == [f"stack.blocks.{n}.attention.query" for n in (0, 1)]
    assert proof.idle[0].endswith("is still 0")


def test_what_must_not_change_and_does(tmp_path: Path) -> None:
    model, start = tuned()
    move(model, ".matrix", "blocks.1.attention.query.base.weight")
    proof = prove(model, start, method(tmp_path))
    assert proof.frozen_before != proof.frozen_after
    with pytest.raises(IdleMethodError, match=r"1 tensor changed that must not: stack\.blocks\.1\.attention"):
        proof.check()


def test_what_a_method_changes_itself_is_not_frozen(tmp_path: Path) -> None:
    model, start = tuned()
    own = "def changes(model):\n    return ['embedding.word.weight', 'a.buffer']"
    move(model, ".matrix", "embedding.word.weight")
    proof = prove(model, start, method(tmp_path, own))
    proof.check()
    assert "embedding.word.weight" in proof.changes


@pytest.mark.parametrize(("name", "fails"), [("frozen", True), ("full", False)])
def test_without_surgery_something_must_change(name: str, fails: bool) -> None:
    model = build("bert", "tiny", ["mlm"], SHAPE)
    one = find_method(name, {})
    model = one.apply(model)
    start = Start.of(model)
    assert bool(start.values) == fails, "a method that trains most of the model is not copied"
    assert bool(prove(model, start, one).idle) == fails
    move(model, "transform.dense.weight")
    proof = prove(model, start, one)
    assert not proof.idle
    assert list(proof.changes) == ["heads.mlm.transform.dense.weight"]


def test_a_body_that_must_learn_is_not_excused_by_heads() -> None:
    model = build("bert", "tiny", ["mlm"], SHAPE)
    one = find_method("top", {"layers": 1})
    model = one.apply(model)
    start = Start.of(model)
    move(model, "transform.dense.weight")
    assert prove(model, start, one).idle == ["top: nothing that it trains below the heads has changed"]
    move(model, "blocks.1.attention.query.weight")
    prove(model, start, one).check()


def test_parts_without_a_gradient_and_ranks_by_layer() -> None:
    model, start = tuned()
    model.stack.blocks[0].attention.query.matrix.grad = torch.zeros(32, 32)
    assert without_gradient(model, start.added) == ["stack.blocks.1.attention.query.matrix"]
    ranks = {"stack.blocks.0.attention.query": 3, "stack.blocks.0.attention.key": 0, "embedding.word": 2}
    ranks |= {"encoder.stack.blocks.11.attention.query": 4}
    assert ranks_by_layer(ranks) == {"rank/layer.0": 1.5, "rank/embedding.word": 2, "rank/encoder.layer.11": 4}


def test_layers_that_learn_later_are_not_frozen() -> None:
    model = build("bert", "tiny", ["mlm"], SHAPE)
    one = find_method("frozen", {})
    model = one.apply(model)
    start = Start.of(model)
    model.stack.blocks[1].requires_grad_(True)
    move(model, "blocks.1.attention.query.weight", "transform.dense.weight")
    proof = prove(model, start, one)
    proof.check()
    assert proof.changes["stack.blocks.1.attention.query.weight"].norm is None
    assert not any(name.startswith("stack.blocks.1.") for name in start.values)


def test_values_of_any_shape_are_compared() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scalar = nn.Parameter(torch.zeros(()))
            self.rounded = nn.Parameter(torch.ones(3, dtype=torch.bfloat16), requires_grad=False)
            self.empty = nn.Parameter(torch.empty(0, 4))

    model: Any = Odd()
    start = Start.of(model, ["scalar", "empty"])
    with torch.no_grad():
        model.scalar.add_(1)
    proof = prove(model, start, find_method("frozen", {}))
    assert list(proof.changes) == ["scalar"]
    assert proof.frozen == 1
