"""Bare decoders of pictures, kept by each thread for the next clip of the same kind.

A kept decoder has its memory and tables already. Knows no packets; who borrows one says whether
it met damage.
"""

import threading
from typing import TypeAlias

import av
from av.video.codeccontext import VideoCodecContext

from clipmill.video.index import PacketIndex

Kind: TypeAlias = tuple[str, bytes, str, int, int]

MOST_KEPT = 4  # a thread; each holds some ten pictures


class _Kept(threading.local):
    def __init__(self) -> None:
        self.decoders: dict[Kind, VideoCodecContext] = {}


_kept = _Kept()


def kept_decoder(index: PacketIndex) -> VideoCodecContext | None:
    """Take this thread's decoder for such packets out of the store, if there is one."""
    return _kept.decoders.pop(_kind(index), None)


def keep_decoder(index: PacketIndex, decoder: VideoCodecContext) -> None:
    """Put an undamaged, flushed decoder by for the next clip, in place of the one longest unused."""
    while len(_kept.decoders) >= MOST_KEPT:
        del _kept.decoders[next(iter(_kept.decoders))]
    _kept.decoders[_kind(index)] = decoder


def new_decoder(index: PacketIndex) -> VideoCodecContext:
    """Make a decoder for the packets of an index; one thread, since clips are decoded side by side."""
    decoder = av.CodecContext.create(index.codec, "r")
    assert isinstance(decoder, VideoCodecContext)
    if index.parameters:
        decoder.extradata = index.parameters
    if index.pixels:
        decoder.width, decoder.height, decoder.pix_fmt = index.width, index.height, index.pixels
    decoder.thread_count = 1
    return decoder


def _kind(index: PacketIndex) -> Kind:
    return index.codec, index.parameters, index.pixels, index.height, index.width
