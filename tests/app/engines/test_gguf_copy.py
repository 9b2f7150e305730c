"""The copy of a model that OpenVINO GenAI reads right."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from app.engines.gguf_copy import check_model, engine_file
from treekv import TreeKVError


def written(path: Path, kind: gguf.GGMLQuantizationType, architecture: str = "llama", scale: float = 1) -> np.ndarray:
    """A file with one matrix of a kind, a vector and some metadata; returns the matrix as the file has it."""
    weights = np.random.default_rng(0).normal(scale=scale, size=(4, 64)).astype(np.float32)
    quantized = gguf.quants.quantize(weights, kind)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_uint32("llama.block_count", 3)
    writer.add_array("tokenizer.ggml.tokens", ["a", "b"])
    writer.add_tensor("blk.0.ffn_up.weight", quantized, raw_dtype=kind)
    writer.add_tensor("output_norm.weight", np.ones(64, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return gguf.quants.dequantize(quantized, kind)


def test_quantized_weights_become_16_bits_and_nothing_else_changes(tmp_path):
    file = tmp_path / "model.gguf"
    weights = written(file, gguf.GGMLQuantizationType.Q4_1)
    with engine_file(str(file)) as copy:
        assert copy != file and copy.suffix == ".gguf"
        read = gguf.GGUFReader(copy)
        found = {tensor.name: tensor for tensor in read.tensors}
        assert found["blk.0.ffn_up.weight"].tensor_type.name == "F16"
        np.testing.assert_array_equal(found["blk.0.ffn_up.weight"].data, weights.astype(np.float16))
        assert found["output_norm.weight"].tensor_type.name == "F32"
        assert read.fields["llama.block_count"].contents() == 3
        assert read.fields["tokenizer.ggml.tokens"].contents() == ["a", "b"]
        assert read.fields["general.architecture"].contents() == "llama"
    assert not copy.exists() and file.exists()


def test_a_file_in_16_bits_is_used_as_it_is(tmp_path):
    file = tmp_path / "model.gguf"
    written(file, gguf.GGMLQuantizationType.F16)
    with engine_file(str(file)) as found:
        assert found == file


def test_weights_beyond_16_bits_are_refused(tmp_path):
    file = tmp_path / "model.gguf"
    written(file, gguf.GGMLQuantizationType.BF16, scale=1e5)
    with (
        pytest.raises(TreeKVError, match=r"'blk.0.ffn_up.weight' has a weight of .* 65,504 of"),
        engine_file(str(file)),
    ):
        pass


@pytest.mark.parametrize("name", ["owner/model", "folder"])
def test_only_gguf_can_be_read(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(TreeKVError, match=rf"reads models from GGUF: the alias smollm2 or .*got '{name}'"):
        check_model(name)


def test_architectures_that_the_engine_does_not_build_are_refused(tmp_path):
    check_model("smollm2")
    with pytest.raises(TreeKVError, match="llama, qwen2, qwen3; 'gemma3-270m' is of 'gemma3'"):
        check_model("gemma3-270m")
    file = tmp_path / "model.gguf"
    written(file, gguf.GGMLQuantizationType.F16, "qwen2")
    check_model(str(file))
    written(file, gguf.GGMLQuantizationType.F16, "gemma3")
    with pytest.raises(TreeKVError, match=r"model.gguf' is of 'gemma3'"):
        check_model(str(file))


def test_a_damaged_file_is_refused(tmp_path):
    file = tmp_path / "model.gguf"
    for content, words in ((b"none", "cannot be read"), (b"GGUF" + bytes(40), "cannot be read for the engine")):
        file.write_bytes(content)
        with pytest.raises(TreeKVError, match=words), engine_file(str(file)):
            pass
