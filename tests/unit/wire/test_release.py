"""A release manifest: what is one, and what a device refuses to read as one."""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwtrust.errors import HwTrustError, ManifestError
from hwtrust.wire.messages import LayerReference, Release
from hwtrust.wire.release import (
    MANIFEST_LIMIT,
    LayerEntry,
    LayerKind,
    ReleaseManifest,
    decode_manifest,
    encode_manifest,
    layer_target,
    release_target,
    released,
)

WORD: Final = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._+~-]{0,30}", fullmatch=True)


def entry(
    name: str = "kernel",
    version: str = "6.1",
    *,
    kind: LayerKind = LayerKind.FILE,
    target: str | None = None,
    note: str = "",
) -> LayerEntry:
    """A layer, well made but for what is given."""
    return LayerEntry(
        name=name,
        version=version,
        digest=hashlib.sha256(name.encode()).digest(),
        kind=kind,
        target=layer_target(name, version, kind) if target is None else target,
        note=note,
        frequency="monthly",
    )


def manifest(*layers: LayerEntry, name: str = "2026.1") -> ReleaseManifest:
    """A release of `layers`, or of one."""
    return ReleaseManifest(name=name, created_at=1, layers=layers or (entry(),))


GOOD: Final = msgspec.to_builtins(manifest(entry(), entry("frontend", kind=LayerKind.TREE)))


def changed(**values: object) -> bytes:
    """A good manifest with other fields."""
    return msgspec.json.encode(GOOD | values)


def changed_layer(**values: object) -> bytes:
    """A good manifest whose first layer has other fields."""
    first, *others = GOOD["layers"]
    return changed(layers=[first | values, *others])


@given(
    name=WORD,
    layers=st.dictionaries(
        WORD.filter(lambda name: name != "release.json"),
        st.tuples(WORD, st.sampled_from(LayerKind), st.text(max_size=200)),
        min_size=1,
        max_size=5,
    ),
)
def test_a_manifest_is_read_as_it_was_written(
    name: str, layers: dict[str, tuple[str, LayerKind, str]]
) -> None:
    """Nothing is lost or reordered on the way to a device."""
    made = manifest(
        *(
            entry(layer, version, kind=kind, note=note)
            for layer, (version, kind, note) in layers.items()
        ),
        name=name,
    )
    assert decode_manifest(encode_manifest(made)) == made


def test_a_manifest_says_what_the_release_is_appraised_against() -> None:
    """The layers of a `Release` are the manifest's, in its order."""
    made = manifest(entry("vm", "1"), entry("kernel", "2"))
    assert made.release() == Release(
        name="2026.1",
        layers=(
            LayerReference(name="vm", version="1", digest=hashlib.sha256(b"vm").digest()),
            LayerReference(name="kernel", version="2", digest=hashlib.sha256(b"kernel").digest()),
        ),
    )


REFUSED: Final = {
    "nothing": b"",
    "another kind of file": b"\x7fELF",
    "nested without end": b"[" * 100_000,
    "not UTF-8": changed().replace(b"kernel", b"k\xffrnel"),
    "more than may be": changed() + b" " * MANIFEST_LIMIT,
    "an unknown field": changed(signed=True),
    "no name": changed(name=""),
    "a release named as a path": changed(name="../root"),
    "a release named with a dot first": changed(name=".hidden"),
    "no layers": changed(layers=[]),
    "more layers than a device loads": changed(
        layers=[
            GOOD["layers"][0] | {"name": f"layer{number}", "target": f"layers/{number}"}
            for number in range(65)
        ]
    ),
    "a time before time": changed(created_at=-1),
    "an unknown field of a layer": changed_layer(mode=1),
    "a layer named as a path": changed_layer(name="a/b"),
    "a layer named as the directory above": changed_layer(name=".."),
    "a layer named as the release's file": changed_layer(name="release.json"),
    "a layer with a new line in its name": changed_layer(name="kernel\n"),
    "a version that is a path": changed_layer(version="../6.1"),
    "a short digest": changed_layer(digest="AAAA"),
    "an unknown kind": changed_layer(kind="device"),
    "a long note": changed_layer(note="x" * 201),
    "no frequency": changed_layer(frequency=""),
    "a target outside the layers": changed_layer(target="releases/2026.1.json"),
    "a target above the layers": changed_layer(target="layers/../root.json"),
    "a target from the root": changed_layer(target="/layers/kernel/6.1"),
    "a target on another host": changed_layer(target="https://example.org/layers/kernel"),
    "a target with a query": changed_layer(target="layers/kernel/6.1?a"),
    "a target with an escape": changed_layer(target="layers/kernel/%2e%2e"),
    "a target that is a directory": changed_layer(target="layers/"),
    "a tree that is not packed": changed_layer(kind="tree"),
    "two layers of one name": changed_layer(name="frontend"),
    "two layers of one target": changed_layer(target="layers/frontend/6.1.tar"),
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    """Nothing that could place a file elsewhere, or mean two things, is read."""
    with pytest.raises(ManifestError) as caught:
        decode_manifest(data)
    assert caught.value.code == "update:manifest"


def test_the_refused_ones_are_refused_for_what_they_say() -> None:
    """The manifest that they were made from is a good one."""
    assert decode_manifest(changed()).name == decode_manifest(changed_layer()).name == "2026.1"


@given(data=st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_no_bytes_are_worse_than_no_manifest(data: bytes) -> None:
    """A parser of bytes from outside raises its own error only (64)."""
    with pytest.raises(HwTrustError):
        decode_manifest(data)


def test_a_manifest_that_no_device_would_read_is_not_written() -> None:
    """The vendor learns of it before the devices do."""
    with pytest.raises(ManifestError):
        encode_manifest(manifest(entry(note="x" * 201)))


@given(name=WORD)
def test_the_name_of_a_release_is_in_its_target(name: str) -> None:
    """What is listed can be asked for."""
    assert released(release_target(name)) == name


@pytest.mark.parametrize(
    "path",
    ["layers/kernel/6.1", "releases/", "releases/.json", "releases/a/b.json", "releases/a", "a"],
)
def test_what_is_no_manifest_is_not_listed(path: str) -> None:
    """Other targets name no release."""
    assert released(path) is None


def test_targets_are_made_of_words_only() -> None:
    """No name or version leads out of the repository."""
    for name, version in (("..", "1"), ("kernel", "../1"), ("a/b", "1"), ("kernel", "")):
        with pytest.raises(ManifestError):
            layer_target(name, version, LayerKind.FILE)
    with pytest.raises(ManifestError):
        release_target("../root")
