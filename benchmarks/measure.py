"""Shared by the benchmarks: the models they run on, and measurements of memory."""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from treekv import load_model

TINY = "tiny"


def arguments_of(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The arguments of the command line. Options of other benchmarks are named and ignored, since `make bench
    ARGS=...` passes the same options to all."""
    arguments, others = parser.parse_known_args()
    if others:
        print(f"{parser.prog} has no option for {' '.join(others)} and goes on without", file=sys.stderr)
    return arguments


def model_of(name: str, **options: Any) -> Any:
    """A model by name; "tiny" is one with random weights, of which only time and memory are meaningful."""
    if name != TINY:
        return load_model(name, **options)[0]
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=256,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=131_072,
    )
    return LlamaForCausalLM(shape).to(dtype=options.get("dtype"), device=options.get("device")).eval()


def raised(prepare: Callable[..., Any], work: Callable[[Any], Any], *arguments: Any) -> float:
    """MB by which `work(prepare(*arguments))` raises the peak memory of a fresh process above its memory before
    `work` (Linux). A peak never falls, so each measurement needs its own process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_raised, (prepare, work, arguments))


def _raised(prepare: Callable[..., Any], work: Callable[[Any], Any], arguments: tuple[Any, ...]) -> float:
    prepared = prepare(*arguments)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak to the current memory
    before = kilobytes("VmHWM")
    work(prepared)
    return (kilobytes("VmHWM") - before) / 1024


def kilobytes(field: str) -> int:
    """A field of /proc/self/status (Linux), such as VmRSS, its current memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))
