"""What this machine's CPU can do that decides how fast a network runs on it."""

from __future__ import annotations

from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
"""Where Linux describes each processor, one block of ``key : value`` lines for each."""

RELEVANT = frozenset(
    {
        # x86: vectors, dot products of bytes, half precisions, matrices.
        *("avx2", "fma", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
        *("avx10_1", "avx10_2", "amx_int8", "amx_bf16", "amx_fp16"),
        # Arm: the same, under the kernel's names.
        *("asimd", "asimddp", "asimdhp", "sve", "sve2", "i8mm", "bf16", "sme", "sme2"),
    }
)
"""Of the many names in `CPUINFO`, those that engines for networks choose their code by."""

_BYTES = frozenset({"avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm"})
_BF16 = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


def cpu_features(cpuinfo: Path = CPUINFO) -> tuple[str, ...]:
    """Return the relevant features that all processors have, sorted; none where nothing tells."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        return ()
    pairs = (line.partition(":") for line in lines)
    each = [set(value.split()) for key, _, value in pairs if key.strip() in ("flags", "Features")]
    return tuple(sorted(RELEVANT.intersection(*each))) if each else ()


def multiplies_bytes(features: tuple[str, ...]) -> bool:
    """Say whether a CPU with these features adds up products of bytes without losing any."""
    return not _BYTES.isdisjoint(features)


def computes_bf16(features: tuple[str, ...]) -> bool:
    """Say whether a CPU with these features multiplies in bfloat16 itself."""
    return not _BF16.isdisjoint(features)
