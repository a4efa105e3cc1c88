"""Applies a chat template in a process of its own that may be ended: ``python -I template_process.py``.

Its input is one JSON object: ``template``, ``marks``, ``conversations`` (``messages`` and ``tools``), ``cpu_s`` and
``mib``. It answers with another: ``written``, the characters of each text (0 where the template refuses), and
``memory``, whether a text did not fit. It needs jinja2 alone, so that it begins at once, and has what transformers
gives to templates.
"""

import contextlib
import json
import sys

from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment


class Generation(Extension):
    """Takes ``{% generation %}`` for what it is without its mark: the text inside."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Return the nodes between the two marks."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def environment() -> ImmutableSandboxedEnvironment:
    """Return what transformers compiles chat templates in."""
    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )

    def raise_exception(message: str) -> None:
        raise ValueError(message)

    made.filters["tojson"] = lambda value, **how: json.dumps(value, **{"ensure_ascii": False, **how})
    made.globals |= {"raise_exception": raise_exception, "strftime_now": lambda pattern: "26 Jul 2024"}
    return made


def limit(cpu_s: int, mib: int) -> None:
    """Have the system end this process after so much processor time, and refuse it more memory."""
    try:
        import resource
    except ImportError:  # Windows has neither limit; who waits for this process ends it
        return
    for kind, most in ((resource.RLIMIT_CPU, cpu_s), (resource.RLIMIT_AS, mib << 20)):
        with contextlib.suppress(OSError, ValueError):  # macOS knows no limit of memory
            resource.setrlimit(kind, (most, most))


def main() -> None:
    """Apply the template to each conversation."""
    work = json.load(sys.stdin)
    limit(work["cpu_s"], work["mib"])
    written, memory = [], False
    try:
        template = environment().from_string(work["template"])
        for conversation in work["conversations"]:
            try:
                text = template.render(**work["marks"], **conversation, add_generation_prompt=False)
                written.append(len(text))
            except MemoryError:
                raise
            except Exception:  # outside code; whoever applies it to rows says what it refuses
                written.append(0)
    except MemoryError:
        memory = True
    except Exception:  # not a template: whoever compiles it says so
        written = [0] * len(work["conversations"])
    json.dump({"written": written, "memory": memory}, sys.stdout)


if __name__ == "__main__":
    main()
