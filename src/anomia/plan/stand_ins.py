"""Stand-ins for parts of a study that aren't available while planning: a tokenizer, a data set on the hub."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import transformers

from anomia.errors import AnomiaError
from anomia.items import ItemSet, build_items, read_questions
from anomia.items.data_set import DataSet
from anomia.items.sets import SETS, set_of
from anomia.items.task_rows import HUB
from anomia.models.chat import with_template
from anomia.models.load import quiet_transformers
from anomia.running.cells import where_read
from anomia.study import Study

_SMALLEST_VOCABULARY = 300
# Words in pieces of at most four characters give 3.2 characters per token, as with Gemma's tokenizer on TyDiQA and
# XQuAD (2.4 in Telugu, 4.4 in English); scripts without spaces have about one character per token.
_PIECES = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|\s?[^\s\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]{1,4}|\s"
)


class PieceTokenizer:
    """Cuts text into about as many pieces as a multilingual tokenizer has tokens."""

    eos_token_id = None
    all_special_ids: tuple[int, ...] = ()

    def __call__(self, text: str, **_: Any) -> SimpleNamespace:
        """The pieces as integers; equal pieces get equal integers."""
        return SimpleNamespace(input_ids=[1, *(hash(piece) & 0x3FFFFFFF for piece in _PIECES.findall(text))])

    def apply_chat_template(self, messages: Sequence[Any], **_: Any) -> str:
        """A conversation with markers of typical length."""
        turns = (f"<start> {message['role']}\n{message['content']}<end>\n" for message in messages)
        return f"{''.join(turns)}<start> model\n"


def tokenizer_of(study: Study) -> tuple[Any, bool]:
    """The tokenizer of base if it is on this machine, else a `PieceTokenizer`; and whether it is the real one."""
    found = _tokenizer_here(study.base, study.revision)
    usable = found is not None and (
        not study.chat or study.chat_template or getattr(found, "chat_template", None)
    )
    return (with_template(found, study.chat_template), True) if usable else (PieceTokenizer(), False)


@cache
def _tokenizer_here(name: str, revision: str | None) -> Any:
    try:
        with quiet_transformers():
            found = transformers.AutoTokenizer.from_pretrained(
                name, revision=revision, local_files_only=True, trust_remote_code=False
            )
    except Exception:
        # A plan can do without it, whatever the error.
        return None
    # From a folder without tokenizer files, transformers creates one that has only special tokens.
    return found if len(found) >= _SMALLEST_VOCABULARY else None


def item_sets_of(study: Study) -> tuple[list[ItemSet], dict[str, int], bool]:
    """Items, their number by language, and whether they are the real ones.

    Data sets on the hub are not downloaded: shipped questions stand in for them, counted by their known numbers.
    """
    where = where_read(study)
    source = set_of(where)
    if source is not None and source.hub_rows and where.split(":")[1:2] == [HUB]:
        return _task_on_the_hub(study, source)
    known = SETS.get(where)
    if known is None or not known.repository:
        questions = read_questions(where, study.languages)
        sets = build_items(questions, dataset=study.data, limit=study.limit, seed=study.seed)
        return list(sets.values()), {name: len(items.items) for name, items in sets.items()}, True
    shipped = SETS["demo"].languages or {}
    languages = study.languages or tuple(known.languages or shipped)
    shown = {name: name if name in shipped else "english" for name in languages}
    built = build_items(
        read_questions("demo", sorted(set(shown.values()))), dataset=study.data, limit=16, seed=study.seed
    )
    counts = {
        name: min(study.limit or 10**9, known.questions.get(name, known.otherwise)) for name in languages
    }
    return [replace(built[stand_in], language=name) for name, stand_in in shown.items()], counts, False


def _task_on_the_hub(study: Study, source: DataSet) -> tuple[list[ItemSet], dict[str, int], bool]:
    """A task's shipped questions in place of those on the hub, counted by the number there."""
    questions = read_questions(source.name)
    shipped = build_items(questions, dataset=study.data, limit=16, seed=study.seed)
    languages = study.languages or ("english",)
    sets = [replace(shipped.get(name) or next(iter(shipped.values())), language=name) for name in languages]
    count = min(study.limit or source.hub_rows, source.hub_rows)
    return sets, dict.fromkeys(languages, count), False


def config_of(study: Study, name: str) -> Any:
    """Loads the configuration of a model, which is all that a plan reads of it.

    Raises:
        ModelError: it can't be read.
    """
    from anomia.errors import ModelError

    try:
        with quiet_transformers():
            return transformers.AutoConfig.from_pretrained(
                name, revision=study.revision, trust_remote_code=study.trust_remote_code
            )
    except AnomiaError:
        raise
    except Exception as error:
        # The hub's client, JSON and transformers raise exceptions without a common base class.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ModelError(
            f"plan: the configuration of {name!r} can't be read: {reason}; check the name, or give a folder "
            "with its config.json: anomia plan STUDY --base FOLDER"
        ) from None
