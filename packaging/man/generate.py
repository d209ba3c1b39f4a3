"""Write the manual pages: hwtrust(1), hwtrust.toml(5), hwtrust-agent(8).

usage: generate.py DOCS OUTPUT, where DOCS is the directory of device-configuration.md, agent.md
and agent-protocol.md. hwtrust has to be importable.

1. Nothing is said twice: commands, options and exit codes come from the command itself, the rest
   from the documents. `pages` is what tests compare with both.
2. Only the Markdown that these documents use is understood: headings, paragraphs, lists, tables,
   code, and bold, code and links in a line.
"""

from __future__ import annotations

import inspect
import re
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hwtrust.cli import _PLAIN_EXIT_CODES, EXIT_CODES, cli

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SEE_ALSO = {
    "hwtrust.1": "hwtrust.toml(5), hwtrust-agent(8), tpm2_quote(1)",
    "hwtrust.toml.5": "hwtrust(1), hwtrust-agent(8)",
    "hwtrust-agent.8": "hwtrust(1), hwtrust.toml(5), systemd-creds(1), systemctl(1)",
}
SPELLED = str.maketrans({"\\": "\\e", "-": "\\-", "`": "\\(ga", "^": "\\(ha", "~": "\\(ti"})
BLOCK_STARTS = re.compile(r"\s*$|#|```|\||- | {4}")


# --- lines of troff -------------------------------------------------------------------


def spelled(text: str) -> str:
    """Text as it is: nothing in it is an escape, a request or a hyphen for typesetting."""
    text = text.translate(SPELLED)
    return "\\&" + text if text.startswith((".", "'")) else text


def inline(markdown: str) -> str:
    """One line of Markdown with bold, code and links."""
    markdown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", markdown)
    parts = re.split(r"(\*\*.+?\*\*|`[^`]*`)", markdown)
    marked = (
        f"\\fB{spelled(part.strip('*`'))}\\fP"
        if part.startswith(("**", "`"))
        else part.translate(SPELLED)
        for part in parts
    )
    text = "".join(marked)
    return "\\&" + text if text.startswith((".", "'")) else text


def as_is(lines: list[str]) -> Iterator[str]:
    """Lines that keep their breaks."""
    yield from (".PP", ".in +4n", ".nf")
    yield from (spelled(line) for line in lines)
    yield from (".fi", ".in")


def item(term: str, text: str) -> Iterator[str]:
    """A term and what it means, both in troff already."""
    yield from (".TP", term, *filter(None, [text]))


# --- Markdown --------------------------------------------------------------------------


def cells(row: str) -> list[str]:
    """The cells of a row of a table."""
    return [cell.strip() for cell in row.strip().strip("|").split("|")]


def table(rows: list[str]) -> Iterator[str]:
    """A table as a list: the first column's terms, each with what the others say of it."""
    heading, _, *body = [cells(row) for row in rows]
    for first, *others in body:
        named = [
            inline(text if len(others) == 1 or name == "meaning" else f"{name}: {text}.")
            for name, text in zip(heading[1:], others, strict=True)
            if text
        ]
        yield from item(inline(first) if "`" in first else f"\\fB{inline(first)}\\fP", "")
        yield from "\n.br\n".join(named or ["\\&"]).splitlines()


def markdown(text: str) -> Iterator[str]:
    """A document without its title, in troff."""
    lines = text.splitlines()
    while lines:
        line = lines.pop(0)
        if line.startswith("#"):
            marks, _, title = line.partition(" ")
            yield f".{'SH' if len(marks) < 3 else 'SS'} {inline(title.upper())}"  # noqa: PLR2004
        elif line.startswith("```"):
            end = lines.index("```")
            yield from as_is(lines[:end])
            del lines[: end + 1]
        elif line.startswith("    "):
            yield from as_is([line[4:], *taken(lines, lambda more: more.startswith("    "))])
        elif line.startswith("|"):
            yield from table([line, *taken(lines, lambda more: more.startswith("|"))])
        elif line.startswith("- "):
            rest = taken(lines, lambda more: BLOCK_STARTS.match(more) is None)
            yield from (".IP \\(bu 2", inline(" ".join([line[2:], *map(str.strip, rest)])))
        elif line.strip():
            rest = taken(lines, lambda more: BLOCK_STARTS.match(more) is None)
            yield from (".PP", inline(" ".join([line, *rest])))


def taken(lines: list[str], wanted: Callable[[str], bool]) -> list[str]:
    """Take the lines that are `wanted` from the front."""
    count = next((n for n, line in enumerate(lines) if not wanted(line)), len(lines))
    front = lines[:count]
    del lines[:count]
    return front


def body(document: Path) -> str:
    """A document without its title."""
    return document.read_text().partition("\n")[2]


def section(document: Path, title: str) -> str:
    """What stands under one heading of a document."""
    found = re.search(
        rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", document.read_text(), re.MULTILINE | re.DOTALL
    )
    if found is None:
        raise SystemExit(f"{document} has no heading {title}")
    return found[1]


# --- the command -----------------------------------------------------------------------


