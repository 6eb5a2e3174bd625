"""What vipkeeper's resources mean: shared by all processes, imports nothing outside msgspec."""
