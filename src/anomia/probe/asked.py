"""What was asked of one item, as a short hash: two models were asked the same only where these agree."""

from __future__ import annotations

import hashlib
import json

from anomia.probe.ask import Ask


def prompt_hash(ask: Ask) -> str:
    """A hash of every token id that an item sends to a model: prompts, options and where scoring begins, targets.

    The tokens whose probability is compared with base's are no part of it, for base itself has none.
    """
    sent = {
        "greedy": {name: list(prompt) for name, prompt in ask.greedy.items()},
        "options": {
            name: [options.start, *map(list, options.sequences)] for name, options in ask.options.items()
        },
        "targets": {name: [list(target.prefix), target.token] for name, target in ask.targets.items()},
        "distribution": ask.distribution,
        "beams": ask.beams,
        "samples": ask.samples,
    }
    text = json.dumps(sent, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
