"""The page Generate: texts beside each other, stopping, the trace that flows back, and what can be wrong."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

import analysis
from app.dashboard.actions import generate as actions
from app.dashboard.actions.generate import FULL, OURS
from app.dashboard.session import loaded_model
from app.dashboard.session.settings import CHOSEN, encode
from app.generation import generate
from app.runs.captured_model import model_to_load
from app.text import wording
from app.text.wording import titled
from tests import tiny
from tests.app.conftest import EVIL, words_tokenizer
from tests.app.pages import alternatives, ended, page, said
from treekv import TreeKVConfig, TreeKVError
from treekv.attention import model_rotary

JOB = "generation-job"
SETTINGS = TreeKVConfig(cache_size=32, prefill="stream", block_size=8)
PROMPT = " ".join(f"w{number}" for number in tiny.tokens(60)[0].tolist())


@pytest.fixture
def tiny_model(monkeypatch: pytest.MonkeyPatch):
    """The page's jobs get a tiny random model, whatever they ask for."""
    loaded = (tiny.llama(), words_tokenizer())
    asked: list[str] = []
    monkeypatch.setattr(loaded_model, "get", lambda name: asked.append(name) or loaded)
    return loaded, asked


@pytest.fixture
def opened(small_run: Path, monkeypatch: pytest.MonkeyPatch):
    return lambda **query: page("generate", small_run, monkeypatch, settings=encode(SETTINGS), **query)


def submitted(test, prompt: str = PROMPT, tokens: int = 24, **switches: bool):
    test.text_area(key="generate-prompt").set_value(prompt)
    test.slider(key="generate-tokens").set_value(tokens)
    for name, value in switches.items():
        test.toggle(key=f"generate-{name}").set_value(value)
    return next(button for button in test.button if button.label == "Generate").click().run()


def expected(loaded, config: TreeKVConfig, tokens: int = 24):
    model, tokenizer = loaded
    ids = tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    return generate(model, tokenizer, ids, config, tokens)


def test_both_texts_and_their_figures_are_those_of_real_runs(tiny_model, opened) -> None:
    loaded, _ = tiny_model
    test = ended(submitted(opened()), JOB)
    assert not test.exception
    ours, cache = expected(loaded, SETTINGS)
    full, _ = expected(loaded, SETTINGS.for_policy("full"))
    outcome = test.session_state[JOB].result
    assert outcome.results[OURS].token_ids == ours.token_ids
    assert outcome.results[FULL].token_ids == full.token_ids
    assert [code.value for code in test.code[:2]] == [ours.text, full.text]
    shown = {metric.label: metric.value for metric in test.metric[:4]}
    assert shown["Tokens kept"] == "32"
    assert shown["Keys and values, float32"] == wording.size(cache.nbytes)
    assert [metric.value for metric in test.metric[4:] if metric.label == "Tokens kept"] == ["83"]


def test_the_page_says_which_positions_are_used_and_why(tiny_model, opened, monkeypatch: pytest.MonkeyPatch) -> None:
    switches = dict(tokens=8, beside=False, simulate=False)
    assert "Positions of kept tokens: rank." in said(ended(submitted(opened(), **switches), JOB), "caption")
    monkeypatch.setattr(model_rotary, "_refuted", {})
    model_rotary.refute(tiny_model[0][0].config, "it was seen to rotate otherwise")
    words = said(ended(submitted(opened(), **switches), JOB), "caption")
    assert "Positions of kept tokens: original, since positions='rank' is not possible for" in words
    assert "it was seen to rotate otherwise." in words


def test_the_first_prompt_is_the_end_of_the_text_and_longer_than_the_cache(opened, small_run) -> None:
    words = analysis.open(small_run / "retention.nc")["token"].values
    assert opened().text_area(key="generate-prompt").value == "".join(words[-3 * 32 :])


def test_a_real_run_is_called_by_its_policy() -> None:
    assert wording.policy_title("tree (real run)") == "TreeKV (real run)"
    assert wording.policy_title("mine") == "mine"


