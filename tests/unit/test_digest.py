"""The digest of the training state: equal for equal bits and for nothing else."""

import hashlib
import struct
import warnings
from collections import OrderedDict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from holdtrue.engine._digest import digest_entries, flatten_state, hash_entry
from holdtrue.errors import UsageError

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
FLOAT8 = (
    torch.float8_e4m3fn,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2,
    torch.float8_e5m2fnuz,
    torch.float8_e8m0fnu,
)
INTEGERS = (
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.uint16,
    torch.uint32,
    torch.uint64,
)
WORDS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def flip_bit(tensor: torch.Tensor, element: int, bit: int) -> torch.Tensor:
    """A copy with one bit of one element flipped."""
    copy = tensor.clone()
    words = copy.view(WORDS[tensor.element_size()])
    mask = torch.zeros_like(words)
    mask[element] = torch.iinfo(words.dtype).min if bit == words.element_size() * 8 - 1 else 1 << bit
    words.bitwise_xor_(mask)
    return copy


def from_bits(dtype: torch.dtype, *patterns: int) -> torch.Tensor:
    """A tensor of elements with these bit patterns."""
    size = dtype.itemsize
    data = b"".join(pattern.to_bytes(size, "little") for pattern in patterns)
    return torch.frombuffer(bytearray(data), dtype=torch.uint8).view(dtype)


@pytest.mark.parametrize("dtype", [*FLOATS, *INTEGERS, *FLOAT8], ids=str)
def test_every_bit_of_every_dtype_counts(dtype: torch.dtype) -> None:
    tensor = from_bits(dtype, 0x21, 0x32, 0x13)
    hashes = {
        hash_entry(flip_bit(tensor, element, bit))
        for element in range(3)
        for bit in range(8 * dtype.itemsize)
    }
    nan_flips = (
        0
        if dtype in INTEGERS
        else sum(
            bool(flip_bit(tensor, e, b).to(torch.float32).isnan().any())
            for e in range(3)
            for b in range(8 * dtype.itemsize)
        )
    )
    assert hash_entry(tensor) not in hashes
    assert len(hashes) >= 3 * 8 * dtype.itemsize - nan_flips


@pytest.mark.parametrize(
    ("dtype", "nans"),
    [
        (torch.float16, (0x7E00, 0x7C01, 0xFE00, 0xFFFF)),
        (torch.bfloat16, (0x7FC0, 0x7F81, 0xFFC0, 0xFFFF)),
        (torch.float32, (0x7FC00000, 0x7F800001, 0xFFC00000, 0xFFFFFFFF)),
        (torch.float64, (0x7FF8 << 48, (0x7FF << 52) + 1, 0xFFF8 << 48, 2**64 - 1)),
        (torch.float8_e4m3fn, (0x7F, 0xFF)),
        (torch.float8_e5m2, (0x7D, 0x7E, 0x7F, 0xFD, 0xFE, 0xFF)),
    ],
    ids=str,
)
def test_every_nan_hashes_the_same_and_its_place_counts(dtype: torch.dtype, nans: tuple[int, ...]) -> None:
    hashes = {hash_entry(from_bits(dtype, 1, nan, 2)) for nan in nans}
    assert len(hashes) == 1
    assert hash_entry(from_bits(dtype, nans[0], 1, 2)) not in hashes
    if dtype in FLOATS:
        assert hashes == {
            hash_entry(
                torch.cat([from_bits(dtype, 1), torch.tensor([torch.nan], dtype=dtype), from_bits(dtype, 2)])
            )
        }


