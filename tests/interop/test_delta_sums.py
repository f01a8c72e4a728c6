"""Deltas add, average and subtract: the result changes each matrix by the sum of the changes; the rest is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pretune.cli import main
from pretune.errors import CannotCreateError, DataError, UsageError
from pretune.interop.delta_sums import combine, parse_weights
from pretune.interop.deltas import read_record, save_delta
from pretune.interop.fingerprint import body_fingerprint
from pretune.interop.huggingface import load_model, save_model
from pretune.interop.recorded_heads import head_sources
from pretune.interop.tuned_model import load_delta, merge_delta, tune
from pretune.models import build
from pretune.models.model import LanguageModel
from pretune.tune.method import find_method
from tests.train.trainkit import make_tokenizer

pytestmark = pytest.mark.usefixtures("unsealed")
SHAPE = {
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "vocab_size": 64,
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("sums")
    save_model(build("bert", "tiny", ["mlm"], SHAPE), root / "base", make_tokenizer(root / "tokenizer"))
    return root / "base"


def learn(path: Path, base: Path, method: str, seed: int, roles: list[str] | None = None, **config: Any) -> Path:
    """Deltas of random values, heads included."""
    model = load_model(base, heads=roles or ["mlm"], labels=["a", "b"])
    model.metadata = model.metadata.model_copy(update={"base": body_fingerprint(model), "heads": head_sources(model)})
    chosen = find_method(method, config)
    model = tune(model, chosen)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(torch.empty_like(weight).normal_(0, 0.2, generator=draw))
        for brick in model.modules():
            if isinstance(getattr(brick, "kept", None), Tensor):
                brick.kept[seed::3] = False
                brick.e[seed::3] = 0
    save_delta(model, path, chosen, str(base), make_tokenizer(path.with_name("tokenizer")))
    return path


def matrices(model: LanguageModel) -> dict[str, Tensor]:
    return {name: weight.detach() for name, weight in model.named_parameters()}


def merged(path: Path) -> dict[str, Tensor]:
    return matrices(merge_delta(load_delta(path), path))


@pytest.mark.parametrize(
    ("method", "one", "two"),
    [
        ("lora", {"rank": 2}, {"rank": 3, "alpha": 5.0, "rank_stabilized": True}),
        ("lora", {"places": ["layers[:1].attention.key", "vocabulary"], "rank": 2}, {"rank": 4}),
        ("adalora", {"init_rank": 4, "target_rank": 2}, {"init_rank": 6, "target_rank": 2, "places": ["feedforward"]}),
        ("ia3", {}, {}),
        ("bitfit", {}, {}),
    ],
)
@pytest.mark.parametrize(("operation", "weights"), [("add", None), ("average", "1,3"), ("subtract", "1,0.5")])
def test_the_sum_changes_each_matrix_by_the_sum_of_the_changes(
    base: Path, tmp_path: Path, method: str, one: dict[str, Any], two: dict[str, Any], operation: Any, weights: str
) -> None:
    folders = [learn(tmp_path / "first", base, method, 1, **one), learn(tmp_path / "second", base, method, 2, **two)]
    numbers = parse_weights(weights, operation, 2)
    assert combine(folders, numbers, tmp_path / "both") == []
    before, result = matrices(load_model(base)), merged(tmp_path / "both")
    changed = [merged(path) for path in folders]
    for name, was in before.items():
        want = was + sum((part[name] - was) * weight for part, weight in zip(changed, numbers, strict=True))
        torch.testing.assert_close(result[name], want, atol=2e-5, rtol=1e-4)
    assert read_record(tmp_path / "both").method.name == {"adalora": "lora"}.get(method, method)
    assert any(not torch.equal(before[name], result[name]) for name in before if ".attention." in name)


def test_heads_of_tasks(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those that began from random values do not add up."""
    first, second = (learn(tmp_path / f"run{n}", base, "lora", n, ["classification"]) for n in range(2))
    with pytest.raises(UsageError, match="head classification of its own, which began from random values"):
        combine([first, second], [1, 1], tmp_path / "no")
    assert not (tmp_path / "no").exists()
    paths = [str(first), str(second)]
    assert main(["delta", "average", *paths, "--output", str(tmp_path / "mean"), "--quiet"]) == 0
    assert main(["delta", "subtract", *paths, "--output", str(tmp_path / "less"), "--quiet"]) == 0
    assert main(["delta", "add", *paths, "--output", str(tmp_path / "no"), "--quiet"]) == 64
    assert "choose --heads first or --heads average" in capsys.readouterr().err
    assert main(["delta", "add", paths[0], "--output", str(tmp_path / "no"), "--quiet"]) == 64
    assert main(["delta", "add", *paths, "--weights", "1", "--output", str(tmp_path / "no"), "--quiet"]) == 64
    name = "heads.classification.linear.weight"
    heads = [dict(load_delta(path).named_parameters())[name] for path in (first, second, tmp_path / "mean")]
    torch.testing.assert_close(heads[2], (heads[0] + heads[1]) / 2)
    assert torch.equal(dict(load_delta(tmp_path / "less").named_parameters())[name], heads[0])
    mean = ["--heads", "average", "--quiet", "--output"]
    assert main(["delta", "subtract", *paths, *mean, str(tmp_path / "less with the mean")]) == 0
    own = dict(load_delta(tmp_path / "less with the mean").named_parameters())[name]
    torch.testing.assert_close(own, heads[2])
    assert main(["delta", "add", *paths, "--weights", "0,0", *mean, str(tmp_path / "no")]) == 64
    pretraining = learn(tmp_path / "mlm", base, "lora", 3)
    notes = combine([first, pretraining], [1, 1], tmp_path / "one")
    assert notes == [f"heads left out, as {first} has none of them: mlm"]


