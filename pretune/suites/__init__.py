"""Suites of public sets on which a model is fine-tuned and scored set by set, one file a suite."""

SHARED_MODULES = ("found", "records", "results", "running", "suite")
