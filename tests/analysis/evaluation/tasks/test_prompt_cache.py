"""A prompt that is held gives every cache what the model itself would have given it, without running the model."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from analysis.evaluation.sweep.grid import ModelSpec, SettingsSpec
from analysis.evaluation.sweep.runner import CellJob, Runner
from analysis.evaluation.tasks import prompt_cache
from analysis.evaluation.tasks.answering import AnswerTask, generate_answer
from analysis.evaluation.tasks.base import Document, Measurement
from tests import tiny
from treekv import TreeKVCache, TreeKVConfig, policies

IDS = tiny.tokens(90)[0].tolist()
TREE = TreeKVConfig(cache_size=40, sink_size=2, recent_size=10, block_size=4)
CONFIGS = [TREE.for_policy(name) for name in policies.names()] + [
    TREE.replace(importance="contribution"),
    TREE.replace(budgets="rising"),
    TREE.replace(positions="original"),
    TREE.replace(prefill="none"),
]


def hybrid():
    """Sliding layers, which transformers' own cache holds, around one with full attention."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "gemma3_text", vocab_size=tiny.VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16, query_pre_attn_scalar=16, sliding_window=16,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config).eval()
    model.set_attn_implementation("treekv")
    return model


class Asked(AnswerTask):
    """A task of random tokens."""

    name = "asked"

    def prompt_ids(self, tokenizer, data):
        ids = tiny.tokens(90, seed=data["seed"])[0].tolist()
        return ids[:80], ids[80:]

    def run(self, model, tokenizer, config, document, progress=None):
        said = generate_answer(
            model, Numbers(), config, *self.prompt_ids(None, document.data), 3, prompt_cache=self.prompt_cache
        )
        return Measurement({"score": float(said.tokens)}, {})


class Numbers:
    def decode(self, ids, **_):
        return " ".join(map(str, ids))


@pytest.fixture(params=[tiny.llama, hybrid])
def model(request):
    return request.param()


def reads(model) -> list[int]:
    """How many tokens each of the model's passes reads, from now on."""
    counted: list[int] = []
    model.base_model.register_forward_pre_hook(
        lambda _, args, kwargs: counted.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    return counted


@torch.inference_mode()
@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.policy}-{c.prefill}-{c.importance}-{c.budgets}")
def test_a_held_prompt_fills_a_cache_as_the_model_does(model, config):
    alone, filled = (TreeKVCache(config, model.config) for _ in range(2))
    expected = model(torch.tensor([IDS]), past_key_values=alone).logits[0, -1]
    prompts = prompt_cache.PromptCache()
    prompts.read(model, IDS, TreeKVCache(TreeKVConfig(policy="full"), model.config))
    counted = reads(model)
    assert torch.allclose(prompts.read(model, IDS, filled), expected, atol=1e-5)
    assert counted == []
    assert filled.nbytes == alone.nbytes and filled.get_seq_length() == alone.get_seq_length()
    for ours, theirs in zip(filled.layers, alone.layers, strict=True):
        assert torch.equal(ours.keys, theirs.keys) and torch.equal(ours.values, theirs.values)
    for token in (3, 5, 7):  # and both go on alike
        ours = prompt_cache.next_logits(model, [token], filled)
        theirs = model(torch.tensor([[token]]), past_key_values=alone).logits[0, -1]
        assert torch.allclose(ours, theirs, atol=1e-5)


@torch.inference_mode()
def test_only_the_last_prompt_is_held():
    model = tiny.llama()
    counted, prompts = reads(model), prompt_cache.PromptCache()
    for ids in (IDS, IDS, IDS[:-1], IDS):
        prompts.read(model, ids, TreeKVCache(TREE, model.config))
    assert counted == [90, 89, 90]


@torch.inference_mode()
def test_another_model_reads_for_itself():
    prompts, counted = prompt_cache.PromptCache(), []
    for model in (tiny.llama(), tiny.llama()):
        counted.append(reads(model))
        prompts.read(model, IDS, TreeKVCache(TREE, model.config))
    assert counted == [[90], [90]]


@torch.inference_mode()
def test_what_evicts_while_it_reads_is_read_each_time_and_nothing_is_held():
    model = tiny.llama()
    counted, prompts = reads(model), prompt_cache.PromptCache()
    for policy in ("tree", "full", "full", "tree", "full"):
        config = TreeKVConfig(policy=policy, cache_size=40, prefill="stream")
        prompts.read(model, IDS, TreeKVCache(config, model.config))
    assert counted == [90, 90, 90, 90]  # the second full cache alone finds the prompt held


@torch.inference_mode()
@pytest.mark.parametrize("most", [100, 30_000])
def test_a_prompt_that_is_too_large_is_read_but_not_held(monkeypatch, most):
    model = tiny.llama()
    monkeypatch.setattr(prompt_cache, "MOST_BYTES", most)
    counted, prompts = reads(model), prompt_cache.PromptCache()
    expected = model(torch.tensor([IDS])).logits[0, -1]
    for _ in range(2):
        logits = prompts.read(model, IDS, TreeKVCache(TreeKVConfig(policy="full"), model.config))
        assert torch.allclose(logits, expected, atol=1e-5)
    assert counted[1:] == [90, 90]
    assert prompts._cached is None


def test_a_sweep_reads_each_document_once(tmp_path):
    model = tiny.llama()
    counted = reads(model)
    runner = Runner(lambda wanted: (model, None))
    task = Asked(question="given")
    for document in (Document("a", {"seed": 1}), Document("b", {"seed": 2})):
        for policy in ("full", "tree", "h2o"):
            setting = SettingsSpec(policy, {"policy": policy, "block_size": 4})
            [record] = runner.measure([CellJob(ModelSpec("m"), task, setting, 40, 0, document)])
            assert record.error is None, record.error
    assert [count for count in counted if count > 1] == [90, 90]
