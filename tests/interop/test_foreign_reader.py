"""What is exported is opened by `transformers` and compared; what it reads otherwise is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import parity
import pytest
import transformers
from test_model_tokenizer import anew, trained
from transformers.models.auto import tokenization_auto

from pretune.cli import main
from pretune.errors import DataError
from pretune.evaluate.uses import USES
from pretune.find import find, variants
from pretune.interop import foreign_reader
from pretune.interop.export import export_model
from pretune.interop.foreign_reader import LINES, ForeignReading, read_by_transformers
from pretune.interop.huggingface import load_model, save_model
from pretune.interop.model_tokenizer import resolve_token_ids
from pretune.models import build
from pretune.models.model import get_family
from pretune.text.tokenizer.class_table import is_overruled
from pretune.text.tokenizer.files import AS_WRITTEN
from pretune.text.tokenizer.tokenizer import Tokenizer

RUN_SCRIPT = foreign_reader.run_script
VERSION = f"transformers {transformers.__version__}"


def reading(folder: Path) -> ForeignReading:
    model = load_model(folder).eval()
    return read_by_transformers(folder, folder, model, Tokenizer.load(folder), USES)


def change(path: Path, edit: Callable[[Any], object]) -> None:
    tree = json.loads(path.read_text())
    edit(tree)
    path.write_text(json.dumps(tree))


def test_the_verb_starts_a_process_and_says_what_was_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(foreign_reader, "run_script", RUN_SCRIPT)
    save_model(anew("gpt2", trained("bpe")), tmp_path / "in", trained("bpe"))
    assert main(["export", str(tmp_path / "in"), str(tmp_path / "out")]) == 0
    assert f"{VERSION} opened it: the same ids for 1,010 texts" in (printed := capsys.readouterr().err)
    assert "the same 6 outputs, the same greedy text for 4 prompts" in printed


def test_nothing_is_claimed_where_nobody_read_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(foreign_reader, "installed", lambda: False)
    save_model(anew("bert", trained("wordpiece")), tmp_path / "in", trained("wordpiece"))
    assert main(["export", str(tmp_path / "in"), str(tmp_path / "out")]) == 0
    assert "no other reader has opened it: transformers is not installed" in (printed := capsys.readouterr().err)
    assert "opened it: the same" not in printed


def test_a_process_that_fails_claims_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(foreign_reader, "run_script", RUN_SCRIPT)
    monkeypatch.setattr(foreign_reader, "_SCRIPT", tmp_path / "none.py")
    foreign = export_model(anew("bert", trained("wordpiece")), tmp_path / "out").foreign
    assert not foreign.reader
    assert "the process of transformers ended with 2" in str(foreign)


def test_vectors_are_judged_by_sentence_transformers(tmp_path: Path) -> None:
    """A folder whose modules.json says how vectors are made; what its own software makes otherwise is refused."""
    tokenizer = trained("wordpiece")
    foreign = export_model(anew("bert", tokenizer), tmp_path, tokenizer, pooling="max", uses=USES).foreign
    assert foreign.vectors_reader.startswith("sentence-transformers ")
    assert "the same 11 vectors" in str(foreign)
    model, written = load_model(tmp_path).eval(), Tokenizer.load(tmp_path)
    other = {"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": False}
    (pooling,) = tmp_path.glob("*_Pooling/config.json")
    change(pooling, lambda tree: tree.update({"pooling_mode": "mean"} if "pooling_mode" in tree else other))
    with pytest.raises(DataError, match=r"as sentence-transformers .* reads it: vectors differ by"):
        read_by_transformers(tmp_path, tmp_path, model, written, USES)


def drop_frame(folder: Path) -> None:
    change(folder / "tokenizer.json", lambda tree: tree.update(post_processor=None))


def other_arithmetic(folder: Path) -> None:
    change(folder / "config.json", lambda tree: tree.update(activation_function="relu"))


def forced_token(folder: Path) -> None:
    change(folder / "generation_config.json", lambda tree: tree.update(forced_bos_token_id=9))


def other_class(folder: Path) -> None:
    change(folder / "tokenizer_config.json", lambda tree: tree.update(tokenizer_class="Qwen2Tokenizer"))


def lost_weight(folder: Path) -> None:
    change(folder / "config.json", lambda tree: tree.update(encoder_layers=3))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (other_arithmetic, "outputs of 'hidden' differ by"),
        (forced_token, "after .* it writes the tokens .*, and pretune writes"),
        (lost_weight, "differ by .*; it has no model.encoder.layers.2"),
        (other_class, r"\(Qwen2Tokenizer\): .* has the ids"),
        (drop_frame, "has the ids"),
    ],
)
def test_what_it_reads_otherwise_is_refused(spoil: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    """Each is a fault that comparing our reading with our reading cannot see."""
    tokenizer = trained("bpe")
    save_model(anew("bart", tokenizer), tmp_path, tokenizer)
    assert reading(tmp_path).texts == 4
    model, written = load_model(tmp_path).eval(), Tokenizer.load(tmp_path)
    spoil(tmp_path)
    with pytest.raises(DataError, match=message):
        read_by_transformers(tmp_path, tmp_path, model, written, USES)


def test_a_family_that_it_does_not_have(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = anew("bert", trained("wordpiece"))
    save_model(model, tmp_path)
    monkeypatch.setattr(get_family("bert"), "MODEL_TYPE", "neo_bert_of_mine", raising=False)
    foreign = read_by_transformers(tmp_path, tmp_path, model, None)
    assert not foreign.reader
    assert "has no BertFor" in foreign.reason


def test_a_family_of_the_user_s_that_it_has(tmp_path: Path) -> None:
    """config.json says `qwen2` of a user's qwen2.py too, and AutoTokenizer would rebuild its pre-tokenizer."""
    path = str(tmp_path / "qwen2.py")
    shutil.copy(str(find("models", "qwen2").__file__), path)
    tokenizer = trained("wordpiece")
    fields, tokenizer = resolve_token_ids(path, "tiny", {}, tokenizer)
    model = build(path, "tiny", ["clm"], fields).eval()
    parity.randomise(model)
    foreign = export_model(model, tmp_path / "out", tokenizer, uses=USES).foreign
    assert (foreign.reader, foreign.lines > 900, foreign.texts) == (VERSION, True, 4)


