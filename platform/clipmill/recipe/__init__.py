"""The recipe: data, model, training and tracking as one frozen, typed value.

Comes from YAML and dotted overrides, goes as plain data through HTTP, to the cluster and into
the run. Knows which keys there are, not what they do.
"""

from clipmill.recipe.places import anchored_store
from clipmill.recipe.sections import Curriculum, Data, Dataset, Feed, Model, Run, Stop, Track, Train
from clipmill.recipe.whole import Recipe, parse, schema
from clipmill.recipe.written import find, load, place, read, shipped_folders

__all__ = [
    "Curriculum",
    "Data",
    "Dataset",
    "Feed",
    "Model",
    "Recipe",
    "Run",
    "Stop",
    "Track",
    "Train",
    "anchored_store",
    "find",
    "load",
    "parse",
    "place",
    "read",
    "schema",
    "shipped_folders",
]
