"""Who is let in: nobody is asked on one's own machine, everybody wherever others can come."""

from __future__ import annotations

import pytest

from agent_core.api.routes import OPERATIONS
from agent_core.errors import ConfigError, ScopeError, UnknownCallerError
from agent_core.security.door import Door, asked
from agent_core.security.scopes import SCOPES
from agent_core.security.visitor import OWNER, Caller, Visitor
from agent_core.settings import Settings
from tests.agent_core.security.conftest import Make, visitor

PUBLIC = {"webhook", "webhookHandshake", "healthz", "readyz", "home", "openapi", "docs"}


@pytest.mark.parametrize(
    ("settings", "who"),
    [
        ({}, "strangers"),
        ({"host": "localhost"}, "strangers"),
        ({"host": "::1"}, "strangers"),
        ({"host": "0.0.0.0"}, "everybody"),
        ({"host": "::"}, "everybody"),
        ({"host": "192.168.1.7"}, "everybody"),
        ({"public_url": "https://agents.example.com"}, "everybody"),
        ({"public_url": "http://localhost:8000"}, "strangers"),
        ({"auth": "on"}, "everybody"),
        ({"auth": "gateway"}, "everybody"),
        ({"auth": "off", "host": "0.0.0.0"}, "nobody"),
        ({"aws_lambda_function_name": "api"}, "everybody"),
        ({"aws_lambda_function_name": "api", "is_local": True}, "nobody"),
        ({"aws_lambda_function_name": "api", "is_local": True, "auth": "on"}, "everybody"),
    ],
)
def test_who_is_asked(settings: dict, who: str) -> None:
    assert asked(Settings(**settings)) == who


def test_lambda_can_not_be_left_open() -> None:
    with pytest.raises(ConfigError, match="SAMPAN_AUTH=off is not for AWS Lambda"):
        asked(Settings(auth="off", aws_lambda_function_name="api"))


def near(host: str = "localhost:8000", address: str = "127.0.0.1", **headers: str) -> Visitor:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return Visitor(headers={"host": host, **sent}, address=address)


@pytest.mark.parametrize(
    "one",
    [
        near(),
        near("127.0.0.1"),
        near("[::1]:8000", "::1"),
        near("LOCALHOST:8000"),
        near("shop.localhost:8000"),
        Visitor(headers={}, address=""),
    ],
)
async def test_on_ones_own_machine_nobody_is_asked(house: Make, one: Visitor) -> None:
    assert await house(auth="").app.door.authenticate(one) == OWNER


@pytest.mark.parametrize(
    "one",
    [
        near("evil.example.com:8000"),  # a page whose host resolves to this machine
        near("localhost.evil.example.com"),
        near("127.0.0.1.nip.io"),
        near("localhost, evil.example.com"),
        near("[::1"),
        near("0.0.0.0:8000"),
        near(address="203.0.113.7"),
        near(x_forwarded_for="203.0.113.7"),
        near(forwarded="for=203.0.113.7"),
        near(x_real_ip="203.0.113.7"),
        near(x_forwarded_host="agents.example.com"),
    ],
)
async def test_strangers_are_asked_even_there(house: Make, one: Visitor) -> None:
    with pytest.raises(UnknownCallerError, match="sampan keys create"):
        await house(auth="").app.door.authenticate(one)


async def test_clients_that_must_send_some_key_may_send_any_at_home_but_no_wrong_one_of_ours(
    house: Make,
) -> None:
    here = house(auth="")
    assert await here.app.door.authenticate(near(authorization="Bearer sk-anything")) == OWNER
    key = await here.key("agents:run", user="ada")
    assert (await here.app.door.authenticate(near(authorization=f"Bearer {key}"))).principal.user == "ada"
    with pytest.raises(UnknownCallerError):
        await here.app.door.authenticate(near(authorization="Bearer sampan_0_1"))


