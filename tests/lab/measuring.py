"""The measuring processes of one lab, and what they have written down so far.

From outside, at the same time: every address event on every node, a capture on the bridge, a client that
asks each address every 2 ms and a second client that does the same from a standby node. Both clients
also ask the gateway, whose address never moves: what it misses is the machine's own hiccup.
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


@dataclass(slots=True, kw_only=True)
class Measurement:
    """Measures `addresses` (by label) until it is stopped; everything is written under `folder`."""

    segment: Segment
    folder: Path
    addresses: Mapping[str, str]
    nodes: Sequence[Host]
    gateway: Host
    client: Host
    started: list[processes.Process] = field(default_factory=list)

    def start(self) -> None:
        """Start the capture, the address watch and the client."""
        self.folder.mkdir(parents=True, exist_ok=True)
        networks = [f"{node.name}={node.network}" for node in self.nodes]
        self._outside("addresswatch", [self.folder / "addresses.jsonl", *networks], "watching")
        self._outside("capture", [self.folder / "sightings.jsonl", *self.addresses.values()], "capturing")
        self._outside("leasewatch", [self.folder / "words.jsonl"], "listening")
        self.watch_from(self.client)

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

    def probes(self, label: str, *, vantage: str | None = None) -> list[records.Probe]:
        """Return a client's probes of an address; the client is the lab's unless `vantage` names a node."""
        return records.probes_in(self.folder / (vantage or self.client.name) / f"{label}.probes")

    def address_events(self, address: str | None = None) -> list[records.AddressEvent]:
        """Return what the nodes' kernels told, of all addresses or of one."""
        events = records.address_events_in(self.folder / "addresses.jsonl")
        return [each for each in events if address is None or each.address.partition("/")[0] == address]

    def sightings(self, address: str) -> list[records.Sighting]:
        """Return what the bridge saw of an address."""
        seen = records.sightings_in(self.folder / "sightings.jsonl")
        return [each for each in seen if each.address == address]

    def words(self, key: bytes) -> list[records.Word]:
        """Return what keepers said to each other about an address set, renewals left out."""
        return [each for each in records.words_in(self.folder / "words.jsonl") if each.key == key.hex()]

    def overlaps(self, label: str, *, key: bytes = b"") -> list[analysis.Overlap]:
        """Return every proof, from any point of view, that two nodes answered for an address at once.

        With the address set's `key`, a node that answers again after a new grant is not taken for one that
        never stopped.
        """
        grants = [analysis.Grant(each.at_ns, each.to) for each in self.words(key) if each.kind == "granted"]
        answers = [
            answer
            for file in sorted(self.folder.glob(f"*/{label}.probes"))
            for answer in analysis.answers_from(records.probes_in(file), vantage=file.parent.name)
        ]
        answers += analysis.answers_seen(self.sightings(self.addresses[label]), self.addresses[label])
        return analysis.overlaps(sorted(answers, key=lambda answer: answer.latest_ns), grants=grants)

    def hiccup_ms(self, *, since_ns: int, until_ns: int) -> float:
        """Return the longest silence of the control address: how far to trust the others' figures."""
        probes = self.probes(CONTROL)
        return analysis.longest_silence(probes, since_ns=since_ns, until_ns=until_ns).length_ms

    def settle(self) -> int:
        """Wait until every probe sent so far is written down, and return the time before which that holds."""
        now_ns = time.monotonic_ns()
        time.sleep(LAG_S)
        return now_ns

    def _outside(self, module: str, arguments: Sequence[str | Path], readiness: str) -> None:
        process = processes.start(
            [sys.executable, "-m", f"lab.{module}", *arguments],
            name=module,
            network=self.segment.network,
            log=self.folder / f"{module}.log",
            environment=environment(),
            descriptors=[node.network for node in self.nodes],
        )
        self.started.append(process)
        process.wait_for_output(readiness, patience_s=20)
