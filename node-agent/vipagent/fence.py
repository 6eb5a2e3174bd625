"""Fence: the door to the kernel's packet fence, through the bpf(2) system call.

The fence is a map from address to deadline and the programs of `vipagent.filters` that look it up for
each packet. The deadline is absolute nanoseconds of CLOCK_BOOTTIME. The kernel enforces it by itself:
it holds while the process that set it is stopped, killed or stuck, because an attached program keeps
itself and its map alive. `kernel.Kernel.guard` attaches the programs through clsact; `overtake` puts them
before the tcx programs of others, which would otherwise see each packet first and might end its way there.

Verbs: `close` makes an address known and closed, `admit` opens addresses until a deadline, `forget_all`
takes them out of the fence's sight (only when they are no longer ours and not bound on this node: what is
not in the map passes). `verdict` asks the kernel what a program would do with a frame.

A refresh is a few microseconds: one system call an address with buffers made once. So a `Fence` is
not to be used by two threads. Every refusal of the kernel is a `FenceRefused` that says what is missing.

An element's memory may be used for another address right after its own update, which a packet being
judged at that very moment on another processor can see; that packet is no worse off than one that
was judged before the update and sent after it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from contextlib import ExitStack
from ipaddress import IPv6Address
from typing import TYPE_CHECKING, Final, Literal, Self

from vipagent import filters
from vipagent.packetfence import MAX_ADDRESSES, TOO_MANY, FenceRefused, PacketFence

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from vipagent.nodeview import IPAddress

_SYSTEM_CALLS: Final = {"x86_64": 321, "aarch64": 280}

# enum bpf_cmd
_MAP_CREATE, _MAP_LOOKUP, _MAP_UPDATE, _MAP_DELETE = 0, 1, 2, 3
_PROG_LOAD, _PROG_ATTACH, _PROG_DETACH, _PROG_TEST_RUN, _OBJECT_INFO, _PROG_QUERY = 5, 8, 9, 10, 15, 16

Direction = Literal["ingress", "egress"]
# enum bpf_attach_type, and the flags that place a program among others (linux/bpf.h)
_TCX: Final[dict[Direction, int]] = {"ingress": 46, "egress": 47}
_BEFORE, _AFTER, _BY_ID = 1 << 3, 1 << 4, 1 << 5
_MOST_TCX_PROGRAMS: Final = 64

_HASH_MAP, _SCHEDULER_CLASSIFIER = 1, 3
_ATTRIBUTES_SIZE: Final = 144
_KEY_ONLY, _ELEMENT = 16, 32
"""How much of the attributes a map's commands read: a deletion refuses to be given more than the key."""
_LOG_SIZE: Final = 1 << 18
_TC_ACT_SHOT: Final = 2
_OLDEST_KERNEL: Final = "5.18"

_MAPPED_PREFIX: Final = b"\x00" * 10 + b"\xff\xff"


def _refusal(cause: OSError, attempt: str) -> FenceRefused:
    match cause.errno:
        case errno.EPERM | errno.EACCES:
            why = (
                "not permitted. Give the keeper the capabilities BPF and NET_ADMIN (in a pod: "
                "securityContext.capabilities.add); its seccomp profile and the kernel must allow bpf(2)"
            )
        case errno.ENOSYS:
            why = "this kernel has no bpf system call. Use one with CONFIG_BPF_SYSCALL"
        case errno.EINVAL:
            why = f"this kernel does not know it. Use {_OLDEST_KERNEL} or newer with CONFIG_NET_CLS_BPF"
        case errno.ENOMEM:
            why = "no memory for it. Raise the keeper's memory limit"
        case errno.E2BIG:
            why = TOO_MANY
        case _:
            why = os.strerror(cause.errno or 0)
    return FenceRefused(f"the kernel refused to {attempt}: {why}")


