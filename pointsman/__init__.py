"""The stable door to the gateway: `python -m pointsman VERB`, and its version."""

from importlib.metadata import version

__version__ = version("pointsman")
