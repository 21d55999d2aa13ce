"""Publishing what comes by itself: the frames of a video, the images put into a folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import typer

from visionmesh.cli.console import aside, failed, print_json, screen
from visionmesh.cli.sending import HOPELESS, Pace, Wishes
from visionmesh.client import Mesh
from visionmesh.errors import Refused
from visionmesh.sources.folder import Folder
from visionmesh.sources.names import is_video, without_password

_PATIENCE = timedelta(days=365)
"""With a mesh that is full or away: images in a folder can wait."""

Told = Callable[[str, str | None, str], None]
"""Hears the image's name, its event's id if it is published, and how far it is."""


@dataclass(frozen=True, kw_only=True)
class Feed:
    """One video or one folder, and how it is to be read."""

    video: str | None = None
    fps: float | None = None
    skip_similar: bool = False
    folder: Path | None = None
    move_to: Path | None = None

    @classmethod
    def of(
        cls,
        named: Sequence[str],
        *,
        rate: float | None,
        fps: float | None,
        skip_similar: bool,
        watch: bool,
        move_to: Path | None,
    ) -> Feed | None:
        """Return what was ``named``, or `None` if that is images."""
        videos = [name for name in named if is_video(name)]
        if not videos and (fps is not None or skip_similar):
            raise typer.BadParameter("--fps and --skip-similar are for a video")
        if move_to is not None and not watch:
            raise typer.BadParameter("--move-to is for --watch")
        if videos and (watch or len(named) > 1 or rate is not None):
            raise typer.BadParameter("name a video alone, without --watch; its pace is --fps")
        if videos:
            return cls(video=videos[0], fps=fps, skip_similar=skip_similar)
        if not watch:
            return None
        if len(named) > 1 or not Path(named[0]).is_dir():
            raise typer.BadParameter("--watch is for one folder")
        return cls(folder=Path(named[0]), move_to=move_to)

    async def run(self, mesh: Mesh, wishes: Wishes, *, rate: float | None, json: bool) -> int:
        """Publish until it ends, or Ctrl-C comes; return how many images were refused."""
        console, far = aside(), ""
        status = console.status("waiting for images")
        if console.is_terminal:
            status.start()

        def told(name: str, id: str | None, text: str) -> None:
            nonlocal far
            far = text
            status.update(text)
            if json and id is not None:
                print_json({"file": name, "id": id})

        try:
            if self.folder is not None:
                return await self._watch(mesh, wishes, Pace(rate), told)
            await self._film(mesh, wishes, told)
            return 0
        finally:
            status.stop()
            if far and not json:
                screen().print(far)

    async def _film(self, mesh: Mesh, wishes: Wishes, told: Told) -> None:
        # Read when OpenCV is loaded. What FFmpeg says of a stream that is away is said here.
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
        os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
        from visionmesh.sources.pump import Pump, Tally
        from visionmesh.sources.similar import Scene
        from visionmesh.sources.video import Video

        assert self.video is not None
        shown = without_password(self.video)

        def tell(tally: Tally, id: str | None) -> None:
            left = f", {tally.similar} showed nothing new" if self.skip_similar else ""
            told(shown, id, f"{tally.published} frames published{left}, {tally.dropped} dropped.")

        pump = Pump(mesh=mesh, scene=Scene() if self.skip_similar else None, **wishes)
        await pump.run(Video(self.video, fps=self.fps, told=failed), each=tell)

    async def _watch(self, mesh: Mesh, wishes: Wishes, pace: Pace, told: Told) -> int:
        assert self.folder is not None
        folder = Folder(self.folder, move_to=self.move_to)
        published = refused = 0
        async with aclosing(folder.arrivals()) as arrivals:
            async for arrival in arrivals:
                await pace.wait()
                try:
                    await mesh.publish(
                        image=arrival.path, id=arrival.id, retry_for=_PATIENCE, **wishes
                    )
                except FileNotFoundError:  # somebody took it away
                    continue
                except Refused as error:
                    if error.code in HOPELESS:
                        raise
                    failed(f"{arrival.path}: {error.message}", error.code)
                    refused += 1
                    continue
                published += 1
                await folder.done(arrival)
                told(str(arrival.path), arrival.id, f"{published} images published.")
        return refused