class Fence(PacketFence):
    """A loaded fence; made by `Fence.load`, let go of by `release` (or as a context manager).

    `ingress_fd` and `egress_fd` are the programs for a link that addresses may be bound on,
    `other_egress_fd` the one for every other link; `ids` are the kernel's numbers of those, by
    descriptor, as attached filters show them. Letting go ends nothing in the kernel: what is attached stays.
    """

    def __init__(self, map_fd: int, programs: dict[str, int], resources: ExitStack) -> None:
        self._resources = resources
        self._map_fd = map_fd
        self.ingress_fd = programs["ingress"]
        self.egress_fd = programs["egress"]
        self.other_egress_fd = programs["other_egress"]
        self.ids = {fd: _program_id(fd) for fd in programs.values()}
        self._key = ctypes.create_string_buffer(16)
        self._deadline = ctypes.c_uint64()
        self._element = ctypes.create_string_buffer(
            struct.pack("=IxxxxQQQ", map_fd, ctypes.addressof(self._key), ctypes.addressof(self._deadline), 0)
        )
        self._keys: dict[IPAddress, bytes] = {}

    @classmethod
    def load(cls) -> Self:
        """Make the map and load the programs, every address unknown; raises FenceRefused."""
        with ExitStack() as resources:
            attributes = struct.pack("=IIIII8x16s", _HASH_MAP, 16, 8, MAX_ADDRESSES, 0, b"vipkeeper")
            map_fd = _open(resources, _MAP_CREATE, attributes, "make the fence's map")
            programs = {}
            for name, write in (
                ("ingress", filters.ingress),
                ("egress", filters.egress),
                ("other_egress", filters.other_egress),
            ):
                programs[name] = _load_program(resources, name, write(map_fd))
            return cls(map_fd, programs, resources.pop_all())

    @property
    def addresses(self) -> frozenset[IPAddress]:
        """The addresses that the fence knows: all that were closed or admitted and not forgotten."""
        return frozenset(self._keys)

    def admit(self, addresses: Iterable[IPAddress], deadline_ns: int) -> None:
        """Let addresses pass until a CLOCK_BOOTTIME deadline, and not after it."""
        self._deadline.value = deadline_ns
        for address in addresses:
            key = self._keys.get(address)
            if key is None:
                key = _key(address)
            self._key.raw = key
            if _system_call(_NUMBER, _MAP_UPDATE, self._element, _ELEMENT) < 0:
                cause = _last_error()
                raise _refusal(cause, f"set the fence of {address}") from cause
            self._keys[address] = key

    def forget_all(self, addresses: Iterable[IPAddress]) -> None:
        """Forget addresses, one after the other."""
        for address in addresses:
            self._key.raw = _key(address)
            if _system_call(_NUMBER, _MAP_DELETE, self._element, _KEY_ONLY) < 0:
                cause = _last_error()
                if cause.errno != errno.ENOENT:
                    raise _refusal(cause, f"forget the fence of {address}") from cause
            self._keys.pop(address, None)

    def deadline_ns(self, address: IPAddress) -> int | None:
        """Return what the kernel has for an address: 0 is closed, None is unknown to the fence."""
        self._key.raw = _key(address)
        if _system_call(_NUMBER, _MAP_LOOKUP, self._element, _ELEMENT) < 0:
            cause = _last_error()
            if cause.errno != errno.ENOENT:
                raise _refusal(cause, f"read the fence of {address}") from cause
            return None
        return int(self._deadline.value)

    def verdict(self, program_fd: int, frame: bytes, *, ingress_ifindex: int = 0) -> Literal["pass", "drop"]:
        """Run a program on an Ethernet frame without sending it anywhere.

        The kernel tries only frames with a whole Ethernet header and, where they say they have one,
        a whole IP header; others are a FenceRefused.
        """
        sample = ctypes.create_string_buffer(frame, len(frame))
        context = ctypes.create_string_buffer(192)
        struct.pack_into("=I", context, 36, ingress_ifindex)
        attributes = struct.pack(
            "=IIIIQQIIIIQQ",
            *(program_fd, 0, len(frame), 0, ctypes.addressof(sample), 0, 1, 0),
            *(len(context), 0, ctypes.addressof(context), 0),
        )
        buffer = ctypes.create_string_buffer(attributes, _ATTRIBUTES_SIZE)
        if _system_call(_NUMBER, _PROG_TEST_RUN, buffer, _ATTRIBUTES_SIZE) < 0:
            cause = _last_error()
            raise _refusal(cause, "try a program of the fence") from cause
        (returned,) = struct.unpack_from("=I", buffer, 4)
        return "drop" if returned == _TC_ACT_SHOT else "pass"

    def programs_ahead(self, link_index: int, direction: Direction, program_fd: int) -> int:
        """Count the tcx programs that a packet meets before ours on a link.

        The kernel runs tcx programs (Linux 6.6) before clsact's; where ours is only there, all count.
        """
        numbers = _tcx_programs(link_index, direction)
        ours = self.ids[program_fd]
        return numbers.index(ours) if ours in numbers else len(numbers)

    def overtake(
        self, link_index: int, direction: Direction, program_fd: int | None, stale_ids: Collection[int]
    ) -> None:
        """Put our program before the tcx programs of others, where there are any; detach stale ones of ours.

        The attachment belongs to the link, not to this process, as that of clsact does.
        """
        numbers = _tcx_programs(link_index, direction)
        ours = None if program_fd is None else self.ids[program_fd]
        others = [number for number in numbers if number != ours and number not in stale_ids]
        if program_fd is not None and others and numbers[0] != ours:
            if ours in numbers:
                _detach_tcx(link_index, direction, numbers, numbers.index(ours))
            _change_tcx(_PROG_ATTACH, link_index, direction, program_fd=program_fd, flags=_BEFORE)
        for number in stale_ids:
            numbers = _tcx_programs(link_index, direction)
            if number in numbers:
                _detach_tcx(link_index, direction, numbers, numbers.index(number))

    def release(self) -> None:
        """Close the descriptors; attached programs go on with the deadlines they have."""
        self._resources.close()


