"""How much probabilities can be trusted: their calibration, and how often a model should not answer.

Source: Guo et al. 2017, "On calibration of modern neural networks" (arXiv 1706.04599), for the temperature and the
expected calibration error; Kull et al. 2019, "Beyond temperature scaling" (arXiv 1910.12656), for that of each label;
Geifman and El-Yaniv 2017, "Selective classification" (arXiv 1705.08500), for coverage and risk.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pretune.table import round_digits

_log = logging.getLogger("pretune")
_BINS = 15
_BOUNDS = (-3.0, 3.0)  # of the logarithm of a temperature
_LESS_SURE = 0.99  # of the least confidence, where answers as unsure as any are given
_DIGITS = 4  # significant ones of a threshold, where they tell both of its sides apart
Floats = NDArray[np.float64]


def calibration_error(confidence: ArrayLike, correct: ArrayLike) -> float:
    """The expected calibration error: how far confidence is from accuracy, over 15 bins of equal width.

    Args:
        confidence: probability of each answer.
        correct: whether each is right.

    Shape:
        confidence, correct: (n,)
    """
    values, right = np.asarray(confidence, np.float64), np.asarray(correct, np.float64)
    bins = np.clip(np.ceil(values * _BINS).astype(int) - 1, 0, _BINS - 1)
    gaps = np.bincount(bins, right - values, _BINS)
    return float(np.abs(gaps).sum() / max(len(values), 1))


def classwise_error(probabilities: ArrayLike, truth: ArrayLike) -> float:
    """The mean over the labels of the calibration error of each label's own probability.

    That of the answers alone can be 0 where every probability of a label is too high: answers of that label are then as
    much too sure as those of the other are too unsure.

    Args:
        probabilities: of each label.
        truth: number of the right label.

    Shape:
        probabilities: (n, C); truth: (n,)
    """
    values, right = np.asarray(probabilities, np.float64), np.asarray(truth)
    return float(np.mean([calibration_error(column, right == label) for label, column in enumerate(values.T)]))


def fit_temperature(probabilities: ArrayLike, truth: ArrayLike) -> float:
    """The temperature by which the logits of held-out examples are divided for the least loss.

    A prior, normal with deviation 1 on its logarithm, keeps few examples, or such as are all right, from extremes.

    Args:
        probabilities: of each label.
        truth: number of the right label.

    Shape:
        probabilities: (n, C); truth: (n,)
    """
    from scipy.optimize import minimize_scalar

    logs, columns = np.log(np.maximum(np.asarray(probabilities, np.float64), 1e-30)), np.asarray(truth)

    def loss(log_temperature: float) -> float:
        scaled = logs / np.exp(log_temperature)
        top = scaled.max(axis=1)
        normalizer = top + np.log(np.exp(scaled - top[:, None]).sum(axis=1))
        right: Floats = scaled[np.arange(len(columns)), columns]
        return float((normalizer - right).sum() + log_temperature**2 / 2)

    return float(np.exp(minimize_scalar(loss, bounds=_BOUNDS, method="bounded").x))


def rescale(probabilities: ArrayLike, temperature: float) -> Floats:
    """Probabilities as they are when the logits are divided by a temperature. Shape: (n, C) -> (n, C)"""
    logs = np.log(np.maximum(np.asarray(probabilities, np.float64), 1e-30)) / temperature
    exponents = np.exp(logs - logs.max(axis=1, keepdims=True))
    return np.asarray(exponents / exponents.sum(axis=1, keepdims=True))


def threshold_between(given: float, withheld: float) -> float:
    """A number about halfway between the last score with which an answer is given and the first with which it is not.

    What stood on one of them would be decided by the last bits of a score, which another number of threads, another
    processor or another batch changes.

    Returns:
        a number that is neither, of few digits; where no number is between them, the one with which answers are given.
    """
    middle, (low, high) = (given + withheld) / 2.0, sorted((given, withheld))
    numbers = (round_digits(middle, count) for count in range(_DIGITS, 18))
    return next((number for number in numbers if low < number < high), given)


def choose_threshold(confidence: Sequence[float], correct: Sequence[bool], risk: float) -> float | None:
    """The least confidence of an answer such that of the answers given at most a fraction is wrong.

    The threshold is halfway between that confidence and the next lower one of a held-out example.

    One wrong answer more than there are is counted, as where conformal risk control bounds the expected risk
    (Angelopoulos et al. 2022, arXiv 2208.02814).

    Args:
        confidence: probability of the answer for each held-out example.
        correct: whether it is right.
        risk: fraction of wrong answers at most.

    Returns:
        None where no threshold does, as with too few examples.
    """
    values = np.asarray(confidence, np.float64)
    order = np.argsort(-values, kind="stable")
    ordered = values[order]
    wrong = np.cumsum(~np.asarray(correct, bool)[order])
    answered = np.arange(1, len(order) + 1)
    is_last = np.append(ordered[1:] < ordered[:-1], True)  # equals are all answered, or none
    allowed = np.flatnonzero(((wrong + 1) / (answered + 1) <= risk) & is_last)
    if not len(allowed):
        return None
    given, rest = float(ordered[allowed[-1]]), ordered[allowed[-1] + 1 :]
    return threshold_between(given, float(rest[0]) if len(rest) else given * _LESS_SURE)


def coverage_and_risk(confidence: ArrayLike, correct: ArrayLike, threshold: float) -> tuple[float, float]:
    """The fraction of examples with an answer, and the fraction of these that are wrong; 0 where there is none.

    Shape:
        confidence, correct: (n,)
    """
    answered = np.asarray(confidence, np.float64) >= threshold
    wrong = answered & ~np.asarray(correct, bool)
    return float(answered.mean()), float(wrong.sum() / max(int(answered.sum()), 1))


@dataclass(frozen=True)
class Trust:
    """What held-out examples say of how far probabilities can be trusted.

    Attributes:
        temperature: that logits are divided by.
        threshold: probability from which on a label is given; None where none was wanted, or none does.
    """

    temperature: float
    threshold: float | None = None


def choose_trust(
    probabilities: ArrayLike, truth: Sequence[int], calibrate: bool, risk: float | None, temperature: float = 1.0
) -> Trust:
    """Chooses a temperature, then a threshold of the probabilities that it gives, and logs what they do.

    Args:
        probabilities: of each label, with logits divided by `temperature`.
        truth: number of the right label.
        calibrate: whether the temperature is to be chosen.
        risk: fraction of wrong labels among those given at most; None for no threshold.

    Shape:
        probabilities: (n, C)
    """
    current = np.asarray(probabilities, np.float64)
    right: NDArray[np.bool_] = current.argmax(axis=1) == np.asarray(truth)
    threshold = None
    if calibrate:
        before = calibration_error(current.max(axis=1), right)
        factor = fit_temperature(current, truth)
        current, temperature = rescale(current, factor), temperature * factor
        after = calibration_error(current.max(axis=1), right)
        _log.info(
            f"calibrated on {len(truth):,} held-out rows: temperature {temperature:.3g}; the expected calibration "
            f"error on them was {before:.3f} and is {after:.3f}"
        )
    if risk is not None:
        confidence = current.max(axis=1).tolist()
        threshold = choose_threshold(confidence, right.tolist(), risk)
        _say_threshold(threshold, risk, confidence, right.tolist())
    return Trust(temperature, threshold)


def _say_threshold(threshold: float | None, risk: float, confidence: Sequence[float], right: Sequence[bool]) -> None:
    """Logs what a threshold does on the held-out rows that it was chosen by."""
    if threshold is None:
        _log.warning(
            f"warning: no threshold keeps wrong labels at {risk:g} of those given on {len(right):,} held-out rows, so "
            "none is set; allow more with abstain, or hold more rows out"
        )
        return
    coverage, reached = coverage_and_risk(confidence, right, threshold)
    _log.info(
        f"labels are given from a probability of {threshold:.4g} on, chosen on {len(right):,} held-out rows: "
        f"{coverage:.1%} of them get a label, of which {reached:.1%} are wrong"
    )


def trust_scores(confidence: Sequence[float], right: Sequence[bool], threshold: float | None) -> dict[str, float]:
    """The expected calibration error; with a threshold, which fraction gets a label, and how many of these are wrong.

    Args:
        confidence: probability of each answer.
        right: whether it is right.
    """
    scores = {"ece": calibration_error(confidence, right)}
    if threshold is not None:
        scores["coverage"], scores["risk"] = coverage_and_risk(confidence, right, threshold)
    return scores
