"""What is typed over SSH is shown over HTTP: a container with two servers, each at an address of its own."""

import aiohttp.web
import asyncssh

import hourd


class Container(hourd.Container):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.typed = []
        self.servers["http"] = aiohttp.web.Application()
        self.servers["http"].router.add_route("GET", "/typed", self.show)

    async def show(self, _request):
        return aiohttp.web.json_response({"typed": "".join(self.typed)})

    async def make_servers(self, sockets):
        _, ssh = sockets  # in the order of bind; hourd makes the server of an application itself
        acceptor = await asyncssh.listen(
            sock=ssh.sock,
            server_factory=Guest,
            process_factory=self.talk,
            server_host_keys=[self._host_key()],
        )
        return {"http": self.servers["http"], acceptor: None}

    def _host_key(self):
        given = self.config["servers"]["ssh"]["private_key"]
        return asyncssh.import_private_key(given) if given else asyncssh.generate_private_key("ssh-ed25519")

    async def talk(self, process):
        process.stdout.write("Type something; end with ctrl-d.\n")
        while text := await process.stdin.readline():  # "async for" may yield an empty line at the end
            self.typed.append(text)
            process.stdout.write(f"{len(text)} characters\n")
        process.exit(0)


class Guest(asyncssh.SSHServer):
    def begin_auth(self, _username):
        return False  # nobody has to prove anything: only for loopback
