"""Compression of a causal language model: from an arm specification to changed weights."""
