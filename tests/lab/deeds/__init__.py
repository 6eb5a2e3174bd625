"""What can be done to a node, its keeper, its network or the cluster: the deeds of `lab.addressfaults`.

Each is given a `Scene` and is a context manager: entering does it, leaving undoes it. A module for each thing
that they take hold of; what must come of them stands in the table of faults alone.
"""
