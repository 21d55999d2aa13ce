"""Smaller and faster networks made of a version's, and what that costs in accuracy."""

from visionmesh.models.optimizing.calibration import Method
from visionmesh.models.optimizing.optimize import optimize, promote
from visionmesh.models.optimizing.report import MOST_LOST, Made, Original, Report

__all__ = ["MOST_LOST", "Made", "Method", "Original", "Report", "optimize", "promote"]
