"""What is read from the head of a model file, and what follows from it."""

import importlib.metadata
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import quantize

from backfill.engines.models.catalogue import choose_engine
from backfill.engines.models.gguf_header import read_gguf_header
from backfill.engines.models.openvino import find_obstacle


def write_model(
    path: Path,
    architecture: str = "llama",
    kind: GGMLQuantizationType = GGMLQuantizationType.Q8_0,
    **metadata: str | int,
) -> Path:
    writer = GGUFWriter(path, architecture)
    writer.add_token_list(["a", "bc", "def"])
    writer.add_token_scores([0.5, 1.0, 2.0])
    writer.add_context_length(2048)
    writer.add_rope_freq_base(100000.0)
    for name, value in metadata.items():
        if isinstance(value, str):
            writer.add_string(name.replace("__", "."), value)
        else:
            writer.add_uint32(name.replace("__", "."), value)
    writer.add_tensor("output_norm.weight", np.ones(64, dtype=np.float32))
    data = quantize(np.ones((2, 64), dtype=np.float32), kind)
    writer.add_tensor("token_embd.weight", data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_the_header_is_what_the_writer_wrote(tmp_path: Path) -> None:
    header = read_gguf_header(write_model(tmp_path / "m.gguf", general__name="A model"))
    assert header.metadata == {
        "general.architecture": "llama",
        "llama.context_length": 2048,
        "llama.rope.freq_base": 100000.0,
        "general.name": "A model",
    }
    assert header.tensors == {
        "output_norm.weight": gguf.GGMLQuantizationType.F32,
        "token_embd.weight": gguf.GGMLQuantizationType.Q8_0,
    }


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("kind", ["F16", "Q4_0", "Q4_1", "Q8_0"])
def test_what_openvino_runs(tmp_path: Path, architecture: str, kind: str) -> None:
    assert find_obstacle(write_model(tmp_path / "m.gguf", architecture, GGMLQuantizationType[kind])) is None


@pytest.mark.parametrize("kind", ["Q5_0", "BF16"])
def test_tensors_that_openvino_does_not_read(tmp_path: Path, kind: str) -> None:
    obstacle = find_obstacle(write_model(tmp_path / "m.gguf", kind=GGMLQuantizationType[kind]))
    assert obstacle == f"it holds tensors of type {kind}"


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ({"architecture": "gemma3"}, "architecture 'gemma3'"),
        ({"llama__rope__scaling__type": "yarn"}, "RoPE scaling"),
        ({"llama__expert_count": 8}, "mixture of experts"),
        ({"split__count": 2}, "one of several parts"),
    ],
)
def test_models_that_openvino_would_not_run_rightly(tmp_path: Path, metadata: dict[str, str], reason: str) -> None:
    assert reason in str(find_obstacle(write_model(tmp_path / "m.gguf", **metadata)))  # type: ignore[arg-type]


def test_no_scaling_is_no_obstacle(tmp_path: Path) -> None:
    assert find_obstacle(write_model(tmp_path / "m.gguf", llama__rope__scaling__type="none")) is None


def test_folders(tmp_path: Path) -> None:
    assert "has no openvino_model.xml" in str(find_obstacle(tmp_path))
    (tmp_path / "openvino_model.xml").touch()
    assert find_obstacle(tmp_path) is None
    assert choose_engine(tmp_path) == "openvino"


@pytest.mark.parametrize("length", [0, 3, 4, 8, 23, 40, 100, 200])
def test_a_file_that_is_cut_off_or_no_gguf(tmp_path: Path, length: int) -> None:
    path = write_model(tmp_path / "m.gguf")
    path.write_bytes(path.read_bytes()[:length])
    assert find_obstacle(path) in ("it is no GGUF file", "its header is damaged", "its header is cut off")
    assert choose_engine(path) == ""


def test_lengths_that_lie(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF" + (3).to_bytes(4, "little") + (2**63).to_bytes(8, "little") * 2 + bytes(64))
    assert find_obstacle(path) is not None
    path.write_bytes(b"GGUF" + (9).to_bytes(4, "little") + bytes(64))
    assert find_obstacle(path) == "its GGUF version is 9, and only 2 and 3 are known"
    assert find_obstacle(tmp_path / "nowhere.gguf") == "it cannot be read (No such file or directory)"


def test_the_engine_that_is_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = write_model(tmp_path / "good.gguf")
    other = write_model(tmp_path / "other.gguf", "gemma3")
    assert (choose_engine(good), choose_engine(other)) == ("openvino", "llamacpp")
    monkeypatch.setattr(importlib.metadata, "version", _find_nothing)
    assert choose_engine(good) == "llamacpp"


def _find_nothing(name: str) -> str:
    raise importlib.metadata.PackageNotFoundError(name)
