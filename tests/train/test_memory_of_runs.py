"""Memory that is asked for before any is taken: an error that names the field, and never a defect."""

from __future__ import annotations

import pytest
import torch
from test_stores import store_of
from trainkit import recipe, replaced

from pretune.cli.session import explain
from pretune.errors import DataError, UsageError
from pretune.train.memory import allocation_errors
from pretune.train.plan import make_plan
from pretune.train.run import pretrain


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"batch": None, "batch_tokens": 10**12}, r"field 'data.batch_tokens' = 1000000000000: a step needs .* GB for"),
        ({"batch": 10**12}, r"field 'data.batch' = 1000000000000: .* lower it, or raise data.accumulate \(1\)"),
        ({"batch": 10**12, "accumulate": 10**11}, r"field 'data.batch' = 1000000000000"),
    ],
)
def test_a_step_that_no_memory_holds(data, message, tmp_path, store):
    """It ended as "a defect of pretune" with a MemoryError."""
    run = recipe(tmp_path / "run", store, data=data)
    for action in (pretrain, make_plan):
        with pytest.raises(UsageError, match=message):
            action(run)
    assert not (tmp_path / "run").exists()


def test_a_queue_that_no_memory_holds(tmp_path, store):
    with pytest.raises(UsageError, match=r"queue' = 1000000000: expected 1,048,576 or less"):
        pretrain(replaced(recipe(tmp_path / "run", store), objective={"cert": {"queue": 10**9}}))


def test_what_an_objective_asks_for_in_vain():
    with (
        pytest.raises(UsageError, match=r"^own: there is not as much memory"),
        allocation_errors("own"),
    ):
        torch.zeros(1 << 50)
    with pytest.raises(RuntimeError, match="shape"), allocation_errors("own"):
        torch.zeros(2, 3).view(7)  # shapes are not memory


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried"), None])
def test_memory_that_runs_out_is_no_defect(error):
    if error is None:
        with pytest.raises(RuntimeError) as caught:
            torch.zeros(1 << 50)
        error = caught.value
    message, code = explain(error)
    assert message.startswith("not enough memory (")
    assert "data.batch" in message
    assert code == 75


def test_a_store_without_a_window(tmp_path):
    """The message was "weights of stores must be positive, got [0.0]"."""
    store = store_of(tmp_path, ["w1"])
    with pytest.raises(DataError, match=r"store: gives no window of '\w+': 1 document of 2 tokens in all, none of"):
        pretrain(replaced(recipe(tmp_path / "run", store), objective={"mlm": 1.0}, data=data_of(store)))


def data_of(store):
    return {"stores": [str(store)], "length": 32, "batch": 8, "pack": "document"}
