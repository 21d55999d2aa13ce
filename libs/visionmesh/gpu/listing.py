"""What is said of NVIDIA's GPUs: the driver's plain figures, and what they mean for a mesh."""

from __future__ import annotations

from dataclasses import dataclass

from visionmesh.contracts import Frozen

_FATAL_XIDS = frozenset({46, 48, 62, 64, 79, 95, 119, 120, 140})
"""The driver's error reports after which NVIDIA's Xid catalog has the GPU or its machine started
anew: it hangs, has bad memory or a row that cannot be replaced, left the bus, has lost its
firmware. The others are an application's own fault, or news."""
_RECOVERY = {
    1: "a reset of the GPU",
    2: "a restart of the machine",
    3: "an end to transfers between GPUs",
    4: "a reset of the GPU, once it is drained",
    5: "a recovery of the IMEX domain",
    6: "a reset of the GPU's bus",
    7: "a restart of the machine",
}
"""What NVML's ``nvmlDeviceGpuRecoveryAction_t`` asks for."""
_AT_ONCE = frozenset({1, 2, 6, 7})
"""Of these: the GPU cannot be used before."""
_SLOWED = {
    0x08: "the hardware",
    0x20: "its temperature",
    0x40: "its temperature, by the hardware",
    0x80: "the power supply",
}
"""NVML's bits of why clocks are low (``nvmlClocksEventReason…``), without those that are a wish,
and without the power limit, which a busy GPU reaches."""
_MIG = " MIG "


@dataclass(frozen=True, kw_only=True, slots=True)
class RawSlice:
    """A MIG slice as NVML tells it."""

    uuid: str
    name: str
    memory_total: int | None = None
    memory_used: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RawGpu:
    """A GPU as NVML tells it; `None` is what it does not tell of this one."""

    index: int
    uuid: str
    name: str
    lost: str | None = None
    """Why nothing more is known."""
    memory_total: int | None = None
    """Bytes, as the others."""
    memory_used: int | None = None
    memory_free: int | None = None
    utilization: int | None = None
    """Per cent of the time in which a kernel ran."""
    temperature: int | None = None
    """Degrees Celsius."""
    ecc_uncorrected: int | None = None
    """Errors of the memory since the driver was loaded."""
    pages_pending: int | None = None
    rows_pending: int | None = None
    rows_failed: int | None = None
    slowed: int | None = None
    """Bits."""
    recovery: int | None = None
    xids: tuple[int, ...] = ()
    """Reports since this process looks at the GPU."""
    processes: tuple[tuple[int, int | None], ...] = ()
    """Number and bytes."""
    slices: tuple[RawSlice, ...] = ()


class GpuProcess(Frozen):
    """A process that computes on a GPU."""

    pid: int
    """As the driver counts: in a container it is another one."""
    memory_bytes: int | None = None


class GpuSlice(Frozen):
    """A part of a GPU that is a device of its own (MIG)."""

    uuid: str
    profile: str
    """Shares of the engines and of the memory, such as ``1g.10gb``."""
    memory_total: int | None = None
    memory_used: int | None = None


class GpuListing(Frozen):
    """One GPU of a machine, and how it is; `None` is what the driver does not tell."""

    index: int
    uuid: str
    name: str
    memory_total: int | None = None
    """Bytes, as the others."""
    memory_used: int | None = None
    memory_free: int | None = None
    utilization: float | None = None
    """Share of the time in which a kernel ran, from 0 to 1."""
    temperature: float | None = None
    """Degrees Celsius."""
    ecc_uncorrected: int | None = None
    """Memory errors that could not be corrected, since the driver was loaded."""
    unfit: str | None = None
    """Why it must not be used; `None` if it is healthy."""
    warnings: tuple[str, ...] = ()
    """What is not as it should be, though it computes."""
    processes: tuple[GpuProcess, ...] = ()
    slices: tuple[GpuSlice, ...] = ()

    @property
    def healthy(self) -> bool:
        return self.unfit is None

    def has(self, uuid: str) -> bool:
        """Say whether ``uuid`` is this GPU, or a slice of it."""
        return uuid == self.uuid or any(uuid == part.uuid for part in self.slices)


def listing(raw: RawGpu) -> GpuListing:
    """Return what the driver's figures mean."""
    return GpuListing(
        index=raw.index,
        uuid=raw.uuid,
        name=raw.name,
        memory_total=raw.memory_total,
        memory_used=raw.memory_used,
        memory_free=raw.memory_free,
        utilization=None if raw.utilization is None else raw.utilization / 100,
        temperature=raw.temperature,
        ecc_uncorrected=raw.ecc_uncorrected,
        unfit=unfit(raw),
        warnings=warnings(raw),
        processes=tuple(GpuProcess(pid=pid, memory_bytes=size) for pid, size in raw.processes),
        slices=tuple(
            GpuSlice(
                uuid=part.uuid,
                profile=part.name.partition(_MIG)[2],
                memory_total=part.memory_total,
                memory_used=part.memory_used,
            )
            for part in raw.slices
        ),
    )


def unfit(raw: RawGpu) -> str | None:
    """Return why the GPU must not be used, or `None`.

    Memory errors alone do not make it unfit where the driver says what is to be done about them:
    since Ampere it takes the bad page away, and ends only the process that had it.
    """
    if raw.lost is not None:
        return f"the driver has lost it: {raw.lost}"
    if raw.recovery in _AT_ONCE:
        return f"the driver asks for {_RECOVERY[raw.recovery]}"
    if fatal := sorted(_FATAL_XIDS.intersection(raw.xids)):
        return f"the driver reported Xid {', '.join(map(str, fatal))}"
    if raw.rows_failed:
        return "a bad row of its memory could not be replaced"
    if raw.ecc_uncorrected and raw.recovery is None:
        return _ecc(raw.ecc_uncorrected)
    return None


def warnings(raw: RawGpu) -> tuple[str, ...]:
    """Return what is not as it should be, though the GPU computes."""
    found = []
    if raw.ecc_uncorrected and raw.recovery is not None:
        found.append(_ecc(raw.ecc_uncorrected))
    if raw.recovery and raw.recovery not in _AT_ONCE:
        asked = _RECOVERY.get(raw.recovery, f"recovery action {raw.recovery}")
        found.append(f"the driver asks for {asked}")
    if raw.pages_pending:
        found.append("a page of its memory is retired with the next reset")
    if raw.rows_pending:
        found.append("a row of its memory is replaced with the next reset")
    reasons = [why for bit, why in _SLOWED.items() if (raw.slowed or 0) & bit]
    if reasons:
        found.append(f"slowed down by {', '.join(reasons)}")
    return tuple(found)


def _ecc(count: int) -> str:
    return f"{count} memory error{'s' if count > 1 else ''} that could not be corrected"
