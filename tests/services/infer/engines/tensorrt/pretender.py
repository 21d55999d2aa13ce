"""A process in place of the builder, which does what the file with the weights says."""

from __future__ import annotations

import os
import signal
import sys

from services.infer.engines.tensorrt.job import Built, Failed, Job, Progress


def tell(message: Progress | Failed | Built) -> None:
    print(message.model_dump_json(), flush=True)  # noqa: T201 - its output is the channel


def main() -> None:
    job = Job.model_validate_json(sys.stdin.buffer.read())
    what = job.weights.read_text()
    for percent in range(0, 50, 5):
        tell(Progress(share=percent / 100, phase="Timing tactics"))
    if what in ("builds", "builds and crashes"):
        job.plan.write_text(f"a plan for {job.sizes}")
        tell(Built(nbytes=3 << 20, seconds=1.5))
        if what != "builds":
            os.kill(os.getpid(), signal.SIGSEGV)
    elif what == "fails":
        tell(Failed(reason="node 'conv_7' (Conv): no such thing"))
    elif what == "lacks memory":
        tell(Failed(reason="it wants 9 GiB", memory=True))
    elif what == "raises":
        raise RuntimeError("a bug")
    elif what == "waits":
        job.plan.with_name("pid").write_text(str(os.getpid()))
        job.plan.with_name("waits").touch()
        signal.pause()
    else:
        os.kill(os.getpid(), signal.Signals[what])


main()
