"""The chart, rendered by the real Helm (`rendering`), and the static checks of `make lint` (`lint`)."""
