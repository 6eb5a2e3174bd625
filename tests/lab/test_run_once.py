"""A server that may run only once, as `examples/run-once` has it: exactly those files, applied by kubectl.

Two nodes may run the legacy server, with the hooks of `examples/hooks`; each has an interface to the access
network, the lab's segment, and one to the database (`databasenet`). A third node only votes. The API server
is reached over the database's network, so that a node that loses the access network loses nothing else.
Of the notifications only the mail server's address is another one, that of a real one in the lab.
"""

from __future__ import annotations

import email
import email.policy
import mailbox
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from lab import copies, databasenet, faults, legacy, legacyserver
from lab.copies import Watch
from lab.databasenet import DatabaseNetwork
from lab.faults import Loss
from lab.legacy import Legacy, running
from lab.site import Site
from lab.stage import HTTP, Stage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lab.cluster import Lab
    from lab.topology import Host

EXAMPLES = Path(__file__).parents[2] / "examples" / "run-once"
VOTER = "node-c"
NAME = "invoices"
ADDRESS = "192.0.2.40"
# One page's period and its timeout, the server's end and its start, and a busy machine.
PAGE_MS = 500 + 500 + 1_000 + 1_500
MAIL_SERVER = ("127.0.0.1", 2525)
KNOCK = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)"


@pytest.fixture(scope="module")
def database(lab: Lab) -> Iterator[DatabaseNetwork]:
    made = DatabaseNetwork(lab)
    yield made
    made.close()


@pytest.fixture(scope="module")
def running_site(lab: Lab, database: DatabaseNetwork) -> Iterator[Site]:
    """The examples, applied, and the server at rest on one of its two nodes."""
    database.start()
    stage = Stage(lab)
    nodes = [node for node in lab.nodes.values() if node.name != VOTER]
    installed = {node.name: Legacy(node, lab.folder / "shared") for node in nodes}
    for each in installed.values():
        each.install()
    watch = Watch(folder=lab.folder / "copies", port=legacy.PORT)
    watch.watch(*nodes)
    stage.start(witness_only={VOTER}, notifications=settings_for_mail(lab))
    for file in ("failoverdomain.yaml", "invoices.yaml"):
        lab.plane.kubectl("apply", "-f", EXAMPLES / file)
    stage.watch({NAME: ADDRESS}, urls={f"{NAME}-{HTTP}": f"http://{ADDRESS}:{legacy.PORT}/healthz"})
    site = Site(stage=stage, installed=installed, watch=watch, virtual_ip=NAME, service_failover=NAME)
    site.rest()
    yield site
    watch.stop()


def settings_for_mail(lab: Lab) -> Path:
    """Start a mail server beside the controllers; return the example's settings, with its address."""
    place = ":".join(map(str, MAIL_SERVER))
    command = [sys.executable, "-m", "aiosmtpd", "-n", "-d", "-l", place, "-c", "aiosmtpd.handlers.Mailbox"]
    server = lab.host.start([*command, lab.folder / "mail"], name="mail-server")
    server.wait_for_output("Server is listening", patience_s=20)
    secret = yaml.safe_load((EXAMPLES / "notifications.yaml").read_text())
    settings = lab.folder / "notifications.yaml"
    settings.write_text(secret["stringData"]["settings.yaml"].replace("mail.example.com:25", place))
    return settings


def mails(lab: Lab) -> str:
    """Return the texts of all mails that have come, on one line."""
    box = mailbox.Maildir(lab.folder / "mail", create=False)
    found = [
        email.message_from_bytes(box.get_bytes(key), policy=email.policy.default) for key in box.iterkeys()
    ]
    texts = [mail.get_body(("plain",)) for mail in found]
    return " ".join(word for text in texts if text for word in text.get_content().split())


@pytest.fixture
def at_rest(running_site: Site) -> Site:
    """The server on one node and the other one fit to take it over."""
    running_site.restore()
    running_site.forgive()
    running_site.rest()
    return running_site


