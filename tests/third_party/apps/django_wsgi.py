"""A small application of Django in one module: sessions in signed cookies, so that no database is needed."""

import hashlib
import os

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import FileResponse, HttpResponse, HttpResponseRedirect, JsonResponse, StreamingHttpResponse
from django.urls import path

settings.configure(
    SECRET_KEY="not a secret",
    ALLOWED_HOSTS=["127.0.0.1", "localhost"],
    ROOT_URLCONF=__name__,
    SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
    MIDDLEWARE=[
        "django.middleware.common.CommonMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
    ],
)
django.setup()


def pid(request):
    return HttpResponse(str(os.getpid()))


def some_json(request):
    return JsonResponse({"hello": "world", "numbers": [1, 2, 3]})


def hello(request, name):
    return HttpResponse(f"hello {name} {request.GET.get('q', '')}")


def stream(request):
    return StreamingHttpResponse((f"line {number}\n" for number in range(1000)), content_type="text/plain")


def upload(request):
    file = request.FILES["file"]
    return JsonResponse({"name": file.name, "sha": hashlib.sha256(file.read()).hexdigest()})


def login(request):
    request.session["user"] = request.POST["user"]
    return HttpResponseRedirect("/whoami")


def whoami(request):
    return HttpResponse(request.session.get("user", "nobody"))


def file(request):
    return FileResponse(open(__file__, "rb"), content_type="text/x-python")


def fail(request):
    raise RuntimeError("on purpose")


urlpatterns = [
    path("pid", pid), path("json", some_json), path("hello/<name>", hello), path("stream", stream),
    path("upload", upload), path("login", login), path("whoami", whoami), path("file", file), path("fail", fail),
]  # fmt: skip
application = get_wsgi_application()
