"""Write a model that computes the same as another, but gives every query head a KV head of its own.

    python benchmarks/ungrouped_model.py smollm2 models/smollm2-ungrouped

With grouped queries one eviction serves several query heads; here each has its own cache, with as many tokens a head.
What differs between the two models under a policy is what grouping does to it.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from treekv import load_model


def ungrouped(model: torch.nn.Module) -> torch.nn.Module:
    """The same model with the key and value projections of a group repeated for each of its query heads."""
    config = copy.deepcopy(model.config)
    heads, groups = config.num_attention_heads, config.num_key_value_heads
    config.num_key_value_heads = heads
    weights = dict(model.state_dict())
    for name, weight in weights.items():
        if ".k_proj." in name or ".v_proj." in name:
            apart = weight.unflatten(0, (groups, -1))
            weights[name] = apart.repeat_interleave(heads // groups, 0).flatten(0, 1)
    made = AutoModelForCausalLM.from_config(config, dtype=model.dtype).eval()
    made.load_state_dict(weights)
    made.generation_config = model.generation_config
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    model, tokenizer = load_model(arguments.model)
    made = ungrouped(model)
    ids = torch.arange(64)[None]
    with torch.inference_mode():
        apart = (made(ids).logits - model(ids).logits).abs().max().item()
    made.save_pretrained(arguments.folder)
    tokenizer.save_pretrained(arguments.folder)
    groups, heads = model.config.num_key_value_heads, model.config.num_attention_heads
    print(f"{arguments.folder}: {heads} KV heads instead of {groups}; logits differ by at most {apart:.1e}")


if __name__ == "__main__":
    main()
