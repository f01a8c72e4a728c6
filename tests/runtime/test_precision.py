import torch

from pretune.runtime import precision
from pretune.runtime.allocator import tune_allocator
from pretune.runtime.precision import choose_precision, fingerprint

CPU = torch.device("cpu")


def test_auto_takes_what_the_probe_finds_faster(monkeypatch):
    speeds = {"bf16": 4e11, "fp32": 1e11}
    monkeypatch.setattr(precision, "measure", lambda device, name: speeds[name])
    monkeypatch.setattr(precision, "_native_bf16", lambda device: True)
    found = choose_precision("auto", CPU)
    assert (found.name, found.peak) == ("bf16", 4e11)
    assert "400" in found.why
    speeds["bf16"] = 1.1e11
    assert choose_precision("auto", CPU).name == "fp32"
    speeds["bf16"] = 4e11
    monkeypatch.setattr(precision, "_native_bf16", lambda device: False)
    assert choose_precision("auto", CPU).name == "fp32"
    assert choose_precision("bf16", CPU).name == "bf16"


def test_autocast_leaves_weights_alone():
    layer = torch.nn.Linear(4, 4)
    with choose_precision("bf16", CPU).autocast(CPU):
        out = layer(torch.ones(1, 4))
    assert (out.dtype, layer.weight.dtype) == (torch.bfloat16, torch.float32)
    with choose_precision("fp32", CPU).autocast(CPU):
        assert layer(torch.ones(1, 4)).dtype == torch.float32


def test_the_fingerprint_follows_the_threads():
    own = choose_precision("fp32", CPU)
    before = fingerprint(CPU, own, 1)
    torch.set_num_threads(2)
    after = fingerprint(CPU, own, 1)
    assert {key for key in before if before[key] != after[key]} == {"threads"}


def test_allocator_says_whether_it_took_the_settings():
    assert tune_allocator() in (True, False)
