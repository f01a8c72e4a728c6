import pytest
import torch

from pretune.runtime import precision
from pretune.runtime.allocator import tune_allocator
from pretune.runtime.precision import bf16_unit, choose_precision, fingerprint, measure

CPU = torch.device("cpu")


def test_auto_asks_the_hardware_and_not_the_clock(monkeypatch):
    """A loaded machine measured bf16 slower than fp32, and `evaluate` gave 6.58973 one time and 6.58945 the next."""
    speeds = {"bf16": 1e11, "fp32": 4e11}
    monkeypatch.setattr(precision, "measure", lambda device, name: speeds[name])
    monkeypatch.setattr(precision, "bf16_unit", lambda device: "AVX512_BF16")
    chosen = choose_precision("auto", CPU, with_peak=True)
    assert (chosen.name, chosen.peak) == ("bf16", 1e11)
    assert str(chosen) == "precision: bf16 (AVX512_BF16; choose fp32 for unrounded results)"
    monkeypatch.setattr(precision, "bf16_unit", lambda device: "")
    assert choose_precision("auto", CPU).name == "fp32"
    assert choose_precision("bf16", CPU).name == "bf16"


def test_nothing_is_measured_where_no_peak_is_asked_for(monkeypatch):
    monkeypatch.setattr(precision, "measure", lambda device, name: pytest.fail("the clock was asked"))
    assert {choose_precision("auto", CPU).name for _ in range(3)} == {"bf16" if bf16_unit(CPU) else "fp32"}
    assert choose_precision("fp32", CPU).peak == 0.0


@pytest.mark.parametrize(("flops", "width"), [(2e10, 1024), (1e12, 1024), (7e8, 256), (1e6, 128)])
def test_the_peak_is_that_of_a_product_that_is_over_in_time(monkeypatch, flops, width):
    """Without a unit for bf16, a product of 1024 x 1024 took 3 seconds, and each run made two."""
    clock, widths = [0.0], []

    def timed(left, right, out):
        assert left.dtype == right.dtype == out.dtype == torch.bfloat16
        widths.append(len(left))
        clock[0] += 2.0 * len(left) ** 3 / flops
        return 2.0 * len(left) ** 3 / flops

    monkeypatch.setattr(precision, "_timed_product", timed)
    monkeypatch.setattr(precision.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(torch, "mm", lambda left, right, out: None)
    assert measure(CPU, "bf16") == pytest.approx(flops)
    assert widths[-1] == max(widths) == width
    if width > 128:
        assert clock[0] < 0.5


def test_the_peak_of_this_machine_is_a_speed():
    assert 1e6 < measure(CPU, "fp32", seconds=0.001) < 1e15


def test_the_unit_is_torchs_name_of_what_the_cpu_has(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert bf16_unit(CPU) == "AVX512_BF16"
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert bf16_unit(CPU) == "AMX"
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert bf16_unit(CPU) == "", "without oneDNN nothing uses the unit"


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
