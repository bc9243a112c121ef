"""grpclib: ``kind: protocol``, which lets calls finish that are open; grpclib's own ``close()`` would cancel them."""

from grpclib.const import Cardinality, Handler
from grpclib.encoding.base import CodecBase
from grpclib.server import Server

from raw_grpc import PATH


class Bytes(CodecBase):
    __content_subtype__ = "proto"  # what a client asks for that does not say

    def encode(self, message, message_type):
        return message

    def decode(self, data, message_type):
        return data


class Echo:
    async def say(self, stream):
        await stream.send_message(b"said " + await stream.recv_message())

    def __mapping__(self):
        return {PATH: Handler(self.say, Cardinality.UNARY_UNARY, bytes, bytes)}


class Connect:
    # grpclib's server wants an event loop, which there is in workers only.
    server = None

    def __call__(self):
        if self.server is None:
            self.server = Server([Echo()], codec=Bytes())
        return self.server._protocol_factory()  # grpclib offers it only to its own start()


connect = Connect()
