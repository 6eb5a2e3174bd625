"""What the processes tell Prometheus, as tests and `docs/reference/metrics.md` know it."""
