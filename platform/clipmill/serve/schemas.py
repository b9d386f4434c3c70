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
            "part": {"left": 0.0, "top": 0.0, "right": 1.0, "bottom": 1.0},
            **LOOKED_AT,
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


class Answer(BaseModel):
    """What is in every answer; a model adds what its kind tells, such as `classes`."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"example": CLASSES})

    model: str
    version: str | None
    spans: list[dict[str, float]] = Field(description="what the model looked at")
    input: dict[str, float] = Field(description="what was found in the file")


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
