"""A small application of Flask, as its documentation has them."""

import hashlib
import os

from flask import Flask, Response, jsonify, redirect, request, send_file, session, stream_with_context

app = Flask(__name__)
app.secret_key = "not a secret"


@app.get("/pid")
def pid():
    return str(os.getpid())


@app.get("/json")
def some_json():
    return jsonify(hello="world", numbers=[1, 2, 3])


@app.get("/hello/<name>")
def hello(name):
    return f"hello {name} {request.args.get('q', '')}"


@app.get("/stream")
def stream():
    return Response(stream_with_context(f"line {number}\n" for number in range(1000)), mimetype="text/plain")


@app.post("/upload")
def upload():
    file = request.files["file"]
    return jsonify(name=file.filename, sha=hashlib.sha256(file.read()).hexdigest())


@app.post("/login")
def login():
    session["user"] = request.form["user"]
    return redirect("/whoami")


@app.get("/whoami")
def whoami():
    return session.get("user", "nobody")


@app.get("/file")
def file():
    return send_file(__file__, mimetype="text/x-python")


@app.get("/fail")
def fail():
    raise RuntimeError("on purpose")


def create_app():
    return app
