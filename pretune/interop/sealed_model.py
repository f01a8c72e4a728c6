"""Compares the files of a model folder with its seal while they are read."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import wraps
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from pretune.interop.run_names import GROWING
from pretune.seals import check, checked
from pretune.text.tokenizer.files import TOKENIZER_FILES
from pretune.text.tokenizer.folder import transformer_folder

P = ParamSpec("P")
T = TypeVar("T")


def checks_model(load: Callable[Concatenate[Path | str, P], T]) -> Callable[Concatenate[Path | str, P], T]:
    """Makes a function that reads a model folder fail where one of its sealed files was changed.

    Small files are checked before the function is called, large ones while it runs.
    """

    @wraps(load)
    def checking(path: Path | str, /, *args: P.args, **options: P.kwargs) -> T:
        folder = Path(path)
        with ExitStack() as stack:
            for each in dict.fromkeys((folder, transformer_folder(folder))):
                stack.enter_context(checked(each, _is_of_model))
            return load(path, *args, **options)

    return checking


def check_config(folder: Path) -> None:
    """Compares `config.json` with the seal of its folder.

    Raises:
        DataError: it was changed.
    """
    check(transformer_folder(folder), ["config.json"])


def _is_of_model(name: str) -> bool:
    return name not in TOKENIZER_FILES and name not in GROWING  # which are read, and compared, by others
