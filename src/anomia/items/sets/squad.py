"""SQuAD 1.1 from the hub, and files in its format."""

from __future__ import annotations

from collections.abc import Sequence

from anomia.items.data_set import DataSet, by_code
from anomia.items.hub import squad_rows
from anomia.items.item import Question
from anomia.items.squad_files import read_squad_files

_LANGUAGES = by_code("en")
_from_hub = squad_rows("squad", _LANGUAGES, "rajpurkar/squad", "validation", config="plain_text")


def _read(argument: str, wanted: Sequence[str] | None) -> dict[str, list[Question]]:
    return read_squad_files(argument, wanted) if argument else _from_hub(argument, wanted)


SET = DataSet(
    name="squad",
    title="SQuAD 1.1",
    repository="rajpurkar/squad",
    split="validation",
    languages=_LANGUAGES,
    read=_read,
    path="optional",
    endings=("", ".json"),
    holds="SQuAD's format",
    questions={"english": 10570},
    licence="CC BY-SA 4.0",
    citation="Rajpurkar, Zhang, Lopyrev and Liang (2016), arXiv:1606.05250",
)
