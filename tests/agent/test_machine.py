"""What tells machines of one node name apart."""

import os

from lab.kernelcalls import entered, new_network
from vipagent.machine import identity


def test_a_machine_is_the_same_each_time_and_another_network_is_another_machine() -> None:
    here = identity()
    assert len(here) == 8
    assert identity() == here
    network = new_network()
    with entered(network):
        assert identity() != here
    os.close(network)
    assert identity() == here
