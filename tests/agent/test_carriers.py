"""Which interfaces turn too often for an address to follow."""

from __future__ import annotations

from vipagent.carriers import Carriers
from vipagent.health import FLAP_WINDOW_S, FORGIVEN_S, LEAST_DAMPING_S, LOWEST_SCORE, Fitness
from vipagent.nodeview import Link, LinkIndex, Refusal
from vipagent.standing import stand


class Cable:
    """eth0 of a node, plugged in and out; `now_s` is the time."""

    def __init__(self) -> None:
        self.carriers = Carriers(epoch_s=0.0)
        self.now_s = 0.0
        self.look(is_up=True)

    def look(self, *, is_up: bool, is_there: bool = True) -> None:
        link = Link("eth0", LinkIndex(2), "02:00:00:00:00:02", is_up=is_up)
        self.carriers.see([link] if is_there else [], ["eth0"] if is_up and is_there else [], self.now_s)

    def fall(self, times: int = 1, *, every_s: float = 1.0, is_there: bool = True) -> None:
        for _ in range(times):
            self.now_s += every_s
            self.look(is_up=False, is_there=is_there)
            self.look(is_up=True)

    def steady(self, for_s: float) -> None:
        self.now_s += for_s
        self.look(is_up=True)

    @property
    def is_doubted(self) -> bool:
        return self.carriers.doubt("eth0") is not None


def test_an_interface_that_was_up_and_one_that_fell_twice_are_not_doubted() -> None:
    cable = Cable()
    assert not cable.is_doubted
    cable.fall(2)
    assert not cable.is_doubted


def test_from_the_third_fall_on_it_must_stay_up_for_longer_each_time() -> None:
    cable = Cable()
    cable.fall(3)
    doubt = cable.carriers.doubt("eth0")
    assert doubt is not None
    assert doubt.reason == "InterfaceDamped"
    assert doubt.message.startswith("the carrier of eth0: it turned too often")
    cable.steady(LEAST_DAMPING_S - 1)
    assert cable.is_doubted
    cable.steady(1)
    assert not cable.is_doubted
    cable.fall()
    cable.steady(LEAST_DAMPING_S)
    assert cable.is_doubted
    cable.steady(LEAST_DAMPING_S)
    assert not cable.is_doubted


def test_falls_that_lie_far_apart_are_no_flapping() -> None:
    cable = Cable()
    cable.fall(9, every_s=FLAP_WINDOW_S)
    assert not cable.is_doubted


def test_an_interface_that_is_deleted_and_made_again_falls_too() -> None:
    cable = Cable()
    cable.fall(3, is_there=False)
    assert cable.is_doubted


def test_what_was_forgiven_is_forgotten() -> None:
    cable = Cable()
    cable.fall(2)
    cable.now_s += FORGIVEN_S
    cable.fall()
    assert not cable.is_doubted


def test_a_doubted_node_comes_after_every_other_and_is_fit_all_the_same() -> None:
    doubt, well = Refusal("InterfaceDamped", "eth0"), Fitness("Fit", 100)
    stands = stand(well, None, is_witness_only=False, doubt=doubt)
    assert (stands.fitness, stands.score, stands.reason) == ("Fit", LOWEST_SCORE, "InterfaceDamped")
    assert stand(well, None, is_witness_only=False).score == 100
    down = Refusal("InterfaceDown", "eth0")
    assert stand(well, down, is_witness_only=False, doubt=doubt).reason == "InterfaceDown"
    ill = Fitness("Unfit", 100, "CheckFailed")
    assert stand(ill, None, is_witness_only=False, doubt=doubt).reason == "CheckFailed"
