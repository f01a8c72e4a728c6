"""What stands around texts, against `transformers` reading the same files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import transformers
from tokenizers import models, pre_tokenizers, processors

from pretune.errors import DataError
from pretune.text.tokenizer.template import bert_templates, read_templates
from pretune.text.tokenizer.tokenizer import Tokenizer

TOKENS = ["<pad>", "<s>", "</s>", "<cls>", "<sep>", "<unk>", "a", "b", "c"]
SPECIAL = TOKENS[:6]


def template(single: str, pair: str) -> processors.TemplateProcessing:
    known = [(name, n) for n, name in enumerate(SPECIAL)]
    return processors.TemplateProcessing(single=single, pair=pair, special_tokens=known)


KINDS: dict[str, tuple[Any, dict[str, str]]] = {
    "roberta": (processors.RobertaProcessing(("</s>", 2), ("<s>", 1)), {"cls_token": "<s>", "sep_token": "</s>"}),
    "bert": (processors.BertProcessing(("<sep>", 4), ("<cls>", 3)), {"cls_token": "<cls>", "sep_token": "<sep>"}),
    "xlnet": (
        template("$A:0 <sep>:0 <cls>:2", "$A:0 <sep>:0 $B:1 <sep>:1 <cls>:2"),
        {"cls_token": "<cls>", "sep_token": "<sep>"},
    ),
    "t5": (template("$A:0 </s>:0", "$A:0 </s>:0 $B:0 </s>:0"), {"eos_token": "</s>"}),
    "llama": (template("<s>:0 $A:0", "<s>:0 $A:0 <s>:1 $B:1"), {"bos_token": "<s>", "eos_token": "</s>"}),
    "sequence": (
        processors.Sequence([processors.ByteLevel(), template("<s>:0 $A:0", "<s>:0 $A:0 <s>:1 $B:1")]),
        {"bos_token": "<s>"},
    ),
}


def make(kind: str) -> Tokenizer:
    processor, roles = KINDS[kind]
    backend = tokenizers.Tokenizer(models.WordLevel({t: n for n, t in enumerate(TOKENS)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens(SPECIAL)
    backend.post_processor = processor
    return Tokenizer(backend, dict(roles))


@pytest.mark.parametrize("kind", KINDS)
def test_texts_and_pairs_are_framed_as_by_transformers(kind: str, tmp_path: Path) -> None:
    built = make(kind)
    built.save(tmp_path)
    oracle, own = transformers.AutoTokenizer.from_pretrained(tmp_path), Tokenizer.load(tmp_path)
    first, second = own.encode("a b c"), own.encode("c b")
    for texts in (("a b c",), ("a b c", "c b")):
        actual = oracle(*texts, return_token_type_ids=True)
        tokens, segments = own.vocabulary.add_special_tokens(*(first, second)[: len(texts)])
        assert tokens.tolist() == actual["input_ids"]
        assert segments.tolist() == actual["token_type_ids"]
        assert own.vocabulary.overhead(len(texts) == 2) == len(tokens) - sum(len(t.split()) for t in texts)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", [[3, 3], [2, 0, 1], []])
def test_runs_are_framed_as_texts_are(kind: str, sizes: list[int]) -> None:
    vocabulary = make(kind).vocabulary
    runs = np.split(np.arange(sum(sizes)) + 6, np.cumsum(sizes)[:-1]) if sizes else []
    tokens, lengths = vocabulary.add_special_tokens_to_runs(np.arange(sum(sizes)) + 6, np.array(sizes, np.int64))
    framed = [vocabulary.add_special_tokens(run) for run in runs]
    assert tokens.tolist() == [t for run, _ in framed for t in run.tolist()]
    assert vocabulary.segments_of_runs(lengths).tolist() == [s for _, run in framed for s in run.tolist()]
    assert lengths.tolist() == [len(run) for run, _ in framed]


def test_what_a_decoder_and_an_encoder_decoder_read() -> None:
    opening = {kind: make(kind).vocabulary.prompt_prefix.tolist() for kind in KINDS}
    assert opening == {"roberta": [], "bert": [], "xlnet": [], "t5": [], "llama": [1], "sequence": [1]}
    t5, roberta = make("t5").vocabulary, make("roberta").vocabulary
    assert t5.with_end([7]).tolist() == [7, 2]
    assert (t5.prefix_length, roberta.prefix_length) == (0, 1)
    assert roberta.with_end([7]).tolist() == [1, 7, 2]
    bare = Tokenizer(tokenizers.Tokenizer(models.WordLevel({"a": 0, "</s>": 1}, unk_token="a")), {"eos_token": "</s>"})
    assert bare.vocabulary.add_special_tokens([0])[0].tolist() == [0]
    assert bare.vocabulary.with_end([0]).tolist() == [0, 1]


def test_templates_that_make_no_sense() -> None:
    step = {"type": "TemplateProcessing", "special_tokens": {}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    with pytest.raises(DataError, match=r"template of a pair holds the texts \['A'\]"):
        read_templates({"post_processor": {**step, "single": [text], "pair": [text]}})
    unknown = {"SpecialToken": {"id": "<x>", "type_id": 0}}
    with pytest.raises(DataError, match="names '<x>' without saying which id"):
        read_templates({"post_processor": {**step, "single": [text, unknown], "pair": [text]}})
    assert read_templates({"post_processor": None}) is None


def test_a_sequence_within_a_sequence_is_read(tmp_path: Path) -> None:
    frame = {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]}
    inner = {"type": "Sequence", "processors": [frame]}
    assert read_templates({"post_processor": {"type": "Sequence", "processors": [inner]}}) == bert_templates([2], [3])
