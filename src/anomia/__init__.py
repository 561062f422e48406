"""Anomia: what did compression take from a language model, the knowledge or only the words?"""

from anomia._version import __version__

__all__ = ["__version__"]
