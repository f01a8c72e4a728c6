"""The shape of the code: sizes, annotations, and names that say what a value is. Limits only ever go down."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "pretune"
FILES = sorted(ROOT.rglob("*.py"))

FUNCTION_LINES = 70
FILE_LINES = 400
VAGUE = {"found", "told", "said", "given", "made", "mine", "shown", "asked", "kind", "place"}
VAGUE_FRACTION = 0.01  # of all functions
JOINTS = (
    *("batch.py", "loss.py", "draw.py", "find.py", "disk.py", "errors.py"),
    *("nn/model_protocol.py", "nn/attention.py", "nn/projection.py", "nn/backends/__init__.py"),
    *(
        "objectives/objective.py",
        "tasks/task.py",
        "tune/method.py",
        "tune/surgery.py",
        "nn/call.py",
        "nn/vocabulary.py",
        "nn/prefix.py",
        "optim/optimizer.py",
        "runtime/distributed.py",
    ),
)
Function = ast.FunctionDef | ast.AsyncFunctionDef
Scope = Function | ast.Lambda | ast.ClassDef


def functions(tree: ast.AST) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def own_nodes(function: Function) -> Iterator[ast.AST]:
    """The nodes of a function without those of functions inside it."""
    nodes: list[ast.AST] = [*function.body]
    while nodes:
        node = nodes.pop()
        yield node
        if not isinstance(node, Scope):
            nodes += ast.iter_child_nodes(node)


def parameters(function: Function) -> list[ast.arg]:
    of = function.args
    return [arg for arg in (*of.posonlyargs, *of.args, *of.kwonlyargs, of.vararg, of.kwarg) if arg is not None]


def local_names(function: Function) -> set[str]:
    """What a function calls its values: parameters and all that it assigns."""
    names = {arg.arg for arg in parameters(function)}
    for node in own_nodes(function):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.ExceptHandler) and node.name:
            names.add(node.name)
    return names


@dataclass(frozen=True)
class Survey:
    """What the tests ask of a module; its tree is parsed once for all of them, and not kept.

    Attributes:
        long: functions of too many lines.
        untyped: functions without an annotation.
        vague: functions with names of values that say nothing, and these names.
        functions: how many there are.
        untyped_uses: lines where `Any` stands.
    """

    long: list[str]
    untyped: list[str]
    vague: list[str]
    functions: int
    untyped_uses: list[int]


@cache
def modules() -> dict[str, Survey]:
    """The survey of every module of the package."""
    return {path.relative_to(ROOT).as_posix(): survey(ast.parse(path.read_text(encoding="utf-8"))) for path in FILES}


def survey(tree: ast.AST) -> Survey:
    every = [(f.name, local_names(f) & VAGUE) for f in functions(tree)]
    vague = [f"{name}: {', '.join(sorted(words))}" for name, words in every if words]
    uses = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == "Any"]
    return Survey(long_functions(tree, FUNCTION_LINES), without_annotation(tree), vague, len(every), uses)


def long_functions(tree: ast.AST, limit: int) -> list[str]:
    return [f.name for f in functions(tree) if (f.end_lineno or 0) - f.lineno + 1 > limit]


def without_annotation(tree: ast.AST) -> list[str]:
    return [
        function.name
        for function in functions(tree)
        if function.returns is None
        or any(arg.annotation is None and arg.arg not in ("self", "cls") for arg in parameters(function))
    ]


def test_functions_are_short() -> None:
    assert len(modules()) == len(FILES) > 300
    assert {name: module.long for name, module in modules().items() if module.long} == {}


def test_files_are_short() -> None:
    lines = {path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert {name: count for name, count in lines.items() if count > FILE_LINES} == {}


def test_everything_is_annotated() -> None:
    assert {name: module.untyped for name, module in modules().items() if module.untyped} == {}


def test_values_are_named_for_what_they_are() -> None:
    vague = [f"{name}: {function}" for name, module in modules().items() for function in module.vague]
    total = sum(module.functions for module in modules().values())
    assert len(vague) / total <= VAGUE_FRACTION, "\n".join(vague)


def test_imports_keep_their_contracts() -> None:
    """No circles, no arrow that leads up: `lint-imports` tells which."""
    pytest.importorskip("importlinter")
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_joints_are_typed() -> None:
    assert set(JOINTS) <= set(modules())
    assert [f"{name}:{line}" for name in JOINTS for line in modules()[name].untyped_uses] == []


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("def f():\n found = 1", {"found"}),
        ("def f(kind): pass", {"kind"}),
        ("def f():\n for place in []: pass", {"place"}),
        ("def f():\n [x for told in [] for x in told]", {"told", "x"}),
        ("def f():\n with open('a') as mine: pass", {"mine"}),
        ("def f():\n if (given := 1): pass", {"given"}),
        ("def f():\n a, *made = 1, 2", {"a", "made"}),
        ("def f(a):\n a.found = found", {"a"}),
        ("def f():\n def g(kind): pass", set[str]()),
    ],
)
def test_a_local_name_would_be_seen(source: str, names: set[str]) -> None:
    assert local_names(next(functions(ast.parse(source)))) == names


def test_a_long_or_untyped_function_would_be_seen() -> None:
    assert long_functions(ast.parse("def f():\n" + " x = 1\n" * 70), 70) == ["f"]
    assert long_functions(ast.parse("def f():\n" + " x = 1\n" * 69), 70) == []
    for source in ("def f(a) -> None: ...", "def f(): ...", "def f(*, a) -> None: ...", "def f(*a) -> None: ..."):
        assert without_annotation(ast.parse(source)) == ["f"]
    assert without_annotation(ast.parse("class A:\n def f(self, a: int) -> None: ...")) == []


def test_a_survey_tells_all_of_it() -> None:
    source = "def f(kind) -> Any:\n a: list[Any] = []\n\ndef g() -> None:\n" + " x = 1\n" * 70
    assert survey(ast.parse(source)) == Survey(["g"], ["f"], ["f: kind"], 2, [1, 2])
