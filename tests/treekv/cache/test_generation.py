"""Ways to generate: sampling, several sequences, turns, and what can go wrong on the way."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from tests import tiny
from tests.tiny import same_state
from tests.treekv.attention.test_supported import make
from treekv import TreeKVCache, TreeKVConfig, TreeKVError

SMALL = TreeKVConfig(cache_size=12, sink_size=2, recent_size=4, block_size=2)
STREAM = TreeKVConfig(cache_size=12, sink_size=2, recent_size=4, prefill="stream", block_size=4)


def step_by_step(model, cache, ids) -> torch.Tensor:
    for token in ids[0]:
        logits = model(token.view(1, 1), past_key_values=cache).logits
    return logits[0, -1]


def test_sampling_draws_what_plain_transformers_draws(llama):
    ids = tiny.tokens(20)
    texts = []
    for model, cache in (
        (tiny.llama("sdpa"), None),
        (llama, TreeKVCache(TreeKVConfig(cache_size=128), llama.config)),
    ):
        torch.manual_seed(5)
        texts.append(
            model.generate(
                ids, past_key_values=cache, do_sample=True, temperature=0.7, max_new_tokens=30, num_return_sequences=3
            )
        )
    assert torch.equal(*texts)


def test_each_returned_sequence_has_a_cache_of_its_own(llama):
    ids = tiny.tokens(20)
    cache = TreeKVCache(SMALL, llama.config)
    torch.manual_seed(5)
    out = llama.generate(ids, past_key_values=cache, do_sample=True, max_new_tokens=25, num_return_sequences=3)
    assert len({tuple(row.tolist()) for row in out}) == 3
    for row in range(3):
        alone = TreeKVCache(SMALL, llama.config)
        llama(ids, past_key_values=alone)
        step_by_step(llama, alone, out[row : row + 1, 20:-1])
        assert torch.equal(cache.kept_positions(1)[row], alone.kept_positions(1)[0])


def test_beams_with_room_for_everything_are_those_of_plain_transformers(llama):
    ids = tiny.tokens(20, batch=2)
    settings = dict(num_beams=4, num_return_sequences=2, max_new_tokens=20, do_sample=False)
    expected = tiny.llama("sdpa").generate(ids, **settings)
    cache = TreeKVCache(TreeKVConfig(cache_size=64), llama.config)
    assert torch.equal(llama.generate(ids, past_key_values=cache, **settings), expected)


@pytest.mark.parametrize("config", [SMALL, STREAM], ids=["tree", "stream"])
def test_a_second_turn_with_full_ids_or_new_ids_or_by_hand(llama, config):
    first, second = tiny.tokens(30), tiny.tokens(8, seed=2)
    results = []
    for whole in (True, False):
        cache = TreeKVCache(config, llama.config)
        out = llama.generate(first, past_key_values=cache, max_new_tokens=6, do_sample=False)
        assert cache.get_seq_length() == 35  # the last token was generated but not read
        ids = torch.cat([out, second], 1)
        if whole:
            answer = llama.generate(ids, past_key_values=cache, max_new_tokens=6, do_sample=False)[:, ids.shape[1] :]
        else:
            mask = torch.ones_like(ids)
            new = ids[:, 35:]
            answer = llama.generate(new, attention_mask=mask, past_key_values=cache, max_new_tokens=6, do_sample=False)[
                :, new.shape[1] :
            ]
        results.append((answer, cache))
    by_hand = TreeKVCache(config, llama.config)
    llama(first, past_key_values=by_hand)
    step_by_step(llama, by_hand, out[:, 30:35])
    logits = llama(ids[:, 35:], past_key_values=by_hand).logits[:, -1]
    answer = [logits.argmax(-1)]
    for _ in range(5):
        answer.append(llama(answer[-1][None], past_key_values=by_hand).logits[:, -1].argmax(-1))
    for text, cache in results:
        assert torch.equal(text[0], torch.cat(answer))
        assert same_state(cache, by_hand)


@pytest.mark.parametrize("config", [SMALL, STREAM, SMALL.for_policy("full")], ids=["tree", "stream", "full"])
def test_a_second_turn_of_a_padded_batch_in_turns_of_unequal_length(llama, config):
    """Whole ids, or what is new: the padding of the second turn may stand right of a token that was not read yet."""
    firsts, seconds = [tiny.tokens(n, seed=n) for n in (30, 17)], [tiny.tokens(n, seed=n) for n in (4, 9)]
    settings = dict(max_new_tokens=6, do_sample=False, pad_token_id=0, eos_token_id=-1)
    for whole in (True, False):
        first, mask = left_padded(firsts)
        cache = TreeKVCache(config, llama.config)
        out = llama.generate(first, attention_mask=mask, past_key_values=cache, **settings)
        second, new = left_padded(seconds)
        ids, mask = torch.cat([out, second], 1), torch.cat([mask, torch.ones(2, 6, dtype=torch.long), new], 1)
        given = ids if whole else ids[:, cache.get_seq_length() :]
        answers = llama.generate(given, attention_mask=mask, past_key_values=cache, **settings)[:, given.shape[1] :]
        for row in range(2):
            alone = TreeKVCache(config, llama.config)
            text = llama.generate(firsts[row], past_key_values=alone, **settings)
            text = torch.cat([text, seconds[row]], 1)
            expected = llama.generate(text, past_key_values=alone, **settings)[0, text.shape[1] :]
            assert torch.equal(answers[row], expected), (whole, row)
            if config.policy != "full":
                assert torch.equal(cache.kept_positions(1)[row], alone.kept_positions(1)[0])


def left_padded(rows: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    most = max(row.shape[1] for row in rows)
    ids = torch.cat([torch.nn.functional.pad(row, (most - row.shape[1], 0)) for row in rows])
    return ids, (ids > 0).long()


def test_a_conversation_that_is_padded_anew_is_refused(llama):
    """Its columns are no longer those that were read, so some tokens would be read twice and others never."""
    cache = TreeKVCache(SMALL, llama.config)
    ids, mask = left_padded([tiny.tokens(30), tiny.tokens(17, seed=2)])
    llama(ids, attention_mask=mask, past_key_values=cache)
    ids, mask = left_padded([tiny.tokens(34), tiny.tokens(26, seed=2)])
    with pytest.raises(TreeKVError, match=r"22 real tokens of row 1 .* has read 17: give only the new ids"):
        llama.generate(ids, attention_mask=mask, past_key_values=cache, max_new_tokens=5, pad_token_id=0)


@pytest.mark.parametrize("length", [1, 10, 15, 19, 20])
def test_a_prompt_shorter_than_what_was_read_is_refused(llama, length):
    cache = TreeKVCache(SMALL, llama.config)
    llama(tiny.tokens(20), past_key_values=cache)
    with pytest.raises(TreeKVError, match=r"cache\.reset\(\) for another prompt"):
        llama.generate(tiny.tokens(length), past_key_values=cache, max_new_tokens=5, do_sample=False, pad_token_id=0)


@pytest.mark.parametrize("shape", [(1, 3), (1, 30), (2, 23), (23,), (1, 1, 23)], ids=str)
@pytest.mark.parametrize("new", [3, 1])
def test_an_attention_mask_of_another_shape_is_refused(llama, shape, new):
    cache = TreeKVCache(SMALL, llama.config)
    llama(tiny.tokens(23 - new), past_key_values=cache)
    words = f"1 rows of 23 are right: {23 - new} that the cache" if len(shape) == 2 else rf"{len(shape)} dimensions"
    with pytest.raises(TreeKVError, match=words):
        llama(tiny.tokens(new), attention_mask=torch.ones(shape), past_key_values=cache)


@pytest.mark.parametrize("chunk", [1, 4])
def test_chunked_prefill_of_a_batch_with_left_padding(llama, chunk):
    """A row gets what it gets alone, also when a chunk holds nothing but its padding."""
    config = STREAM.replace(block_size=chunk)
    ids, mask = torch.zeros(2, 40, dtype=torch.long), torch.zeros(2, 40, dtype=torch.long)
    rows = [tiny.tokens(40, seed=3), tiny.tokens(20, seed=4)]
    for row, alone in enumerate(rows):
        ids[row, 40 - alone.shape[1] :] = alone
        mask[row, 40 - alone.shape[1] :] = 1
    settings = dict(max_new_tokens=10, do_sample=False, pad_token_id=0, prefill_chunk_size=chunk)
    cache = TreeKVCache(config, llama.config)
    out = llama.generate(ids, attention_mask=mask, past_key_values=cache, **settings)
    for row, alone in enumerate(rows):
        expected = llama.generate(alone, past_key_values=TreeKVCache(config, llama.config), **settings)
        assert torch.equal(out[row, 40:], expected[0, alone.shape[1] :])


def test_a_prompt_longer_than_the_models_window():
    model = tiny.llama(window=32)
    ids = tiny.tokens(200)
    cache = TreeKVCache(STREAM, model.config)
    out = model.generate(ids, past_key_values=cache, max_new_tokens=5, do_sample=False)
    assert out.shape == (1, 205) and cache.kept_positions(0).shape == (1, 2, 12)
    assert int(cache.kept_positions(0).max()) == 203


@pytest.mark.parametrize("assistance", [dict(prompt_lookup_num_tokens=3), dict(assistant_model=True)])
def test_assisted_decoding_is_refused(llama, assistance):
    if "assistant_model" in assistance:
        assistance = dict(assistant_model=tiny.llama("sdpa"))
    cache = TreeKVCache(SMALL, llama.config)
    with pytest.raises(TreeKVError, match="without assistant_model"):
        llama.generate(tiny.tokens(20), past_key_values=cache, max_new_tokens=5, do_sample=False, **assistance)


@pytest.mark.parametrize("config", [SMALL, STREAM], ids=["tree", "stream"])
def test_a_prompt_of_one_token(llama, config):
    ids = tiny.tokens(1)
    expected = tiny.llama("sdpa").generate(ids, max_new_tokens=10, do_sample=False)
    cache = TreeKVCache(config, llama.config)
    assert torch.equal(llama.generate(ids, past_key_values=cache, max_new_tokens=10, do_sample=False), expected)


@pytest.mark.parametrize("shape", [(0, 5), (1, 0)])
def test_nothing_to_read_is_refused(llama, shape):
    cache = TreeKVCache(SMALL, llama.config)
    with pytest.raises(TreeKVError, match=f"{shape[0]} rows of {shape[1]} tokens"):
        llama(torch.zeros(shape, dtype=torch.long), past_key_values=cache)


def test_a_row_of_padding_alone_does_not_disturb_the_others(llama):
    ids = torch.cat([tiny.tokens(30), torch.zeros(1, 30, dtype=torch.long)])
    mask = torch.stack([torch.ones(30), torch.zeros(30)]).long()
    settings = dict(max_new_tokens=10, do_sample=False, pad_token_id=0)
    cache = TreeKVCache(SMALL, llama.config)
    out = llama.generate(ids, attention_mask=mask, past_key_values=cache, **settings)
    alone = llama.generate(ids[:1], past_key_values=TreeKVCache(SMALL, llama.config), **settings)
    assert torch.equal(out[0], alone[0])
    assert cache.kept_positions(0)[1, 0].tolist() == [*range(9), -1, -1, -1]


def test_an_interrupted_pass_is_noticed_and_reset_mends_it(llama, monkeypatch):
    ids = tiny.tokens(20)
    cache = TreeKVCache(SMALL, llama.config)
    llama(ids, past_key_values=cache)
    original = llama.model.layers[1].forward

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(llama.model.layers[1], "forward", interrupted)
    with pytest.raises(KeyboardInterrupt):
        llama(ids[:, :1], past_key_values=cache)
    monkeypatch.setattr(llama.model.layers[1], "forward", original)
    with pytest.raises(TreeKVError, match=r"cache\.reset\(\)"):
        llama(ids[:, :1], past_key_values=cache)
    cache.reset()
    fresh = TreeKVCache(SMALL, llama.config)
    assert torch.equal(llama(ids, past_key_values=cache).logits, llama(ids, past_key_values=fresh).logits)


def test_another_attention_implementation_is_noticed():
    model = tiny.llama()
    cache = TreeKVCache(SMALL, model.config)
    model.set_attn_implementation("sdpa")
    with pytest.raises(TreeKVError, match=r"layer 0 .*did not attend.*set_attn_implementation\('treekv'\)"):
        model(tiny.tokens(5), past_key_values=cache)


def test_another_attention_implementation_is_noticed_in_one_layer_by_the_next_call():
    model = tiny.llama(num_hidden_layers=1)
    cache = TreeKVCache(SMALL, model.config)
    model.set_attn_implementation("sdpa")
    model(tiny.tokens(5), past_key_values=cache)
    with pytest.raises(TreeKVError, match=r"set_attn_implementation\('treekv'\)"):
        model(tiny.tokens(1), past_key_values=cache)


def test_weights_that_are_no_numbers_are_refused():
    model = tiny.llama()
    model.model.layers[1].self_attn.q_proj.weight.fill_(float("nan"))
    for config in (SMALL, STREAM, TreeKVConfig(policy="streaming", cache_size=12)):
        cache = TreeKVCache(config, model.config)
        with pytest.raises(TreeKVError, match="layer 1 is not made of finite numbers"):
            model(tiny.tokens(20), past_key_values=cache)
        with pytest.raises(TreeKVError, match=r"interrupted.*reset\(\)"):  # also where the last layer found it
            model(tiny.tokens(20), past_key_values=cache)


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("policy", ["tree", "streaming", "full"])
def test_no_number_while_decoding_is_refused(policy, layer):
    """On the CPU, in the very step; the cache then wants to be reset.

    Query, key and value are no numbers, as after an overflow: of a query alone some processors' kernels make zeros.
    """
    model = tiny.llama()
    cache = TreeKVCache(SMALL.for_policy(policy), model.config)
    model(tiny.tokens(20), past_key_values=cache)
    weight = model.model.layers[layer].input_layernorm.weight
    before = weight.clone()
    weight.fill_(float("nan"))
    with pytest.raises(TreeKVError, match="the model is not made of finite numbers"):
        model(tiny.tokens(1), past_key_values=cache)
    weight.copy_(before)
    with pytest.raises(TreeKVError, match=r"cache\.reset\(\)"):
        model(tiny.tokens(1), past_key_values=cache)
    cache.reset()
    model(tiny.tokens(20), past_key_values=cache)


def test_no_number_while_decoding_breaks_no_bound(monkeypatch):
    """Where nobody asks, as on a GPU, the books stay in order, and the next call of several tokens is refused."""
    model = tiny.llama()
    cache = TreeKVCache(SMALL, model.config)
    model(tiny.tokens(20), past_key_values=cache)
    model.model.layers[0].self_attn.q_proj.weight.fill_(float("nan"))
    monkeypatch.setattr(torch.Tensor, "is_cpu", False)
    step_by_step(model, cache, tiny.tokens(30))
    for layer in range(2):
        kept = cache.kept_positions(layer)
        assert kept.shape == (1, 2, 12) and (kept.diff() > 0).all()
        assert kept[..., :2].tolist() == [[[0, 1]] * 2] and kept[..., -4:].tolist() == [[[46, 47, 48, 49]] * 2]
    with pytest.raises(TreeKVError, match="layer 0 is not made of finite numbers"):
        model(tiny.tokens(2), past_key_values=cache)


def test_a_reused_buffer_of_positions_with_budgets(llama):
    """Layers of different sizes ask for different ranks, and the buffer changes under the same name."""
    config = TreeKVConfig(cache_size=12, sink_size=1, recent_size=3, budgets=(8, 16), prefill="stream", block_size=1)
    ids, buffer = tiny.tokens(60), torch.zeros(1, 1, dtype=torch.long)
    caches = [TreeKVCache(config, llama.config) for _ in range(2)]
    for step in range(60):
        buffer.fill_(step)
        token = ids[:, step : step + 1]
        reused = llama(token, position_ids=buffer, past_key_values=caches[0]).logits
        fresh = llama(token, position_ids=torch.tensor([[step]]), past_key_values=caches[1]).logits
        assert torch.allclose(reused, fresh, atol=1e-5)
    assert same_state(*caches)


@pytest.mark.parametrize("positions", ["rank", "original"])
def test_a_cache_filled_in_inference_mode_goes_on_without(positions):
    model, ids = tiny.llama(), tiny.tokens(30)
    config = TreeKVConfig(**{**dataclasses.asdict(SMALL), "trace": True, "positions": positions})
    cache, expected = TreeKVCache(config, model.config), TreeKVCache(config, model.config)
    with torch.inference_mode():
        for books in (cache, expected):
            model(ids, past_key_values=books)
            step_by_step(model, books, tiny.tokens(3))
        want = step_by_step(model, expected, tiny.tokens(5))
    with torch.inference_mode(False), torch.no_grad():
        got = step_by_step(model, cache, tiny.tokens(5))
    assert torch.equal(got, want) and same_state(cache, expected)


def test_no_graph_grows_on_the_cache():
    with torch.inference_mode(False), torch.enable_grad():
        model = tiny.llama()
        cache = TreeKVCache(SMALL, model.config)
        logits = model(tiny.tokens(20).clone(), past_key_values=cache).logits
        model(tiny.tokens(1).clone(), past_key_values=cache)
        assert logits.requires_grad
        for layer in cache.layers:
            assert not layer.keys.requires_grad and not layer.values.requires_grad
            assert not layer.owner.ledger.sums.requires_grad


def test_a_cache_for_another_model_is_noticed():
    cache = TreeKVCache(SMALL, tiny.llama().config)
    with pytest.raises(TreeKVError, match="2 layers, but layer 2"):
        tiny.llama(num_hidden_layers=3)(tiny.tokens(20), past_key_values=cache)
    with pytest.raises(TreeKVError, match="the second argument must be the configuration"):
        TreeKVCache(SMALL, tiny.llama())
    with pytest.raises(TreeKVError, match="the first argument must be a TreeKVConfig"):
        TreeKVCache(tiny.llama().config, SMALL)


def test_an_interrupt_in_a_sliding_layer_is_noticed(monkeypatch):
    model = make("gemma3", layers=3)
    cache = TreeKVCache(SMALL, model.config)
    model(tiny.tokens(20), past_key_values=cache)

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(model.model.layers[1], "forward", interrupted)
    with pytest.raises(KeyboardInterrupt):
        model(tiny.tokens(1), past_key_values=cache)
    monkeypatch.undo()
    with pytest.raises(TreeKVError, match=r"20 and 21"):
        model(tiny.tokens(1), past_key_values=cache)


def test_cropping_is_refused(llama):
    with pytest.raises(TreeKVError, match="cannot be cropped"):
        TreeKVCache(SMALL, llama.config).crop(-1)
