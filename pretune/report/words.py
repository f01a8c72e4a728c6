"""The words of a report: what its names mean, in a phrase each, beside the names."""

from __future__ import annotations

from collections.abc import Mapping

from pretune.language import N_, translate

N_(
    "accuracy",
    "loss",
    "recall",
    "precision",
    "F1",
    "count",
    "label",
    "texts",
    "steps",
    "epochs",
    "tokens",
    "perplexity",
)
N_("Loss", "Accuracy, validation", "F1, validation", "Macro F1, validation")
N_("exact", "exact match", "average precision", "accuracy level {level}", "mean score", "f1 path", "f1 samples")
N_("f1 exact", "f1 partial", "f1 type", "span f1", "span precision", "span recall")
N_("argument f1", "argument precision", "argument recall", "argument place f1")
N_("trigger f1", "trigger precision", "trigger recall", "predicate f1", "predicate precision", "predicate recall")
N_("thousand tokens", "million tokens", "billion tokens", "thousand steps", "million steps")
N_("documents", "used", "duplicate", "empty", "excluded", "quarantined", "quarantine", "bytes", "ignored", "end", "cut")
N_(
    "split",
    "single",
    "examples",
    "rows",
    "examples cut",
    "tokens cut",
    "records skipped",
    "tokens repeated",
    "tokens unknown",
    "unpaired",
)
N_("displaced", "borrowed", "false negatives", "skipped steps", "samples", "parameters", "trained parameters")
N_("read from model", "weights of step", "stale evaluations", "sequences", "Numbers", "Curves")
N_("training", "validation", "spikes", "rollbacks", "median", "predicted", "{number} parameters", "on {files}")

_METRICS: Mapping[str, str] = {
    "accuracy": "accuracy",
    "f1_macro": "macro F1",
    "f1_micro": "micro F1",
    "f1": "F1",
    "mcc": "Matthews correlation (MCC)",
    "ece": "calibration error (ECE)",
    "ece_classwise": "calibration error of each label",
    "coverage": "texts that get a label",
    "risk": "wrong of the labels that are given",
    "spearman": "Spearman correlation",
    "pearson": "Pearson correlation",
    "qwk": "quadratic weighted kappa (QWK)",
    "mae": "mean absolute error (MAE)",
    "rmse": "root mean squared error (RMSE)",
    "loss": "loss",
}
_PERCENTAGES = ("accuracy", "f1", "f1_macro", "precision", "recall", "coverage", "risk")
"""Scores that are shown as percentages; others, such as correlations, are numbers between -1 and 1."""

_MEANINGS: Mapping[str, str] = {
    "documents": "read from the files",
    "used": "of them, those that are used",
    "duplicate": "left out: the same text came before",
    "empty": "left out: nothing but white space",
    "excluded": "left out on request",
    "quarantined": "left out: could not be read",
    "quarantine": "records that could not be read",
    "bytes": "of the text of the used documents, in UTF-8",
    "ignored": "files that no reader reads",
    "end": "end-of-document tokens that the special tokens of a sequence stand for",
    "cut": "tokens outside every window",
    "split": "tokens of sentences longer than a window",
    "single": "windows of one sentence, which make no pair",
    "examples": "rows of the labelled files",
    "rows": "sequences that the examples became",
    "records_skipped": "bad records that were left out, as on_bad says",
    "examples_cut": "examples longer than data.length, which were truncated",
    "tokens_cut": "tokens that truncation left out",
    "tokens_repeated": "tokens that stand in two windows",
    "tokens_unknown": "tokens that stand for text outside the vocabulary",
    "unpaired": "windows without a second sentence, which gave no pair",
    "displaced": "tokens that another document's tokens replaced, to make a pair that does not belong together",
    "borrowed": "tokens of other documents that replaced them",
    "false_negatives": "negatives that were the same text, and were left out",
    "skipped_steps": "steps that changed no weights: not finite, or spikes",
    "samples": "sequences",
    "epochs": "passes over the data",
    "unigram_entropy": "loss of a model that knows only how frequent each token is",
    "parameters": "numbers that the model holds",
    "trained_parameters": "of them, those that training changes",
    "weights_of_step": "step whose weights were saved",
    "averaged_steps": "steps whose weights were averaged",
    "averaged": "scores of the mean of these weights",
    "adapter_scores": "scores of the adapters' weights, each of its own step",
    "stale_evaluations": "evaluations in a row without improvement",
}

_GROUPS = ("read_from_model",)
_VIEWS: Mapping[str, str] = {
    "stream": "windows across documents",
    "document": "windows within documents",
    "pairs": "windows of whole sentences",
    "sentence": "single sentences",
    "sentences": "windows of whole sentences",
    "examples": "labelled examples",
}


def metric_name(name: str) -> str:
    """Returns the usual name of a metric, without `eval/` before it."""
    own = name.removeprefix("eval/")
    return _METRICS.get(own, words(own))


def meaning(name: str) -> str:
    """Returns what a name of the data statistics or of the outcome means; nothing for one that says it itself."""
    return _MEANINGS.get(name.rpartition(".")[2], "")


def group_name(name: str) -> str:
    """Returns a name as words; of a view and a store, as in `pairs:store`, what is read of which."""
    view, colon, store = name.partition(":")
    group = f"{store}: {_VIEWS.get(view, words(view))}" if colon else words(name)
    return translate(group) if colon or name in _GROUPS else group  # others may be a user's, such as a domain


def words(name: str) -> str:
    """Returns a name as words."""
    return name.replace("_", " ").replace(".", " · ")


def score(name: str, value: float) -> str:
    """Formats a score: a fraction of all cases as a percentage, any other with three decimals."""
    return f"{value:.1%}" if name.removeprefix("eval/").partition("/")[0] in _PERCENTAGES else f"{value:.3f}"
