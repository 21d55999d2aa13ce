"""A pickle is looked into before anybody loads it, and what it would call is named."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from visionmesh.errors import Code, ConfigurationError
from visionmesh.models.importing.pickles import require_harmless


class Attack:
    """Touches a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self._target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self._target}",)


HIDDEN = b"".join(
    [
        b"\x80\x04",
        *(b"\x8c\x05posix\x94", b"\x8c\x06system\x94"),
        *(b"\x8c\x0ctorch._utils\x94", b"\x8c\x12_rebuild_tensor_v2\x94"),
        *(b"h\x00", b"h\x01", b"\x93", b"\x8c\x04true", b"\x85", b"R", b"."),
    ]
)
"""Names what it calls long before it does, and something harmless in between."""
POPPED = HIDDEN.replace(b"h\x00h\x01\x93", b"00\x93")
"""Takes the harmless names from the stack again."""


def archive(**members: bytes) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as written:
        for name, content in members.items():
            written.writestr(name, content)
    return sink.getvalue()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_what_a_pickle_would_call_is_named(tmp_path: Path, protocol: int) -> None:
    file = tmp_path / "best.pt"
    file.write_bytes(pickle.dumps({"w": Attack(tmp_path / "touched")}, protocol))
    with pytest.raises(ConfigurationError, match=r"wants to run code: .*posix\.system") as raised:
        require_harmless(file)
    assert raised.value.code is Code.MODEL_UNSAFE
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (HIDDEN, r"posix\.system"),
        (POPPED, r"posix\.system"),
        (archive(data=b"weights", pkl=HIDDEN), r"posix\.system"),
        (archive(inner=archive(pkl=HIDDEN)), r"posix\.system"),
        (archive(a=archive(b=archive(c=archive(d=archive(pkl=HIDDEN))))), "archive in archives"),
        (pickle.dumps(1) + pickle.dumps(2) + HIDDEN, r"posix\.system"),
    ],
    ids=["hidden", "popped", "archive", "nested", "deep", "third"],
)
def test_no_detour_hides_a_call(tmp_path: Path, content: bytes, named: str) -> None:
    file = tmp_path / "best.pt"
    file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=named):
        require_harmless(file)


def test_the_hidden_calls_of_these_tests_are_real() -> None:
    assert pickle.loads(HIDDEN) == 0
    assert pickle.loads(POPPED) == 0


def test_plain_values_are_harmless(tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    file.write_bytes(pickle.dumps(OrderedDict(epoch=3, names=["a", "b"], rate=0.1, kinds={1, 2})))
    require_harmless(file)


def test_raw_weights_are_no_pickles(tmp_path: Path) -> None:
    """Whatever values they begin with: half of all bytes are an operation of some kind."""
    tensors = np.random.default_rng(0).normal(size=(2000, 64)).astype(np.float32)
    file = tmp_path / "weights.pt"
    file.write_bytes(archive(**{f"data/{at}": each.tobytes() for at, each in enumerate(tensors)}))
    require_harmless(file)


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "best.pt"
    whole = bytearray(archive(pkl=pickle.dumps(list(range(1000)))))
    whole[40:80] = bytes(40)
    file.write_bytes(whole)
    with pytest.raises(ConfigurationError, match="damaged archive"):
        require_harmless(file)
