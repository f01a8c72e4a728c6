"""Finds a variant on an axis by its file name, or a user's own by `package.module:Name` or `path/to/file.py:Name`.

`find("objectives", "mlm")` imports `pretune/objectives/mlm.py`; nothing is registered anywhere. A file that holds one
class of the axis's base is asked for it by `find_class`.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import pkgutil
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from pretune.errors import MissingInputError, PretuneError, UsageError

T = TypeVar("T")
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_sources: dict[str, str] = {}  # SHA-256 of the users' own files that were loaded, by the names that they were asked by
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


def variants(axis: str, root: str = "pretune") -> list[str]:
    """Lists the variants of an axis: files of `<root>/<axis>/`, but for those that its `SHARED_MODULES` names."""
    return list(_variants(axis, root))


@cache  # a model's heads ask 80 times while it is loaded
def _variants(axis: str, root: str) -> tuple[str, ...]:
    package = importlib.import_module(f"{root}.{axis}")
    shared = getattr(package, "SHARED_MODULES", ())
    shared = {shared} if isinstance(shared, str) else set(shared)
    files = {module.name for module in pkgutil.iter_modules(package.__path__) if not module.name.startswith("_")}
    return tuple(sorted(files - shared))


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known name that is most like one; None if none is close.

    Of close names, one with the same letters comes first: letters change places more often than they are replaced.

    Args:
        cutoff: how alike two names must be, 0 to 1.
    """
    close = difflib.get_close_matches(name, list(known), cutoff=cutoff)
    return min(close, key=lambda other: sorted(other) != sorted(name), default=None)


def suggest(name: str, known: list[str], cutoff: float = 0.5) -> str:
    """Suggests a name: `did you mean 'mlm'?`, or the whole list if nothing is close.

    Args:
        cutoff: how alike two names must be, 0 to 1.
    """
    close = nearest(name, known, cutoff)
    return f"known: {', '.join(known)}" if close is None else f"did you mean {close!r}?"


def find(axis: str, name: str, root: str = "pretune") -> ModuleType:
    """Returns the module of a variant.

    Args:
        axis: folder of the variants, with dots where it lies deeper: "text.readers".
        name: file name of the variant, "package.module", or path of a .py file.
        root: the package that the axis belongs to.

    Raises:
        UsageError: no such file on this axis (the nearest name is given), or a user's own file that fails when it is
            imported.
        MissingInputError: a path to a user's own file that does not exist.
    """
    target = name.partition(":")[0]
    if target.endswith(".py"):
        return _load_file(Path(target), target)
    if _DOTTED.fullmatch(target):
        try:
            module = importlib.import_module(target)
            _note_source(target, getattr(module, "__file__", None))
            return module
        except ModuleNotFoundError as error:
            raise UsageError(f"{axis}: cannot import {target!r}: {error}") from error
        except PretuneError:
            raise
        except Exception as error:
            raise UsageError(f"{axis}: {target!r}: {type(error).__name__}: {error}; fix the module") from error
    known = variants(axis, root)
    if not _NAME.fullmatch(target) or target not in known:
        raise UsageError(f"{axis}: no variant {target!r}; {suggest(target, known, 0.6)}")
    return importlib.import_module(f"{root}.{axis}.{target}")


def find_defining(axis: str, name: str, needed: Sequence[str], subject: str, root: str = "pretune") -> ModuleType:
    """Returns the module of a variant, which defines everything that its axis needs.

    Args:
        axis, name, root: as of `find`.
        needed: names that the file must define.
        subject: what the message begins with, such as "tune: 'lora'".

    Raises:
        UsageError: as of `find`, or the file lacks some of the names.
        MissingInputError: a path to a user's own file that does not exist.
    """
    module = find(axis, name, root)
    missing = [each for each in needed if not hasattr(module, each)]
    if missing:
        raise UsageError(f"{subject} has no {' and no '.join(missing)}; its file must define {', '.join(needed)}")
    return module


def call_if_defined(module: ModuleType, name: str, *arguments: object, default: T) -> T:
    """Calls a function that the file of a variant may define, and need not.

    Args:
        name: of the function.
        arguments: of the call.
        default: returned where the file does not define it.
    """
    function: Callable[..., T] | None = getattr(module, name, None)
    return default if function is None else function(*arguments)


def find_class(axis: str, name: str, base: type[T], root: str = "pretune") -> type[T]:
    """Returns the class of a variant: the one named after `:`, else the one subclass of `base` that its file defines.

    Raises:
        UsageError: the file defines no such class, or several.
    """
    module = find(axis, name, root)
    wanted = name.partition(":")[2]
    classes = [
        value
        for key, value in vars(module).items()
        if isinstance(value, type)
        and issubclass(value, base)
        and value.__module__ == module.__name__
        and (key == wanted if wanted else not key.startswith("_"))
    ]
    if len(classes) != 1:
        raise UsageError(f"{axis}: {name!r} must define one {base.__name__}, found {[c.__name__ for c in classes]}")
    return classes[0]


def source_digests(names: Iterable[str]) -> dict[str, str]:
    """SHA-256 of the users' own files that this process has loaded, as they were then.

    Args:
        names: by which `find` was asked; those of variants of pretune itself have no digest.
    """
    targets = {name.partition(":")[0] for name in names}
    return {target: _sources[target] for target in sorted(targets & _sources.keys())}


def _note_source(target: str, path: Path | str | None, is_new: bool = False) -> None:
    if path is not None and (is_new or target not in _sources):
        _sources[target] = hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _load_file(path: Path, target: str) -> ModuleType:
    if not path.is_file():
        raise MissingInputError(f"{path}: no such file")
    key = f"pretune_user_{abs(hash(path.resolve()))}"
    is_new = key not in sys.modules
    if is_new:
        spec = importlib.util.spec_from_file_location(key, path)
        if spec is None or spec.loader is None:
            raise UsageError(f"{path}: not a Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[key] = module
        try:
            spec.loader.exec_module(module)
        except BaseException as error:
            del sys.modules[key]  # half of a file must not be found again
            if isinstance(error, PretuneError) or not isinstance(error, Exception):
                raise
            raise UsageError(f"{path}{_line_of(error, path)}: {type(error).__name__}: {error}; fix the file") from error
    _note_source(target, path, is_new)
    return sys.modules[key]


def _line_of(error: Exception, path: Path) -> str:
    """`:LINE` of a user's file at which it failed, or nothing."""
    if isinstance(error, SyntaxError):
        return f":{error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f":{lines[-1]}" if lines else ""