def lose_everything(site: Site, owner: Host) -> None:
    site.stage.lab.faults.add(*faults.silence(owner.name))


def pull_the_cable(site: Site, owner: Host) -> None:
    site.stage.lab.segment.cut(owner)


def lose_the_gateway(site: Site, owner: Host) -> None:
    gateway = site.stage.lab.gateway.name
    site.stage.lab.faults.add(
        Loss(sender=owner.name, receiver=gateway), Loss(sender=gateway, receiver=owner.name)
    )


def only_copy_of(site: Site, node: Host) -> list[str]:
    return [f"{node.name}.{site.installed[node.name].starts()}"]


def test_one_bad_page_moves_it_at_once_and_the_repaired_node_does_not_take_it_back(at_rest: Site) -> None:
    owner = at_rest.stage.owner(NAME)
    [standby] = at_rest.standbys(owner)
    server = at_rest.installed[owner.name]
    outcome = at_rest.stage.act(
        NAME, partial(server.wish, legacyserver.SICK), reads=HTTP, expect=standby.name
    )
    assert outcome.is_safe, outcome
    assert "release" in outcome.said, outcome
    assert outcome.outage_ms - outcome.hiccup_ms < PAGE_MS, outcome
    starts = server.starts()
    at_rest.restore()
    at_rest.forgive()
    at_rest.rest()
    stays = at_rest.stage.act(NAME, lambda: None, reads=HTTP, expect=standby.name, lasts_s=1)
    assert (stays.after, stays.overlaps, server.starts()) == (standby.name, (), starts)
    at_rest.stage.wait_until("the mails", partial(is_mailed, at_rest, owner, standby), patience_s=60)


def is_mailed(site: Site, owner: Host, standby: Host) -> bool:
    """Tell whether somebody was told why the server failed, and where its address went."""
    told = mails(site.stage.lab)
    return (
        f"ServiceFailover default/{NAME}: server: Failed on {owner.name}: " in told
        and "status 500" in told
        and f"VirtualIP {NAME}: Moved from {owner.name} to {standby.name} " in told
    )


@pytest.mark.parametrize(
    "lose_access",
    [
        pytest.param(lose_everything, id="a switch that loses everything"),
        pytest.param(pull_the_cable, id="a pulled cable"),
        pytest.param(lose_the_gateway, id="the gateway, and not the other nodes"),
    ],
)
def test_a_node_without_the_access_network_gives_up_though_it_reaches_the_database(
    at_rest: Site, database: DatabaseNetwork, lose_access: Callable[[Site, Host], None]
) -> None:
    owner = at_rest.stage.owner(NAME)
    [standby] = at_rest.standbys(owner)
    plane = at_rest.stage.lab.plane

    def commit() -> None:
        lose_access(at_rest, owner)
        for address, port in ((database.address, databasenet.PORT), (plane.address, plane.ports.api)):
            owner.run("/usr/bin/env", "python3", "-c", KNOCK, address, str(port))

    outcome = at_rest.stage.act(NAME, commit, reads=HTTP, expect=standby.name, patience_s=30)
    assert running(at_rest.shared) == only_copy_of(at_rest, standby)
    assert f"{ADDRESS}/32" not in owner.addresses()
    assert outcome.is_safe, outcome


def test_without_the_database_s_network_nothing_is_decided(at_rest: Site, database: DatabaseNetwork) -> None:
    owner = at_rest.stage.owner(NAME)
    before = running(at_rest.shared)
    outcome = at_rest.stage.act(
        NAME,
        partial(database.cut, owner),
        reads=HTTP,
        expect=owner.name,
        lasts_s=3,
        undo=partial(database.mend, owner),
    )
    assert (outcome.overlaps, outcome.after, running(at_rest.shared)) == ((), owner.name, before)


def test_in_all_this_time_no_two_ever_had_the_port_open(running_site: Site) -> None:
    seen = copies.copies_seen(running_site.watch.attempts())
    assert {each.node for each in seen} == set(running_site.installed)
    assert running_site.doubles(since_ns=running_site.since_ns) == []
