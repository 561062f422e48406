"""Blocks as the code of others expects them, for `authors.py`."""

from __future__ import annotations

from typing import Any


class Wrapped:
    """Replaces a model's blocks by shims while the code of others runs; they remember what enters them with `rows`."""

    def __init__(self, model: Any, rows: list[list[int]]) -> None:
        self.layers, self.plain = model.model.layers, list(model.model.layers)
        self.model, self.rows = model, rows

    def __enter__(self) -> list[Any]:
        import torch

        shims = [shim(layer) for layer in self.plain]
        self.model.seqlen, self.model.hf_device_map = len(self.rows[0]), {}
        handles = [
            layer.register_forward_pre_hook(one.remember, with_kwargs=True)
            for layer, one in zip(self.plain, shims, strict=True)
        ]
        with torch.no_grad():
            for row in self.rows:
                self.model(torch.tensor([row]), use_cache=False)
        for handle in handles:
            handle.remove()
        for index, one in enumerate(shims):
            self.layers[index] = one
        return shims

    def __exit__(self, *_: Any) -> None:
        for index, layer in enumerate(self.plain):
            self.layers[index] = layer


def shim(layer: Any) -> Any:
    """A module with a block's attention and MLP that calls the block with today's arguments and returns a tuple."""
    from torch import nn

    class Shim(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.self_attn, self.mlp = layer.self_attn, layer.mlp
            self.given: dict[str, Any] = {}
            self.entered: list[Any] = []

        def remember(self, _: Any, args: Any, kwargs: dict[str, Any]) -> None:
            self.given = kwargs
            if layer.self_attn.layer_idx == 0:
                self.entered.append(args[0] if args else kwargs["hidden_states"])

        def forward(self, states: Any, *_: Any, **__: Any) -> tuple[Any]:
            out = layer(states, **self.given)
            return (out if not isinstance(out, tuple) else out[0],)

        def __getattr__(self, name: str) -> Any:
            # The model asks a block for its kind of attention.
            try:
                return super().__getattr__(name)
            except AttributeError:
                return getattr(layer, name)

    return Shim()


def each_block(model: Any, row: list[int]) -> list[Any]:
    """The states that enter the first block and leave each block, [1, S, H] each."""
    import torch

    found: list[Any] = []

    def before(_: Any, args: Any, kwargs: dict[str, Any]) -> None:
        found.append(args[0] if args else kwargs["hidden_states"])

    layers = model.model.layers
    handles = [layers[0].register_forward_pre_hook(before, with_kwargs=True)]
    handles += [
        layer.register_forward_hook(lambda _, __, out: found.append(out if torch.is_tensor(out) else out[0]))
        for layer in layers
    ]
    model.model(torch.tensor([row]), use_cache=False)
    for handle in handles:
        handle.remove()
    return found
