"""Belebele: its four answers are the options, and its ids are the same in every language.

It names languages by FLORES-200 codes. Languages missing from `CODES` are requested by their code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from anomia.errors import DataError, nearest
from anomia.items.data_set import DataSet
from anomia.items.entry import read_entry
from anomia.items.hub import hub_rows
from anomia.items.item import Question

CODES = {
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
_REPOSITORY, _SPLIT = "facebook/belebele", "test"


def _read(argument: str, wanted: Sequence[str] | None) -> dict[str, list[Question]]:
    return {language: list(_questions(language)) for language in (CODES if wanted is None else wanted)}


def _questions(language: str) -> Iterator[Question]:
    config = CODES.get(language)
    if config is None and re.fullmatch(r"[a-z]{3}_[a-z]{4}", language):
        config = language[:4] + language[4:].capitalize()
    if config is None:
        raise DataError(
            f"data: belebele has no language {language!r}; {nearest(language, CODES)}, or a FLORES-200 code such as "
            "ceb_Latn"
        )
    for n, row in enumerate(hub_rows(_REPOSITORY, config, _SPLIT)):
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


SET = DataSet(
    name="belebele",
    title="Belebele",
    repository=_REPOSITORY,
    split=_SPLIT,
    languages=CODES,
    more_languages=True,
    read=_read,
    otherwise=900,
    options="brought",
    parallel=True,
    licence="CC BY-SA 4.0",
    citation="Bandarkar, Liang, Muller, Artetxe, Shukla, Husa, Goyal, Krishnan, Zettlemoyer and Khabsa (2024), "
    "arXiv:2308.16884",
)
