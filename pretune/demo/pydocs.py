"""The built-in corpus: the documentation that comes with every installation of Python and its packages.

    packages -> .py files -> ast -> docstrings ----------\\
    pydoc_data/topics.py (the language reference) --------> exact duplicates dropped -> JSONL

Files are parsed, never imported. Docstrings that packages attach to compiled functions (`add_newdoc` of numpy and
scipy, `add_docstr` of torch) are included. The order and the bytes depend only on what is installed, not on the number
of processes.
"""

from __future__ import annotations

import ast
import gc
import hashlib
import importlib.util
import inspect
import json
import multiprocessing
import os
import re
import sysconfig
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pretune.disk import new_file
from pretune.errors import MissingPackageError, UsageError
from pretune.text.readers.corpus import DataStats
from pretune.text.readers.records import RecordError

PYTHON = "python"  # the domain of the standard library and the language reference
PACKAGES = (PYTHON, "numpy", "torch", "scipy", "sklearn", "sympy", "networkx")
MINIMUM = 40  # characters: "Return the name." teaches nothing
_SKIPPED = frozenset({"test", "tests", "testing", "idle_test", "site-packages", "dist-packages", "__pycache__"})
_TOPICS = "pydoc_data.topics"
_ATTACHED = frozenset({"add_newdoc", "add_docstr", "_add_docstr", "add_docstr_all"})
_FIELD = re.compile(r"\{(\{)|\}(\})|\{\w*\}")
_HOLE = re.compile(r"^[^\S\n]*%\([\w:. ]+\)s[^\S\n]*\n?", re.MULTILINE)
_Run = Callable[["_Reader", list["_File"]], Iterable["list[_Entry] | RecordError"]]
_GAP = re.compile(r"\n(?:[^\S\n]*\n){2,}")
Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class _File:
    """Names a module to be read: its domain (package), dotted name and path."""

    domain: str
    module: str
    path: str


@dataclass(frozen=True)
class _Doc:
    """Holds a docstring: what it documents (`kind`, name inside the module, parameters), and its raw text."""

    kind: str
    name: str
    text: str
    parameters: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Entry:
    """Holds a line of the corpus, ready to be written; `line` is empty if the docstring is excluded."""

    line: bytes
    digest: bytes = b""
    size: int = 0


def write_pydocs(
    output: Path | str,
    packages: Sequence[str] = PACKAGES,
    exclude: Sequence[str] = (),
    minimum: int = MINIMUM,
    processes: int | None = None,
) -> DataStats:
    """Writes the documentation of installed packages as a corpus of JSON lines.

    Each line has `text`; `domain` (the package; "python" for the standard library and the language reference);
    `source` (public dotted name, such as `numpy.linalg.norm`); `kind` (module, class, function, method, topic);
    `module` (where it is defined); `section` (package and first subpackage, such as `scipy.stats`); `name` (last part
    of the source); `parameters` (names, for functions and methods).

    Args:
        output: a `.jsonl` file, written beside and renamed when complete.
        packages: importable names of packages, and "python".
        exclude: packages, modules or dotted names left out with all that is below them (`torch.nn`, `json`), so that
            they can serve as a test split.
        minimum: characters of the shortest docstring kept.
        processes: how many parse files; all cores by default. With more than one, a script must call this under
            `if __name__ == "__main__":`.

    Raises:
        MissingPackageError: a package is not installed.
        UsageError: the output is not called `.jsonl`.
        CannotCreateError: the output cannot be made.
        StorageError: the disk is full.
    """
    target = Path(output)
    if target.suffix != ".jsonl":
        raise UsageError(f"{target}: the corpus is JSON lines; call the file {target.with_suffix('.jsonl').name}")
    files = [file for package in packages for file in _files(package)]
    stats, seen = DataStats(), set[bytes]()
    with new_file(target) as out, _mapping(processes) as run:
        for result in run(_Reader(tuple(exclude), minimum), files):
            if isinstance(result, RecordError):
                stats.documents += 1
                stats.refuse(result)
                continue
            stats.documents += len(result)
            for entry in result:
                if not entry.line:
                    stats.excluded += 1
                elif entry.digest in seen:
                    stats.duplicate += 1
                else:
                    seen.add(entry.digest)
                    stats.used += 1
                    stats.bytes += entry.size
                    out.write(entry.line)
    stats.check()
    return stats


