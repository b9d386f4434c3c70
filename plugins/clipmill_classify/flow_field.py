"""Where flow comes from: found in the feed by Dense Inverse Search, or on the device by RAFT.

The fields of the plugins that see motion, and what follows from them for the view. Free of torch.
"""

from typing import Annotated, Literal

from pydantic import Field

from clipmill.plugin import Place, View

FlowWay = Annotated[
    Literal["dis", "raft"],
    Field(
        description="how flow is found: dis in the feed (or at ingest), raft on the device, frozen"
    ),
]
RaftSize = Annotated[
    Literal["small", "large"], Field(description="which RAFT of torchvision, with flow=raft")
]
RaftWeights = Annotated[
    Place | None, Field(description="file of RAFT's weights, with flow=raft; nothing is fetched")
]


def with_flow(view: View, way: FlowWay) -> View:
    """The view of one who needs flow: its frames, from which a device finds it, or itself."""
    wanted = dict.fromkeys([*view.streams, "rgb" if way == "raft" else "flow"])
    return view.model_copy(update={"streams": tuple(wanted)})
