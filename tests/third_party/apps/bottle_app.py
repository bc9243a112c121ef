"""A small application of Bottle, as its documentation has them."""

import hashlib
import os

from bottle import Bottle, redirect, request, response, static_file

SECRET = "not a secret"
app = Bottle()


@app.get("/pid")
def pid():
    return str(os.getpid())


@app.get("/json")
def some_json():
    return {"hello": "world", "numbers": [1, 2, 3]}


@app.get("/hello/<name>")
def hello(name):
    return f"hello {name} {request.query.q}"


@app.get("/stream")
def stream():
    for number in range(1000):
        yield f"line {number}\n"


@app.post("/upload")
def upload():
    file = request.files["file"]
    return {"name": file.raw_filename, "sha": hashlib.sha256(file.file.read()).hexdigest()}


@app.post("/login")
def login():
    response.set_cookie("user", request.forms.user, secret=SECRET)
    redirect("/whoami")


@app.get("/whoami")
def whoami():
    return request.get_cookie("user", "nobody", secret=SECRET)


@app.get("/file")
def file():
    return static_file(os.path.basename(__file__), os.path.dirname(__file__), mimetype="text/x-python")


@app.get("/fail")
def fail():
    raise RuntimeError("on purpose")
