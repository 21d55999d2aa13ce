"""`services.postprocess.decoders.yolov8` on a GPU."""

from __future__ import annotations

from services.postprocess.decoders.yolov8 import YoloV8
from services.postprocess.gpu.boxes import BoxReducer
from services.postprocess.gpu.workspace import Workspaces


def yolov8(workspaces: Workspaces, decoder: YoloV8) -> BoxReducer:
    return BoxReducer(workspaces=workspaces, decoder=decoder, objectness=False, frame=decoder.scale)
