"""Folders of tokenizer files with fields set at random: the ids of `transformers`, or refused by name."""

from __future__ import annotations

import json
import logging
import os
import shutil
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers

from pretune.errors import DataError, MissingInputError, PretuneError
from pretune.text.encode.encoder import DocumentEncoder
from pretune.text.tokenizer import class_table
from pretune.text.tokenizer.join import join_han
from pretune.text.tokenizer.plain import hidden_tokens
from pretune.text.tokenizer.tokenizer import Tokenizer

pytest.importorskip("sentencepiece", reason="the extra 'sentencepiece' is not installed")
from tests.text.tokenizer.folders import LINES, TEXTS, Folder, Vocabularies, saved

pytestmark = pytest.mark.usefixtures("unsealed")

DATA = Path(os.environ.get("PRETUNE_DATA", Path(__file__).parents[4] / "shared" / "data"))
ROLES = ("bos", "eos", "pad", "cls", "sep", "mask")


@pytest.fixture(scope="module")
def vocabularies(tmp_path_factory: pytest.TempPathFactory) -> Vocabularies:
    return Vocabularies.train(tmp_path_factory.mktemp("vocabularies"))


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    transformers.logging.set_verbosity_error()
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logging.disable(logging.NOTSET)


def oracle_of(folder: Path) -> Any:
    """What `transformers` makes of a folder; None where it does not read it, or not encode."""
    try:
        oracle = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        oracle(LINES)
    except Exception:
        return None
    backend = getattr(oracle, "backend_tokenizer", None)
    if backend is not None and getattr(backend.model, "dropout", None):
        backend.model.dropout = None  # it draws at every call; pretune does not, and says so
    return oracle


def difference(oracle: Any, own: Tokenizer, lines: list[str]) -> str | None:
    """How a reading differs from the oracle's; None where it does not."""
    lacking = set(oracle.get_vocab()) - {subword for subword in own.subwords if subword}
    if lacking and not any("left out" in note for note in own.notes):
        return f"tokens are missing: {lacking}"
    hidden = {name.lower() for name in hidden_tokens(own.layout, own.vocabulary)}
    for line in lines:
        if any(token.lower() in line.lower() for token in lacking):
            continue  # tokens that the class names, no model knows, and the note tells
        tokens, second = own.encode(line, allow_special=True), own.encode("x y", allow_special=True)
        ids = own.vocabulary.add_special_tokens(tokens)[0].tolist()
        pairs = {
            "text": (oracle(line)["input_ids"], ids),
            "pair": (oracle(line, "x y")["input_ids"], own.vocabulary.add_special_tokens(tokens, second)[0].tolist()),
            "decoded": (join_han(oracle.decode(ids, skip_special_tokens=True)), join_han(own.decode(ids))),
            "special": (join_han(oracle.decode(ids)), join_han(own.decode(ids, skip_special=False))),
        }
        if not any(name in line.lower() for name in hidden):
            pairs["plain"] = (oracle(line, add_special_tokens=False)["input_ids"], own.encode(line).tolist())
        for what, (theirs, ours) in pairs.items():
            if theirs != ours:
                return f"{what} of {line!r}: {theirs} there, {ours} here"
    for role in ROLES:
        theirs, ours = getattr(oracle, f"{role}_token_id"), getattr(own.vocabulary, role)
        if theirs is not None and theirs < own.vocabulary.size and theirs != ours:
            return f"{role} is {theirs} there, {ours} here"
    return None


def load(folder: Path) -> Tokenizer | PretuneError:
    """The tokenizer, or why it is refused."""
    try:
        return Tokenizer.load(folder)
    except (DataError, MissingInputError) as error:
        return error


def outcome(folder: Folder, lines: list[str]) -> str:
    """Whether a folder is read alike, refused, or read where `transformers` does not read it."""
    oracle = oracle_of(folder.path)
    own = load(folder.path)
    if isinstance(own, PretuneError):
        assert str(folder.path) in str(own), own
        return "refused" if oracle is not None else "refused by both"
    if oracle is None:
        return "read here alone"
    different = difference(oracle, own, lines)
    assert different is None, f"{folder.path}: {different}"
    return "equal"


