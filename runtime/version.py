"""The version of the code, kept where the torch-free runtime can read it."""

__version__ = "0.1.0"
