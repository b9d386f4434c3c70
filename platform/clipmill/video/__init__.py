"""Reads and writes video: what is in a file, its frames and sound, and the profiles.

The only owner of the codec library. Frames go in and out as uint8 RGB arrays, sound as mono
float32; times are seconds since the first frame shown. Knows no shards, catalogs or models.
"""

from clipmill.video.audio import decode_audio
from clipmill.video.facts import VideoInfo, grid_frames, probe
from clipmill.video.index import PacketIndex, index_of, unpacked
from clipmill.video.indexed import decode_audio_indexed, decode_indexed
from clipmill.video.profile import PROFILES, Profile, Transcoded
from clipmill.video.read import decode_frames, scaled_size
from clipmill.video.record import transcode
from clipmill.video.source import Source
from clipmill.video.survey import Survey, survey
from clipmill.video.write import encode

__all__ = [
    "PROFILES",
    "PacketIndex",
    "Profile",
    "Source",
    "Survey",
    "Transcoded",
    "VideoInfo",
    "decode_audio",
    "decode_audio_indexed",
    "decode_frames",
    "decode_indexed",
    "encode",
    "grid_frames",
    "index_of",
    "probe",
    "scaled_size",
    "survey",
    "transcode",
    "unpacked",
]
