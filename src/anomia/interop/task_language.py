"""Find the language at the end of a task's name, if it is unlikely to mean anything else."""

from __future__ import annotations

import re

from anomia.interop.samples import WITH_SCRIPT
from anomia.items.languages import language_code, language_name

# Codes that are clear in any task: `longbench_multifieldqa_zh`. But the end of `agieval_lsat_ar` means analytical
# reasoning, and that of `arxiv_cs` computer science.
_CLEAR = frozenset(("bn", "de", "en", "es", "fr", "hu", "ja", "ko", "pt", "ru", "vi", "zh"))
# Families in which every task name ends in its language.
_MULTILINGUAL = (
    "afrimgsm", "afrimmlu", "afrixnli", "arc_challenge_mt", "belebele", "global_mmlu", "indicqa",
    "lambada_openai_mt", "m_mmlu", "meta_mmlu", "mgsm", "mintaka", "mkqa", "mlmm", "mlqa", "mmmlu",
    "openai_mmlu", "paws", "pawsx", "truthfulqa-multi", "truthfulqa_multi", "tydiqa", "xcopa", "xcsqa", "xlsum",
    "xnli", "xquad", "xstory_cloze", "xstorycloze", "xwinograd",
)  # fmt: skip
# Tasks whose translations are named after the English task, and the languages of the translations.
_TRANSLATED = ("arc", "hellaswag")
_TRANSLATED_INTO = frozenset(
    ("ar", "bn", "da", "de", "es", "eu", "fr", "gu", "hi", "hu", "id", "it", "kn", "ml", "mr", "ne", "nl", "pt",
     "ro", "ru", "sv", "ta", "te", "uk", "vi", "zh")
)  # fmt: skip
_THREE_LETTERS = {code[:3]: name for code, name in WITH_SCRIPT.items()} | {
    "ara": "arabic", "fas": "persian", "msa": "malay", "nep": "nepali", "nor": "norwegian", "swa": "swahili",
}  # fmt: skip


def language_in(task: str) -> str | None:
    """The language in the name of a task of lm-evaluation-harness or lighteval.

    >>> language_in("xnli_ru"), language_in("belebele_swh_Latn"), language_in("community|xnli_tha_mcf|0")
    ('russian', 'swahili', 'thai')
    >>> language_in("global_piqa_parallel_cloze_ben_beng"), language_in("global_piqa_parallel_cloze_ben_latn")
    ('bengali', 'ben_latn')
    >>> language_in("agieval_lsat_ar"), language_in("arc_no"), language_in("boolq_it")
    (None, None, None)
    """
    # lighteval: SUITE|TASK_FORMULATION:SUBSET|SHOTS; suite and shots are optional.
    named = next((part for part in reversed(task.split("|")) if not part.isdigit()), "")
    bare, formulated = re.subn("_(mcf|cf|hybrid)$", "", named.partition(":")[0])
    variety = re.fullmatch("global_piqa_[a-z]+_[a-z]+_([a-z]{3}_[a-z]{4})(_[a-z]{4})?", bare)
    if variety:
        # Its codes are in lower case, and some end in a region: `por_latn_braz`.
        code = variety[1][:4] + variety[1][4:].capitalize()
        return variety[1] + variety[2] if variety[2] else WITH_SCRIPT.get(code, language_name(code))
    *before, last = re.split("[_-]", bare)
    if not before:
        return None
    code = f"{before[-1]}_{last}"
    if re.fullmatch("[a-z]{3}_[A-Z][a-z]{3}", code):
        return WITH_SCRIPT.get(code, language_name(code))
    stem = "_".join(before).lower()
    multilingual = f"{stem}_".startswith(tuple(f"{family}_" for family in _MULTILINGUAL))
    last = last.lower()
    if last in _THREE_LETTERS and (multilingual or formulated):
        return _THREE_LETTERS[last]
    name = language_name(last)
    if language_code(name) is None or _is_pair(before[-1], last):
        return None
    is_clear = len(last) > 2 or last in _CLEAR or multilingual
    return name if is_clear or (stem in _TRANSLATED and last in _TRANSLATED_INTO) else None


def _is_pair(one: str, other: str) -> bool:
    """Whether two codes form a language pair: a translation, or a passage and a question in two languages."""
    return len(one) == len(other) == 2 and one != other and language_code(one) is not None
