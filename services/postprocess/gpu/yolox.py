"""`services.postprocess.decoders.yolox` on a GPU."""

from __future__ import annotations

import numpy as np

from services.postprocess.decoders.yolox import YoloX
from services.postprocess.gpu.boxes import BoxReducer
from services.postprocess.gpu.workspace import Workspaces


def yolox(workspaces: Workspaces, decoder: YoloX) -> BoxReducer:
    cells = np.concatenate((decoder.cells, decoder.strides), axis=1)
    return BoxReducer(workspaces=workspaces, decoder=decoder, objectness=True, frame=cells)
