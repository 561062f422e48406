"""Models under test: loading, fingerprints, chat templates."""

from anomia.models.load import LoadedModel, load_model, load_tokenizer

__all__ = ["LoadedModel", "load_model", "load_tokenizer"]
