"""Settings that come with the package: found by name, for the models that they are called after."""

from __future__ import annotations

import json

import pytest

from treekv import TreeKVConfig, TreeKVError, shipped
from treekv.models import ALIASES


@pytest.mark.parametrize("name", shipped.names())
def test_every_file_is_loaded_by_its_name(name: str) -> None:
    config = TreeKVConfig.load(name)
    model, _, size = name.rpartition("-")
    stage = "prompt" if model.endswith("-prompt") else "stream"
    model = model.removesuffix("-prompt")
    assert config.prefill == ("once" if stage == "prompt" else "stream")
    assert model in ALIASES and config.cache_size == int(size) and config.differs_by_head
    provenance = json.loads((shipped.FOLDER / f"{name}.json").read_text(encoding="utf-8"))["provenance"]
    assert provenance["model"] == ALIASES[model].title
    assert f"stage {stage!r}" in provenance["made_by"]
    assert provenance["texts"] and provenance["versions"]


def test_a_file_of_the_user_goes_first(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = shipped.names()[0]
    assert shipped.find(name).parent == shipped.FOLDER
    own = TreeKVConfig(cache_size=40)
    own.save(name)
    assert TreeKVConfig.load(name) == own


def test_names_are_in_order_of_size() -> None:
    sizes = [
        int(name.rpartition("-")[2]) for name in shipped.names() if name.startswith("smollm2-") and "prompt" not in name
    ]
    assert sizes == sorted(sizes) and sizes


def test_an_unknown_name_is_one_sentence(tmp_path) -> None:
    with pytest.raises(TreeKVError, match="no settings file 'smollm2-3', and the settings that come with TreeKV are "):
        TreeKVConfig.load("smollm2-3")
    with pytest.raises(TreeKVError, match=r"cannot read settings from 'smollm2-3\.json'"):
        TreeKVConfig.load("smollm2-3.json")


def test_provenance_is_kept_for_readers_only(tmp_path) -> None:
    config = TreeKVConfig(cache_size=64)
    config.save(tmp_path / "s.json", {"made_by": "hand"})
    assert json.loads((tmp_path / "s.json").read_text())["provenance"] == {"made_by": "hand"}
    assert TreeKVConfig.load(tmp_path / "s.json") == config


@pytest.mark.parametrize("name", shipped.names())
@pytest.mark.parametrize("policy", ["h2o", "snapkv", "pyramidkv", "tova", "streaming", "full", "random"])
def test_every_policy_can_be_compared_with_them(name: str, policy: str) -> None:
    config = TreeKVConfig.load(name)
    other = config.for_policy(policy)
    assert other.policy == policy and other.cache_size == config.cache_size


def test_a_number_is_no_name() -> None:
    with pytest.raises(TreeKVError, match=r"settings are a file or one of smollm2-64, .*, got 5"):
        TreeKVConfig.load(5)  # type: ignore[arg-type]
