"""The file behind an arena: its layout, its owner's lock, and the reaper.

A slab is one file, mapped by its writer and by every reader. Words are native 64-bit::

    file header   magic, owner's pid for people to read, number of slots, bytes per slot, bytes of
                  `elsewhere`
    generations   one word per slot: of the payload that begins here, 0 if none does
    released      one word per slot: the last generation that a reader gave back
    lengths       one word per slot: of the payload, in bytes
    leases        one word per slot: CLOCK_MONOTONIC in nanoseconds, which is the same clock in
                  all processes of a host
    data          slots, one behind the other, from the next page on; if there are bytes of
                  `elsewhere`, those are here instead, and say where the slots are

The writer stores everything but ``released``. No word needs an atomic exchange: a generation is
never used twice, so a release that comes too late names a payload that is gone and frees nothing.
Words are stored and loaded whole and in the order of the code, as x86-64 does it.

The owner holds an exclusive `flock` on the file for as long as it lives. The kernel drops the lock
with the process, so a slab without a lock is an orphan; unlike a process id, a lock can neither be
reused nor mean another process in another container. Who only asks whether the owner lives must not
take that lock, as the next one who asks would take him for the owner. So the owner of a slab whose
slots are elsewhere holds a lock of the other kind, too, that of an open file description (`fcntl`),
which tells without being taken; not every kernel has it, and others do without.
"""

from __future__ import annotations

import fcntl
import glob
import mmap
import os
import struct
import weakref
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from visionmesh.errors import Code, ConfigurationError

_MAGIC = int.from_bytes(b"vmslab-1", "little")
_WORD = 8
_HEADER_WORDS = 8
_COLUMNS = 4
_WHOLE_FILE = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
"""A ``struct flock`` as 64-bit Linux has it: type, whence, start, length, pid."""
_NO_LOCK = struct.pack("hhqqi4x", fcntl.F_UNLCK, os.SEEK_SET, 0, 0, 0)


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Slab:
    """One mapped slab; the mapping lives as long as anything refers to it."""

    inode: int
    slots: int
    slot_bytes: int
    generations: memoryview
    released: memoryview
    lengths: memoryview
    leases: memoryview
    data: memoryview
    elsewhere: bytes
    """Where the slots are, in the words of the owner; empty: in `data`."""
    descriptor: int
    """Of the file."""

    @property
    def orphan(self) -> bool:
        """Whether the owner is dead, or has let go of it; only known if there is `elsewhere`."""
        told = fcntl.fcntl(self.descriptor, fcntl.F_OFD_GETLK, _WHOLE_FILE)
        (kind,) = struct.unpack_from("h", told)
        return bool(kind == fcntl.F_UNLCK)


