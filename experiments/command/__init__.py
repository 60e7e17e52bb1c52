"""Command lines: absl flags, errors, and help, the same for every command.

Whatever is the user's to fix becomes one line on stderr and exit status 2.
"""

from experiments.command.guarding import FAILED, USER_ERROR, guarded
from experiments.command.launching import (
    DefineFlags,
    expanded,
    expanding,
    launch,
    parse_flags,
    refuse_argument,
    usage,
    wants_help,
)
from experiments.command.paths import (
    check_output,
    optional_path,
    output_file,
    required,
    required_path,
)

__all__ = [
    "FAILED",
    "USER_ERROR",
    "DefineFlags",
    "check_output",
    "expanded",
    "expanding",
    "guarded",
    "launch",
    "optional_path",
    "output_file",
    "parse_flags",
    "refuse_argument",
    "required",
    "required_path",
    "usage",
    "wants_help",
]
