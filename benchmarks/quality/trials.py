"""What is compared: objectives, each with a model that can learn it, the texts they read and the labels that judge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Stage:
    """A part of a trial's time with a recipe of its own.

    Attributes:
        recipe: what differs from `COMMON`.
        fraction: of the trial's minutes.
    """

    recipe: Mapping[str, Any]
    fraction: float = 1.0


@dataclass(frozen=True)
class Trial:
    """A way to pretrain.

    Attributes:
        name: short, for results.
        label: for the table.
        stages: one after the other, each from the weights of the one before; none is a model that has learned nothing.
        model: the one that begins, where it differs from that of `COMMON`.
    """

    name: str
    label: str
    stages: tuple[Stage, ...]
    model: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Labels:
    """A labelled set.

    Attributes:
        name: for the table.
        train, test: files below the folder of data.
        columns: how they are read, fields of `LabelledConfig`.
    """

    name: str
    train: str
    test: str
    columns: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Language:
    """Texts of a language, and sets that judge.

    Attributes:
        name: of the language.
        corpora: files below the folder of data, a paragraph a line.
        vocabulary: tokens of the WordPiece tokenizer that is trained on them.
        segmenter: where words do not show in the writing.
        sets: labelled ones.
    """

    name: str
    corpora: tuple[str, ...]
    vocabulary: int
    segmenter: str | None
    sets: tuple[Labels, ...]


COMMON: Mapping[str, Any] = {
    "model": {"family": "bert", "size": "mini", "dropout": 0.0},
    "data": {"batch": 32, "length": 128},
    "optimizer": {"name": "muon", "lr": 6e-3},
    "schedule": {"kind": "linear", "warmup": 0.06},
    "evaluation": {"samples": 0, "keep": "last"},
    "checkpoint": {"best": False, "keep": 1},
    "track": {"report": False},
}

_ALBERT: Mapping[str, Any] = {"family": "albert", "overrides": {"num_hidden_groups": 4, "embedding_size": 256}}
_ELECTRA, _XLNET, _GPT2 = {"family": "electra"}, {"family": "xlnet"}, {"family": "gpt2"}
_MLM = Stage({"objective": {"mlm": 1.0}})
TRIALS: tuple[Trial, ...] = (  # before those of a family what it is worth untrained
    Trial("none", "no pretraining (BERT)", ()),
    Trial("mlm", "MLM, tokens", (_MLM,)),
    Trial("mlm-word", "MLM, whole words", (Stage({"objective": {"mlm": {"units": "word"}}}),)),
    Trial("mlm-span", "MLM, spans", (Stage({"objective": {"mlm": {"units": "span"}}}),)),
    Trial("mlm-nsp", "MLM + NSP", (Stage({"objective": {"mlm": 1.0, "nsp": 1.0}}),)),
    Trial(
        "mlm-simcse",
        "MLM 80 %, then SimCSE",
        (
            Stage({"objective": {"mlm": 1.0}}, 0.8),
            Stage(
                {
                    "objective": {"simcse": {"pooling": "mean", "projection": False}},
                    "model": {"dropout": 0.1},
                    "data": {"batch": 64, "length": 64},
                    "optimizer": {"name": "adamw", "lr": 1e-4},
                },
                0.2,
            ),
        ),
    ),
    Trial("none-albert", "no pretraining (ALBERT, unshared)", (), _ALBERT),
    Trial("mlm-sop", "MLM + SOP (ALBERT, unshared)", (Stage({"objective": {"mlm": 1.0, "sop": 1.0}}),), _ALBERT),
    Trial("none-electra", "no pretraining (ELECTRA)", (), _ELECTRA),
    Trial("rtd", "RTD (ELECTRA)", (Stage({"objective": {"rtd": 1.0}}),), _ELECTRA),
    Trial("none-xlnet", "no pretraining (XLNet)", (), _XLNET),
    Trial("plm", "PLM (XLNet)", (Stage({"objective": {"plm": 1.0}}),), _XLNET),
    Trial("none-gpt2", "no pretraining (GPT-2)", (), _GPT2),
    Trial("clm", "CLM (GPT-2)", (Stage({"objective": {"clm": 1.0}}),), _GPT2),
)

_OCNLI = {"text": "sentence1", "second": "sentence2", "format": "jsonl"}
_MRPC = {"text": "#1 String", "second": "#2 String", "label": "Quality", "format": "tsv"}
LANGUAGES: tuple[Language, ...] = (
    Language(
        "en",
        (
            "corpora/en/anarchist-faq.txt",
            "corpora/en/kjv.txt",
            "corpora/en/libreoffice-help-en.txt",
            "corpora/en/pride_and_prejudice_1342.txt",
            "corpora/en/sherlock_1661.txt",
            "corpora/en/war_and_peace_2600.txt",
            "corpora/en/wikipedia-30.txt",
            "corpora/en/wikitext2-valid.txt",
        ),
        16384,
        None,
        (
            Labels(
                "sst2",
                "classification/sst2/train.tsv",
                "classification/sst2/test.tsv",
                {"columns": ("text", "label")},
            ),
            Labels(
                "banking77",
                "classification/banking77/train.csv",
                "classification/banking77/test.csv",
                {"label": "category"},
            ),
            Labels("mrpc", "pairs/mrpc/msr-para-train.tsv", "pairs/mrpc/msr-para-test.tsv", _MRPC),
        ),
    ),
    Language(
        "zh",
        (
            "corpora/zh/CLUECorpusSmall_sampled.txt",
            "corpora/zh/libreoffice-help-zh-cn.txt",
            "corpora/zh/peoples-daily-199801-plain.txt",
            "corpora/zh/sanguo-novel.txt",
        ),
        8192,
        "jieba",
        (
            Labels(
                "thucnews titles",
                "classification/thucnews-titles/dev.txt",
                "classification/thucnews-titles/test.txt",
                {"format": "tsv", "columns": ("text", "label")},
            ),
            Labels("ocnli", "pairs/ocnli/train.3k.json", "pairs/ocnli/dev.json", _OCNLI),
            Labels(
                "chnsenticorp",
                "classification/chnsenticorp/train.tsv",
                "classification/chnsenticorp/test.tsv",
                {"text": "text_a"},
            ),
        ),
    ),
)
