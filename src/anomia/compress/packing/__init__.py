"""Formats of packed checkpoints: how the codes of quantized matrices are stored, one file per format."""
