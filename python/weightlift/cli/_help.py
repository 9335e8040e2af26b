"""What ``weightlift --help`` says; plain text, so that it needs no library and is there at once."""

from __future__ import annotations

__all__ = ["COMMANDS", "SUMMARY", "help_text"]

SUMMARY = "Save and load model weights: any format, at the speed of the hardware, verified."

COMMANDS = {
    "inspect": "List the tensors of weight files: name, dtype, shape, size, place.",
    "convert": "Write weights in another format, dtype, quantisation or sharding.",
    "verify": "Check weight files against their checksums.",
    "check-tfjs": "Say whether TensorFlow.js loads a model, and what is in the way.",
    "diff": "Compare two weight files, tensor by tensor.",
    "cat": "Show one tensor: statistics, histogram, values.",
    "ls": "List models: in directories, localstorage://, indexeddb://.",
    "cp": "Copy a model, between schemes too.",
    "mv": "Move a model: verified at its new place before the old goes.",
    "rm": "Remove models.",
    "import": "Take models of a browser over, from a dump of its storage.",
    "export": "Write models into a dump, for a browser to take over.",
    "ckpt": "List, verify, compare, clean up, export training checkpoints.",
    "serve": "Serve models over HTTP, take uploads, show a web page.",
    "demo": "Show on this machine that it all works, and how fast.",
}
"""Each lives in a module of its name, imported when it is called."""


def help_text() -> str:
    """The text for the whole command."""
    commands = "\n".join(f"  {name:<12}{text}" for name, text in COMMANDS.items())
    return f"""\
Usage: weightlift [OPTIONS] COMMAND [ARGS]...

  {SUMMARY}

Options:
  --version   Show the version and exit.
  -h, --help  Show this message and exit; also after a COMMAND.

Commands:
{commands}

Exit codes: 0 all is well; 1 a negative result (corrupt, different, does not load);
2 wrong usage; 3 an error in a file or its storage; 130 interrupted.
"""