@pytest.mark.parametrize("operation", [one for one in OPERATIONS if one.scope], ids=lambda one: one.name)
async def test_every_route_is_closed_without_a_key_and_without_its_scope(house: Make, operation) -> None:
    here = house()
    path = operation.path.format(run_id="r", session_id="s", batch_id="b", model="m", channel="c")
    for shown in (
        {},
        {"Authorization": "Bearer sampan_x_y"},
        {"X-Api-Key": "k"},
        {"Authorization": "Basic eDp5"},
    ):
        async with here.client(**shown) as client:
            refused = await client.request(operation.method, path)
        assert refused.status_code == 401
        assert refused.headers["WWW-Authenticate"].startswith('Bearer realm="sampan"')
        was_shown = bool({"Bearer sampan_x_y", "k"} & {*shown.values()})
        assert ("invalid_token" in refused.headers["WWW-Authenticate"]) == was_shown
        assert "sampan keys create" in refused.text
    others = [scope for scope in SCOPES if scope not in (operation.scope, "admin")]
    async with here.client(await here.key(*others)) as client:
        refused = await client.request(operation.method, path)
    assert refused.status_code == 403
    assert f'scope="{operation.scope}"' in refused.headers["WWW-Authenticate"]
    assert operation.scope in refused.text
    if not path.startswith("/v1/"):
        assert refused.json()["scope"] == operation.scope
    for scope in (operation.scope, "admin"):
        async with here.client(**{"X-Api-Key": await here.key(scope)}) as client:
            assert (await client.request(operation.method, path)).status_code not in (401, 403)


def test_what_is_open_to_all_is_a_short_list() -> None:
    assert {operation.name for operation in OPERATIONS if not operation.scope} == PUBLIC
    assert {operation.scope for operation in OPERATIONS} - {""} <= set(SCOPES)


async def test_what_is_open_to_all_asks_for_nothing(house: Make) -> None:
    async with house().client() as client:
        for path in ("/", "/healthz", "/readyz", "/docs", "/openapi.json"):
            assert (await client.get(path)).status_code == 200


async def test_openai_clients_are_told_in_their_shape(house: Make) -> None:
    async with house().client() as client:
        refused = await client.get("/v1/models")
    assert refused.status_code == 401
    assert refused.json()["error"]["type"] == "authentication_error"


def gateway(context: dict) -> Visitor:
    return visitor(gateway=context)


async def test_who_the_gateway_vouches_for_is_believed_where_that_is_set(house: Make) -> None:
    door = house(auth="gateway", openid_tenant_claim="org").app.door
    jwt = {"jwt": {"claims": {"sub": "ada", "org": "acme", "scope": "runs:read openid"}, "scopes": None}}
    by_function = {"lambda": {"tenant": "acme", "user": "ada", "scopes": "runs:read agents:run"}}
    rest_api = {"principalId": "x", "tenant": "acme", "user": "ada", "scopes": "runs:read"}
    for context in (jwt, by_function, rest_api):
        who = (await door.authenticate(gateway(context))).principal
        assert (who.tenant, who.user) == ("acme", "ada")
        assert "runs:read" in who.scopes
        assert "openid" not in who.scopes
    for nobody in ({"lambda": {"tenant": "acme"}}, {"jwt": {"claims": {"sub": "ada"}}}, {"user": ""}):
        with pytest.raises(UnknownCallerError):
            await door.authenticate(gateway(nobody))
    with pytest.raises(UnknownCallerError):
        await house(auth="on").app.door.authenticate(gateway(by_function))


async def test_a_connection_does_not_outlive_its_key(house: Make) -> None:
    here = house()
    door: Door = here.app.door
    key, text = await door.keys.create()
    caller: Caller = await door.authenticate(visitor(headers={"authorization": f"bearer {text}"}))
    await door.again(caller, "agents:run")
    with pytest.raises(ScopeError):
        await door.again(caller, "sessions:erase")
    await door.keys.revoke(key.id)
    with pytest.raises(UnknownCallerError, match="ended"):
        await door.again(caller, "agents:run")