@pytest.mark.parametrize("model_type", ["qwen3_5", "hyperclovax_vision_v2"])
def test_a_user_s_family_of_another_type_that_is_overruled(model_type: str, tmp_path: Path) -> None:
    """Qwen2 was the only one that was known, though the recorded table has seven."""
    path, tokenizer = tmp_path / f"{model_type}.py", trained("wordpiece")
    path.write_text(Path(str(find("models", "qwen3").__file__)).read_text())
    model = build(str(path), "tiny", ["clm"], {"vocab_size": tokenizer.vocabulary.size})
    save_model(model, tmp_path / "out", tokenizer)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert theirs(LINES[0])["input_ids"] == tokenizer.encode(LINES[0]).tolist()


@pytest.mark.parametrize("family", variants("models"))
def test_the_classes_that_overrule_are_those_of_the_table(family: str) -> None:
    """The rules by which `AutoTokenizer` chooses a class, as the writing of tokenizers relies on them."""
    model_type = str(getattr(get_family(family), "MODEL_TYPE", family))
    registered = tokenization_auto.TOKENIZER_MAPPING_NAMES.get(model_type) or "TokenizersBackend"
    overrules = model_type in tokenization_auto.MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS
    assert (overrules and registered != "TokenizersBackend") == is_overruled(model_type)
    assert tokenization_auto.tokenizer_class_from_name(AS_WRITTEN) is transformers.TokenizersBackend


@pytest.mark.parametrize(
    "family",
    [pytest.param(f, marks=() if f in ("bert", "gpt2", "t5") else pytest.mark.slow) for f in variants("models")],
)
def test_every_class_of_a_family_is_read(family: str, tmp_path: Path) -> None:
    """All classes of `transformers` that a family's heads make, each with outputs of its heads."""
    for n, (name, roles) in enumerate(get_family(family).ARCHITECTURES.items()):
        tokenizer = trained(("wordpiece", "bpe", "unigram")[n % 3])
        fields, _ = resolve_token_ids(family, "tiny", {}, tokenizer)
        labelled = {"classification", "token_classification"} & set(roles)
        model = build(family, "tiny", list(roles), fields, labels=["a", "b"] if labelled else None).eval()
        parity.randomise(model)
        foreign = export_model(model, tmp_path / name, tokenizer, uses=USES).foreign
        assert foreign.reader == VERSION
        assert foreign.lines > 900
        assert foreign.outputs == 3 * (1 + len(roles)), name
        assert foreign.texts == (4 if "clm" in roles else 0)
