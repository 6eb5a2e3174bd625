"""The operator: elects owners, writes status, never touches the network data plane."""
