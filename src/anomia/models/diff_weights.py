"""Differences in the files of two models: tensors by name, shape and type, and all other files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from anomia.models.describe import Description
from anomia.models.difference import Difference, listed
from anomia.models.small_files import SmallFile
from anomia.models.weights import Weights

_TOKENIZER = {
    "tokenizer.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.json", "merges.txt",
    "vocab.txt", "tiktoken.model", "tekken.json", "added_tokens.json",
}  # fmt: skip
_FLOATS = {"F64", "F32", "F16", "BF16"}


def weight_differences(base: Description, other: Description) -> Iterator[Difference]:
    """Differences in tensors by name, shape and type; in values only if both were hashed."""
    mine, theirs = base.weights, other.weights
    if base.adapter != other.adapter:
        yield Difference(
            "adapter", "noted", base.adapter or "none", other.adapter or "none",
            "the arm is a base plus this adapter, whose tensors are merged into the base's weights",
        )  # fmt: skip
    if base.rewritten != other.rewritten:
        yield Difference(
            "order and scale of inputs", "noted", base.rewritten or "as trained", other.rewritten or "as trained",
            "it computes the same, but adapters that were trained on one of them don't fit the other",
        )  # fmt: skip
    if mine is None or theirs is None:
        lacks = base if mine is None else other
        yield Difference(
            "tensors", "noted", "not here" if mine is None else "here", "not here" if theirs is None else "here",
            f"the weight files of {lacks.name} are not on this machine, so their tensors were not compared",
        )  # fmt: skip
        return
    yield from _unfit(base, other)
    yield from _one_sided(mine, theirs)
    reshaped = [
        name
        for name, (shape, _) in mine.tensors.items()
        if name in theirs.tensors and shape != theirs.tensors[name][0]
    ]
    if reshaped:
        first = reshaped[0]
        yield Difference(
            "shapes", "noted", f"{first} {list(mine.tensors[first][0])}", f"{list(theirs.tensors[first][0])}",
            f"{len(reshaped):,} tensors have another shape: resized or pruned by structure",
        )  # fmt: skip
    if _types(mine) != _types(theirs):
        raw = set(theirs.dtypes) - _FLOATS and other.quantization is None and not other.name.endswith(".gguf")
        yield Difference(
            "types of the stored tensors", "confounding" if raw else "noted", _amounts(mine), _amounts(theirs),
            "packed values without a quantization_config are used as if they were weights" if raw else
            "how the weights are stored is what a comparison is about",
        )  # fmt: skip
    if mine.unused != theirs.unused:
        yield Difference(
            "weight files that are not read", "noted", listed(mine.unused) or "none", listed(theirs.unused) or "none",
            "loading ignores them; another program may not",
        )  # fmt: skip
    if mine.identity != theirs.identity:
        hashed = mine.hashed and theirs.hashed
        yield Difference(
            "values of the weights", "noted", f"{mine.bytes:,} bytes", f"{theirs.bytes:,} bytes",
            "they differ, which is what a run measures" if hashed else
            "other files; their values were not read (--hash-weights compares them), and a run measures what they do",
        )  # fmt: skip


def file_differences(base: Description, other: Description) -> Iterator[Difference]:
    """Differences in files other than weights; the content that matters is compared elsewhere."""
    if base.name.endswith(".gguf") or other.name.endswith(".gguf") or not base.files or not other.files:
        return
    mine, theirs = base.files, other.files
    unlike = [
        name for name in sorted({*mine, *theirs}) if _content(mine.get(name)) != _content(theirs.get(name))
    ]
    code = [name for name in unlike if name.endswith(".py")]
    # Tokenizer classes of transformers rebuild some parts themselves, whatever the file says.
    unread = [] if base.fingerprint != other.fingerprint else [name for name in unlike if name in _TOKENIZER]
    rest = [name for name in unlike if name not in (*code, *unread)]
    if code:
        yield Difference(
            "code in the folder", "confounding", _files(base, code), _files(other, code),
            "with --trust-remote-code it computes the answers",
        )  # fmt: skip
    if unread:
        yield Difference(
            "files of the tokenizer", "noted", _files(base, unread), _files(other, unread),
            "loading makes the same tokenizer of both; programs that read the files differently may not",
        )  # fmt: skip
    if rest:
        yield Difference(
            "other files", "harmless", _files(base, rest), _files(other, rest),
            f"what a run reads of {listed(rest)} is compared above; the rest is not read",
        )  # fmt: skip


def _content(file: SmallFile | None) -> object:
    """A proxy for a file's content: its hash, else its size and date."""
    return file and (file.sha256 or file[:2])


