"""Notifications through apprise to real mail servers and webhooks: good, silent, refusing and absent ones."""

from __future__ import annotations

import email
import email.policy
import http.client
import http.server
import json
import logging
import queue
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from aiosmtpd.controller import Controller as MailServer

from vipcontroller import notifier
from vipcontroller.notifications import Notification, Pace
from vipcontroller.notifier import Notifier

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# One of apprise's own libraries asks for an old module of Python's when it is imported.
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")

PATIENCE_S = 20.0
FAST = Pace(gather_s=0.05, pause_s=0.05)
SECRET = "hunter2"  # noqa: S105 - looked for in everything that is logged


class Counts:
    """What the notifier counts; `wait` for a result of a target."""

    def __init__(self) -> None:
        self.found: Counter[tuple[str, str]] = Counter()
        self.changed = threading.Condition()

    def __call__(self, target: str, result: str) -> None:
        with self.changed:
            self.found[target, result] += 1
            self.changed.notify_all()

    def wait(self, target: str, result: str, times: int = 1) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self.found[target, result] >= times, PATIENCE_S), self.found


class Mailbox:
    """What a mail server was given, parsed."""

    def __init__(self) -> None:
        self.mails: queue.Queue[Any] = queue.Queue()

    async def handle_DATA(self, _server: object, _session: object, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's
        self.mails.put(email.message_from_bytes(envelope.content, policy=email.policy.default))
        return "250 OK"


@pytest.fixture
def mailbox() -> Iterator[tuple[Mailbox, int]]:
    box = Mailbox()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = MailServer(box, hostname="127.0.0.1", port=port)
    server.start()
    yield box, port
    server.stop()


@contextmanager
def webhook(status: int = 200) -> Iterator[tuple[queue.Queue[Any], int]]:
    """Serve a webhook that answers so to whatever it is told; yields what it was told, and its port."""
    told: queue.Queue[Any] = queue.Queue()

    class Hook(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(status)
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the library's name
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield told, server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def counts() -> Counts:
    return Counts()


@pytest.fixture
def said() -> Iterator[queue.Queue[str]]:
    """What the controller's log says, as it says it."""
    lines: queue.Queue[str] = queue.Queue()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.put(record.getMessage())

    logger, listener = logging.getLogger("vipcontroller"), Listener()
    logger.addHandler(listener)
    logger.setLevel(logging.INFO)
    yield lines
    logger.removeHandler(listener)
    logger.setLevel(logging.NOTSET)


@contextmanager
def notifying(
    path: Path, text: str | None, counts: Counts, pace: Pace = FAST, hanging_s: float = 60.0
) -> Iterator[Notifier]:
    if text is not None:
        path.write_text(text)
    found = Notifier(path, count=counts, pace=pace, reload_s=0.05, hanging_s=hanging_s)
    found.start()
    try:
        yield found
    finally:
        found.stop()


def targets(**urls: str) -> str:
    return json.dumps(
        {"cluster": "berlin", "targets": [{"name": name, "url": url} for name, url in urls.items()]}
    )


def moved(number: int = 0) -> Notification:
    return Notification("OwnerChanged", f"VirtualIP vip-{number}", "", "Moved from node-a to node-b <&>")


def test_five_hundred_moved_addresses_are_one_mail(
    tmp_path: Path, mailbox: tuple[Mailbox, int], counts: Counts
) -> None:
    box, port = mailbox
    url = f"mailto://127.0.0.1:{port}?from=vip@example.com&to=ops@example.com"
    with notifying(tmp_path / "settings", targets(ops=url), counts, Pace(0.5, 0.0)) as found:
        for number in range(500):
            found.offer([moved(number)])
        mail = box.mails.get(timeout=PATIENCE_S)
        counts.wait("ops", "ok")
    assert mail["Subject"] == "vipkeeper berlin: 500 moved"
    assert mail["To"] == "ops@example.com"
    text = mail.get_body(("plain", "html")).get_content()
    assert "VirtualIP vip-0: Moved from node-a to node-b" in text
    assert "480 more" in text
    assert box.mails.empty()
    assert counts.found == {("ops", "ok"): 1}


def test_a_webhook_is_told_what_happened_and_how_bad_it_is(tmp_path: Path, counts: Counts) -> None:
    with (
        webhook() as (told, port),
        notifying(tmp_path / "settings", targets(chat=f"json://127.0.0.1:{port}/{SECRET}"), counts) as found,
    ):
        found.offer([Notification("ServiceFailed", "ServiceFailover prod/app", "prod", "exit status 1")])
        document = told.get(timeout=PATIENCE_S)
    assert document["title"] == "vipkeeper berlin: ServiceFailover prod/app failed"
    assert "exit status 1" in document["message"]
    assert document["type"] == "failure"


def test_one_that_hangs_delays_neither_the_others_nor_the_caller_nor_the_end(
    tmp_path: Path, counts: Counts, caplog: pytest.LogCaptureFixture
) -> None:
    with webhook() as (told, port), socket.create_server(("127.0.0.1", 0)) as silent:
        text = targets(
            silent=f"mailto://u:{SECRET}@127.0.0.1:{silent.getsockname()[1]}?from=a@example.com&to=b@example.com",
            chat=f"json://127.0.0.1:{port}",
        )
        with notifying(tmp_path / "settings", text, counts, hanging_s=0.2) as found:
            for number in range(3):
                found.offer([moved(number)])
                told.get(timeout=PATIENCE_S)
            counts.wait("silent", "hanging")
            end = time.monotonic()
        assert time.monotonic() < end + notifier.FAREWELL_S + 2
    assert "silent has not answered" in caplog.text
    assert SECRET not in caplog.text


def test_one_that_refuses_is_tried_again_and_then_told_of_without_its_address(
    tmp_path: Path, counts: Counts, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with (
        webhook(status=500) as (told, port),
        notifying(
            tmp_path / "settings", targets(chat=f"json://user:{SECRET}@127.0.0.1:{port}/{SECRET}"), counts
        ) as found,
    ):
        found.offer([moved()])
        counts.wait("chat", "error", times=3)
        found.offer([moved(1)])
        counts.wait("chat", "error", times=4)
    assert told.qsize() >= 4
    ours = [record.getMessage() for record in caplog.records if record.name == "vipcontroller"]
    failures = [text for text in ours if text.startswith("Could not notify chat")]
    assert ["it is tried again" in text for text in failures[:4]] == [True, True, False, True]
    assert SECRET not in "".join(ours)
    assert not [record for record in caplog.records if record.name.startswith("apprise")]


def test_one_that_wants_no_moves_is_not_told_to_be_down_who_has_an_owner_again(
    tmp_path: Path, counts: Counts
) -> None:
    with webhook() as (told, port):
        target = {"name": "chat", "url": f"json://127.0.0.1:{port}", "kinds": ["NoOwner"]}
        text = json.dumps({"targets": [target]})
        with notifying(tmp_path / "settings", text, counts, Pace(3600.0, 0.0)) as found:
            found.offer([Notification("NoOwner", f"VirtualIP vip-{number}", "", "why") for number in (1, 2)])
            found.offer([moved(1)])
        assert told.get(timeout=PATIENCE_S)["title"] == "vipkeeper: VirtualIP vip-2 down"


def test_what_a_library_says_of_an_answer_does_not_tell_the_address(
    tmp_path: Path, counts: Counts, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with (
        babbler() as port,
        notifying(
            tmp_path / "settings", targets(chat=f"json://127.0.0.1:{port}/hooks/{SECRET}"), counts
        ) as found,
    ):
        found.offer([moved()])
        counts.wait("chat", "ok")
        logging.getLogger("urllib3.connectionpool").warning("of another thread")
    assert SECRET not in caplog.text
    assert "of another thread" in caplog.text
    assert "Notifying: chat" in caplog.text


@contextmanager
def babbler() -> Iterator[int]:
    """Serve one request with a header that is none, which urllib3 warns of with the whole address."""

    def answer() -> None:
        connection, _ = server.accept()
        with connection, connection.makefile("rb") as request:
            request.readline()
            headers = http.client.parse_headers(request)
            request.read(int(headers["Content-Length"] or 0))
            connection.sendall(b"HTTP/1.1 200 OK\r\nno header\r\nContent-Length: 0\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=answer)
        thread.start()
        yield server.getsockname()[1]
        thread.join()


def test_one_that_is_not_there_is_counted(tmp_path: Path, counts: Counts) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with notifying(tmp_path / "settings", targets(gone=f"json://127.0.0.1:{port}"), counts) as found:
        found.offer([moved()])
        counts.wait("gone", "error")


def test_an_address_that_apprise_does_not_know_is_told_of_without_it(
    tmp_path: Path, counts: Counts, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        webhook() as (told, port),
        notifying(
            tmp_path / "settings", targets(bad=f"pigeon://{SECRET}", chat=f"json://127.0.0.1:{port}"), counts
        ) as found,
    ):
        counts.wait("bad", "error")
        found.offer([moved()])
        told.get(timeout=PATIENCE_S)
    assert "target bad is not used" in caplog.text
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    "text", [pytest.param(None, id="no file"), pytest.param(f"targets: {SECRET}", id="unusable")]
)
def test_a_file_that_cannot_be_used_notifies_nobody_until_it_is_corrected(
    tmp_path: Path, counts: Counts, caplog: pytest.LogCaptureFixture, text: str | None
) -> None:
    path = tmp_path / "settings"
    with webhook() as (told, port), notifying(path, text, counts) as found:
        found.offer([moved()])
        assert f"Nobody is notified: {path} cannot be used" in caplog.text
        assert SECRET not in caplog.text
        path.write_text(targets(chat=f"json://127.0.0.1:{port}"))
        told_of(found, told)


def told_of(found: Notifier, told: queue.Queue[Any]) -> Any:
    """Let things happen until somebody who is read from a file at some time is told."""
    for number in range(1000):
        found.offer([moved(number)])
        try:
            return told.get(timeout=0.1)
        except queue.Empty:
            continue
    raise AssertionError("nobody was told")


def test_a_file_that_changes_is_read_anew_and_who_stays_loses_nothing(
    tmp_path: Path, counts: Counts, said: queue.Queue[str]
) -> None:
    path = tmp_path / "settings"
    with webhook() as (first, port), webhook() as (second, other):
        one, two = f"json://127.0.0.1:{port}", f"json://127.0.0.1:{other}"
        with notifying(path, targets(first=one), counts, Pace(3600.0, 0.0)) as found:
            found.offer([moved(1)])
            path.write_text(targets(first=one, second=two))
            while said.get(timeout=PATIENCE_S) != "Notifying: first, second":
                pass
            found.offer([moved(2)])
        document = first.get(timeout=PATIENCE_S)
    assert document["title"] == "vipkeeper berlin: 2 moved"
    assert second.get(timeout=PATIENCE_S)["title"] == "vipkeeper berlin: VirtualIP vip-2 moved"


def test_what_was_gathered_is_sent_at_the_end(tmp_path: Path, counts: Counts) -> None:
    with webhook() as (told, port):
        url = f"json://127.0.0.1:{port}"
        with notifying(tmp_path / "settings", targets(chat=url), counts, Pace(3600.0, 3600.0)) as found:
            found.offer([moved()])
        assert told.get(timeout=PATIENCE_S)["title"] == "vipkeeper berlin: VirtualIP vip-0 moved"


def test_without_a_target_apprise_is_not_in_memory(tmp_path: Path) -> None:
    (tmp_path / "settings").write_text("targets: []")
    script = f"""
import sys
from pathlib import Path
import vipcontroller.__main__
from vipcontroller.notifier import Notifier
notifier = Notifier(Path({str(tmp_path / "settings")!r}), count=print)
notifier.start()
notifier.offer([])
notifier.stop()
sys.exit("apprise" in sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
