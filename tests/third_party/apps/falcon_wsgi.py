"""A small application of Falcon, as its documentation has them."""

import hashlib
import os

import falcon


class Pid:
    def on_get(self, req, resp):
        resp.content_type = falcon.MEDIA_TEXT
        resp.text = str(os.getpid())


class Json:
    def on_get(self, req, resp):
        resp.media = {"hello": "world", "numbers": [1, 2, 3]}


class Hello:
    def on_get(self, req, resp, name):
        resp.text = f"hello {name} {req.get_param('q', default='')}"


class Stream:
    def on_get(self, req, resp):
        resp.content_type = falcon.MEDIA_TEXT
        resp.stream = (f"line {number}\n".encode() for number in range(1000))


class Upload:
    def on_post(self, req, resp):
        for part in req.get_media():
            resp.media = {"name": part.filename, "sha": hashlib.sha256(part.stream.read()).hexdigest()}


class Login:
    def on_post(self, req, resp):
        resp.set_cookie("user", req.get_media()["user"], secure=False)
        raise falcon.HTTPSeeOther("/whoami")


class Who:
    def on_get(self, req, resp):
        resp.text = req.get_cookie_values("user")[0] if req.get_cookie_values("user") else "nobody"


class File:
    def on_get(self, req, resp):
        resp.content_type = "text/x-python"
        resp.set_stream(open(__file__, "rb"), os.stat(__file__).st_size)


class Fail:
    def on_get(self, req, resp):
        raise RuntimeError("on purpose")


app = falcon.App()
for path, resource in {
    "/pid": Pid(), "/json": Json(), "/hello/{name}": Hello(), "/stream": Stream(), "/upload": Upload(),
    "/login": Login(), "/whoami": Who(), "/file": File(), "/fail": Fail(),
}.items():  # fmt: skip
    app.add_route(path, resource)
