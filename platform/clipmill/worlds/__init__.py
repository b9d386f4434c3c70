"""Controlled video sets: in each, one ability decides, and nothing else can.

Content is real handwriting on moving ground; everything comes from a seed. Knows only how to
write videos, nothing of shards or models.
"""

from clipmill.worlds.digits import Handwriting, handwriting
from clipmill.worlds.folder import make
from clipmill.worlds.kinds import WORLDS
from clipmill.worlds.scene import DIFFICULTIES, Difficulty, Scene, World

__all__ = [
    "DIFFICULTIES",
    "WORLDS",
    "Difficulty",
    "Handwriting",
    "Scene",
    "World",
    "handwriting",
    "make",
]
