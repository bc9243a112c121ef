"""grpc.aio: it takes no socket, so it has a port of its own, beside a server that hourd attends."""

import contextlib
import os

from raw_grpc import METHOD, SERVICE


@contextlib.asynccontextmanager
async def lifespan(worker):
    import grpc.aio  # only here: it starts threads, and must not be there before workers are forked

    async def say(request, context):
        return b"said " + request

    server = grpc.aio.server(options=[("grpc.so_reuseport", 1)])
    method = grpc.unary_unary_rpc_method_handler(say)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, {METHOD: method})])
    server.add_insecure_port(os.environ["GRPC_ADDRESS"])
    await server.start()
    yield
    await server.stop(5)


async def health(reader, writer):
    writer.write(b"well\n")
