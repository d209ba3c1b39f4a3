"""scripts/images: of what an image is made, and which base it stands on. Nothing is built here."""

from __future__ import annotations

import os
import subprocess
import tomllib
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "images"
MADE = "localhost/hwtrust/debian:bookworm"
REGISTRY = "docker.io/library/debian:bookworm-slim"
PINNED = "http://snapshot.example.org/debian/1"
# Knows one image, made from the mirror $KNOWN; a new one has no ID that could be inspected.
PODMAN = """\
#!/bin/sh
echo "podman $*" >>"$CALLS"
case "$*" in
  "image inspect"*|"image exists"*) [ -n "$KNOWN" ] && echo "1234 bookworm $KNOWN" ;;
esac
"""
MMDEBSTRAP = """\
#!/bin/sh
for each; do last=$each; done
echo "mmdebstrap $last" >>"$CALLS"
"""
UNSHARE = """\
#!/bin/sh
shift 3
exec "$@"
"""


def sources(image: str) -> set[str]:
    """What the script says that an image is made of."""
    done = subprocess.run(
        [SCRIPT, "--sources", image], capture_output=True, text=True, check=True, timeout=60
    )
    return set(done.stdout.splitlines())


def projects() -> list[Path]:
    """All distributions of this checkout, as uv sees them."""
    uv = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]
    return [ROOT, *(ROOT / member for member in uv["workspace"]["members"])]


def made_of(project: Path) -> set[str]:
    """All files of a distribution's wheel, and those that its metadata comes from."""
    builder = WheelBuilder(str(project))
    modules = {Path(file.path).resolve() for file in builder.recurse_included_files()}
    assert modules
    described = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    beside = {"pyproject.toml", described["readme"], *described["license-files"]}
    found = modules | {project / name for name in beside}
    return {str(path.relative_to(ROOT)) for path in found}


@pytest.mark.parametrize("image", ["backend", "device"])
def test_all_that_goes_into_a_wheel_counts_for_the_image(image: str) -> None:
    """A change of any of it is another content: the image is built anew."""
    counted = sources(image)
    for project in projects():
        assert made_of(project) - counted == set(), project
    assert {"uv.lock", ".gitignore"} <= counted


@pytest.mark.parametrize("image", ["swtpm", "backend", "device", "postgresql"])
def test_the_files_of_an_image_count_for_it_and_those_of_others_do_not(image: str) -> None:
    """Its own directory, and the script that fills it."""
    counted = sources(image)
    own = {path for path in (ROOT / "containers" / image).rglob("*") if path.is_file()}
    assert {str(path.relative_to(ROOT)) for path in own} | {"scripts/images"} <= counted
    places = {name.split("/")[1] for name in counted if name.startswith("containers/")}
    assert places == {image}
    assert not any("__pycache__" in name or name.startswith("tests/") for name in counted)


def bases(
    directory: Path, *arguments: str, known: str = "", **variables: str
) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Let the script come by its base image; what it says, and what it calls for that."""
    programs, calls = directory / "bin", directory / "calls"
    programs.mkdir()
    for name, text in (("podman", PODMAN), ("mmdebstrap", MMDEBSTRAP), ("unshare", UNSHARE)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    calls.touch()
    usual = {name: value for name, value in os.environ.items() if not name.startswith("HWTRUST_")}
    ours = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "XDG_CACHE_HOME": str(directory / "cache"),
        "CONTAINERS_CONF": "/dev/null",
        "CALLS": str(calls),
        "KNOWN": known,
    }
    done = subprocess.run(
        [SCRIPT, *arguments, "--settings"],
        env=usual | ours | variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done, calls.read_text().splitlines()


def making(calls: list[str]) -> list[str]:
    """The calls of what makes a base image."""
    return [call for call in calls if call.startswith(("mmdebstrap", "podman import"))]


@pytest.mark.parametrize(
    ("known", "arguments"),
    [
        ("", ("--mirror", PINNED)),
        ("default", ("--mirror", PINNED)),
        (PINNED + "2", ("--mirror", PINNED)),
        (PINNED, ("--mirror", PINNED, "--fresh")),
    ],
    ids=["there is none", "of no named mirror", "of another mirror", "asked for"],
)
def test_a_base_of_another_mirror_is_made_anew(
    tmp_path: Path, known: str, arguments: tuple[str, ...]
) -> None:
    """Under a name that is nobody else's, with a label that says where it comes from."""
    done, calls = bases(tmp_path, *arguments, known=known)
    assert done.returncode == 0, done.stderr
    made, kept = making(calls)
    assert PINNED in made
    assert f'LABEL hwtrust.base="bookworm {PINNED}"' in kept
    assert kept.endswith(f" {MADE}")
    assert ("podman rmi 1234" in calls) is bool(known)


@pytest.mark.parametrize(
    ("known", "arguments", "variables"),
    [
        ("default", (), {}),
        (PINNED, ("--mirror", PINNED), {}),
        (PINNED, (), {"HWTRUST_MIRROR": PINNED}),
        ("anything", (), {"HWTRUST_BASE": "registry.example.com/debian:12"}),
    ],
    ids=["no mirror named", "the same mirror", "the environment's mirror", "another base"],
)
def test_a_base_that_is_right_is_left_as_it_is(
    tmp_path: Path, known: str, arguments: tuple[str, ...], variables: dict[str, str]
) -> None:
    """Nothing is made, and no registry is asked."""
    done, calls = bases(tmp_path, *arguments, known=known, **variables)
    assert done.returncode == 0, done.stderr
    assert making(calls) == []
    assert not any(call.startswith(("podman pull", "podman rmi")) for call in calls)


@pytest.mark.parametrize("named", ["", "registry.example.com/debian:12"])
def test_a_pulled_base_is_the_registrys_under_its_own_name(tmp_path: Path, named: str) -> None:
    """Nothing of that name is made here."""
    done, calls = bases(tmp_path, "--pull", **({"HWTRUST_BASE": named} if named else {}))
    assert done.returncode == 0, done.stderr
    assert f"podman pull --quiet {named or REGISTRY}" in calls
    assert making(calls) == []


def test_a_base_of_a_registry_that_is_not_here_is_not_made_up(tmp_path: Path) -> None:
    """It is fetched when somebody says so."""
    done, calls = bases(tmp_path, HWTRUST_BASE="registry.example.com/debian@sha256:0")
    assert done.returncode == 1
    assert "--pull" in done.stderr
    assert making(calls) == []


@pytest.mark.parametrize("variables", [{}, {"HWTRUST_BASE": "registry.example.com/debian:12"}])
def test_a_mirror_is_refused_for_a_base_that_is_not_made_here(
    tmp_path: Path, variables: dict[str, str]
) -> None:
    """It would change nothing."""
    arguments = ["--mirror", PINNED] + ([] if variables else ["--pull"])
    done, calls = bases(tmp_path, *arguments, known="anything", **variables)
    assert done.returncode == 2
    assert calls == []
