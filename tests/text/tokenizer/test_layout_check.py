"""The bounds of a tokenizer.json: what lies just within is read, what lies just beyond is refused by name."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import models

from pretune.errors import DataError
from pretune.text.tokenizer import layout_check
from pretune.text.tokenizer.layout_check import MAX_PIECE, check_layout, check_subwords
from pretune.text.tokenizer.tokenizer import Tokenizer

Layout = dict[str, Any]


def layout() -> Layout:
    model = models.WordPiece({"[UNK]": 0, "a": 1, "##b": 2, " ": 3}, unk_token="[UNK]")
    parsed: Layout = json.loads(tokenizers.Tokenizer(model).to_str())
    return parsed


def changed(change: Callable[[Layout], object]) -> Layout:
    tree = layout()
    change(tree)
    return tree


def step(part: str, **fields: Any) -> Callable[[Layout], object]:
    return lambda tree: tree.update({part: fields})


def steps(part: str, plural: str, items: list[Any]) -> Callable[[Layout], object]:
    return step(part, type="Sequence", **{plural: items})


def nested(depth: int) -> dict[str, Any]:
    inner: dict[str, Any] = {"type": "NFC"}
    for _ in range(depth):
        inner = {"type": "Sequence", "normalizers": [inner]}
    return inner


def model(**fields: Any) -> Callable[[Layout], object]:
    return lambda tree: tree["model"].update(fields)


def template(parts: int, ids: int) -> Callable[[Layout], object]:
    text = {"Sequence": {"id": "A", "type_id": 0}}
    other = {"Sequence": {"id": "B", "type_id": 0}}
    special = [{"SpecialToken": {"id": "a", "type_id": 0}}] * (parts - 2)
    return step(
        "post_processor",
        type="TemplateProcessing",
        single=[text],
        pair=[text, other, *special],
        special_tokens={"a": {"id": "a", "ids": [1] * ids, "tokens": ["a"] * ids}},
    )


def replace(content: str, pattern: str = "a") -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": pattern}, "content": content}


def token(number: int, content: str) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": content, "special": False, **flags}


BOUNDS = [  # field, within, beyond
    ("model.vocab", model(vocab={"[UNK]": 0, "b" * 1024: 1}), model(vocab={"[UNK]": 0, "b" * 1025: 1})),
    ("model.max_input_chars_per_word", model(max_input_chars_per_word=1000), model(max_input_chars_per_word=1001)),
    ("model.unk_token", None, model(unk_token="u" * 1025)),
    ("normalizer", lambda t: t.update(normalizer=nested(8)), lambda t: t.update(normalizer=nested(9))),
    ("normalizer", steps("normalizer", "normalizers", [{"type": "NFC"}] * 64),
     steps("normalizer", "normalizers", [{"type": "NFC"}] * 65)),
    ("normalizer", steps("normalizer", "normalizers", [replace("bb")] * 10),
     steps("normalizer", "normalizers", [replace("bb")] * 11)),
    ("normalizer.content", step("normalizer", **replace("b" * 256)), step("normalizer", **replace("b" * 257))),
    ("normalizer.prepend", step("normalizer", type="Prepend", prepend="b" * 256),
     step("normalizer", type="Prepend", prepend="b" * 257)),
    ("normalizer.pattern", step("normalizer", **replace("", "b" * 256)), step("normalizer", **replace("", "b" * 257))),
    ("decoder", steps("decoder", "decoders", [replace("bb")] * 10), steps("decoder", "decoders", [replace("bb")] * 11)),
    ("pre_tokenizer.length", step("pre_tokenizer", type="FixedLength", length=1),
     step("pre_tokenizer", type="FixedLength", length=1 << 31)),
    ("post_processor.pair", template(64, 1), template(65, 1)),
    ("post_processor.special_tokens", template(3, 64), template(3, 65)),
    ("added_tokens", lambda t: t.update(added_tokens=[token(4, "d" * 1024)]),
     lambda t: t.update(added_tokens=[token(4, "d" * 1025)])),
]  # fmt: skip


@pytest.mark.parametrize(("field", "within", "beyond"), BOUNDS)
def test_bounds(
    field: str, within: Callable[[Layout], object] | None, beyond: Callable[[Layout], object], tmp_path: Path
) -> None:
    file = tmp_path / "tokenizer.json"
    if within is not None:
        file.write_text(json.dumps(changed(within)))
        assert Tokenizer.load(tmp_path).encode("a ab b").size
    file.write_text(json.dumps(changed(beyond)))
    with pytest.raises(DataError, match=rf"tokenizer\.json: field '{field}.*damaged or hostile"):
        Tokenizer.load(tmp_path)


COUNTS = [
    ("MAX_MERGES", 1, {"vocab": {"a": 0, "b": 1, "ab": 2, "ba": 3}, "merges": [("a", "b"), ("b", "a")]}),
    ("MAX_MERGED", 3, {"vocab": {"a": 0, "b": 1, "ab": 2, "ba": 3}, "merges": ["a b", "b a"]}),
    ("MAX_IDS", 2, {"vocab": {"a": 0, "b": 1, "c": 2}}),
    ("MAX_IDS", 2, {"vocab": [("a", 0.0), ("b", 0.0), ("c", 0.0)]}),
    ("MAX_TRIE", 6, {"vocab": [("abc", 0.0), ("abd", 0.0), ("xyz", 0.0)]}),
]


@pytest.mark.parametrize(("name", "limit", "fields"), COUNTS)
def test_counts(name: str, limit: int, fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The bounds themselves are too large for a test; one more than a small one is refused in the same place."""
    monkeypatch.setattr(layout_check, name, limit)
    with pytest.raises(DataError, match=r"^file: field 'model\."):
        check_subwords("file", **fields)
    monkeypatch.setattr(layout_check, name, limit + 1)
    check_subwords("file", **fields)


