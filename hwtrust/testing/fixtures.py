"""The fixtures that are more than a TPM: a backend, and devices that are enrolled with it.

Loaded with the plugin, so it imports as little. Rules:

1. They are the product, not a picture of it: TLS, a database, a TPM.
2. What they need beyond the base install they ask for by name: a test that needs it
   fails where it is missing, and the message says what to install.
3. Everything ends with the test.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from hwtrust.testing.device import EnrolledDevice
    from hwtrust.testing.manufacture import Vendor
    from hwtrust.testing.plugin import TpmFactory
    from hwtrust.testing.swtpm import Swtpm
    from hwtrust_backend.testing import BackendServer


class EnrolledDeviceFactory(Protocol):
    """Makes devices that are enrolled with the test's backend and last as long as the test."""

    def __call__(
        self,
        *,
        tpm: Swtpm | None = None,
        layers: Iterable[str] | Mapping[str, bytes] | None = None,
        release: str = "1.0",
        platform_pcrs: tuple[int, ...] = (),
        tls_key: str = "attested",
    ) -> EnrolledDevice:
        """A device that is enrolled, has booted and attested, and is open.

        `tpm` is one of `tpm_factory`'s; by default a new one. `layers` names the layers,
        in the order of their loading, or gives each its bytes; together they are release
        `release`, which the backend accepts. `platform_pcrs` are part of the state to
        which the root is sealed; `tls_key` is as in the device's configuration.
        """


def _require(module: str, *, install: str) -> None:
    """Fail a test that needs what is not installed."""
    from importlib.util import find_spec  # noqa: PLC0415  # see the module's docstring

    if find_spec(module) is None:
        pytest.fail(f"this test needs {module}: pip install {install!r}", pytrace=False)


@pytest.fixture
def backend(tpm_vendor: Vendor) -> Iterator[BackendServer]:
    """A backend of the test's own, over TLS on loopback; it trusts the session's TPM vendor."""
    _require("hwtrust_backend", install="hwtrust-backend")
    from hwtrust_backend.testing import BackendServer  # noqa: PLC0415

    with BackendServer() as server:
        server.add_ek_ca(tpm_vendor.ca_pem)
        yield server


@pytest.fixture
def enrolled_device_factory(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest, tpm_vendor: Vendor
) -> Iterator[EnrolledDeviceFactory]:
    """Make enrolled devices: other layers, other TPMs, or several with one backend."""
    from contextlib import ExitStack  # noqa: PLC0415

    _require("tpm2_pytss", install="hwtrust[device]")
    server: BackendServer = request.getfixturevalue("backend")
    make_tpm: TpmFactory = request.getfixturevalue("tpm_factory")

    from hwtrust.testing.device import EnrolledDevice  # noqa: PLC0415
    from hwtrust.testing.site import LAYERS, Site  # noqa: PLC0415

    with ExitStack() as opened:

        def make(
            *,
            tpm: Swtpm | None = None,
            layers: Iterable[str] | Mapping[str, bytes] | None = None,
            release: str = "1.0",
            platform_pcrs: tuple[int, ...] = (),
            tls_key: str = "attested",
        ) -> EnrolledDevice:
            site = Site(
                tmp_path_factory.mktemp("device"),
                tpm or make_tpm(),
                server,
                tpm_vendor,
                layers=LAYERS if layers is None else layers,
                release=release,
                platform_pcrs=platform_pcrs,
                tls_key=tls_key,
            )
            return opened.enter_context(EnrolledDevice(site))

        yield make


@pytest.fixture
def enrolled_device(enrolled_device_factory: EnrolledDeviceFactory) -> EnrolledDevice:
    """A device of four layers that is enrolled, has booted and attested, and is open."""
    return enrolled_device_factory()
