import subprocess
import sys
from pathlib import Path

import pytest

from pretune.errors import MissingInputError, UsageError
from pretune.find import call_if_defined, find, find_class, find_defining, nearest, suggest, variants
from pretune.objectives.objective import Objective

OWN = """
from pretune.objectives.clm import CausalLanguageModelling
class Mine(CausalLanguageModelling):
    name = "mine"
class Other(CausalLanguageModelling):
    name = "other"
class _Helper(CausalLanguageModelling):
    pass
"""


def test_names_are_files_but_for_shared_ones() -> None:
    actual = variants("objectives")
    assert {"mlm", "nsp", "clm"} <= set(actual)
    assert not {"objective", "mixture"} & set(actual)


@pytest.mark.parametrize("name", ["mlm", "nsp", "clm"])
def test_a_variant_is_found_by_its_file(name: str) -> None:
    kind = find_class("objectives", name, Objective)
    assert kind.name == name
    assert kind.__module__ == f"pretune.objectives.{name}"


@pytest.mark.parametrize("name", ["mlmm", "MLM", "objective", "mixture", "", "../mlm", "__init__", "mlm "])
def test_an_unknown_variant_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="no variant"):
        find("objectives", name)


def test_the_nearest_name_is_offered() -> None:
    with pytest.raises(UsageError, match="did you mean 'mlm'"):
        find("objectives", "mlmm")
    assert suggest("zzzz", ["a", "b"]) == "known: a, b"


def test_a_users_own_file(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text(OWN)
    assert find_class("objectives", f"{path}:Mine", Objective).name == "mine"
    assert find_class("objectives", f"{path}:Mine", Objective) is find_class("objectives", f"{path}:Mine", Objective)
    with pytest.raises(UsageError, match="must define one Objective"):
        find_class("objectives", str(path), Objective)
    with pytest.raises(UsageError, match="must define one"):
        find_class("objectives", f"{path}:Missing", Objective)
    with pytest.raises(MissingInputError, match="no such file"):
        find("objectives", str(tmp_path / "missing.py"))


def test_a_users_own_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_package_of_a_test").mkdir()
    (tmp_path / "own_package_of_a_test" / "goal.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert find_class("objectives", "own_package_of_a_test.goal:Other", Objective).name == "other"
    with pytest.raises(UsageError, match="cannot import"):
        find("objectives", "own_package_of_a_test.missing")


def test_listing_names_does_not_import_torch() -> None:
    code = "import sys; from pretune.find import variants; variants('objectives'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_file_that_fails_is_not_found_half(tmp_path):
    path = tmp_path / "half.py"
    path.write_text("A = 1\nraise RuntimeError('no')\n")
    for _ in range(2):
        with pytest.raises(UsageError, match=r"half\.py:2: RuntimeError: no; fix the file"):
            find("objectives", str(path))
    path = tmp_path / "typo.py"
    path.write_text("A = 1\nB = (\n")
    with pytest.raises(UsageError, match=r"typo\.py:2: SyntaxError"):
        find("objectives", str(path))


def test_a_module_that_fails_is_named(tmp_path, monkeypatch):
    package = tmp_path / "own_variants"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "broken.py").write_text("raise RuntimeError('no')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match=r"'own_variants\.broken': RuntimeError: no; fix the module"):
        find("objectives", "own_variants.broken")


def test_letters_that_changed_places_are_the_nearest() -> None:
    assert nearest("epxort", ["report", "export", "evaluate"]) == "export"
    assert nearest("xyz", ["report", "export"]) is None


def test_what_a_users_own_file_must_and_may_define(tmp_path: Path) -> None:
    path = tmp_path / "partial.py"
    path.write_text("LEVEL = 3\ndef scale(a, b):\n    return LEVEL * (a + b)\ndef nothing():\n    return None\n")
    module = find_defining("tune", str(path), ("LEVEL", "scale"), "tune: 'partial'")
    assert call_if_defined(module, "scale", 1, 2, default=0) == 9
    assert call_if_defined(module, "nothing", default=5) is None
    assert call_if_defined(module, "absent", 1, 2, default=5) == 5
    with pytest.raises(UsageError, match="tune: 'partial' has no apply and no Config; its file must define apply, LEV"):
        find_defining("tune", str(path), ("apply", "LEVEL", "Config"), "tune: 'partial'")
