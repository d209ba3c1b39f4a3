"""A real `Enclave` of the library against this backend: it starts, rotates, and starts again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import pytest

from hwtrust.device.results import State
from hwtrust.enclave import Enclave, EnclaveConfig
from hwtrust.errors import HwTrustError, RefusedError
from hwtrust.layers import reference
from hwtrust.wire.messages import Release, TrustAnchor
from hwtrust_backend.app.problems import status_of
from hwtrust_backend.app.setup import TRUST_NAME, install, open_backend
from hwtrust_backend.config import Settings
from hwtrust_backend.enrolment import Device
from hwtrust_backend.enrolment.tokens import create_token
from hwtrust_backend.keys import Secret
from hwtrust_backend.references import accept_release, add_release
from hwtrust_backend.testing import CHEAP, HOUR, ManualClock
from simulators.enclave_clients import DirectWay, enclave_policy, trust_signers
from simulators.enclave_machines import EnclaveMachine, SnpMachine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from hwtrust.tls import ClientKey
    from hwtrust.wire.messages import Request
    from hwtrust_backend.app.backend import Backend

R = TypeVar("R", bound=msgspec.Struct)

PASSPHRASE = Secret(b"protects nothing")
LAYERS = ("system", "app")


class Channel:
    """What the library speaks through, to the services in this process."""

    def __init__(self, backend: Backend) -> None:
        self._way = DirectWay(backend)
        self._certificate = ""

    @property
    def authenticated(self) -> bool:
        """Whether a certificate is shown."""
        return bool(self._certificate)

    def authenticate(self, key: ClientKey, certificate: str) -> None:
        """Show one."""
        del key
        self._certificate = certificate

    def anonymous(self) -> None:
        """Show none."""
        self._certificate = ""

    def post(self, path: str, request: Request, reply: type[R]) -> R:
        """Ask; a refusal is as the HTTP channel has it."""
        try:
            return self._way.post(path, request, reply, certificate=self._certificate)
        except HwTrustError as error:
            status = status_of(error).value
            raise RefusedError(error.message, problem=error.code, status=status) from error


@pytest.fixture
def backend(tmp_path: Path, database_url: str) -> Iterator[Backend]:
    """A backend at a time at which the machine's certificates are valid."""
    clock = ManualClock(SnpMachine().now_ms)
    settings = Settings(data_dir=str(tmp_path / "data"), database=database_url)
    policy = enclave_policy()
    install(settings, passphrase=PASSPHRASE, clock=clock, cost=CHEAP, policy=policy)
    opened = open_backend(settings, passphrase=PASSPHRASE, clock=clock)
    trust_signers(opened)
    yield opened
    opened.database.close()


@pytest.fixture
def config(backend: Backend, tmp_path: Path) -> EnclaveConfig:
    """An enclave of two layers, whose release is accepted."""
    layers = {name: tmp_path / name for name in LAYERS}
    for name, path in layers.items():
        path.write_bytes(b"the layer " + name.encode())
    release = Release(
        name="1.0", layers=tuple(reference(name, "1", path) for name, path in layers.items())
    )
    (tmp_path / "release.json").write_bytes(msgspec.json.encode(release))
    with backend.database.transaction() as session:
        add_release(session, release, now=backend.clock())
        accept_release(session, release.name, now=backend.clock())
    trust = backend.settings.directory / TRUST_NAME
    msgspec.json.decode(trust.read_bytes(), type=TrustAnchor)
    return EnclaveConfig(
        state_dir=str(tmp_path / "state"),
        trust=str(trust),
        release=str(tmp_path / "release.json"),
        layers={name: str(path) for name, path in layers.items()},
    )


def token(backend: Backend) -> str:
    """An enrolment token."""
    with backend.database.transaction() as session:
        return create_token(session, label="", lifetime_ms=HOUR, now=backend.clock())


def opened(machine: EnclaveMachine, config: EnclaveConfig, backend: Backend, **more: Any) -> Any:  # noqa: ANN401
    """The library's enclave, with this backend behind it."""
    return Enclave.open(config, anchor=machine.anchor, channel=Channel(backend), **more)


def test_the_librarys_enclave_and_this_backend_understand_each_other(
    backend: Backend, config: EnclaveConfig
) -> None:
    """It enrols, keeps a key, takes its next root, and is the same device after a restart."""
    machine = SnpMachine()
    with opened(machine, config, backend, token=token(backend)) as enclave:
        enclave.start()
        assert enclave.condition.state is State.NORMAL
        enclave.keystore.put("a/key", b"kept")
        device = enclave.device
        with backend.database.transaction() as session:
            row = session.get_one(Device, device.hex())
            row.rotation_asked_at = backend.clock()
        assert enclave.attest().rotated_to == 2
        assert enclave.keystore.get("a/key") == b"kept"
    with opened(machine, config, backend) as enclave:
        enclave.start()
        assert enclave.device == device
        assert enclave.epoch == 2
        assert enclave.keystore.get("a/key") == b"kept"
        assert enclave.attest().findings == ()
    with backend.database.reading() as session:
        row = session.get_one(Device, device.hex())
        assert (row.kind, row.counter) == ("snp", 2)
