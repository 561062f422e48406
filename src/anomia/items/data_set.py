"""What there is to know about a data set, in one record: a file of `anomia.items.sets` for each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from anomia.errors import DataError, nearest
from anomia.items.item import Question
from anomia.items.languages import language_name

Reader = Callable[[str, Sequence[str] | None], dict[str, list[Question]]]
"""Questions by language. Takes what comes after `NAME:`, and the languages that are wanted (None: all)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSet:
    """A data set, or a format in which files of questions may be.

    name: in studies. title: as its makers call it. read: its questions.
    path: whether a path comes after its name. check: the path without what may come after it, which it checks.
    endings: of its files, "" for a folder. holds: what messages call that which is in them.
    repository, split: where it is on the Hugging Face hub; empty where it is not read from there.
    languages: names and the data set's own codes; None where files say. more_languages: a code of others is taken too.
    folders: of local copies (SQuAD JSON, one file per language), below a study's data folder.
    questions: how many it has, by language, for plans; `otherwise` in the others.
    options: whether wrong options are drawn from other questions, brought along, or either.
    parallel: translations of a question have its id, by which `anomia.measure.passages` joins those of a passage.
    licence, citation: of the questions.
    """

    name: str
    title: str
    read: Reader
    path: Literal["no", "optional", "needed"] = "no"
    check: Callable[[str], str] = str
    endings: tuple[str, ...] = ()
    holds: str = ""
    repository: str = ""
    split: str = ""
    languages: Mapping[str, str] | None = None
    more_languages: bool = False
    folders: tuple[str, ...] = ()
    questions: Mapping[str, int] = field(default_factory=dict)
    otherwise: int = 1189
    options: Literal["drawn", "brought", "either"] = "drawn"
    parallel: bool = False
    licence: str = ""
    citation: str = ""

    @property
    def only_languages(self) -> tuple[str, ...] | None:
        """All languages that it has; None where it may have others."""
        return None if self.languages is None or self.more_languages else tuple(self.languages)


def by_code(*codes: str) -> dict[str, str]:
    """Languages of a data set that names them by two-letter codes: names and codes, by name."""
    return dict(sorted((language_name(code), code) for code in codes))


def as_path(text: str) -> Path:
    """A path as a user writes it, with `~`."""
    try:
        return Path(text).expanduser()
    except RuntimeError:  # `~somebody`, whom this machine doesn't know
        return Path(text)


def refuse_unknown(data: str, wanted: Iterable[str], known: Iterable[str]) -> None:
    """Refuses languages that a data set doesn't have, with the nearest one.

    Raises:
        DataError: there is one.
    """
    for language in wanted:
        if language not in known:
            raise DataError(f"data: {data} has no language {language!r}; {nearest(language, known)}")
