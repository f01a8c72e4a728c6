"""The wheel as users get it: built, installed beside the dependencies, used with the source tree out of reach."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SHIPPED = ("pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of a copy of the source; the copy is gone when it is tested."""
    source = tmp_path_factory.mktemp("source")
    shutil.copytree(ROOT / "pretune", source / "pretune", ignore=shutil.ignore_patterns("__pycache__"))
    for name in SHIPPED:
        shutil.copy(ROOT / name, source)
    project = source / "pyproject.toml"
    settings = project.read_text(encoding="utf-8")
    assert '"-O3"' in settings
    project.write_text(settings.replace('"-O3"', '"-O0"'), encoding="utf-8")  # half a minute of the compiler
    target = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", target, source],
        check=True,
        capture_output=True,
    )
    shutil.rmtree(source)
    return next(target.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing but the unpacked wheel in it."""
    site = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", site, wheel], check=True)
    return site


def python(site: Path, cwd: Path, *words: str) -> str:
    """Run an interpreter that finds pretune in `site` alone."""
    environment = os.environ | {"PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, *words], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_comes_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    assert python(installed, tmp_path, "-c", "import pretune; print(pretune.__file__)").startswith(str(installed))


def test_the_catalogues_are_installed(installed: Path, tmp_path: Path) -> None:
    code = (
        "from pretune.language import translate, use_language\n"
        "with use_language('zh'): print(ascii(translate('give at least one record')))"
    )
    assert python(installed, tmp_path, "-c", code).strip() == ascii("请至少给出一条记录")


def test_every_module_imports(installed: Path, tmp_path: Path) -> None:
    code = (
        "import importlib, pkgutil, pretune\n"
        "names = [m.name for m in pkgutil.walk_packages(pretune.__path__, 'pretune.')]\n"
        "names.remove('pretune.native._kernels') if 'pretune.native._kernels' in names else None  # for ctypes\n"
        "for name in names:\n    name.endswith('__main__') or importlib.import_module(name)\n"
        "print(len(names))"
    )
    there = {p.relative_to(ROOT) for p in (ROOT / "pretune").rglob("*.py") if p.name != "__init__.py"}
    folders = {p.parent for p in (ROOT / "pretune").rglob("__init__.py")}
    assert int(python(installed, tmp_path, "-c", code)) == len(there) + len(folders) - 1


def test_command_line_works(installed: Path, tmp_path: Path) -> None:
    assert "pretrain" in python(installed, tmp_path, "-m", "pretune", "--help")
    assert python(installed, tmp_path, "-m", "pretune", "version").strip() == "0.1.0"


def test_report_finds_its_template(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n{"step": 2, "loss": 0.5}\n')
    python(installed, tmp_path, "-m", "pretune", "report", ".")
    assert "<svg" in (tmp_path / "report.html").read_text()


def test_wheel_holds_what_the_package_reads(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    data = [p.relative_to(ROOT).as_posix() for p in (ROOT / "pretune").rglob("*") if p.suffix in (".html", ".toml")]
    assert {*data, "pretune/py.typed"} <= set(names)
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/", "docs/"))]
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_metadata(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    names = archive.namelist()
    metadata = Parser().parsestr(archive.read(next(n for n in names if n.endswith("METADATA"))).decode())
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    entry = archive.read(next(n for n in names if n.endswith("entry_points.txt"))).decode()
    assert "pretune = pretune.__main__:run" in entry
    required = [line.split(";")[0] for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert not any(line.startswith("transformers") for line in required)


def test_constraints_pin_what_the_extras_ask_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    requested = [*project["dependencies"], *extras["test"], *extras["check"], *extras["docs"]]
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    known = {name.lower().replace("_", "-") for name in pinned}
    assert [line for line in requested if re.split(r"\[|>=", line)[0].lower().replace("_", "-") not in known] == []
    assert pinned["torch"] == "2.13.0"
    assert not [line for line in pinned.values() if "+" in line]
