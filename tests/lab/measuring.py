"""The measuring processes of one lab, and what they have written down so far.

From outside, at the same time: every address event on every node, a capture on the bridge, a client that
asks each address every 2 ms, a second client that does the same from a standby node, and an inquirer that
asks each node itself about each address. Both clients also ask the gateway, whose address never moves:
what it misses is the machine's own hiccup.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lab import analysis, processes, records
from lab.responder import PORT as PROBE_PORT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lab.topology import Host, Segment

CONTROL = "control"
HTTP_INTERVAL_NS = 20 * analysis.MILLISECOND
LAG_S = 1.2  # after this long, a probe that was sent is written down
LAG_NS = int(LAG_S * 1_000_000_000)

__all__ = ["CONTROL", "PROBE_PORT", "Measurement", "environment", "start_responder"]


def environment() -> dict[str, str]:
    """Return what a process needs to find the packages of this checkout."""
    root = Path(__file__).parents[2]
    folders = [root / "controller", root / "node-agent", root / "tests"]
    return {"PYTHONPATH": ":".join(map(str, folders)), "PYTHONUNBUFFERED": "1"}


def start_responder(host: Host) -> processes.Process:
    """Let a host answer probes with its name."""
    return host.start(
        [sys.executable, "-m", "lab.responder", host.name], name="responder", environment=environment()
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often each address is asked, by the client and by the inquirer, and the capture repeats itself.

    Where there are many addresses, the usual pace is all that the machine has time for.
    """

    client_ms: int = 2
    inquirer_ms: int = 5
    repeat_ms: int = 5


USUAL = Pace()


