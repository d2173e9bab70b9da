"""A voice: eSpeak NG out of a package, for clips of known speech."""

import ctypes
import functools
import wave
from pathlib import Path

import av
import espeakng_loader
import numpy as np
from numpy.typing import NDArray

__all__ = ["Samples", "say", "write_ogg", "write_wave"]

_RETRIEVAL, _UTF8 = 1, 1
_WORDS_PER_MINUTE = 1
_OPUS_HZ, _OPUS_BITS_PER_S = 16_000, 32_000
Samples = NDArray[np.int16]
_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class _Voice:
    """eSpeak's library keeps its state in globals: there is one of it."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        data = espeakng_loader.get_data_path().encode()
        self.rate_hz: int = self._library.espeak_Initialize(_RETRIEVAL, 0, data, 0)
        self._parts: list[Samples] = []
        # It is called for as long as the library lives.
        self._callback = _Callback(self._take)
        self._library.espeak_SetSynthCallback(self._callback)

    def say(self, text: str, language: str, words_per_minute: int) -> Samples:
        self._parts.clear()
        self._library.espeak_SetVoiceByName(language.encode())
        self._library.espeak_SetParameter(_WORDS_PER_MINUTE, words_per_minute, 0)
        spoken = text.encode()
        self._library.espeak_Synth(spoken, ctypes.c_size_t(len(spoken) + 1), 0, 0, 0, _UTF8, None, None)
        self._library.espeak_Synchronize()
        return np.concatenate(self._parts)

    def _take(self, samples: "ctypes._Pointer[ctypes.c_short]", count: int, _events: object) -> int:
        # At the end it comes with no samples.
        if count > 0:
            self._parts.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0


_open_voice = functools.cache(_Voice)


def say(text: str, language: str = "en-us", words_per_minute: int = 150) -> tuple[Samples, int]:
    """Samples of one channel, and how many of them are a second."""
    voice = _open_voice()
    return voice.say(text, language, words_per_minute), voice.rate_hz


def write_wave(path: Path, samples: Samples, rate_hz: int) -> Path:
    """The samples as a file."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(samples.tobytes())
    return path


def write_ogg(path: Path, samples: Samples, rate_hz: int) -> Path:
    """The samples as a file of a tenth of the size, as voice messages are."""
    with av.open(path, "w", format="ogg") as container:
        stream = container.add_stream("libopus", rate=_OPUS_HZ, layout="mono")
        assert isinstance(stream, av.AudioStream)
        stream.bit_rate = _OPUS_BITS_PER_S
        resampler = av.AudioResampler(format=stream.format, layout="mono", rate=_OPUS_HZ)
        whole = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16", layout="mono")
        whole.sample_rate = rate_hz
        for frame in (*resampler.resample(whole), *resampler.resample(None)):
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