def _files(package: str) -> list[_File]:
    """Returns the Python files of a package without its tests, sorted by path."""
    if package == PYTHON:
        roots = [(Path(sysconfig.get_paths()["stdlib"]), "")]
    else:
        spec = importlib.util.find_spec(package) if re.fullmatch(r"\w+", package) else None
        if spec is None or not (spec.submodule_search_locations or spec.origin):
            raise MissingPackageError(f"package {package!r} is not installed; install it, or leave it out of packages")
        if not spec.submodule_search_locations:
            return [_File(package, package, str(spec.origin))]
        roots = [(Path(location), package) for location in spec.submodule_search_locations]
    return [_File(package, module, str(path)) for root, prefix in roots for module, path in _walk(root, prefix)]


def _walk(root: Path, prefix: str) -> Iterator[tuple[str, Path]]:
    files = []
    for folder, below, names in os.walk(root):
        below[:] = [name for name in below if name not in _SKIPPED and name.isidentifier()]
        for name in names:
            stem = name.removesuffix(".py")
            if stem != name and not stem.startswith("test_") and not stem.endswith("_test") and stem != "conftest":
                files.append((Path(folder) / name).relative_to(root))
    for path in sorted(files, key=Path.as_posix):
        parts = [prefix, *path.with_suffix("").parts] if prefix else [*path.with_suffix("").parts]
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts) or prefix, root / path


@contextmanager
def _mapping(processes: int | None) -> Iterator[_Run]:
    """Yields an ordered map over files, which runs in this process or in several."""
    count = processes or os.cpu_count() or 1
    if count == 1:
        yield lambda reader, files: map(reader, files)
        return
    try:
        with ProcessPoolExecutor(count, multiprocessing.get_context("spawn")) as pool:
            yield lambda reader, files: pool.map(reader, files, chunksize=16)
    except BrokenProcessPool:
        raise UsageError(
            "a reading process ended at its start; in a script of your own, put the call under "
            'if __name__ == "__main__":, as each process imports the script, or give processes = 1'
        ) from None


