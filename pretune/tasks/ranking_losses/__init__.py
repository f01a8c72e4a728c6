"""ONE FILE A LOSS: what the scores of a query's passages cost, for the task `reranking`."""

SHARED_MODULES = ("ranking_loss",)
