"""A model that can be asked, wherever it is: loaded into this process, or behind a server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from anomia.endpoint.ask import ServedModel, answer_items
from anomia.models import LoadedModel
from anomia.probe.ask import Decoding, OnSplit, Reply
from anomia.probe.decode import Said, decode_reply
from anomia.probe.encode import EncodedItem
from anomia.probe.select import ChosenEngine
from anomia.running.alike import Asked


class Answerer(Protocol):
    """What a run needs of a model, base or arm."""

    @property
    def name(self) -> str:
        """What the user called it."""
        ...

    @property
    def tokenizer(self) -> Any:
        """The tokenizer that its prompts are cut and encoded with."""
        ...

    @property
    def positions(self) -> int | None:
        """The longest sequence that it takes, in tokens; None where it has no limit."""
        ...

    @property
    def asked(self) -> Asked:
        """Whether it is asked exactly what base is."""
        ...

    @property
    def remark(self) -> str:
        """What a user should know about how it is asked; mostly nothing."""
        ...

    def answer(
        self,
        encoded: Sequence[EncodedItem],
        decoding: Decoding,
        *,
        batch_size: int,
        on_split: OnSplit | None = None,
    ) -> Iterator[tuple[Reply, Said]]:
        """Yields what it answers to each item, in their order.

        Args:
            encoded: the items as it is asked them.
            decoding: how much is generated and drawn; where answers end the model knows by itself.
            batch_size: items at a time.
            on_split: told the items of a batch that didn't fit into memory and was halved.

        Raises:
            ModelError: it can't be asked any more.
        """
        ...


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A model in this process, and the engine that asks it.

    batch_size: items at a time, where the arm has its own (`null:batch=N`).
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
        """The engine and why it was taken, where it isn't the tree or has limits."""
        return f"{self.engine.name} engine: {self.engine.reason}" if self.engine.reason else ""

    def answer(
        self,
        encoded: Sequence[EncodedItem],
        decoding: Decoding,
        *,
        batch_size: int,
        on_split: OnSplit | None = None,
    ) -> Iterator[tuple[Reply, Said]]:
        """See `Answerer`."""
        replies = self.engine.answer(
            self.loaded.model,
            [item.ask for item in encoded],
            replace(decoding, eos_token_ids=self.loaded.eos_token_ids),
            batch_size=self.batch_size or batch_size,
            on_split=on_split,
        )
        for item, reply in zip(encoded, replies, strict=True):
            yield reply, decode_reply(item, reply, self.tokenizer)


@dataclass(frozen=True, slots=True)
class RemoteModel:
    """A model behind a server: sent texts, which base's tokenizer cuts. chat: through base's chat template."""

    name: str
    served: ServedModel
    tokenizer: Any
    positions: int | None
    chat: bool

    @property
    def asked(self) -> Asked:
        """Like base, as far as a server can be told."""
        return Asked()

    @property
    def remark(self) -> str:
        """Nothing that its notes don't say."""
        return ""

    def answer(
        self,
        encoded: Sequence[EncodedItem],
        decoding: Decoding,
        *,
        batch_size: int,
        on_split: OnSplit | None = None,
    ) -> Iterator[tuple[Reply, Said]]:
        """See `Answerer`; how many are asked at a time the client decides."""
        return answer_items(self.served, encoded, self.tokenizer, decoding, chat=self.chat)
