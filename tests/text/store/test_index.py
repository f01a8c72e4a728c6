"""Indexes that are kept beside a store: made once, and again when they are damaged or of another store."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from pretune.draw import Draw
from pretune.new_folder import NewFolder
from pretune.text.samples.views import windows as windows_module
from pretune.text.samples.views.view import build_view
from pretune.text.store import store as store_module
from pretune.text.store.index import Index, computed, kept
from pretune.text.store.prepare import PrepareConfig, prepare
from pretune.text.store.store import TokenStore
from pretune.text.tokenizer.train import TokenizerConfig, train_tokenizer

TEXT = [f"Document {n} is short. It has two sentences, and {n * n} words. " * (1 + n % 4) for n in range(200)]


class Maker:
    """Counts how often an index is made."""

    def __init__(self) -> None:
        self.made = 0

    def __call__(self) -> Iterator[Index]:
        self.made += 1
        for n in range(3):
            yield {"a": np.arange(n + 1), "b": np.full(2, n)}


def as_lists(index: Index) -> dict[str, list[int]]:
    return {name: values.tolist() for name, values in index.items()}


EXPECTED = {"a": [0, 0, 1, 0, 1, 2], "b": [0, 0, 1, 1, 2, 2]}


def test_it_is_made_once(tmp_path: Path) -> None:
    maker = Maker()
    for _ in range(3):
        assert as_lists(kept(tmp_path / "index" / "x", "print", maker)) == EXPECTED
    assert maker.made == 1
    assert as_lists(computed(maker)) == EXPECTED
    assert [path.name for path in (tmp_path / "index").iterdir()] == ["x"]


def damage_missing(folder: Path) -> None:
    (folder / "a.npy").unlink()


def damage_cut(folder: Path) -> None:
    (folder / "b.npy").write_bytes((folder / "b.npy").read_bytes()[:-1])


def damage_facts(folder: Path) -> None:
    (folder / "index.json").write_text("{")


def damage_fields(folder: Path) -> None:
    (folder / "index.json").write_text(json.dumps({"fingerprint": "print", "arrays": [1]}))


def damage_header(folder: Path) -> None:
    raw = bytearray((folder / "a.npy").read_bytes())
    raw[20] ^= 0xFF
    (folder / "a.npy").write_bytes(bytes(raw))


@pytest.mark.parametrize("damage", [damage_missing, damage_cut, damage_facts, damage_fields, damage_header])
def test_a_damaged_one_is_made_again(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    maker = Maker()
    kept(tmp_path / "x", "print", maker)
    damage(tmp_path / "x")
    for _ in range(2):
        assert as_lists(kept(tmp_path / "x", "print", maker)) == EXPECTED
    assert maker.made == 2


def test_one_of_another_store_is_made_again(tmp_path: Path) -> None:
    maker = Maker()
    kept(tmp_path / "x", "print", maker)
    kept(tmp_path / "x", "another", maker)
    assert maker.made == 2


def test_where_it_cannot_be_kept_it_is_computed(tmp_path: Path) -> None:
    maker = Maker()
    (tmp_path / "file").write_text("")
    assert as_lists(kept(tmp_path / "file" / "x", "print", maker)) == EXPECTED
    with NewFolder(tmp_path / "busy", "replace"):  # as another process would
        assert as_lists(kept(tmp_path / "busy", "print", maker)) == EXPECTED
    assert maker.made == 2
    assert not (tmp_path / "busy").exists()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("index")
    (folder / "text.txt").write_text("\n\n".join(TEXT))
    tokenizer = train_tokenizer(TEXT, TokenizerConfig(vocab_size=300))
    return prepare(folder / "text.txt", tokenizer, folder / "store", PrepareConfig(validation=0.1)).path


@pytest.mark.parametrize(
    ("view", "lookahead", "pack"), [("stream", 0, "document"), ("stream", 1, "document"), ("pairs", 0, "stream")]
)
def test_views_are_the_same_with_and_without(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, view: str, lookahead: int, pack: str
) -> None:
    path = shutil.copytree(prepared, tmp_path / "store")
    monkeypatch.setattr(windows_module, "CHUNK", 50)
    plain = build_view(TokenStore.open(path).split("train"), view, 20, lookahead, pack)
    assert not (path / "index").exists()  # so small a store keeps none
    monkeypatch.setattr(store_module, "_MIN_KEPT", 0)
    for _ in range(2):
        store = TokenStore.open(path)
        actual = build_view(store.split("train"), view, 20, lookahead, pack)
        index = np.arange(len(plain))
        assert len(actual) == len(plain) > 200
        assert actual.data_stats() == plain.data_stats()
        assert actual.lengths(index).tolist() == plain.lengths(index).tolist()
        rows = zip(actual.read(index, 0, 1, Draw(1)), plain.read(index, 0, 1, Draw(1)), strict=True)
        for ours, theirs in rows:
            assert ours.tokens.tolist() == theirs.tokens.tolist()
            assert (ours.other is None) == (theirs.other is None)
            assert ours.other is None or theirs.other is None or ours.other.tolist() == theirs.other.tolist()
        store.verify()
    assert len(list((path / "index").iterdir())) == 1
    other = build_view(store.split("train"), view, 30, lookahead, pack)
    assert len(other) < len(plain)
    assert len(build_view(store.split("validation"), view, 20, lookahead, pack)) < len(plain) // 2
    assert len(list((path / "index").iterdir())) == 3


def test_verifying_a_store_drops_a_damaged_index(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "_MIN_KEPT", 0)
    path = shutil.copytree(prepared, tmp_path / "store")
    for pack in ("document", "stream"):
        build_view(TokenStore.open(path).split("train"), "pairs" if pack == "stream" else "stream", 20, pack=pack)
    file = path / "index" / "train-sentences-20" / "start.npy"
    raw = bytearray(file.read_bytes())
    raw[-3] ^= 0x10  # neither its size nor its header says so
    file.write_bytes(bytes(raw))
    TokenStore.open(path).verify()
    assert [folder.name for folder in (path / "index").iterdir()] == ["train-documents-20-0"]


def test_a_store_made_anew_has_its_own(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "_MIN_KEPT", 0)
    path = shutil.copytree(prepared, tmp_path / "store")
    before = len(build_view(TokenStore.open(path).split("train"), "stream", 20, pack="document"))
    shutil.copytree(path / "index", tmp_path / "index")
    (tmp_path / "text.txt").write_text("\n\n".join(TEXT[:100]))
    tokenizer = train_tokenizer(TEXT, TokenizerConfig(vocab_size=300))
    config = PrepareConfig(validation=0.1, overwrite=True)
    store = prepare(tmp_path / "text.txt", tokenizer, path, config)
    assert not (path / "index").exists()
    shutil.copytree(tmp_path / "index", path / "index")
    assert len(build_view(store.split("train"), "stream", 20, pack="document")) < before * 0.7
