"""Records made for tests, of documents whose scores are known."""

from __future__ import annotations

from analysis.evaluation.sweep.records import Definition, Record
from treekv import TreeKVConfig, policies

EVIL = "<b>|_&$\\"


def record(name: str = "tree", document: int = 0, score: float | None = 1.0, **changes) -> Record:
    """One record of documents d0, d1, ... with their own facts."""
    budget = changes.pop("budget", None if name == "full" else 64)
    policy = {"policy": name} if name in policies.names() else {}
    config = None if name == "full" else dict(vars(TreeKVConfig(cache_size=64)), **policy | changes.pop("config", {}))
    of = {"model": "m", "dtype": None, "device": None, "task": "needle", "options": {}, "seed": 0}
    of |= {key: changes.pop(key) for key in list(changes) if key in of}
    key = changes.pop("document_key", f"d{document}")
    facts = changes.pop("facts", {"length": 512, "depth": 25.0 * (document % 3)})
    detail = changes.pop("detail", {"answer": "x"})
    scores = {} if score is None else {changes.pop("score_name", "score"): score, "cache_bytes": 2048.0}
    error = None if score is not None else changes.pop("error", "RuntimeError: no")
    about = changes.pop("about", {"versions": {"treekv": "1"}, "machine": {"cores": 2}})
    assert not changes
    definition = Definition(**of, name=name, config=config, budget=budget, document=key, content="c")
    return Record(of=definition, scores=scores, detail=detail, facts=facts, error=error, about=about)


def scores(records: list[Record], name: str, budget: int | None) -> dict[str, float]:
    return {
        str(r.of.document): r.scores["score"]
        for r in records
        if (r.of.name, r.of.budget) == (name, budget) and r.error is None
    }
