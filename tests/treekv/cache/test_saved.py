"""A cache that was saved and loaded continues token for token as the one that was saved."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers.cache_utils import DynamicCache

from tests import tiny
from tests.families import tiny_models
from tests.families.tiny_models import build
from tests.policies_table import settings_of
from treekv import TreeKVCache, TreeKVConfig, TreeKVError
from treekv.cache import ledger_state
from treekv.cache.ledger import Ledger
from treekv.cache.ledger_state import NUMBERS, TENSORS, LedgerState
from treekv.cache.state_shapes import state_shapes
from treekv.cache.trace import LayerTrace

TABLE = ((10, 14), (16, 8))


def one_of_each(kind: str) -> list[dict[str, Any]]:
    """Every policy once: what is kept in a file does not depend on the sizes."""
    return list({own["policy"]: own for own in settings_of(kind)}.values())


def read(model: Any, cache: TreeKVCache, ids: torch.Tensor, pieces: list[int], first: int = 0) -> torch.Tensor:
    """Feed tokens from `first` on in pieces; returns all logits."""
    logits = []
    for piece in pieces:
        logits.append(model(ids[:, first : first + piece], past_key_values=cache).logits)
        first += piece
    return torch.cat(logits, dim=1)


def check_goes_on(
    model: Any, config: TreeKVConfig, before: list[int], after: list[int], path: Path, batch: int = 1
) -> None:
    """Save after some pieces, go on with others from the file and without it."""
    ids = tiny.tokens(sum(before) + sum(after), batch)
    cache = TreeKVCache(config, model.config)
    read(model, cache, ids, before)
    cache.save(path, model)
    loaded = TreeKVCache.load(path, model)
    assert loaded.config == cache.config and loaded.get_seq_length() == sum(before)
    assert loaded.nbytes == cache.nbytes and tiny.same_state(loaded, cache)
    right, got = (read(model, each, ids, after, sum(before)) for each in (cache, loaded))
    assert torch.equal(got, right) and tiny.same_state(loaded, cache)
    if config.trace:
        for layer, trace in cache.trace.items():
            for field in ("evicted_at", "survivor"):
                assert torch.equal(getattr(loaded.trace[layer], field), getattr(trace, field))


@pytest.mark.parametrize("own", one_of_each("decoding"), ids=lambda own: own["policy"])
def test_while_decoding(llama, own, tmp_path):
    config = TreeKVConfig(cache_size=12, prefill="stream", block_size=2, **own)
    check_goes_on(llama, config, [16, 1, 1], [1] * 6, tmp_path / "x")


@pytest.mark.parametrize("own", one_of_each("blocks"), ids=lambda own: own["policy"])
def test_inside_a_block(llama, own, tmp_path):
    config = TreeKVConfig(cache_size=12, prefill="stream", block_size=8, trace=True, **own)
    check_goes_on(llama, config, [19], [2, 5, 9, 1, 1], tmp_path / "x")


@pytest.mark.parametrize("own", one_of_each("prompts"), ids=lambda own: own["policy"])
def test_after_a_prompt(llama, own, tmp_path):
    check_goes_on(llama, TreeKVConfig(cache_size=16, **own), [30], [5, 1, 1, 1], tmp_path / "x")


def test_with_everything_kept_and_a_prompt_that_fits(llama, tmp_path):
    check_goes_on(llama, TreeKVConfig(policy="full", cache_size=4), [30], [5, 1, 1], tmp_path / "x", batch=2)
    check_goes_on(llama, TreeKVConfig(cache_size=32, trace=True), [9], [5, 1, 1], tmp_path / "x")
    config = TreeKVConfig(cache_size=16, after_prompt="keep", positions="compressed")
    check_goes_on(llama, config, [40, 1], [5, 1, 1], tmp_path / "x")


@pytest.mark.parametrize(("prefill", "trace"), [("once", False), ("stream", True), ("none", False)])
def test_budgets_of_heads_and_layers(llama, prefill, trace, tmp_path):
    for budgets in (TABLE, (8, 16)):
        config = TreeKVConfig(
            cache_size=12, budgets=budgets, sink_size=1, recent_size=3, prefill=prefill, block_size=2, trace=trace
        )
        check_goes_on(llama, config, [27], [6, 1, 1, 1], tmp_path / "x", batch=2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype, tmp_path):
    model = tiny.llama().to(dtype)
    check_goes_on(model, TreeKVConfig(cache_size=12), [30], [5, 1, 1], tmp_path / "x")


@pytest.mark.parametrize("prefill", ["once", "stream"])
def test_a_padded_batch_and_its_rows(llama, prefill, tmp_path):
    lengths = (30, 9, 17)
    ids, mask = torch.zeros(3, 30, dtype=torch.long), torch.zeros(3, 30).long()
    for row, length in enumerate(lengths):
        ids[row, 30 - length :] = tiny.tokens(length, seed=row)[0]
        mask[row, 30 - length :] = 1
    config = TreeKVConfig(cache_size=12, sink_size=1, prefill=prefill, block_size=2, trace=True)
    cache = TreeKVCache(config, llama.config)
    llama(ids, attention_mask=mask, past_key_values=cache)
    cache.save(tmp_path / "x", llama)
    loaded = TreeKVCache.load(tmp_path / "x", llama)
    rows = torch.tensor([2, 0, 2, 1])
    more = torch.full((4, 1), 7)
    for each in (cache, loaded):
        each.reorder_cache(rows)
    masks = torch.cat([mask[rows], torch.ones(4, 1).long()], dim=1)
    for _ in range(4):
        one, other = (llama(more, attention_mask=masks, past_key_values=each).logits for each in (cache, loaded))
        assert torch.equal(one, other) and tiny.same_state(cache, loaded)
        more, masks = one[:, -1:].argmax(-1), torch.cat([masks, torch.ones(4, 1).long()], dim=1)


@pytest.mark.parametrize("family", ["gemma3_text", "lfm2", "qwen3_next", "falcon_h1", "deepseek_v3", "gemma4_text"])
def test_other_kinds_of_layers(family, tmp_path):
    """Sliding windows, convolution, linear attention, that beside attention, latents, and keys of earlier layers."""
    model = build(family, "treekv")
    ids = tiny.tokens(40, batch=2)
    cache = TreeKVCache(TreeKVConfig(cache_size=12, sink_size=1, positions="original"), model.config)
    read(model, cache, ids, [30, 1])
    cache.save(tmp_path / "x", model)
    loaded = TreeKVCache.load(tmp_path / "x", model)
    assert torch.equal(read(model, loaded, ids, [1] * 8, 31), read(model, cache, ids, [1] * 8, 31))


@pytest.mark.parametrize("family, kind", [("qwen3_next", "conv"), ("qwen3_next", "recurrent"), ("falcon_h1", "conv")])
def test_a_state_of_another_shape_is_refused(family, kind, tmp_path):
    model = build(family, "treekv")
    cache = TreeKVCache(TreeKVConfig(cache_size=12, sink_size=1, positions="original"), model.config)
    read(model, cache, tiny.tokens(40, batch=2), [30])
    states = getattr(cache.layers[0], f"{kind}_states")
    states[0] = states[0][:, 1:]
    cache.save(tmp_path / "x", model)
    for given in (model, model.config):
        with pytest.raises(TreeKVError, match=r"its layer 0 has a state of the shape \[\d+.*where its model has \["):
            TreeKVCache.load(tmp_path / "x", given)


def test_of_a_model_that_cannot_be_read_without_weights_no_shapes_are_known(monkeypatch):
    config = tiny_models.configuration("qwen3_next")
    layers = DynamicCache(config=config).layers
    assert [sorted(own) for own in state_shapes(layers, config)] == [["conv0", "recurrent0"], []] * 2
    monkeypatch.setattr(config, "hidden_act", "no such function")
    assert state_shapes(layers, config) == [{}] * 4


def test_many_questions_go_on_from_one_file(llama, tmp_path):
    cache = TreeKVCache(TreeKVConfig(cache_size=16), llama.config)
    llama(tiny.tokens(40), past_key_values=cache)
    cache.save(tmp_path / "x", llama)
    questions = [tiny.tokens(length, seed=length) for length in (3, 7, 5)]
    alone = []
    for question in questions:
        ids = torch.cat([tiny.tokens(40), question], dim=1)
        own = TreeKVCache.load(tmp_path / "x", llama)
        alone.append(
            llama.generate(ids, past_key_values=own, max_new_tokens=5, min_new_tokens=5, do_sample=False)[0, -5:]
        )
    together = TreeKVCache.load(tmp_path / "x", llama)
    together.batch_repeat_interleave(3)
    ids, mask = torch.zeros(3, 7, dtype=torch.long), torch.ones(3, 47).long()
    for row, question in enumerate(questions):
        pad = 7 - question.shape[1]
        ids[row, pad:], mask[row, 40 : 40 + pad] = question[0], 0
    found = llama.generate(
        ids, attention_mask=mask, past_key_values=together, max_new_tokens=5, min_new_tokens=5, do_sample=False
    )
    assert torch.equal(found[:, -5:], torch.stack(alone))


def test_a_saved_cache_is_not_changed_and_copies_are_independent(llama, tmp_path):
    ids = tiny.tokens(40)
    cache = TreeKVCache(TreeKVConfig(cache_size=12), llama.config)
    read(llama, cache, ids, [30])
    cache.save(tmp_path / "x", llama)
    first = (tmp_path / "x").read_bytes()
    copied = copy.deepcopy(cache)
    read(llama, cache, ids, [1] * 8, 30)
    copied.save(tmp_path / "y", llama)  # after the original went on
    assert (tmp_path / "y").read_bytes() == first


def test_a_file_says_what_it_holds(llama, tmp_path):
    cache = TreeKVCache(TreeKVConfig(cache_size=12, seed=3), llama.config)
    llama(tiny.tokens(40, 2), past_key_values=cache)
    cache.save(tmp_path / "x", notes={"source": "a manual", "pages": (1, 2)})
    said = TreeKVCache.describe(tmp_path / "x")
    assert said.config == cache.config and (said.tokens, said.rows, said.model) == (40, 2, "llama")
    assert said.notes == {"source": "a manual", "pages": [1, 2]}


def test_a_configuration_is_enough_where_weights_do_not_matter(llama, tmp_path):
    cache = TreeKVCache(TreeKVConfig(cache_size=12), llama.config)
    llama(tiny.tokens(20), past_key_values=cache)
    cache.save(tmp_path / "x")
    assert tiny.same_state(TreeKVCache.load(tmp_path / "x", llama.config), cache)
    assert tiny.same_state(TreeKVCache.load(tmp_path / "x", llama), cache)


def test_nothing_of_a_ledger_or_a_trace_is_forgotten(llama):
    """A field that is new here must be kept in the file too, or follow from the settings."""
    follows = {"config", "policy", "delay", "_decay", "layers", "heads", "device", "_counting", "_layer", "_head"}
    ledger = Ledger(TreeKVConfig(cache_size=12, trace=True), 1, 2)
    assert vars(ledger).keys() == {*TENSORS, *NUMBERS, "open_blocks", "trace"} | follows
    trace = LayerTrace(1, 2, torch.device("cpu"))
    assert vars(trace).keys() == {"batch", "heads", "device", "_log", "_fields", "_count", "_tokens", "_runs"}
    cache = TreeKVCache(TreeKVConfig(cache_size=12), llama.config)
    llama(tiny.tokens(20), past_key_values=cache)
    assert vars(cache.layers[0]).keys() == {
        "rotary", "first_with_rotary", "future_rotary", "number", "layers", "head_numbers", "group_index",
        "group_offset", "tokens_seen", "awaits_attention", "keys", "values", "queries", "scaling", "owner",
        "is_initialized", "dtype", "device",
        "followed",  # follows from the model
        "_steps", "_before", "waiting",  # of one call
    }  # fmt: skip


@pytest.mark.parametrize(
    ("use", "sentence"),
    [
        (lambda cache, model, path: cache.save(path), "has read nothing yet"),
        (lambda cache, model, path: cache.save(path, model.config), "must be the model, got LlamaConfig"),
        (lambda cache, model, path: cache.save(path, tiny.llama(kv_heads=4)), "made for the model 'llama'"),
        (lambda cache, model, path: cache.save(path.parent), "is a folder; name a file"),
        (lambda cache, model, path: cache.save(path / "y"), "there is no folder"),
        (lambda cache, model, path: cache.save(path, notes={"x": {1, 2}}), "notes must be what JSON can hold"),
        (lambda cache, model, path: TreeKVCache.load(path, "llama"), "must be the model, or its configuration"),
    ],
)  # fmt: skip
def test_what_cannot_be_saved_is_one_sentence(llama, use, sentence, tmp_path):
    cache = TreeKVCache(TreeKVConfig(cache_size=12), llama.config)
    if "nothing" not in sentence:
        llama(tiny.tokens(20), past_key_values=cache)
    with pytest.raises(TreeKVError, match=sentence) as raised:
        use(cache, llama, tmp_path / "x")
    assert "\n" not in str(raised.value) and list(tmp_path.iterdir()) == []


def test_an_interrupted_pass_cannot_be_saved(llama, tmp_path):
    cache = TreeKVCache(TreeKVConfig(cache_size=12), llama.config)
    llama(tiny.tokens(20), past_key_values=cache)
    cache.layers[0].update(torch.zeros(1, 2, 1, 8), torch.zeros(1, 2, 1, 8))
    with pytest.raises(TreeKVError, match="interrupted"):
        cache.save(tmp_path / "x")


def test_a_model_in_another_dtype_is_refused_when_it_is_loaded(tmp_path):
    model = tiny.llama().to(torch.bfloat16)
    cache = TreeKVCache(TreeKVConfig(cache_size=12), model.config)
    model(tiny.tokens(20), past_key_values=cache)
    cache.save(tmp_path / "x")
    with pytest.raises(TreeKVError, match=r"in torch.bfloat16, but the model computes in torch.float32.*'bfloat16'"):
        TreeKVCache.load(tmp_path / "x", tiny.llama())
    assert tiny.same_state(TreeKVCache.load(tmp_path / "x", model), cache)


@pytest.mark.parametrize(
    "hook",
    [
        None,
        SimpleNamespace(execution_device="meta"),
        SimpleNamespace(hooks=(SimpleNamespace(), SimpleNamespace(execution_device="meta"))),
    ],
    ids=["parameters", "hook", "hooks"],
)
def test_layers_go_where_those_of_the_model_compute(tmp_path, monkeypatch, hook):
    """The device "meta" stands for a second one: what is there can be placed, but not read."""
    model = tiny.llama()
    cache = TreeKVCache(TreeKVConfig(cache_size=12, block_size=2), model.config)
    read(model, cache, tiny.tokens(20), [16, 1, 1])
    cache.save(tmp_path / "x")
    if hook is None:
        model.model.layers[1].to("meta")
    else:
        model.model.layers[1]._hf_hook = hook
    restored = []

    def restore(ledger: Ledger, states: list[LedgerState]) -> None:
        restored.append([ledger.device.type, *{each.device.type for own in states for each in own.tensors.values()}])

    monkeypatch.setattr(ledger_state, "restore", restore)
    loaded = TreeKVCache.load(tmp_path / "x", model)
    assert [layer.keys.device.type for layer in loaded.layers] == ["cpu", "meta"]
    assert restored == [["cpu", "cpu"], ["meta", "meta"]]  # a ledger on each device
    loaded = TreeKVCache.load(tmp_path / "x", model, device="cpu")
    assert [layer.keys.device.type for layer in loaded.layers] == ["cpu", "cpu"]
