"""Reading an example from JSON: what fits keeps its bits, what does not is a sentence with its values."""

import json
import tracemalloc

import numpy as np
import pytest

from holdtrue.errors import DataError
from holdtrue.serving import ArraySpec, ExampleSpec, Frame, pack_frame, read_instance, unpack_frame
from holdtrue.serving._app import read_request
from holdtrue.serving._examples import write_output

FLOATS = ExampleSpec(kind="array", arrays={"input": ArraySpec(shape=(2, 2), dtype="float32")})
NAMED = ExampleSpec(
    kind="arrays",
    arrays={"ids": ArraySpec(shape=(3,), dtype="int64"), "mask": ArraySpec(shape=(), dtype="bool")},
)
TEXT = ExampleSpec(kind="text", arrays={})


@pytest.mark.parametrize(
    ("spec", "value", "said"),
    [
        (FLOATS, [[1, 2], [3]], "unlike lengths"),
        (FLOATS, [1, 2], "shape [2]; an example of this model has [2, 2]"),
        (FLOATS, [[1, 2], [3, "4"]], "texts"),
        (FLOATS, [[1, 2], [3, None]], "no numbers"),
        (FLOATS, [[1, 2], [3, 1e300]], "not finite"),
        (FLOATS, [[True, False], [True, True]], "truth values"),
        (FLOATS, [[True, 0.5], [1.0, 2.0]], "truth values"),
        (FLOATS, [[1, 2], [3, 10**400]], "no numbers"),
        (FLOATS, {"a": 1}, "no numbers"),
        (FLOATS, [], "shape [0]"),
        (NAMED, [1, 2, 3], "is a list; the model takes an object of 'ids', 'mask'"),
        (NAMED, {"ids": [1, 2, 3]}, "object of 'ids'; the model takes an object of 'ids', 'mask'"),
        (
            NAMED,
            {"ids": [1, 2, 3.5], "mask": True},
            "instances[0].ids holds fractions; the model takes int64",
        ),
        (NAMED, {"ids": [1, 2, 2**63], "mask": True}, "instances[0].ids"),
        (NAMED, {"ids": [1, 2, 3], "mask": 1}, "instances[0].mask holds whole numbers"),
        (TEXT, [1], "is a list; the model takes a text"),
        (TEXT, "x" * 100_001, "a text of 100001 characters"),
    ],
)
def test_what_does_not_fit_is_a_sentence(spec: ExampleSpec, value: object, said: str) -> None:
    with pytest.raises(DataError) as caught:
        read_instance(value, spec, "instances[0]")
    assert said in str(caught.value)
    assert str(caught.value).endswith(".")


def test_one_long_text_beside_many_short_ones_takes_no_memory_for_each() -> None:
    value = ["x" * 10_000, *[""] * 4_000]  # as an array of texts: 160 MB
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="holds texts; the model takes float32"):
            read_instance(value, FLOATS, "instances[0]")
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[1]",
        b'{"instances": []}',
        b'{"instances": 1}',
        b'{"instances": [1], "more": 2}',
        b'{"instances": [NaN]}',
        b'{"instances": ' + b"[" * 100_000,
        b"\xff\xfe",
        json.dumps({"instances": [0] * 257}).encode(),
    ],
)
def test_a_body_of_another_form_is_a_sentence(body: bytes) -> None:
    with pytest.raises(DataError, match=r"\. Send"):
        read_request(body)


def test_numbers_keep_all_their_bits_on_the_way_in_and_out() -> None:
    values = np.random.default_rng(0).integers(0, 2**32, size=4000, dtype=np.uint32).view(np.float32)
    values = values[np.isfinite(values)][:3900]
    spec = ExampleSpec(kind="array", arrays={"input": ArraySpec(shape=values.shape, dtype="float32")})
    sent = json.loads(json.dumps(values.tolist()))
    read = read_instance(sent, spec, "instances[0]")
    assert isinstance(read, dict)
    assert read["input"].tobytes() == values.tobytes()
    assert (
        np.array(json.loads(json.dumps(write_output(read["input"]))), np.float32).tobytes()
        == values.tobytes()
    )


def test_a_frame_comes_back_as_it_was_sent() -> None:
    arrays = {"x": np.arange(6, dtype=np.int64).reshape(2, 3), "none": np.zeros((0, 4), np.float32)}
    _, head, body = pack_frame(Frame(head={"pass": 3}, arrays=arrays))
    back = unpack_frame(head, body)
    assert back.head == {"pass": 3}
    assert {name: a.tolist() for name, a in back.arrays.items()} == {n: a.tolist() for n, a in arrays.items()}


def test_numbers_of_a_body_are_read_as_the_json_of_python_reads_them() -> None:
    """Every bit, also of digits beyond a float's and of numbers halfway between two floats."""
    generator = np.random.default_rng(0)
    random = [repr(float(n)) for n in generator.integers(0, 2**63, 5000).view(np.float64) if np.isfinite(n)]
    digits = [f"{int(n)}.{int(m)}e{int(m) % 40 - 20}" for n, m in generator.integers(0, 2**62, (5000, 2))]
    hard = [
        "9007199254740993.0",
        "2.4703282292062328e-324",
        "1.7976931348623159e308",
        "123456789012345678901234567890",
    ]
    body = f'{{"instances": [[{", ".join([*random, *digits, *hard])}]]}}'
    assert read_request(body.encode()) == json.loads(body)["instances"]
