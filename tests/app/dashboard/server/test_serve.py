"""The server's options: who can reach it, and under which names."""

from __future__ import annotations

import socket

import pytest

from app.dashboard.server.serve import LOOPBACK, own_names, server_options
from treekv import TreeKVError


def test_the_server_is_closed_to_others() -> None:
    options = server_options("127.0.0.1", 8501)
    assert options["server.address"] == "127.0.0.1"
    assert set(options["server.allowedHosts"]) == set(LOOPBACK)
    assert options["server.enableCORS"] is True
    assert options["server.enableXsrfProtection"] is True
    assert options["browser.gatherUsageStats"] is False
    assert options["runner.postScriptGC"] is False  # or the jobs stand still while their progress is drawn
    assert options["client.showErrorDetails"] != "full"
    assert options["server.maxUploadSize"] < 200
    assert options["logger.hideWelcomeMessage"] is True  # with it go the offers that come after it


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "0"])
def test_a_server_on_all_addresses_answers_to_this_machines_own_names(host: str) -> None:
    options = server_options(host, 8501)
    assert options["server.address"] == host
    assert set(options["server.allowedHosts"]) == {*LOOPBACK, *own_names()}
    assert socket.gethostname() in own_names()
    assert options["browser.serverAddress"] == "127.0.0.1"


def test_other_names_are_answered_only_when_asked_for() -> None:
    options = server_options("192.0.2.1", 8501, ["[2001:db8::7]", "*.example.org"])
    assert set(options["server.allowedHosts"]) == {*LOOPBACK, "192.0.2.1", "2001:db8::7", "*.example.org"}
    for wrong in ("*", "", "http://runs.example.org", "runs.example.org:80", "a b"):
        with pytest.raises(TreeKVError, match="--allow-host takes the name or address of a host"):
            server_options("127.0.0.1", 8501, [wrong])