def test_where_the_texts_part_is_shown(tiny_model, opened) -> None:
    loaded, _ = tiny_model
    test = ended(submitted(opened()), JOB)
    ours, full = (expected(loaded, SETTINGS.for_policy(name))[0].token_ids for name in ("tree", "full"))
    place = next(index for index, (a, b) in enumerate(zip(ours, full)) if a != b)
    assert f"The first {place} tokens are equal" in " ".join(markdown.value for markdown in test.markdown)
    decode = loaded[1].decode
    assert [code.value for code in test.code[2:]] == [decode(ours[place:]), decode(full[place:])]


def test_texts_that_do_not_part_are_said_to_be_the_same(tiny_model, small_run, monkeypatch) -> None:
    test = page("generate", small_run, monkeypatch, settings="full")
    test = ended(submitted(test, tokens=8), JOB)
    assert "all 8 tokens are equal" in " ".join(markdown.value for markdown in test.markdown)


def test_a_text_that_never_fills_the_budget_proves_nothing_and_says_so(tiny_model, opened) -> None:
    test = ended(submitted(opened(), prompt=" ".join(PROMPT.split()[:10]), tokens=8), JOB)
    assert "None is possible: all 17 tokens fit the budget of 32, so none was evicted." in said(test, "info")
    test.switch_page("views/compare.py").run()
    assert "evicted nothing, so there is nothing to compare" in said(test, "info")


def test_texts_made_with_other_settings_than_those_chosen_say_so(tiny_model, opened) -> None:
    test = ended(submitted(opened(), beside=False, simulate=False), JOB)
    assert "other settings" not in said(test, "warning")
    test.session_state[CHOSEN] = SETTINGS.for_policy("streaming")
    assert "These texts were generated with other settings than those chosen now: TreeKV: 32 tokens" in said(
        test.run(), "warning"
    )


def test_the_full_cache_and_the_simulation_can_be_left_out(tiny_model, opened) -> None:
    test = ended(submitted(opened(), beside=False, simulate=False), JOB)
    outcome = test.session_state[JOB].result
    assert list(outcome.results) == [OURS]
    assert outcome.simulated is None
    assert len(test.code) == 1
    assert test.session_state["real_trace"].sizes["position"] == 83  # the last token was never processed


def test_the_trace_of_the_run_flows_back_and_lies_over_its_simulation(tiny_model, opened) -> None:
    (model, tokenizer), _ = tiny_model
    test = ended(submitted(opened()), JOB)
    real, simulated = test.session_state["real_trace"], test.session_state["simulated_trace"]
    ours, cache = expected((model, tokenizer), SETTINGS.replace(trace=True))
    assert real["policy"].values.tolist() == ["tree (real run)"]
    assert (real["evicted_at"].values == analysis.retention_from_cache(cache)["evicted_at"].values).all()
    ids = torch.tensor([*tokenizer(PROMPT)["input_ids"], *ours.token_ids])[:83]
    run = analysis.capture(model, None, ids, queries=1)
    again = analysis.simulate(run, {"tree (simulated)": SETTINGS}, prompt=60)
    assert (simulated["evicted_at"].values == again["evicted_at"].values).all()
    test.switch_page("views/compare.py").run()
    expected_alt = analysis.plot.retention_difference(
        titled(analysis.merge_retention(simulated, real)), policies=("TreeKV (simulated)", "TreeKV (real run)")
    ).layout.meta["alt"]
    assert alternatives(test)[-1] == expected_alt


def test_sampling_repeats_with_the_settings_seed(tiny_model, opened) -> None:
    test = opened()
    test.slider(key="generate-temperature").set_value(1.0)
    first = ended(submitted(test, beside=False), JOB).session_state[JOB].result
    second = ended(submitted(test, beside=False), JOB).session_state[JOB].result
    assert first is not second
    assert first.results[OURS].token_ids == second.results[OURS].token_ids
    assert first.results[OURS].token_ids != expected(tiny_model[0], SETTINGS)[0].token_ids


