"""Differences between two models besides the values of their weights, and what each means."""

from __future__ import annotations

from anomia.models.describe import Description
from anomia.models.diff_settings import generation_differences, setting_differences
from anomia.models.diff_tokens import template_differences, token_differences
from anomia.models.diff_weights import file_differences, weight_differences
from anomia.models.difference import KINDS, Difference, Severity, worst

__all__ = ["KINDS", "Difference", "Severity", "differences", "worst"]


def differences(base: Description, other: Description, *, chat: bool | None = None) -> tuple[Difference, ...]:
    """All differences between two models, the most serious first.

    Args:
        base: the base model.
        other: the compressed model.
        chat: whether prompts use the chat templates; None if unknown, and then both cases count.
    """
    asked = [*token_differences(base, other, chat), *template_differences(base, other, chat)]
    found = [
        *(difference._replace(part="asked") for difference in asked),
        *setting_differences(base, other),
        *generation_differences(base, other),
        *weight_differences(base, other),
        *file_differences(base, other),
    ]
    return tuple(sorted(found, key=lambda difference: -KINDS.index(difference.kind)))
