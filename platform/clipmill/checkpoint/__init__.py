"""Checkpoints of a run: a snapshot in memory, written beside the loop, committed by a marker.

A folder counts only with its COMMITTED marker, which is written last. Weights and the optimizer's
state are safetensors, all else is JSON: nothing is pickled. A checkpoint is of the whole model,
however many workers held it. Knows neither Ray nor MLflow.
"""

from clipmill.checkpoint.image import gathered, is_in_parts, snapshot, weights_sha256, whole
from clipmill.checkpoint.keeper import Keeper, Saved, State, read_state
from clipmill.checkpoint.reading import read_weights, restore
from clipmill.folder import MARKER

__all__ = [
    "MARKER",
    "Keeper",
    "Saved",
    "State",
    "gathered",
    "is_in_parts",
    "read_state",
    "read_weights",
    "restore",
    "snapshot",
    "weights_sha256",
    "whole",
]
