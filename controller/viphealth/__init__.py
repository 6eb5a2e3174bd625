"""What every process of vipkeeper answers when it is asked how it is: `/healthz` and `/readyz`."""
