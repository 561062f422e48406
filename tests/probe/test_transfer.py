"""Values on their way to a device and back."""

from __future__ import annotations

import torch

from anomia.probe.transfer import packed, to_device, to_host, unpacked


def test_what_is_packed_for_one_transfer_comes_back_exactly():
    tensors = (
        torch.tensor([2**40, -1]),
        torch.tensor([[0.1, -torch.inf], [1e-30, 3.0]]),
        torch.tensor([True, False]),
        torch.empty(0, 3),
        torch.tensor([0.3], dtype=torch.float64),
    )
    there = unpacked(packed(tensors), tensors)
    assert there == to_host(*tensors) == [tensor.tolist() for tensor in tensors]
    assert isinstance(there[0][0], int)
    assert isinstance(there[2][0], bool)


def test_what_is_sent_has_its_type():
    assert to_device([], torch.device("cpu"), torch.long).dtype == torch.long
    assert to_device([[1, 2]], torch.device("cpu")).tolist() == [[1, 2]]
