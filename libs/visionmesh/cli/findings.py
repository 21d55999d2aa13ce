"""What was found of networks that were made smaller or verified, as tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from visionmesh.cli.console import print_table, screen

if TYPE_CHECKING:
    from visionmesh.models.agreement import Agreement
    from visionmesh.models.optimizing import Report
    from visionmesh.models.verifying import Verification

_ONE_PERCENT_IS_ONE = 100
"""Images."""


def show_checks(found: Verification) -> None:
    """Print how each network does in each check, and how far it is from what it came from."""
    rows = [
        (network.name, check.name, "ok" if check.passed else "FAILED", check.told)
        for network in found.networks
        for check in network.checks
    ]
    print_table(["FILE", "CHECK", "", "FOUND"], rows, empty="")
    compared = [
        (
            network.name,
            network.against or "",
            *(_errors(network.trial.agreement) if network.trial else ("", "")),
            ", ".join(f"{size}: {ms:.2f}" for size, ms in network.ms.items()),
            _megabytes(network.memory_bytes) if network.memory_bytes else "",
        )
        for network in found.networks
    ]
    screen().print()
    columns = ["FILE", "AGAINST", "MAX ERROR", "MEAN ERROR", "MS BY BATCH", "MEMORY MB"]
    print_table(columns, compared, empty="")
    kind = "images" if found.real else "made-up images, on which answers mean little"
    screen().print(
        f"{found.images} {kind}; times with one thread, unless more are told, on {found.cpu}."
    )
    if found.not_run:
        screen().print(f"Not run, nor would workers here do: {found.not_run}.")


def show_made(report: Report) -> None:
    """Print what was made of a network, how it answers and what it costs."""
    original = report.original
    first = (
        original.file, "fp32", _megabytes(original.size_bytes), "", _percent(original.accuracy),
        "", "", "", f"{original.ms:.2f}", "",
    )  # fmt: skip
    rows = [
        (
            one.file,
            one.precision if one.precision == one.scheme else f"{one.precision} {one.scheme}",
            _megabytes(one.size_bytes),
            f"{one.smaller:.2f}x",
            _percent(one.trial.accuracy),
            _percent(one.trial.agreement.answers),
            *_errors(one.trial.agreement),
            f"{one.ms:.2f}",
            f"{one.faster:.2f}x",
        )
        for one in report.made
    ]
    columns = [
        "FILE", "PRECISION", "MB", "SMALLER", "ACCURACY", "SAME ANSWERS", "MAX ERROR",
        "MEAN ERROR", "MS", "FASTER",
    ]  # fmt: skip
    print_table(columns, [first, *rows], empty="")
    _print_notes(report)


def _print_notes(report: Report) -> None:
    out = screen()
    out.print(
        f"{report.calibration} images calibrated, {report.held_out} others judged; one image at a "
        f"time with one thread on {report.cpu}."
    )
    for one in report.made:
        if one.in_float:
            out.print(f"{one.file}: {len(one.in_float)} operators stay in float32.")
    if report.held_out < _ONE_PERCENT_IS_ONE:
        out.print(f"With {report.held_out} images 1 % is less than one of them: take more.")
    if report.skipped:
        out.print(f"No images: {', '.join(report.skipped)}")
    if report.promoted:
        files = ", ".join(report.promoted)
        out.print(f"Promoted in {report.model}, version {report.version}: {files}")


def _errors(agreement: Agreement) -> tuple[str, str]:
    return f"{agreement.max_error:.2g} of {agreement.largest:.3g}", f"{agreement.mean_error:.2g}"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.2f}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"
