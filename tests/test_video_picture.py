"""Single pictures from files that lie about their size."""

import subprocess
import sys
from pathlib import Path

from hostile import bitmap

# In a process of its own: OpenCV learns of the bound when it is loaded, which other tests do first.
READS = """
import resource, sys
from clipmill.errors import VideoError
from clipmill.video.picture import pixels
print(pixels(open(sys.argv[1], "rb").read()).shape)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    pixels(open(sys.argv[2], "rb").read())
except VideoError as error:
    print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_picture_beyond_all_bounds_is_refused_before_it_takes_memory(tmp_path: Path) -> None:
    files = [tmp_path / "small.png", tmp_path / "large.png"]
    for file, side in zip(files, (512, 8_200), strict=True):
        file.write_bytes(bitmap(side))
    ended = subprocess.run(
        [sys.executable, "-c", READS, *files], capture_output=True, text=True, check=True
    )
    shape, *told, kib_more = ended.stdout.splitlines()
    assert shape == "(512, 512, 3)"
    assert "of at most 67108864 pixels" in " ".join(told)
    assert int(kib_more) < 20_000, "a picture of 8,200 x 8,200 in RGB takes 197,000"