def has_tcx_programs(link_index: int, direction: Direction) -> bool | None:
    """Whether a link has tcx programs, anybody's; None where the kernel does not let this process ask."""
    try:
        return bool(_tcx_programs(link_index, direction))
    except FenceRefused:
        return None


def _key(address: IPAddress) -> bytes:
    return address.packed if isinstance(address, IPv6Address) else _MAPPED_PREFIX + address.packed


def _load_program(resources: ExitStack, name: str, code: bytes) -> int:
    instructions = ctypes.create_string_buffer(code, len(code))
    license_text = ctypes.create_string_buffer(filters.LICENSE.encode())
    log = ctypes.create_string_buffer(_LOG_SIZE)
    attributes = struct.pack(
        "=IIQQIIQII16s",
        *(_SCHEDULER_CLASSIFIER, len(code) // 8, ctypes.addressof(instructions)),
        *(ctypes.addressof(license_text), 1, _LOG_SIZE, ctypes.addressof(log), 0, 0),
        f"vip_{name}".encode()[:15],
    )
    try:
        return _open(resources, _PROG_LOAD, attributes, f"load the fence's {name} program")
    except FenceRefused as refused:
        if log.value:
            refused.add_note(log.value.decode(errors="replace")[-2000:])
        raise


def _open(resources: ExitStack, command: int, attributes: bytes, attempt: str) -> int:
    buffer = ctypes.create_string_buffer(attributes, _ATTRIBUTES_SIZE)
    fd = int(_system_call(_NUMBER, command, buffer, _ATTRIBUTES_SIZE))
    if fd < 0:
        cause = _last_error()
        raise _refusal(cause, attempt) from cause
    resources.callback(os.close, fd)
    return fd


def _program_id(fd: int) -> int:
    description = ctypes.create_string_buffer(64)
    attributes = struct.pack("=IIQ", fd, len(description), ctypes.addressof(description))
    buffer = ctypes.create_string_buffer(attributes, _ATTRIBUTES_SIZE)
    if _system_call(_NUMBER, _OBJECT_INFO, buffer, _ATTRIBUTES_SIZE) < 0:
        cause = _last_error()
        raise _refusal(cause, "describe a program of the fence") from cause
    # struct bpf_prog_info: type, id, ...
    (number,) = struct.unpack_from("=I", description, 4)
    assert isinstance(number, int), number
    return number


def _tcx_programs(link_index: int, direction: Direction) -> list[int]:
    """List the numbers of a link's tcx programs, in the order in which they run."""
    found = (ctypes.c_uint32 * _MOST_TCX_PROGRAMS)()
    attributes = struct.pack(
        "=IIIIQI", link_index, _TCX[direction], 0, 0, ctypes.addressof(found), len(found)
    )
    buffer = ctypes.create_string_buffer(attributes, _ATTRIBUTES_SIZE)
    if _system_call(_NUMBER, _PROG_QUERY, buffer, _ATTRIBUTES_SIZE) < 0:
        cause = _last_error()
        if cause.errno in (errno.EINVAL, errno.ENOENT, errno.ENODEV):  # a kernel before 6.6, or none there
            return []
        raise _refusal(cause, f"list the tcx programs of link {link_index}") from cause
    (count,) = struct.unpack_from("=I", buffer, 24)
    return list(found[:count])


def _detach_tcx(link_index: int, direction: Direction, numbers: list[int], place: int) -> None:
    """Detach the program at a place of the list; only its neighbour needs to be named, by number."""
    if place:
        _change_tcx(_PROG_DETACH, link_index, direction, flags=_AFTER | _BY_ID, neighbour=numbers[place - 1])
    else:
        _change_tcx(_PROG_DETACH, link_index, direction, flags=_BEFORE)


def _change_tcx(
    command: int,
    link_index: int,
    direction: Direction,
    *,
    flags: int,
    program_fd: int = 0,
    neighbour: int = 0,
) -> None:
    attributes = struct.pack("=IIIIII", link_index, program_fd, _TCX[direction], flags, 0, neighbour)
    buffer = ctypes.create_string_buffer(attributes, _ATTRIBUTES_SIZE)
    if _system_call(_NUMBER, command, buffer, _ATTRIBUTES_SIZE) < 0:
        cause = _last_error()
        raise _refusal(cause, f"change the tcx programs of link {link_index}") from cause


def _last_error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


_NUMBER: Final = _SYSTEM_CALLS.get(platform.machine(), -1)  # -1: ENOSYS, a refusal that says so
_system_call = ctypes.CDLL(None, use_errno=True).syscall
_system_call.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_uint)
_system_call.restype = ctypes.c_long
