"""The command line: what it prints, how long it takes to begin, and the exit code of everything that can be wrong."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pretune.cli import main
from pretune.cli.session import explain, guard
from pretune.errors import DataError, StorageError
from pretune.runtime.signals import Terminated

WORDS = ["the", "function", "returns", "an", "array", "of", "values", "sorted", "along", "its", "last", "axis"]
NAMES = ("corpus.txt", "labels.jsonl", "tok", "store", "bert", "classifier")


def cpu_seconds(*words: str) -> float:
    """User and system time of a child interpreter, the best of three."""
    code = (
        "import resource, subprocess, sys\n"
        "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(used.ru_utime + used.ru_stime)"
    )
    command = [sys.executable, "-c", code, sys.executable, *words]
    return min(float(subprocess.run(command, check=True, capture_output=True).stdout) for _ in range(3))


def run(*words: object) -> int:
    return main([str(word) for word in words])


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with text, labels, and everything that the verbs make of them, in the order of the README."""
    folder = tmp_path_factory.mktemp("life")
    draw = np.random.default_rng(0)
    sentences = [" ".join(draw.choice(WORDS, 12)).capitalize() + "." for _ in range(1200)]
    (folder / "corpus.txt").write_text("\n\n".join(" ".join(sentences[n : n + 4]) for n in range(0, 1200, 4)))
    rows = [{"text": s, "label": "array" if "array" in s else "none"} for s in sentences[:64]]
    (folder / "labels.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    steps = "--budget.steps 3 --data.batch 8 --data.length 32 --evaluation.samples 8"
    for line in (
        "tokenizer train corpus.txt --output tok --vocab-size 120",
        "prepare corpus.txt --tokenizer tok --output store --processes 1",
        f"pretrain --objective mlm,nsp --data.stores store --model.size tiny --output bert {steps}",
        f"finetune --task classification --model.init bert --data.train labels.jsonl --output classifier {steps}",
    ):
        words = [str(folder / word) if word in NAMES else word for word in line.split()]
        assert main([*words, "--quiet", "--no-allocator", "--device", "cpu"]) == 0, line
    return folder


class TestStart:
    def test_import_takes_less_than_a_tenth_of_a_second(self) -> None:
        assert cpu_seconds("-c", "import pretune") < 0.1

    def test_help_takes_little_more_than_the_libraries_that_print_it(self) -> None:
        """Half a second of CPU where the libraries take 0.25: a bound that holds on any processor."""
        assert cpu_seconds("-m", "pretune", "--help") < 4 * cpu_seconds("-c", "import cyclopts, pydantic, rich.console")

    def test_help_does_not_import_torch(self) -> None:
        code = (
            "import sys, pretune; from pretune.cli import main; main(['--help']); main(['predict', '--help'])\n"
            "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
        )
        assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0

    def test_help_lists_every_field_of_a_recipe(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("pretrain", "--help-all") == 0
        output = capsys.readouterr().out
        for field in (
            "--optimizer.lr NUMBER",
            "--data.stores LIST",
            "--budget.tokens INTEGER",
            "cert, clm, denoise, mlm",
        ):
            assert field in output

    def test_version(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("version") == 0
        assert capsys.readouterr().out == "0.1.0\n"


class TestLife:
    def test_run_directory_is_complete(self, life: Path) -> None:
        names = {"config.json", "model.safetensors", "tokenizer.json", "metrics.jsonl", "recipe.toml", "report.html"}
        for model in ("bert", "classifier"):
            assert names <= {path.name for path in (life / model).iterdir()}
            assert "Samples" in (life / model / "report.html").read_text()

    def test_predict_from_arguments_file_and_stdin(
        self, life: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert run("predict", life / "classifier", "an array", "--quiet") == 0
        first = json.loads(capsys.readouterr().out)
        assert set(first["probabilities"]) == {"array", "none"}
        assert sum(first["probabilities"].values()) == pytest.approx(1, abs=1e-3)
        texts = life / "texts.txt"
        texts.write_text("an array\nthe axis\n")
        assert run("predict", life / "classifier", "--input", texts, "--output", life / "out.jsonl", "--quiet") == 0
        lines = [json.loads(line) for line in (life / "out.jsonl").read_text().splitlines()]
        assert [line["text"] for line in lines] == ["an array", "the axis"]
        assert lines[0]["probabilities"] == pytest.approx(first["probabilities"], abs=1e-2)
        with texts.open() as file:
            monkeypatch.setattr(sys, "stdin", file)
            assert run("predict", life / "classifier", "--quiet") == 0
        assert [json.loads(line)["label"] for line in capsys.readouterr().out.splitlines()] == [
            line["label"] for line in lines
        ]

    def test_fill_prints_guesses_for_each_mask(self, life: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("fill", life / "bert", "the [MASK] of [MASK]", "--top", 3, "--json", "--quiet") == 0
        masks = json.loads(capsys.readouterr().out)["masks"]
        assert [len(guesses) for guesses in masks] == [3, 3]

    def test_embed_writes_an_array(self, life: Path) -> None:
        target = life / "vectors.npy"
        assert run("embed", life / "bert", "one", "the array", "--output", target, "--quiet") == 0
        assert np.load(target).shape == (2, 128)
        assert np.load(target).dtype == np.float32

    def test_evaluate_prints_scores(self, life: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("evaluate", life / "classifier", life / "labels.jsonl", "--quiet") == 0
        assert 0 <= json.loads(capsys.readouterr().out)["accuracy"] <= 1
        assert run("evaluate", life / "bert", life / "store", "--quiet") == 0
        assert {"loss/mlm", "loss/nsp"} <= set(json.loads(capsys.readouterr().out))

    def test_words_go_to_stderr_and_name_the_next_command(self, life: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("pretrain", life / "bert" / "recipe.toml", "--no-allocator") == 0  # finished: nothing is left to do
        messages = capsys.readouterr()
        assert messages.out == ""
        assert "pretraining bert tiny" in messages.err
        assert f"pretune fill {life / 'bert'}" in messages.err

    def test_show_trains_nothing(self, life: Path, capsys: pytest.CaptureFixture[str]) -> None:
        before = sorted(life.iterdir())
        words = ("--objective", "mlm", "--data.stores", life / "store", "--budget.epochs", 2, "--output", life / "no")
        assert run("show", *words) == 0
        output = capsys.readouterr().out
        assert sorted(life.iterdir()) == before
        for expected in ("0..3 (4 equal)", "parameters", "activations of a micro-batch", "= 2.0"):
            assert expected in output


class TestBadInput:
    @pytest.mark.parametrize(
        ("words", "code", "told"),
        [
            (["nope"], 64, ""),
            (["predict"], 64, ""),
            (["pretrain"], 64, "name a recipe"),
            (["pretrain", "--optimiser.lr", "1"], 64, "did you mean --lr (optimizer.lr)?"),
            (["pretrain", "--optimizer.lrr", "1"], 64, "did you mean 'lr'?"),
            (["pretrain", "--optimizer.lr", "-1"], 64, "'optimizer.lr' (--lr) = -1"),
            (["pretrain", "--budget.steps", "0"], 64, "'budget.steps' (--steps) = 0"),
            (["pretrain", "--task", "classification"], 64, "pretune finetune"),
            (["pretrain", "--objective", "mlmm", "--data.stores", "store"], 66, "store"),
            (["pretrain", "absent.toml"], 66, "absent.toml"),
            (["pretrain", "--objective", "mlm"], 64, "data.stores"),
            (["prepare", "--tokenizer", "t", "--output", "o"], 64, "name the text"),
            (["prepare", "absent.txt", "--tokenizer", "absent", "--output", "o"], 66, "absent"),
            (["corpus", "pydocs", "out.txt"], 64, ".jsonl"),
            (["report", "."], 66, "metrics.jsonl"),
            (["predict", "absent", "text"], 66, "absent"),
            (["embed", "absent", "x", "--output", "v.parquet"], 64, ".npy"),
            (["fill", "absent", "--top", "0"], 64, "--top 0"),
        ],
    )
    def test_exit_code_and_message(
        self,
        words: list[str],
        code: int,
        told: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert main([*words, "--no-allocator"]) == code
        messages = capsys.readouterr().err
        assert told in messages
        assert "Traceback" not in messages
        assert not list(tmp_path.iterdir())

    def test_bad_toml_names_the_line(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        recipe = tmp_path / "recipe.toml"
        recipe.write_text('output = "x"\nseed = = 3\n')
        assert run("pretrain", recipe) == 64
        assert "line 2" in capsys.readouterr().err

    def test_flags_lie_over_the_recipe(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        recipe = tmp_path / "recipe.toml"
        recipe.write_text('objective = {mlm = 1.0}\n[data]\nstores = ["first"]\n')
        assert run("pretrain", recipe, "--data.stores", "second", "--output", tmp_path / "run") == 66
        assert "second" in capsys.readouterr().err

    @pytest.mark.parametrize("content", ["", " \n\n\t\n"])
    def test_no_text(self, content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "empty.txt").write_text(content)
        assert run("tokenizer", "train", tmp_path / "empty.txt", "--output", tmp_path / "tok", "--no-allocator") == 65
        assert "empty.txt" in capsys.readouterr().err
        assert not (tmp_path / "tok").exists()

    def test_an_output_that_holds_something_is_left_alone(self, tmp_path: Path) -> None:
        (tmp_path / "text.txt").write_text("some words\n")
        (tmp_path / "tok").mkdir()
        (tmp_path / "tok" / "mine").write_text("x")
        assert run("tokenizer", "train", tmp_path / "text.txt", "--output", tmp_path / "tok", "--no-allocator") == 73
        assert (tmp_path / "tok" / "mine").read_text() == "x"

    def test_an_empty_line_of_stdin_is_named(
        self, life: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (life / "lines.txt").write_text("an array\n\nmore\n")
        with (life / "lines.txt").open() as file:
            monkeypatch.setattr(sys, "stdin", file)
            assert run("predict", life / "classifier", "--output", life / "never.jsonl") == 65
        assert "standard input:2" in capsys.readouterr().err
        assert not (life / "never.jsonl").exists()
        assert not list(life.glob(".never*"))


class TestErrors:
    @pytest.mark.parametrize(
        ("error", "code"),
        [
            (DataError("x"), 65),
            (StorageError("x"), 74),
            (OSError(errno.ENOSPC, "No space left on device", "file"), 74),
            (PermissionError(errno.EACCES, "Permission denied", "file"), 73),
            (FileNotFoundError(errno.ENOENT, "No such file or directory", "file"), 66),
            (KeyboardInterrupt(), 130),
            (Terminated(), 143),
            (MemoryError(), 75),
            (np._core._exceptions._ArrayMemoryError((1 << 40,), np.dtype("f8")), 75),
            (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), 75),
            (RuntimeError("CUDA out of memory"), 75),
            (OSError(errno.ENOMEM, "Cannot allocate memory"), 75),
            (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), 75),
            (RuntimeError("can't start new thread"), 75),
            (Terminated(signal.SIGHUP), 129),
            (RuntimeError("surprise"), 70),
        ],
    )
    def test_code_of_an_error(self, error: BaseException, code: int) -> None:
        assert explain(error)[1] == code

    def test_traceback_only_with_debug(self, capsys: pytest.CaptureFixture[str]) -> None:
        def fail() -> int:
            raise DataError("file.txt:3: broken")

        assert guard(fail, debug=False) == 65
        assert capsys.readouterr().err == "pretune: file.txt:3: broken\n"
        assert guard(fail, debug=True) == 65
        assert "Traceback" in capsys.readouterr().err

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
    def test_signals(self, number: signal.Signals) -> None:
        wait = "import signal, sys, time\nfrom pretune.cli.session import guard\n"
        wait += "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a background job inherits it ignored
        wait += "def action():\n    print('ready', flush=True)\n    time.sleep(60)\n    return 0\n"
        wait += "sys.exit(guard(action, False))"
        with subprocess.Popen([sys.executable, "-c", wait], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
            assert child.stdout is not None
            child.stdout.readline()
            child.send_signal(number)
            assert child.wait(30) == 128 + number

    def test_a_reader_that_goes_away(self) -> None:
        with subprocess.Popen([sys.executable, "-m", "pretune", "version"], stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            child.stdout.close()
            assert child.wait(60) == 141

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
    def test_a_full_disk(self) -> None:
        with open("/dev/full", "w") as full:
            done = subprocess.run([sys.executable, "-m", "pretune", "version"], stdout=full, stderr=subprocess.PIPE)
        assert done.returncode == 74
        assert b"free some space" in done.stderr
        assert b"Traceback" not in done.stderr


def test_threads_and_huge_pages_are_set_before_torch_loads() -> None:
    code = (
        "import os, sys\nfrom pretune.cli.session import Session\n"
        "Session(threads=1).start()\nassert 'torch' not in sys.modules\nimport torch\n"
        "print(torch.get_num_threads(), os.environ.get('THP_MEM_ALLOC_ENABLE'))"
    )
    clean = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=clean)
    assert done.stdout.split() == ["1", "1"]