def compare(seeds: range, vocabularies: Vocabularies, folder: Path, lines: list[str]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for seed in seeds:
        counts[outcome(Folder(folder / str(seed), vocabularies, seed), lines)] += 1
        shutil.rmtree(folder / str(seed))
    return counts


def test_a_sample_of_folders(vocabularies: Vocabularies, tmp_path: Path) -> None:
    counts = compare(range(60), vocabularies, tmp_path, LINES)
    assert counts["equal"] > 25, counts


@pytest.mark.slow
def test_many_folders(vocabularies: Vocabularies, tmp_path: Path) -> None:
    counts = compare(range(100, 1600), vocabularies, tmp_path, LINES)
    assert counts["equal"] > 750, counts


def compare_saved(seeds: range, vocabularies: Vocabularies, folder: Path) -> Counter[str]:
    """Compares tokenizers that `transformers` made, extended and saved."""
    counts: Counter[str] = Counter()
    for seed in seeds:
        path = saved(folder / str(seed), vocabularies, seed)
        oracle = None if path is None else oracle_of(path)
        if path is None or oracle is None:
            counts["not made"] += 1
            continue
        different = difference(oracle, Tokenizer.load(path), LINES)
        assert different is None, f"{seed}: {different}"
        counts["equal"] += 1
        shutil.rmtree(folder / str(seed))
    return counts


def test_a_sample_of_saved_folders(vocabularies: Vocabularies, tmp_path: Path) -> None:
    counts = compare_saved(range(30), vocabularies, tmp_path)
    assert counts["equal"] > 25, counts


@pytest.mark.slow
def test_many_saved_folders(vocabularies: Vocabularies, tmp_path: Path) -> None:
    counts = compare_saved(range(100, 800), vocabularies, tmp_path)
    assert counts["equal"] > 600, counts


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason="the data sets are not here")
def test_a_thousand_lines_in_four_scripts(vocabularies: Vocabularies, tmp_path: Path) -> None:
    files = ("corpora/en/wikitext2-test.txt", "corpora/zh/CLUECorpusSmall_sampled.txt", "classification/sst2/dev.tsv")
    lines = [line for name in files for line in (DATA / name).read_text(encoding="utf-8").splitlines()[:320]]
    lines += [f"{text} {n}" for n, text in enumerate(TEXTS[3:6] * 14)]
    assert len(lines) >= 1000
    counts = compare(range(2000, 2060), vocabularies, tmp_path, lines)
    assert counts["equal"] > 25, counts


def test_classes_are_those_of_transformers() -> None:
    """The table was recorded from this release; with another it is made again."""
    from transformers.models.auto import tokenization_auto as auto

    recorded = {kind: name for kind, name in class_table.REGISTERED.items() if name != "FastSpeech2ConformerTokenizer"}
    theirs = {kind: name for kind, name in auto.TOKENIZER_MAPPING_NAMES.items() if name is not None}
    assert recorded == {k: class_table.GENERIC if n == "MistralCommonBackend" else n for k, n in theirs.items()}
    assert auto.MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS == class_table.OVERRULED
    for name in (*class_table.KNOWN, *class_table.ALIASES, "PreTrainedTokenizerFast", "MyOwnTokenizer"):
        theirs_of = auto.tokenizer_class_from_name(name)
        bases = [class_table.GENERIC] if theirs_of is None else [base.__name__ for base in theirs_of.__mro__]
        assert class_table.resolve(name) in bases, name
    for name in class_table.OTHERS:
        assert class_table.resolve(f"{name}Fast") == name


BERT = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "a",
    "##s",
    "##p",
    "##i",
    "##r",
    "##n",
    "the",
    "dog",
    "<",
    ">",
    "drug",
]
ADDED = {
    "added_tokens.json": {"aspirin": 16, "<drug>": 17},
    "tokenizer_config.json": {
        "added_tokens_decoder": {
            str(16 + n): {"content": word, "special": False, "normalized": True}
            for n, word in enumerate(("aspirin", "<drug>"))
        }
    },
    "special_tokens_map.json": {"additional_special_tokens": ["aspirin", "<drug>"]},
}


@pytest.mark.parametrize("name", ADDED)
def test_added_tokens_in_all_their_forms(name: str, tmp_path: Path) -> None:
    """By `transformers` 18 tokens; `a ##s ##p ...` of 16, where these files are not read."""
    (tmp_path / "vocab.txt").write_text("\n".join(BERT) + "\n")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / name).write_text(json.dumps(ADDED[name]))
    oracle, own = oracle_of(tmp_path), Tokenizer.load(tmp_path)
    assert own.vocabulary.size == len(oracle) == 18
    text = "the dog<drug> aspirin"
    assert own.encode(text, True).tolist() == oracle(text, add_special_tokens=False)["input_ids"] == [11, 12, 17, 16]
    assert own.encode(text).tolist() == [11, 12, 17, 16], "a user's own marks are those of the text"
    assert not set(own.encode("[MASK] [SEP]").tolist()) & {2, 3, 4}
    encoded = DocumentEncoder(own, np.dtype("u2")).encode([text, "the dog"], [[0], [0]])
    assert encoded.tokens.tolist() == [11, 12, 17, 16, 3, 11, 12, 3], "a store has the same ids"
    own.save(tmp_path / "out")
    assert Tokenizer.load(tmp_path / "out").encode(text, True).tolist() == [11, 12, 17, 16]
    assert oracle_of(tmp_path / "out")(text, add_special_tokens=False)["input_ids"] == [11, 12, 17, 16]


