"""Functions of Python's own library and what their docstrings say: `python -m benchmarks.writing.functions FOLDER`.

    standard library -> ast -> {"module", "source": signature and docstring, "target": the function without docstring}

A function is written anew from its syntax tree, so that comments and layout are the same everywhere. All functions of a
top-level module are in one part: train, validation or test, by the SHA-256 of its name. Nothing is imported or run.
"""

from __future__ import annotations

import ast
import hashlib
import json
import sys
import sysconfig
import textwrap
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

PARTS = ("train", "validation", "test")
_LEFT_OUT = frozenset(
    {"test", "tests", "idlelib", "site-packages", "__pycache__", "lib2to3", "turtledemo", "idle_test"}
)
_MIN_DOCSTRING, _MAX_DOCSTRING = 20, 600  # characters
_MIN_LINES, _MAX_LINES = 2, 30  # of a function without its docstring, with its first
_MAX_CHARACTERS = 1200
_SHARES = 20  # one is for validation, two for testing
_MOST = 60  # functions of one module for validation or testing


def part_of(module: str) -> str:
    """The part in which the functions of a top-level module are."""
    share = int(hashlib.sha256(module.encode()).hexdigest(), 16) % _SHARES
    return "validation" if share == 0 else "test" if share <= 2 else "train"


def read_functions(library: Path | None = None) -> dict[str, list[dict[str, str]]]:
    """The functions of each part, in the order of the files' names; equal ones once.

    Args:
        library: folder of modules; by default the standard library of this interpreter.
    """
    library = library or Path(sysconfig.get_paths()["stdlib"])
    parts: dict[str, list[dict[str, str]]] = {name: [] for name in PARTS}
    seen: set[str] = set()
    of_module: Counter[str] = Counter()
    for path in sorted(library.rglob("*.py")):
        inside = path.relative_to(library)
        if _LEFT_OUT & set(inside.parts) or inside.name.startswith("test_"):
            continue
        module = inside.parts[0].removesuffix(".py")
        for record in functions_of(path.read_text(encoding="utf-8", errors="replace"), module):
            part = part_of(module)
            if record["target"] in seen or (part != "train" and of_module[module] >= _MOST):
                continue
            seen.add(record["target"])
            of_module[module] += 1
            parts[part].append(record)
    return parts


def functions_of(text: str, module: str) -> Iterator[dict[str, str]]:
    """The functions of a file that have a docstring and are neither trivial nor long."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError):
            return
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (record := _record(node, module)):
            yield record


def _record(node: ast.FunctionDef | ast.AsyncFunctionDef, module: str) -> dict[str, str] | None:
    docstring = " ".join((ast.get_docstring(node) or "").split())
    if not _MIN_DOCSTRING <= len(docstring) <= _MAX_DOCSTRING or len(node.body) < 2:
        return None
    node.body = node.body[1:]
    node.decorator_list = []
    target = ast.unparse(node)
    signature = target.splitlines()[0]
    if not _MIN_LINES <= target.count("\n") + 1 <= _MAX_LINES or len(target) > _MAX_CHARACTERS:
        return None
    return {"module": module, "source": f"{signature}\n{textwrap.shorten(docstring, 300)}", "target": target}


def write_functions(folder: Path, library: Path | None = None) -> dict[str, int]:
    """Writes `train.jsonl`, `validation.jsonl` and `test.jsonl`; gives the number of functions of each."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = read_functions(library)
    for name, records in parts.items():
        lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    return {name: len(records) for name, records in parts.items()}


if __name__ == "__main__":
    print(json.dumps(write_functions(Path(sys.argv[1]))))
