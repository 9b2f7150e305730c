"""The process in which OpenVINO GenAI generates: run as a file, so that nothing in the current folder is imported.

It reads one request, JSON, from standard input and writes one JSON object a line to standard output. What the engine
itself prints goes to standard error. A crash of the engine ends this process only.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

Event = dict[str, Any]


def generate(request: Event, tell: Callable[[Event], None]) -> None:
    """Continue `request["ids"]`, telling the version, each pass through the model, and each new token."""
    import numpy as np
    import openvino
    import openvino_genai as engine

    tell({"version": engine.__version__.split("-")[0]})
    scheduler = engine.SchedulerConfig()
    scheduler.num_kv_blocks = request["blocks"]
    scheduler.max_num_batched_tokens = request["tokens_at_once"]
    scheduler.enable_prefix_caching = False
    eviction = request["eviction"]
    scheduler.use_cache_eviction = eviction is not None
    if eviction is not None:
        mode = getattr(engine.AggregationMode, eviction["aggregation_mode"])
        scheduler.cache_eviction_config = engine.CacheEvictionConfig(**eviction | {"aggregation_mode": mode})
    pipeline = engine.ContinuousBatchingPipeline(request["model"], scheduler, "CPU", request["properties"])
    tell({"loaded": True})
    handle = pipeline.add_request(
        0, openvino.Tensor(np.array([request["ids"]], dtype=np.int64)), _generation(engine, request)
    )
    while pipeline.has_non_finished_requests():
        pipeline.step()
        metrics = pipeline.get_metrics()
        tell({"usage": metrics.cache_usage, "bytes": metrics.kv_cache_size_in_bytes})
        while handle.can_read():
            for output in handle.read().values():
                for token, log_prob in zip(output.generated_ids, output.generated_log_probs, strict=True):
                    tell({"token": token, "log_prob": log_prob})
    tell({"finished": True})


def _generation(engine: Any, request: Event) -> Any:
    chosen = engine.GenerationConfig()
    chosen.max_new_tokens = request["tokens"]
    chosen.logprobs = 1  # tokens come with their own
    chosen.stop_token_ids = set(request["stop_ids"])
    if request["temperature"]:
        chosen.do_sample, chosen.temperature, chosen.rng_seed = True, request["temperature"], request["seed"]
    return chosen


def main() -> int:
    # Only `tell` may write to the pipe; the engine's own messages go where errors go.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as pipe:
        os.dup2(2, 1)

        def tell(event: Event) -> None:
            pipe.write(json.dumps(event) + "\n")
            pipe.flush()

        try:
            generate(json.load(sys.stdin), tell)
        except Exception as error:  # whatever the engine refuses is its caller's sentence
            tell({"error": " ".join(str(error).split()) or type(error).__name__})
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
