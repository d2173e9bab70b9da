"""Clips heard without Backfill, in a process of its own: `python -m bench.media.direct_hearing MODEL HOW FILE…`.

HOW is `2x1` for two workers of one thread: each worker takes the next clip until none is left, as a program would that
uses faster-whisper well. `PLAIN` is the library as its page shows it: one clip after the other, no number set. The
same beam, voice activity and language everywhere. It prints seconds, without the loading, and what was heard.
"""

import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor

__all__ = ["main"]

_PLAIN = "PLAIN"


def main(arguments: list[str]) -> None:
    """Load, hear one clip to warm up, hear all, and tell."""
    model_dir, how, *files = arguments
    os.environ["HF_HUB_OFFLINE"] = "1"
    workers, threads = (1, 0) if how == _PLAIN else map(int, how.split("x"))
    if how != _PLAIN:
        os.environ["OPENBLAS_NUM_THREADS"] = "1"
    from faster_whisper import WhisperModel  # noqa: PLC0415 - the variables count when it is loaded

    model = WhisperModel(model_dir, device="cpu", compute_type="int8", cpu_threads=threads, num_workers=workers)

    def hear(file: str) -> str:
        segments, _ = model.transcribe(file, language="en", vad_filter=True, condition_on_previous_text=False)
        return "".join(segment.text for segment in segments)

    hear(files[0])
    started = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        texts = list(pool.map(hear, files))
    print(json.dumps({"seconds": time.perf_counter() - started, "texts": texts}))


if __name__ == "__main__":
    main(sys.argv[1:])
