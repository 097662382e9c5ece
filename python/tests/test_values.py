"""Every row of proto/VALUES.md, both ways, and the errors for what has no form."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import math
import random
import re
import struct
import sys
import uuid
from typing import Any

import numpy
import pyarrow
import pytest

from snakepit._native import decode, encode


def round_trip(value: Any) -> Any:
    return decode(encode(value))


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


@dataclasses.dataclass
class Point:
    x: int
    y: list[float]


Pair = collections.namedtuple("Pair", "left right")

SAME = [
    None, True, False, 0, 1, -1, 127, 128, -32, -33, 255, 256, 65535, 65536, 2**31, -(2**31), 2**32, 2**63 - 1,
    -(2**63), 2**63, 2**64 - 1, 0.0, -0.0, 1.5, math.inf, -math.inf, 5e-324, "", "ascii", "ünïcödé 🐍",
    "x" * 31, "x" * 32, "x" * 256, "x" * 70000, b"", b"bytes", b"\x00" * 300, b"\xff" * 70000, [], [1, [2, [3]]],
    list(range(20)), list(range(70000)), {}, {"a": 1, "b": {"c": [None]}}, {i: str(i) for i in range(70000)},
    {1: "int", 2.5: "float", None: "none", True: "bool", b"b": "bytes"}, {(1, 2): "tuple key"},
    {frozenset({1}): "set key"}, set(), {1, 2, 3}, {(1, "a")}, {frozenset({1})},
    datetime.datetime(2026, 1, 31, 12, 0, 0), datetime.datetime(2026, 1, 31, 12, 0, 0, 123456, datetime.UTC),
    datetime.datetime(2026, 7, 1, tzinfo=datetime.timezone(datetime.timedelta(hours=5, minutes=30))),
    datetime.date(2026, 1, 31), datetime.time(12, 30), datetime.time(12, 30, 1, 5, tzinfo=datetime.UTC),
    datetime.timedelta(days=-1, seconds=5, microseconds=7), datetime.timedelta.max, datetime.timedelta.min,
    decimal.Decimal("1.10"), decimal.Decimal("-1E+500"), decimal.Decimal("Infinity"),
    uuid.UUID("12345678-1234-5678-1234-567812345678"), complex(1.5, -2.0), {"deep": [{"set": {1}}]},
]  # fmt: skip


@pytest.mark.parametrize("value", SAME, ids=lambda value: f"{type(value).__name__}-{str(value)[:20]}")
def test_comes_back_as_it_was(value: Any) -> None:
    back = round_trip(value)
    assert back == value
    assert type(back) is type(value)


def test_nan_comes_back_as_nan() -> None:
    assert math.isnan(round_trip(math.nan))
    assert round_trip(decimal.Decimal("NaN")).is_nan()


def test_negative_zero_keeps_its_sign() -> None:
    assert math.copysign(1, round_trip(-0.0)) == -1


def test_dict_keeps_its_order() -> None:
    assert list(round_trip({"z": 1, "a": 2, "m": 3})) == ["z", "a", "m"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ((1, 2), [1, 2]),
        (bytearray(b"ba"), b"ba"),
        (memoryview(b"view"), b"view"),
        (frozenset({1}), {1}),
        (Colour.RED, "red"),
        (Level.HIGH, 3),
        ({Level.HIGH: Colour.RED}, {3: "red"}),
        (Point(1, [2.5]), {"x": 1, "y": [2.5]}),
        (Pair(1, 2), [1, 2]),
        (collections.OrderedDict(a=1), {"a": 1}),
        (collections.defaultdict(int, a=1), {"a": 1}),
        (collections.Counter("aab"), {"a": 2, "b": 1}),
        (numpy.float64(1.5), 1.5),
        (numpy.float32(1.5), 1.5),
        (numpy.int8(-3), -3),
        (numpy.uint64(2**64 - 1), 2**64 - 1),
        (numpy.bool_(True), True),
        (numpy.str_("text"), "text"),
        (numpy.complex64(1 + 2j), 1 + 2j),
    ],
    ids=lambda value: type(value).__name__,
)
def test_comes_back_as_the_documented_type(value: Any, expected: Any) -> None:
    back = round_trip(value)
    assert back == expected
    assert type(back) is type(expected)


@pytest.mark.parametrize(
    "array",
    [
        numpy.arange(12, dtype="f8").reshape(3, 4),
        numpy.arange(12, dtype="f8").reshape(3, 4).T,
        numpy.arange(100)[::3],
        numpy.array(5.0),
        numpy.zeros((0, 3)),
        numpy.array([True, False]),
        numpy.array([1 + 2j], dtype="c16"),
        numpy.array([1, 2], dtype=">i4"),
        numpy.array(["ab", "c"]),
        numpy.array([b"ab", b"c"]),
        numpy.array([1.5], dtype="f2"),
        numpy.asfortranarray(numpy.arange(6).reshape(2, 3)),
        numpy.broadcast_to(numpy.array([1, 2]), (3, 2)),
    ],
    ids=lambda array: f"{array.dtype.str}-{array.shape}",
)
def test_array_comes_back_equal(array: Any) -> None:
    back = round_trip(array)
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert (back == array).all()
    assert back.flags.writeable


@pytest.mark.parametrize(
    ("array", "dtype"),
    [
        (numpy.array([object()]), "object"),
        (numpy.zeros(1, dtype=[("a", "i4")]), "[('a', '<i4')]"),
        (numpy.array(["2026-01-01"], dtype="datetime64[D]"), "datetime64[D]"),
        (numpy.datetime64(1, "ns"), "datetime64[ns]"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_array_of_other_dtype_is_refused_by_name(array: Any, dtype: str) -> None:
    with pytest.raises(TypeError) as error:
        encode({"a": [array]})
    assert dtype in str(error.value)
    assert str(error.value).startswith('value["a"][0] ')


def test_masked_array_is_refused() -> None:
    with pytest.raises(TypeError, match="masked"):
        encode(numpy.ma.masked_array([1, 2], mask=[True, False]))


class Stranger:
    pass


@pytest.mark.parametrize(
    ("value", "path", "says"),
    [
        ({"a": [0, 1, 2, Stranger()]}, 'value["a"][3]', "Stranger"),
        ([2**64], "value[0]", "65 bits"),
        ([-(2**63) - 1], "value[0]", "64 bits"),
        ({"k": 1 << 5000}, 'value["k"]', "5001 bits"),
        (["\ud800"], "value[0]", "surrogate"),
        ({1: {"x": object()}}, 'value[1]["x"]', "object"),
        ({"s": {Stranger}}, 'value["s"]{...}', "type"),
        ({Stranger(): 1}, "value[key 0]", "Stranger"),
        ([memoryview(b"abcd")[::2]], "value[0]", "contiguous"),
        ([iter([])], "value[0]", "iterator"),
        (range(3), "value", "range"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_error_names_the_type_and_the_path(value: Any, path: str, says: str) -> None:
    with pytest.raises(TypeError) as error:
        encode(value)
    assert str(error.value).startswith(path + " ")
    assert says in str(error.value)


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth - 1):
        value = [value]
    return value


def test_depth_is_limited_to_128_both_ways() -> None:
    deepest = encode(nested(128))
    assert decode(deepest) == nested(128)
    with pytest.raises(TypeError, match="128 levels"):
        encode(nested(129))
    with pytest.raises(ValueError, match="128 levels"):
        decode(b"\x91" + deepest)
    with pytest.raises(ValueError, match="128 levels"):
        decode(b"\x81\x01" * 100_000)


def test_self_referencing_list_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(TypeError, match="128 levels"):
        encode(loop)


def test_dict_that_changes_while_written_is_refused() -> None:
    class Meddler(enum.Enum):
        pass

    target: dict[str, Any] = {}

    @dataclasses.dataclass
    class Grows:
        @property
        def x(self) -> int:
            return 1

    class Field:
        def __get__(self, instance: Any, owner: Any) -> int:
            target[f"more{len(target)}"] = 1
            return 1

    @dataclasses.dataclass
    class Meddles:
        x: int = dataclasses.field(default=1)

    Meddles.x = Field()  # type: ignore[assignment]
    target["first"] = Meddles.__new__(Meddles)
    with pytest.raises(TypeError, match="changed size"):
        encode(target)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "ends early"),
        (b"\xc1", "0xc1"),
        (b"\x92\x01", "ends early"),
        (b"\xdd\xff\xff\xff\xff", "announced"),
        (b"\xdf\xff\xff\xff\xff", "announced"),
        (b"\x01\x02", "belong to no value"),
        (b"\xa2\xff\xff", "UTF-8"),
        (b"\xc6\xff\xff\xff\xff", "ends early"),
        (b"\xd4\x7f\x00", "unknown extension code 127"),
        (b"\xd4\xff\x00", "unknown extension code -1"),
        (b"\xd4\x01x", "not a valid datetime"),
        (b"\xd4\x06x", "not a valid UUID"),
        (b"\xd4\x05x", "not a valid Decimal"),
        (b"\xd4\x07x", "not a valid complex"),
        (b"\xd4\x04\x01", "not a valid timedelta"),
        (b"\xd4\x08\x01", "set"),
        (b"\xd4\x09\x01", "dtype"),
        (b"\x81\x81\x01\x02\x03", "cannot be hashed"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_bytes_that_are_no_value_are_refused(data: bytes, says: str) -> None:
    with pytest.raises(ValueError) as error:
        decode(data)
    assert says in str(error.value)


def array_ext(dtype: Any, shape: Any, data: bytes) -> bytes:
    body = b"\x93" + encode(dtype) + encode(shape) + encode(data)
    return b"\xc9" + struct.pack(">I", len(body)) + b"\x09" + body


@pytest.mark.parametrize(
    ("dtype", "shape", "data", "says"),
    [
        ("|O", [1], b"\x00" * 8, "object"),
        ("<f8", [2], b"\x00" * 8, "16 bytes, not 8"),
        ("<f8", [-1], b"", "impossible shape"),
        ("nonsense", [1], b"", "unknown dtype"),
        ("<f8", [2**40, 2**40], b"", "bytes, not 0"),
        (5, [1], b"", "dtype, shape, data"),
        ("<f8", [1.5], b"", "dtype, shape, data"),
        ("<f8", [0] * 200, b"", "NumPy refuses"),
    ],
)
def test_array_that_lies_about_itself_is_refused(dtype: Any, shape: Any, data: bytes, says: str) -> None:
    with pytest.raises(ValueError) as error:
        decode(array_ext(dtype, shape, data))
    assert says in str(error.value)


def generate(rng: random.Random, depth: int) -> Any:
    """A random value of the kinds that come back as they were."""
    leaves = [
        lambda: None,
        lambda: rng.random() < 0.5,
        lambda: rng.randint(-(2**63), 2**64 - 1),
        lambda: rng.randint(-200, 70000),
        lambda: struct.unpack("d", rng.randbytes(8))[0],
        lambda: rng.randbytes(rng.choice([0, 1, 31, 255, 256])),
        lambda: "".join(chr(rng.choice([65, 233, 8364, 128013])) for _ in range(rng.randint(0, 40))),
        lambda: datetime.datetime.fromtimestamp(rng.randint(0, 2**31), datetime.UTC),
        lambda: decimal.Decimal(rng.randint(-(10**30), 10**30)).scaleb(-9),
        lambda: uuid.UUID(bytes=rng.randbytes(16)),
    ]
    if depth == 0 or rng.random() < 0.4:
        return rng.choice(leaves)()
    size = rng.choice([0, 1, 2, 5, 17])
    if rng.random() < 0.5:
        return [generate(rng, depth - 1) for _ in range(size)]
    return {rng.randint(0, 10**9): generate(rng, depth - 1) for _ in range(size)}


@pytest.mark.parametrize("seed", range(40))
def test_random_values_come_back(seed: int) -> None:
    value = generate(random.Random(seed), 5)
    encoded = encode(value)
    # Compared by bytes as well, which tells NaN from NaN and 1 from True.
    assert encode(decode(encoded)) == encoded


@pytest.mark.parametrize("seed", range(40))
def test_damaged_bytes_are_a_value_or_an_error(seed: int) -> None:
    rng = random.Random(seed)
    encoded = bytearray(encode(generate(rng, 4)))
    for _ in range(200):
        damaged = bytearray(encoded)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        try:
            decode(bytes(damaged))
        except ValueError:
            pass


def arrow_values() -> list[Any]:
    numbers = pyarrow.array([1, None, 3])
    nested = pyarrow.array([[1], [], [2, 3]])
    batch = pyarrow.record_batch({"n": numbers, "t": ["a", "", None], "l": nested})
    table = pyarrow.table({"d": pyarrow.array(["x", "y", "x"]).dictionary_encode()})
    return [
        batch,
        batch.slice(1, 1),
        batch.slice(0, 0),
        pyarrow.record_batch({}),
        batch.replace_schema_metadata({"unit": "m"}),
        table,
        table.slice(0, 0),
        pyarrow.concat_tables([table, pyarrow.table({"d": pyarrow.array(["z"]).dictionary_encode()})]),
        pyarrow.table({"big": range(100_000)}),
    ]


@pytest.mark.parametrize("value", arrow_values(), ids=range(9))
def test_data_of_arrow_comes_back(value: Any) -> None:
    back = round_trip({"in": [value]})["in"][0]
    assert type(back) is type(value)
    assert back.equals(value, check_metadata=True)


def stream(*batches: Any) -> bytes:
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, batches[0].schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return bytes(sink.getvalue())


def arrow(kind: int, data: bytes) -> bytes:
    payload = struct.pack(">BBBL", 0x92, kind, 0xC6, len(data)) + data
    return struct.pack(">BLB", 0xC9, len(payload), 12) + payload


@pytest.mark.parametrize(
    ("encoded", "says"),
    [
        (arrow(0, b""), "no stream of its IPC format"),
        (arrow(1, b"\xff" * 50), "no stream of its IPC format"),
        (arrow(1, stream(pyarrow.record_batch({"n": [1]}))[:-20]), "no stream of its IPC format"),
        (arrow(0, stream(*[pyarrow.record_batch({"n": [1]})] * 2)), "there are more in its stream"),
        (arrow(2, stream(pyarrow.record_batch({"n": [1]}))), "the unknown kind 2"),
        (b"\xc7\x01\x0c\x01", "not [kind, data]"),
        (b"\xd5\x0c\x92\x00", "ends early"),
        (b"\xd5\x0d\x92\x00", "did not come along"),
    ],
    ids=range(8),
)
def test_what_is_no_data_of_arrow_says_why(encoded: bytes, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        decode(encoded)


def test_data_of_arrow_without_pyarrow_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match="pyarrow cannot be imported"):
        decode(arrow(0, b""))
