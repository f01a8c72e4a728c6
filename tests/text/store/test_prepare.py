"""Preparing stores: the same bytes however it is done, nothing lost, nothing half-written."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import pretune.text.store.prepare as module
from pretune.draw import Draw
from pretune.errors import CannotCreateError, DataError, PretuneError, StorageError
from pretune.text.encode.sentences import sentence_starts
from pretune.text.readers.corpus import CorpusConfig
from pretune.text.samples.sampler import Sampler, partition
from pretune.text.samples.views.view import build_view
from pretune.text.store.manifest import write_manifest
from pretune.text.store.prepare import PrepareConfig, Progress, prepare
from pretune.text.store.store import TokenStore
from pretune.text.tokenizer.tokenizer import Tokenizer
from pretune.text.tokenizer.train import TokenizerConfig, train_tokenizer

SENTENCE = "the model reads text and learns what people wrote about language, 3 cats. It's 你好。世界！ then more"
WORDS = SENTENCE.split()


def documents(count: int, seed: int = 0) -> list[dict[str, str]]:
    random.seed(seed)
    return [
        {"text": " ".join(random.choices(WORDS, k=random.randrange(3, 60))) + f" {n}", "domain": f"d{n % 3}"}
        for n in range(count)
    ]


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def content(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer((row["text"] for row in documents(500)), TokenizerConfig(vocab_size=400))


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH_BYTES", 4000)


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("kind", ["wordpiece", *(pytest.param(k, marks=pytest.mark.slow) for k in ("bpe", "unigram"))])
def test_any_number_of_processes_gives_the_same_bytes(kind: str, tmp_path: Path) -> None:
    rows = documents(600)
    tokenizer = train_tokenizer((row["text"] for row in rows), TokenizerConfig(kind=kind, vocab_size=400))
    source = write(tmp_path / "text.jsonl", [*rows, *rows[:50]])
    actual = [
        content(
            prepare(source, tokenizer, tmp_path / f"{n}" / "store", PrepareConfig(processes=n, shard_tokens=5000)).path
        )
        for n in (1, 2, 8)
    ]
    assert actual[0] == actual[1] == actual[2]
    assert "manifest.json" in actual[0]
    assert sum(name.startswith("train-tokens") for name in actual[0]) > 2


ODD_CORPORA = {
    "one document": [" ".join(f"{SENTENCE}. Number {n} ends here." for n in range(12))],
    "one-sentence documents": [f"{SENTENCE} {n}" for n in range(400)],
    "one huge document": [" ".join(f"The cat {n} reads text. 你好{n}。" for n in range(6000))],
    "all of them": ["", "   ", f"{SENTENCE}.", *[f"Cat {n}. Text {n}!" for n in range(400)], f"{SENTENCE}."],
}


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("workers", [1, 2, 7, pytest.param(40, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ODD_CORPORA)
def test_no_document_and_no_sentence_is_lost(kind: str, workers: int, tokenizer: Tokenizer, tmp_path: Path) -> None:
    texts = ODD_CORPORA[kind]
    source = write(tmp_path / "text.jsonl", [{"text": text} for text in texts])
    store = prepare(source, tokenizer, tmp_path / "store", PrepareConfig(processes=workers, validation=0.2))
    stats, distinct = store.manifest.data_stats, list(dict.fromkeys(text for text in texts if text.strip()))
    splits = [store.split(name) for name in ("train", "validation")]
    assert stats["documents"] == len(texts) == stats["used"] + stats["duplicate"] + stats["empty"]
    assert stats["used"] == len(distinct) == sum(split.document_count for split in splits)
    assert sum(len(split.sentence_offsets) for split in splits) == sum(len(sentence_starts(text)) for text in distinct)
    whole = sum(len(tokenizer.encode(text)) + 1 for text in distinct)
    assert sum(split.token_count for split in splits) == whole
    for view in ("stream", "sentence", "sentences"):
        for split in splits:
            actual = build_view(split, view, 16).data_stats()
            assert actual["tokens"] == split.token_count == actual["used"] + actual.get("end", 0) + actual["cut"]


@pytest.mark.parametrize("kind", ["one document", "one-sentence documents", "all of them"])
def test_every_sample_is_dealt_once_to_any_number_of_ranks(kind: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    source = write(tmp_path / "text.jsonl", [{"text": text} for text in ODD_CORPORA[kind]])
    store = prepare(source, tokenizer, tmp_path / "store", PrepareConfig(validation=0))
    view = build_view(store.split("train"), "sentence", 16)
    sampler = Sampler([view], [1.0], Draw(3), len(view))
    rows, _ = sampler.next_batch(sampler.seek(0))
    for ranks in range(1, 41):
        dealt = [row.sample for part in partition(rows, ranks) for row in part]
        assert sorted(dealt) == [(0, 0, n) for n in range(len(view))]


@pytest.mark.usefixtures("small_batches")
def test_statistics_duplicates_and_domains(tokenizer: Tokenizer, tmp_path: Path) -> None:
    rows = documents(300)
    extra = [{"text": "  "}, {"text": "\u200b", "domain": "d0"}, {**rows[7], "domain": "other"}, rows[299]]
    store = prepare(
        write(tmp_path / "text.jsonl", [*rows, *extra, *rows[:20]]),
        tokenizer,
        tmp_path / "store",
        PrepareConfig(processes=1),
    )
    stats = store.manifest.data_stats
    assert (stats["documents"], stats["used"], stats["duplicate"], stats["empty"]) == (324, 300, 22, 2)
    assert stats["bytes"] == sum(len(row["text"].encode()) for row in rows)
    train, held = store.split("train"), store.split("validation")
    assert train.document_count + held.document_count == 300
    assert {name: counts["documents"] for name, counts in store.manifest.domains.items()} == {
        "d0": 100,
        "d1": 100,
        "d2": 100,
    }
    assert sum(counts["tokens"] for counts in store.manifest.domains.values()) == train.token_count + held.token_count
    texts = [tokenizer.decode(train.read(*train.document_offsets[i : i + 2])) for i in range(9)]
    numbers = [int(match[0]) for text in texts if (match := re.search(r"\d+$", text))]
    assert len(numbers) == 9
    assert numbers == sorted(numbers), "the first of equal documents stays, in input order"


def test_the_held_out_fraction_is_by_text_alone(tokenizer: Tokenizer, tmp_path: Path) -> None:
    rows = documents(4000)
    config = PrepareConfig(validation=0.01)
    first = prepare(write(tmp_path / "a.jsonl", rows), tokenizer, tmp_path / "a", config)
    count = first.split("validation").document_count
    assert 15 <= count <= 70  # 1 % of 4000: 40, six deviations either way
    second = prepare(write(tmp_path / "b.jsonl", rows[::-1]), tokenizer, tmp_path / "b", config)

    def held(store: TokenStore) -> set[str]:
        split = store.split("validation")
        ends = split.document_offsets.tolist()
        return {tokenizer.decode(split.read(a, b)) for a, b in pairwise(ends)}

    assert held(first) == held(second)
    none = prepare(tmp_path / "a.jsonl", tokenizer, tmp_path / "none", PrepareConfig(validation=0))
    assert none.split("validation").document_count == 0
    assert none.split("validation").read(0, 0).shape == (0,)


def test_the_first_document_always_trains(tokenizer: Tokenizer, tmp_path: Path) -> None:
    source = tmp_path / "one.txt"
    source.write_text("One document alone.")
    store = prepare(source, tokenizer, tmp_path / "store", PrepareConfig(validation=0.999999))
    assert (store.split("train").document_count, store.split("validation").document_count) == (1, 0)


def test_type_of_tokens(tmp_path: Path, tokenizer: Tokenizer) -> None:
    source = write(tmp_path / "text.jsonl", documents(10))
    assert prepare(source, tokenizer, tmp_path / "s").manifest.splits["train"].shards[0].dtype == "uint16"
    layout = json.loads(tokenizer.backend.to_str())
    layout["model"]["vocab"] |= {f"##{n}x": 400 + n for n in range(1 << 16)}
    (tmp_path / "tokenizer.json").write_text(json.dumps(layout))
    wide = prepare(source, Tokenizer.load(tmp_path), tmp_path / "w")
    assert wide.manifest.splits["train"].shards[0].dtype == "uint32"
    assert wide.vocab_size > 1 << 16


SCRIPT = """
import sys
import pretune.text.store.prepare as module
from pretune.text.store.manifest import write_manifest
from pretune.text.store.prepare import PrepareConfig, prepare
from pretune.text.tokenizer.tokenizer import Tokenizer
module.BATCH_BYTES = 4000
source, tokenizer, output, processes = sys.argv[1:]
prepare(source, Tokenizer.load(tokenizer), output, PrepareConfig(processes=int(processes), shard_tokens=9000),
        progress=lambda at: print(at.documents, flush=True))
