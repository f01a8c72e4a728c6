"""The verb: which benchmarks it takes, what it writes, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from benchkit import BENCHMARK, script

from benchmarks import commands
from benchmarks.__main__ import main
from benchmarks.benchmark import Benchmark
from pretune import find
from pretune.errors import MissingInputError, UsageError

QUICK = ("--rounds", "2", "--warmup", "0", "--precision", "fp32", "--threads", "1", "--no-allocator", "--quiet")


@pytest.fixture
def benchmark(tmp_path: Path) -> Path:
    return script(tmp_path, BENCHMARK, "fake_benchmark.py")


def bench(*words: object) -> int:
    return main([str(word) for word in words])


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


class TestSelect:
    def test_all_by_default(self) -> None:
        chosen = commands.select([])
        assert list(chosen) == find.variants("suite", "benchmarks")
        assert chosen["train_step"][1][0] == "mlm-mini-packed"
        assert all(
            benchmark.name == name and set(variants) == set(benchmark.variants)
            for name, (benchmark, variants) in chosen.items()
        )

    def test_benchmarks_and_variants(self) -> None:
        chosen = commands.select(
            ["prepare/bpe", "train_step/mlm-base-ragged", "train_step/mlm-mini-packed", "prepare/bpe"]
        )
        assert {name: variants for name, (_, variants) in chosen.items()} == {
            "prepare": ["bpe"],
            "train_step": ["mlm-base-ragged", "mlm-mini-packed"],
        }

    def test_a_benchmark_of_the_users_own(self, benchmark: Path) -> None:
        assert commands.select([str(benchmark)])[str(benchmark)][1] == ["equal", "different"]
        (actual,) = commands.select([f"{benchmark}/equal"]).values()
        assert (actual[0].name, actual[0].script, actual[1]) == ("fake_benchmark", benchmark, ["equal"])

    def test_what_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="did you mean 'train_step'"):
            commands.select(["train_stepp"])
        with pytest.raises(UsageError, match="train_step: no variant 'mlm-mini'; did you mean"):
            commands.select(["train_step/mlm-mini"])
        with pytest.raises(MissingInputError):
            commands.select([str(tmp_path / "no.py")])


class TestVerb:
    def test_results_and_page(self, benchmark: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        out = tmp_path / "out"
        assert bench(f"{benchmark}/equal", "--output", out, *QUICK) == 0
        (path,) = out.glob("*.json")
        assert capsys.readouterr().out.split() == [str(path)]
        tree = json.loads(path.read_text())
        assert tree["benchmark"] == "fake_benchmark"
        equal = tree["variants"]["equal"]
        assert (equal["precision"], equal["threads"], equal["rounds"], equal["warmup"]) == ("fp32", 1, 2, 0)
        assert [(row["ratio"], row["allocator"]) for row in equal["rows"]] == [(2.0, "own"), (2.0, "ours")]
        assert sum(row["counts"] for row in equal["rows"]) == 1
        assert equal["limits"] == {"GEMM": [1e9, 1e9]}
        assert "| equal | peer | **2.00** |" in (out / "README.md").read_text()

    def test_a_refused_variant_is_said_and_the_others_are_recorded(
        self, benchmark: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "out"
        assert bench(benchmark, "--output", out, *QUICK) == 70
        assert "not recorded:\nfake_benchmark/different: first losses differ" in capsys.readouterr().err
        (path,) = out.glob("*.json")
        assert list(json.loads(path.read_text())["variants"]) == ["equal"]

    def test_a_machine_that_drifts_records_nothing(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        text = BENCHMARK.replace('{"GEMM": 1e9}', '{"GEMM": next(PEAKS)}').replace(
            "class Fake", "import itertools\n\nPEAKS = itertools.cycle([1e9, 1.3e9])\n\n\nclass Fake"
        )
        benchmark = script(tmp_path, text, "drifting_benchmark.py")
        out = tmp_path / "out"
        assert bench(f"{benchmark}/equal", "--output", out, *QUICK) == 70
        assert "refused: the GEMM peak drifted by 30%" in capsys.readouterr().err
        assert files(out) == []

    def test_where_results_go(self, benchmark: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        assert bench(f"{benchmark}/equal", *QUICK) == 0
        assert files(tmp_path / "bench-results")[0] == "README.md"
        (tmp_path / "benchmarks" / "results").mkdir(parents=True)
        assert bench(f"{benchmark}/equal", *QUICK) == 0
        assert files(tmp_path / "benchmarks") == ["README.md", "results"]

    def test_the_page_again(self, benchmark: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        assert bench(f"{benchmark}/equal", "--output", out, *QUICK) == 0
        page = (out / "README.md").read_text()
        (out / "README.md").unlink()
        (out / "retrieval-scale.json").write_text(
            '{"passages": 20000}'
        )  # figures of another kind, which have no section
        assert bench("--page", "--output", out) == 0
        assert (out / "README.md").read_text() == page

    def test_list(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert bench("--list", "prepare") == 0
        assert capsys.readouterr().out.split() == ["prepare/wordpiece", "prepare/bpe"]

    def test_wrong_usage(self, benchmark: Path, tmp_path: Path) -> None:
        assert bench("nothing") == 64
        assert bench(benchmark, "--rounds", "0") == 64
        assert bench(f"{benchmark}/equal", "--search", "--output", tmp_path / "out", *QUICK) == 64

    def test_cpu_time_is_that_of_one_thread(self, benchmark: Path, tmp_path: Path) -> None:
        words = (f"{benchmark}/equal", "--output", tmp_path / "out", "--clock", "cpu", *QUICK)
        assert bench(*words) == 0
        assert "CPU time" in (tmp_path / "out" / "README.md").read_text()
        assert bench(*words, "--profile") == 64
        assert bench(*words, "--threads", "2") == 64

    def test_help_and_list_do_not_import_torch(self) -> None:
        code = (
            "import sys; from benchmarks.__main__ import main; main(['--help']); main(['--list'])\n"
            "sys.exit('torch' in sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert "train_step/mlm-mini-packed" in done.stdout
        assert done.returncode == 0


def test_every_benchmark_says_what_it_is() -> None:
    for name in find.variants("suite", "benchmarks"):
        benchmark = find.find_class("suite", name, Benchmark, "benchmarks")()
        assert benchmark.about
        assert benchmark.variants
        assert benchmark.script.stem == name
