"""The sides of the window's benchmark: each runs, and the step learns."""

from benchmarks.benchmark import OURS, Context
from benchmarks.suite import window
from benchmarks.suite.window import Window


def test_sides(tmp_path):
    for precision, names in (("bf16", ["flash", "matmul"]), ("fp32", ["flash"])):
        ours, *full = Window().sides(Context("bands-1024", tmp_path, precision, 1))
        assert ours.name == OURS
        assert [side.name.split()[-1] for side in full] == names
        for side in (ours, *full):
            assert window.setup(**{**side.options, "length": 100})() == {"tokens": 100.0}


def test_a_step_of_modernbert(tmp_path):
    (ours,) = Window().sides(Context("modernbert-4096", tmp_path, "fp32", 1))
    assert ours.function == "setup_step"
    step = window.setup_step(length=70, precision="fp32")
    assert step()["loss"] > step()["loss"]
