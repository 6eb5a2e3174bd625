"""Which happenings are worth a notification, whom they concern, and how many become one message."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vipapi.resources import ObjectMeta, ServiceFailoverStatus, SwitchoverStatus, VirtualIPStatus
from vipcontroller.notifications import (
    ATTEMPTS,
    KINDS,
    LINES,
    MOST,
    Digest,
    Kind,
    Notification,
    of,
    read,
)
from vipcontroller.writes import FinalizerWrite, SecretWrite, StatusWrite, Telling

SETTINGS = b"""
cluster: berlin
targets:
- name: ops
  url: mailtos://user:hunter2@example.com
- {name: team, url: "json://x", kinds: [ServiceFailed], namespaces: [billing]}
"""


def moved(name: str = "web", note: str = "from a to b") -> Notification:
    return Notification("OwnerChanged", f"VirtualIP {name}", "", note)


def fallen(name: str = "web", kind: Kind = "NoOwner") -> Notification:
    return Notification(kind, f"VirtualIP {name}", "", "nobody has it")


def telling(reason: str, note: str = "why") -> Telling:
    return Telling(type="Warning", action="Observe", reason=reason, note=note)


@pytest.mark.parametrize("reason", sorted(KINDS))
def test_what_is_told_of_an_object_is_worth_a_notification(reason: str) -> None:
    meta = ObjectMeta(name="billing", namespace="prod")
    write = StatusWrite(
        kind="ServiceFailover", metadata=meta, status=ServiceFailoverStatus(), tellings=(telling(reason),)
    )
    assert of(write) == (Notification(KINDS[reason], "ServiceFailover prod/billing", "prod", "why"),)


def test_what_nobody_need_wake_up_for_is_not() -> None:
    meta = ObjectMeta(name="web")
    elected = StatusWrite(
        kind="VirtualIP", metadata=meta, status=VirtualIPStatus(), tellings=(telling("FirstChoice"),)
    )
    asked = StatusWrite(
        kind="Switchover", metadata=meta, status=SwitchoverStatus(), tellings=(telling("NoOwner"),)
    )
    for write in (
        elected,
        asked,
        SecretWrite("key"),
        FinalizerWrite(kind="VirtualIP", metadata=meta, finalizers=()),
    ):
        assert of(write) == ()


def test_a_target_is_told_of_its_kinds_and_namespaces_only() -> None:
    ops, team = read(SETTINGS).targets
    failure = Notification("ServiceFailed", "ServiceFailover billing/app", "billing", "exit status 1")
    assert ops.wants(failure)
    assert ops.wants(moved())
    assert team.wants(failure)
    assert not team.wants(failure._replace(namespace="shop"))
    assert not team.wants(failure._replace(kind="Degraded"))
    assert not team.wants(failure._replace(namespace="")), "an address of everybody is not of the team"


def test_settings_are_read_and_an_empty_list_notifies_nobody() -> None:
    settings = read(SETTINGS)
    assert settings.cluster == "berlin"
    assert [target.name for target in settings.targets] == ["ops", "team"]
    assert read(b"targets: []").targets == ()


def test_a_target_never_shows_its_address() -> None:
    assert "hunter2" not in repr(read(SETTINGS)) + str(read(SETTINGS).targets[0])


@pytest.mark.parametrize(
    ("text", "place"),
    [
        pytest.param("", "`$`", id="empty"),
        pytest.param("- hunter2", "`$`", id="a list"),
        pytest.param("hunter2", "`$`", id="an address alone"),
        pytest.param("targets: [{name: hunter2}]", "`$.targets[0]`", id="no address"),
        pytest.param("targets: [{url: hunter2}]", "`$.targets[0]`", id="no name"),
        pytest.param("targets: [{name: a, url: [hunter2]}]", "`$.targets[0].url`", id="a list of addresses"),
        pytest.param(
            "targets: [{name: a, url: x, kinds: [hunter2]}]", "`$.targets[0].kinds[0]`", id="no such kind"
        ),
        pytest.param("targets: [{name: a, url: x, hunter2: 1}]", "`$.targets[0]`", id="an unknown field"),
        pytest.param("urls: [hunter2]", "`$`", id="apprise's own format"),
        pytest.param("targets: [hunter2\ncluster: a: b", "line 2", id="no yaml"),
        pytest.param("!!python/object/apply:os.system [hunter2]", "YAML", id="a program"),
        pytest.param("targets: [{name: a, url: x}, {name: a, url: hunter2}]", "'a'", id="one name twice"),
    ],
)
def test_settings_that_cannot_be_used_say_where_and_nothing_of_their_contents(text: str, place: str) -> None:
    with pytest.raises(ValueError, match=re.escape(place)) as refusal:
        read(text.encode())
    assert "hunter2" not in str(refusal.value)
    assert "hunter2" not in repr(refusal.value.__cause__)


def test_settings_in_another_encoding_are_no_crash() -> None:
    with pytest.raises(ValueError, match=r"UTF-8|YAML"):
        read("targets: [{name: \xfc, url: x}]".encode("latin-1"))


def test_one_happening_is_a_title_of_its_own() -> None:
    digest = Digest("berlin")
    digest.receive(fallen(), 0.0)
    assert digest.deadline == 5.0
    message = digest.take(5.0)
    assert message is not None
    assert message.title == "vipkeeper berlin: VirtualIP web down"
    assert message.body == "1 down:\nVirtualIP web: nobody has it"
    assert message.severity == "failure"
    assert digest.deadline is None


def test_five_hundred_addresses_that_move_are_one_message() -> None:
    digest = Digest()
    for number in range(500):
        digest.receive(moved(f"vip-{number:03}"), number / 1000)
    message = digest.take(5.0)
    assert message is not None
    assert message.title == "vipkeeper: 500 moved"
    lines = message.body.splitlines()
    assert len(lines) == LINES + 2
    assert lines[1] == "VirtualIP vip-000: from a to b"
    assert lines[-1].startswith("and 480 more")
    assert message.severity == "info"
    assert digest.take(6.0) is None


def test_the_worst_comes_first_and_gives_the_message_its_weight() -> None:
    digest = Digest()
    digest.receive(moved("mail"), 0.0)
    digest.receive(fallen("app", "Degraded"), 0.0)
    digest.receive(fallen("db", "StopFailed"), 0.0)
    message = digest.take(5.0)
    assert message is not None
    assert message.title == "vipkeeper: 1 not stopped, 1 without a standby, 1 moved"
    assert message.severity == "failure"


def test_who_has_an_owner_again_is_only_told_to_have_moved() -> None:
    digest = Digest()
    digest.receive(fallen("web"), 0.0)
    digest.receive(fallen("mail"), 0.0)
    digest.receive(moved("web"), 1.0)
    message = digest.take(5.0)
    assert message is not None
    assert message.title == "vipkeeper: 1 down, 1 moved"
    digest.receive(moved("web"), 50.0)
    digest.receive(fallen("web"), 51.0)
    message = digest.take(60.0)
    assert message is not None
    assert "1 down" in message.title, "what came last is so"


def test_who_has_an_owner_again_is_not_told_where_moves_are_no_news() -> None:
    digest = Digest()
    digest.receive(fallen("web"), 0.0)
    digest.receive(fallen("mail"), 0.0)
    digest.withdraw("VirtualIP web")
    digest.withdraw("VirtualIP db")
    message = digest.take(5.0)
    assert message is not None
    assert message.title == "vipkeeper: VirtualIP mail down"


def test_what_was_withdrawn_altogether_is_no_message_and_no_silence() -> None:
    digest = Digest()
    digest.receive(fallen("web"), 0.0)
    digest.withdraw("VirtualIP web")
    assert digest.take(5.0) is None
    digest.receive(fallen("mail"), 6.0)
    assert digest.deadline == 11.0


def test_what_was_withdrawn_while_it_was_being_sent_is_not_sent_again() -> None:
    digest = Digest()
    digest.receive(fallen("web"), 0.0)
    digest.receive(fallen("mail"), 0.0)
    digest.take(5.0)
    digest.withdraw("VirtualIP web")
    assert digest.put_back(6.0)
    message = digest.take(36.0)
    assert message is not None
    assert message.title == "vipkeeper: VirtualIP mail down"


def test_of_what_came_while_it_was_being_sent_the_last_is_so() -> None:
    digest = Digest()
    digest.receive(fallen("web"), 0.0)
    digest.take(5.0)
    digest.receive(fallen("mail"), 6.0)
    digest.receive(moved("web"), 7.0)
    digest.receive(fallen("web"), 8.0)
    assert digest.put_back(9.0)
    message = digest.take(39.0)
    assert message is not None
    assert message.title == "vipkeeper: 2 down, 1 moved"


def test_a_target_is_left_alone_after_a_message() -> None:
    digest = Digest()
    digest.receive(moved(), 0.0)
    digest.take(5.0)
    digest.sent()
    digest.receive(moved("mail"), 6.0)
    assert digest.deadline == 35.0
    digest.receive(moved("db"), 100.0)
    assert digest.deadline == 35.0


def test_what_could_not_be_sent_is_sent_again_with_what_came_since_and_given_up_some_time() -> None:
    digest = Digest()
    digest.receive(fallen("web"), 0.0)
    digest.receive(fallen("db"), 0.0)
    digest.take(5.0)
    digest.receive(moved("web"), 6.0)
    assert digest.put_back(7.0)
    assert digest.deadline == 37.0
    message = digest.take(37.0)
    assert message is not None
    assert message.title == "vipkeeper: 1 down, 1 moved"
    for attempt in range(2, ATTEMPTS):
        assert digest.put_back(40.0 * attempt)
        assert digest.take(80.0 * attempt) == message
    assert not digest.put_back(999.0)
    assert digest.deadline is None


@pytest.mark.parametrize("kind", ["OwnerChanged", "NoOwner"])
def test_a_target_that_takes_nothing_costs_no_memory(kind: Kind) -> None:
    digest = Digest()
    for number in range(MOST * 3):
        digest.receive(fallen(f"vip-{number}", kind), 0.0)
    message = digest.take(5.0)
    assert message is not None
    assert f"{MOST * 3} " in message.title
    assert len(message.body) < 10_000


@given(st.text(), st.text())
def test_whatever_a_note_says_a_title_is_one_line_and_a_happening_too(cluster: str, note: str) -> None:
    digest = Digest(cluster)
    digest.receive(Notification("HookFailed", "ServiceFailover prod/app", "prod", note), 0.0)
    message = digest.take(5.0)
    assert message is not None
    assert len(message.title.splitlines()) == 1
    assert len(message.body.splitlines()) == 2
