"""The old argument `keep` of `capture` and `capture_many`, accepted for one release with a DeprecationWarning."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable
from typing import Any, TypeVar, cast

from analysis.captures.capture import capture as capture_text
from analysis.captures.many import capture_many as capture_texts
from analysis.wavelets.capture_spectrum import capture_spectra, capture_spectrum
from analysis.wavelets.options import WaveletOptions
from treekv.errors import TreeKVError

Function = TypeVar("Function", bound=Callable[..., Any])


def accepts_keep(function: Function, spectrum_function: Callable[..., Any]) -> Function:
    """`function` that also accepts the old argument `keep`, whose "spectrum" is now `spectrum_function`."""

    @functools.wraps(function)
    def wrapper(*args: Any, keep: str = "qkv", **kwargs: Any) -> Any:
        if keep == "spectrum":
            old, new = function.__name__, spectrum_function.__name__
            warnings.warn(f'{old}(keep="spectrum") is deprecated; use analysis.{new}', DeprecationWarning, stacklevel=2)
            return spectrum_function(*args, **kwargs)
        if keep != "qkv":
            raise TreeKVError(f"keep is {keep!r}; give 'qkv' or 'spectrum'")
        for field in dataclasses.fields(WaveletOptions):
            if field.name in kwargs:
                raise TreeKVError(
                    f"{field.name!r} is a setting of the spectrum; use analysis.{spectrum_function.__name__}"
                )
        return function(*args, **kwargs)

    return cast(Function, wrapper)


capture = accepts_keep(capture_text, capture_spectrum)
capture_many = accepts_keep(capture_texts, capture_spectra)
