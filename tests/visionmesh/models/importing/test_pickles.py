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
CALL = b"cposix\nsystem\n\x8c\x04true\x85R."
LATER = {
    "hexadecimal": b"I0x10\n0" + CALL,
    "long": b"L0x10L\n0" + CALL,
    "text": b"S'\xc3\xa9'\n0" + CALL,
    "unchanged": CALL.replace(b"cposix\nsystem\n", b"\x8c\x05posix(e\x8c\x06system(u\x93"),
}
"""What `pickletools` or a reader that follows the stack loses track of, and Python does not."""


def archive(members: dict[str, bytes], *, compression: int = zipfile.ZIP_STORED) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", compression) as written:
        for name, content in members.items():
            written.writestr(name, content)
    return sink.getvalue()


def pickled(content: bytes) -> bytes:
    return archive({"w/data.pkl": content})


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
        (HIDDEN, "wants to run code"),
        *((content, "wants to run code|is damaged") for content in LATER.values()),
        (pickled(CALL), r"posix\.system"),
        (archive({"w/DATA.PKL": CALL}), r"posix\.system"),
        (archive({"inner": pickled(CALL)}), r"posix\.system"),
        (archive({"a": archive({"b": archive({"c": pickled(pickled(CALL))})})}), "in archives"),
        (archive({"w/constants.pkl": pickle.dumps((), 2)}), "TorchScript"),
        (pickle.dumps(1, 2) + pickle.dumps(2, 2) + CALL, r"posix\.system"),
    ],
)
def test_no_detour_hides_a_call(tmp_path: Path, content: bytes, named: str) -> None:
    file = tmp_path / "best.pt"
    file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=named):
        require_harmless(file)


@pytest.mark.parametrize("content", [HIDDEN, *LATER.values()], ids=["hidden", *LATER])
def test_the_calls_of_these_tests_are_real(content: bytes) -> None:
    assert pickle.loads(content, encoding="utf-8") == 0  # as PyTorch reads them


def test_an_archive_that_two_readers_read_otherwise_is_refused(tmp_path: Path) -> None:
    harmless = pickle.dumps(OrderedDict(epoch=3), 2)
    meant = pickled(CALL + bytes(len(harmless) - len(CALL)))
    end = meant.index(b"PK\5\6")
    faces = meant[:end] + pickled(harmless)
    assert zipfile.ZipFile(io.BytesIO(meant)).start_dir == faces.index(b"PK\1\2")
    with zipfile.ZipFile(io.BytesIO(faces)) as read:
        assert read.read("w/data.pkl") == harmless, "where the end says there is another directory"
    file = tmp_path / "best.pt"
    for content in (faces, pickled(harmless) + b"a comment"):
        file.write_bytes(content)
        with pytest.raises(ConfigurationError, match="its directory is not where"):
            require_harmless(file)
    file.write_bytes(archive({"w/data.pkl": harmless}, compression=zipfile.ZIP_DEFLATED))
    with pytest.raises(ConfigurationError, match="it is compressed"):
        require_harmless(file)


def test_of_two_members_of_one_name_none_is_believed(tmp_path: Path) -> None:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as written:
        for name in ("w/data.pkl", "W/data.pkl"):
            written.writestr(name, pickle.dumps(OrderedDict(epoch=3), 2))
    file = tmp_path / "best.pt"
    for content in (sink.getvalue(), archive({"inner": sink.getvalue()})):
        file.write_bytes(content)
        with pytest.raises(ConfigurationError, match="two members of one name"):
            require_harmless(file)


@pytest.mark.parametrize("length", [2**62, 2**63 - 1])
def test_a_length_that_no_file_has_is_damage(tmp_path: Path, length: int) -> None:
    file = tmp_path / "best.pt"
    file.write_bytes(b"\x80\x04\x8e" + length.to_bytes(8, "little") + b"abc.")
    with pytest.raises(ConfigurationError, match="it is damaged"):
        require_harmless(file)


def test_plain_values_are_harmless(tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    values = OrderedDict(epoch=3, names=["a", "b"], rate=0.1, kinds={1, 2})
    for content in (pickle.dumps(values, 2), pickled(pickle.dumps(values, 2))):
        file.write_bytes(content)
        require_harmless(file)


def test_raw_weights_are_no_pickles(tmp_path: Path) -> None:
    """Whatever values they begin with: half of all bytes are an operation of some kind."""
    tensors = np.random.default_rng(0).normal(size=(2000, 64)).astype(np.float32)
    file = tmp_path / "weights.pt"
    file.write_bytes(archive({f"data/{at}": each.tobytes() for at, each in enumerate(tensors)}))
    require_harmless(file)


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "best.pt"
    whole = bytearray(pickled(pickle.dumps(list(range(1000)))))
    whole[50:80] = bytes(30)
    for content in (bytes(whole), pickle.dumps({"a": 1}, 2)[:-3]):
        file.write_bytes(content)
        with pytest.raises(ConfigurationError, match="it is damaged"):
            require_harmless(file)
