"""treekv generate: comparisons, interruption, what is printed."""

from __future__ import annotations

import json
import re

import pytest
import torch
from typer.testing import CliRunner

from app.cli import app
from app.cli import generate as cli_generate
from app.generation import generate, parting
from tests import tiny
from treekv import TreeKVConfig, TreeKVError


class Words:
    """A tokenizer in which token n is the word "wn"."""

    eos_token_id = 0

    def __call__(self, text: str, **_) -> dict[str, torch.Tensor]:
        return {"input_ids": tiny.tokens(len(text.split()))}

    def decode(self, ids, **_) -> str:
        return "".join(f" w{int(i)}" for i in torch.as_tensor(ids).reshape(-1))


SMALL = TreeKVConfig(cache_size=12, sink_size=2, recent_size=4, block_size=2)


@pytest.mark.parametrize(
    "one, other, place", [([1, 2], [1, 2], None), ([1, 2, 3], [1, 5, 3], 1), ([1], [1, 2], 1), ([], [], None)]
)
def test_parting(one, other, place):
    assert parting(one, other) == place


def test_what_is_recorded_is_what_was_generated(llama):
    ids = tiny.tokens(30)
    pieces = []
    result, cache = generate(llama, Words(), ids, SMALL, 10, pieces.append)
    from treekv import TreeKVCache

    expected = llama.generate(
        ids, past_key_values=TreeKVCache(SMALL, llama.config), max_new_tokens=10, do_sample=False, pad_token_id=0
    )[0, 30:].tolist()
    assert result.token_ids == expected
    assert "".join(pieces) == result.text == Words().decode(expected)
    assert result.prompt_tokens == 30 and result.kept_tokens == 12 and not result.stopped
    entry = 2 * 2 * 2 * 8 * 4  # layers, key and value, KV heads, channels, bytes
    assert result.cache_bytes == (12 + 1) * entry == cache.nbytes
    assert result.full_bytes == 39 * entry
    assert result.prompt_seconds > 0 and result.tokens_per_second > 0


def test_it_says_how_far_it_is_after_each_token(llama):
    paces = []
    result, cache = generate(llama, Words(), tiny.tokens(30), SMALL, 10, on_token=paces.append)
    assert [pace.tokens for pace in paces] == list(range(1, 11))
    assert paces[0].tokens_per_second is None
    assert paces[-1].tokens_per_second == result.tokens_per_second > 0
    assert paces[-1].cache_bytes == cache.nbytes


def test_it_can_be_stopped_between_two_layers_of_the_prompt(llama):
    asked = []

    def check():
        asked.append(None)
        if len(asked) == 2:
            raise KeyboardInterrupt

    result, _ = generate(llama, Words(), tiny.tokens(30), SMALL, 10, check=check)
    assert len(asked) == 2 and result.stopped
    assert result.token_ids == [] and result.prompt_seconds is None


def test_ctrl_c_ends_with_what_there_is(llama):
    pieces = []

    def impatient(text: str) -> None:
        pieces.append(text)
        if len("".join(pieces).split()) >= 4:
            raise KeyboardInterrupt

    result, _ = generate(llama, Words(), tiny.tokens(20), SMALL, 200, impatient)
    assert result.stopped and 4 <= len(result.token_ids) < 200
    assert result.text.startswith("".join(pieces))


