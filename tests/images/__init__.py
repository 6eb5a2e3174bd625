"""The two container images: how they are built, and what they must and must not hold."""
