"""XQuAD: 240 passages of SQuAD and their questions, translated into other languages."""

from anomia.items.data_set import DataSet, by_code
from anomia.items.hub import squad_rows

_LANGUAGES = by_code("ar", "de", "el", "en", "es", "hi", "ro", "ru", "th", "tr", "vi", "zh")

SET = DataSet(
    name="xquad",
    title="XQuAD",
    repository="google/xquad",
    split="validation",
    languages=_LANGUAGES,
    read=squad_rows("xquad", _LANGUAGES, "google/xquad", "validation", config="xquad.{code}"),
    folders=("xquad",),
    parallel=True,
    licence="CC BY-SA 4.0",
    citation="Artetxe, Ruder and Yogatama (2020), arXiv:1910.11856",
)
