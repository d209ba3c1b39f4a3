"""The OpenAPI document, held to what the application does: schemathesis sends what it allows.

And what it does not allow, too. An answer is one that the document knows: its
status, its media type, its form; and never a defect of ours.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.schemas import APIOperation, BaseSchema
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from hwtrust_backend.admin import Role, local_administrator
from hwtrust_backend.admin.api_tokens import create_api_token
from hwtrust_backend.app.routes import create_app
from hwtrust_backend.app.setup import install, open_backend
from hwtrust_backend.config import Settings
from hwtrust_backend.keys import Secret
from hwtrust_backend.testing import CHEAP, DAY, ManualClock
from simulators.device_rows import add_device, add_groups

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PASSPHRASE = Secret(b"protects nothing")
EXAMPLES = 5
"""For each operation."""
ENDS_THE_TOKEN = {("/v1/admin/api-tokens/{name}", "DELETE")}
"""Operations that could take away what the others are called with."""


@pytest.fixture(scope="module")
def document(
    database_setting: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[BaseSchema, str]]:
    """The document of a backend with some devices, and an administrator's token for it."""
    directory: Path = tmp_path_factory.mktemp("document")
    data = Settings(data_dir=str(directory / "data"), database=database_setting)
    clock = ManualClock()
    install(data, passphrase=PASSPHRASE, clock=clock, cost=CHEAP)
    backend = open_backend(data, passphrase=PASSPHRASE, clock=clock)
    with backend.database.transaction() as session:
        add_groups(session, "eu")
        for number in range(5):
            add_device(session, number)
        _, token = create_api_token(
            session,
            name="schemathesis",
            role=Role.ADMINISTRATOR,
            groups=None,
            lifetime_ms=30 * DAY,
            by=local_administrator(),
            now=clock(),
        )
    yield schemathesis.openapi.from_asgi("/schema/openapi.json", create_app(backend)), token
    backend.database.close()


def test_every_answer_is_one_that_the_document_knows(document: tuple[BaseSchema, str]) -> None:
    """No request, well-formed or not, ends in a 5xx, or in anything that is not documented."""
    schema, token = document
    headers = {"authorization": f"Bearer {token}"}
    statuses: set[int] = set()
    operations = [found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)]
    assert len(operations) > 50
    for operation in operations:
        if (operation.path, operation.method.upper()) in ENDS_THE_TOKEN:
            continue

        @settings(
            max_examples=EXAMPLES,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=either(operation))
        def holds(case: Case[Any]) -> None:
            response = case.call(headers=headers)
            statuses.add(response.status_code)
            case.validate_response(
                response,
                checks=[
                    not_a_server_error,
                    status_code_conformance,
                    content_type_conformance,
                    response_schema_conformance,
                ],
            )

        with warnings.catch_warnings():
            # The client of the tests warns of how other libraries call it.
            warnings.simplefilter("ignore")
            holds()
    assert {200, 201, 400, 404} <= statuses


def either(operation: APIOperation[Any, Any, Any, Any]) -> st.SearchStrategy[Case[Any]]:
    """Requests that the document allows, and, where it can refuse any, ones that it does not."""
    allowed: st.SearchStrategy[Case[Any]] = operation.as_strategy()
    try:
        return allowed | operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)
    except (TypeError, ValueError):
        return allowed
