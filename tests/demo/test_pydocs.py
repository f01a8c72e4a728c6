"""The embedded corpus: enough prose, read without importing, the same bytes whatever the number of processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pretune.demo import pydocs
from pretune.demo.pydocs import write_pydocs
from pretune.errors import CannotCreateError, MissingPackageError, UsageError
from pretune.text.readers.corpus import DataStats, read_corpus

LONG = "This sentence is long enough to be kept in the corpus."
FILES = {
    "__init__.py": f'"""The package. {LONG}"""\nraise SystemExit("imported!")\n',
    "_hidden/_core.py": f'''
class Thing:
    """A thing.

        {LONG}
    """
    def act(self, x, *rest, y=1, **more):
        r"""Act on {{x}}. {LONG}"""
        def local():
            """Local. {LONG}"""
    if True:
        @property
        def size(self): "Size. {LONG}"
    def short(self):
        """Too short."""

try:
    async def run(a, /, b): """Run. {LONG}"""
except ImportError:
    def run(a, /, b): """Again. {LONG}"""
def copy(): """Run. {LONG}"""
''',
    "docs.py": f'''
add_newdoc("made.up", "array", """array(x)

{LONG}""")
add_newdoc("made.up", "array", ("sort", """Sort it. {LONG}"""))
add_docstr(pkg.abs, r"""abs(x) -> y {{{{z}}}}

Args:
    {{input}}

""".format(**common) + """{LONG}""")
log = _add_docstr(pkg._log, """Logarithm. {LONG}""")
''',
    "params.py": f'"""Summary.\n\n%(parameters)s\n\n{LONG}"""\n',
    "broken.py": "def f(:\n",
    "tests/inside.py": f'"""Tests. {LONG}"""\n',
    "test_beside.py": f'"""Tests. {LONG}"""\n',
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    root = tmp_path / "site" / "pkg"
    for name, body in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(body)
    monkeypatch.syspath_prepend(str(root.parent))
    yield tmp_path
    assert "pkg" not in sys.modules


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_docstrings_of_every_kind_are_found_without_importing(package: Path) -> None:
    out = package / "deep" / "out.jsonl"
    stats = write_pydocs(out, ["pkg"], processes=1)
    actual = {(str(row["source"]), row["kind"]): row for row in lines(out)}
    assert list(actual) == [
        ("pkg", "module"),
        ("pkg.Thing", "class"),
        ("pkg.Thing.act", "method"),
        ("pkg.Thing.size", "method"),
        ("pkg.run", "function"),
        ("pkg.docs.array", "function"),
        ("pkg.docs.array.sort", "method"),
        ("pkg.docs.abs", "function"),
        ("pkg.docs.log", "function"),
        ("pkg.params", "module"),
    ]
    assert actual["pkg.Thing.act", "method"] == {
        "text": f"Act on {{x}}. {LONG}",
        "domain": "pkg",
        "source": "pkg.Thing.act",
        "kind": "method",
        "module": "pkg._hidden._core",
        "section": "pkg",
        "name": "act",
        "parameters": ["x", "rest", "y", "more"],
    }
    assert actual["pkg.Thing", "class"]["text"] == f"A thing.\n\n{LONG}"  # cleaned as by inspect.cleandoc
    assert (stats.excluded, stats.duplicate, stats.quarantined) == (1, 1, 1)
    assert "broken.py" in str(stats.quarantine[0])


def test_attached_docstrings_lose_their_holes(package: Path) -> None:
    write_pydocs(package / "out.jsonl", ["pkg"], processes=1)
    actual = {str(row["source"]): row["text"] for row in lines(package / "out.jsonl")}
    assert actual["pkg.docs.abs"] == f"abs(x) -> y {{z}}\n\nArgs:\n\n{LONG}"
    assert actual["pkg.params"] == f"Summary.\n\n{LONG}"
    assert actual["pkg.docs.array"] == f"array(x)\n\n{LONG}"


def test_excluded_modules_and_names_leave_no_trace(package: Path) -> None:
    whole = write_pydocs(package / "a.jsonl", ["pkg"], processes=1)
    part = write_pydocs(package / "b.jsonl", ["pkg"], exclude=["pkg.docs", "pkg.Thing"], processes=1)
    sources = [str(row["source"]) for row in lines(package / "b.jsonl")]
    assert sources == [s for s in (str(r["source"]) for r in lines(package / "a.jsonl")) if s in sources]
    assert not [s for s in sources if s.startswith(("pkg.docs", "pkg.Thing"))]
    assert part.documents == whole.documents
    assert part.used < whole.used


def test_output_is_replaced_whole_or_not_at_all(package: Path) -> None:
    out = package / "out.jsonl"
    out.write_text("old")
    with pytest.raises(MissingPackageError, match="'no_such_package' is not installed"):
        write_pydocs(out, ["pkg", "no_such_package"])
    assert out.read_text() == "old"
    with pytest.raises(UsageError, match=r"JSON lines; call the file out\.jsonl"):
        write_pydocs(out.with_suffix(".txt"), ["pkg"])
    (package / "dir.jsonl").mkdir()
    with pytest.raises(CannotCreateError, match="is a folder"):
        write_pydocs(package / "dir.jsonl", ["pkg"], processes=1)
    with pytest.raises(CannotCreateError, match="cannot create the file"):
        write_pydocs(out / "below.jsonl", ["pkg"])
    assert sorted(p.name for p in package.iterdir()) == ["dir.jsonl", "out.jsonl", "site"]


@pytest.mark.slow
def test_processes_do_not_change_the_bytes(tmp_path: Path) -> None:
    one = write_pydocs(tmp_path / "1.jsonl", ["networkx"], processes=1)
    two = write_pydocs(tmp_path / "2.jsonl", ["networkx"], processes=2)
    assert (tmp_path / "1.jsonl").read_bytes() == (tmp_path / "2.jsonl").read_bytes()
    assert one == two
    rows = lines(tmp_path / "1.jsonl")
    assert {row["domain"] for row in rows} == {"networkx"}
    assert len({row["text"] for row in rows}) == len(rows) == one.used
    stats = DataStats()
    assert sum(len(d.text) for d in read_corpus(tmp_path / "1.jsonl", stats=stats)) > 1_000_000
    assert (stats.used, stats.bytes) == (one.used, one.bytes)


def test_the_language_reference_is_there(tmp_path: Path) -> None:
    (file,) = [file for file in pydocs._files("python") if file.module == "pydoc_data.topics"]
    entries = pydocs._Reader((), 40)(file)
    assert isinstance(entries, list)
    assert sum(entry.size for entry in entries) > 400_000
    rows = {row["name"]: row for row in (json.loads(entry.line) for entry in entries)}
    assert (rows["assert"]["source"], rows["assert"]["kind"]) == ("topics.assert", "topic")
    assert str(rows["assert"]["text"]).startswith('The "assert" statement')


@pytest.mark.slow
def test_default_corpus_has_over_15_mb_and_imports_nothing(tmp_path: Path) -> None:
    code = (
        "import sys; from pretune.demo.pydocs import write_pydocs\n"
        f"stats = write_pydocs({str(tmp_path / 'all.jsonl')!r}, processes=1)\n"
        "bad = {'torch', 'scipy', 'sklearn', 'sympy', 'networkx'} & set(sys.modules)\n"
        "assert not bad, bad\nprint(stats.bytes)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    assert int(done.stdout) > 15_000_000
    assert {row["domain"] for row in lines(tmp_path / "all.jsonl")} == {
        "python",
        "numpy",
        "torch",
        "scipy",
        "sklearn",
        "sympy",
        "networkx",
    }