def test_sampling_repeats_with_the_seed_of_the_settings(llama):
    texts = [
        generate(llama, Words(), tiny.tokens(20), SMALL.replace(seed=seed), 12, temperature=1.5)[0].token_ids
        for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize("tokens", [1, 9, 64, 65])
@pytest.mark.parametrize("policy", ["tree", "full"])
def test_the_full_size_is_that_of_the_tokens_read(llama, tokens, policy):
    """Not that of the room which a cache has for more of them."""
    config = TreeKVConfig(policy=policy, cache_size=128)
    result, _ = generate(llama, Words(), tiny.tokens(tokens), config, 3)
    assert result.full_bytes == (tokens + 2) * 2 * 2 * 2 * 8 * 4  # the last token is not read


@pytest.mark.parametrize("temperature", ["1e-45", "0.0009", "inf"])
def test_a_temperature_at_which_nothing_can_be_sampled(llama, temperature):
    with pytest.raises(TreeKVError, match=r"at least 0\.001"):
        generate(llama, Words(), tiny.tokens(5), SMALL, 3, temperature=float(temperature))
    result = CliRunner().invoke(app, ["generate", "a", "--model", "none", "--temperature", temperature])
    assert result.exit_code == 2 and "temperature must be 0 (greedy) or a number of at least 0.001" in result.stderr
    assert "Loading" not in result.stderr


def test_a_prompt_that_is_no_text():
    result = CliRunner().invoke(app, ["generate", "\udcff", "--model", "none"])
    assert result.exit_code == 2 and "the prompt is not UTF-8 text" in result.stderr


def test_the_height_of_the_tree_is_a_setting():
    result = CliRunner().invoke(app, ["generate", "a", "--model", "none", "--policy", "h2o", "--max-height", "3"])
    assert result.exit_code == 2 and "max_height is an option of policies 'tree', 'tree_left'" in result.stderr
    assert cli_generate._config(None, max_height=3) == TreeKVConfig(max_height=3)


def test_positions_are_a_setting():
    result = CliRunner().invoke(app, ["generate", "a", "--model", "none", "--positions", "true"])
    assert result.exit_code == 2
    assert "positions must be one of 'rank', 'original', 'compressed', got 'true'" in result.stderr
    assert cli_generate._config(None, positions="compressed") == TreeKVConfig(positions="compressed")


def test_a_second_run_that_is_stopped_does_not_part(llama, monkeypatch):
    """What Ctrl-C left of it is all that can be compared."""
    monkeypatch.setattr("treekv.load_model", lambda name: (llama, Words()))

    def run(network, tokenizer, ids, config, tokens, show, temperature):
        shown = []

        def impatient(text: str) -> None:
            shown.append(text)
            show(text)
            if config.policy == "full" and len("".join(shown).split()) >= 3:
                raise KeyboardInterrupt

        return generate(network, tokenizer, ids, config, tokens, impatient, temperature)

    monkeypatch.setattr("app.generation.generate", run)
    arguments = ["generate", "a b", "--cache-size", "64", "--tokens", "8", "--compare", "full"]
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 130 and "part after" not in shown.stderr
    assert re.search(r"full was stopped after [34] tokens, all equal to those of tree", shown.stderr)
    printed = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert printed["equal_tokens"] is None and printed["compared"]["stopped"] is True


def test_full_cache_and_settings_side_by_side(smollm2):
    """The real model: one command, both texts, the place where they part."""
    prompt = "The history of mathematics begins with counting. " * 12
    arguments = ["generate", prompt, "--cache-size", "64", "--tokens", "8", "--compare", "full"]
    printed = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert printed["settings"]["policy"] == "tree" and printed["compared"]["settings"]["policy"] == "full"
    assert printed["kept_tokens"] == 64 and printed["compared"]["kept_tokens"] > 100
    assert printed["cache_bytes"] < printed["full_bytes"] <= printed["compared"]["cache_bytes"]
    place = printed["equal_tokens"]
    ours, theirs = printed["token_ids"], printed["compared"]["token_ids"]
    assert place is None or (ours[:place] == theirs[:place] and ours[place : place + 1] != theirs[place : place + 1])
    shown = CliRunner().invoke(app, arguments)
    assert ("texts diverge after" in shown.stderr) == (place is not None)
    assert "64 tokens kept" in shown.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "prompt_score"], "--set takes NAME=VALUE, such as prefill=stream, got 'prompt_score'"),
        (["--set", "=3"], "--set takes NAME=VALUE, such as prefill=stream, got '=3'"),
        (["--set", "scope=4", "--set", "scope=8"], "--set scope is given twice"),
        (["--set", "cache_size=64", "--cache-size", "32"], "cache_size is given twice, by --cache-size and by --set"),
        (["--set", "colour=red"], "unknown key 'colour' in settings; known keys are policy, cache_size"),
        (["--set", "prompt_score=past"], "prompt_score must be one of 'window', 'future', got 'past'"),
        (["--set", "scope={"], "'{' is not YAML"),
    ],
)
def test_wrong_settings_by_name_are_one_sentence(words: list[str], message: str):
    result = CliRunner().invoke(app, ["generate", "a", "--model", "none", *words])
    assert result.exit_code == 2 and message in " ".join(result.stderr.split())
    assert "Loading" not in result.stderr


def test_every_setting_can_be_given_by_name():
    given = cli_generate._further(["prompt_score=future", "scope=8", "recent_budgets=null"], {"cache_size": 64})
    assert given == {"prompt_score": "future", "scope": 8, "recent_budgets": None}
    config = cli_generate._config("smollm2-128", recent_budgets=None, scope=4)
    assert (config.scope, config.recent_budgets) == (4, None)