def test_a_generation_is_stopped_with_what_there_is(tiny_model, opened, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, _ = tiny_model
    loading, go = threading.Event(), threading.Event()

    def slowly(name: str):
        loading.set()
        go.wait(30)
        return loaded

    monkeypatch.setattr(loaded_model, "get", slowly)
    test = submitted(opened(), tokens=512)
    assert loading.wait(30)
    next(button for button in test.button if button.label == "Stop").click().run()
    go.set()
    test = ended(test, JOB)
    job = test.session_state[JOB]
    assert job.state == "stopped"
    assert job.result.results == {}  # not even the prompt was read to its end: there are no figures to show
    assert "Stopped." in [info.value for info in test.info]
    assert not test.metric
    assert any("Stopped while reading the prompt" in caption.value for caption in test.main.get("caption"))
    assert not test.exception


def test_texts_appear_as_they_come(tiny_model, opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the job runs the page shows the pieces that have come so far."""
    loaded, _ = tiny_model
    half, go = threading.Event(), threading.Event()
    whole = actions.generate

    def pausing(model, tokenizer, ids, config, tokens, show, temperature, **more):
        def shown(text: str) -> None:
            show(text)
            if len(pieces) == 3:
                half.set()
                go.wait(30)
            pieces.append(text)

        pieces: list[str] = []
        return whole(model, tokenizer, ids, config, tokens, shown, temperature, **more)

    monkeypatch.setattr(actions, "generate", pausing)
    test = submitted(opened(), beside=False)
    assert half.wait(30)
    test.run()
    events = [event for _, event in test.session_state[JOB].events]
    come = "".join(event for event in events if isinstance(event, str))
    paces = [event for event in events if not isinstance(event, str)]
    assert [pace.tokens for pace in paces] == list(range(1, len(paces) + 1))
    assert f"{len(paces)} tokens, " in test.main.get("caption")[1].value
    assert "of keys and values" in test.main.get("caption")[1].value
    text = expected(loaded, SETTINGS)[0].text
    assert test.code[0].value == (come or "…")
    assert text.startswith(come.strip())
    go.set()
    assert ended(test, JOB).code[0].value == text


@pytest.mark.parametrize("prompt", ["", "   "])
def test_an_empty_prompt_is_one_sentence(tiny_model, opened, prompt: str) -> None:
    test = ended(submitted(opened(), prompt), JOB)
    assert not test.exception
    assert said(test) == "The prompt is empty; give a text to continue."


def test_a_model_that_does_not_exist_is_one_sentence_and_the_page_goes_on(
    opened, tiny_model, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, _ = tiny_model

    def missing(name: str):
        raise TreeKVError(f"there is no file or folder {name!r}")

    monkeypatch.setattr(loaded_model, "get", missing)
    test = opened()
    test.text_input(key="generate-model").set_value(" ./nowhere ")
    test = ended(submitted(test), JOB)
    assert said(test) == "There is no file or folder './nowhere'."
    monkeypatch.setattr(loaded_model, "get", lambda name: loaded)
    test = ended(submitted(test, tokens=8, beside=False), JOB)
    assert not test.error
    assert test.code


def test_generated_text_is_never_markup(tiny_model, opened, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = tiny_model[0][1]
    monkeypatch.setattr(tokenizer, "decode", lambda ids, **options: EVIL)
    test = ended(submitted(opened(), tokens=8), JOB)
    assert not test.exception
    assert [code.value for code in test.code[:2]] == [EVIL, EVIL]
    assert not any(EVIL in sheet.proto.body for sheet in test.get("html"))
    others = [*test.markdown, *test.main.get("caption"), *test.info]
    assert not any(EVIL in element.value for element in others)


def test_without_a_run_a_prompt_can_be_generated_all_the_same(tiny_model, monkeypatch: pytest.MonkeyPatch) -> None:
    test = page("generate", None, monkeypatch)
    assert test.text_area(key="generate-prompt").value == ""
    assert test.text_input(key="generate-model").value == "smollm2"
    assert "Nothing generated yet" in test.info[-1].value
    test = ended(submitted(test, tokens=8, beside=False, simulate=False), JOB)
    assert tiny_model[1] == ["smollm2"]
    assert test.code


def test_a_run_names_its_model_as_it_is_loaded() -> None:
    assert model_to_load("SmolLM2-135M-Instruct") == "smollm2"
    assert model_to_load("owner/model") == "owner/model"
