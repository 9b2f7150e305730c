"""The options of the commands are those of `analysis.WaveletOptions`, with the same defaults."""

from __future__ import annotations

import dataclasses
import inspect

import pytest

from analysis import WaveletOptions
from analysis.wavelets.options import SINKS
from app.cli.capture import capture
from app.cli.spectrum import spectrum
from app.cli.wavelet_options import Sinks, Transform, wavelet_options


@pytest.mark.parametrize("command", [capture, spectrum])
def test_commands_have_every_option_with_its_default(command) -> None:
    given = inspect.signature(command).parameters
    for field in dataclasses.fields(WaveletOptions):
        default = given[field.name].default
        assert getattr(default, "value", default) == field.default, field.name


def test_the_choices_are_those_of_the_analysis() -> None:
    assert [one.value for one in Sinks] == list(SINKS)
    for transform in Transform:
        WaveletOptions(transform=transform.value).transform_for(100)


def test_the_given_options_are_passed_on() -> None:
    found = wavelet_options("db2", 3, "zero", Transform.packet, Sinks.include, 2)
    assert found == WaveletOptions("db2", 3, "zero", "packet", "include", 2)
