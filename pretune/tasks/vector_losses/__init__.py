"""ONE FILE A LOSS on the vectors of texts that belong together, or of texts with scores; the task `similarity` trains
by one of them. `docs/vectors.md` says which loss fits which data, `docs/add/loss.md` how to write one."""

SHARED_MODULES = ("vector_loss",)
