"""The worlds by name: each lets one ability decide, and says which."""

from collections.abc import Mapping
from types import MappingProxyType

from clipmill.worlds.events import LONG_FRAMES, render_long_gap, render_order
from clipmill.worlds.glyphs import (
    CHANGES,
    DIRECTIONS,
    SWITCH_FRAMES,
    render_appearance,
    render_direction,
    render_switch,
)
from clipmill.worlds.identities import IDENTITY_VIDEOS, render_identities
from clipmill.worlds.objects import MASK_CLASSES, render_objects
from clipmill.worlds.scene import World
from clipmill.worlds.sounding import MATCHES, render_av_joint, render_unlabelled

_ALL = (
    World(
        "appearance",
        "which digit is shown: one frame is enough",
        tuple(str(digit) for digit in range(10)),
        ("digit", "handwriting"),
        render_appearance,
    ),
    World(
        "direction",
        "which of 8 ways a glyph moves: no single frame tells",
        DIRECTIONS,
        ("digit", "handwriting", "speed"),
        render_direction,
    ),
    World(
        "order",
        "which of two events came first: the same frames, in another order",
        ("swell-first", "slide-first"),
        ("swell_digit", "swell_handwriting", "slide_digit", "slide_handwriting"),
        render_order,
    ),
    World(
        "long-gap",
        "whether the event comes that a cue announced, longer ago than a clip lasts",
        ("announced", "other"),
        (
            "cue", "event", "event_frame",
            "cue_digit", "cue_handwriting", "event_digit", "event_handwriting",
        ),
        render_long_gap,
        frames=LONG_FRAMES,
    ),
    World(
        "switch",
        "whether a glyph grows, shrinks or stays, frame by frame: it changes its mind",
        CHANGES,
        ("digit", "handwriting", "spans"),
        render_switch,
        frames=SWITCH_FRAMES,
        a_label_a_frame=True,
    ),
    World(
        "av-joint",
        "whether the digit that is seen is the one whose tone is heard",
        MATCHES,
        ("digit", "handwriting", "tone"),
        render_av_joint,
    ),
    World(
        "unlabelled",
        "mixed motion with sound tied to it: nothing to tell, much to learn",
        (),
        ("digit", "handwriting", "motion", "glyphs", "camera"),
        render_unlabelled,
        format=3,
    ),
    World(
        "objects",
        "which digit, and which of several, each pixel shows: they move past each other",
        (),
        ("glyphs", "digits", "camera"),
        render_objects,
        mask_classes=MASK_CLASSES,
    ),
    World(
        "identities",
        "whose handwriting sample it is, however it is seen: test has others than training",
        tuple(str(digit) for digit in range(10)),
        ("identity", "digit"),
        render_identities,
        identity_videos=IDENTITY_VIDEOS,
    ),
)  # fmt: skip

WORLDS: Mapping[str, World] = MappingProxyType({world.name: world for world in _ALL})
