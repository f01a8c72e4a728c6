"""Shell completion, as bash would ask for it: verbs, flags, names of variants, paths."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pretune.cli import main
from pretune.find import variants

TRY = """
source "$1"; shift
while read -r line; do
  COMP_WORDS=(${line//@/}); [[ $line == *@ ]] && COMP_WORDS+=("")
  COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 )); COMPREPLY=(); _pretune
  echo "${COMPREPLY[*]}"
done
"""
EXPECTED = {
    "pretune fin": {"finetune"},
    "pretune finetune --ta": {"--task", "--target"},
    "pretune finetune --task @": {*variants("tasks")},
    "pretune finetune --optimizer.l": {"--optimizer.lr", "--optimizer.layer_decay"},
    "pretune finetune --mod": {"--model"},
    "pretune finetune --train @": {"train.csv", "script.bash"},
    "pretune finetune rec": set(),
    "pretune pretrain --objective ml": {"mlm"},
    "pretune show ml": {"mlm"},
    "pretune help pre": {"prepare", "pretrain", "predict"},
    "pretune tokenizer @": {"train", "extend"},
    "pretune tokenizer train --kind @": {"wordpiece", "bpe", "unigram"},
    "pretune predict tr": {"train.csv"},
}


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_bash_completes_verbs_flags_names_and_paths(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "script.bash"
    assert main(["--install-completion", "--shell", "bash", "--output", str(script)]) == 0
    assert capsys.readouterr().out == f"written: {script}; load it from the startup file of your bash\n"
    (tmp_path / "train.csv").touch()
    command = ["bash", "-c", TRY, "try", str(script)]
    lines = "".join(f"{line}\n" for line in EXPECTED)
    done = subprocess.run(command, input=lines, capture_output=True, text=True, cwd=tmp_path, check=True)
    answers = [set(line.split()) for line in done.stdout.splitlines()]
    found = {line: answer for line, answer in zip(EXPECTED, answers, strict=True) if "--mod" not in line}
    assert found == {line: answer for line, answer in EXPECTED.items() if "--mod" not in line}
    assert "--model" in answers[list(EXPECTED).index("pretune finetune --mod")]


def test_it_is_installed_where_the_shell_looks(tmp_path: Path) -> None:
    script = "import sys; from pretune.cli import main\n"
    script += "code = main(['--install-completion', '--shell', 'bash'])\nsys.exit(code or 'torch' in sys.modules)"
    environment = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "every bash that is started from now on completes" in done.stdout
    assert "pretune" in (tmp_path / ".bashrc").read_text()


def test_other_shells_have_a_script(tmp_path: Path) -> None:
    assert main(["--install-completion", "--shell", "zsh", "--output", str(tmp_path / "zsh")]) == 0
    assert "classification" in (tmp_path / "zsh").read_text()
    assert main(["--install-completion", "--shell", "tcsh"]) == 64
