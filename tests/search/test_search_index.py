"""An index: found again after every change, whole after every failure, refused where it is damaged or another's."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from searchkit import contents, ids, load_model, records, save_model

import pretune
from pretune.errors import CannotCreateError, DataError, MissingInputError, NonFiniteError, StorageError, UsageError
from pretune.model import Model
from pretune.seals import sealed_json
from pretune.search import segments, writer
from pretune.search.documents import Document, read_documents
from pretune.search.encoder import Encoder
from pretune.search.index import SearchIndex
from pretune.search.passages import Passage


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return load_model(folder)


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "SIZE", 8)


@pytest.fixture
def index(model: Model, tmp_path: Path) -> SearchIndex:
    return pretune.index(records(30), tmp_path / "index", model=model)


def exact(index: SearchIndex, query: str, count: int) -> list[str]:
    """What comparing all vectors by hand finds, in the order of documents of one passage each."""
    texts = [each.searched for each in index.stored.first_passages(10_000)]
    vectors = index.encoder.model.embed([query, *texts], normalize=True)
    order = np.argsort(-(vectors[1:] @ vectors[0]), kind="stable")
    return [index.stored.passage(row).document for row in order[:count].tolist()]


def test_what_is_found_is_what_all_vectors_say(index: SearchIndex) -> None:
    assert (index.documents, index.passages) == (30, 30)
    for query in ("the lazy dog", "a model learns"):
        assert ids(index.search(query, 5, mode="vectors")) == exact(index, query, 5)
    (hit, *_) = index.search("quick fox", 3)
    source = next(each for each in records(30) if each["id"] == hit.document)
    assert hit.text == source["text"][hit.start : hit.end]
    assert hit.fields == {"language": source["language"], "year": source["year"]}


def test_modes_and_counts(index: SearchIndex, tmp_path: Path) -> None:
    words = ids(index.search("fox", 30, mode="words"))
    assert set(words) == {each["id"] for each in records(30) if "fox" in each["text"].lower()}
    fused = ids(index.search("fox", 30))
    assert set(fused) == {each["id"] for each in records(30)}
    alone = pretune.index(records(30), tmp_path / "words")
    assert ids(alone.search("fox", 30)) == words
    with pytest.raises(UsageError, match="has no vectors"):
        alone.search("fox", mode="vectors")


def test_it_opens_again_by_its_model(index: SearchIndex, folder: Path, tmp_path: Path) -> None:
    made = pretune.index(records(5), tmp_path / "by_path", model=folder, device="cpu", precision="fp32")
    assert ids(pretune.open_index(made.folder).search("a dog", 3)) == ids(made.search("a dog", 3))


def test_documents_are_added_deleted_replaced_and_freed(index: SearchIndex, model: Model, tmp_path: Path) -> None:
    more = records(20, seed=1)
    assert index.add(more) == 20
    whole = pretune.index([*records(30), *more], tmp_path / "whole", model=model)
    for query in ("the lazy dog", "do you think"):
        assert ids(index.search(query, 10)) == ids(whole.search(query, 10))
    best = index.search("the lazy dog", 1)[0].document
    assert index.delete(best) == 1
    assert index.documents == 49
    assert best not in ids(index.search("the lazy dog", 100))
    assert index.add([{"id": best, "text": "A hat."}]) == 1  # the id is free again
    assert index.add([{"id": best, "text": "The brown dog jumps.", "language": "en", "year": 1}], update=True) == 1
    assert [hit.text for hit in index.search("brown dog", 100) if hit.document == best] == ["The brown dog jumps."]
    before = ids(index.search("brown dog", 20, mode="vectors"))
    assert index.compact() == 2
    assert (index.documents, index.passages, len(index.stored.numbers)) == (50, 50, 50)
    assert ids(index.search("brown dog", 20, mode="vectors")) == before
    assert {path.name for path in index.folder.iterdir()} == {"index.json", "segments", "words", "nearest"}
    assert len(list((index.folder / "segments").iterdir())) == 7


def test_filters(index: SearchIndex) -> None:
    chosen = [each for each in records(30) if each["language"] == "zh" and each["year"] >= 1994]
    hits = index.search("the dog", 30, where=["language=zh", "year>=1994"])
    assert set(ids(hits)) == {each["id"] for each in chosen}
    assert ids(index.search("the dog", 30, where={"id": "d0-3"})) == ["d0-3"]
    assert ids(index.search("the dog", 30, where=["year>3000"])) == []
    assert (
        len(index.search("the dog", 30, where=["language!=zh"])) + len(index.search("x", 30, where=["language=zh"]))
        == 30
    )
    with pytest.raises(UsageError, match="no document of the index has such a field; did you mean 'language'"):
        index.search("dog", where=["languag=zh"])
    with pytest.raises(UsageError, match=r"filter on 'year': 'late' is no number.*year>10"):
        index.search("dog", where=["year>late"])
    assert len(index.search("the dog", 30, where=["year!=late"])) == 30
    with pytest.raises(UsageError, match="filter 'zh': expected a field"):
        index.search("dog", where=["zh"])


def test_passages_of_one_document(model: Model, tmp_path: Path) -> None:
    text = " ".join(each["text"] for each in records(12))
    documents = [{"id": "a", "text": text}, {"id": "b", "text": "A dog."}]
    index = pretune.index(documents, tmp_path / "i", model=model, size=16)
    assert index.passages > 5
    hits = index.search("fox", 50)
    assert {text[hit.start : hit.end] == hit.text for hit in hits if hit.document == "a"} == {True}
    assert sorted(ids(index.search("fox", 50, per_document=True))) == ["a", "b"]


def test_a_killed_build_goes_on_and_ends_alike(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pretune.index(records(30), tmp_path / "whole", model=model)
    passages, calls = Encoder.passages, list[int]()

    def killed(self: Encoder, chosen: Sequence[Passage]) -> np.ndarray:
        calls.append(len(chosen))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return passages(self, chosen)

    monkeypatch.setattr(Encoder, "passages", killed)
    target = tmp_path / "killed"
    with pytest.raises(KeyboardInterrupt):
        pretune.index(records(30), target, model=model)
    assert sorted(path.name for path in (target / "segments").iterdir()) == ["000000", "000001"]
    with pytest.raises(DataError, match="its build was not finished; start the same command again"):
        pretune.open_index(target)
    pretune.index(records(30), target, model=model)
    assert calls == [8, 8, 8, 8, 6]  # two were not made again; four vectors compare models when it is opened
    assert contents(target) == contents(whole.folder)


def test_folders_of_others_are_not_removed(tmp_path: Path) -> None:
    """A folder that the user had called as one of an index's was emptied."""
    (tmp_path / "words" / "of mine").mkdir(parents=True)
    (tmp_path / "segments" / ".000007.partial").mkdir(parents=True)
    pretune.index(records(3), tmp_path)
    assert (tmp_path / "words" / "of mine").is_dir()
    assert [path.name for path in (tmp_path / "segments").iterdir()] == ["000000"]


