"""What is answered to a probe, and to everybody else."""

from __future__ import annotations

import pytest

from viphealth.conversation import LONGEST_REQUEST, Health, answer, is_whole
from viphealth.liveness import Pulses

WELL = Health()
STARTING = Health(unready="it is starting")
HUNG = Health(sick="the event loop has not turned for 2 s")


@pytest.mark.parametrize(
    ("heard", "health", "status", "body"),
    [
        pytest.param(b"GET /healthz HTTP/1.1\r\n\r\n", WELL, 200, "ok\n", id="live"),
        pytest.param(b"GET /readyz HTTP/1.1\r\n\r\n", WELL, 200, "ok\n", id="ready"),
        pytest.param(b"GET /healthz HTTP/1.1\r\n\r\n", STARTING, 200, "ok\n", id="live-while-not-ready"),
        pytest.param(b"GET /readyz HTTP/1.1\r\n\r\n", STARTING, 503, "it is starting\n", id="not-ready"),
        pytest.param(b"GET /healthz HTTP/1.1\r\n\r\n", HUNG, 503, HUNG.sick + "\n", id="not-live"),
        pytest.param(b"GET /readyz HTTP/1.1\r\n\r\n", HUNG, 503, HUNG.sick + "\n", id="hung-is-not-ready"),
        pytest.param(b"GET /readyz?verbose HTTP/1.0\n\n", WELL, 200, "ok\n", id="query-and-bare-newlines"),
        pytest.param(b"HEAD /readyz HTTP/1.1\r\n\r\n", WELL, 200, "", id="head"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", WELL, 404, "there are /healthz and /readyz\n", id="root"),
        pytest.param(b"POST /healthz HTTP/1.1\r\n\r\n", WELL, 405, "only GET is answered\n", id="post"),
        pytest.param(
            b"\x16\x03\x01\x00\xff\n\n",
            WELL,
            400,
            "this speaks HTTP: GET /healthz or GET /readyz\n",
            id="tls",
        ),
        pytest.param(b"x" * 5000, WELL, 431, "the request is too long\n", id="too-long"),
        pytest.param(
            b"GET /readyz HTTP/1.1\r\n\r\n",
            Health(unready="a\nb\r\n\r\nc"),
            503,
            "a b c\n",
            id="a-reason-is-one-line",
        ),
    ],
)
def test_a_probe_gets_one_line_and_its_status(heard: bytes, health: Health, status: int, body: str) -> None:
    assert is_whole(heard)
    head, _, said = answer(heard, health).decode().partition("\r\n\r\n")
    lines = head.split("\r\n")
    assert lines[0].split(" ")[:2] == ["HTTP/1.1", str(status)]
    assert "Connection: close" in lines
    assert said == body


def test_half_a_request_is_waited_for() -> None:
    assert not is_whole(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
    assert not is_whole(b"x" * LONGEST_REQUEST)


def test_a_loop_that_falls_silent_is_named() -> None:
    pulses = Pulses({"reconcile loop": 30.0, "leader election": 10.0}, 100.0)
    assert pulses.stopped(110.0) == ""
    pulses.beat("reconcile loop", 110.0)
    assert pulses.stopped(111.0) == "the leader election has not turned for 11 s"
    pulses.beat("leader election", 130.0)
    assert pulses.stopped(140.0) == ""
    assert pulses.stopped(141.0) == "the reconcile loop has not turned for 31 s"
