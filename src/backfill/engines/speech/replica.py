"""The engine for clips: Whisper in a child process that has OpenAI's two audio routes."""

import os
import sys
from pathlib import Path
from typing import Final

import msgspec

from backfill.batch import AUDIO_ENDPOINTS
from backfill.config import MediaConfig, SpeechEngineConfig
from backfill.engines.child.replica import ChildReplica
from backfill.engines.child.server import ChildServer, Launch, ensure_model_file
from backfill.engines.client import EngineClient
from backfill.engines.forwarding import ForwardedAnswer, answer_reply
from backfill.engines.interpret import refuse
from backfill.engines.models.catalogue import name_alias
from backfill.engines.models.whisper import MODEL_FILE_NAME, is_installed
from backfill.engines.replica import CacheHabit, OnFirstToken, ReplicaLimits
from backfill.engines.reply import Answered, Reply
from backfill.engines.speech.messages import HostSettings, Ready
from backfill.errors import EngineUnavailable
from backfill.media_file import MediaFile

__all__ = ["SpeechReplica"]

# Each worker has one core. Were what multiplies matrices beside it to use them all, they would wait for each other.
# One heap for all threads, or each keeps for itself what its largest batch needed.
_ENVIRONMENT: Final = {
    "HF_HUB_OFFLINE": "1",
    "MALLOC_ARENA_MAX": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
_object = msgspec.json.Decoder(dict[str, msgspec.Raw])


class SpeechReplica(ChildReplica):
    """One child process with one model."""

    cache_habit = CacheHabit.NONE

    def __init__(
        self,
        name: str,
        config: SpeechEngineConfig,
        client: EngineClient,
        *,
        media: MediaConfig,
        models_dir: Path,
        log_dir: Path,
    ) -> None:
        self.name = name
        self._workers = config.workers or len(os.sched_getaffinity(0))
        concurrency = config.concurrency or self._workers * config.batch_size
        self.limits = ReplicaLimits(
            concurrency=concurrency,
            endpoints=config.narrow(frozenset(AUDIO_ENDPOINTS)),
            first_concurrency=concurrency,
            exclusive=config.exclusive,
        )
        self._config = config
        self._media = media
        self._models_dir = models_dir
        self._work_dir = log_dir
        self._alias = name_alias(config.model)
        super().__init__(
            ChildServer(
                *(name, client, log_dir / f"{name}.log", self._prepare),
                kind=config.kind,
                model=self._alias,
                workers=self._workers,
            )
        )

    async def send(
        self,
        endpoint: str,
        body: bytes,
        on_first_token: OnFirstToken | None = None,  # noqa: ARG002 - a transcript comes whole
        attachment: MediaFile | None = None,
    ) -> Reply:
        """Send one request and wait for its reply, which says in `model` which model it was that answered."""
        if endpoint not in self.limits.endpoints:
            return refuse(f"Engine {self.name!r} does not serve {endpoint}.", 404)
        if attachment is None:
            return refuse("'file' is missing: the engine hears clips.", param="file")
        reply = await self._server.send(endpoint, body, attachment=attachment)
        return self._name_model(reply) if isinstance(reply, Answered) else reply

    async def forward(self, endpoint: str, body: bytes) -> ForwardedAnswer:  # noqa: ARG002 - whatever it holds
        """Refuse: a request that is answered at once has no clip."""
        if endpoint not in self.limits.endpoints:
            return answer_reply(refuse(f"Engine {self.name!r} does not serve {endpoint}.", 404))
        return answer_reply(refuse("Clips are heard in batches only."))

    def _name_model(self, reply: Answered) -> Answered:
        """The answer with the model in it: text, srt and vtt have no place for it until they stand in an object."""
        members = _object.decode(reply.body)
        if "model" in members:
            return reply
        members["model"] = msgspec.Raw(msgspec.json.encode(self._alias))
        return msgspec.structs.replace(reply, body=msgspec.json.encode(members))

    async def _prepare(self) -> Launch:
        if not is_installed():
            message = f'Engine {self.name!r} needs an extra that is not installed: pip install "backfill[audio]".'
            raise EngineUnavailable(message)
        model = await ensure_model_file(self.name, self._config.model, self._models_dir)
        if not (model / MODEL_FILE_NAME).is_file():
            message = f"Engine {self.name!r} hears speech with a folder in CTranslate2's format; {model} is none."
            raise EngineUnavailable(message)
        settings = HostSettings(
            model=str(model),
            alias=self._alias,
            workers=self._workers,
            concurrency=self.limits.concurrency,
            batch_size=self._config.batch_size,
            beam_size=self._config.beam_size,
            compute_type=self._config.compute_type,
            work_dir=str(self._work_dir),
            file_size_max_bytes=self._media.audio_size_bytes,
            length_max_s=self._media.audio_length_s,
        )
        # -P: what lies in the working directory must not be taken for a library.
        command = (sys.executable, "-P", "-m", "backfill.engines.speech.host", msgspec.json.encode(settings).decode())
        return Launch(command=command, ready=Ready, environment=_ENVIRONMENT)
