"""Questions, and everything drawn for them before a model is loaded."""

from anomia.items.build import build_items
from anomia.items.item import Item, ItemSet, Question
from anomia.items.readers import read_questions

__all__ = ["Item", "ItemSet", "Question", "build_items", "read_questions"]
