"""One command runs all benchmarks of GPUs, and tells what became of each."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.gpu.figures import Figure, measuring, table
from bench.gpu.run import ROOT, Outcome, Runner, Step, environment
from visionmesh.errors import Retry, VisionmeshError

QUICK = "machine,preprocess,handover,boxes"


def test_it_begins_where_nothing_is_installed_yet() -> None:
    subprocess.run([sys.executable, "-S", "-m", "bench.gpu.run", "--help"], cwd=ROOT, check=True)


def test_a_dry_run_on_the_emulated_device_tells_all_figures(tmp_path: Path) -> None:
    command = ["-m", "bench.gpu.run", "--device=emulated", "--tiny", f"--only={QUICK}"]
    told = subprocess.run(
        [sys.executable, *command, f"--out={tmp_path}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stdout + told.stderr
    lines = [json.loads(line) for line in (tmp_path / "figures.jsonl").read_text().splitlines()]
    assert {line["step"] for line in lines} == set(QUICK.split(","))
    assert all(line["value"] > 0 for line in lines)
    written = (tmp_path / "table.md").read_text()
    assert all(line["what"] in written for line in lines)
    assert written in told.stdout


@pytest.mark.parametrize(
    ("code", "limit", "status"),
    [
        ("print('fine')", 10, "ok"),
        ("raise SystemExit(3)", 10, "failed (3)"),
        ("import time; time.sleep(60)", 1, "not finished after 1 s"),
    ],
)
def test_what_became_of_a_step_is_told(tmp_path: Path, code: str, limit: int, status: str) -> None:
    runner = Runner(
        log=tmp_path / "log", arguments=(), env=environment("emulated", tmp_path / "none")
    )
    first = 'print(\'{"what": "speed", "value": 2}\\n{"skipped": "more", "why": "no device"}\', '
    outcome = runner.run("one", Step(("-c", f"{first}flush=True)\n{code}"), limit), left=60)
    assert outcome.status == status
    assert outcome.figures == (Figure(what="speed", value=2),)
    assert outcome.skipped == ("more: no device",)


@pytest.mark.parametrize("error", [AssertionError("they differ"), Retry("they differ")])
def test_what_fails_is_told_and_the_next_is_measured(
    capsys: pytest.CaptureFixture[str], error: AssertionError | VisionmeshError
) -> None:
    with measuring("one"):
        raise error
    with measuring("two"):
        Figure(what="speed", value=2).tell()
    outcome = Outcome.of("both", "ok", 1.0, capsys.readouterr().out)
    assert outcome.figures == (Figure(what="speed", value=2),)
    assert outcome.skipped == (f"one: {type(error).__name__}: {error}",)


def test_a_step_has_no_more_than_the_time_that_is_left(tmp_path: Path) -> None:
    runner = Runner(
        log=tmp_path / "log", arguments=(), env=environment("emulated", tmp_path / "none")
    )
    sleeping = Step(("-c", "import time; time.sleep(60)"), 100)
    assert runner.run("one", sleeping, left=1).status == "not finished after 1 s"
    assert runner.run("two", sleeping, left=0).status == "not begun, as 0 s were left"


def test_the_table_says_what_was_wanted_and_marks_what_was_missed() -> None:
    figures = [
        Figure(what="fast", value=0.72, at_least=0.6, floor="12 µs", note="8 pictures"),
        Figure(what="slow", value=0.31, unit="ms", at_most=0.2),
        Figure(what="large", value=1234.5, unit="GB/s"),
    ]
    assert table(figures).splitlines()[2:] == [
        "| fast | ≥ 0.6 | 0.72 | 12 µs; 8 pictures |",
        "| slow | ≤ 0.2 | **0.31 ms** |  |",
        "| large |  | 1,234 GB/s |  |",
    ]