@contextmanager
def _uncollected() -> Iterator[None]:
    """Disables the garbage collector, which would traverse a growing syntax tree again and again (1.4x as slow)."""
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@dataclass(frozen=True)
class _Reader:
    """Reads one file into entries; carries the settings into other processes."""

    exclude: tuple[str, ...]
    minimum: int

    def __call__(self, file: _File) -> list[_Entry] | RecordError:
        try:
            with _uncollected():
                return [self._entry(file, doc) for doc in _docs(file)]
        except (OSError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
            line = getattr(error, "lineno", 0) or 0
            return RecordError(file.path, line, f"cannot be parsed: {error}", "mend it or leave its package out")

    def _entry(self, file: _File, doc: _Doc) -> _Entry:
        text = _GAP.sub("\n\n", _HOLE.sub("", inspect.cleandoc(doc.text))).strip()
        full = f"{file.module}.{doc.name}" if doc.name else file.module
        source = "topics." + doc.name if doc.kind == "topic" else _public(full)
        if len(text) < self.minimum or any(_below(name, top) for top in self.exclude for name in (full, source)):
            return _Entry(b"")
        record = {
            "text": text,
            "domain": file.domain,
            "source": source,
            "kind": doc.kind,
            "module": file.module,
            "section": "topics" if doc.kind == "topic" else _section(file),
            "name": source.rpartition(".")[2],
            "parameters": doc.parameters,
        }
        raw = text.encode(errors="replace")
        line = json.dumps(record, ensure_ascii=False).encode(errors="replace") + b"\n"
        return _Entry(line, hashlib.sha256(raw).digest(), len(raw))


def _public(name: str) -> str:
    """Returns a dotted name without its private modules: `numpy.linalg._linalg.norm` is `numpy.linalg.norm`."""
    *path, last = name.split(".")
    return ".".join([part for part in path if not part.startswith("_") or part.startswith("__")] + [last])


def _section(file: _File) -> str:
    """Returns the package and its first public subpackage; for the standard library the module or package itself."""
    public = [part for part in file.module.split(".") if not part.startswith("_")]
    return ".".join(public[: 1 if file.domain == PYTHON else 2]) or file.module


def _below(name: str, top: str) -> bool:
    return name == top or name.startswith(top + ".")


def _docs(file: _File) -> list[_Doc]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree = ast.parse(Path(file.path).read_bytes())
    return list(_topics(tree) if file.module == _TOPICS else _definitions(tree, "", True))


def _topics(tree: ast.Module) -> Iterator[_Doc]:
    """Reads the language reference, a dictionary of topics."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            for key, value in zip(node.value.keys, node.value.values, strict=True):
                name, text = key and _literal(key), _literal(value)
                if name and text:
                    yield _Doc("topic", name, text)


def _definitions(scope: ast.AST, path: str, module: bool = False) -> Iterator[_Doc]:
    """Yields the docstrings of a module or class and of its definitions, those inside functions excepted."""
    if module and isinstance(scope, ast.Module) and (text := ast.get_docstring(scope, clean=False)):
        yield _Doc("module", "", text)
    for node in _statements(scope):
        if isinstance(node, Definition):
            name = f"{path}.{node.name}" if path else node.name
            if text := ast.get_docstring(node, clean=False):
                category = "class" if isinstance(node, ast.ClassDef) else "method" if path else "function"
                yield _Doc(category, name, text, _parameters(node))
            if isinstance(node, ast.ClassDef):
                yield from _definitions(node, name)
        elif not path and isinstance(node, ast.Expr | ast.Assign) and isinstance(node.value, ast.Call):
            yield from _attached(node, node.value)


def _statements(scope: ast.AST) -> Iterator[ast.stmt]:
    """Yields the statements of a body, descending into `if`, `try` and `with`."""
    for field in ("body", "orelse", "finalbody", "handlers"):
        for node in getattr(scope, field, ()):
            if isinstance(node, ast.If | ast.Try | ast.With | ast.ExceptHandler):
                yield from _statements(node)
            else:
                yield node


def _parameters(node: Definition) -> tuple[str, ...]:
    if isinstance(node, ast.ClassDef):
        return ()
    spec = node.args
    every = [*spec.posonlyargs, *spec.args, spec.vararg, *spec.kwonlyargs, spec.kwarg]
    return tuple(a.arg for a in every if a is not None and a.arg not in ("self", "cls"))


def _attached(node: ast.Expr | ast.Assign, call: ast.Call) -> Iterator[_Doc]:
    """Yields docstrings of compiled functions: `add_newdoc("numpy", "array", ...)`, `add_docstr(torch.abs, ...)`."""
    called = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if called not in _ATTACHED or len(call.args) < 2:
        return
    target = node.targets[0] if isinstance(node, ast.Assign) else call.args[-2]
    name = _literal(target) or ast.unparse(target).rpartition(".")[2]
    name = f"Tensor.{name}" if called == "add_docstr_all" else name
    last = call.args[-1]
    pairs = last.elts if isinstance(last, ast.List) else [last]
    for pair in pairs:
        if isinstance(pair, ast.Tuple) and len(pair.elts) == 2:
            member, text = _literal(pair.elts[0]), _literal(pair.elts[1])
            if member and text:
                yield _Doc("method", f"{name}.{member}", text)
        elif text := _literal(pair):
            yield _Doc("method" if called == "add_docstr_all" else "function", name, text)


def _literal(node: ast.expr) -> str | None:
    """Returns the text of a string literal, of concatenated literals, or of a literal on which `format` is called."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = _literal(node.left), _literal(node.right)
        return left + right if left is not None and right is not None else None
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "format":
        text = _literal(node.func.value)
        return None if text is None else _FIELD.sub(r"\1\2", text)
    return None
