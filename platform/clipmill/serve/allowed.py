"""What a server takes: how large, how long, how many at once, how slowly. Knows no requests."""

from dataclasses import dataclass, field

from clipmill import cores, jail
from clipmill.viewing import Bounds

CORES = cores.usable()
WAITING = 16  # for each decoder
# A decoder writes no files, and answers with frames and what they are.
CELL = jail.Limits(
    memory_bytes=1 << 30,
    file_bytes=16 << 20,
    answer_bytes=Bounds.decoded_bytes + jail.MAX_PLAIN_BYTES,
)


@dataclass(frozen=True)
class Allowed:
    """The limits of a server; what is above them is refused, and told so."""

    max_bytes: int = 200 << 20  # of a video
    max_batch_bytes: int = 400 << 20  # of all videos of a batch
    batch_videos: int = 32
    pictures: int = 16
    decoders: int = CORES
    waiting: int = WAITING * CORES  # videos that are whole, beside one for each decoder
    ahead_bytes: int = 512 << 20  # decoded and not answered yet; above, no decode begins
    upload_bytes: int = 4 << 30  # of all that was sent and is not answered yet
    receiving: int = 256  # requests that are still on their way here
    idle_seconds: float = 20.0  # between two pieces of an upload
    grace_seconds: float = 20.0  # before its speed counts
    least_bytes_a_second: int = 16 << 10
    head_seconds: float = 20.0  # for the head of a request, or the rest of one that is answered
    unread_seconds: float = 20.0  # in which least_bytes_a_second of an answer must be read
    connections: int = 1024
    bounds: Bounds = field(default_factory=Bounds)
    cell: jail.Limits = CELL
