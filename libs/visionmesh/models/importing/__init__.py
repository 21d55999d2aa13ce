"""Makes a model's folder of a trained network: ONNX, PyTorch or TensorFlow."""

from visionmesh.models.importing.importer import Imported, import_model
from visionmesh.models.importing.wishes import Fact, Origin, Wishes

__all__ = ["Fact", "Imported", "Origin", "Wishes", "import_model"]
