"""MLQA: questions about passages that exist in several Wikipedias; passage and question are in the same language.

The repository's main branch is a loading script, which `datasets` no longer runs, so the rows come from the hub's
Parquet conversion.
"""

from anomia.items.data_set import DataSet, by_code
from anomia.items.hub import squad_rows

_LANGUAGES = by_code("ar", "de", "en", "es", "hi", "vi", "zh")

SET = DataSet(
    name="mlqa",
    title="MLQA",
    repository="facebook/mlqa",
    split="test",
    languages=_LANGUAGES,
    read=squad_rows(
        "mlqa", _LANGUAGES, "facebook/mlqa", "test", data_dir="mlqa.{code}.{code}", revision="refs/convert/parquet"
    ),
    questions={
        "arabic": 5335, "chinese": 5137, "english": 11590, "german": 4517, "hindi": 4918, "spanish": 5253,
        "vietnamese": 5495,
    },
    parallel=True,
    licence="CC BY-SA 3.0",
    citation="Lewis, Oguz, Rinott, Riedel and Schwenk (2020), arXiv:1910.07475",
)  # fmt: skip
