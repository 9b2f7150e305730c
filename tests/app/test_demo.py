"""The stages of the demo on a tiny model, against what the rooms below give by themselves."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

import analysis
from app import demo
from app.runs import folder as run_folder
from app.runs import pipeline
from tests import tiny
from tests.app.conftest import EVIL, TOKENS, words_tokenizer
from treekv import TreeKVCache, TreeKVConfig, TreeKVError


def test_the_settings_hold_a_sixteenth_and_differ_by_policy_alone() -> None:
    configs = demo.settings(2048)
    assert configs["tree"] == TreeKVConfig(
        policy="tree", cache_size=128, sink_size=4, recent_size=60, prefill="stream", block_size=16
    )
    assert configs["streaming"].cache_size == 128
    assert configs["streaming"].recent_size == 124
    assert list(configs) == ["full", "tree", "streaming"]


def test_recommended_settings_of_the_model_and_size_are_streamed_too() -> None:
    (config,) = demo.recommended("smollm2", 2048).values()
    shipped = TreeKVConfig.load("smollm2-128")
    assert config.budgets == shipped.budgets and (config.prefill, config.block_size) == ("stream", 16)
    assert demo.recommended("smollm2", 1000) == demo.recommended("a/model", 2048) == {}


@pytest.mark.parametrize("tokens", range(pipeline.LEAST_TOKENS, pipeline.LEAST_TOKENS + 40))
def test_any_number_of_tokens_gives_settings(tokens: int) -> None:
    assert demo.settings(tokens)["tree"].cache_size == tokens // 16


def test_a_short_text_is_refused() -> None:
    with pytest.raises(TreeKVError, match=r"the text has 255 tokens; at least 256 are needed"):
        pipeline.token_ids(words_tokenizer(), "w5 " * 255, 2048)


def test_no_more_tokens_than_asked_for() -> None:
    assert pipeline.token_ids(words_tokenizer(), "w5 " * 1000, 300).tolist() == [5] * 300


def test_streaming_compares_the_three_caches(small_chain: dict) -> None:
    caches = {cache["policy"]: cache for cache in small_chain["summary"]["streaming"]["caches"]}
    entry = 2 * 2 * 2 * 8 * 4  # layers, keys and values, KV heads, head dim, bytes
    assert caches["full"]["cache_bytes"] >= TOKENS * entry
    assert caches["streaming"]["cache_bytes"] == caches["tree"]["cache_bytes"] == (20 + 1) * entry
    nll = {policy: result.nll for policy, result in small_chain["streamed"].items()}
    torch.testing.assert_close(nll["full"][:19], nll["tree"][:19], atol=1e-4, rtol=1e-4)
    assert caches["tree"]["perplexity_once_full"] == pytest.approx(nll["tree"][19:].mean().exp().item(), rel=1e-5)
    assert len({round(cache["perplexity"], 6) for cache in caches.values()}) == 3


def test_the_continuation_is_what_generate_gives_with_the_saved_settings(small_chain: dict, small_run: Path) -> None:
    config = TreeKVConfig.load(small_run / "settings.json")
    model, tokenizer = tiny.llama(), words_tokenizer()
    ids = tiny.tokens(TOKENS)
    ids[0, -5] = 7
    output = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        past_key_values=TreeKVCache(config, model.config),
        do_sample=False,
        min_new_tokens=64,
        max_new_tokens=64,
        pad_token_id=1,
    )
    made = small_chain["summary"]["generation"]["continuations"][1]
    assert made["policy"] == "tree"
    assert made["text"] == tokenizer.decode(output[0, TOKENS:])


def test_the_run_folder_holds_what_was_made(small_chain: dict, small_run: Path) -> None:
    names = {
        "capture.nc",
        "spectrum.nc",
        "trends.nc",
        "trends-to-the-last-token.nc",
        "retention.nc",
        "settings.json",
        "report.html",
        "run.json",
    }
    assert {path.name for path in small_run.iterdir()} == names
    artifacts = small_chain["artifacts"]
    run = analysis.open(small_run / "capture.nc", "capture")
    assert torch.equal(run.token_ids, artifacts.capture.token_ids)
    assert torch.equal(run.q[1], artifacts.capture.q[1].half())
    assert analysis.open(small_run / "spectrum.nc", "spectrum").identical(artifacts.spectrum)
    retention = analysis.open(small_run / "retention.nc", "retention")
    np.testing.assert_array_equal(retention["evicted_at"], artifacts.retention["evicted_at"])
    assert retention["policy"].values.tolist() == ["tree", "streaming"]
    assert (retention["evicted_at"] == -1).sum("position").values.tolist() == [[[20, 20]] * 2] * 2
    assert TreeKVConfig.load(small_run / "settings.json") == small_chain["configs"]["tree"]
    manifest = json.loads((small_run / "run.json").read_text())
    assert manifest == {"format": "treekv-run", "version": 1, **small_chain["summary"]}
    assert run_folder.open_run(small_run).manifest == manifest


# ---------------------------------------------------------------------- the report


class Page(HTMLParser):
    """The report as a reader without scripts sees it: tables, text, and whatever would be fetched."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.fetched: list[str] = []
        self.tags: set[str] = set()
        self.scripts: list[str] = []
        self.text = ""
        self._inside: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.fetched += [value or "" for name, value in attributes if name in ("src", "srcset", "href", "data")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "script", "style"):
            self._inside.append(tag)
            if tag == "td":
                self.rows[-1].append("")
            if tag == "script":
                self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        if self._inside and self._inside[-1] == tag:
            self._inside.pop()

    def handle_data(self, data: str) -> None:
        inside = self._inside[-1] if self._inside else ""
        if inside == "td":
            self.rows[-1][-1] += data
        elif inside == "script":
            self.scripts[-1] += data
        elif inside == "":
            self.text += data


