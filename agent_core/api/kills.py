"""`/api/v1/kills`: the kill switch of the caller's tenant."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp

from agent_core.api.answers import json_response
from agent_core.api.bodies import decode, read_json
from agent_core.api.principal import principal
from agent_core.api.schemas import Kill, Lift
from agent_core.api.service import Service
from agent_core.api.views import KillItem, KillList, KillView, instant
from agent_core.engine.switches import EVERY_TENANT, Switch


def _fields(switch: Switch) -> dict[str, Any]:
    return {
        "kind": switch.kind,
        "name": switch.name,
        "reason": switch.reason,
        "by": switch.by,
        "at": instant(switch.at),
        "everywhere": switch.tenant == EVERY_TENANT,
    }


async def list_kills(service: Service, request: Request) -> ASGIApp:
    """What is stopped for the caller's tenant."""
    return await _listed(service, principal(request).tenant)


async def _listed(service: Service, tenant: str) -> ASGIApp:
    found = await service.engine.switches.list(tenant)
    return json_response(KillList([KillItem(**_fields(switch)) for switch in found]))


async def kill(service: Service, request: Request) -> ASGIApp:
    """Stop something of the caller's tenant."""
    asked, caller = decode(await read_json(request, service.settings), Kill), principal(request)
    switch = Switch(
        kind=asked.kind,
        name=asked.name,
        tenant=caller.tenant,
        reason=asked.reason,
        by=caller.user,
        at=service.clock.now(),
    )
    told = await service.engine.switches.throw(switch)
    return json_response(KillView(**_fields(switch), told=told))


async def lift(service: Service, request: Request) -> ASGIApp:
    """Let something of the caller's tenant go again; gives what is still stopped."""
    asked, caller = decode(await read_json(request, service.settings), Lift), principal(request)
    await service.engine.switches.lift(caller.tenant, asked.kind, asked.name, by=caller.user)
    return await _listed(service, caller.tenant)