def create_slab(path: Path, *, slots: int, slot_bytes: int, elsewhere: bytes = b"") -> Slab:
    """Create the slab at ``path``; its descriptor holds the owner's lock.

    All pages are allocated at once: a full /dev/shm is an error here and not a bus error later.
    An orphan of the same name is replaced.

    Raises
    ------
    ConfigurationError
        If a living process has this name, there is not enough shared memory, or the kernel has no
        locks by which others learn whether the owner of what lies ``elsewhere`` is alive.
    """
    size = _size(slots, slot_bytes, len(elsewhere))
    with ExitStack() as undo:
        # The file gets its name only when it is complete and locked: nobody ever sees half a slab.
        descriptor = os.open(path.parent, os.O_TMPFILE | os.O_RDWR, 0o600)
        undo.callback(os.close, descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if elsewhere:
            _lock_to_tell(descriptor)
        _allocate(descriptor, size, path)
        mapped = memoryview(mmap.mmap(descriptor, size))
        header = mapped[: _HEADER_WORDS * _WORD].cast("Q")
        header[0], header[1], header[2], header[3] = _MAGIC, os.getpid(), slots, slot_bytes
        header[4] = len(elsewhere)
        begin = _data_offset(slots)
        mapped[begin : begin + len(elsewhere)] = elsewhere
        remove_orphan(path)
        _give_name(descriptor, path)
        undo.pop_all()
    return _slab(mapped, descriptor)


def open_slab(path: Path) -> Slab | None:
    """Map the slab at ``path``, `None` if there is none.

    The owner need not live: what it committed stays as it was until the slab is reaped.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except (FileNotFoundError, IsADirectoryError):
        return None
    with ExitStack() as undo:
        undo.callback(os.close, descriptor)
        size = os.fstat(descriptor).st_size
        if size == 0 or size % mmap.PAGESIZE:
            return None
        mapped = memoryview(mmap.mmap(descriptor, size))
        magic, _, slots, slot_bytes, elsewhere = mapped[: 5 * _WORD].cast("Q")
        if magic != _MAGIC or size != _size(slots, slot_bytes, elsewhere):
            return None
        slab = _slab(mapped, descriptor)
        undo.pop_all()
    # Whoever still reads from a slab that was forgotten may ask for its owner.
    weakref.finalize(slab, os.close, descriptor).atexit = False
    return slab


def remove_slab(path: Path, slab: Slab) -> None:
    """Remove the owner's own slab and let go of its locks."""
    path.unlink(missing_ok=True)
    # A mapping keeps a duplicate of the descriptor, and so the lock, while anybody holds a view.
    if slab.elsewhere:
        fcntl.fcntl(slab.descriptor, fcntl.F_OFD_SETLK, _NO_LOCK)
    fcntl.flock(slab.descriptor, fcntl.LOCK_UN)
    os.close(slab.descriptor)


def remove_orphan(path: Path) -> bool:
    """Remove the slab at ``path`` if its owner is dead; say whether it was removed.

    What belongs to another user is left to that one.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except (FileNotFoundError, PermissionError):
        return False
    try:
        # Whoever replaces an orphan locks it first: if the name still means this file, it keeps
        # meaning it until we let go.
        orphan = _lock(descriptor) and is_at(path, os.fstat(descriptor).st_ino)
        if orphan:
            path.unlink()
        return orphan
    finally:
        os.close(descriptor)


def reap(directory: Path, *, prefix: str) -> int:
    """Remove the slabs in ``directory`` whose owners are dead; return how many there were.

    Only files whose names begin with ``prefix`` are looked at.
    """
    return sum(map(remove_orphan, directory.glob(glob.escape(prefix) + "*")))


def is_at(path: Path, inode: int) -> bool:
    """Say whether the file of ``inode`` still has its name."""
    try:
        return path.stat().st_ino == inode
    except FileNotFoundError:
        return False


def _lock(descriptor: int) -> bool:
    """Take the owner's lock if nobody holds it; closing the descriptor gives it back."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lock_to_tell(descriptor: int) -> None:
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _WHOLE_FILE)
    except OSError as error:
        raise ConfigurationError(
            Code.SETTINGS_INVALID,
            f"This kernel has no locks of open file descriptions ({error.strerror}).",
        ) from error


def _data_offset(slots: int) -> int:
    used = (_HEADER_WORDS + _COLUMNS * slots) * _WORD
    return -(-used // mmap.PAGESIZE) * mmap.PAGESIZE


def _size(slots: int, slot_bytes: int, elsewhere: int) -> int:
    data = -(-elsewhere // mmap.PAGESIZE) * mmap.PAGESIZE or slots * slot_bytes
    return _data_offset(slots) + data


def _slab(mapped: memoryview, descriptor: int) -> Slab:
    words = mapped.cast("Q")
    _, _, slots, slot_bytes, elsewhere = words[:5]
    data = mapped[_data_offset(slots) :]
    generations, released, lengths, leases = (
        words[begin : begin + slots]
        for begin in range(_HEADER_WORDS, _HEADER_WORDS + _COLUMNS * slots, slots)
    )
    return Slab(
        inode=os.fstat(descriptor).st_ino,
        slots=slots,
        slot_bytes=slot_bytes,
        generations=generations,
        released=released,
        lengths=lengths,
        leases=leases,
        data=data,
        elsewhere=bytes(data[:elsewhere]),
        descriptor=descriptor,
    )


def _allocate(descriptor: int, size: int, path: Path) -> None:
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        raise ConfigurationError(
            Code.SETTINGS_INVALID,
            f"{path.parent} has no room for an arena of {size} bytes ({error.strerror}): "
            "enlarge it (docker: --shm-size) or lower arena_bytes.",
        ) from error


def _give_name(descriptor: int, path: Path) -> None:
    try:
        # Only with a directory descriptor does Python follow the link under /proc.
        os.link(f"/proc/self/fd/{descriptor}", path, src_dir_fd=descriptor)
    except FileExistsError as error:
        raise ConfigurationError(
            Code.SETTINGS_INVALID,
            f"The arena {path.name} belongs to another living process: give each its own name.",
        ) from error
