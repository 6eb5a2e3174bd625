"""What vipkeeper's resources mean: shared by all processes, imports nothing outside msgspec."""

__version__ = "0.1.0"
