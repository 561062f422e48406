"""What differs between two models besides the values of their weights, and what each difference means."""

from __future__ import annotations

from anomia.models.describe import Description
from anomia.models.diff_settings import generation_differences, setting_differences
from anomia.models.diff_tokens import template_differences, token_differences
from anomia.models.diff_weights import file_differences, weight_differences
from anomia.models.difference import KINDS, Difference, Kind, worst

__all__ = ["KINDS", "Difference", "Kind", "differences", "worst"]


def differences(base: Description, other: Description, *, chat: bool | None = None) -> tuple[Difference, ...]:
    """Everything that is not the same in two models, the gravest first.

    Args:
        base: what the other is measured against.
        other: the compressed model.
        chat: whether prompts go through the chat templates; None where that isn't known, and both ways count.
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
