"""TyDi QA, gold passage task: questions that people asked in their native language."""

from __future__ import annotations

from collections.abc import Sequence

from anomia.items.data_set import DataSet, by_code
from anomia.items.entry import by_language, read_entry
from anomia.items.hub import hub_rows, squad_entry
from anomia.items.item import Question

_REPOSITORY, _SPLIT = "google-research-datasets/tydiqa", "validation"


def _read(argument: str, wanted: Sequence[str] | None) -> dict[str, list[Question]]:
    rows = hub_rows(_REPOSITORY, "secondary_task", _SPLIT)
    return by_language(
        # The hub has all languages in one table; an id starts with its language.
        read_entry(
            {**squad_entry(row), "language": row["id"].partition("-")[0]},
            f"tydiqa[{n}]",
            context_required=True,
        )
        for n, row in enumerate(rows)
    )


SET = DataSet(
    name="tydiqa",
    title="TyDi QA GoldP",
    repository=_REPOSITORY,
    split=_SPLIT,
    languages=by_code("ar", "bn", "en", "fi", "id", "ko", "ru", "sw", "te"),
    read=_read,
    folders=("tydiqa_goldp/dev", "tydiqa"),
    questions={"bengali": 113, "korean": 276, "english": 440, "swahili": 499},
    otherwise=565,
    licence="Apache-2.0",
    citation="Clark, Choi, Collins, Garrette, Kwiatkowski, Nikolaev and Palomaki (2020), arXiv:2003.05002",
)
