"""What every command shares: where output goes, errors as one sentence, the stages of the work."""

from __future__ import annotations

import json

import pytest
import typer

from app.cli.console import err, one_sentence, out, print_json, stage
from treekv import TreeKVError


def test_results_and_progress_go_to_their_own_streams(capsys) -> None:
    out().print("a result")
    err().print("progress")
    assert capsys.readouterr() == ("a result\n", "progress\n")


def test_an_error_is_one_sentence_with_exit_status_2(capsys) -> None:
    @one_sentence
    def command(size: int) -> int:
        """Words for --help."""
        if size < 1:
            raise TreeKVError(f"size must be\n  at least 1, got [{size}]")
        return size

    assert command(3) == 3 and command.__doc__ == "Words for --help."
    with pytest.raises(typer.Exit) as exit_:
        command(0)
    assert exit_.value.exit_code == 2
    assert capsys.readouterr() == ("", "error: size must be at least 1, got [0]\n")


def test_a_fault_of_our_own_is_not_hidden() -> None:
    @one_sentence
    def command() -> None:
        raise ValueError("not the user's")

    with pytest.raises(ValueError, match="not the user's"):
        command()


def test_a_stage_is_one_line_where_there_is_no_terminal(capsys) -> None:
    with stage("Reading") as progress:
        progress(1, 2)
        assert capsys.readouterr().err == ""
    assert capsys.readouterr().err.startswith("Reading: ")


def test_a_stage_that_fails_reports_no_time(capsys) -> None:
    with pytest.raises(TreeKVError), stage("Reading"):
        raise TreeKVError("no such file")
    assert capsys.readouterr().err == ""


def test_json_is_alone_and_refuses_what_json_cannot_say(capsys) -> None:
    print_json({"text": "naïve", "number": 0.5})
    printed = capsys.readouterr().out
    assert json.loads(printed) == {"text": "naïve", "number": 0.5} and "naïve" in printed
    with pytest.raises(ValueError):
        print_json({"number": float("nan")})
