"""treekv plan: how large a cache can be, for a memory, users at once and a length of context."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from app import DEFAULT_MODEL
from app.cli.console import check_files, one_sentence, out, print_json, stage
from app.text.wording import plan_in_words, size


@one_sentence
def plan(
    memory: Annotated[str, typer.Option(help="Memory of the GPU or machine, such as 24GB or 16GiB.")],
    users: Annotated[int, typer.Option(min=1, help="Requests at once, each with a cache of its own.")] = 1,
    context: Annotated[int, typer.Option(min=1, help="Tokens of a request, prompt and answer together.")] = 32_768,
    model: Annotated[
        str, typer.Option(help="An alias, a model folder or a hub id; no weights are read.")
    ] = DEFAULT_MODEL,
    dtype: Annotated[str, typer.Option(help="Of weights, keys and values: float32, bfloat16 or float16.")] = "bfloat16",
    policy: Annotated[str, typer.Option(help="The eviction policy.")] = "tree",
    weights: Annotated[
        bool, typer.Option("--weights/--no-weights", help="Take the model's weights from the memory first.")
    ] = True,
    capture: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A file that treekv capture wrote with this model, to predict the loss at that size; runs the model.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """Say how large a cache can be: the tokens that fit, the bytes of a request, and what they save.

    Activations are not counted, nor are states of linear attention or convolution; leave some memory for them.

    Example: [bold]treekv plan --memory 24GB --users 64 --context 32768 --model smollm2[/]
    """
    check_files(capture)
    from treekv import TreeKVError

    make = _maker(policy)
    with stage(f"Reading the configuration of {model}"):
        from analysis.memory_plan import model_sizes, read_bytes
        from analysis.memory_plan import plan as make_plan
        from analysis.memory_size import check_dtype
        from treekv.models import load_config

        total = read_bytes(memory)
        check_dtype(dtype)
        sizes = model_sizes(load_config(model))
    taken = sizes.weight_bytes(dtype) if weights else 0
    if taken >= total:
        raise TreeKVError(
            f"the weights of {model} take {size(taken)} in {dtype}, and the memory is {size(total)}; use a smaller "
            "model or more memory"
        )
    found = make_plan(sizes, memory=total - taken, users=users, context=context, dtype=dtype, make=make)
    loss, note = (None, "") if capture is None else _loss(capture, model, found.config)
    notes = [note] if note else []
    if sizes.states:
        layers = "1 layer" if sizes.states == 1 else f"{sizes.states} layers"
        notes.append(f"The states that {layers} keep beside keys and values are not counted.")
    if as_json:
        print_json(
            {
                "settings": found.config.to_dict(),
                "bytes_per_request": found.request_bytes,
                "bytes_per_request_full": found.full_bytes,
                "users_full": found.users_full,
                "weights": taken,
                "predicted_loss_above_full": loss,
                "note": " ".join(notes),
            }
        )
        return
    lines = [f"Weights: {size(taken)} in {dtype}; {size(total - taken)} are left for keys and values."] if taken else []
    lines.append(plan_in_words(found, users, context, dtype))
    if loss is not None:
        lines.append(
            f"Predicted loss at that size: {loss:+.3f} nats a token above the full cache, on the captured text."
        )
    for line in [*lines, *notes]:
        out().print(escape(line), soft_wrap=True)


def _maker(policy: str) -> Any:
    from treekv import TreeKVConfig, policies

    rule = policies.get(policy)  # an unknown name is refused here
    streams = rule.evicts_decoding and rule.evicts_prompt

    def make(size: int) -> TreeKVConfig:
        config = TreeKVConfig(policy=policy, cache_size=size)
        return config.replace(prefill="stream") if streams else config

    return make


def _loss(capture: Path, model: str, config: Any) -> tuple[float | None, str]:
    """The predicted loss on the captured text, or why there is none."""
    import analysis
    from treekv import load_model

    with stage("Reading the capture"):
        captured = analysis.open(capture, "capture")
    if config.policy == "full":
        return 0.0, ""
    if config.cache_size >= captured.tokens:
        return None, (
            f"There is no predicted loss: all {captured.tokens:,} captured tokens fit into a cache of "
            f"{config.cache_size:,}; capture a longer text."
        )
    with stage(f"Loading {model}"):
        network, _ = load_model(model)
    prompt = 0 if config.prefill == "stream" else captured.tokens // 2
    with stage("Predicting the loss") as progress:
        table = analysis.replay(network, captured, {"planned": config}, prompt=prompt, progress=progress)
    return float(analysis.extra_loss(table).sel(policy="planned")), ""
