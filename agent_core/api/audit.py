"""`/api/v1/audit`: the audit log of the caller's tenant."""

from __future__ import annotations

from starlette.requests import Request
from starlette.types import ASGIApp

from agent_core.api.answers import json_response
from agent_core.api.bodies import read_query
from agent_core.api.principal import principal
from agent_core.api.schemas import AuditQuery
from agent_core.api.service import Service
from agent_core.api.views import AuditLine, AuditPage, instant


async def list_lines(service: Service, request: Request) -> ASGIApp:
    """A page of lines; what was done until now is among them."""
    query, tenant = read_query(request, AuditQuery), principal(request).tenant
    await service.engine.audit.link(tenant)
    found = await service.engine.audit.page(tenant, after=query.after, limit=query.limit)
    lines = [
        AuditLine(
            number=line.number,
            at=instant(line.at / 1000),
            act=line.act,
            by=line.by,
            subject=line.subject,
            session_id=line.session_id,
            run_id=line.run_id,
            detail=dict(line.detail),
            previous=line.previous,
            signed=line.signed,
            hash=line.hash,
        )
        for line in found
    ]
    return json_response(AuditPage(lines, lines[-1].number if len(lines) == query.limit else None))
