"""Logit lens: what each block's output would say if it were the last, for the tokens that compete for an item's answer.

Source: nostalgebraist 2020. Read in the passes of attribution, at the position of each item's margin.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import polars as pl
import torch
from torch import Tensor, nn

from anomia.locate.attribution import Margins, Observer
from anomia.locate.pairs import ModelPair
from anomia.probe.head import Head

LENS_SCHEMA: Mapping[str, Any] = {
    "item": pl.Int32,
    "model": pl.String,
    "block": pl.Int32,
    **{
        f"{name}_{what}": kind
        for name in ("gold", "rival", "control")
        for what, kind in (("rank", pl.Int32), ("log_prob", pl.Float64))
    },
}  # fmt: skip
_TRIAL_TOKENS = 8


class Lens(Observer):
    """Collects rows of `LENS_SCHEMA` for subjects; `item` is a subject's number."""

    def __init__(self, pair: ModelPair, subjects: Sequence[Margins]) -> None:
        self._pair = pair
        self._subjects = subjects
        self._head = Head(pair.model)
        self._norm = find_norm(pair, self._head)
        self._states: dict[int, Tensor] = {}
        self.rows: list[dict[str, Any]] = []

    @property
    def fits(self) -> bool:
        """Whether the model's last norm is known, so that its head can read any block."""
        return self._norm is not None

    @contextmanager
    def watch(self, model: Any) -> Iterator[None]:
        """Keeps the output of every block of the passes inside, [B, T, H] each."""
        handles = [
            block.register_forward_hook(lambda _, __, out, index=index: self._keep(index, out))
            for index, block in enumerate(self._pair.block_modules)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._states.clear()

    def _keep(self, index: int, output: Any) -> None:
        states = output if isinstance(output, Tensor) else output[0]
        self._states[index] = states.detach()

    @torch.no_grad()
    def see(self, items: Sequence[tuple[int, int]], row: int, position: int, alpha: float) -> None:
        """Reads a row of the kept outputs, [B, T, H], at a position, for the items whose gold margin is read there."""
        if self._norm is None:
            return
        for kind, number in items:
            if kind:
                continue
            subject = self._subjects[number]
            states = torch.stack(
                [states[row, position] for _, states in sorted(self._states.items())]
            )  # [blocks, H]
            logits = self._head.logits(self._norm(states)).float()  # [blocks, V]
            beside = (
                subject.control if subject.control and subject.control.prefix == subject.gold.prefix else None
            )
            tokens = {
                "gold": subject.gold.token,
                "rival": subject.gold.rival,
                "control": None if beside is None else beside.token,
            }
            log_probs = logits.log_softmax(-1)
            for block in range(len(states)):
                self.rows.append(
                    {
                        "item": number,
                        "model": "base" if alpha == 1.0 else "compressed",
                        "block": block,
                        **{
                            f"{name}_rank": None
                            if token is None
                            else 1 + int((logits[block] > logits[block, token]).sum())
                            for name, token in tokens.items()
                        },
                        **{
                            f"{name}_log_prob": None if token is None else float(log_probs[block, token])
                            for name, token in tokens.items()
                        },
                    }
                )


@torch.no_grad()
def find_norm(pair: ModelPair, head: Head) -> nn.Module | None:
    """The module between the last block and the head, found by trying those beside the blocks; None if none fits.

    A module fits if it turns the last block's output [1, T, H] into the decoder's last hidden states.
    """
    model = pair.model
    blocks = pair.block_modules
    parents = [
        part for part in model.modules() if any(blocks[-1] in child.children() for child in part.children())
    ]
    kept: list[Tensor] = []
    handle = blocks[-1].register_forward_hook(
        lambda _, __, out: kept.append(out if isinstance(out, Tensor) else out[0])
    )
    rows = int(model.get_input_embeddings().weight.shape[0])
    ids = torch.arange(1, 1 + _TRIAL_TOKENS, device=head.device)[None] % rows
    try:
        last = head.decode(input_ids=ids)
    finally:
        handle.remove()
    candidates = [
        child for part in parents for child in part.children() if blocks[-1] not in child.children()
    ]
    for module in (nn.Identity(), *candidates):
        try:
            found = module(kept[-1])
        except Exception:
            # Most of the modules beside the blocks take something else.
            continue
        if (
            isinstance(found, Tensor)
            and found.shape[1:] == last.shape
            and torch.allclose(found[0], last, rtol=1e-3, atol=1e-5)
        ):
            fitting: nn.Module = module
            return fitting
    return None