"""


@pytest.mark.parametrize("processes", [1, 2])
def test_killed_at_any_moment_it_ends_with_the_same_bytes(tokenizer: Tokenizer, tmp_path: Path, processes: int) -> None:
    tokenizer.save(tmp_path / "tokenizer")
    source = write(tmp_path / "text.jsonl", documents(1500))
    output = tmp_path / "out" / "store"
    arguments = [sys.executable, "-c", SCRIPT, str(source), str(tmp_path / "tokenizer"), str(output), str(processes)]
    random.seed(processes)
    for lines in (1, 40):
        process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for _ in range(lines):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not output.exists(), "nothing half-written in place"
        process.stdout.close()
    subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL)
    clean = prepare(source, tokenizer, tmp_path / "clean", PrepareConfig(processes=1, shard_tokens=9000))
    assert content(output) == content(clean.path)
    assert os.listdir(output.parent) == ["store"], "and nothing left beside it"


def test_workers_leave_when_their_parent_is_killed(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "tokenizer")
    source = write(tmp_path / "text.jsonl", documents(3000))
    arguments = [sys.executable, "-c", SCRIPT, str(source), str(tmp_path / "tokenizer"), str(tmp_path / "out"), "2"]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.kill()
    process.wait()
    process.stdout.close()
    assert len(children) == 2
    for _ in range(100):
        if not any(Path(f"/proc/{child}").exists() for child in children):
            return
        time.sleep(0.1)
    pytest.fail("workers outlive their parent")


@pytest.mark.usefixtures("small_batches")
def test_a_worker_that_dies_is_reported(tokenizer: Tokenizer, tmp_path: Path) -> None:
    source = write(tmp_path / "text.jsonl", documents(1500))

    def strike(at: Progress) -> None:
        for child in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
            os.kill(int(child), signal.SIGKILL)

    with pytest.raises(PretuneError, match="worker process ended"):
        prepare(source, tokenizer, tmp_path / "store", PrepareConfig(processes=2), progress=strike)
    assert sorted(os.listdir(tmp_path)) == ["text.jsonl"]


def test_existing_outputs(tokenizer: Tokenizer, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = write(tmp_path / "text.jsonl", documents(100))
    output = tmp_path / "store"
    built = prepare(source, tokenizer, output)
    before = output.stat().st_ino
    with caplog.at_level("INFO"):
        assert prepare(source, tokenizer, output).fingerprint == built.fingerprint
    assert "used as it is" in caplog.text
    assert output.stat().st_ino == before

    other = train_tokenizer(["other words of another tokenizer"], TokenizerConfig(vocab_size=100))
    for call, why in (
        (lambda: prepare(source, other, output), "tokenizer differs"),
        (
            lambda: prepare(source, tokenizer, output, PrepareConfig(validation=0.5)),
            r"configuration differs \(validation\)",
        ),
        (lambda: prepare(write(tmp_path / "b.jsonl", documents(100, 1)), tokenizer, output), "documents differ"),
    ):
        with pytest.raises(CannotCreateError, match=why):
            call()
    assert output.stat().st_ino == before
    replaced = prepare(tmp_path / "b.jsonl", tokenizer, output, PrepareConfig(overwrite=True))
    assert replaced.fingerprint != built.fingerprint
    (output / "train-tokens-00000.npy").write_bytes(b"")
    with pytest.raises(CannotCreateError, match="truncated"):
        prepare(tmp_path / "b.jsonl", tokenizer, output)
    again = prepare(tmp_path / "b.jsonl", tokenizer, output, PrepareConfig(overwrite=True))
    assert again.fingerprint == replaced.fingerprint
    assert sorted(os.listdir(tmp_path)) == ["b.jsonl", "store", "text.jsonl"]


def test_a_store_whose_configuration_has_old_names_is_the_same_store(tokenizer: Tokenizer, tmp_path: Path) -> None:
    source, output = write(tmp_path / "text.jsonl", documents(10)), tmp_path / "store"
    manifest = prepare(source, tokenizer, output).manifest
    old = {"text": "text_field", "domain": "domain_field"}
    corpus = {old.get(name, name): value for name, value in manifest.config["corpus"].items()}
    write_manifest(output, replace(manifest, config={**manifest.config, "corpus": corpus}))
    assert prepare(source, tokenizer, output).manifest.config["corpus"]["text_field"] == "text"
    with pytest.raises(CannotCreateError, match=r"its configuration differs \(corpus\)"):
        prepare(source, tokenizer, output, PrepareConfig(corpus=CorpusConfig(text="body")))


def test_what_is_not_a_store_is_never_replaced(tokenizer: Tokenizer, tmp_path: Path) -> None:
    source = write(tmp_path / "text.jsonl", documents(10))
    home = tmp_path / "home"
    home.mkdir()
    assert prepare(source, tokenizer, home).path == home, "an empty folder is fine"
    for path in home.glob("*.json"):
        path.unlink()
    file = tmp_path / "file"
    file.write_text("mine")
    for output in (home, file, file / "below"):
        with pytest.raises(CannotCreateError):
            prepare(source, tokenizer, output, PrepareConfig(overwrite=True))
    assert file.read_text() == "mine"
    assert any(home.iterdir())


def test_two_processes_cannot_write_one_store(tokenizer: Tokenizer, tmp_path: Path) -> None:
    source = write(tmp_path / "text.jsonl", documents(20))

    def second(at: Progress) -> None:
        with pytest.raises(CannotCreateError, match="another process"):
            prepare(source, tokenizer, tmp_path / "store")

    prepare(source, tokenizer, tmp_path / "store", progress=second)


def test_full_disk(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk: both make a write fail half-way."""
    source = write(tmp_path / "text.jsonl", documents(2000))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
        with pytest.raises(StorageError, match="Free some space"):
            prepare(source, tokenizer, tmp_path / "store", PrepareConfig(processes=1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert os.listdir(tmp_path) == ["text.jsonl"]
    assert StorageError.code == 74


@pytest.mark.parametrize("text", ["", " \n\n \t\n", "\u200b"])
def test_no_text(tokenizer: Tokenizer, tmp_path: Path, text: str) -> None:
    source = tmp_path / "text.txt"
    source.write_text(text)
    with pytest.raises(DataError, match="no text"):
        prepare(source, tokenizer, tmp_path / "store")
    assert os.listdir(tmp_path) == ["text.txt"]


def test_everything_the_same(tokenizer: Tokenizer, tmp_path: Path) -> None:
    source = write(tmp_path / "text.jsonl", documents(1) * 500)
    store = prepare(source, tokenizer, tmp_path / "store")
    assert (store.manifest.data_stats["used"], store.manifest.data_stats["duplicate"]) == (1, 499)


def test_a_bad_record_names_its_line_and_leaves_nothing(tokenizer: Tokenizer, tmp_path: Path) -> None:
    source = tmp_path / "text.jsonl"
    source.write_text('{"text": "good"}\n{"text": 3}\n{"text": "a\\ud800"}\n')
    with pytest.raises(DataError, match=":2"):
        prepare(source, tokenizer, tmp_path / "store")
    assert os.listdir(tmp_path) == ["text.jsonl"]
    store = prepare(source, tokenizer, tmp_path / "store", PrepareConfig(corpus=CorpusConfig(on_error="skip")))
    assert (store.manifest.data_stats["used"], store.manifest.data_stats["quarantined"]) == (1, 2)


def test_too_many_domains(tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_DOMAINS", 2)
    with pytest.raises(DataError, match=r"text\.jsonl:3: more than 2 domains"):
        prepare(write(tmp_path / "text.jsonl", documents(9)), tokenizer, tmp_path / "store")


def test_progress(tokenizer: Tokenizer, tmp_path: Path) -> None:
    seen: list[Progress] = []
    store = prepare(write(tmp_path / "text.jsonl", documents(50)), tokenizer, tmp_path / "store", progress=seen.append)
    splits = store.manifest.splits.values()
    assert seen[-1].tokens == sum(split.tokens for split in splits)
    assert seen[-1].documents == 50


def test_real_text(tokenizer: Tokenizer, data_folder: Path, tmp_path: Path) -> None:
    source = data_folder / "corpora" / "zh" / "sanguo-novel.txt"
    store = prepare(source, tokenizer, tmp_path / "store", PrepareConfig(corpus=CorpusConfig(documents="line")))
    split = store.split("train")
    store.verify()
    assert len(split.sentence_offsets) > 3 * split.document_count
    lengths = np.diff(split.document_offsets)
    assert lengths.min() >= 2


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("processes", [1, 2])
def test_a_tokenizer_that_fails_says_why(tokenizer: Tokenizer, tmp_path: Path, processes: int) -> None:
    layout = json.loads(tokenizer.backend.to_str())
    layout["model"]["unk_token"] = "[GONE]"
    (tmp_path / "tokenizer.json").write_text(json.dumps(layout))
    source = write(tmp_path / "text.jsonl", [*documents(900), {"text": "\u9f98"}, *documents(900, 1)])
    with pytest.raises(DataError, match="cannot encode"):
        prepare(source, Tokenizer.load(tmp_path), tmp_path / "store", PrepareConfig(processes=processes))
    assert not (tmp_path / "store").exists()


def test_workers_do_without_torch() -> None:
    code = "import pretune.text.encode.workers, pretune.text.store.prepare, sys; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False\n"
