"""Django in its ASGI flavour, which knows neither websockets nor a lifespan; see ``starlette_app.py``."""

import asyncio
import os

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

settings.configure(
    ROOT_URLCONF=__name__,
    SECRET_KEY="tests only",
    ALLOWED_HOSTS=["*"],
    MIDDLEWARE=["django.middleware.common.CommonMiddleware"],
    DATA_UPLOAD_MAX_MEMORY_SIZE=None,
    LOGGING_CONFIG=None,
)
django.setup()


async def pid(request):
    return HttpResponse(str(os.getpid()))


def hello(request):  # in a thread
    return JsonResponse({"hello": "world"})


async def item(request, name):
    return JsonResponse({"name": name})


async def stream(request):
    async def lines():
        for number in range(5):
            yield f"line {number}\n"
            await asyncio.sleep(0.01)

    return StreamingHttpResponse(lines(), content_type="text/plain")


@csrf_exempt
async def upload(request):
    return JsonResponse({"size": len(request.body)})


urlpatterns = [
    path("", pid),
    path("json", hello),
    path("items/<name>", item),
    path("stream", stream),
    path("upload", upload),
]
app = get_asgi_application()
