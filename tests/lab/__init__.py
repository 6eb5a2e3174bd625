"""The lab: a real control plane and real nodes on one machine, faults, and the truth from outside.

`topology` makes the nodes, `controlplane` runs etcd and kube-apiserver, `agents` starts vipkeeper's
own processes, `faults` breaks things, and the measuring processes (`prober`, `inquirer`, `requester`,
`capture`, `addresswatch`, `copies`) write down what really happened; `analysis` reads it. `enclosure` is
why nothing is left behind, whatever happens to the lab. `python -m lab` is the command.

`VIPKEEPER_LAB_TIMES=10 pytest tests/lab/test_failover.py` commits each fault ten times (`conftest`).
"""