@dataclass(slots=True, kw_only=True)
class Measurement:
    """Measures `addresses` (by label) until it is stopped; everything is written under `folder`."""

    segment: Segment
    folder: Path
    addresses: Mapping[str, str]
    nodes: Sequence[Host]
    gateway: Host
    client: Host
    observer: Host
    pace: Pace = USUAL
    started: list[processes.Process] = field(default_factory=list)

    def start(self) -> None:
        """Start the capture, the address watch, the client and the inquirer."""
        self.folder.mkdir(parents=True, exist_ok=True)
        seen = self.folder / "sightings.jsonl"
        self._outside("capture", [seen, str(self.pace.repeat_ms), *self.addresses.values()], "capturing")
        self._outside("leasewatch", [self.folder / "words.jsonl"], "listening")
        self.watch_kernels(self.nodes)
        self.watch_from(self.client, interval_ms=self.pace.client_ms)
        self.inquire(self.nodes)

    def watch_kernels(self, nodes: Sequence[Host]) -> None:
        """Listen to what the kernels of nodes tell of addresses and links."""
        networks = [f"{node.name}={node.network}" for node in nodes]
        arguments: list[str | Path] = [self.folder / "addresses.jsonl", *networks]
        self._outside("addresswatch", arguments, "watching", descriptors=[node.network for node in nodes])

    def inquire(self, nodes: Sequence[Host]) -> None:
        """Start asking each of some nodes itself about every address."""
        targets = [f"{label}={address}" for label, address in self.addresses.items()]
        command: list[str | Path] = [
            sys.executable,
            "-m",
            "lab.inquirer",
            self.folder / f"inquirer-{nodes[0].name}",
            str(self.pace.inquirer_ms),
            ",".join(node.mac for node in nodes),
            *targets,
        ]
        process = self.observer.start(command, name=f"inquirer-{self.folder.name}", environment=environment())
        self.started.append(process)

    def watch_from(self, host: Host, *, interval_ms: int = 2) -> None:
        """Start a client on a host; it asks every address and the control address at that interval."""
        asked = {**self.addresses, CONTROL: self.gateway.ipv4}
        targets = [f"{label}={address}" for label, address in asked.items()]
        command: list[str | Path] = [
            sys.executable,
            "-m",
            "lab.prober",
            self.folder / host.name,
            str(interval_ms),
            *targets,
        ]
        process = host.start(command, name=f"prober-{self.folder.name}", environment=environment())
        self.started.append(process)

    def request_from(self, host: Host, urls: Mapping[str, str]) -> None:
        """Start an HTTP client on a host."""
        targets = [f"{label}={url}" for label, url in urls.items()]
        command: list[str | Path] = [sys.executable, "-m", "lab.requester", self.folder / host.name, *targets]
        process = host.start(command, name=f"requester-{self.folder.name}", environment=environment())
        self.started.append(process)

    def stop(self) -> None:
        """Stop measuring; what was written stays."""
        for process in self.started:
            process.kill()

    def probes(self, label: str, *, vantage: str | None = None, since_ns: int = 0) -> list[records.Probe]:
        """Return a client's probes of an address; the client is the lab's unless `vantage` names a node."""
        file = self.folder / (vantage or self.client.name) / f"{label}.probes"
        return records.probes_in(file, since_ns=since_ns)

    def address_events(self, address: str | None = None, *, since_ns: int = 0) -> list[records.AddressEvent]:
        """Return what the nodes' kernels told, of all addresses or of one."""
        events = records.address_events_in(self.folder / "addresses.jsonl", since_ns=since_ns)
        return [each for each in events if address is None or each.address.partition("/")[0] == address]

    def sightings(self, address: str, *, since_ns: int = 0) -> list[records.Sighting]:
        """Return what the bridge saw of an address."""
        seen = records.sightings_in(self.folder / "sightings.jsonl", since_ns=since_ns)
        return [each for each in seen if each.address == address]

    def words(self, key: bytes) -> list[records.Word]:
        """Return what keepers said to each other about an address set, renewals left out."""
        return [each for each in records.words_in(self.folder / "words.jsonl") if each.key == key.hex()]

    def answers(self, label: str, *, since_ns: int = 0) -> list[analysis.Answer]:
        """Return what was answered for an address since then, from every point of view, in the order it came.

        A question counts by when it was sent.
        """
        seen = self.sightings(self.addresses[label], since_ns=since_ns)
        return self._merged(label, seen, since_ns=since_ns)

    def _merged(
        self, label: str, seen: Sequence[records.Sighting], *, since_ns: int
    ) -> list[analysis.Answer]:
        answers = analysis.answers_seen(seen, self.addresses[label])
        for file in sorted(self.folder.glob(f"*/{label}.probes")):
            probes = records.probes_in(file, since_ns=since_ns)
            answers += analysis.answers_from(probes, vantage=file.parent.name)
        return sorted(answers, key=lambda answer: answer.latest_ns)

    def answers_of_all(self, *, since_ns: int) -> dict[str, list[analysis.Answer]]:
        """Return for every label what `answers` does, and read what the bridge saw once for all of them."""
        seen: dict[str, list[records.Sighting]] = {address: [] for address in self.addresses.values()}
        for each in records.sightings_in(self.folder / "sightings.jsonl", since_ns=since_ns):
            seen[each.address].append(each)
        return {
            label: self._merged(label, seen[address], since_ns=since_ns)
            for label, address in self.addresses.items()
        }

    def overlaps(self, label: str, *, since_ns: int = 0, lawful_returns: int = 0) -> list[analysis.Overlap]:
        """Return every proof since then that two nodes answered for an address at once."""
        answers = self.answers(label, since_ns=since_ns - analysis.SETTLED_NS - LAG_NS)
        return analysis.overlaps(answers, since_ns=since_ns, lawful_returns=lawful_returns)

    def hiccup_ms(self, *, since_ns: int, until_ns: int) -> float:
        """Return the longest silence of the control address: how far to trust the others' figures."""
        probes = self.probes(CONTROL, since_ns=since_ns - LAG_NS)
        return analysis.longest_silence(
            probes,
            since_ns=since_ns,
            until_ns=until_ns,
            interval_ns=self.pace.client_ms * analysis.MILLISECOND,
        ).length_ms

    def settle(self) -> int:
        """Wait until every probe sent so far is written down, and return the time before which that holds."""
        now_ns = time.monotonic_ns()
        time.sleep(LAG_S)
        return now_ns

    def _outside(
        self,
        module: str,
        arguments: Sequence[str | Path],
        readiness: str,
        *,
        descriptors: Sequence[int] = (),
    ) -> None:
        process = processes.start(
            [sys.executable, "-m", f"lab.{module}", *arguments],
            name=module,
            network=self.segment.network,
            log=self.folder / f"{module}-{len(self.started)}.log",
            environment=environment(),
            descriptors=descriptors,
        )
        self.started.append(process)
        process.wait_for_output(readiness, patience_s=20)
