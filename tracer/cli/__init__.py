"""The command line: what is typed, what is printed, with which status it ends.

Nothing imports it but `python -m tracer`; it calls only what `tracer` shows, and what reads, saves and prints.
"""

from tracer.cli.command_line import main

__all__ = ["main"]
