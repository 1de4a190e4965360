"""Fresh tensors and moves to a device."""

from collections import OrderedDict, UserDict, namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch.nn.utils.rnn import pack_sequence

from holdtrue.data import batch_to_device, freshen, is_fresh, map_tensors

Pair = namedtuple("Pair", ["x", "y"])


@dataclass(frozen=True, slots=True)
class Record:
    x: torch.Tensor
    name: str


class Encoding(UserDict[str, Any]):
    """As transformers' BatchEncoding: a mapping that holds more than its items."""

    encodings: str = ""


def shared() -> torch.Tensor:
    return torch.arange(4.0).share_memory_()


def unaligned() -> torch.Tensor:
    return torch.frombuffer(bytearray(64), dtype=torch.float32, offset=4, count=8)


stale = {
    "a view with an offset": lambda: torch.arange(40.0)[4:],
    "a view of a longer storage": lambda: torch.arange(40.0)[:4],
    "an expanded tensor": lambda: torch.ones(1, 3).expand(4, 3),
    "a tensor with gaps": lambda: torch.arange(40.0)[::2],
    "overlapping strides": lambda: torch.arange(4.0).as_strided((2, 2), (1, 1)),
    "shared memory": shared,
    "an unaligned tensor": unaligned,
}
fresh = {
    "a new tensor": lambda: torch.arange(40.0),
    "a scalar": lambda: torch.tensor(3.0),
    "an empty tensor": lambda: torch.empty(0, 3),
    "a transposed tensor": lambda: torch.arange(6.0).reshape(2, 3).clone().t(),
    "channels last": lambda: torch.ones(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "a dimension of 1": lambda: torch.ones(3, 1, 4).transpose(0, 1),
}


@pytest.mark.parametrize("name", stale)
def test_a_tensor_that_is_not_fresh_is_copied(name: str) -> None:
    tensor = stale[name]()
    copy = freshen(tensor)
    assert not is_fresh(tensor)
    assert is_fresh(copy)
    assert torch.equal(copy, tensor)


@pytest.mark.parametrize("name", fresh)
def test_a_fresh_tensor_is_not_copied(name: str) -> None:
    tensor = fresh[name]()
    assert is_fresh(tensor)
    assert freshen(tensor) is tensor


def test_a_copy_keeps_the_order_of_dimensions_in_memory() -> None:
    tensor = torch.ones(2, 3, 4, 5).to(memory_format=torch.channels_last).share_memory_()
    assert freshen(tensor).stride() == tensor.stride()


def test_a_copy_wants_a_gradient_if_the_tensor_did() -> None:
    assert freshen(torch.arange(8.0)[2:].requires_grad_()).requires_grad


@pytest.mark.parametrize(
    "container",
    [
        lambda t: (t, "a"),
        lambda t: [t, 1],
        lambda t: {"x": t, "n": None},
        lambda t: OrderedDict(x=t),
        lambda t: Pair(t, 2),
        lambda t: Record(t, "a"),
        lambda t: {"nested": [Pair((t,), Record(t, "b"))]},
    ],
)
def test_containers_keep_their_type_and_other_leaves(container: Any) -> None:
    batch = container(torch.arange(3.0))
    moved = map_tensors(lambda t: t + 0, batch)
    assert type(moved) is type(batch)
    assert repr(moved) == repr(batch)
    assert repr(map_tensors(lambda t: t + 1, batch)) != repr(batch)


def test_a_mapping_keeps_what_it_holds_beside_its_items() -> None:
    batch = Encoding(x=torch.arange(9.0)[1:])
    batch.encodings = "kept"
    moved = freshen(batch)
    assert moved.encodings == "kept"
    assert is_fresh(moved["x"])
    assert not is_fresh(batch["x"])


def test_results_with_named_fields_of_torch_keep_their_names() -> None:
    assert torch.equal(
        map_tensors(lambda t: t * 2, torch.ones(3, 2).max(dim=1)).values, torch.full((3,), 2.0)
    )


def test_a_packed_sequence_stays_one() -> None:
    packed = pack_sequence([torch.arange(3.0), torch.arange(2.0)])
    moved = map_tensors(lambda t: t + 1, packed)
    assert torch.equal(moved.data, packed.data + 1)
    assert torch.equal(moved.batch_sizes, packed.batch_sizes)


def test_a_sparse_tensor_is_left_as_it_is() -> None:
    sparse = torch.eye(3).to_sparse()
    assert freshen(sparse) is sparse


def test_moving_to_the_cpu_gives_fresh_tensors_and_keeps_other_leaves() -> None:
    x, label = batch_to_device((torch.arange(9.0)[1:], "cat"), torch.device("cpu"))
    assert is_fresh(x)
    assert label == "cat"


@pytest.mark.gpu
@pytest.mark.parametrize("pinned", [False, True])
def test_moving_to_a_gpu_gives_fresh_tensors_there(pinned: bool) -> None:
    x = torch.arange(9.0)[1:]
    moved = batch_to_device({"x": x.pin_memory() if pinned else x}, torch.device("cuda"))["x"]
    assert moved.is_cuda
    assert is_fresh(moved)
    assert torch.equal(moved.cpu(), x)
