"""The command line: its verbs call functions of the library. Nothing here imports torch until a verb needs it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pretune import __version__
from pretune.cli import augmentation, data, labels, mining, searching, training, use
from pretune.cli.session import new_app, run_app
from pretune.language import translate

_HELP = """Take a language model through its whole life: text, tokenizer, pretraining, fine-tuning, use.

`pretune demo` shows all of it in a few minutes. `pretune VERB --help` shows the flags that matter and an example,
`--help-all` every flag. Training verbs read a recipe (TOML; `pretune init` writes one), flags (`--lr 3e-4`) or both."""

app = new_app("pretune", _HELP)
data.register(app)
augmentation.register(app)
mining.register(app)
labels.register(app)
training.register(app)
use.register(app)
searching.register(app)


@app.command
def version() -> None:
    """Print the version of pretune."""
    print(__version__)


@app.command(name="help")
def show_help(*verb: str) -> None:
    """Explain a verb: the flags that matter and an example; with `--help-all` every flag and field.

    Args:
        verb: such as finetune, or tokenizer train.
    """
    raise AssertionError(verb)  # `rewrite` turns `help VERB` into `VERB --help`


@app.command(name="--install-completion")
def install_completion(
    *, shell: Literal["bash", "zsh", "fish", "powershell"] | None = None, output: Path | None = None
) -> None:
    """Install completion of verbs, flags, names and paths for your shell.

    Args:
        shell: bash, zsh, fish or powershell; by default the one that runs.
        output: file to write the script to, without changing any file of the shell's own.
    """
    from pretune.cli.completion import install

    chosen, path = install(app, shell, output)
    if output is None:
        print(translate(f"written: {path}; every {chosen} that is started from now on completes"))
    else:
        print(translate(f"written: {path}; load it from the startup file of your {chosen}"))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb; returns the exit code."""
    return run_app(app, argv)
