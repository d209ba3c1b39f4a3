"""The command lines of both programs, as click has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from hwtrust.cli import EXIT_CODES
from hwtrust.cli import cli as device_cli
from hwtrust.errors import HwTrustError
from hwtrust_backend.cli import cli as backend_cli
from hwtrust_docs.markdown import block, code, codes, link, plain, table, target

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def device(_: Mapping[str, str]) -> list[str]:
    """`hwtrust` and all of its commands."""
    return _page("hwtrust", device_cli)


def backend(_: Mapping[str, str]) -> list[str]:
    """`hwtrust-backend` and all of its commands."""
    return _page("hwtrust-backend", backend_cli)


def exit_codes(_: Mapping[str, str]) -> list[str]:
    """The exit codes of `hwtrust`, with the errors that they stand for."""
    rows = [("0", "done", ""), ("1", "failed in another way", link("error", HwTrustError.code))]
    rows.append(("2", "the command line is wrong", ""))
    rows += [
        (str(number), plain(meaning), link("error", cls.code))
        for cls, (number, meaning) in EXIT_CODES.items()
    ]
    return table(("exit code", "meaning", "errors"), rows)


def walk(name: str, command: click.Command) -> Iterator[tuple[click.Context, click.Command]]:
    """A command and all below it that are shown, each with the context that it runs in."""
    yield from _walk(command, click.Context(command, info_name=name))


def _walk(
    command: click.Command, context: click.Context
) -> Iterator[tuple[click.Context, click.Command]]:
    yield context, command
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            if below is not None and not below.hidden:
                yield from _walk(below, click.Context(below, parent=context, info_name=name))


def _page(program: str, command: click.Group) -> list[str]:
    lines: list[str] = []
    for context, each in walk(program, command):
        depth = min(context.command_path.count(" ") + 2, 4)
        path = context.command_path
        lines += [target("command", path), f"{'#' * depth} {code(path)}", ""]
        lines += _help(each.help or "")
        usage = " ".join(each.collect_usage_pieces(context))
        lines += block(f"{path} {usage}".rstrip(), "console")
        lines += table(("argument or option", "default", "meaning"), _parameters(each, context))
        if isinstance(each, click.Group):
            lines += _below(each, context)
    return lines


def _below(group: click.Group, context: click.Context) -> list[str]:
    rows = []
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        if found is not None and not found.hidden:
            path = f"{context.command_path} {name}"
            rows.append((link("command", path), plain(found.get_short_help_str(200))))
    return table(("command", "for"), rows)


def _help(text: str) -> list[str]:
    """A command's help; what click leaves as it is is a block."""
    lines: list[str] = []
    for part in text.replace("\f", "\n\n").split("\n\n"):
        kept, _, rest = part.strip("\n").partition("\n")
        if kept.strip() == "\b":
            lines += block(rest)
        elif part.strip():
            lines += [plain(part), ""]
    return lines


def _parameters(command: click.Command, context: click.Context) -> Iterator[tuple[str, str, str]]:
    for parameter in command.get_params(context):
        if isinstance(parameter, click.Option):
            if not parameter.hidden:
                yield _option(parameter, context)
        else:
            metavar = parameter.make_metavar(context)
            yield code(metavar), "required" if parameter.required else "", _kind(parameter)


def _option(option: click.Option, context: click.Context) -> tuple[str, str, str]:
    names = [*option.opts, *option.secondary_opts]
    metavar = "" if option.is_flag or option.count else f" {option.make_metavar(context)}"
    written = ", ".join(code(f"{name}{metavar}") for name in names)
    default = "required" if option.required else _default(option)
    meaning = [plain(option.help or "")]
    if option.envvar:
        names = [option.envvar] if isinstance(option.envvar, str) else list(option.envvar)
        meaning.append(f"Or the variable {codes(names)}.")
    if option.multiple:
        meaning.append("May be given several times.")
    return written, default, " ".join(filter(None, meaning))


def _default(option: click.Option) -> str:
    default = option.to_info_dict()["default"]
    # A flag's "no", and what click uses where nothing is said, tell nobody anything.
    if default in (None, False, (), "") or callable(default) or "UNSET" in repr(default):
        return ""
    return code(default)


def _kind(parameter: click.Parameter) -> str:
    kind = parameter.type
    if isinstance(kind, click.Choice):
        return f"One of {codes(kind.choices)}."
    if isinstance(kind, click.Path):
        return "A directory." if not kind.file_okay else "A path."
    return "Several may be given." if parameter.nargs == -1 else ""
