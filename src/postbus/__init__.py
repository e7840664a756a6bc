"""postbus: the event bus for Python."""

__version__ = "0.1.0"
