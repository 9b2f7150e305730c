"""Calling the commands in tests."""

from __future__ import annotations

from typer.testing import CliRunner, Result

from app.cli import app


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])
