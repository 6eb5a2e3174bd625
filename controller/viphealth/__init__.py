"""What every process of vipkeeper does alike: how it answers `/healthz` and `/readyz`, ends, gets memory."""
