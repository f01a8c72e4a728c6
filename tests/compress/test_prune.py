"""Pruning: importance against what zeroing does, what is chosen, and what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import parity
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pretune.batch import Batch, ragged
from pretune.compress import prune
from pretune.compress.calibration import Calibration
from pretune.compress.method import CompressContext, find_compression
from pretune.compress.pruning import selection, structure
from pretune.compress.pruning.importance import gate_gradients, gates_of, importance, loss_without_layers
from pretune.draw import Draw
from pretune.errors import DataError, UsageError
from pretune.interop.huggingface import load_model, save_model
from pretune.models import build
from pretune.models.model import LanguageModel
from pretune.nn.projection import Projection

sys.path.insert(0, str(Path(__file__).parents[1] / "tune"))
import familykit

_SMALL = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 64}


def small(family: str = "bert", **fields: Any) -> LanguageModel:
    """A model with a classifier and random weights."""
    model = build(
        family,
        "tiny",
        lambda m: {"classification": m.sequence_head(["a", "b"])},
        {"vocab_size": 50, **_SMALL, **fields},
    )
    parity.randomise(model)
    return model.eval()


def batches(count: int = 2) -> list[Batch]:
    return [ragged(parity.sequences(50, (6, 1 + n, 9))) for n in range(count)]


def loss(model: LanguageModel, batch: Batch) -> Tensor:
    output = model(batch)
    scores = model.heads["classification"](output.last_hidden_state, output.layout)
    return F.cross_entropy(scores, torch.tensor([0, 1, 0]))


class FakeCalibration(Calibration):
    """Batches whose loss is that of a classifier."""

    def loss(self, model: LanguageModel, batch: Batch) -> Tensor:
        return loss(model, batch)


def context() -> CompressContext:
    calibration = FakeCalibration(tuple(batches()), None, "texts", 6, 40, 6)
    return CompressContext(None, Draw(0), calibration)  # type: ignore[arg-type]


def apply(model: LanguageModel, **fields: Any) -> LanguageModel:
    result: LanguageModel = prune.apply(model, prune.Config(**fields), context())
    return result


@pytest.mark.parametrize("gated", ["heads", "inner"])
def test_first_order_is_what_a_little_less_does(gated: Any) -> None:
    """A gate turned down by 1 % changes the loss by minus 1 % of its gradient: measured by scaling the weights."""
    model, batch, step = small().double(), batches(1)[0], 0.01
    gates = gates_of(model, gated)
    gradients = gate_gradients(model, batch, loss, gates)
    with torch.no_grad():
        before = float(loss(model, batch))
        for gate in gates[:2]:
            weight = gate.module.get_parameter("weight")
            for part in range(0, gate.parts, 7 if gated == "inner" else 1):
                columns = slice(part * gate.width, (part + 1) * gate.width)
                whole = weight[:, columns].clone()
                weight[:, columns] = whole * (1 - step)
                measured = float(loss(model, batch)) - before
                weight[:, columns] = whole
                predicted = -step * float(gradients[gate.path][:, part].sum())
                assert measured == pytest.approx(predicted, rel=0.2, abs=2e-7)


def test_first_order_of_layers() -> None:
    model, batch, step = small().double(), batches(1)[0], 0.01
    gates = gates_of(model, "layers")
    gradients = gate_gradients(model, batch, loss, gates)
    with torch.no_grad():
        before = float(loss(model, batch))
        for gate in gates:

            def less(module: Any, inputs: Any, output: Tensor) -> Tensor:
                x: Tensor = inputs[0]
                return x + (1 - step) * (output - x)

            handle = gate.module.register_forward_hook(less)
            measured = float(loss(model, batch)) - before
            handle.remove()
            assert measured == pytest.approx(-step * float(gradients[gate.path].sum()), rel=0.2, abs=2e-7)


def test_importance_is_the_mean_of_absolute_values_of_sequences() -> None:
    """Two sequences with opposite gradients do not cancel."""
    model, given = small(), batches()
    gates = gates_of(model, "heads")
    each = [gate_gradients(model, batch, loss, gates) for batch in given]
    scores = importance(model, given, loss, "heads")
    for path, score in scores.items():
        sums = sum(3 * gradients[path].abs().sum(0) for gradients in each) / 6
        assert torch.allclose(score.float(), sums, rtol=1e-5)
    assert all(not parameter.grad for parameter in model.parameters() if parameter.grad is None)
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("family", familykit.FAMILIES)
def test_every_family_has_importance(family: str) -> None:
    model = familykit.tiny(family)
    batch = familykit.batch_of(model)
    for gated in ("heads", "inner", "layers"):
        scores = importance(model, [batch], familykit.loss, gated)
        assert scores, gated
        assert all(bool((score > 0).any()) for score in scores.values()), gated


def test_order_of_importance_is_that_of_the_loss() -> None:
    """Of inner values, those that first order calls least important change the loss less when they are zero."""
    model, given = small(), batches()
    scores = importance(model, given, loss, "inner")
    path, score = next(iter(scores.items()))
    down = structure.feedforwards(model)[path].down
    order = score.argsort()
    changes = []
    with torch.no_grad():
        before = [float(loss(model, batch)) for batch in given]
        for index in (order[:16], order[-16:]):
            whole = down.weight.clone()
            down.weight[:, index] = 0.0
            after = [float(loss(model, batch)) for batch in given]
            down.weight.copy_(whole)
            changes.append(sum(abs(a - b) for a, b in zip(after, before, strict=True)))
    assert changes[0] < changes[1] / 2


def test_loss_without_layers_is_measured() -> None:
    model, given = small(), batches()
    whole, without = loss_without_layers(model, given, loss)
    assert list(without) == [f"stack.blocks.{n}" for n in range(4)]
    pruned = selection.drop_layers(small(), {"stack": [0, 2, 3]})
    with torch.no_grad():
        expected = sum(float(loss(pruned, batch)) for batch in given) / len(given)
        assert without["stack.blocks.1"] == pytest.approx(expected, rel=1e-6)
        assert whole == pytest.approx(sum(float(loss(model, batch)) for batch in given) / len(given), rel=1e-6)
    assert len(model.stack.order) == len(model.stack.blocks) == 4


def test_a_third_of_everything_that_bert_can_lose(tmp_path: Path) -> None:
    model = apply(small(), layers=0.3, inner=0.5)
    assert (model.config.num_hidden_layers, model.config.intermediate_size) == (3, 32)  # type: ignore[attr-defined]
    save_model(model, tmp_path / "out")
    fields = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (fields["num_hidden_layers"], fields["intermediate_size"]) == (3, 32)
    assert "prune" not in json.dumps(fields)
    again = load_model(tmp_path / "out")
    for batch in batches():
        assert torch.equal(loss(again.eval(), batch), loss(model, batch))
    loss(model.train(), batches()[0]).backward()
    assert all(parameter.grad is not None for name, parameter in model.named_parameters() if "feedforward" in name)


def test_what_is_chosen_matters_most() -> None:
    """The inner values with the largest scores stay, in their order, and the facts say which fraction stays."""
    model, given = small(), context()
    scores = importance(model, batches(), loss, "inner")
    path, score = next(iter(scores.items()))
    expected = structure.feedforwards(model)[path].up.weight[score.topk(32).indices.sort().values].clone()
    prune.apply(model, prune.Config(inner=0.5), given)
    assert torch.equal(structure.feedforwards(model)[path].up.weight, expected)
    assert given.facts[path]["inner"] == 32
    assert 0.5 < float(given.facts[path]["importance"]) < 1.0
    assert any("of the operations" in note for note in given.notes)


def test_rounds_give_the_whole() -> None:
    config = prune.Config(inner=0.5, layers=0.5, rounds=2, sparsity="magnitude", multiple=8)
    steps = prune.rounds(config)
    assert len(steps) == 2
    assert [step.sparsity for step in steps] == [None, "magnitude"]
    left = 1.0
    for step in steps:
        left *= 1 - step.inner
    assert left == pytest.approx(0.5)
    model = small()
    for step in steps:
        prune.apply(model, step, context())
    assert (model.config.num_hidden_layers, model.config.intermediate_size) == (2, 32)  # type: ignore[attr-defined]
    assert prune.rounds(prune.Config(layers=0.5)) == [prune.Config(layers=0.5)]


def test_inner_width_stays_a_multiple() -> None:
    assert selection.remaining(1536, 1 / 3, 32) == 1024
    assert selection.remaining(2048, 1 / 3, 32) == 1376
    assert selection.remaining(80, 0.4, 32) == 48  # 80 is no multiple of 32, but of 16
    assert selection.remaining(3, 0.9) == 1


def test_layers_keep_the_pattern_of_modernbert() -> None:
    """Every third layer sees all: what replaces it must see all too, and the first has no norm."""
    fields = {"num_hidden_layers": 7, "global_attn_every_n_layers": 3, "local_attention": 8}
    model = small("modernbert", **fields)
    scores = {f"stack.blocks.{n}": score for n, score in enumerate([0.0, 9.0, 1.0, 2.0, 8.0, 7.0, 3.0])}
    kept = selection.best_layers(model, scores, 0.4)
    assert kept == {"stack": [0, 1, 4, 6]}  # 0 and 6 see all, as the places 0 and 3 do; 5 matters more than 6
    selection.drop_layers(model, kept)
    assert model.config.layer_types == (  # type: ignore[attr-defined]
        *("full_attention", "sliding_attention", "sliding_attention", "full_attention"),
    )
    with pytest.raises(UsageError, match="layer 3 of stack would be layer 1"):
        selection.drop_layers(small("modernbert", **fields), {"stack": [0, 3, 6]})


def test_scales_by_layer_keep_their_places() -> None:
    model = build("gpt2", "tiny", ["clm"], {"vocab_size": 50, "n_layer": 3, "scale_attn_by_inverse_layer_idx": True})
    scores = {f"stack.blocks.{n}": float(n) for n in range(3)}
    assert selection.best_layers(model, scores, 1 / 3) == {"stack": [0, 1]}


def test_whole_groups_go() -> None:
    model = small("llama", num_key_value_heads=2)
    scores = {path: torch.tensor([1.0, 0.0, 0.4, 0.5]) for path in structure.attentions(model)}
    kept = selection.best_heads(model, scores, 0.5)
    assert set(map(tuple, kept.values())) == {(0, 1)}
    selection.narrow_heads(model, kept)
    assert (model.config.num_attention_heads, model.config.num_key_value_heads) == (2, 1)  # type: ignore[attr-defined]


def test_heads_in_memory_differ_by_layer(tmp_path: Path) -> None:
    model = structure.prune_heads(small(), {0: [3, 1], 2: [0]})
    assert [block.attention.heads for block in model.stack.blocks] == [2, 4, 3, 4]  # type: ignore[union-attr]
    with torch.no_grad():
        assert bool(loss(model, batches()[0]).isfinite())
    with pytest.raises(DataError, match=r"stack.blocks.0.attention has 2 heads, and config.json says 4.*in memory"):
        save_model(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "nothing": ({}, {}, "nothing to remove"),
    "heads of bert": ({}, {"heads": 0.5}, "config.json of a bert cannot say it.*prune layers or inner width"),
    "layers of albert": ({"family": "albert"}, {"layers": 0.5}, "they share|share their weights"),
    "too little": ({}, {"layers": 0.1}, "0.1 of the 4 of stack is none"),
    "too little width": ({}, {"inner": 0.1}, "0.1 of the 64 of stack.blocks.0.feedforward in steps of 32 is none"),
    "a pattern that does not divide": (
        {"hidden_size": 30, "num_attention_heads": 3},
        {"sparsity": "magnitude", "pattern": "2:4"},
        "reads 30 values, no multiple of 4",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_before_anything_changes(case: str) -> None:
    fields, config, message = REFUSED[case]
    model = small(**fields)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    with pytest.raises(UsageError, match=message):
        apply(model, **config)
    assert before.keys() == dict(model.named_parameters()).keys()
    assert all(torch.equal(before[name], parameter) for name, parameter in model.named_parameters())


@pytest.mark.parametrize("fields", [{"layers": 1.0}, {"inner": -0.1}, {"pattern": "4:2"}, {"sparsity": "wonda"}])
def test_settings_out_of_range(fields: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"compress\.prune"):
        find_compression("prune", fields)


def test_needs() -> None:
    assert prune.needs(prune.Config(layers=0.5)) == {"loss"}
    assert prune.needs(prune.Config(sparsity="wanda")) == {"calibration"}
    assert prune.needs(prune.Config(sparsity="magnitude")) == set()
    with pytest.raises(UsageError, match="compress: prune: needs calibration data that the model can be wrong about"):
        find_compression("prune", {"layers": 0.5}).apply(small(), CompressContext(None, Draw(0)))  # type: ignore[arg-type]


def test_a_model_without_a_loss() -> None:
    method = find_compression("prune", {"layers": 0.5})
    with pytest.raises(UsageError, match="needs calibration data that the model can be wrong about"):
        method.apply(small(), context())  # whose objective is None


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ({"stack": []}, "name those that stay, ascending and one at least"),
        ({"stack": [0, 4]}, "stack has layers 0 to 3"),
        ({"stack": [2, 1]}, "ascending"),
        ({"encoder.stack": [0]}, "no stack 'encoder.stack'"),
    ],
)
def test_layers_that_are_not_there(layers: dict[str, list[int]], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        selection.drop_layers(small(), layers)


def test_a_loss_that_is_no_number() -> None:
    model = small()
    with torch.no_grad():
        model.stack.blocks[1].feedforward.up.weight[0, 0] = float("nan")  # type: ignore[union-attr,index]
    for fields in ({"inner": 0.5}, {"layers": 0.5}, {"layers": 0.5, "importance": "gradient"}):
        with pytest.raises(DataError, match=r"the loss of calibration batch 0 is nan.*earlier checkpoint"):
            apply(model, **fields)


def test_what_is_quantized_is_refused() -> None:
    class Rounded(Projection):
        """Stands for a rounded projection."""

    model = small()
    model.stack.blocks[1].attention.query = Rounded(32, 32)  # type: ignore[union-attr]
    for fields in ({"layers": 0.5}, {"sparsity": "magnitude"}):
        with pytest.raises(UsageError, match=r"blocks.1.attention.query is a Rounded.*prune first, then quantize"):
            apply(model, **fields)


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ({9: [0]}, "no attention 'stack.blocks.9.attention'"),
        ({0: [7]}, "has heads 0 to 3, and none numbered 7"),
        ({0: [0, 1, 2, 3]}, "no head would be left"),
    ],
)
def test_heads_that_are_not_there(heads: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        structure.prune_heads(small(), heads)


def test_parts_of_groups_are_refused() -> None:
    model = small("llama", num_key_value_heads=2)
    with pytest.raises(UsageError, match=r"2 heads of queries share a head of keys.*remove whole groups"):
        structure.prune_heads(model, {0: [0]})
    structure.prune_heads(model, {0: [0, 3]})  # one of each
    assert model.stack.blocks[0].attention.heads == 2  # type: ignore[union-attr]


def test_t5_shares_biases() -> None:
    model = familykit.tiny("t5")
    with pytest.raises(UsageError, match="share a bias for each head"):
        structure.prune_heads(model, {0: [1]})


def test_parts_that_are_not_known() -> None:
    model = small()
    model.stack.blocks[1].feedforward = torch.nn.Identity()
    with pytest.raises(UsageError, match=r"stack.blocks.1.feedforward is a Identity.*prune layers"):
        apply(model, inner=0.5)


def test_a_family_that_says_no_sizes(tmp_path: Path) -> None:
    """A user's own family without SIZE_FIELDS is told what to add; with them it is pruned like ours."""
    text = (
        "from pretune.models import bert\nfrom pretune.models.bert import Config, SIZES, {imports}WEIGHT_MAP\n"
        "PREFIX, ATTENTION_DROPOUT, ARCHITECTURES = bert.PREFIX, bert.ATTENTION_DROPOUT, bert.ARCHITECTURES\n"
        "def build(config):\n    return bert.build(config)\n"
    )
    for name, imports in (("silent", ""), ("telling", "SIZE_FIELDS, ")):
        (tmp_path / f"{name}.py").write_text(text.format(imports=imports))
    with pytest.raises(UsageError, match=r"does not say which fields.*add SIZE_FIELDS"):
        apply(small(str(tmp_path / "silent.py")), layers=0.5)
    assert len(apply(small(str(tmp_path / "telling.py")), layers=0.5).stack.order) == 2
