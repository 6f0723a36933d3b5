"""Pickles of arrays: what Python's own unpickler gives, old writers too, and nothing that could run."""

import os
import pickle
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from oskar.data.formats.arrays_pickle import load_array_pickle
from oskar.errors import InputError

FIXTURE = Path(__file__).parents[2] / "shared" / "spec" / "fixtures" / "msvd" / "raw-captions.pkl"
TYPES = "|".join(
    ("float16", "float32", "float64", "int8", "uint8", "int64", "bool", "complex64", "<U3", "S2", ">i4", ">f8")
)


def loaded(tmp_path: Path, data: bytes) -> Any:
    path = tmp_path / "made.pkl"
    path.write_bytes(data)
    return load_array_pickle(path)


def assert_same(found: Any, expected: Any) -> None:
    assert type(found) is type(expected)
    if isinstance(expected, np.ndarray):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert found.tobytes() == expected.tobytes()
        assert found.flags.writeable
    elif isinstance(expected, dict):
        assert_same(list(found), list(expected))
        assert_same(list(found.values()), list(expected.values()))
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    else:
        assert found == expected or found != found


arrays = st.sampled_from(TYPES.split("|")).flatmap(
    lambda name: hnp.arrays(np.dtype(name), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))
)
leaves = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.binary(max_size=5)),
    *(
        arrays,
        arrays.filter(lambda a: a.ndim == 2).map(lambda a: a.T),
        arrays.filter(lambda a: a.ndim == 0).map(lambda a: a[()]),
    ),
)
keys = st.one_of(st.text(max_size=4), st.integers(), st.tuples(st.text(max_size=2), st.integers()))
objects = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.lists(inner, max_size=3).map(tuple), st.dictionaries(keys, inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(value=objects, protocol=st.integers(0, 5))
def test_every_protocol_gives_what_was_written(
    value: Any, protocol: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    assert_same(loaded(tmp_path_factory.getbasetemp(), pickle.dumps(value, protocol)), value)


@pytest.mark.parametrize("protocol", range(6))
def test_numpy_1_and_2_name_their_insides_differently(tmp_path: Path, protocol: int) -> None:
    """NumPy 2 calls ``numpy._core`` what NumPy 1 called ``numpy.core``; the files are the same otherwise."""
    value = {"keypoint": np.arange(6, dtype=np.float16).reshape(2, 3), "total_frames": np.int64(3)}
    written = pickle.dumps(value, protocol)
    other = re.sub(rb"\x95.{8}", b"", written, flags=re.DOTALL) if protocol > 3 else written  # frames hold lengths
    for name in (b"multiarray", b"numeric"):
        new, old = b"numpy._core." + name, b"numpy.core." + name
        other = other.replace(bytes([len(new)]) + new, bytes([len(old)]) + old).replace(new, old)
    assert other != written
    assert b"_core" not in other
    assert_same(loaded(tmp_path, written), value)
    assert_same(loaded(tmp_path, other), value)


def test_what_is_shared_stays_shared_and_a_list_may_hold_itself(tmp_path: Path) -> None:
    array, loop = np.arange(3), []  # type: ignore[var-annotated]
    loop += [array, {"again": array}, (array, loop), loop]
    found = loaded(tmp_path, pickle.dumps(loop))
    assert found[0] is found[1]["again"]
    assert found[0] is found[2][0]
    assert found[3] is found
    assert found[2][1] is found
    many: Any = ()
    for _ in range(100):  # 2^100 places to visit, were each visited
        many = (many, many)
    assert isinstance(loaded(tmp_path, pickle.dumps(many)), tuple)


def python2_array(values: np.ndarray[Any, Any]) -> bytes:
    """What Python 2 wrote under NumPy 1 for an array, protocol 2: bytes are plain strings there."""
    raw: bytes = values.tobytes()
    code: bytes = values.dtype.str[1:].encode()
    parts = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R",
        *(b"(K\x01K", bytes([len(values)]), b"\x85"),  # version, shape
        *(b"cnumpy\ndtype\nU", bytes([len(code)]), code, b"K\x00K\x01\x87R"),
        *(b"(K\x03U\x01<NNN", 2 * b"J\xff\xff\xff\xff", b"K\x00tb"),
        *(b"\x89T", struct.pack("<i", len(raw)), raw, b"tb"),  # order, bytes
    )
    return b"".join(parts)


@pytest.mark.parametrize(
    "values",
    [np.zeros(3, "<f4"), np.array([1.5, -2e9], "<f8"), np.frombuffer("éé".encode(), "<u2")],
    ids=["ASCII bytes", "no UTF-8", "also UTF-8"],
)
def test_arrays_of_python_2(tmp_path: Path, values: np.ndarray[Any, Any]) -> None:
    """Their bytes were a text, which decodes to other bytes unless as Latin-1."""
    data = b"\x80\x02}U\x01a" + python2_array(values) + b"s."
    assert_same(loaded(tmp_path, data), {"a": values})
    assert_same(pickle.loads(data, encoding="latin1")["a"], values)  # noqa: S301


def test_texts_of_python_2_are_utf8(tmp_path: Path) -> None:
    assert loaded(tmp_path, b"\x80\x02U\x05caf\xc3\xa9.") == "café"
    assert loaded(tmp_path, b"\x80\x02U\x04caf\xe9.") == "café"


class Names:
    """Pickles to a call of a global."""

    def __init__(self, call: Any, *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call, self.arguments


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    ("value", "name"),
    [
        (Names(os.system, "touch ran"), rf"{os.name}\.system"),
        (Names(eval, "open('ran', 'w')"), r"\.eval"),
        (Names(getattr, "x", "upper"), r"\.getattr"),
        (Names(np.load, "x.npy"), r"numpy\.load"),
        (Names(bytearray, 10**9), r"\.bytearray"),
        (Path("x"), r"pathlib.*Path"),
        ([1, {"a": np.zeros}], r"numpy\.zeros"),
        (complex(1, 2), r"\.complex"),
    ],
)
def test_any_other_global_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: Any, name: str, protocol: int
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=rf"made\.pkl: the pickle names \S*{name}.*Fix: fetch the file again, or"):
        loaded(tmp_path, pickle.dumps(value, protocol))
    assert not (tmp_path / "ran").exists()


ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
FLOATS = b"cnumpy\ndtype\n(S'f8'\nI0\nI1\ntR"


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (pickle.dumps(np.array([None])), "type 'O8'"),
        (pickle.dumps(np.zeros(2, "i4,f4")), "type 'V8'"),
        (pickle.dumps(np.zeros(2, "M8[s]")), "type 'M8'"),
        (pickle.dumps({1}), "holds a set"),
        (pickle.dumps(bytearray(b"a"), 5), "holds a bytearray"),
        (pickle.dumps(np.arange(9))[:-20], "not a whole pickle"),
        (b"", "not a whole pickle"),
        (b"PK\x03\x04 not a pickle", "not a whole pickle"),
        # a type that claims, by flags or fields, to hold pointers: with NumPy's own, memory would be theirs
        (FLOATS + b"(I3\nS'<'\nNNNI-1\nI-1\nI63\ntb.", "holds a Dtype"),
        (FLOATS + b"(I3\nS'<'\nN(S'a'\nt(dI8\nI1\nI0\ntb.", "an array of type float64 with"),
        (b"cnumpy\ndtype\n(S'U4'\nI0\nI1\ntR(I3\nS'~'\nNNNI-1\nI-1\nI0\ntb.", "an array of type <U4 with"),
        # an array of more values than it brings bytes
        (ARRAY + b"(I1\n(I9\nt" + FLOATS + b"I00\nS'abcdefgh'\ntb.", "reshape"),
        (ARRAY + b"(I1\n(I1\nt" + FLOATS + b"I00\nS'abc'\ntb.", "buffer"),
        (ARRAY + b"(I1\n(I-1\nt" + FLOATS + b"I00\nS'abcdefgh'\ntb.", r"shape \(-1,\)"),
        (ARRAY + b"(I1\n(I1\nt" + FLOATS + b"I00\nI8\ntb.", "values are a int"),
        (ARRAY + b"(I1\n(t" + FLOATS + b"I00\nS''\ntb.", "reshape"),
        (ARRAY + b".", "holds a Array"),
        # changing what it names
        (b"cnumpy\ndtype\n}S'x'\nI1\nsb.", "may not change"),
        (b"cnumpy\ndtype\n.", "holds a Global"),
        (b"c_codecs\nencode\n(S'x'\nS'rot13'\ntR.", "bytes stored as 'rot13'"),
        (b"c__builtin__\nbytes\n(I1000000000\ntR.", "not a whole pickle"),
        (b"cnumpy\nndarray\n(I3\ntR.", "made by hand"),
        (b"(" * 5000 + b"t" * 5000 + b".", "recursion"),
    ],
)
def test_what_is_no_array_is_refused_with_file_and_fix(tmp_path: Path, data: bytes, problem: str) -> None:
    with pytest.raises(InputError, match=rf"made\.pkl: .*{problem}.*\. Fix: fetch the file again, or convert"):
        loaded(tmp_path, data)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.pkl: cannot be read .*Fix: check the file"):
        load_array_pickle(tmp_path / "none.pkl")


def test_the_captions_fixture() -> None:
    if not FIXTURE.is_file():
        pytest.skip(f"fixture not there: {FIXTURE}")
    captions = load_array_pickle(FIXTURE)
    assert isinstance(captions, dict)
    assert captions["exclipAAAA_0_10"] == [["a", "boy", "kicks", "a", "ball"], ["the", "boy", "plays", "football"]]
