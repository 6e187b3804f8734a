"""The command line: each word is a function of `verbs`, whose signature says what may follow.

Exit status: 0; 1 where a check failed; 2 where the command could not be carried out; 130 after Ctrl-C. Every failure is
one line on standard error, with a traceback only under --debug.
"""

import errno
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from cyclopts import App, CycloptsError

from edgemtl import __version__, verbs
from edgemtl.ground.errors import CheckFailed, UsageError

COMMANDS: dict[str, Callable[..., Any]] = {
    "list": verbs.entries, "show": verbs.show, "info": verbs.info, "train": verbs.train, "compress": verbs.compress,
    "sensitivity": verbs.sensitivity, "convert": verbs.convert, "verify": verbs.verify, "selftest": verbs.selftest,
    "evaluate": verbs.evaluate, "scores": verbs.scores, "bench": verbs.bench, "matrix": verbs.matrix,
    "deploy": verbs.deploy, "demo": verbs.demo, "predict": verbs.predict, "record": verbs.record, "lint": verbs.lint,
    "report": verbs.report, "doctor": verbs.doctor,
}  # fmt: skip
DEBUG = "--debug"


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status of one command line."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = DEBUG in words
    try:
        app()(_hyphens([word for word in words if word != DEBUG]) or ["--help"], result_action="return_value")
        sys.stdout.flush()
        return 0
    except BrokenPipeError:  # `edgemtl list | head`: nobody reads on, so nothing may be flushed at exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except CycloptsError as error:
        return _fail(_wrong_use(error), 2)
    except Exception as error:
        if debug:
            raise
        return _fail(*_line(error))


def app() -> App:
    """The command line's parser; a wrong line raises a CycloptsError."""
    parser = App(
        name="edgemtl",
        help="Multi-task dense prediction: train, compress to int8, convert, and run on a device.",
        help_epilogue=f"example:\n  edgemtl demo --source 0\n\n`edgemtl COMMAND --help` explains a command;"
        f" {DEBUG} shows the traceback of an error.",
        help_format="plaintext",
        version=f"edgemtl {__version__}",
        exit_on_error=False,
        print_error=False,
        suppress_keyboard_interrupt=False,
    )
    for place, (word, verb) in enumerate(COMMANDS.items()):
        parser.command(verb, name=word, help_epilogue=f"example:\n{_examples(verb)}", sort_key=place)
    parser.register_install_completion_command(help="Install completion for your shell.")
    return parser


def parse(words: Sequence[str]) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The function that a command line calls, and its arguments; a CycloptsError for a wrong line."""
    verb, bound, _ = app().parse_args(_hyphens(words))
    bound.apply_defaults()
    return verb, bound.arguments


def _hyphens(words: Sequence[str]) -> list[str]:
    """The words with `--source -` as `--source=-`; a lone hyphen is a value, standard input or output."""
    joined: list[str] = []
    for word in words:
        if word == "-" and joined and joined[-1].startswith("--") and "=" not in joined[-1]:
            joined[-1] += "=-"
        else:
            joined.append(word)
    return joined


def _examples(verb: Callable[..., Any]) -> str:
    lines = inspect.cleandoc(verb.__doc__ or "").partition("Example:\n")[2].splitlines()
    return "\n".join(f"  {line.strip()}" for line in lines)


def _wrong_use(error: CycloptsError) -> str:
    """What is wrong with a command line, in our way of saying it."""
    text = " ".join(str(error).partition(" Available commands:")[0].split())
    word = "".join(f" {name}" for name in error.command_chain or ())
    return f"{text[0].lower()}{text[1:].rstrip('.')}; see `edgemtl{word} --help`"


def _line(error: Exception) -> tuple[str, int]:
    """What to tell the user about an error, and the exit status."""
    text = str(error) or type(error).__name__
    if isinstance(error, CheckFailed):
        return text, 1
    if isinstance(error, UsageError):
        return text, 2
    if isinstance(error, ImportError):
        return f"{text}; `edgemtl doctor` says how to mend it", 2
    if isinstance(error, OSError) and error.strerror:
        reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror[0].lower() + error.strerror[1:]
        return (f"{error.filename}: {reason}" if error.filename else reason), 2
    # torch's own class is a RuntimeError, and torch may not be there to compare with.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in text:
        return "out of memory; try a smaller batch (--set training.batch=…) or size", 2
    return f"unexpected {type(error).__name__}: {text}; --debug shows where", 2


def _fail(message: str, status: int) -> int:
    print(f"edgemtl: {' '.join(message.split())}", file=sys.stderr)
    return status