def _unfit(base: Description, other: Description) -> Iterator[Difference]:
    """Differences in tensors that have no place in the model, are missing, or have another shape."""
    assert base.weights is not None
    assert other.weights is not None
    if base.weights.refused or other.weights.refused:
        refused = [each.weights.refused for each in (base, other) if each.weights and each.weights.refused]
        yield Difference(
            "loading", "confounding", "refused" if base.weights.refused else "possible",
            "refused" if other.weights.refused else "possible", refused[0],
        )  # fmt: skip
    cases = (
        ("tensors without a place in the model", "homeless", "they are stored, and loading drops them"),
        (
            "tensors that the model lacks",
            "lacking",
            "loading would fill them with random numbers, and refuses",
        ),
        ("tensors of another shape than the model's", "misshapen", "loading refuses them"),
    )
    for what, field, why in cases:
        left: Sequence[str] = getattr(base.weights, field)
        right: Sequence[str] = getattr(other.weights, field)
        if left != right:
            yield Difference(what, "confounding", listed(left) or "none", listed(right) or "none", why)
    if base.weights.rotary != other.weights.rotary:
        yield Difference(
            "stored rotary frequencies", "confounding",
            "not those of config.json" if base.weights.rotary else "as config.json",
            "not those of config.json" if other.weights.rotary else "as config.json",
            base.weights.rotary or other.weights.rotary,
        )  # fmt: skip
    if base.weights.settings != other.weights.settings:
        yield Difference(
            "settings of a GGUF file without a reader", "confounding", listed(base.weights.settings) or "none",
            listed(other.weights.settings) or "none",
            "llama.cpp may compute with them, and transformers' reader ignores them",
        )  # fmt: skip


def _one_sided(mine: Weights, theirs: Weights) -> Iterator[Difference]:
    """Tensors in the files of only one model, except those already reported as without a place or missing."""
    listed_before = {
        *mine.homeless,
        *theirs.homeless,
        *mine.lacking,
        *theirs.lacking,
        *mine.ignored,
        *theirs.ignored,
    }
    left, right = (
        sorted({*one.ignored} - {*other.ignored}) for one, other in ((mine, theirs), (theirs, mine))
    )
    if left or right:
        yield Difference(
            "tensors that are excluded by rule", "harmless", listed(left) or "none", listed(right) or "none",
            "they follow from the settings or belong to parts that don't answer; loading says which where it matters",
        )  # fmt: skip
    only_mine = [name for name in mine.tensors if name not in theirs.tensors and name not in listed_before]
    only_theirs = [name for name in theirs.tensors if name not in mine.tensors and name not in listed_before]
    if only_mine or only_theirs:
        yield Difference(
            "tensors in one only", "noted", listed(only_mine) or "none", listed(only_theirs) or "none",
            "the model is built with and without them: layers removed, heads untied, or weights packed",
        )  # fmt: skip


def _types(weights: Weights) -> dict[str, str]:
    return {name: kind for name, (_, kind) in weights.tensors.items()}


def _amounts(weights: Weights) -> str:
    whole = sum(weights.dtypes.values()) or 1
    return ", ".join(
        f"{kind} {100 * count / whole:.0f} %" for kind, count in list(weights.dtypes.items())[:4]
    )


def _files(description: Description, names: Sequence[str]) -> str:
    return listed(
        [f"{name} ({description.files[name].date[:10]})" for name in names if name in description.files]
    ) or "none"  # fmt: skip