def help_text(text: str) -> Iterator[str]:
    """The help of a command: paragraphs, and after a mark of click's lines that stay."""
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        if paragraph.startswith("\b"):
            yield from as_is(paragraph.splitlines()[1:])
        else:
            yield from (".PP", inline(" ".join(paragraph.split())))


def options(ctx: click.Context) -> Iterator[str]:
    """The options of a command, in the words of its --help."""
    for parameter in ctx.command.get_params(ctx):
        record = parameter.get_help_record(ctx)
        if record is not None:
            yield from item(f"\\fB{spelled(record[0])}\\fP", inline(record[1]) or "\\&")


def synopsis(ctx: click.Context) -> str:
    """The line that says how a command is called."""
    pieces = " ".join(ctx.command.collect_usage_pieces(ctx))
    return f"\\fB{spelled(ctx.command_path)}\\fP {spelled(pieces)}"


def commands(ctx: click.Context) -> Iterator[click.Context]:
    """Every command below one, groups before what is in them."""
    if not isinstance(ctx.command, click.Group):
        return
    for verb in ctx.command.list_commands(ctx):
        command = ctx.command.get_command(ctx, verb)
        if command is not None and not command.hidden:
            inner = click.Context(
                command, info_name=verb, parent=ctx, help_option_names=["-h", "--help"]
            )
            yield inner
            yield from commands(inner)


def whole() -> click.Context:
    """The command itself."""
    return click.Context(cli, info_name="hwtrust", help_option_names=["-h", "--help"])


def command_page() -> Iterator[str]:
    """hwtrust(1), all commands on one page."""
    top = whole()
    yield from name("hwtrust", "anchor a device's dynamic root of trust in its TPM")
    yield from (".SH SYNOPSIS", synopsis(top), ".SH DESCRIPTION", *help_text(cli.help or ""))
    yield from (".SH OPTIONS", *options(top), ".SH COMMANDS")
    for ctx in commands(top):
        yield from (f".SS {spelled(ctx.command_path)}", synopsis(ctx))
        yield from (*help_text(ctx.command.help or ""), *options(ctx))
    yield ".SH EXIT STATUS"
    for code, meaning in sorted([*_PLAIN_EXIT_CODES, *EXIT_CODES.values()]):
        yield from item(f"\\fB{code}\\fP", inline(meaning))
    yield ".SH FILES"
    yield from item(
        "\\fIhwtrust.toml\\fP, \\fI/etc/hwtrust/hwtrust.toml\\fP", "See hwtrust.toml(5)."
    )
    yield ".SH ENVIRONMENT"
    yield from item("\\fBHWTRUST_CONFIG\\fP", "The configuration file.")


def name(page: str, purpose: str) -> Iterator[str]:
    """The section that indexes are made from."""
    yield from (".SH NAME", f"{spelled(page)} \\- {spelled(purpose)}")


def configuration_page(docs: Path) -> Iterator[str]:
    """hwtrust.toml(5), with the agent's table in full."""
    text, _, _ = body(docs / "device-configuration.md").partition("\n## `[agent]`")
    yield from name("hwtrust.toml", "configuration of a device of hwtrust")
    yield from (".SH DESCRIPTION", *markdown(text.strip()))
    yield from (".SH [AGENT]", *markdown(section(docs / "agent.md", "Configuration")))
    yield from (
        ".SH [[AGENT.ALLOW]]",
        *markdown(section(docs / "agent-protocol.md", "Who may do what")),
    )


def agent_page(docs: Path) -> Iterator[str]:
    """hwtrust-agent(8)."""
    agent = next(ctx for ctx in commands(whole()) if ctx.command_path == "hwtrust agent")
    yield from name("hwtrust-agent", "keep a device trusted, as a daemon")
    yield from (".SH SYNOPSIS", synopsis(agent), ".PP", "hwtrust\\-agent.service")
    yield from (".SH DESCRIPTION", *markdown(body(docs / "agent.md").strip()))
    yield from (".SH OPTIONS", *options(agent))


def pages(docs: Path) -> dict[str, str]:
    """Each page by the name of its file."""
    made = {
        "hwtrust.1": command_page(),
        "hwtrust.toml.5": configuration_page(docs),
        "hwtrust-agent.8": agent_page(docs),
    }
    return {
        file: "\n".join([title(file), *lines, *see_also(file), ""]) for file, lines in made.items()
    }


def title(file: str) -> str:
    """The header of a page; without a date, so that it is the same whenever it is made."""
    page, _, number = file.rpartition(".")
    head = f'.TH {spelled(page).upper()} {number} "" "hwtrust {version("hwtrust")}" "hwtrust"'
    return f"{head}\n.ad l\n.nh"


def see_also(file: str) -> Iterator[str]:
    """The pages that a reader may want next."""
    yield from (".SH SEE ALSO", spelled(SEE_ALSO[file]))


def main(docs: Path, output: Path) -> None:
    """Write the pages into a directory."""
    output.mkdir(parents=True, exist_ok=True)
    for file, text in pages(docs).items():
        (output / file).write_text(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
