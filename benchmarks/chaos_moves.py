"""Configurations in which another pool has an address: which there can be, and what they say.

Only servers of the tool's own application can take each other's place: clients must not notice.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml
from chaos_scene import Scene

_SPEAKS = {"aiohttp": "HTTP", "stream": "echo", "protocol": "echo"}


@dataclass(frozen=True, slots=True)
class Move:
    """An address that another server is to have."""

    address: str
    source: tuple[str, str]
    """Pool and server."""
    target: tuple[str, str]

    def __str__(self) -> str:
        return f"{self.address} from {'/'.join(self.source)} to {'/'.join(self.target)}"


def possible(scene: Scene) -> Iterator[Move]:
    """Yield every move between two pools. Port 0 means another port for each server, and cannot move."""
    servers = _servers(scene)
    if not any(_language(scene, where) == "HTTP" for where in servers):
        return
    for source in servers:
        bind = _server(scene.pools, source)["bind"]
        for target in servers if len(bind) > 1 else []:
            if source[0] != target[0] and _language(scene, source) == _language(scene, target) is not None:
                yield from (Move(address, source, target) for address in bind if not address.endswith(":0"))


def moved(scene: Scene, move: Move) -> tuple[str, dict[str, str]]:
    """Return a configuration after a move, in which there are a server and an address more.

    Returns:
        the text, and the new unix address of each server that has one.
    """
    pools = copy.deepcopy(scene.pools)
    _server(pools, move.source)["bind"].remove(move.address)
    _server(pools, move.target)["bind"].append(move.address)
    grown, added = f"unix:{scene.place}/grown.sock", f"unix:{scene.place}/added.sock"
    pool, server = next(where for where in _servers(scene) if _language(scene, where) == "HTTP")
    other = move.target[0] if move.target[0] != pool else move.source[0]
    pools[other]["servers"]["added"] = {**copy.deepcopy(_server(pools, (pool, server))), "bind": ["127.0.0.1:0", added]}
    _server(pools, (pool, server))["bind"].append(grown)
    text = yaml.safe_dump({**scene.settings, "pools": pools}, sort_keys=False)
    return text, {f"{pool}/{server}": grown, f"{other}/added": added}


def _servers(scene: Scene) -> list[tuple[str, str]]:
    return [(pool, name) for pool, each in scene.pools.items() for name in each["servers"]]


def _server(pools: dict[str, Any], where: tuple[str, str]) -> dict[str, Any]:
    server: dict[str, Any] = pools[where[0]]["servers"][where[1]]
    return server


def _language(scene: Scene, where: tuple[str, str]) -> str | None:
    return _SPEAKS.get(_server(scene.pools, where)["kind"]) if scene.is_known(*where) else None
