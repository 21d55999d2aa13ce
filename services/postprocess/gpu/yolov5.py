"""`services.postprocess.decoders.yolov5` on a GPU."""

from __future__ import annotations

from services.postprocess.decoders.yolov5 import YoloV5
from services.postprocess.gpu.boxes import BoxReducer
from services.postprocess.gpu.workspace import Workspaces


def yolov5(workspaces: Workspaces, decoder: YoloV5) -> BoxReducer:
    return BoxReducer(workspaces=workspaces, decoder=decoder, objectness=True, frame=decoder.scale)
