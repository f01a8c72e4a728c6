"""Rerankers measured: how often the right paragraph is first, by words, vectors, both, and both reranked."""
