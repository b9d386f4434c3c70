"""Reads and writes video: what is in a file, its frames and sound, and the profiles.

The only owner of the codec library. Frames go in and out as uint8 RGB arrays, sound as mono
float32; times are seconds since the first frame shown. Knows no shards, catalogs or models.
"""

from clipmill.video.audio import decode_audio
from clipmill.video.facts import VideoInfo, grid_frames, probe
from clipmill.video.index import PacketIndex, index_of, unpacked
from clipmill.video.indexed import decode_indexed
from clipmill.video.kept_flow import FlowMember, flow_bytes, flow_fault, flow_member, flow_step
from clipmill.video.kept_masks import MASK_MEMBER, MaskMember, mask_fault, zipped_masks
from clipmill.video.mask_json import plane_of
from clipmill.video.mask_source import check_masks, is_mask_name, masks_of_record
from clipmill.video.masks import MOST_CLASSES, VOID, Masks, no_masks
from clipmill.video.motion import FLOW_STEPS_A_PIXEL, flow, motion_mask
from clipmill.video.profile import PROFILES, Profile, Transcoded
from clipmill.video.read import decode_frames
from clipmill.video.record import transcode
from clipmill.video.rgb import scaled_size
from clipmill.video.sound import decode_audio_indexed, has_sound, sound_of
from clipmill.video.source import Source
from clipmill.video.spectrum import log_mel
from clipmill.video.survey import CURVE_SECONDS, Survey, survey
from clipmill.video.write import encode

__all__ = [
    "CURVE_SECONDS",
    "FLOW_STEPS_A_PIXEL",
    "MASK_MEMBER",
    "MOST_CLASSES",
    "PROFILES",
    "VOID",
    "FlowMember",
    "MaskMember",
    "Masks",
    "PacketIndex",
    "Profile",
    "Source",
    "Survey",
    "Transcoded",
    "VideoInfo",
    "check_masks",
    "decode_audio",
    "decode_audio_indexed",
    "decode_frames",
    "decode_indexed",
    "encode",
    "flow",
    "flow_bytes",
    "flow_fault",
    "flow_member",
    "flow_step",
    "grid_frames",
    "has_sound",
    "index_of",
    "is_mask_name",
    "log_mel",
    "mask_fault",
    "masks_of_record",
    "motion_mask",
    "no_masks",
    "plane_of",
    "probe",
    "scaled_size",
    "sound_of",
    "survey",
    "transcode",
    "unpacked",
    "zipped_masks",
]
