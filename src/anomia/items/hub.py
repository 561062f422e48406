"""Data sets by name from the Hugging Face hub: TyDiQA, XQuAD, MLQA, SQuAD, Belebele."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from anomia.errors import DataError, nearest
from anomia.items.entry import by_language, read_entry
from anomia.items.item import Question
from anomia.items.languages import language_code

TYDIQA_LANGUAGES = (
    "arabic", "bengali", "english", "finnish", "indonesian", "korean", "russian", "swahili", "telugu",
)  # fmt: skip
XQUAD_LANGUAGES = (
    "arabic", "chinese", "english", "german", "greek", "hindi", "romanian", "russian", "spanish", "thai",
    "turkish", "vietnamese",
)  # fmt: skip
MLQA_LANGUAGES = ("arabic", "chinese", "english", "german", "hindi", "spanish", "vietnamese")
# Belebele names its languages by FLORES-200 codes; others than these are asked for by their code.
BELEBELE_CODES = {
    "arabic": "arb_Arab", "basque": "eus_Latn", "bengali": "ben_Beng", "burmese": "mya_Mymr",
    "chinese": "zho_Hans", "czech": "ces_Latn", "danish": "dan_Latn", "dutch": "nld_Latn",
    "english": "eng_Latn", "estonian": "est_Latn", "finnish": "fin_Latn", "french": "fra_Latn",
    "german": "deu_Latn", "greek": "ell_Grek", "gujarati": "guj_Gujr", "hausa": "hau_Latn",
    "hebrew": "heb_Hebr", "hindi": "hin_Deva", "hungarian": "hun_Latn", "igbo": "ibo_Latn",
    "indonesian": "ind_Latn", "italian": "ita_Latn", "japanese": "jpn_Jpan", "kannada": "kan_Knda",
    "korean": "kor_Hang", "lao": "lao_Laoo", "malay": "zsm_Latn", "malayalam": "mal_Mlym",
    "marathi": "mar_Deva", "nepali": "npi_Deva", "norwegian": "nob_Latn", "persian": "pes_Arab",
    "polish": "pol_Latn", "portuguese": "por_Latn", "punjabi": "pan_Guru", "romanian": "ron_Latn",
    "russian": "rus_Cyrl", "sinhala": "sin_Sinh", "spanish": "spa_Latn", "swahili": "swh_Latn",
    "swedish": "swe_Latn", "tagalog": "tgl_Latn", "tamil": "tam_Taml", "telugu": "tel_Telu",
    "thai": "tha_Thai", "turkish": "tur_Latn", "ukrainian": "ukr_Cyrl", "urdu": "urd_Arab",
    "vietnamese": "vie_Latn", "yoruba": "yor_Latn", "zulu": "zul_Latn",
}  # fmt: skip

Rows = Iterable[dict[str, Any]]


def read_tydiqa(wanted: Sequence[str] | None) -> dict[str, list[Question]]:
    """TyDiQA GoldP, validation."""
    rows = _rows("google-research-datasets/tydiqa", "secondary_task", "validation")
    return by_language(
        read_entry(
            {**_squad_entry(row), "language": row["id"].partition("-")[0]},
            f"tydiqa[{n}]",
            context_required=True,
        )
        for n, row in enumerate(rows)
    )


def read_xquad(wanted: Sequence[str] | None) -> dict[str, list[Question]]:
    """XQuAD, validation, a language at a time."""
    return _each(
        "xquad", wanted, XQUAD_LANGUAGES, lambda code: _rows("google/xquad", f"xquad.{code}", "validation")
    )


def read_mlqa(wanted: Sequence[str] | None) -> dict[str, list[Question]]:
    """MLQA, test, passage and question in the same language.

    The repository's main branch is a loading script, which `datasets` no longer runs: the rows come from the
    hub's own Parquet conversion of it.
    """

    def rows(code: str) -> Rows:
        folder = f"mlqa.{code}.{code}"
        return _rows("facebook/mlqa", None, "test", data_dir=folder, revision="refs/convert/parquet")

    return _each("mlqa", wanted, MLQA_LANGUAGES, rows)


def read_squad(wanted: Sequence[str] | None) -> dict[str, list[Question]]:
    """SQuAD 1.1, validation."""
    return _each(
        "squad", wanted, ("english",), lambda code: _rows("rajpurkar/squad", "plain_text", "validation")
    )


def read_belebele(wanted: Sequence[str] | None) -> dict[str, list[Question]]:
    """Belebele, test: its four answers are the options. Ids are the same in every language."""
    return {
        language: list(_belebele(language)) for language in (BELEBELE_CODES if wanted is None else wanted)
    }


def _belebele(language: str) -> Iterator[Question]:
    config = BELEBELE_CODES.get(language)
    if config is None and re.fullmatch(r"[a-z]{3}_[a-z]{4}", language):
        config = language[:4] + language[4:].capitalize()
    if config is None:
        raise DataError(
            f"data: belebele has no language {language!r}; {nearest(language, BELEBELE_CODES)}, or a FLORES-200 "
            "code such as ceb_Latn"
        )
    for n, row in enumerate(_rows("facebook/belebele", config, "test")):
        options = [row[f"mc_answer{number}"].strip() for number in range(1, 5)]
        gold = options.pop(int(row["correct_answer_num"]) - 1)
        question = read_entry(
            {
                "id": f"{row['link']}#{row['question_number']}",
                "language": language,
                "context": row["flores_passage"],
                "question": row["question"],
                "answers": [gold],
            },
            f"belebele.{config}[{n}]",
            context_required=True,
        )
        yield replace(question, distractors=tuple(dict.fromkeys(options)))


def _each(
    name: str, wanted: Sequence[str] | None, known: Sequence[str], rows: Callable[[str], Rows]
) -> dict[str, list[Question]]:
    """The questions of each language, read by its two-letter code."""
    found: dict[str, list[Question]] = {}
    for language in known if wanted is None else wanted:
        code = language_code(language)
        if language not in known or code is None:
            raise DataError(f"data: {name} has no language {language!r}; {nearest(language, known)}")
        found[language] = [
            read_entry(
                {**_squad_entry(row), "language": language}, f"{name}.{language}[{n}]", context_required=True
            )
            for n, row in enumerate(rows(code))
        ]
    return found


def _squad_entry(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": row["id"],
        "context": row["context"],
        "question": row["question"],
        "answers": row["answers"],
    }


def _rows(repository: str, config: str | None, split: str, **more: str) -> Rows:
    import datasets

    try:
        rows: Rows = datasets.load_dataset(repository, config, split=split, **more)
    except Exception as error:  # the hub client raises a dozen unrelated types for "can't be reached"
        # The cause may stand in any of its lines.
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise DataError(
            f"data: {repository} ({config or more.get('data_dir')}) can't be had from the Hugging Face hub: "
            f"{reason}. Check the connection, or give local files as squad:FOLDER, mc:FILE or jsonl:FILE"
        ) from None
    return rows
