"""A cache file is data from a stranger: whatever is wrong with it is one sentence, before anything is allocated."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests import tiny
from treekv import TreeKVCache, TreeKVConfig, TreeKVError
from treekv.cache import cache_file


@pytest.fixture
def saved(llama, tmp_path) -> Path:
    cache = TreeKVCache(TreeKVConfig(cache_size=12), llama.config)
    llama(tiny.tokens(20), past_key_values=cache)
    cache.save(tmp_path / "context.treekv", llama)
    return tmp_path / "context.treekv"


def refusal(path: Path, model) -> str:
    with pytest.raises(TreeKVError) as raised:
        TreeKVCache.load(path, model)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_a_truncated_file_is_refused(llama, saved):
    whole = saved.read_bytes()
    for length in (0, 5, 8, 9, 200, len(whole) // 2, len(whole) - 1):
        saved.write_bytes(whole[:length])
        assert "only the beginning" in refusal(saved, llama) or "damaged" in refusal(saved, llama)
    saved.write_bytes(whole + b"more")
    assert "damaged" in refusal(saved, llama)


def test_every_changed_byte_is_noticed(llama, saved):
    whole, chosen = saved.read_bytes(), random.Random(0)
    start = 8 + int.from_bytes(whole[:8], "little")
    for place in [*chosen.sample(range(start, len(whole)), 30), start, len(whole) - 1]:
        saved.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert "its tensors are not those that were saved" in refusal(saved, llama)
    for place in chosen.sample(range(start), 60):  # of the header: refused, or of no consequence
        saved.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            TreeKVCache.load(saved, llama)
        except TreeKVError as error:
            assert "\n" not in str(error)


def test_a_header_that_claims_too_much_is_refused_unread(llama, tmp_path):
    path = tmp_path / "x"
    path.write_bytes((2**60).to_bytes(8, "little") + b"{}")
    assert "only the beginning" in refusal(path, llama)
    with open(path, "wb") as stream:  # a file that is large enough, and takes no room on disk
        stream.write((cache_file.MOST_HEADER + 1).to_bytes(8, "little"))
        stream.truncate(2 * cache_file.MOST_HEADER)
    assert "its header claims" in refusal(path, llama)
    header = b'{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 64)
    assert "damaged" in refusal(path, llama)


def test_what_is_no_cache_file_is_named(llama, saved, tmp_path):
    link, pipe = tmp_path / "link", tmp_path / "pipe"
    link.symlink_to(saved)
    assert "is a symbolic link" in refusal(link, llama)
    assert "is a folder" in refusal(tmp_path, llama)
    os.mkfifo(pipe)
    assert "is no plain file" in refusal(pipe, llama)
    assert "there is no file" in refusal(tmp_path / "none", llama)
    other = tmp_path / "x"
    other.write_text("a text that is no cache at all")
    assert "is not a saved TreeKV cache" in refusal(other, llama)
    torch.save({"a": 1}, other)
    assert "is not a saved TreeKV cache" in refusal(other, llama)
    save_file({"weight": torch.zeros(3)}, other)
    assert "is not a saved TreeKV cache" in refusal(other, llama)
    save_file({"weight": torch.zeros(3)}, other, metadata={"treekv": "[" * 100_000})
    assert "nested too deeply" in refusal(other, llama)


def test_versions(llama, tmp_path):
    path = tmp_path / "x"
    for version, words in ((2, "by a newer TreeKV"), (0, "no version"), ("1", "no version"), (None, "no version")):
        cache_file.write(path, {"a": torch.zeros(1)}, {"version": version})
        assert words in refusal(path, llama)
    cache_file.write(path, {"a": torch.zeros(1)}, {})
    assert "does not say what it holds" in refusal(path, llama)


def test_another_model_is_refused(llama, saved):
    sentence = refusal(saved, tiny.llama(num_hidden_layers=3))
    assert "num_hidden_layers is 2; this model, 'llama', has 3" in sentence
    assert "num_key_value_heads is 2" in refusal(saved, tiny.llama(kv_heads=4))
    assert "rope_parameters" in refusal(saved, tiny.llama(rope_parameters={"rope_type": "default", "rope_theta": 9.0}))
    other = tiny.llama()
    other.model.layers[0].self_attn.k_proj.weight.data.mul_(1.01)
    assert "its weights are others" in refusal(saved, other)
    assert TreeKVCache.load(saved, other.config).get_seq_length() == 20  # a configuration has no weights


def test_an_interrupted_save_leaves_the_old_file(llama, saved, monkeypatch):
    old = saved.read_bytes()
    cache = TreeKVCache.load(saved, llama)
    llama(tiny.tokens(5), past_key_values=cache)

    def interrupted(tensors, path, metadata):
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(cache_file, "save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cache.save(saved, llama)
    assert saved.read_bytes() == old and os.listdir(saved.parent) == [saved.name]
    monkeypatch.undo()
    link = saved.parent / "link"
    link.symlink_to(saved)
    cache.save(link, llama)  # a link is replaced, not followed
    assert saved.read_bytes() == old and not link.is_symlink()


def test_a_device_that_is_not_there_is_named(llama, saved):
    for device, words in (("nonsense", "device must be one such as"), ("xpu", "device 'xpu' cannot be used here")):
        with pytest.raises(TreeKVError, match=words):
            TreeKVCache.load(saved, llama, device=device)