def test_segments_of_other_texts_are_made_anew(model: Model, tmp_path: Path) -> None:
    changed = records(30)
    changed[2] = {**changed[2], "text": "Another text."}
    first = pretune.index(changed, tmp_path / "a", model=model)
    (first.folder / "index.json").unlink()
    shutil.rmtree(first.folder / "words")
    pretune.index(records(30), tmp_path / "a", model=model)
    pretune.index(records(30), tmp_path / "b", model=model)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_killed_change_leaves_the_old_index(index: SearchIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(index.folder)
    reader = pretune.open_index(index.folder, index.encoder.model)
    hits = reader.search("the lazy dog", 5)

    def fail(*args: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(segments.np, "save", fail)
    with pytest.raises(StorageError, match=r"cannot write the index: No space left on device .*the index that was"):
        index.add(records(20, seed=1))
    monkeypatch.undo()
    monkeypatch.setattr(writer, "SIZE", 8)
    assert contents(index.folder) == before
    index.add(records(20, seed=1))
    assert reader.search("the lazy dog", 5) == hits  # it still sees the old one
    assert pretune.open_index(index.folder, index.encoder.model).documents == 50


def test_a_reader_keeps_what_a_writer_removes(index: SearchIndex) -> None:
    index.delete(["d0-1", "d0-2"])
    reader = pretune.open_index(index.folder, index.encoder.model)
    hits = reader.search("the lazy dog", 28)
    index.compact()
    assert not (index.folder / reader.manifest.segments[0].folder).exists()
    assert reader.search("the lazy dog", 28) == hits
    assert reader.search("the lazy dog", 28, where=["year>=1995"])
    again = pretune.open_index(index.folder, index.encoder.model)  # whose BM25 no longer counts what was deleted
    assert set(ids(again.search("the lazy dog", 28))) == set(ids(hits))


def test_a_model_of_sparse_vectors_is_refused(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Model, "is_sparse", True)
    with pytest.raises(UsageError, match="makes sparse vectors"):
        pretune.index(records(3), tmp_path / "i", model=model)


def test_an_index_of_another_model_is_refused(index: SearchIndex, tmp_path: Path) -> None:
    other = load_model(save_model(tmp_path / "other"))
    for weight in other.network.parameters():
        weight.data.add_(0.05)
    with pytest.raises(DataError, match="its vectors are not those of the index"):
        pretune.open_index(index.folder, other).search("dog")
    with pytest.raises(DataError, match="its vectors are not those of the index"):
        pretune.open_index(index.folder, other).add([{"id": "x", "text": "a dog"}])


def test_a_changed_byte_is_noticed_in_every_file(index: SearchIndex) -> None:
    for path in sorted(path for path in index.folder.rglob("*") if path.is_file()):
        raw = path.read_bytes()
        path.write_bytes(raw[:-2] + bytes([raw[-2] ^ 1]) + raw[-1:])
        with pytest.raises(DataError, match=path.name):
            pretune.open_index(index.folder)
        path.unlink()
        with pytest.raises((DataError, MissingInputError), match=path.name if path.name != "index.json" else "index"):
            pretune.open_index(index.folder)
        path.write_bytes(raw)
    pretune.open_index(index.folder)


@pytest.mark.parametrize("name", ["segment.json", "passages.jsonl"])
def test_a_segment_that_was_left_is_not_read_without_bounds(name: str, tmp_path: Path) -> None:
    new = segments.NewSegment([Passage("d", "", 0, 5, "a cat")], [0], [Document("d", "a cat", "", {}, "x")])
    assert new.write(tmp_path / "s", {}, None)
    assert not new.write(tmp_path / "s", {}, None)
    with (tmp_path / "s" / name).open("r+b") as file:
        file.truncate(1 << 40)  # a hole, which takes no room on the disk and would all be read
    assert new.write(tmp_path / "s", {}, None)
    assert (tmp_path / "s" / name).stat().st_size < 1000


def _edited(index: SearchIndex, change: object) -> None:
    path = index.folder / "index.json"
    tree = json.loads(path.read_text())
    change(tree)  # type: ignore[operator]
    path.write_bytes(sealed_json(tree))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tree: tree.update(format=2), "written by a newer pretune"),
        (lambda tree: tree.update(words="../../etc"), "damaged or hostile"),
        (lambda tree: tree["files"].update({"../x": "0" * 32}), "no file of an index"),
        (lambda tree: tree["segments"][0].update(passages=7), "lines.npy|of the shape"),
        (lambda tree: tree["model"].update(width=31), "of the shape"),
        (lambda tree: tree["tokenization"].update(name="evil.py"), "no such variant"),
        (lambda tree: tree["nearest"]["backend"].update(name="os.system"), "no such variant"),
    ],
)
def test_hostile_fields_are_refused(change: object, message: str, index: SearchIndex) -> None:
    _edited(index, change)
    with pytest.raises(DataError, match=message):
        pretune.open_index(index.folder)