def rewrite(path: Path, **fields: object) -> None:
    tree = json.loads((path / "delta.json").read_text())
    (path / "delta.json").write_text(json.dumps({**tree, **fields}))


def test_what_cannot_be_added_is_named(base: Path, tmp_path: Path) -> None:
    roles = ["classification"]

    def refused(one: Path, two: Path, kind: type[Exception], message: str) -> None:
        with pytest.raises(kind, match=message):
            combine([one, two], [0.5, 0.5], tmp_path / "no", "average")
        assert not (tmp_path / "no").exists()

    def both(name: str, method: str, roles: list[str] | None = None, **config: Any) -> tuple[Path, Path]:
        one, two = (learn(tmp_path / f"{name}{n}", base, method, n, roles, **config) for n in range(2))
        return one, two

    first, second = both("run", "lora", roles)
    refused(first, learn(tmp_path / "factors", base, "ia3", 1, roles), UsageError, "learned by lora and ia3")
    refused(first, base, UsageError, "is a whole model")
    dora = both("dora", "lora", weight_decomposed=True)
    refused(*dora, UsageError, "deltas of lora cannot be added: weight_decomposed")
    biases = (
        learn(tmp_path / "biases", base, "bitfit", 1),
        learn(tmp_path / "some", base, "bitfit", 1, places=["attention"]),
    )
    refused(*biases, UsageError, "deltas of bitfit cannot be added: they trained other weights")
    prefixes = both("prefix", "prefix", length=3)
    refused(*prefixes, UsageError, "deltas of prefix cannot be added: what it learns is no change")
    refused(*both("wide", "lora", rank=20), UsageError, "deltas of lora cannot be added: .*rank 40 is above the 32")
    refused(*both("head", "lora", roles, places=["heads"], rank=1), UsageError, "is of a place in a head")
    rewrite(second, labels=["b", "a"])
    refused(first, second, UsageError, "the same in another order")
    rewrite(second, labels=["a", "b"], tokenizer="0" * 64)
    refused(first, second, DataError, "have other tokenizers")
    rewrite(second, fingerprint="0" * 64)
    refused(first, second, DataError, "were tuned on other weights")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(CannotCreateError, match="holds something already"):
        combine([first, first], [1, 1], tmp_path / "full", "first")


def test_weights() -> None:
    assert parse_weights(None, "add", 2) == [1, 1]
    assert parse_weights(None, "subtract", 3) == [1, -1, -1]
    assert parse_weights("1,3", "average", 2) == [0.25, 0.75]
    for text in ("a,b", "1", "nan,1", "inf,1"):
        with pytest.raises(UsageError, match="--weights"):
            parse_weights(text, "add", 2)
    with pytest.raises(UsageError, match="their sum is 0"):
        parse_weights("0,0", "average", 2)
    for text in ("1,-1", "-1,-3"):
        with pytest.raises(UsageError, match="no weights below 0; use add"):
            parse_weights(text, "average", 2)
    assert parse_weights("-1", "add", 1) == [-1]
