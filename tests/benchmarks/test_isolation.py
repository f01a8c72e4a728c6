"""What runs in a peer's environment: no pretune in it, and in the worker nothing but the standard library."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import peers, worker
from pretune.runtime import allocator

PEERS = sorted(path for path in Path(peers.__file__).parent.glob("*.py") if path.name != "__init__.py")
PRESENT = {"torch", "numpy", "safetensors", "transformers"}  # where the tests run, which import every module


def imports(source: str, everywhere: bool = True) -> Iterator[str]:
    """Packages that a source imports, anywhere in it or at its top; relative ones as "." """
    tree = ast.parse(source)
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.Import):
            yield from (name.name.partition(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." if node.level else (node.module or "").partition(".")[0]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            yield ast.unparse(node.args[0]).strip("'\"").partition(".")[0] if node.args else ""


@pytest.mark.parametrize(
    "line",
    [
        "import pretune", "import os, pretune.loss", "from pretune.draw import Draw", "from . import x",
        "from ..benchmark import peer", "def setup():\n    from pretune import api", "import_module('pretune.api')",
    ],
)  # fmt: skip
def test_an_import_would_be_found(line: str) -> None:
    assert {"pretune", "."} & set(imports(line))


@pytest.mark.parametrize("path", PEERS, ids=lambda path: path.name)
def test_peers_import_no_pretune(path: Path) -> None:
    assert not {"pretune", "."} & set(imports(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("path", PEERS, ids=lambda path: path.name)
def test_peers_import_what_the_tests_lack_in_setup(path: Path) -> None:
    early = set(imports(path.read_text(encoding="utf-8"), everywhere=False))
    assert early <= PRESENT | set(sys.stdlib_module_names)


@pytest.mark.parametrize("module", [worker, allocator])
def test_the_worker_needs_nothing_but_the_standard_library(module: object) -> None:
    assert set(imports(inspect.getsource(module))) <= set(sys.stdlib_module_names)  # type: ignore[arg-type]
