"""Reading token stores: across shards, and what is said of a store that was truncated, changed or made elsewhere."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from pretune.errors import DataError, MissingInputError
from pretune.seals import sealed_json
from pretune.text.store.array_files import StoredFile, map_file
from pretune.text.store.prepare import PrepareConfig, prepare
from pretune.text.store.store import TokenStore
from pretune.text.tokenizer.tokenizer import Tokenizer
from pretune.text.tokenizer.train import TokenizerConfig, train_tokenizer

TEXT = [f"Document {n} is short. It has two sentences, and {n * n} words." for n in range(300)]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(TEXT, TokenizerConfig(vocab_size=300))


@pytest.fixture
def store(tokenizer: Tokenizer, tmp_path: Path) -> TokenStore:
    source = tmp_path / "text.txt"
    source.write_text("\n\n".join(TEXT))
    return prepare(source, tokenizer, tmp_path / "store", PrepareConfig(shard_tokens=1000, validation=0.1))


def test_documents_and_sentences_come_back(store: TokenStore, tokenizer: Tokenizer) -> None:
    actual: dict[str, list[int]] = {}
    for name in ("train", "validation"):
        split = store.split(name)
        offsets = split.document_offsets
        assert (offsets[0], offsets[-1], len(offsets)) == (0, split.token_count, split.document_count + 1)
        assert np.isin(offsets[:-1], split.sentence_offsets).all()
        assert (np.diff(split.sentence_offsets) > 0).all()
        for start, stop in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
            run = split.read(start, stop)
            assert run[-1] == tokenizer.vocabulary.end
            actual[tokenizer.decode(run)] = [s - start for s in split.sentence_offsets.tolist() if start <= s < stop]
    assert len(actual) == len(TEXT)
    for text in TEXT:
        ids = tokenizer.encode(text)
        second = len(tokenizer.encode(text.partition(". ")[0] + "."))
        assert actual[tokenizer.decode(ids)] == [0, second]


def test_read_across_shards(store: TokenStore) -> None:
    split = store.split("train")
    assert len(split.manifest.shards) > 3
    whole = np.concatenate([np.load(store.path / shard.file) for shard in split.manifest.shards])
    for start, stop in (
        (0, split.token_count),
        (999, 1001),
        (500, 3500),
        (1000, 2000),
        (7, 7),
        (split.token_count,) * 2,
    ):
        actual = split.read(start, stop)
        assert actual.dtype == np.int64
        np.testing.assert_array_equal(actual, whole[start:stop])
    for start, stop in ((-1, 3), (0, split.token_count + 1), (5, 4)):
        with pytest.raises(IndexError):
            split.read(start, stop)


@pytest.mark.parametrize("shard_tokens", [7, 1000, 1 << 26])
def test_runs_are_read_together_as_one_by_one(tokenizer: Tokenizer, tmp_path: Path, shard_tokens: int) -> None:
    (tmp_path / "text.txt").write_text("\n\n".join(TEXT))
    config = PrepareConfig(shard_tokens=shard_tokens)
    split = prepare(tmp_path / "text.txt", tokenizer, tmp_path / "store", config).split("train")
    random = np.random.default_rng(0)
    for sizes in (np.full(40, 30), random.integers(0, 50, 40), np.zeros(3, np.int64), np.full(2, 3500)):
        start = random.integers(0, split.token_count - sizes)
        start[-1] = split.token_count - sizes[-1]
        actual = split.read_runs(start, start + sizes)
        assert actual.dtype == np.int64
        expected = [split.read(a, a + size) for a, size in zip(start.tolist(), sizes.tolist(), strict=True)]
        np.testing.assert_array_equal(actual, np.concatenate(expected))
    assert split.read_runs(np.zeros(0, np.int64), np.zeros(0, np.int64)).tolist() == []
    with pytest.raises(DataError, match="outside its"):
        split.read_runs(np.array([0, split.token_count - 1]), np.array([2, split.token_count + 1]))


def test_manifest_states_the_tokenizer(store: TokenStore, tokenizer: Tokenizer) -> None:
    assert (store.tokenizer_hash, store.vocab_size) == (tokenizer.hash, tokenizer.vocabulary.size)
    assert Tokenizer.load(store.tokenizer_path).hash == tokenizer.hash
    store.check_tokenizer(tokenizer)
    with pytest.raises(DataError, match="another tokenizer"):
        store.check_tokenizer(tokenizer.lowercased())


def damaged(store: TokenStore) -> list[Path]:
    return sorted(store.path.glob("*.npy"))


def test_truncated_and_missing_files_are_named_on_opening(store: TokenStore) -> None:
    for path in damaged(store):
        raw = path.read_bytes()
        for content in (raw[:-1], raw[: len(raw) // 2], raw + b"x"):
            path.write_bytes(content)
            with pytest.raises(DataError, match=path.name):
                TokenStore.open(store.path)
        path.unlink()
        with pytest.raises(DataError, match=f"{path.name}: missing"):
            TokenStore.open(store.path)
        path.write_bytes(raw)
    TokenStore.open(store.path).verify()


def test_a_flipped_bit_is_found_by_verify(store: TokenStore) -> None:
    for path in damaged(store):
        raw = bytearray(path.read_bytes())
        raw[-1] ^= 4
        path.write_bytes(raw)
        opened = TokenStore.open(store.path)
        with pytest.raises(DataError, match=path.name):
            opened.verify()
        raw[-1] ^= 4
        path.write_bytes(raw)


def test_a_header_of_another_shape_is_found_when_mapped(store: TokenStore) -> None:
    path = store.path / "train-tokens-00000.npy"
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b"(1000,)", b"(0999,)"))
    with pytest.raises(DataError, match=path.name):
        TokenStore.open(store.path).split("train")
    path.write_bytes(b"x" * len(raw))
    with pytest.raises(DataError, match=path.name):
        TokenStore.open(store.path).split("train")


def test_no_store(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(MissingInputError, match="no token store"):
            TokenStore.open(path)


def test_bad_manifests(store: TokenStore) -> None:
    path = store.path / "manifest.json"
    good = json.loads(path.read_text())
    outside = json.loads(path.read_text())
    outside["splits"]["train"]["shards"][0]["file"] = "../../secret.npy"
    missing = {key: value for key, value in good.items() if key != "splits"}
    for content in ("{", "[]", "{}", json.dumps(missing), json.dumps({**good, "version": 99}), json.dumps(outside)):
        path.write_text(content)
        with pytest.raises(DataError, match=r"manifest\.json"):
            TokenStore.open(store.path)
    for tree, match in ((missing, "splits"), ({**good, "version": 3}, "version 3"), (outside, "leaves the store")):
        path.write_bytes(sealed_json(tree))
        with pytest.raises(DataError, match=match):
            TokenStore.open(store.path)


def test_unknown_split(store: TokenStore) -> None:
    with pytest.raises(DataError, match="test"):
        store.split("test")


def test_fingerprint_is_of_the_content(store: TokenStore) -> None:
    assert TokenStore.open(store.path).fingerprint == store.fingerprint
    path = store.path / "manifest.json"
    path.write_bytes(sealed_json({**json.loads(path.read_bytes()), "end": 4}))
    assert TokenStore.open(store.path).fingerprint != store.fingerprint


def test_every_flipped_bit_of_a_manifest_is_found(store: TokenStore) -> None:
    path = store.path / "manifest.json"
    raw = path.read_bytes()
    for place in range(0, len(raw), 3):
        changed = bytearray(raw)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        with pytest.raises(DataError, match=r"manifest\.json"):
            TokenStore.open(store.path)
    path.write_bytes(raw)
    TokenStore.open(store.path).verify()


def test_counts_that_contradict_the_files_are_refused(store: TokenStore) -> None:
    path = store.path / "manifest.json"
    good = json.loads(path.read_bytes())

    def refused(field: str, value: object, message: str) -> None:
        tree = json.loads(json.dumps(good))
        *parents, name = field.split(".")
        parent = tree
        for key in parents:
            parent = parent[key]
        parent[name] = value
        path.write_bytes(sealed_json(tree))
        with pytest.raises(DataError, match=message):
            TokenStore.open(store.path)

    tokens = good["splits"]["train"]["tokens"]
    for value in (tokens + 1, tokens * 4, -5, 10**12, tokens // 2):
        refused("splits.train.tokens", value, rf"splits\.train\.tokens' = {value}")
    for name in ("documents", "sentences", "unknown"):
        refused(f"splits.validation.{name}", 10**9, name)
    for value in (0, -1, 10**12):
        refused("vocab_size", value, "vocab_size")
    refused("end", good["vocab_size"], "end")
    refused("domains", {"all": {"documents": 1, "tokens": 2}}, "domains")
    refused("splits.train.document_file", good["splits"]["train"]["sentence_file"], "documents")
    words = {**good["splits"]["train"]["shards"][0], "items": tokens, "dtype": "object"}
    refused("splits.train.word_file", words, "files of type 'object'")
    refused("splits.train.tokens", "many", "many")


def test_a_file_that_is_shorter_than_its_own_header_says(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(10))
    raw = (tmp_path / "a.npy").read_bytes()
    assert map_file(tmp_path, StoredFile("a.npy", 10, "int64", len(raw), "")).tolist() == list(range(10))
    (tmp_path / "a.npy").write_bytes(raw[:-8])
    with pytest.raises(DataError, match=r"a\.npy: .* bytes do not hold \(10,\) of int64"):
        map_file(tmp_path, StoredFile("a.npy", 10, "int64", len(raw) - 8, ""))


@pytest.mark.timeout(20)
def test_pipes_are_not_read(store: TokenStore) -> None:
    """Reading one waits for ever; a link to a device has no end."""
    for path in (*damaged(store), store.path / "manifest.json"):
        raw = path.read_bytes()
        for make in (os.mkfifo, lambda path: path.symlink_to("/dev/zero")):
            path.unlink()
            make(path)
            with pytest.raises((DataError, MissingInputError), match=path.name):
                TokenStore.open(store.path)
        path.unlink()
        path.write_bytes(raw)
    TokenStore.open(store.path).verify()


def test_an_id_beyond_the_vocabulary_is_damage(store: TokenStore) -> None:
    path = store.path / "train-tokens-00000.npy"
    tokens = np.load(path)
    tokens[5] = 65535
    np.save(path, tokens)
    split = TokenStore.open(store.path).split("train")
    assert len(split.read(6, 900)) == 894
    with pytest.raises(DataError, match="token id 65535 is beyond the vocabulary"):
        split.read(0, 10)


def test_a_shard_that_is_truncated_while_it_is_read(store: TokenStore) -> None:
    """To touch a page behind the end of a mapped file killed the process by SIGBUS."""
    split = store.split("train")
    assert len(split.read(0, 3000)) == 3000
    name = split.manifest.shards[1].file
    with (store.path / name).open("r+b") as file:
        file.truncate(100)
    with pytest.raises(DataError, match=f"{name}: was truncated while it was read: 100 of"):
        split.read(0, 3000)
