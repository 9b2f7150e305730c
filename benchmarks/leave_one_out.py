"""Whether the exact damage of leaving one token out is a better score for prompts than attention; see docs/prompts.md.

    python benchmarks/leave_one_out.py --text wikitext-2-test.txt --text moby-dick.txt --stretches 2

If one token is left out of a softmax, the output o of a query moves by a / (1 - a) (o - v), a its weight and v its
value. To second order the loss then rises by (a / (1 - a))^2 (v - o)' C (v - o) / 2, C the mean of g g' over the head's
queries, g the gradient of the loss along the output. Scores are sums over the last 32 queries of a prompt and the query
heads of a group, pooled over five tokens as SnapKV's, beside the same with C = 1, and with heads that share what they
keep. C comes from the stretch before, never from the one that is measured. Printed is the loss of what follows the
prompt, predicted by `analysis.replay`, above the full cache, each line a stretch, then means and intervals of
differences from SnapKV.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

import analysis
import treekv
from analysis.evaluation.report.aggregate import estimate
from treekv.policies import NOTHING, Policy, Prompt, Selection, Settings
from treekv.policies.pooling import smooth
from treekv.policies.ranking import highest, with_protected

TOKENS, PROMPT, WINDOW, KEPT, SKIP = 2048, 1792, 32, 128, 3000
TABLE: dict[str, list[Tensor]] = {}  # of each policy, for each layer [kv_heads, tokens before the window]


class Scored(Policy):
    """Keep the window and the highest scores in `TABLE`."""

    by = NOTHING
    options = ("share_heads",)
    evicts_decoding = False
    depends_on_layer = True

    def __init__(self, name: str) -> None:
        self.name = name

    def default_recent_size(self, cache_size: int, sink_size: int) -> int:
        return WINDOW

    def default_sink_size(self) -> int:
        return 0

    def competing(self, settings: Settings, prompt: Prompt) -> Tensor:
        return TABLE[self.name][int(prompt.layer)][None]

    def select_prompt(self, settings: Settings, prompt: Prompt) -> Selection:
        scores = self.competing(settings, prompt)
        if isinstance(prompt.heads, Tensor):  # one head
            scores = scores[:, int(prompt.heads)][:, None]
        chosen = highest(scores, self.prompt_slots(settings, prompt))
        return Selection(with_protected(chosen, 0, prompt.length - WINDOW, prompt.length), None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, action="append", required=True)
    parser.add_argument("--stretches", type=int, default=2)
    arguments = parser.parse_args()
    if len(arguments.text) * arguments.stretches < 3:
        parser.error("at least three stretches are needed: the first one is only looked at")
    for name in ("leave one out", "plain norm"):
        treekv.register_policy(Scored(name))
    model, tokenizer = treekv.load_model("smollm2")
    snapkv = treekv.TreeKVConfig(policy="snapkv", cache_size=KEPT, positions="original")
    configs = {"snapkv": snapkv, "snapkv, shared": snapkv.replace(share_heads=True)}
    for name in ("leave one out", "plain norm"):
        own = treekv.TreeKVConfig(policy=name, cache_size=KEPT, positions="original")
        configs |= {name: own, f"{name}, shared": own.replace(share_heads=True)}
    rows: list[dict[str, float]] = []
    moments: list[Tensor] = []
    for file in arguments.text:
        ids = torch.tensor(tokenizer(file.read_text(encoding="utf-8"), verbose=False)["input_ids"][SKIP:])
        for number in range(arguments.stretches):
            step = len(ids) // arguments.stretches
            stretch = ids[number * step : number * step + TOKENS]
            captured = analysis.capture(model, tokenizer, stretch, max_tokens=TOKENS, sensitivity=True)
            if moments:
                fill(captured, moments)
                table = analysis.replay(model, captured, configs, prompt=PROMPT)
                rows.append(
                    {name: float(value) for name, value in zip(configs, analysis.extra_loss(table), strict=True)}
                )
                print(file.stem, number, *(f"{name} {loss:+.4f}" for name, loss in rows[-1].items()), flush=True)
            moments = [second_moment(captured.gradient(layer)) for layer in captured.layers]
    for name in configs:
        apart = estimate([row[name] - row["snapkv"] for row in rows])
        print(f"{name:24} {sum(row[name] for row in rows) / len(rows):+.4f}", end="")
        print(f"  minus snapkv {apart.mean:+.4f} ({apart.low:+.4f} to {apart.high:+.4f})" if name != "snapkv" else "")


def second_moment(gradient: Tensor) -> Tensor:
    """float32 [query_heads, dim, dim], the mean of g g' over queries; `gradient` [query_heads, T, dim]."""
    gradient = gradient[:, :-1].float()  # the last token predicts nothing
    return gradient.mT @ gradient / gradient.shape[1]


def fill(captured: analysis.Capture, moments: list[Tensor]) -> None:
    """The scores of the tokens of a prompt, pooled."""
    kernel, pooling = 5, "average"
    for table, identity in (("leave one out", False), ("plain norm", True)):
        TABLE[table] = []
        for place, layer in enumerate(captured.layers):
            weights = captured.weights(layer, range(PROMPT - WINDOW, PROMPT))[..., :PROMPT].float()
            values = captured.v[place][:, :PROMPT].float().repeat_interleave(weights.shape[0] // captured.kv_heads, 0)
            moment = torch.eye(values.shape[2]).expand(len(values), -1, -1) if identity else moments[place]
            outputs = weights @ values
            own, other = values @ moment, outputs @ moment
            # (v - o)' C (v - o) [query_heads, window, tokens]
            apart = (own * values).sum(2)[:, None] - 2 * other @ values.mT + (other * outputs).sum(2)[..., None]
            odds = (weights / (1 - weights).clamp(min=1e-6)).square()
            scores = (odds * apart.clamp(min=0)).sum(1).unflatten(0, (captured.kv_heads, -1)).sum(1)
            TABLE[table].append(smooth(scores[None, :, : PROMPT - WINDOW], kernel, pooling)[0])


if __name__ == "__main__":
    main()