@pytest.mark.parametrize("length", [1, 7, 64, 1000])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_a_nan_is_found_wherever_it_stands(dtype: torch.dtype, length: int) -> None:
    for place in {0, length // 2, length - 1}:
        a, b = torch.ones(length, dtype=dtype), torch.ones(length, dtype=dtype)
        a[place], b[place] = torch.nan, -torch.nan
        b = flip_bit(b, place, 0)
        assert not torch.equal(a.view(torch.uint8), b.view(torch.uint8))
        assert hash_entry(a) == hash_entry(b)


def test_nans_of_complex_numbers_are_canonical_by_part() -> None:
    bits = from_bits(torch.float32, 0x7F800001, 0x3F800000, 0xFFC00001, 0x40000000)
    canonical = torch.tensor([torch.nan, 1.0, torch.nan, 2.0])
    assert hash_entry(torch.view_as_complex(bits.view(2, 2))) == hash_entry(
        torch.view_as_complex(canonical.view(2, 2))
    )
    assert hash_entry(torch.view_as_complex(bits.view(2, 2))) != hash_entry(canonical.view(2, 2))


def test_infinities_of_both_signs_are_not_taken_for_nan() -> None:
    a, b = torch.tensor([torch.inf, -torch.inf, 1.0]), torch.tensor([torch.inf, -torch.inf, 2.0])
    assert hash_entry(a) != hash_entry(b)
    assert hash_entry(a) != hash_entry(torch.tensor([torch.nan, torch.nan, 1.0]))
    large = torch.full((64,), 60000.0, dtype=torch.float16)
    assert hash_entry(large) == hash_entry(large.clone())


def test_signed_zeros_differ() -> None:
    for dtype in FLOATS:
        assert hash_entry(torch.tensor([0.0], dtype=dtype)) != hash_entry(torch.tensor([-0.0], dtype=dtype))


def test_the_order_is_logical_whatever_the_strides() -> None:
    base = torch.arange(24.0).reshape(2, 3, 4)
    assert hash_entry(base.transpose(0, 2)) == hash_entry(base.transpose(0, 2).contiguous())
    assert hash_entry(base.transpose(0, 2)) != hash_entry(base.reshape(4, 3, 2))
    assert hash_entry(base[:, 1:, ::2]) == hash_entry(base[:, 1:, ::2].clone())
    image = torch.arange(120.0).reshape(2, 3, 4, 5)
    assert hash_entry(image) == hash_entry(image.to(memory_format=torch.channels_last))
    assert hash_entry(torch.ones(1).expand(5)) == hash_entry(torch.ones(5))


def test_views_that_conjugate_or_negate_hash_as_their_values() -> None:
    z = torch.tensor([1 + 2j, 3 - 4j])
    assert hash_entry(z.conj()) == hash_entry(z.conj().resolve_conj())
    assert hash_entry(z.conj()) != hash_entry(z)
    assert hash_entry(z.conj().imag) == hash_entry(torch.tensor([-2.0, 4.0]))


def test_dtype_and_shape_count() -> None:
    zeros = [
        torch.zeros(shape, dtype=dtype)
        for dtype in (*FLOATS, *INTEGERS, torch.bool)
        for shape in ((), (1,), (1, 1))
    ]
    zeros += [torch.zeros(shape) for shape in ((0,), (0, 2), (2, 0))]
    assert len({hash_entry(tensor) for tensor in zeros}) == len(zeros)


def test_parameters_hash_as_their_tensors() -> None:
    tensor = torch.ones(3)
    assert hash_entry(torch.nn.Parameter(tensor)) == hash_entry(tensor)


def test_plain_values_of_unlike_types_never_meet() -> None:
    values = (
        None,
        True,
        False,
        1,
        0,
        1.0,
        0.0,
        -0.0,
        1j,
        "1",
        "",
        b"1",
        b"",
        "None",
        2**80,
        torch.tensor(1.0),
        np.float32(1),
    )
    assert len({hash_entry(value) for value in values}) == len(values)


def test_plain_nans_are_one() -> None:
    odd = struct.unpack("<d", struct.pack("<Q", 0xFFF0000000000123))[0]
    assert odd != odd
    assert hash_entry(odd) == hash_entry(float("nan"))
    assert hash_entry(complex(odd, 1)) == hash_entry(complex(float("nan"), 1))


def test_numpy_arrays_hash_by_value_whatever_their_byte_order_and_strides() -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert hash_entry(array) == hash_entry(array.astype(">f4"))
    assert hash_entry(array.T) == hash_entry(np.ascontiguousarray(array.T))
    assert hash_entry(np.float32(2)) == hash_entry(np.array(2, dtype=np.float32))
    odd = np.frombuffer(struct.pack("<II", 0x7F800001, 0xFFC00001), dtype=np.float32)
    assert hash_entry(odd) == hash_entry(np.array([np.nan, np.nan], dtype=np.float32))
    assert hash_entry(odd.view(np.complex64)) == hash_entry(
        np.array([complex(np.nan, np.nan)], dtype=np.complex64)
    )
    assert hash_entry(np.array([0.0])) != hash_entry(np.array([-0.0]))


def test_flattening_sorts_keys_and_keeps_paths_apart() -> None:
    state = OrderedDict(
        [("b", {10: "x", 9: "y"}), ("a/c", 1), ("a", {"c": 2}), ("n", np.float64(1)), ("e", [])]
    )
    assert list(flatten_state(state)) == [
        ("a/c", 2),
        ("a%2Fc", 1),
        ("b/9", "y"),
        ("b/10", "x"),
        ("n", 1.0),
    ]
    assert list(flatten_state(3, "position/epoch")) == [("position/epoch", 3)]


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"a": [1, {2}]}, "a/1 is a builtins.set;"),
        ({"f": len}, "f is a builtins.builtin_function_or_method;"),
        ({"g": torch.Generator()}, "g is a torch._C.Generator;"),
        ({"x": np.array(["s"])}, "x is a numpy value of dtype <U1;"),
        ({"x": np.array([None])}, "x is a numpy value of dtype object;"),
        ({"x": np.longdouble(1)}, "x is a numpy value of dtype"),
        ({"s": torch.eye(2).to_sparse()}, "s is a tensor of kind torch.sparse_coo;"),
        ({"s": torch.ones(2, device="meta")}, "s is a tensor of kind meta;"),
        ({"d": {1.5: 0}}, "d is a dict with the key 1.5 of type float;"),
        ({"d": {True: 0}}, "d is a dict with the key True of type bool;"),
        ({"d": {1: 0, "1": 0}}, "d is a dict with the keys 1 and '1';"),
        ({None: 0}, "the state is a dict with the key None"),
    ],
)
def test_what_cannot_be_hashed_is_refused_by_path_and_type(state: object, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        list(flatten_state(state))
    assert str(caught.value).startswith(words)
    assert "Return only such values from state_dict()" in str(caught.value)


def test_the_digest_does_not_depend_on_the_order_of_entries_but_on_names_and_values() -> None:
    a, b = torch.ones(2), torch.zeros(2)
    whole, each = digest_entries({"x": a, "y": b})
    assert digest_entries({"y": b, "x": a}) == (whole, each)
    assert digest_entries({"x": b, "y": a})[0] != whole
    assert digest_entries({"x": a, "z": b})[0] != whole
    assert digest_entries({"x": a})[0] != whole
    assert each["x"] == hash_entry(a).hex()[:16]


def test_a_refused_entry_is_named() -> None:
    with pytest.raises(UsageError, match=r"^weights/w is a tensor of kind meta"):
        digest_entries({"weights/w": torch.ones(1, device="meta")})


def test_the_digest_is_made_as_written_down() -> None:
    """Digests of unlike versions are compared: the bytes below may not change."""
    state = {"w": torch.arange(2, dtype=torch.bfloat16), "n": [3, True, None], "lr": 0.5, "s": "x"}
    leaves = {
        "lr": b"float|" + struct.pack("<d", 0.5),
        "n/0": b"int|3",
        "n/1": b"bool|1",
        "n/2": b"none|",
        "s": b"str|x",
        "w": b"tensor|torch.bfloat16|2|" + struct.pack("<HH", 0, 0x3F80),
    }
    whole = hashlib.sha256()
    for name, leaf in leaves.items():
        whole.update(f"{len(name)}|{name}|".encode() + hashlib.sha256(leaf).digest())
    assert digest_entries(dict(flatten_state(state)))[0] == whole.hexdigest()


@given(st.lists(st.floats(width=32), max_size=20), st.lists(st.floats(width=32), max_size=20))
@settings(max_examples=60, deadline=None)
def test_hashes_are_equal_exactly_when_canonical_bits_are(a: list[float], b: list[float]) -> None:
    def bits(values: list[float]) -> list[str]:
        return [repr(value) for value in values]

    equal = hash_entry(torch.tensor(a)) == hash_entry(torch.tensor(b))
    assert equal == (bits(a) == bits(b))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_tensor_hashes_the_same_on_every_device() -> None:
    for dtype in (*FLOATS, torch.int64, torch.bool, torch.complex64):
        tensor = torch.arange(100).reshape(10, 10).to(dtype).T
        assert hash_entry(tensor.cuda()) == hash_entry(tensor)


def test_hashing_warns_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        array = np.arange(3.0)
        array.flags.writeable = False
        hash_entry(array)
        hash_entry(torch.view_as_complex(torch.ones(2, 2)))
