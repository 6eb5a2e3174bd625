"""A real Kubernetes with kubelets on this machine, and vipkeeper installed in it with its chart: `make e2e`.

It is the lab (`lab.cluster`) with everything that the lab does without: a controller manager, a scheduler,
and on each node a containerd and a kubelet, so that pods run where and as the chart says. What a fault costs
is measured as in the lab, by the same client and the same detector of two owners.

    images      the pause image, and what must be in each node's store before a pod can start
    machine     what a node is: process 1 of namespaces of its own, with its own /var and /run
    node        the containerd and the kubelet of a machine
    office      the control plane with its controllers
    cluster     all of it, put together
    podstage    `lab.stage` for keepers that are containers
    pulse       how long the API server takes to answer meanwhile
"""