def test_the_end_token_beside_a_sentencepiece_model(vocabularies: Vocabularies, tmp_path: Path) -> None:
    """Without it a text that is generated never ends."""
    shutil.copy(vocabularies.folder / "pieces1.model", tmp_path / "tokenizer.model")
    size = Tokenizer.load(tmp_path / "tokenizer.model").vocabulary.size
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<|im_start|>": size, "<|im_end|>": size + 1}))
    settings = {"tokenizer_class": "LlamaTokenizer", "eos_token": "<|im_end|>", "add_bos_token": True}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    oracle, own = oracle_of(tmp_path), Tokenizer.load(tmp_path)
    assert own.vocabulary.end == oracle.eos_token_id == size + 1
    assert difference(oracle, own, [*LINES, "<|im_start|>user\nthe dog<|im_end|>"]) is None


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "added_tokens.json",
            {"aspirin": 100},
            r"added_tokens\.json: 'aspirin' = 100: this id is not free or leaves a gap",
        ),
        ("added_tokens.json", {"aspirin": 3}, "'aspirin' = 3: this id is not free"),
        ("added_tokens.json", {"dog": 16}, "'dog' = 16: this id is not free or leaves a gap: the token would have 12"),
        ("added_tokens.json", {"aspirin": "x"}, 'the id "x" of an added token is no whole number'),
        ("added_tokens.json", ["aspirin"], "expected a JSON object"),
        (
            "tokenizer_config.json",
            {"added_tokens_decoder": {"16": "aspirin"}},
            "expected an object with the token's 'content'",
        ),
        ("tokenizer_config.json", {"eos_token": 5}, "field 'eos_token' = 5: expected a text"),
        ("tokenizer_config.json", {"unk_token": "<unk>"}, "no '<unk>', the unknown token, in the vocabulary"),
        ("tokenizer_config.json", {"do_lower_case": "yes"}, "field 'do_lower_case' = \"yes\": expected true or false"),
        ("tokenizer_config.json", {"sp_model_kwargs": {"alpha": 0.1}}, "sp_model_kwargs.*remove the field"),
        ("tokenizer_config.json", {"tokenizer_class": "CLIPTokenizer"}, "CLIPTokenizer has rules of its own"),
        (
            "tokenizer_config.json",
            {"tokenizer_class": "GPT2Tokenizer"},
            r"GPT2Tokenizer is named, .* vocab\.json is here",
        ),
        (
            "added_tokens.json",
            {"dog": 16, "aspirin": 16},
            r"added_tokens\.json: 'aspirin' = 16: 'dog' has this id in .*added_tokens\.json; give each token",
        ),
        ("special_tokens_map.json", {"cls_token": {"content": 5}}, "expected an object with the token's 'content'"),
    ],
)
def test_what_would_be_read_otherwise_is_refused(name: str, content: Any, message: str, tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(BERT) + "\n")
    (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises((DataError, MissingInputError), match=message):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "config.json"])
@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b'{"a": ' + b"[" * 200_000, "nested too deep"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b'{"model_max_length": NaN}', "NaN is not JSON"),
        (b'{"added_tokens_decoder": {"16": {"content": "\\ud800"}}}', r"a lone surrogate, U\+D800"),
        (b'{"\\udc00": "\\ud83d\\ude00"}', r"a lone surrogate, U\+DC00"),
    ],
    ids=["deep", "long", "nan", "value", "name"],
)
def test_json_that_is_none_is_refused(name: str, raw: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(BERT) + "\n")
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(DataError, match=rf"{name}: .*{message}"):
        Tokenizer.load(tmp_path)


def test_an_escaped_pair_of_surrogates_is_a_character(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(BERT) + "\n")
    (tmp_path / "added_tokens.json").write_text(json.dumps({"\U0001f600": 16}))
    assert Tokenizer.load(tmp_path).encode("the \U0001f600").tolist()[-1] == 16


def test_unknown_fields_are_said(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(BERT) + "\n")
    (tmp_path / "tokenizer_config.json").write_text('{"a_new_field": 1, "truncation_side": "left"}')
    notes = "\n".join(Tokenizer.load(tmp_path).notes)
    assert "'a_new_field' is not known here" in notes
    assert "truncation_side" in notes


