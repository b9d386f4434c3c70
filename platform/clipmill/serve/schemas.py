"""What is asked and answered, as OpenAPI tells it, with examples. Knows no work."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from clipmill.serve.upload import FRAMES, VIDEO

LOOKED_AT: dict[str, Any] = {
    "spans": [{"start_seconds": 0.0, "end_seconds": 3.2}],
    "input": {"frames": 96, "fps": 30.0, "duration_seconds": 3.2, "width": 64, "height": 64},
    "model": "demo",
    "version": "3",
}
CLASSES: dict[str, Any] = {
    "label": "left",
    "classes": [{"name": "left", "probability": 0.98}, {"name": "right", "probability": 0.02}],
    **LOOKED_AT,
}
STRETCH = {"label": "left", "start_seconds": 0.0, "end_seconds": 1.6, "probability": 0.9}
MASK = {"label": "disc", "share": 0.25, "size": [2, 2], "counts": [1, 1, 2]}
WHOLE = {"left": 0.0, "top": 0.0, "right": 1.0, "bottom": 1.0}
THING: dict[str, Any] = {
    "at": 0,
    "frame": 48,
    "frame_seconds": 1.6,
    "class": 1,
    "label": "disc",
    "score": 0.93,
    "id": 1,
    "box": [0.25, 0.5, 0.75, 1.0],
    "mask": {"size": [4, 4], "counts": "62202"},
}
MATCH = {
    "identity": "anna",
    "recognised": True,
    "distance": 0.21,
    "threshold": 0.4,
    "nearest": [{"identity": "anna", "distance": 0.21}],
}
EXAMPLES: dict[str, dict[str, Any]] = {
    "classes": {"summary": "One class a video", "value": CLASSES},
    "several": {
        "summary": "Several classes a video",
        "value": {
            "classes": CLASSES["classes"],
            "labels": ["left"],
            "threshold": 0.5,
            **LOOKED_AT,
        },
    },
    "timeline": {
        "summary": "A class for each moment",
        "value": {"timeline": [STRETCH], **LOOKED_AT},
    },
    "masks": {
        "summary": "A class for each pixel of a frame",
        "value": {
            "masks": [MASK],
            "frame": 48,
            "frame_seconds": 1.6,
            "part": WHOLE,
            **LOOKED_AT,
        },
    },
    "things": {
        "summary": "What is there, one by one, with a number that it keeps",
        "value": {
            "frames": [48],
            "things": [THING],
            "threshold": 0.5,
            "part": WHOLE,
            **LOOKED_AT,
            "spans": [{"start_seconds": 1.6, "end_seconds": 1.6333}],
        },
    },
    "match": {
        "summary": "Whom a video shows, by a gallery",
        "value": {"embedding": [0.6, -0.8], "match": MATCH, **LOOKED_AT},
    },
}


def _files(what: str) -> dict[str, Any]:
    return {"type": "string", "format": "binary", "description": what}


FORM: dict[str, Any] = {
    "type": "object",
    "description": f"one file in `{VIDEO}`, or pictures in `{FRAMES}` for models of single frames",
    "properties": {
        VIDEO: _files("a video file, whatever its container"),
        FRAMES: {
            "type": "array",
            "items": _files("a picture; all of one size"),
            "description": "the frames of a video that is told by pictures",
        },
    },
    "oneOf": [{"required": [VIDEO]}, {"required": [FRAMES]}],
    "additionalProperties": False,
}
BATCH_FORM: dict[str, Any] = {
    "type": "object",
    "required": [VIDEO],
    "properties": {VIDEO: {"type": "array", "items": _files("a video"), "minItems": 1}},
    "additionalProperties": False,
}


class Card(BaseModel):
    """What a client may know of a model."""

    name: str
    version: str | None
    state: str = Field(description="ready, or what is the matter")
    fault: str = Field("", description="why it, or its next version, could not be loaded")
    plugin: str = ""
    family: str = ""
    classes: list[str] = []
    takes_pictures: bool = Field(False, description="whether pictures can be sent, too")
    protocol: dict[str, Any] = Field(
        default_factory=dict, description="clips, frames, rate and size that it looks at"
    )
    figures: dict[str, Any] = Field(
        default_factory=dict, description="what it reached, as it was measured"
    )
    lineage: dict[str, Any] = Field(default_factory=dict, description="what it came of")
    predict: str = Field(description="where to post a video")


class Models(BaseModel):
    """All models, and what of a video they take."""

    models: list[Card]
    max_bytes: int
    max_seconds: float
    batch_videos: int


class Part(BaseModel):
    """What of the picture a model saw, in shares of its sides."""

    left: float
    top: float
    right: float
    bottom: float


class Runs(BaseModel):
    """A mask as COCO packs it, for pycocotools: run lengths down the columns."""

    size: tuple[int, int] = Field(description="height and width")
    counts: str


class Thing(BaseModel):
    """One thing in one frame."""

    at: int = Field(ge=0, description="which of `frames`, and of `spans`, it is seen in")
    frame: int = Field(ge=0, description="as the model counts frames, at its own rate")
    frame_seconds: float
    number: int = Field(alias="class", ge=1, description="number of its class")
    label: str = Field(description="name of its class")
    score: float = Field(ge=0, le=1)
    id: int = Field(
        ge=0, description="the same for the same thing in all frames; 0 below `threshold`"
    )
    box: tuple[float, float, float, float] = Field(
        description="left, top, right and bottom, in shares of the `part`"
    )
    mask: Runs = Field(description="its pixels of the `part`")


class Answer(BaseModel):
    """What is in every answer; a model adds what its kind tells, such as `classes`."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"example": CLASSES})

    model: str
    version: str | None
    spans: list[dict[str, float]] = Field(description="what the model looked at")
    input: dict[str, float] = Field(description="what was found in the file")
    part: Part | None = Field(None, description="where `masks`, `things` and `heat` lie")
    things: list[Thing] | None = Field(
        None, description="what is there, the surest of a frame first"
    )


class Several(BaseModel):
    """The answers to several videos, each an `Answer` or its problem, in the order sent."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "answers": [
                    {"file": "one.mp4", **CLASSES},
                    {
                        "file": "two.mp4",
                        "problem": {
                            "type": "about:blank",
                            "title": "Bad Request",
                            "status": 400,
                            "detail": "a video of 12 bytes: Invalid data; wanted a whole video file",
                        },
                    },
                ]
            }
        }
    )

    answers: list[dict[str, Any]]


class Health(BaseModel):
    """Whether the server lives."""

    status: str = Field(examples=["alive"])


class Readiness(BaseModel):
    """Whether there are models to answer."""

    status: str = Field(
        description="ready, degraded where some models failed, not ready where all did",
        examples=["ready"],
    )
    models: dict[str, str] = Field(examples=[{"demo": "ready"}])
