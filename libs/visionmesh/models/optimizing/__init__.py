"""Smaller and faster networks made of a version's, and what that costs in accuracy."""

from visionmesh.models.optimizing.calibration import Method
from visionmesh.models.optimizing.optimize import optimize
from visionmesh.models.optimizing.report import Made, Original, Report

__all__ = ["Made", "Method", "Original", "Report", "optimize"]
