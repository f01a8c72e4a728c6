"""Decoding with the key/value cache: greedy, sampling, beam search; stop strings and streaming."""
