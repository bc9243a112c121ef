"""Ready lifespans for what most services lean on: PostgreSQL, Redis, an HTTP client.

    # hello.py; in the pool: ``lifespan: hello:lifespan``
    from hourd import engines

    lifespan = engines.compose(db=engines.postgresql("$HELLO_DB"), cache=engines.redis("$HELLO_REDIS"))

    # anywhere in a worker
    hourd.Worker.current().state.db     # an asyncpg.Pool

Each worker has its own, opened before it is ready and closed after it has drained. How they are stands in
``worker.health``. None is ever opened in the process that workers are forked from.
"""

from .cache import redis
from .database import postgresql
from .engine import BusyError, Engine
from .lifespan import State, compose
from .session import client_session

__all__ = ["BusyError", "Engine", "State", "client_session", "compose", "postgresql", "redis"]
