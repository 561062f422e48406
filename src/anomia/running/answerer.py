"""Models that can be asked: loaded into this process, or behind a server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from anomia.endpoint.ask import ServedModel, answer_items
from anomia.errors import ModelError
from anomia.models.load import LoadedModel
from anomia.probe.ask import Decoding, OnSplit, OnTokens, Reply
from anomia.probe.continuation import answer_at_length, joined
from anomia.probe.decode import Decoded, decode_reply
from anomia.probe.encode import EncodedItem
from anomia.probe.reference import lacks_rows
from anomia.probe.select import ChosenEngine
from anomia.running.alike import Asked


class Answerer(Protocol):
    """The interface of a model, base or arm, as a run needs it."""

    @property
    def name(self) -> str:
        """The name that the user gave it."""
        ...

    @property
    def tokenizer(self) -> Any:
        """The tokenizer that cuts and encodes its prompts."""
        ...

    @property
    def positions(self) -> int | None:
        """The longest sequence that it takes, in tokens; None if there is no limit."""
        ...

    @property
    def asked(self) -> Asked:
        """Whether it is asked exactly like base."""
        ...

    @property
    def remark(self) -> str:
        """A note to the user on how it is asked; usually empty."""
        ...

    def answer(
        self,
        encoded: Sequence[EncodedItem],
        decoding: Decoding,
        *,
        batch_size: int,
        on_split: OnSplit | None = None,
        on_tokens: OnTokens | None = None,
    ) -> Iterator[tuple[Reply, Decoded]]:
        """Yields the reply to each item, in order.

        Args:
            encoded: the items, encoded for this model.
            decoding: how to generate and sample; the end tokens are the model's own.
            batch_size: items per batch.
            on_split: called with the item ids of a batch that didn't fit into memory and was halved.
            on_tokens: called with the number of tokens that a decode step yields; servers have no steps.

        Raises:
            ModelError: the model can no longer be asked.
        """
        ...


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A model in this process, and the engine that runs it.

    batch_size: items per batch if the arm sets it (`null:batch=N`).
    """

    loaded: LoadedModel
    engine: ChosenEngine
    batch_size: int | None = None
    asked: Asked = field(default_factory=Asked)

    @property
    def name(self) -> str:
        """See `Answerer`."""
        return self.loaded.name

    @property
    def tokenizer(self) -> Any:
        """See `Answerer`."""
        return self.loaded.tokenizer

    @property
    def positions(self) -> int | None:
        """See `Answerer`."""
        return self.loaded.positions

    @property
    def remark(self) -> str:
        """The engine and the reason for it, if it isn't the tree or has limits."""
        return f"{self.engine.name} engine: {self.engine.reason}" if self.engine.reason else ""

    def answer(
        self,
        encoded: Sequence[EncodedItem],
        decoding: Decoding,
        *,
        batch_size: int,
        on_split: OnSplit | None = None,
        on_tokens: OnTokens | None = None,
    ) -> Iterator[tuple[Reply, Decoded]]:
        """See `Answerer`."""
        settings = replace(decoding, eos_token_ids=self.loaded.eos_token_ids)
        size = self.batch_size or batch_size
        replies = self.engine.answer(
            self.loaded.model,
            [item.ask for item in encoded if not item.item.question.as_is],
            settings,
            batch_size=size,
            on_split=on_split,
            on_tokens=on_tokens,
        )
        at_length = answer_at_length(
            self.engine.answer,
            self.loaded.model,
            [item.long for item in encoded if item.long is not None],
            settings,
            batch_size=size,
            on_split=on_split,
            on_tokens=on_tokens,
        )
        try:
            for item in encoded:
                short = Reply(item.ask.item_id) if item.item.question.as_is else next(replies)
                reply = joined(short, None if item.long is None else next(at_length))
                yield reply, decode_reply(item, reply, self.tokenizer)
        except IndexError as error:
            if not lacks_rows(error):
                raise
            raise ModelError(
                f"model: {self.name!r} has an embedding table with fewer rows than its tokenizer has tokens; use the "
                "tokenizer that it was trained with"
            ) from error


@dataclass(frozen=True, slots=True)
class RemoteModel:
    """A model behind a server; it is sent texts that were cut with base's tokenizer.

    chat: apply base's chat template.
    """

    name: str
    served: ServedModel
    tokenizer: Any
    positions: int | None
    chat: bool

    @property
    def asked(self) -> Asked:
        """Like base, as far as a server allows."""
        return Asked()

    @property
    def remark(self) -> str:
        """Empty: its notes say everything."""
        return ""

    def answer(
        self,
        encoded: Sequence[EncodedItem],
        decoding: Decoding,
        *,
        batch_size: int,
        on_split: OnSplit | None = None,
        on_tokens: OnTokens | None = None,
    ) -> Iterator[tuple[Reply, Decoded]]:
        """See `Answerer`; the client decides how many requests run at a time."""
        return answer_items(self.served, encoded, self.tokenizer, decoding, chat=self.chat)
