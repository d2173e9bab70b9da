"""The child process in which llama.cpp runs: `python -m backfill.engines.llamacpp.host SETTINGS`, settings as JSON.

It serves llama.cpp's own HTTP server on a free local port and says so in one line on stdout: {"url": …}, or
{"error": …} where the model cannot be loaded. stdin is the parent's hold on it: when that closes, for whatever
reason, the process ends. It always ends by `os._exit`, because llama.cpp crashes when the interpreter tears it down
while requests are computed.
"""

import os
import signal
import sys

import msgspec
import xllamacpp

from backfill.engines.host_process import ReadyLine, end_with_parent, take_key
from backfill.engines.llamacpp.messages import HostSettings, Ready

__all__ = ["main"]

_SPARE_HTTP_THREADS = 8


def main(arguments: list[str]) -> None:
    """Serve until the parent or a signal ends it; does not return."""
    settings = msgspec.json.decode(arguments[0], type=HostSettings)
    key = take_key()
    end_with_parent()
    line = ReadyLine()
    try:
        server = _serve(settings, key)
        ready = Ready(url=server.listening_address)
    except Exception as error:  # noqa: BLE001 - a foreign library: whatever it raises goes to the parent as words
        ready = Ready(error=str(error) or type(error).__name__)
    line.send(ready)
    if ready.error:
        os._exit(1)
    # llama.cpp's own threads do the work; this one only has to be there for signals.
    while True:
        signal.pause()


def _serve(settings: HostSettings, key: str) -> xllamacpp.Server:
    params = xllamacpp.CommonParams()
    params.model.path = settings.model
    # Without an alias answers would show the file's path.
    params.model_alias = {settings.alias}
    params.n_parallel = settings.slots
    # A connection holds a thread for as long as it is kept alive, and a call that was given up until it is computed;
    # the rest is for probes.
    params.n_threads_http = 2 * settings.slots + _SPARE_HTTP_THREADS
    params.n_ctx = settings.slots * settings.context_tokens
    threads = settings.threads or len(os.sched_getaffinity(0))
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    # All but /health needs it; the web page that llama.cpp has for people would not.
    params.api_keys = [key]
    params.ui = False
    params.endpoint_metrics = True
    params.verbosity = 1
    if settings.projector:
        params.mmproj.path = settings.projector
    params.port = 0
    if settings.embeddings:
        params.embedding = True
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
        # An input is embedded in one piece: what is longer than a physical batch is an error.
        params.n_batch = params.n_ubatch = settings.context_tokens
    return xllamacpp.Server(params)


if __name__ == "__main__":
    main(sys.argv[1:])
