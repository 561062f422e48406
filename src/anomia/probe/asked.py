"""A short hash of everything that one item asks: two models were asked the same only if the hashes agree."""

from __future__ import annotations

import hashlib
import json

from anomia.probe.ask import Ask
from anomia.renamed import hashed_target


def prompt_hash(ask: Ask) -> str:
    """Hash of every token id that an item sends to a model (prompts, options, targets) and of the scoring starts.

    Reference tokens are left out, because base itself has none.
    """
    sent = {
        "greedy": {name: list(prompt) for name, prompt in ask.greedy.items()},
        "options": {
            name: [options.start, *map(list, options.sequences)] for name, options in ask.options.items()
        },
        "targets": {
            hashed_target(name): [list(target.prefix), target.token] for name, target in ask.targets.items()
        },
        "distribution": ask.distribution,
        # Both are there if not asked, as in earlier versions, which had no other searches.
        **({"beams": None, "samples": None} | dict(ask.beams) | dict(ask.samples)),
    }
    text = json.dumps(sent, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