def test_two_tokenizers_that_disagree_are_refused(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(BERT) + "\n")
    Tokenizer.load(tmp_path).save(tmp_path)
    Tokenizer.load(tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join([*BERT[:-2], "drug", ">"]) + "\n")
    with pytest.raises(DataError, match=r"vocab\.txt: the token '>' has id 15, and 14 in tokenizer\.json beside it"):
        Tokenizer.load(tmp_path)


def test_files_of_several_tokenizers_need_a_name(vocabularies: Vocabularies, tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(BERT) + "\n")
    shutil.copy(vocabularies.folder / "unigram1.model", tmp_path / "spiece.model")
    with pytest.raises(
        DataError, match=r"vocab\.txt and spiece\.model are files of several tokenizers, and none is named"
    ):
        Tokenizer.load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    assert difference(oracle_of(tmp_path), Tokenizer.load(tmp_path), LINES) is None
    Tokenizer.load(tmp_path).save(tmp_path)
    (tmp_path / "vocab.txt").unlink()
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "T5Tokenizer"}')
    assert difference(oracle_of(tmp_path), Tokenizer.load(tmp_path), LINES) is None
    shutil.copy(vocabularies.folder / "unigram3.model", tmp_path / "spiece.model")
    with pytest.raises(DataError, match=r"spiece\.model: the token .* in tokenizer\.json beside it"):
        Tokenizer.load(tmp_path)


def test_merges_that_disagree_are_refused(vocabularies: Vocabularies, tmp_path: Path) -> None:
    vocab, merges = vocabularies.bpe["bytes"]
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    (tmp_path / "merges.txt").write_text("".join(f"{a} {b}\n" for a, b in merges))
    Tokenizer.load(tmp_path).save(tmp_path)
    Tokenizer.load(tmp_path)
    (tmp_path / "merges.txt").write_text("".join(f"{a} {b}\n" for a, b in merges[::-1]))
    with pytest.raises(DataError, match=r"merges\.txt: merge 1 is .* in tokenizer\.json beside it"):
        Tokenizer.load(tmp_path)


def test_a_tokenizer_json_of_the_first_releases(tmp_path: Path) -> None:
    """DistilBERT's and XLNet's on the hub have no `type` in `model`."""
    (tmp_path / "vocab.txt").write_text("\n".join(BERT) + "\n")
    Tokenizer.load(tmp_path).save(tmp_path)
    layout = json.loads((tmp_path / "tokenizer.json").read_text())
    del layout["model"]["type"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(layout))
    (tmp_path / "config.json").write_text('{"model_type": "distilbert"}')
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "DistilBertTokenizer"}')
    assert difference(oracle_of(tmp_path), Tokenizer.load(tmp_path), LINES) is None


def test_the_config_goes_before_tokenizer_json_for_berts_class(tmp_path: Path) -> None:
    """`transformers` 5 builds BertTokenizer's normalizer anew from tokenizer_config.json, and this is said."""
    (tmp_path / "vocab.txt").write_text("\n".join(BERT) + "\n")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    Tokenizer.load(tmp_path).save(tmp_path)
    (tmp_path / "vocab.txt").unlink()
    for fields in ({"do_lower_case": False}, {"strip_accents": False}, {"tokenize_chinese_chars": False}):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer", **fields}))
        oracle, own = oracle_of(tmp_path), Tokenizer.load(tmp_path)
        assert difference(oracle, own, [*LINES, "The DOG äs 狗the"]) is None
        assert "BertTokenizer sets normalizer by its own rules" in own.notes[-1]


@pytest.mark.parametrize("model_type", ["roberta", "bart"])
def test_roberta_and_bart_of_vocabulary_and_merges(model_type: str, vocabularies: Vocabularies, tmp_path: Path) -> None:
    """Read as GPT-2's they had no `<s> </s>`, and pairs ended in an IndexError."""
    vocab, merges = vocabularies.bpe["bytes"]
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    mask = {"content": "<mask>", "lstrip": True, "rstrip": False, "normalized": False, "single_word": False}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"mask_token": mask}))
    oracle, own = oracle_of(tmp_path), Tokenizer.load(tmp_path)
    assert difference(oracle, own, [*LINES, "the <mask> dog"]) is None
    assert own.vocabulary.add_special_tokens([100], [101])[0].tolist() == [0, 100, 2, 2, 101, 2]
    assert own.vocabulary.add_special_tokens([100], [101])[1].max() == 0
    assert own.encode("the <mask>", allow_special=True).tolist()[-1] == own.vocabulary.mask
    assert (own.vocabulary.cls, own.vocabulary.sep, own.vocabulary.pad) == (0, 2, 1)