def test_the_number_of_added_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = layout() | {"added_tokens": [token(4, "c"), token(5, "d")]}
    monkeypatch.setattr(layout_check, "MAX_ADDED", 1)
    with pytest.raises(DataError, match="more added tokens than 1"):
        check_layout("file", tree)


def test_a_merge_without_the_prefix_is_refused() -> None:
    tree = layout()
    tree["model"] = {
        "type": "BPE",
        "continuing_subword_prefix": "##",
        "vocab": {"a": 0, "##b": 1, "ab": 2, "bcd": 3, "ad": 4},
    }
    check_layout("file", tree | {"model": tree["model"] | {"merges": [["a", "##b"]]}})
    with pytest.raises(DataError, match="the second does not begin with the prefix"):
        check_layout("file", tree | {"model": tree["model"] | {"merges": [["a", "bcd"]]}})


def test_scores_are_numbers() -> None:
    check_subwords("file", [("a", -1e6), ("b", 0)])
    for score in (float("nan"), float("inf"), -1e31, None, True):
        with pytest.raises(DataError, match="expected a subword and its score"):
            check_subwords("file", [("a", score)])


def test_the_longest_subwords_are_safe_in_a_thread(tmp_path: Path) -> None:
    """The library frees its trie by recursion, which a thread's small stack must bear at the bound."""
    longest = "\U0001f600" * MAX_PIECE
    tree = layout()
    tree["model"] = {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.0], [longest, -2.0]]}
    tree["pre_tokenizer"] = None
    (tmp_path / "tokenizer.json").write_text(json.dumps(tree))
    ids: list[list[int]] = []
    thread = threading.Thread(target=lambda: ids.append(Tokenizer.load(tmp_path).encode(longest + "a").tolist()))
    thread.start()
    thread.join()
    assert ids == [[2, 1]]


@pytest.mark.parametrize("name", ["vocab.txt", "merges.txt", "tokenizer.json", "tokenizer_config.json"])
def test_files_are_bounded(name: str, tmp_path: Path) -> None:
    """A file of holes has any size and takes no space."""
    (tmp_path / ("vocab.json" if name == "merges.txt" else "vocab.txt")).write_text("{}")
    limit = layout_check.SETTINGS_LIMIT if name == "tokenizer_config.json" else layout_check.FILE_LIMIT
    with (tmp_path / name).open("wb") as file:
        file.truncate(limit + 1)
    with pytest.raises(DataError, match=rf"{name}: {limit + 1:,} bytes, more than the {limit:,}"):
        Tokenizer.load(tmp_path)


FRAME = {"type": "BertProcessing", "sep": ["a", 1], "cls": ["a", 1]}
REFUSED: list[tuple[str, Callable[[Layout], object]]] = [  # harmless ones of each kind
    ("decoder.stop", step("decoder", type="Strip", content=" ", start=1, stop=1)),
    ("normalizer.pattern", step("normalizer", **replace("b", ""))),
    ("post_processor", steps("post_processor", "processors", [FRAME, {"type": "Sequence", "processors": [FRAME]}])),
    ("post_processor.single", lambda tree: (
        template(3, 1)(tree), tree["post_processor"]["single"][0].update(Sequence={"id": "C", "type_id": 0}))),
    ("model.merges", model(type="BPE", vocab={"a": 0, "b": 1, "abc": 2}, merges=[["a", "b"]], unk_token=None,
                           continuing_subword_prefix=None)),
]  # fmt: skip


@pytest.mark.parametrize(("field", "change"), REFUSED)
def test_what_the_library_fails_on_is_refused(field: str, change: Callable[[Layout], object], tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(changed(change)))
    with pytest.raises(DataError, match=rf"tokenizer\.json: field '{field}' = "):
        Tokenizer.load(tmp_path)


def test_a_token_of_which_normalization_leaves_nothing_is_refused(tmp_path: Path) -> None:
    tree = layout() | {"normalizer": {"type": "StripAccents"}, "added_tokens": [token(4, "\u0301")]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(tree))
    Tokenizer.load(tmp_path)
    tree["added_tokens"][0]["normalized"] = True
    (tmp_path / "tokenizer.json").write_text(json.dumps(tree))
    with pytest.raises(DataError, match="normalization leaves nothing of it; set its 'normalized' to false"):
        Tokenizer.load(tmp_path)
