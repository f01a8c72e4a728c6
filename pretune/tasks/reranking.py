"""Reranking: how relevant a passage is to a query, by one model that reads both together (a cross-encoder).

Data: a query (`text`), a passage (`second`) and a label: 0 or 1, a grade, or a larger model's score; the pairs of one
query become one list. Or a query with a list of relevant passages (`second`) and of others (`third`).

`[CLS] query [SEP] passage [SEP]` gets one score. The list of a query stays together in a batch, and the loss, one of
`ranking_losses/`, looks at all of it. Passages of other queries are drawn as further irrelevant ones: a reranker that
has seen nothing but hard negatives puts unrelated passages first.

The files are those of `transformers` with one label, and of `CrossEncoder` of `sentence-transformers`.

Source: Nogueira and Cho 2019, "Passage re-ranking with BERT" (arXiv 1901.04085).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import pairwise
from typing import Any, ClassVar, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from pretune.batch import Batch, ragged
from pretune.draw import Draw
from pretune.errors import DataError, MissingPackageError, UsageError
from pretune.loss import Term
from pretune.metrics.ranking import score_rankings
from pretune.nn.heads import ProblemType, SequenceHead
from pretune.nn.model_protocol import ModelOutput, TrainableModel, get_head
from pretune.objectives.objective import ends
from pretune.tasks.ranking_losses.ranking_loss import Activation, RankingLoss, find_loss
from pretune.tasks.shared.ranking_records import (
    RankingExample,
    check_lists,
    join_queries,
    ranking_columns,
    read_ranking,
)
from pretune.tasks.task import RowBatch, Task, build_row, encode_texts, tokens_of, truncate_pair, truncate_run
from pretune.text.readers.records import Column
from pretune.text.samples.rows import Encoded, Ints, Row, names_of
from pretune.text.tokenizer.long_texts import EncodedText
from pretune.text.tokenizer.tokenizer import Tokenizer, Vocabulary

MEASURES = ("nDCG@10", "RR@10", "R@1", "R@10")
_PLACES = "passage_places"  # the target that says of each sequence which query it is of, and which of its passages
_OUTPUT = "LABEL_0"  # what transformers calls an output without a name
_USUAL_NEGATIVES = 2  # random ones a query


class RankingPrediction(TypedDict, total=False):
    """What is said of a query and its passages.

    Attributes:
        score: of the one passage.
        scores: of each of several passages, in their order.
        ranking: their numbers from 0, the best first.
    """

    score: float
    scores: list[float]
    ranking: list[int]


class Reranking(Task[RankingExample, list[float], RankingPrediction]):
    """A score for each passage of a query."""

    name: ClassVar[str] = "reranking"
    role: ClassVar[str] = "classification"
    main_metric: str = "nDCG@10"

    class Config(Task.Config):
        """The loss and the negatives.

        Attributes:
            loss: a file of `tasks/ranking_losses/` or one's own, with its settings where it has some; by default
                `softmax` where passages of a query are to be compared, `bce` where labels are probabilities of single
                passages, else `mse`.
            random_negatives: passages of other queries that are drawn for each query in each step, as irrelevant ones;
                by default 2, and none where labels are a teacher's scores.
            max_passages: of a query that has more, as many are drawn in each step: one of the best grade at least, and
                others at random; by default all are read.
            activation: what makes a score of a logit: `sigmoid`, or `identity` for the logit itself; by default as
                suits the loss.
        """

        loss: str | dict[str, dict[str, Any]] | None = None
        random_negatives: int | None = Field(default=None, ge=0)
        max_passages: int | None = Field(default=None, ge=2)
        activation: Activation | None = None

    config: Config

    def __init__(self, config: Config, vocabulary: Vocabulary) -> None:
        super().__init__(config, vocabulary)
        self.config = config
        self._pool: list[Ints] = []
        self._max_tokens = 0  # of a query and a passage together

    @cached_property
    def ranking_loss(self) -> RankingLoss:
        """The loss that is configured; `softmax` before training data have decided. Predictions do without it."""
        return find_loss(self.config.loss or "softmax")

    @property
    def problem_type(self) -> ProblemType:
        """By which `transformers` takes the score for a probability, or leaves it as it is."""
        activation = self.config.activation or self.ranking_loss.activation
        return "regression" if activation == "identity" else "single_label_classification"

    def columns(self, needs_labels: bool) -> list[Column]:
        """The query, its passages, and the label."""
        return ranking_columns(self.config.columns, needs_labels)

    def read(self, record: Mapping[str, object]) -> RankingExample:
        """A query with one passage or several."""
        return read_ranking(record, self.config.columns)

    def join_examples(self, examples: Sequence[RankingExample]) -> list[RankingExample]:
        """The records of a query become one list."""
        return join_queries(examples)

    def resolve_config(self, examples: Sequence[RankingExample]) -> Config:
        """The loss and the number of random negatives that suit the labels.

        Raises:
            DataError: no examples, one without a label, all of one, or lists that the loss cannot learn from.
            UsageError: windows, or random negatives of labels that are no judgements.
            MissingPackageError: validation needs ir-measures.
        """
        if importlib.util.find_spec("ir_measures") is None:
            raise MissingPackageError("scores of rankings need ir-measures: pip install 'pretune[tasks]'")
        if self.config.truncate == "windows":
            raise UsageError("task.reranking.truncate windows: a passage has one score; use head, tail or head+tail")
        lists = join_queries(examples)
        grades = [grade for example in lists for grade in _known(example)]
        if not grades:
            raise DataError("no examples: the file is empty; give it queries with passages")
        negatives = self._negatives(grades, len(lists))
        if len(set(grades)) == 1 and (not negatives or grades[0] == 0):
            raise DataError(
                f"{lists[0].origin.source}: all {len(grades)} labels are {grades[0]:g}, so that there is nothing to "
                "learn; give passages with other labels, or name the column of the labels with --label"
            )
        setting = self.config.loss or self._usual_loss(lists, grades, negatives)
        loss = find_loss(setting)
        if loss.are_probabilities and not all(0.0 <= grade <= 1.0 for grade in grades):
            example = next(each for each in lists if not all(0.0 <= grade <= 1.0 for grade in _known(each)))
            raise DataError(
                f"{example.origin}: a label of {max(_known(example), key=abs):g}, and this loss takes probabilities "
                "from 0 to 1; scale the labels, or set task.reranking.loss to mse or lambdaloss"
            )
        if loss.compares:
            self._check_lists(lists, negatives)
        activation = self.config.activation or loss.activation
        update = {"loss": setting, "random_negatives": negatives, "activation": activation}
        return self.config.model_copy(update=update)

    def _negatives(self, grades: Sequence[float], queries: int) -> int:
        """How many random negatives a query gets.

        Raises:
            UsageError: some are asked for, and labels are no judgements of which 0 is the lowest.
        """
        are_judgements = all(grade >= 0 and grade == int(grade) for grade in grades)
        wanted = self.config.random_negatives
        if wanted and not are_judgements:
            raise UsageError(
                f"task.reranking.random_negatives = {wanted}: they would get the label 0, and these labels are scores "
                f"from {min(grades):g} to {max(grades):g}; leave it out, or score the passages beforehand"
            )
        if wanted and queries < 2:
            raise UsageError(
                f"task.reranking.random_negatives = {wanted}: there is one query, and they are passages of others; "
                "leave it out"
            )
        usual = _USUAL_NEGATIVES if are_judgements and queries > 1 else 0
        return usual if wanted is None else wanted

    @staticmethod
    def _usual_loss(lists: Sequence[RankingExample], grades: Sequence[float], negatives: int) -> str:
        """The loss where none is named."""
        are_lists = all(len(set(_known(each))) > 1 or (negatives and max(_known(each)) > 0) for each in lists)
        if are_lists and min(grades) >= 0:
            return "softmax"
        return "bce" if all(0.0 <= grade <= 1.0 for grade in grades) else "mse"

    @staticmethod
    def _check_lists(lists: Sequence[RankingExample], negatives: int) -> None:
        """Refuses lists in which nothing can be compared, random negatives included."""
        bare = [each for each in lists if not negatives or max(_known(each)) <= 0]
        check_lists(bare, "this loss compares nothing", "remove the query, or set task.reranking.loss to bce")

    def training_notes(self, examples: Sequence[RankingExample]) -> list[str]:
        """What is compared."""
        lists = join_queries(examples)
        grades = [grade for example in lists for grade in _known(example)]
        setting = self.config.loss
        loss = setting if isinstance(setting, str) else next(iter(setting or ()), "")
        drawn = self.config.random_negatives
        beside = f", and {drawn} of other queries drawn in each step" if drawn else ""
        return [
            f"{len(lists):,} queries with {len(grades) / len(lists):.3g} passages each{beside}; labels from "
            f"{min(grades):g} to {max(grades):g}; loss {loss}"
        ]

    def encode(self, examples: Sequence[RankingExample], tokenizer: Tokenizer, length: int) -> list[Encoded]:
        """A row for each query: its text once, and each of its passages."""
        keep = self.keep(length)
        queries = encode_texts(examples, [example.text for example in examples], tokenizer, keep)
        owners = [example for example in examples for _ in example.passages]
        passages = encode_texts(owners, [text for each in examples for text in each.passages], tokenizer, keep)
        self._max_tokens = length - self.vocabulary.overhead(True)
        rows, start = [], 0
        for n, (example, query) in enumerate(zip(examples, queries, strict=True)):
            own = [each for each in passages[start : start + len(example.passages)] if each is not None]
            start += len(own)
            assert query is not None  # every example has one
            rows.append(self._row(n, example, query, own))
        return rows

    def _row(self, n: int, example: RankingExample, query: EncodedText, passages: Sequence[EncodedText]) -> Encoded:
        """The row of a query, which leaves room for each passage as far as the longer of both is cut first."""
        longest = np.arange(max(len(passage.tokens) for passage in passages))
        room = self._max_tokens
        kept, _ = truncate_pair(np.arange(len(query.tokens)), longest, room, self.config.truncate, example)
        grades = None if example.grades is None else np.array(example.grades, np.float32)
        row = build_row(n, (query,), (kept,), grades)
        runs, cut = [], row.cut
        for passage in passages:
            runs.append(truncate_run(passage.tokens, room - len(kept), self.config.truncate))
            cut += len(passage.tokens) - len(runs[-1]) + passage.dropped
        return replace(row, choices=tuple(runs), cut=cut, repeated=(len(runs) - 1) * len(row.tokens))

    def heads(self, model: TrainableModel) -> dict[str, nn.Module]:
        """A head with one score for each sequence."""
        head = model.sequence_head([_OUTPUT], self.problem_type)
        head.scores_pairs = True
        return {self.role: head}

    def use_training_rows(self, rows: Sequence[Encoded]) -> None:
        """All passages, of which random negatives are drawn, each once."""
        distinct = {text.tobytes(): text for row in rows for text in row.choices}
        self._pool = list(distinct.values())

    def build_batch(self, rows: Sequence[Row], draw: Draw, step: int | None = None) -> Batch:
        """In training, of long lists a part, and random negatives beside it."""
        if step is not None:
            rows = [self._with_negatives(self._drawn(row, draw), draw) for row in rows]
        return super().build_batch(rows, draw, step)

    def _drawn(self, row: Row, draw: Draw) -> Row:
        """A row with no more passages than are read: one of the best grade, then others, by the key of the sample."""
        most = self.config.max_passages
        if most is None or len(row.choices) <= most or row.targets is None:
            return row
        order = np.argsort(draw.at("passages", *row.sample).bits(np.arange(len(row.choices))), kind="stable")
        best = next(n for n in order.tolist() if row.targets[n] == row.targets.max())
        chosen = sorted([best, *[n for n in order.tolist() if n != best][: most - 1]])
        return replace(row, choices=tuple(row.choices[n] for n in chosen), targets=row.targets[chosen])

    def _with_negatives(self, row: Row, draw: Draw) -> Row:
        """A row with passages of other queries, drawn by the key of the sample."""
        count = self.config.random_negatives or 0
        if not count or not self._pool or row.targets is None:
            return row
        own = {text.tobytes() for text in row.choices}
        tries = np.arange(8 * count + len(own))  # more than enough: of a pool that holds nothing else, fewer come
        drawn: dict[bytes, Ints] = {}
        for number in draw.at("random_negatives", *row.sample).below(tries, len(self._pool)).tolist():
            text = self._pool[number]
            if len(drawn) < count and text.tobytes() not in own:
                drawn[text.tobytes()] = text
        room = max(1, self._max_tokens - len(row.tokens))  # a passage of a shorter query may be longer
        texts = tuple(text[:room] for text in drawn.values())
        targets = np.concatenate([row.targets, np.zeros(len(texts), row.targets.dtype)])
        return replace(row, choices=(*row.choices, *texts), targets=targets)

    def prepare(self, rows: Sequence[Row], draw: Draw) -> Batch:
        """A sequence for each passage of each row, one after the other."""
        sizes = [len(row.choices) for row in rows]
        owners = np.repeat(np.arange(len(rows)), sizes)
        places = np.concatenate([np.zeros(0, np.int64), *(np.arange(size) for size in sizes)])
        wrapped = [self.vocabulary.add_special_tokens(row.tokens, passage) for row in rows for passage in row.choices]
        batch = ragged([tokens for tokens, _ in wrapped], [segments for _, segments in wrapped])
        batch = replace(batch, samples=names_of(rows)[owners])
        known = np.array([row.targets is not None for row in rows], bool)
        index = np.flatnonzero(known[owners])
        grades = [row.targets for row in rows if row.targets is not None]
        labels = np.concatenate([np.zeros(0), *grades]).astype(np.float32)
        batch.targets[self.name] = torch.from_numpy(index), torch.from_numpy(labels)
        batch.targets[_PLACES] = torch.from_numpy(owners), torch.from_numpy(places.astype(np.int64))
        return batch

    def tokens(self, rows: Sequence[Encoded]) -> Ints | None:
        """Those of the texts, and the special ones around them."""
        return tokens_of(self, Reranking, rows)

    def output_rows(self, batch: Batch) -> NDArray[np.int64]:
        """The ends of every sequence."""
        return ends(batch.layout)

    def counts(self, batch: Batch) -> dict[str, int]:
        """Queries with grades, or their passages."""
        index, grades = batch.targets[self.name]
        if not self.ranking_loss.per_query:
            return {self.name: len(grades)}
        return {self.name: len(torch.unique(batch.targets[_PLACES][0][index]))}

    def loss(self, model: TrainableModel, output: ModelOutput, batch: Batch) -> list[Term]:
        """The loss that is configured, summed over the queries whose grades are known."""
        index, grades = batch.targets[self.name]
        logits = self._logits(model, output, batch)
        count = self.counts(batch)[self.name]
        if not len(index):
            return [Term(self.name, logits.sum() * 0.0, 0, self.config.weight)]
        owners, places = (values[index] for values in batch.targets[_PLACES])
        _, rows = torch.unique(owners, return_inverse=True)
        shape = int(rows.max()) + 1, int(places.max()) + 1
        table = logits.new_full(shape, -torch.inf).index_put((rows, places), logits[index])
        wanted = grades.new_zeros(shape).index_put((rows, places), grades)
        present = torch.zeros(shape, dtype=torch.bool, device=logits.device)
        present[rows, places] = True
        total = self.ranking_loss(table, wanted, present).sum()
        return [Term(self.name, total, count, self.config.weight)]

    def decode(self, model: TrainableModel, rows: RowBatch, tokenizer: Tokenizer) -> list[list[float]]:
        """The score of each passage of each row."""
        logits = self._logits(model, model(rows.batch), rows.batch)
        output = get_head(model, self.role, SequenceHead).output
        scores = (logits if output == "value" else logits.sigmoid()).cpu().tolist()
        starts = np.cumsum([0, *(len(row.choices) for row in rows)]).tolist()
        return [scores[start:stop] for start, stop in pairwise(starts)]

    def _logits(self, model: TrainableModel, output: ModelOutput, batch: Batch) -> Tensor:
        """The logit of each sequence. Shape: return: (N,) fp32."""
        head = self.check_head(model)
        logits: Tensor = head(output.last_hidden_state, output.layout)
        return logits[: len(batch.targets[_PLACES][0]), 0].float()

    def check_head(self, model: TrainableModel) -> SequenceHead:
        """The head of a model, which must have one score.

        Raises:
            UsageError: it has several, or there is none.
        """
        head = get_head(model, self.role, SequenceHead)
        if len(head.labels) != 1:
            raise UsageError(
                f"a reranker has one score, and this model's head has {len(head.labels)}: {', '.join(head.labels[:5])}"
            )
        return head

    def merge(self, example: RankingExample, answers: Sequence[list[float]]) -> RankingPrediction:
        """The score of the one passage, or those of all with their order."""
        (scores,) = answers
        if len(scores) == 1:
            return {"score": scores[0]}
        order = np.argsort(-np.array(scores), kind="stable")
        return {"scores": scores, "ranking": order.tolist()}

    def score(self, predictions: Sequence[RankingPrediction], examples: Sequence[RankingExample]) -> dict[str, float]:
        """nDCG, reciprocal rank and recall by ir-measures; of passages with one score, the worse stands first.

        Where grades are no whole numbers, those of the best grade are relevant and the others are not.

        Raises:
            DataError: a query without grades, or whose passages all have one.
        """
        check_lists(examples, "no order of them is better than another", "or leave the query out of validation")
        rankings: dict[str, list[str]] = {}
        judgements: dict[str, dict[str, int]] = {}
        for number, (prediction, example) in enumerate(zip(predictions, examples, strict=True)):
            grades = np.array(_known(example))
            scores = np.array(prediction.get("scores", [prediction.get("score", 0.0)]))
            are_judgements = bool((grades >= 0).all() and (grades == grades.round()).all())
            relevance = grades if are_judgements else grades == grades.max()
            order = np.lexsort((grades, -scores))
            rankings[str(number)] = [str(n) for n in order.tolist()]
            judgements[str(number)] = {str(n): int(grade) for n, grade in enumerate(relevance.tolist())}
        return score_rankings(rankings, judgements, MEASURES)


def _known(example: RankingExample) -> tuple[float, ...]:
    """The grades of an example.

    Raises:
        DataError: it has none.
    """
    if example.grades is None:
        raise DataError(f"{example.origin}: no label; say how relevant the passage is, or name the column with --label")
    return example.grades