def test_bad_input_is_said(index: SearchIndex, model: Model, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the query is empty"):
        index.search("  ")
    with pytest.raises(UsageError, match="count 0"):
        index.search("dog", 0)
    with pytest.raises(DataError, match=r"list\[0\]: id 'd0-3' is in the index already; .*--update"):
        index.add([{"id": "d0-3", "text": "a dog"}])
    with pytest.raises(DataError, match="has no document 'none'; nothing was deleted"):
        index.delete(["d0-1", "none"])
    with pytest.raises(DataError, match="these are all its documents"):
        index.delete([each["id"] for each in records(30)])
    assert index.documents == 30
    with pytest.raises(CannotCreateError, match="holds an index already"):
        pretune.index(records(3), index.folder, model=model)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x.txt").write_text("x")
    with pytest.raises(CannotCreateError, match=r"holds 'x\.txt' and no index"):
        pretune.index(records(3), tmp_path / "full", model=model)
    with pytest.raises(MissingInputError, match="holds no index"):
        pretune.open_index(tmp_path / "full")
    with pytest.raises(MissingInputError, match=r"x\.txt: is a file"):
        pretune.open_index(tmp_path / "full" / "x.txt")
    with pytest.raises(MissingInputError, match="no such index"):
        pretune.open_index(tmp_path / "none")
    with pytest.raises(UsageError, match="unit 'tokens': without a model"):
        pretune.index(records(3), tmp_path / "t", unit="tokens")
    with pytest.raises(UsageError, match="backend 'exact': finds the nearest vectors, of which an index of words"):
        pretune.index(records(3), tmp_path / "t", backend="exact")
    with pytest.raises(UsageError, match="query_prompt and passage_prompt stand before"):
        pretune.index(records(3), tmp_path / "t", query_prompt="query: ")
    with pytest.raises(UsageError, match="no variant 'nope'"):
        index.compact("nope")
    assert not (tmp_path / "t").exists()


def test_an_index_is_replaced_when_the_new_one_is_whole(index: SearchIndex, model: Model) -> None:
    with pytest.raises(DataError, match="id 'd0-0' is that of"):
        pretune.index([*records(3), *records(1)], index.folder, model=model, replace=True)
    assert pretune.open_index(index.folder, model).documents == 30
    assert pretune.index(records(3, seed=2), index.folder, model=model, replace=True).documents == 3


def test_vectors_that_are_not_finite_name_the_document(tmp_path: Path) -> None:
    broken = load_model(save_model(tmp_path / "m"))
    next(broken.network.parameters()).data.fill_(float("nan"))
    with pytest.raises((NonFiniteError, DataError), match="not a finite number"):
        pretune.index(records(3), tmp_path / "i", model=broken)
    assert not (tmp_path / "i" / "index.json").exists()


def test_two_writers_do_not_meet(index: SearchIndex) -> None:
    with writer.writing(index.folder), pytest.raises(CannotCreateError, match="another process is writing it"):
        index.delete("d0-1")


def test_prompts_of_the_files_are_used_and_recorded(model: Model, tmp_path: Path) -> None:
    index = pretune.index(records(6), tmp_path / "i", model=model, query_prompt="you think ", passage_prompt="a ")
    stored = index.stored.vectors.rows(np.arange(6))
    texts = [f"a {each['text']}" for each in records(6)]
    np.testing.assert_allclose(stored, model.embed(texts, normalize=True), atol=1e-6)
    expected = model.embed(["you think fox"], normalize=True)[0]
    opened = pretune.open_index(index.folder, model)
    np.testing.assert_allclose(opened.encoder.query("fox"), expected, atol=1e-6)


def test_documents_are_read_once_whatever_the_source(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "docs.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in records(10)))
    one = pretune.index(path, tmp_path / "a", model=model)
    two = pretune.index(records(10), tmp_path / "b", model=model)
    assert ids(one.search("dog", 10)) == ids(two.search("dog", 10))
    assert len(list(read_documents(path))) == 10
