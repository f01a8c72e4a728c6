"""`pretune show`: lists of what there is, and one variant with its fields, read without importing torch."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from pretune.cli import main
from pretune.cli.fields import entries
from pretune.cli.lists import AXES, LISTS
from pretune.cli.variant_files import read_config, read_variant
from pretune.find import find_class, variants
from pretune.objectives.objective import Objective
from pretune.tasks.task import Task
from pretune.tasks.vector_losses.vector_loss import VectorLoss

WITHOUT_FIELDS = ("text.chat.formats",)
VARIANTS = [(axis, name) for axis, _ in AXES.values() if axis not in WITHOUT_FIELDS for name in variants(axis)]

CLASSES = {"objectives": Objective, "tasks": Task, "tasks.vector_losses": VectorLoss}


def config_of(axis: str, name: str) -> type[BaseModel]:
    """The class itself, from the imported file."""
    if axis in CLASSES:
        base: Any = CLASSES[axis]
        return find_class(axis, name, base).Config  # type: ignore[no-any-return]
    config: type[BaseModel] = importlib.import_module(f"pretune.{axis}.{name}").Config
    return config


def by_name(fields: Any) -> dict[str, tuple[str, str, str]]:
    """Without a table of Llama whose fields the class itself does not name one by one."""
    listed = (field for field in fields if not field.name.startswith("rope_parameters"))
    return {field.name: (field.type, field.default, field.meaning) for field in listed}


@pytest.mark.parametrize(("axis", "name"), VARIANTS)
def test_a_file_is_read_as_it_is_imported(axis: str, name: str) -> None:
    """Names, types, defaults and meanings of every field."""
    assert by_name(read_variant(axis, name).fields) == by_name(entries(config_of(axis, name)))


@pytest.mark.parametrize(
    "target",
    [
        "pretune.text.tokenizer.train:TokenizerConfig",
        "pretune.text.tokenizer.extend:ExtendConfig",
        "pretune.text.store.prepare:PrepareConfig",
        "pretune.text.readers.corpus:CorpusConfig",
        "pretune.augment.files:AugmentConfig",
    ],
)
def test_a_class_is_read_as_it_is_imported(target: str) -> None:
    module, _, name = target.partition(":")
    expected = by_name(entries(getattr(importlib.import_module(module), name), "table."))
    assert by_name(read_config(module, name, "table.")) == expected


@pytest.mark.parametrize("name", LISTS)
def test_a_list_has_a_line_for_each_variant(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`show objectives` printed 389 lines of Markdown, and `show tasks` "no such recipe"."""
    assert main(["show", name]) == 0
    output = capsys.readouterr().out.splitlines()
    assert len(output) <= 48
    lines = [line for line in output if not line.startswith("  ")]
    names = variants(AXES[name][0]) if name in AXES else ["linear", "cosine", "constant", "inverse_sqrt"]
    assert [line.split()[0] for line in lines[: len(names)]] == names
    assert lines[len(names)] == ""
    assert lines[-1].startswith("choose one with --")


def test_one_variant_is_shown_with_its_fields(capsys: pytest.CaptureFixture[str]) -> None:
    for name, expected in {
        "mlm": ("--objective.mlm.rate NUMBER = 0.15", "fraction of a sample's units that are predicted"),
        "classification": ("--task.classification.class_weights none|balanced or TABLE", "label_smoothing NUMBER"),
        "bert": ("--model.size tiny|mini|small|medium|base|large", "num_hidden_layers = 12"),
        "muon": ("--optimizer.momentum NUMBER = 0.95", "decay of Muon's running mean"),
        "cosine": ("--schedule.kind cosine", "--schedule.warmup NUMBER = 0.06"),
        "frozen": ("--tune frozen", "trains the heads alone"),
        "cert": ("--task cert  (tasks)", "--objective cert  (objectives)"),
    }.items():
        assert main(["show", name]) == 0
        output = capsys.readouterr().out
        assert [part for part in expected if part not in output] == []
        assert "None" not in output
        assert max(map(len, output.splitlines())) <= 120


def test_what_is_nothing_is_answered_with_what_is_near(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "objectvies"]) == 64
    assert "did you mean 'objectives'?" in capsys.readouterr().err
    assert main(["show", "mml"]) == 64
    assert "did you mean 'mlm'?" in capsys.readouterr().err
    assert main(["show", "zzzz"]) == 64
    assert f"lists: {', '.join(LISTS)}" in capsys.readouterr().err
    assert main(["show", "optimizers", "--markdown"]) == 64
    assert "pages: families, objectives, tasks, compatibility" in capsys.readouterr().err


def test_show_alone_names_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show"]) == 0
    output = capsys.readouterr().out
    assert [line.split()[0] for line in output.splitlines() if line and line[0] != " "][: len(LISTS)] == list(LISTS)
    assert "cert, chat, choice, classification" in output


def test_lists_need_no_torch(tmp_path: Path) -> None:
    script = "import sys; from pretune.cli import main\n"
    script += "codes = [main(['show', name]) for name in ('tasks', 'families', 'mlm', 'classification', 'cosine')]\n"
    script += "sys.exit(any(codes) or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], stdout=subprocess.DEVNULL, cwd=tmp_path).returncode == 0
