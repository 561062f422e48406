"""Read rows of data sets from the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from anomia.errors import DataError, nearest
from anomia.items.data_set import Reader
from anomia.items.entry import read_entry
from anomia.items.item import Question

HubRows = Iterable[dict[str, Any]]


def hub_rows(repository: str, config: str | None, split: str, **more: str) -> HubRows:
    """The rows of one configuration. more: `revision` and `data_dir`, if the configuration name is not enough.

    Raises:
        DataError: the rows can't be loaded.
    """
    import datasets

    try:
        rows: HubRows = datasets.load_dataset(repository, config, split=split, **more)
    except Exception as error:  # the hub client raises a dozen unrelated types for "can't be reached"
        # The cause may be on any line of the message.
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise DataError(
            f"data: {repository} ({config or more.get('data_dir')}) can't be loaded from the Hugging Face hub: "
            f"{reason}. Check the connection, or give local files as squad:FOLDER, mc:FILE or jsonl:FILE"
        ) from None
    return rows


def squad_entry(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with SQuAD's columns as an entry, without its language."""
    return {key: row[key] for key in ("id", "context", "question", "answers")}


def squad_rows(
    name: str, languages: Mapping[str, str], repository: str, split: str, *, config: str = "", **more: str
) -> Reader:
    """Make a reader for a data set with SQuAD's columns and one configuration per language.

    `{code}` in `config` and `more` is replaced by the language's code.
    """

    def read(argument: str, wanted: Sequence[str] | None) -> dict[str, list[Question]]:
        found: dict[str, list[Question]] = {}
        for language in languages if wanted is None else wanted:
            if language not in languages:
                raise DataError(f"data: {name} has no language {language!r}; {nearest(language, languages)}")
            code = languages[language]
            where = {key: value.format(code=code) for key, value in more.items()}
            rows = hub_rows(repository, config.format(code=code) or None, split, **where)
            found[language] = [
                read_entry(
                    {**squad_entry(row), "language": language},
                    f"{name}.{language}[{n}]",
                    context_required=True,
                )
                for n, row in enumerate(rows)
            ]
        return found

    return read