@pytest.fixture(scope="module")
def page(small_run: Path) -> Page:
    return Page((small_run / "report.html").read_text(encoding="utf-8"))


def test_the_report_fetches_nothing(page: Page) -> None:
    assert page.fetched == []
    assert "link" not in page.tags
    assert "img" not in page.tags


def test_plotly_is_in_the_report_once_and_draws_five_pictures(page: Page) -> None:
    assert sum(len(script) > 1_000_000 for script in page.scripts) == 1
    drawn = [script for script in page.scripts if "Plotly.newPlot" in script and len(script) < 1_000_000]
    assert len(drawn) == 5


def test_the_report_shows_its_tables_without_scripts(page: Page, small_chain: dict) -> None:
    cells = {row[0]: row[1:] for row in page.rows if row}
    summary = small_chain["summary"]
    for cache in summary["streaming"]["caches"]:
        row = cells[cache["title"]]
        assert row[1] == f"{cache['perplexity']:.2f}"
        assert row[2] == f"{cache['perplexity_once_full']:.2f}"
    assert cells["TreeKV"][0] == "20"
    for band in summary["claims"]["bands"]:
        assert cells[band["band"]][1] == f"{1e4 * band['rise']:+.2f}"
        assert cells[band["band"]][2] == f"{band['growth']:.2f}"
        assert cells[band["band"]][4] == band["claim_i"]


def test_text_in_the_report_is_shown_and_not_obeyed(page: Page, small_run: Path) -> None:
    assert "a text <i>of no words</i>" in page.text
    assert EVIL in page.text  # in the text's end, as text
    assert {"i", "img"} & page.tags == set()
    raw = (small_run / "report.html").read_text(encoding="utf-8")
    assert EVIL not in raw
    assert "</script><img" not in re.sub(r"\s", "", raw)


def test_the_report_gives_every_picture_words(page: Page, small_run: Path) -> None:
    raw = (small_run / "report.html").read_text(encoding="utf-8")
    assert len(re.findall(r'role="img" aria-label="[^"]{40,}"', raw)) == 5
    assert raw.count("<figcaption>") == 5
