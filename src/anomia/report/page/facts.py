"""Facts for the top of the page: what was compared, how to run it again, and how much base itself varies."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import polars as pl

from anomia.compress.spec import is_null
from anomia.measure.results import Results
from anomia.probes import BY_NAME, CONTINUATION, SAMPLED, SEARCHES
from anomia.report.naming import data_name, exclusions, model_name, shortened
from anomia.study import FLAGS, Study
from anomia.words import counted

LONGEST_FACT = 1_000
DEMO_MODEL = "gemma-3-270m-"
# Settings that `anomia demo` makes itself.
DEMO_SETS = {"arms": ["wanda:0.5"], "data": "demo", "calibration": "demo"}


def facts(results: Results, sparsity: Mapping[str, float]) -> list[list[str]]:
    """Pairs of a label and a value: models, data, questions, machine."""
    study, provenance = results.study, results.study.get("provenance", {})
    rows = [["Base", model_name(study.get("base", "?"))]]
    for arm in results.arms:
        if is_null(arm):
            rows.append(["Reference", f"{arm}: base again, under harmless noise"])
            continue
        measured = (
            f"{100 * sparsity[arm]:.1f}\u00a0% of the pruned weights are zero"
            if arm in sparsity
            else "as given"
        )
        rows.append(["Compressed", f"{arm}: {measured}"])
    if set(sparsity) & set(results.arms) and study.get("calibration"):
        rows.append(["Calibration text", str(study["calibration"])])
    counts = results.records.filter(pl.col("arm") == "base").group_by("language").len().sort("language")
    items = ", ".join(f"{language} {n}" for language, n in counts.iter_rows())
    passages = results.records["passage_id"].n_unique()
    data = data_name(study.get("data", "?"))
    if results.has_formats:
        rows.append(["Questions", f"{data}: {items} ({counted(passages, 'passage')})"])
    else:
        rows.append(["Prompts", f"{data}: {items}"])
    if results.exclude:
        rows.append(["Excluded on request", exclusions(results)])
    if study.get("chat"):
        own = provenance.get("chat_template")
        rows.append(["Chat template", f"the study's own ({own})" if own else "the tokenizer's"])
    if study.get("system"):
        rows.append(["System message", str(study["system"])])
    at_length = CONTINUATION in (study.get("probes") or ())
    decoding = [
        f"open answers: greedy, at most {counted(study['max_new_tokens'], 'token')}"
        if "max_new_tokens" in study and results.has_formats
        else "",
        f"long answers: greedy, at most {counted(study['continuation_tokens'], 'token')}"
        + (", stopped at loops" if study.get("stop_at_loops") else "")
        if at_length
        else "",
        counted(study["num_beams"], "beam") if "num_beams" in study and asked(results, SEARCHES) else "",
        f"{counted(study['num_samples'], 'sample')} (p = {study['top_p']}, temperature {study['temperature']})"
        if {"num_samples", "top_p", "temperature"} <= study.keys() and asked(results, SAMPLED)
        else "",
        f"prompts of at most {counted(study['prompt_tokens'], 'token')}"
        if "prompt_tokens" in study and results.has_formats
        else "",
        f"seed {study['seed']}" if "seed" in study else "",
    ]
    rows.append(["Decoding", "; ".join(text for text in decoding if text)])
    ran = [str(provenance[key]) for key in ("machine", "dtype") if key in provenance]
    ran += [f"batch size {provenance['batch_size']}"] if "batch_size" in provenance else []
    rows.append(["Ran on", "; ".join(ran)])
    versions = ("anomia", "torch", "transformers", "python")
    rows.append(
        ["Versions", ", ".join(f"{name} {provenance[name]}" for name in versions if name in provenance)]
    )
    if "base_weights" in provenance:
        prints = f"weights {provenance['base_weights']}, tokenizer {provenance.get('tokenizer', '?')}"
        rows.append(["Fingerprints of base", prints])
    return [[label, shortened(value, LONGEST_FACT)] for label, value in rows if value]


def asked(results: Results, probes: Sequence[str]) -> bool:
    """Whether any item was answered with any of these searches or samples."""
    return any(results.records[BY_NAME[name].column].is_not_null().any() for name in probes)


def command(study: Mapping[str, Any]) -> str:
    """The command that repeats the study: every setting that differs from its default, as a flag.

    If a setting has no flag, the command uses the study's own file.
    """
    values = {name: study[name] for name in Study.model_fields if name in study}
    if _is_demo(values):
        flags = ["anomia", "demo", "--languages", ",".join(values.get("languages") or ()) or "all"]
        return shlex.join([*flags, "--limit", str(values.get("limit"))])
    flags = ["anomia", "run"]
    for name, value in values.items():
        if value is None or _is_default(name, value):
            continue
        if name not in FLAGS or "\n" in str(value):
            return "anomia run RUN/study.yaml --out AGAIN"
        flags += FLAGS[name].words(name, value)
    return shortened(shlex.join(flags), 4 * LONGEST_FACT)


def _is_default(name: str, value: Any) -> bool:
    default = Study.model_fields[name].default
    return bool(value == (list(default) if isinstance(default, tuple) else default))


def _is_demo(values: Mapping[str, Any]) -> bool:
    """Whether these are the settings of `anomia demo`, whose model's path differs between machines."""
    asked = {"base", "languages", "limit", *DEMO_SETS}
    named = PurePath(str(values.get("base"))).name.startswith(DEMO_MODEL)
    sets = all(values.get(name) == wanted for name, wanted in DEMO_SETS.items())
    return (
        named
        and sets
        and all(_is_default(name, value) for name, value in values.items() if name not in asked)
    )
