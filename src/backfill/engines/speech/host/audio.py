"""A file of audio, decoded and cut into pieces while it is read: memory holds a piece, however long the file is."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

import av
import numpy as np
from numpy.typing import NDArray

from backfill.engines.host_refusal import Refusal

__all__ = ["RATE_HZ", "Piece", "Samples", "cut_audio"]

Samples = NDArray[np.float32]
"""One channel at `RATE_HZ`, from -1 to 1."""

RATE_HZ: Final = 16_000
_PIECE_S: Final = 120.0
# A piece ends where it is quietest in its last seconds, so that no word is cut in two.
_LOOK_S: Final = 10.0
_QUIET_S: Final = 0.2
# Of FFmpeg's readers those of files that hold their own sound. Others open what a file names, such as playlists.
_FORMATS: Final = (
    "aac,ac3,aiff,amr,asf,au,avi,caf,eac3,flac,flv,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,mp3,mpeg,mpegts,ogg,w64,wav"
)
_NOT_AUDIO: Final = (
    "The file is no audio that can be read: wav, mp3, flac, ogg, webm, m4a, mp4, aac and other usual formats are."
)


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a file."""

    start_s: float
    samples: Samples

    @property
    def length_s(self) -> float:
        """How long it is."""
        return len(self.samples) / RATE_HZ


def cut_audio(source: BinaryIO, length_max_s: float) -> Iterator[Piece]:
    """The file's first track of sound in pieces of two minutes at most, one after the other and without gaps.

    Raises:
        Refusal: it is no audio, holds no sound, or is longer than `length_max_s`.

    """
    cutter = _Cutter()
    total = 0
    for samples in _decode(source):
        total += len(samples)
        if total > length_max_s * RATE_HZ:
            message = f"The audio is longer than {length_max_s:g} s, the most that is taken (media.audio_length_s)."
            raise Refusal(message, "file")
        if piece := cutter.add(samples):
            yield piece
    if not total:
        raise Refusal("The file holds no sound.", "file")
    if piece := cutter.close():
        yield piece


class _Cutter:
    """Holds samples until they are a piece."""

    def __init__(self) -> None:
        self._held: list[NDArray[np.int16]] = []
        self._size = 0
        self._start = 0

    def add(self, samples: NDArray[np.int16]) -> Piece | None:
        self._held.append(samples)
        self._size += len(samples)
        return self._take() if self._size >= _PIECE_S * RATE_HZ else None

    def close(self) -> Piece | None:
        """What is left, if anything is."""
        return self._make(np.concatenate(self._held)) if self._size else None

    def _take(self) -> Piece:
        held = np.concatenate(self._held)
        cut = _find_quiet(held)
        piece = self._make(held[:cut])
        self._held, self._size, self._start = [held[cut:]], len(held) - cut, self._start + cut
        return piece

    def _make(self, samples: NDArray[np.int16]) -> Piece:
        return Piece(self._start / RATE_HZ, samples.astype(np.float32) / np.float32(32_768))


def _find_quiet(samples: NDArray[np.int16]) -> int:
    """The middle of the quietest stretch near the end."""
    width = int(_QUIET_S * RATE_HZ)
    count = int(_LOOK_S * RATE_HZ) // width
    end = int(_PIECE_S * RATE_HZ)
    tail = samples[end - count * width : end].astype(np.float32).reshape(count, width)
    return end - (count - int((tail**2).mean(axis=1).argmin())) * width + width // 2


def _decode(source: BinaryIO) -> Iterator[NDArray[np.int16]]:
    try:
        with av.open(source, metadata_errors="ignore", options={"format_whitelist": _FORMATS}) as container:
            if not container.streams.audio:
                raise Refusal(_NOT_AUDIO, "file")
            resampler = _Resampler()
            for frame in _read_frames(container, container.streams.audio[0]):
                yield from resampler.take(frame)
            yield from resampler.flush()
    except (av.FFmpegError, ValueError, IndexError, OSError):
        # What FFmpeg says of a file is nothing that its owner could act upon.
        raise Refusal(_NOT_AUDIO, "file") from None


def _read_frames(container: Any, stream: Any) -> Iterator[Any]:
    """Frame by frame; what is damaged is passed over, unless most of it is."""
    good = bad = 0
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.FFmpegError:
            bad += 1
            continue
        good += 1
        yield from frames
    if bad > good:
        raise Refusal("The file is damaged: most of its sound cannot be decoded.", "file")


class _Resampler:
    """Makes one channel at `RATE_HZ` of frames, whose form may change in the middle of a file."""

    def __init__(self) -> None:
        self._form: tuple[str, str, int] | None = None
        self._resampler: Any = None

    def take(self, frame: Any) -> Iterator[NDArray[np.int16]]:
        form = (frame.format.name, frame.layout.name, frame.sample_rate)
        if form != self._form:
            yield from self.flush()
            self._form, self._resampler = form, av.AudioResampler(format="s16", layout="mono", rate=RATE_HZ)
        # Where a file has holes in its times, FFmpeg would complain; its sound counts as it comes.
        frame.pts = None
        yield from self._resample(frame)

    def flush(self) -> Iterator[NDArray[np.int16]]:
        if self._resampler is not None:
            yield from self._resample(None)

    def _resample(self, frame: Any) -> Iterator[NDArray[np.int16]]:
        for made in self._resampler.resample(frame):
            yield made.to_ndarray().reshape(-1)
